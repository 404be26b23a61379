"""Runs and shards on a real S3 server (moto) over HTTP, through a proxy that loses and refuses requests."""

import hashlib
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from clipaudit.errors import ShardChanged, StoreUnavailable, UsageError
from clipaudit.run.directory import RunDirectory
from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from clipaudit.run.upkeep import gc, status
from clipaudit.shards.listing import expand
from clipaudit.shards.reader import ShardReader
from clipaudit.storage import remote
from clipaudit.storage.directory import Storage
from tests.commands import ROOT
from tests.fault_proxy import KINDS, FaultProxy, Faults
from tests.make_runs import make_manifest
from tests.make_shards import write_photos
from tests.unit.run.test_run_directory import make_record

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED", "AWS_SECRET_ACCESS_KEY": "planted/Secret+Key/0123456789"}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def store():
    """A proxy before a moto server, and the environment that leads every S3 client to it."""
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with FaultProxy(server.get_host_and_port()) as proxy, pytest.MonkeyPatch.context() as patch:
        proxy.environment = {**KEYS, "AWS_ENDPOINT_URL": proxy.url, "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in proxy.environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield proxy
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.fixture
def proxy(store):
    yield store
    store.faults, store.conditional = Faults(), "honour"


@pytest.fixture
def url(proxy):
    """A place in the bucket of this test's own."""
    return f"s3://bucket/test-{next(_numbers)}"


def upload_photos(url, tmp_path, shards=3, count=12):
    """Shards of photos at `url`/s-N.tar; returns the identities of all their samples."""
    storage = Storage(url)
    for number in range(shards):
        path = write_photos(tmp_path / f"s-{number}.tar", count, prefix=f"p{number}")
        storage.put(str(path), path.name)
    return [(number, f"p{number}_{i:04d}") for number in range(shards) for i in range(count)]


def identities(url):
    rows = Run(url).table(["shard_id", "key", "status"]).to_pylist()
    return sorted((row["shard_id"], row["key"]) for row in rows if row["status"] == "ok")


@pytest.fixture
def audit(tiny_model, clipaudit, proxy):
    def run(shards, out, *options, engine="local", **environment):
        arguments = ["--model", tiny_model, "--engine", engine, "--label", "cls", "--layers", "2", *options]
        return clipaudit("audit", shards, "--out", out, *arguments, **proxy.environment, **environment)

    return run


@pytest.mark.full
def test_an_audit_on_a_failing_store_ends_with_every_sample_once(audit, clipaudit, proxy, url, tmp_path):
    samples = upload_photos(url, tmp_path)
    proxy.seen.clear()
    proxy.faults = faults = Faults(seed=8, share=0.1)
    result = audit(f"{url}/s-{{0..2}}.tar", f"{url}/run")
    proxy.faults = Faults()
    assert result.returncode == 0, result.stderr
    assert sum(faults.done.values()) >= 8, faults.done
    assert identities(f"{url}/run") == samples
    found = status(f"{url}/run")
    assert (found.shards, found.committed, found.ok, found.bytes_orphaned) == (3, 3, 36, 0)
    assert check(f"{url}/run").problems == ()


def test_derived_files_are_put_in_place_and_orphans_removed(proxy, url):
    run_dir = RunDirectory(f"{url}/run")
    run_dir.create_or_resume(make_manifest())
    proxy.faults = Faults(seed=1, share=0.2)
    for text in (b"old", b"new"):
        with run_dir.publish("heads") as aside:
            for name in ("heads.json", "page.html"):
                run_dir.storage.replace(run_dir.storage.relative(f"{aside}/{name}"), text)
    assert run_dir.storage.names("heads") == ["heads.json", "page.html"]
    assert run_dir.storage.read("heads/page.html") == b"new"
    with run_dir.storage.open_new("projections/000000-lost.parquet") as sink:
        sink.write(b"orphan")
        sink.finish()
    assert gc(run_dir, min_age_seconds=3600) == []
    assert gc(run_dir, min_age_seconds=0) == ["projections/000000-lost.parquet"]
    assert {entry.path for entry in run_dir.storage.walk()} == {"run.json", "heads/heads.json", "heads/page.html"}


@pytest.mark.full
@pytest.mark.parametrize("kinds", [(), KINDS], ids=["healthy", "failing"])
def test_of_several_drivers_exactly_one_commits_a_shard(proxy, url, kinds):
    RunDirectory(url).create_or_resume(make_manifest(shards=5))
    proxy.faults = Faults(seed=3, share=0.2 if kinds else 0.0, kinds=kinds)
    drivers, barrier = 3, threading.Barrier(3)

    def drive(name):
        run_dir, won = RunDirectory(url), set()
        for shard in range(5):
            barrier.wait(60)
            if run_dir.commit(make_record(shard, f"driver{name}")):
                won.add(shard)
        return won

    with ThreadPoolExecutor(drivers) as pool:
        wins = list(pool.map(drive, range(drivers)))
    proxy.faults = Faults()
    assert sorted(itertools.chain(*wins)) == list(range(5))
    committed = RunDirectory(url).committed()
    assert {shard: f"driver{name}" for name, won in enumerate(wins) for shard in won} == {
        shard: record.attempt for shard, record in committed.items()
    }


def test_a_commit_whose_answer_was_lost_is_known_as_our_own(proxy, url):
    run_dir = RunDirectory(url)
    run_dir.create_or_resume(make_manifest())
    assert run_dir.storage.exclusive

    class LoseOne(Faults):
        def choose(self, request):
            lost = request.method == "PUT" and "_committed" in request.target and not self.done
            self.done.update(["lost"] * lost)
            return "lost_answer" if lost else None

    proxy.faults = LoseOne()
    assert run_dir.commit(make_record(0, "ours"))
    assert proxy.faults.done["lost"] == 1
    assert run_dir.committed()[0].attempt == "ours"
    assert not run_dir.commit(make_record(0, "theirs"))


@pytest.mark.parametrize("answer", ["ignore", "reject"])
def test_a_store_without_conditional_writes_is_found_out(proxy, url, answer):
    proxy.conditional = answer
    storage = Storage(url)
    assert not storage.exclusive
    assert storage.create("a.json", b"first")
    assert not storage.create("a.json", b"second")
    assert storage.read("a.json") == b"first"
    assert storage.walk()[0].path == "a.json"  # the probe is gone
    proxy.conditional = "honour"
    assert Storage(url).exclusive


@pytest.mark.full
@pytest.mark.parametrize("answer", ["honour", "ignore"])
def test_a_job_on_a_store_without_conditional_writes_says_once_that_it_must_be_alone(
    audit, proxy, url, tmp_path, answer
):
    samples = upload_photos(url, tmp_path, shards=1)
    proxy.conditional = answer
    result = audit(f"{url}/s-0.tar", f"{url}/run", "--log-format", "json")
    assert result.returncode == 0, result.stderr
    said = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert said.count("warning") == (answer == "ignore")
    assert identities(f"{url}/run") == samples


def test_a_shard_that_is_replaced_while_it_is_read_is_refused(proxy, url, tmp_path):
    upload_photos(url, tmp_path, shards=1)
    (shard,) = expand([f"{url}/s-0.tar"])
    other = write_photos(tmp_path / "other.tar", 12, prefix="q")

    def read():
        with ShardReader(shard, wants=lambda _: True, complete=lambda _: True, max_member_bytes=2**20) as reader:
            next(groups := iter(reader))
            Storage(url).put(str(other), "s-0.tar")
            return list(groups)

    with pytest.raises(ShardChanged, match=r"s-0\.tar was rewritten|s-0\.tar has \d+ bytes now"):
        read()


def test_a_store_that_stays_away_is_one_sentence(proxy, url, monkeypatch):
    pauses = []
    monkeypatch.setattr(remote.time, "sleep", pauses.append)
    storage = Storage(url)
    storage.replace("a.json", b"1")
    monkeypatch.setattr(type(storage.fs), "retries", 1)
    proxy.faults = Faults(share=1.0, kinds=("throttled",))
    with pytest.raises(
        StoreUnavailable, match=r"^bucket/.*a\.json: the store failed 8 times; .*reduce your request rate"
    ):
        storage.read("a.json")
    assert len(pauses) == 7
    assert all(0 <= pause <= 64 for pause in pauses)
    assert len(set(pauses)) == 7  # jitter: workers that were throttled together do not come back together


@pytest.mark.parametrize(
    "call", [lambda s: s.create("a", b""), lambda s: s.replace("a", b""), lambda s: s.put(__file__, "a")]
)
def test_a_bucket_that_is_not_there_is_one_sentence_and_is_not_made(proxy, call):
    with pytest.raises(UsageError, match="no-such-bucket"):
        call(Storage("s3://no-such-bucket/run"))
    assert not fsspec.filesystem("s3").exists("s3://no-such-bucket")


def test_keys_in_the_url_of_an_object_store_are_refused():
    with pytest.raises(UsageError, match="put no keys into the URL") as caught:
        Storage("s3://AKIAEXAMPLE:planted/Secret+Key@bucket/run")
    assert "planted" not in str(caught.value)


@pytest.mark.full
def test_no_credential_is_stored_or_printed(audit, clipaudit, proxy, url, tmp_path):
    """Keys of the environment and of fsspec's options, a password and a signature in shard URLs."""
    samples = upload_photos(url, tmp_path, shards=2, count=6)
    secrets = [*KEYS.values(), "planted-password", "planted-signature", "planted-option", "planted-token"]
    http = proxy.url.replace("http://", "http://someone:planted-password@") + url.removeprefix("s3:/")
    shards = f"{http}/s-{{0,1}}.tar?X-Amz-Signature=planted-signature&X-Amz-Expires=60"
    environment = {"FSSPEC_S3_TOKEN": "planted-token", "FSSPEC_S3": json.dumps({"secret": "planted-option"})}
    result = audit(shards, tmp_path / "run", **environment)
    assert result.returncode == 0, result.stderr
    assert identities(tmp_path / "run") == samples
    asked = [request for request in proxy.seen if request.headers.get("authorization", "").startswith("Basic ")]
    # names of classes are looked for beside the shards, and a signature is for one file
    targets = [request.target for request in asked if "/classnames.txt" not in request.target]
    assert targets
    assert all("X-Amz-Signature=planted-signature" in target for target in targets)

    again = audit(shards.replace("planted-signature", "renewed-signature"), tmp_path / "run")
    assert again.returncode == 0, again.stderr  # another signature, the same shards
    proxy.faults = Faults(share=1.0, kinds=("forbidden",))
    with pytest.raises(UsageError, match="cannot reach") as failed:
        expand([shards.replace("s-", "t-")])
    outputs = [result, again, clipaudit("status", tmp_path / "run", "--json")]
    text = str(failed.value) + "".join(output.stdout + output.stderr for output in outputs)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for secret in [*secrets, "renewed-signature"]:
        assert secret not in text
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_every_command_works_on_a_failing_store(clipaudit, proxy, url, tmp_path):
    upload_photos(url, tmp_path, shards=2, count=40)
    proxy.faults = faults = Faults(seed=2, share=0.05)
    run = f"{url}/run"
    commands = [
        ("audit", f"{url}/s-{{0,1}}.tar", "--out", run, "--model", "demo", "--engine", "local", "--label", "cls"),
        ("status", run),
        ("check", run),
        ("heads", run),
        ("index", run, "--heads", "embedding"),
        ("query", run, "--key", "0/p0_0003", "--html", tmp_path / "sheet.html"),
        ("gc", run),
    ]
    for command in commands:
        result = clipaudit(*command, **proxy.environment)
        assert result.returncode == 0, (command, result.stderr)
    assert sum(faults.done.values()) > 10
    assert (tmp_path / "sheet.html").read_text().count("data:image/jpeg;base64,") >= 20
    assert {"heads", "indexes"} <= {entry.path.partition("/")[0] for entry in Storage(run).walk()}


@pytest.mark.slow
def test_a_multipart_upload_that_breaks_begins_again(proxy, url, tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(2**20) * 160)
    storage = Storage(url)

    class LoseParts(Faults):
        def choose(self, request):
            broken = "partNumber" in request.target and self.done["part"] < 12
            self.done.update(["part"] * broken)
            return "reset" if broken else None

    proxy.faults = LoseParts()
    storage.put(str(path), "large.bin")
    assert proxy.faults.done["part"] == 12
    digest = hashlib.sha256()
    with storage.open("large.bin") as file:
        while data := file.read(2**22):
            digest.update(data)
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert storage.fs.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", []) == []


@pytest.mark.slow
def test_two_drivers_on_ray_with_a_failing_store_share_one_run(proxy, url, tmp_path, tiny_model):
    samples = upload_photos(url, tmp_path, shards=6)
    proxy.faults = faults = Faults(seed=5, share=0.15)
    command = [
        sys.executable,
        "-m",
        "clipaudit",
        "audit",
        f"{url}/s-*.tar",
        "--out",
        f"{url}/run",
        "--model",
        tiny_model,
    ]
    environment = {**os.environ, **proxy.environment, "PYTHONPATH": str(ROOT)}
    options = (["--engine", "local"], ["--engine", "ray", "--workers", "1"])
    drivers = [
        subprocess.Popen([*command, *engine, "--label", "cls"], env=environment, stderr=subprocess.PIPE, text=True)
        for engine in options
    ]
    errors = [driver.communicate(timeout=500)[1] for driver in drivers]
    proxy.faults = Faults()
    assert [driver.returncode for driver in drivers] == [0, 0], errors
    assert sum(faults.done.values()) >= 30
    assert identities(f"{url}/run") == samples
    assert check(f"{url}/run").problems == ()
