"""`clipaudit audit` as a user runs it, judged by exit code, stderr and what the run holds."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from tests.forked import Forked, run_command
from tests.make_shards import (
    append,
    cut,
    huge_png_bytes,
    jpeg_bytes,
    member_offsets,
    overwrite,
    write_photos,
    write_shard,
)


@pytest.fixture
def audit(clipaudit, tiny_model, tmp_path):
    """`audit(patterns, *options)` into tmp_path/run on the local engine, in this process or by `command`."""

    def run(*arguments, model=tiny_model, command=clipaudit, out=None):
        return command("audit", *arguments, "--out", out or tmp_path / "run", "--engine", "local", "--model", model)

    return run


def assert_one_sentence(result, code, *words):
    """A user's mistake: the exit code, one line on stderr that names the culprits, no traceback."""
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("clipaudit: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert str(word) in lines[0]


def identities(path):
    """(shard id, key) of every row with status ok, in order."""
    table = Run(str(path)).table(["shard_id", "key", "status"]).to_pylist()
    return [(row["shard_id"], row["key"]) for row in table if row["status"] == "ok"]


def test_every_sample_becomes_a_row_with_label_and_attributes(audit, spawned, tmp_path):
    for number in range(3):
        write_photos(tmp_path / f"s-{number}.tar", 10, prefix=f"p{number}")
    options = ("--label", "cls", "--attributes", "json:place", "--layers", "2")
    result = audit(f"{tmp_path}/s-{{0..2}}.tar", *options, command=spawned)
    assert result.returncode == 0, result.stderr
    assert "found 3 shards" in result.stderr
    assert "30 ok" in result.stderr
    run = Run(str(tmp_path / "run"))
    assert run.head_labels == ("L02H00", "L02H01", "L03H00", "L03H01")
    rows = run.table(["key", "label", "attributes", "remainder"]).to_pylist()
    assert len(rows) == 30
    assert rows[13]["key"] == "p1_0003"
    assert rows[13]["label"] == 1
    assert rows[13]["attributes"] == {"place": "sea"}
    assert max(row["remainder"] for row in rows) < 5e-6


def test_what_labels_are_read_as_is_said_and_no_next_step_where_too_much_was_lost(audit, tmp_path):
    for number, bad in enumerate((0, 2)):
        names = ["owl", "cat", *[""] * bad]
        samples = {f"s{n}": {"jpg": jpeg_bytes(seed=n), "cls": name} for n, name in enumerate(names)}
        path = write_shard(tmp_path / f"{number}.tar", samples)
        result = audit(path, "--label", "cls", out=tmp_path / f"run-{number}")
        assert result.returncode == (4 if bad else 0)
        assert "labels cls are names, such as 'owl' in s0\n" in result.stderr
        assert ("next  clipaudit report" in result.stderr) is not bool(bad)


def test_vectors_equal_the_models_own_and_the_decomposition(audit, tmp_path, tiny_model):
    import io

    import open_clip
    import torch
    from PIL import Image

    from clipaudit.model import Decomposer

    images = [jpeg_bytes(60, 40, seed=i, quality=95) for i in range(7)]
    write_shard(tmp_path / "a.tar", {f"k{i}": {"jpg": data} for i, data in enumerate(images)})
    assert audit(tmp_path / "a.tar", "--layers", "all", "--batch-size", "4").returncode == 0
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_model}")
    model.eval()
    batch = torch.stack([transform(Image.open(io.BytesIO(data))) for data in images])
    with torch.inference_mode():
        expected = model.encode_image(batch, normalize=True).numpy()
    run = Run(str(tmp_path / "run"))
    # decoding may differ by one grey level from Pillow's (images.py), storage is float16
    np.testing.assert_allclose(run.embedding().values, expected, atol=2e-3)
    heads = Decomposer(model)(batch).heads.numpy()
    np.testing.assert_allclose(run.heads("L01H01").values, heads[:, 1, 1], atol=2e-3)


def test_the_same_command_resumes_and_a_finished_run_is_left_alone(audit, tmp_path):
    write_photos(tmp_path / "a.tar", 6, prefix="a")
    bad = write_photos(tmp_path / "b.tar", 6, prefix="b")
    whole = bad.read_bytes()
    bad.write_bytes(b"this is not a tar file at all" * 100)
    pattern = f"{tmp_path}/{{a,b}}.tar"
    first = audit(pattern, "--max-attempts", "1")
    assert_one_sentence(first, 4, "1 of 2 shards failed")
    assert (tmp_path / "run/_failed/000001.json").exists()
    kept = (tmp_path / "run/_committed/000000.json").read_bytes()
    stat = bad.stat()
    bad.write_bytes(whole)
    os.utime(bad, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = audit(pattern)
    assert_one_sentence(changed, 2, "b.tar", "changed")
    bad.write_bytes(b"x" * stat.st_size)  # the size that the run recorded, still no tar
    os.utime(bad, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_one_sentence(audit(pattern, "--max-attempts", "1"), 4, "1 of 2 shards failed")
    assert (tmp_path / "run/_committed/000000.json").read_bytes() == kept


def test_nothing_is_loaded_when_everything_is_committed(audit, tmp_path, tiny_model):
    write_photos(tmp_path / "a.tar", 4)
    model = shutil.copytree(tiny_model, tmp_path / "model")
    assert audit(tmp_path / "a.tar", model=model).returncode == 0
    (model / "open_clip_model.safetensors").unlink()
    again = audit(tmp_path / "a.tar", model=model)
    assert again.returncode == 0, again.stderr
    assert "1 of them committed already" in again.stderr


def test_bad_samples_are_rows_with_a_status_and_cost_only_themselves(audit, tmp_path):
    good = {"jpg": jpeg_bytes(seed=1), "cls": 1, "json": {"place": "sea"}}
    broken = jpeg_bytes(seed=2)[:-200]
    write_shard(
        tmp_path / "a.tar",
        [
            ("good1", good),
            ("corrupt", {**good, "jpg": broken}),
            ("empty", {**good, "jpg": b""}),
            ("text", {**good, "jpg": b"I am not an image"}),
            ("nolabel", {"jpg": good["jpg"], "json": good["json"]}),
            ("badlabel", {**good, "cls": "cat"}),
            ("noimage", {"cls": 1, "json": {}}),
            ("../../etc/passwd", good),
            ("huge", {"png": huge_png_bytes(), "cls": 1, "json": {}}),
            ("badjson", {**good, "json": b"{"}),
            ("good2", good),
            ("good1", good),
        ],
    )
    result = audit(tmp_path / "a.tar", "--label", "cls", "--attributes", "json:place", "--max-lost", "1")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^noted +1 bad_metadata$", result.stderr, re.M)
    assert re.search(r"^bad_metadata +a.tar: badjson: the json cannot be read", result.stderr, re.M)
    rows = Run(str(tmp_path / "run")).table(["key", "status"]).to_pylist()
    assert [row["status"] for row in rows] == [
        "ok",
        "undecodable",
        "undecodable",
        "undecodable",
        "missing_label",
        "bad_label",
        "missing_image",
        "bad_name",
        "too_large",
        "ok",
        "ok",
        "duplicate_key",
    ]
    assert not (tmp_path.parent / "etc").exists()
    strict = audit(tmp_path / "a.tar", "--label", "cls", "--attributes", "json:place", "--max-lost", "0.5")
    assert_one_sentence(strict, 4, "75.0 % of the samples were skipped", "--max-lost")


@pytest.mark.parametrize("damage", ["cut_member", "cut_header", "junk_middle", "junk_end"])
def test_a_damaged_tar_keeps_its_complete_samples_and_is_marked(audit, tmp_path, damage):
    path = write_photos(tmp_path / "a.tar", 8)
    header, data = member_offsets(path)["photo_0005.jpg"]
    if damage == "cut_member":
        cut(path, data + 10)
    elif damage == "cut_header":
        cut(path, header + 100)
    elif damage == "junk_middle":
        overwrite(path, header, b"\xa5" * 512)
    else:
        append(path, b"junk" * 300)
    result = audit(path, "--label", "cls", "--max-lost", "0.5")
    assert result.returncode == 0, result.stderr
    assert "1 partial" in result.stderr
    kept = [key for _, key in identities(tmp_path / "run")]
    assert kept == [f"photo_{i:04d}" for i in range(8 if damage == "junk_end" else 5)]
    if damage == "junk_middle":  # how much a file that is cut has lost, nobody can know
        strict = audit(path, "--label", "cls")
        assert_one_sentence(strict, 4, "of the samples were skipped, or lie where a shard is damaged", "--max-lost")


def test_a_job_that_found_no_sample_at_all_says_so(audit, tmp_path):
    path = write_photos(tmp_path / "a.tar", 2)
    cut(path, 700)  # within the first member: nothing can be read
    assert_one_sentence(audit(path), 4, "no shard holds a sample that can be read", "--max-lost")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing-*.tar"], ["nothing-*.tar"]),
        (["a-{0..3}.tar"], ["a-0.tar"]),
        (["nosuch://bucket/a.tar"], ["nosuch"]),
        (["http://127.0.0.1:9/a.tar"], ["127.0.0.1:9"]),
        (["ok.tar", "--label", "nonsense"], ["--label", "nonsense"]),
        (["ok.tar", "--layers", "9"], ["--layers", "4 layers"]),
        (["ok.tar", "--device", "cuda:7"], ["--device"]),
        (["ok.tar", "--batch-size", "0"], ["--batch-size"]),
        (["ok.tar", "--model", "ViT-Q-99", "--pretrained", "openai"], ["--model", "ViT-Q-99"]),
        (["ok.tar", "--model", "ViT-B-32", "--pretrained", "nosuch"], ["--pretrained", "nosuch", "laion2b_s34b_b79k"]),
        (["ok.tar", "--model", "ViT-B-32"], ["--pretrained", "random-seed-0"]),
        pytest.param(
            ["ok.tar", "--model", "RN50", "--pretrained", "random-seed-0"], ["convolutional"], marks=pytest.mark.full
        ),
        ([], ["SHARDS"]),
    ],
)
def test_a_users_mistake_is_one_sentence(clipaudit, tiny_model, tmp_path, arguments, words):
    write_photos(tmp_path / "ok.tar", 2)
    model = [] if "--model" in arguments else ["--model", tiny_model]
    result = clipaudit("audit", *arguments, *model, "--out", "run", "--engine", "local")
    assert_one_sentence(result, 2, *words)
    assert not (tmp_path / "run").exists(), "a mistake leaves no run directory behind"


def test_a_run_refuses_another_configuration_and_other_shards(audit, tmp_path):
    write_photos(tmp_path / "a.tar", 2)
    assert audit(tmp_path / "a.tar", "--layers", "2").returncode == 0
    assert_one_sentence(audit(tmp_path / "a.tar", "--layers", "3", "--label", "cls"), 2, "layers", "label")
    write_photos(tmp_path / "b.tar", 2)
    assert_one_sentence(audit(f"{tmp_path}/{{a,b}}.tar", "--layers", "2"), 2, "b.tar")
    write_photos(tmp_path / "a.tar", 3)
    assert_one_sentence(audit(tmp_path / "a.tar", "--layers", "2"), 2, "a.tar", "changed")


def test_a_zero_byte_tar_fails_alone(audit, tmp_path):
    write_photos(tmp_path / "a.tar", 4)
    (tmp_path / "b.tar").touch()
    result = audit(f"{tmp_path}/{{a,b}}.tar", "--max-attempts", "1")
    assert_one_sentence(result, 4, "1 of 2 shards failed")
    assert json.loads((tmp_path / "run/_failed/000001.json").read_text())["error"].count("b.tar") == 1
    assert len(identities(tmp_path / "run")) == 4


@pytest.mark.full
def test_a_full_disk_stops_the_job_and_the_same_command_finishes_it(audit, tmp_path, tiny_model):
    for number in range(3):
        write_photos(tmp_path / f"s-{number}.tar", 60, prefix=f"p{number}")
    full = Forked(tmp_path, with_full_disk, *job(tmp_path, tiny_model))
    _, stderr = full.communicate(timeout=300)
    full = subprocess.CompletedProcess([], full.returncode, "", stderr)
    assert_one_sentence(full, 4, tmp_path / "run", "same command")
    assert audit(f"{tmp_path}/s-{{0..2}}.tar").returncode == 0
    assert len(identities(tmp_path / "run")) == 180


@pytest.mark.full
def test_two_drivers_on_one_run_give_each_sample_once(tiny_model, tmp_path):
    for number in range(6):
        write_photos(tmp_path / f"s-{number}.tar", 20, prefix=f"p{number}")
    jobs = [start(tmp_path, tiny_model) for _ in range(2)]
    for job in jobs:
        _, stderr = job.communicate(timeout=300)
        assert job.returncode == 0, stderr
    rows = identities(tmp_path / "run")
    assert len(rows) == len(set(rows)) == 120
    referenced = {
        name for commit in (tmp_path / "run/_committed").iterdir() for name in json.loads(commit.read_text())["files"]
    }
    on_disk = {
        f"{folder}/{p.name}" for folder in ("projections", "moments") for p in (tmp_path / "run" / folder).iterdir()
    }
    assert on_disk == referenced, "the loser of each race removes its own files"


def job(tmp_path, model):
    """The words of an audit of all shards in `tmp_path`."""
    return ("audit", f"{tmp_path}/s-*.tar", "--out", str(tmp_path / "run"), "--engine", "local", "--model", model)


def start(tmp_path, model):
    return Forked(tmp_path, run_command, *job(tmp_path, model))


def with_full_disk(*words):
    """The command in a process that may not write files over 20 kB: it meets the errno of a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    run_command(*words)


def killed_before_the_commit(*words):
    RunDirectory.commit = lambda self, record: os.kill(os.getpid(), signal.SIGKILL)
    run_command(*words)


@pytest.mark.full
def test_sigterm_finishes_the_running_shard_and_exits_4(tiny_model, tmp_path):
    for number in range(40):
        write_photos(tmp_path / f"s-{number:02d}.tar", 40, prefix=f"p{number}")
    job = start(tmp_path, tiny_model)
    committed = tmp_path / "run/_committed"
    wait_for(lambda: committed.exists() and len(list(committed.iterdir())) >= 2, job)
    job.send_signal(signal.SIGTERM)
    _, stderr = job.communicate(timeout=300)
    assert job.returncode == 4, stderr
    assert "the same command goes on" in stderr
    rows = identities(tmp_path / "run")
    assert 0 < len(rows) < 1600
    assert len(rows) % 40 == 0, "no shard was left half done"


def wait_for(condition, job, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.01)


def kill_and_resume(tiny_model, tmp_path, trials, seed):
    """Kill the job with SIGKILL after random times until `trials` kills have happened, then let it finish."""
    rng = np.random.default_rng(seed)
    for number in range(12):
        write_photos(tmp_path / f"s-{number:02d}.tar", 30, prefix=f"p{number}")
    kills = 0
    while kills < trials:
        job = start(tmp_path, tiny_model)
        # from before the first shard to about the end
        try:
            job.wait(timeout=float(rng.uniform(0.2, 3.0)))
        except subprocess.TimeoutExpired:
            job.kill()
            kills += 1
        job.communicate()
        if job.returncode == 0:
            shutil.rmtree(tmp_path / "run")
    job = start(tmp_path, tiny_model)
    _, stderr = job.communicate(timeout=300)
    assert job.returncode == 0, stderr
    rows = identities(tmp_path / "run")
    assert len(rows) == len(set(rows)) == 360, "0 lost, 0 duplicated"


@pytest.mark.full
def test_kill_9_at_a_random_moment_loses_nothing(tiny_model, tmp_path):
    kill_and_resume(tiny_model, tmp_path, trials=2, seed=0)


@pytest.mark.slow
def test_kill_9_twenty_times_loses_nothing(tiny_model, tmp_path):
    kill_and_resume(tiny_model, tmp_path, trials=20, seed=1)


@pytest.mark.full
def test_a_driver_killed_between_data_and_commit_leaves_only_orphans(audit, clipaudit, tmp_path, tiny_model):
    write_photos(tmp_path / "s-0.tar", 20)
    killed = Forked(tmp_path, killed_before_the_commit, *job(tmp_path, tiny_model))
    killed.wait(120)
    assert killed.returncode == -signal.SIGKILL
    orphans = {path.name for path in (tmp_path / "run/projections").iterdir()}
    assert len(orphans) == 1
    assert identities(tmp_path / "run") == []
    assert audit(f"{tmp_path}/s-0.tar").returncode == 0
    assert len(identities(tmp_path / "run")) == 20
    collected = clipaudit("gc", tmp_path / "run", "--all")
    assert collected.returncode == 0, collected.stderr
    assert orphans.isdisjoint(path.name for path in (tmp_path / "run/projections").iterdir())
    assert len(identities(tmp_path / "run")) == 20
    assert clipaudit("check", tmp_path / "run").returncode == 0


def test_json_on_stdout_is_the_status(audit, clipaudit, tmp_path):
    write_photos(tmp_path / "a.tar", 4)
    result = audit(tmp_path / "a.tar", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["ok"] == 4
    assert json.loads(clipaudit("status", tmp_path / "run", "--json").stdout)["ok"] == 4


def test_a_configuration_file_is_the_same_as_options(clipaudit, tmp_path, tiny_model):
    write_photos(tmp_path / "a.tar", 4)
    (tmp_path / "job.toml").write_text(
        f'shards = ["a.tar"]\nout = "run"\n[model]\nname = "{tiny_model}"\n'
        '[store]\nlayers = "2"\n[execution]\nengine = "local"\n'
    )
    result = clipaudit("audit", "--config", "job.toml", "--layers", "1,2")
    assert result.returncode == 0, result.stderr
    assert Path(tmp_path / "run/run.json").exists()
    (tmp_path / "job.toml").write_text("[model]\nnam = 'x'\n")
    assert_one_sentence(clipaudit("audit", "a.tar", "--out", "r2", "--config", "job.toml"), 2, "job.toml", "model.nam")
