"""Runs on GCS's JSON interface as gcsfs speaks it: a stand-in of a few lines that honours `ifGenerationMatch=0`."""

import http.server
import itertools
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # or it asks by gRPC, which nobody here answers
pytest.importorskip("gcsfs", reason="the extra `gcs` is not installed")

from clipaudit.run.directory import RunDirectory
from clipaudit.storage import remote
from clipaudit.storage.directory import Storage
from tests.make_runs import make_manifest
from tests.unit.run.test_run_directory import make_record


class Bucket(http.server.ThreadingHTTPServer):
    """Objects of one bucket; every `fail_each`-th request is answered 503 or 429."""

    def __init__(self):
        self.objects, self.lock, self.fail_each, self.failed = {}, threading.Lock(), 0, 0
        self.count = itertools.count(1)
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def facts(self, name):
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": "bucket",
            "size": str(len(self.objects[name])),
            "updated": "2026-01-01T00:00:00.000Z",
            "generation": "1",
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_request(self):
        store, parts = self.server, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if store.fail_each and next(store.count) % store.fail_each == 0:
            store.failed += 1
            return self.answer(503 if store.failed % 2 else 429, {"error": {"message": "slow down"}})
        if parts.path.startswith("/upload/"):
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            _, meta, content, _ = body.split(b"--" + boundary, 3)
            name = json.loads(meta.split(b"\n\n" if b"\r\n\r\n" not in meta else b"\r\n\r\n", 1)[1])["name"]
            content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
            content = content.removesuffix(b"\r\n") if content.endswith(b"\r\n") else content.removesuffix(b"\n")
            with store.lock:
                if query.get("ifGenerationMatch") == "0" and name in store.objects:
                    return self.answer(412, {"error": {"message": "conditionNotMet"}})
                store.objects[name] = content
            return self.answer(200, store.facts(name))
        match = re.fullmatch(r"(?:/download)?/storage/v1/b/bucket(?:/o(?:/(.*))?)?", parts.path)
        name = unquote((match and match[1]) or "")
        if not name:
            prefix = query.get("prefix", "")
            return self.answer(
                200, {"items": [store.facts(key) for key in sorted(store.objects) if key.startswith(prefix)]}
            )
        if name not in store.objects:
            return self.answer(404, {"error": {"message": "not found"}})
        if self.command == "DELETE":
            del store.objects[name]
            return self.answer(204)
        return self.answer(200, store.objects[name] if query.get("alt") == "media" else store.facts(name))

    do_GET = do_POST = do_DELETE = handle_request  # noqa: N815 - http.server's names

    def log_message(self, *_):
        pass


@pytest.fixture
def bucket(monkeypatch):
    import fsspec

    store = Bucket()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://{}:{}".format(*store.server_address))
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    monkeypatch.setattr(remote, "_FIRST_PAUSE_SECONDS", 0.01)
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    yield store
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    store.shutdown()
    store.server_close()


def test_a_file_is_created_once(bucket):
    storage = Storage("gs://bucket/run")
    assert storage.exclusive
    assert storage.create("a.json", b"first")
    assert not storage.create("a.json", b"second")
    assert storage.read("a.json") == b"first"
    storage.replace("a.json", b"third")
    assert storage.read("a.json") == b"third"
    assert [entry.path for entry in storage.walk()] == ["a.json"]
    storage.remove("a.json")
    assert not storage.exists("a.json")


def test_of_several_drivers_one_commits_though_the_store_throttles(bucket):
    RunDirectory("gs://bucket/run").create_or_resume(make_manifest(shards=4))
    bucket.fail_each = 4
    barrier = threading.Barrier(3)

    def drive(name):
        run_dir = RunDirectory("gs://bucket/run")
        found = set()
        for shard in range(4):
            barrier.wait(60)
            if run_dir.commit(make_record(shard, f"driver{name}")):
                found.add((shard, f"driver{name}"))
        return found

    with ThreadPoolExecutor(3) as pool:
        wins = set().union(*pool.map(drive, range(3)))
    assert bucket.failed >= 3
    bucket.fail_each = 0
    assert wins == {(shard, record.attempt) for shard, record in RunDirectory("gs://bucket/run").committed().items()}
    assert len(wins) == 4
