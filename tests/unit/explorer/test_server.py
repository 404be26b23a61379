"""The HTTP interface: what it answers, what it refuses, and that nothing makes it fail."""

import asyncio
import os
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from starlette.testclient import TestClient

from clipaudit.errors import RunNotFound, UsageError
from clipaudit.explorer import search_routes, server
from clipaudit.explorer.server import create_app
from clipaudit.retrieval.head_index import HeadIndex
from clipaudit.retrieval.retriever import Retriever
from clipaudit.retrieval.vector_index import VectorIndex
from tests.make_audits import audited
from tests.make_shards import huge_png_bytes, jpeg_bytes

HEAD = "L01H00"
JPEG = {"content-type": "image/jpeg"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def app(run):
    return create_app(run.directory.url, device="cpu")


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as found:
        yield found


def test_what_there_is(client, run):
    assert client.get("/health").json()["rows"] == 24
    assert client.get("/indexes").json() == ["L00H00", "L00H01", "L01H00", "L01H01", "embedding"]
    card = client.get(f"/indexes/{HEAD}").json()
    assert (card["kind"]["name"], card["rows"], card["recall_at_10"]) == ("flat", 24, 1.0)


def test_a_sample_finds_what_the_python_interface_finds(client, run):
    answer = client.post("/search", json={"heads": [{"head": HEAD}], "key": "0/p0_0003", "k": 5}).json()
    index = HeadIndex.open(run, HEAD)
    found = index.search(run.heads(HEAD).values[3], 6)
    rows = [row.key for row in index.rows(found.numbers[0]) if row.key != "p0_0003"]
    assert [hit["row"]["key"] for hit in answer[0]["hits"]] == rows[:5]
    assert client.get(answer[0]["hits"][0]["thumbnail"]).headers["content-type"] == "image/jpeg"


def test_every_path_has_a_version_and_those_of_before_are_the_same(client):
    asked = {"heads": [{"head": HEAD}], "key": "0/p0_0003", "k": 3}
    old, new = (client.post(f"{prefix}/search", json=asked).json()[0] for prefix in ("", "/api/v1"))
    assert [hit["row"] for hit in old["hits"]] == [hit["row"] for hit in new["hits"]]
    assert new["hits"][0]["thumbnail"].startswith("/api/v1/thumbnails/")
    assert client.get(new["hits"][0]["thumbnail"]).content == client.get(old["hits"][0]["thumbnail"]).content
    paths = client.get("/openapi.json").json()["paths"]
    assert paths["/search"]["post"]["deprecated"]
    assert "deprecated" not in paths["/api/v1/search"]["post"]


def test_texts_filters_and_comparison(client):
    asked = {"heads": [{"head": HEAD, "weight": 2}, {"head": "L00H01"}], "text": "a cat", "k": 4, "end": "min"}
    answer = client.post("/search", json={**asked, "where": "place = sea", "compare": True}).json()
    assert [part["title"] for part in answer] == ["by 2 x L01H00, L00H01", "by the whole embedding"]
    assert all(hit["row"]["attributes"]["place"] == "sea" for part in answer for hit in part["hits"])
    scores = [hit["score"] for hit in answer[0]["hits"]]
    assert scores == sorted(scores)


def test_parts_and_filters_add_up(client, run):
    parts = [{"text": "a cat", "weight": 2}, {"key": "0/p0_0003", "weight": -1}]
    both = {"where": ["place = sea", "label >= 1"], "k": 4}
    answer = client.post("/search", json={"parts": parts, **both}).json()[0]
    direct = Retriever(run).search(text={"a cat": 2}, key={"0/p0_0003": -1}, where=both["where"], k=4)
    assert [hit["row"]["key"] for hit in answer["hits"]] == [hit.row.key for hit in direct.hits]
    assert all(hit["row"]["attributes"]["place"] == "sea" and hit["row"]["label"] >= 1 for hit in answer["hits"])


def test_filters_of_an_image_query_all_hold(client):
    image, where = jpeg_bytes(48, 48, seed=5), ["place = sea", "label >= 1"]
    answer = client.post("/search/image", params={"where": where, "k": 3}, content=image, headers=JPEG)
    rows = [hit["row"] for hit in answer.json()[0]["hits"]]
    assert rows
    assert all(row["attributes"]["place"] == "sea" and row["label"] >= 1 for row in rows)


def test_an_image_of_the_run_finds_itself(client):
    image, form = jpeg_bytes(48, 48, seed=5), {"content-type": "image/jpeg"}
    answer = client.post("/search/image", params={"head": HEAD, "k": 1}, content=image, headers=form)
    assert answer.status_code == 200, answer.text
    assert answer.json()[0]["hits"][0]["row"]["key"] in ("p0_0005", "p1_0005")


@pytest.mark.parametrize(
    ("request_of", "status", "words"),
    [
        (lambda c: c.post("/search", json={}), 400, "give one of"),
        (lambda c: c.post("/search", json={"text": "a", "key": "0/x"}), 400, "is not in the run"),
        (lambda c: c.post("/search", json={"parts": [{"text": "a", "key": "0/x"}]}), 400, "one text, one sample"),
        (lambda c: c.post("/search", json={"parts": [{"text": "a", "weight": 0}]}), 400, "the weight 0 of"),
        (lambda c: c.post("/search", json={"text": "a", "where": ["place = sea", "label ="]}), 400, "not understood"),
        (lambda c: c.post("/search/image?k=1&k=2", content=b"x", headers=JPEG), 422, "parameter k is given 2 times"),
        (lambda c: c.post("/search/image?wher=a", content=b"x", headers=JPEG), 422, "there is no parameter 'wher'"),
        (lambda c: c.post("/search/image?head=L00H00&head=L00H00", content=b"x", headers=JPEG), 400, "given twice"),
        (lambda c: c.post("/search", json={"key": "0/nobody"}), 400, "not in the run"),
        (lambda c: c.post("/search", json={"key": "../../etc/passwd"}), 400, "no such shard"),
        (lambda c: c.post("/search", json={"text": "a", "heads": [{"head": "../.."}]}), 400, "stores no head"),
        (lambda c: c.post("/search", json={"text": "a", "k": 501}), 422, "less than or equal to 500"),
        (lambda c: c.post("/search", json={"text": "a", "k": 100}), 400, "more neighbours than the 24 vectors"),
        (lambda c: c.post("/search", json={"text": "a", "where": "x = 1"}), 400, "not in the run"),
        (lambda c: c.post("/search", json={"text": "a cat " * 40}), 400, "longer than"),
        (lambda c: c.post("/search", json={"text": "a", "role": "colour"}), 400, "no roles yet"),
        (lambda c: c.post("/search", json={"text": "a", "heads": [{"head": HEAD, "weight": 0}]}), 400, "weight of 0"),
        (lambda c: c.post("/search", json={"text": "a", "heads": [{"head": HEAD}] * 2}), 400, "given twice"),
        (lambda c: c.post("/search", json={"text": "a", "other": 1}), 422, "Extra inputs"),
        (lambda c: c.post("/search", content=b"{", headers={"content-type": "application/json"}), 422, "JSON"),
        (lambda c: c.post("/search", content=b'{"text": "a", "k": 1, "k": 2}', headers=JSON), 422, "k is given twice"),
        (lambda c: c.post("/search", content=b'{"parts": [{"text": "a", "text": "b"}]}'), 422, "text is given twice"),
        (lambda c: c.post("/search", content=b"[" * 60_000, headers=JSON), 400, "parsing the body"),
        (lambda c: c.post("/search", content=b" " * 70_000), 413, "more than 65,536 bytes"),
        (lambda c: c.post("/search", content=(b" " * 1000 for _ in range(70))), 413, "more than 65,536 bytes"),
        (lambda c: c.post("/search/image", content=b"no image"), 400, "no image of a format that is read"),
        (lambda c: c.post("/search/image", content=huge_png_bytes()), 400, "more than the limit"),
        (lambda c: c.post("/search/image", content=jpeg_bytes()[:300]), 400, "cannot be used"),
        (lambda c: c.post("/search/image", content=b""), 422, ""),
        (lambda c: c.post("/search/image", content=b"x", headers={"content-length": str(10**9)}), 413, "bytes"),
        (lambda c: c.get("/indexes/..%2f..%2frun.json"), 404, ""),
        (lambda c: c.get("/indexes/L09H09"), 404, "no index of 'L09H09'"),
        (lambda c: c.get("/thumbnails/0/999"), 404, "no indexed sample"),
        (lambda c: c.get("/thumbnails/-1/0"), 422, "greater than or equal to 0"),
        (lambda c: c.get("/health", headers={"host": "evil.example"}), 400, "Invalid host"),
        (lambda c: c.get("/../run.json"), 404, ""),
        (lambda c: c.delete("/search"), 405, ""),
    ],
)
def test_what_is_refused_and_why(client, request_of, status, words):
    answer = request_of(client)
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert "Traceback" not in answer.text
    assert client.get("/health").status_code == 200, "the service stays up"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1"}, 200),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_pages_of_other_sites_get_no_answer_and_compute_nothing(client, monkeypatch, headers, status):
    computed = []
    real = search_routes.answers
    monkeypatch.setattr(search_routes, "answers", lambda *given: computed.append(1) or real(*given))
    asked = {"heads": [{"head": HEAD}], "key": "0/p0_0003", "k": 2}
    answer = client.post("/search", json=asked, headers=headers)
    assert (answer.status_code, len(computed)) == (status, int(status == 200)), answer.text
    image = client.post("/search/image", content=jpeg_bytes(), headers={"content-type": "image/jpeg", **headers})
    picture = client.get("/thumbnails/0/0", headers=headers)
    assert (image.status_code, picture.status_code) == (status, status)
    for response in (answer, image, picture, client.get("/health")):
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("path", "given", "wanted"),
    [
        ("/search", "text/plain", "application/json"),
        ("/search", "application/x-www-form-urlencoded", "application/json"),
        ("/search/image", "text/plain", "image/*"),
        ("/search/image", "multipart/form-data; boundary=x", "image/*"),
    ],
)
def test_bodies_of_other_types_are_refused(client, path, given, wanted):
    answer = client.post(path, content=b'{"text": "a cat"}', headers={"content-type": given})
    assert answer.status_code == 415, answer.text
    assert f"send {wanted}" in answer.text


def test_damaged_files_are_told_and_the_service_stays_up(tmp_path):
    run = audited(tmp_path, shards=1)
    app = create_app(run.directory.url)
    path = run.directory.storage.full(f"indexes/{HEAD}/index.faiss")
    os.truncate(path, 100)
    (tmp_path / "s-0.tar").unlink()
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        answer = client.post("/search", json={"heads": [{"head": HEAD}], "key": "0/p0_0001", "k": 3})
        assert (answer.status_code, "build the index again" in answer.text) == (409, True)
        assert client.post("/search", json={"key": "0/p0_0001", "k": 3}).status_code == 200
        assert "not there any more" in client.get("/thumbnails/0/1").text


def test_many_threads_are_answered_alike(client):
    asked = [{"heads": [{"head": HEAD}], "key": f"{n % 2}/p{n % 2}_{n % 12:04d}", "k": 5} for n in range(32)]
    alone = [client.post("/search", json=question).json() for question in asked]
    found = [None] * len(asked)

    def work(part):
        for n in range(part, len(asked), 8):
            found[n] = client.post("/search", json=asked[n]).json()

    workers = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == alone


def test_a_bug_is_a_500_for_one_and_nothing_for_the_others(client, monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("bug")

    monkeypatch.setattr(VectorIndex, "search", broken)
    assert client.post("/search", json={"key": "0/p0_0001", "k": 3}).status_code == 500
    monkeypatch.undo()
    assert client.post("/search", json={"key": "0/p0_0001", "k": 3}).status_code == 200


def test_a_run_without_indexes_is_not_served(tmp_path):
    with pytest.raises(RunNotFound):
        create_app(str(tmp_path))
    run = audited(tmp_path, shards=1, index=False)
    with pytest.raises(UsageError, match="no index yet"):
        create_app(run.directory.url)


def test_it_listens_on_this_machine_alone():
    assert server.HOST == "127.0.0.1"


SEARCHES = {"/health", "/indexes", "/indexes/{name}", "/search", "/search/image", "/thumbnails/{shard}/{index}"}


WRITERS = {"/tags", "/tags/undo", "/what-if/arms"}
"""Paths that a server without a page's token refuses."""


@pytest.mark.parametrize(("before", "examples"), [(True, 20), pytest.param(False, 8, marks=pytest.mark.full)])
def test_no_request_of_the_described_form_makes_it_fail(app, before, examples):
    """The paths of version 0.1, with /api/v1 and without, and in the full tier those of the page."""
    import schemathesis

    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"host": "127.0.0.1"})
    everything = [found.ok() for found in schema.get_all_operations()]
    paths = {operation.path for operation in everything}
    assert paths >= {f"{prefix}{path}" for path in SEARCHES for prefix in ("", "/api/v1")}
    assert {path for path in paths if not path.startswith("/api/v1")} == SEARCHES
    for operation in everything:
        path = operation.path.removeprefix("/api/v1")
        if (path in SEARCHES) is not before:
            continue
        allowed = {200, 400, 404, 409, 413, 422}
        if path in WRITERS and operation.method == "post":
            allowed |= {403}

        @given(case=operation.as_strategy())
        @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def ask(case):
            answer = case.call(headers={"host": "127.0.0.1"}, timeout=600)  # whatever else the machine does
            assert answer.status_code in allowed, answer.text  # noqa: B023 - called before the next turn

        ask()


def test_answers_do_not_wait_for_acknowledgements():
    """A body that follows its headers in a packet of its own waits 40 ms where TCP gathers small packets."""

    async def at_once():
        connected = asyncio.get_running_loop().create_future()
        listener = server.open_listener(0)
        port = listener.getsockname()[1]
        async with await asyncio.start_server(lambda _, writer: connected.set_result(writer), sock=listener):
            _, caller = await asyncio.open_connection("127.0.0.1", port)
            writer = await connected
            option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for each in (caller, writer):
                each.close()
                await each.wait_closed()
            return option

    assert asyncio.run(at_once()) == 1
