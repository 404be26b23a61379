"""Tags: appended, undone, read back after damage, and written out as lists."""

import csv
import io
import json
import shutil
import threading

import pytest
from starlette.testclient import TestClient

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.explorer.tag_log import TagLog, default_tags
from tests.make_audits import audited
from tests.make_explorers import TOKEN, explorer_app

WRITES = {"x-clipaudit-token": TOKEN}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("tagged"), index=False)


@pytest.fixture
def client(run, tmp_path):
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        yield client


def test_events_add_up_and_the_latest_can_be_undone(tmp_path):
    log = TagLog(tmp_path / "deep" / "tags.jsonl")
    log.add("odd", [(0, 1, "a"), (0, 2, "b")], author="ada", reason="blurred")
    log.add("odd", [(0, 1, "a")], removes=True)
    assert log.state().counts == {"odd": 1}
    assert log.state().by_image[0, 2]["odd"].author == "ada"
    first, second = log.state().events
    log.undo(second.id)
    assert log.state().counts == {"odd": 2}
    log.undo(first.id)
    assert (log.state().counts, log.state().events) == ({}, ())
    with pytest.raises(UsageError, match="nothing to undo"):
        log.undo(first.id)
    assert len((tmp_path / "deep" / "tags.jsonl").read_text().splitlines()) == 4, (
        "nothing is ever taken out of the file"
    )


def test_a_line_that_was_cut_short_costs_that_line_alone(tmp_path):
    log = TagLog(tmp_path / "tags.jsonl")
    log.add("odd", [(0, 1, "a")])
    with log.path.open("a") as handle:
        handle.write('{"id": "cut')
    log.add("odd", [(0, 2, "b")])
    assert (log.state().counts, log.state().damaged) == ({"odd": 2}, 1)


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "tags.jsonl"

    def write(author):
        log = TagLog(path)
        for number in range(20):
            log.add("odd", [(author, number, "k")], author=str(author))

    threads = [threading.Thread(target=write, args=(author,)) for author in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (TagLog(path).state().counts, TagLog(path).state().damaged) == ({"odd": 120}, 0)


@pytest.mark.parametrize("tag", ["", "a b", "-x", "x" * 41, "a,b", "a/b", "<b>"])
def test_names_that_no_column_can_have_are_refused(tmp_path, tag):
    with pytest.raises(UsageError, match="cannot be used"):
        TagLog(tmp_path / "tags.jsonl").add(tag, [(0, 0, "a")])


def test_tags_are_columns_of_the_wall(client):
    asked = {"tag": "odd", "reason": "blurred", "author": "ada", "images": [{"shard": 0, "index": 3}]}
    assert client.post("/api/v1/tags", json=asked, headers=WRITES).json()["counts"] == {"odd": 1}
    tagged = client.get("/api/v1/rows", params={"where": "tag.odd = true"}).json()
    assert [(row["key"], row["tags"]) for row in tagged["rows"]] == [("p0_0003", ["odd"])]
    assert client.get("/api/v1/rows", params={"where": "tags is null"}).json()["matched"] == 23
    assert client.get("/api/v1/rows/0/3").json()["tags"][0]["reason"] == "blurred"
    before = client.get("/api/v1/state").json()["tags"]
    event = client.get("/api/v1/tags").json()["events"][0]["id"]
    other = {"tag": "wet", "images": [{"shard": 0, "index": 4}]}
    client.post("/api/v1/tags", json=other, headers=WRITES)
    undone = client.post("/api/v1/tags/undo", json={"event": event}, headers=WRITES).json()
    assert undone["counts"] == {"wet": 1}, "the step that is named, not one that came between"
    assert client.get("/api/v1/state").json()["tags"] > before


def test_a_whole_view_is_tagged_and_taken_away_as_lists(client):
    view = {"tag": "sea", "where": ["place = sea"]}
    number = client.post("/api/v1/tags", json=view, headers=WRITES).json()["counts"]["sea"]
    assert number == client.get("/api/v1/rows", params={"where": "place = sea"}).json()["matched"]
    client.post("/api/v1/tags", json={"tag": "other", "images": [{"shard": 1, "index": 0}]}, headers=WRITES)
    excluded = client.get("/api/v1/export/exclude.txt?tag=sea").text.splitlines()
    assert len(excluded) == number
    assert all(line[6] == "/" for line in excluded)
    table = list(csv.DictReader(io.StringIO(client.get("/api/v1/export/review.csv").text)))
    assert len(table) == number + 1
    assert {line["tag"] for line in table} == {"sea", "other"}


def test_what_a_spreadsheet_would_run_is_shown(client):
    asked = {"tag": "odd", "reason": "=HYPERLINK(1)", "author": "@ada", "images": [{"shard": 0, "index": 0}]}
    client.post("/api/v1/tags", json=asked, headers=WRITES)
    line = next(csv.DictReader(io.StringIO(client.get("/api/v1/export/review.csv").text)))
    assert (line["reason"], line["author"]) == ("'=HYPERLINK(1)", "'@ada")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"tag": "odd", "images": [{"shard": 0, "index": 0}]}, {}, 403),
        ({"tag": "odd", "images": [{"shard": 0, "index": 0}]}, {"x-clipaudit-token": "guessed"}, 403),
        ({"tag": "odd", "images": [{"shard": 0, "index": 0}]}, {**WRITES, "origin": "https://evil.example"}, 403),
        ({"tag": "odd", "images": [{"shard": 0, "index": 0}]}, {**WRITES, "sec-fetch-site": "cross-site"}, 403),
        ({"tag": "odd", "images": [{"shard": 0, "index": 999}]}, WRITES, 400),
        ({"tag": "odd", "images": []}, WRITES, 400),
        ({"tag": "odd", "images": [], "other": 1}, WRITES, 422),
        ({"tag": "odd", "reason": "x" * 501, "images": [{"shard": 0, "index": 0}]}, WRITES, 422),
    ],
)
def test_what_may_not_be_written(client, tmp_path, body, headers, status):
    assert client.post("/api/v1/tags", json=body, headers=headers).status_code == status
    assert not (tmp_path / "tags.jsonl").exists()


def test_a_body_without_an_end_is_cut_off(client, tmp_path):
    answer = client.post("/api/v1/tags", content=(b" " * 1000 for _ in range(70)), headers=WRITES)
    assert (answer.status_code, "65,536 bytes" in answer.text) == (413, True)
    assert not (tmp_path / "tags.jsonl").exists()


def test_a_page_that_only_reads_writes_nothing(run, tmp_path):
    app = explorer_app(run, tmp_path, write=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        asked = {"tag": "odd", "images": [{"shard": 0, "index": 0}]}
        answer = client.post("/api/v1/tags", json=asked, headers=WRITES)
        assert (answer.status_code, "--write" in answer.text) == (403, True)
        client.get("/api/v1/rows", params={"text": "a text that is not stored"})
        assert not run.directory.storage.exists("texts"), "vectors of texts are not kept either"
    assert list(tmp_path.iterdir()) == []


def test_where_tags_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert default_tags(str(tmp_path / "run"), write=True) == tmp_path / "run/explorer/tags.jsonl"
    assert str(default_tags("s3://bucket/train", write=True)) == "train-tags.jsonl"


def test_the_file_is_lines_of_json(client, tmp_path):
    client.post("/api/v1/tags", json={"tag": "odd", "images": [{"shard": 0, "index": 3}]}, headers=WRITES)
    event = json.loads((tmp_path / "tags.jsonl").read_text())
    assert (event["tag"], event["images"], event["removes"]) == ("odd", [[0, 3, "p0_0003"]], False)


def test_tags_become_a_column_of_the_run(client, run, tmp_path):
    from clipaudit.run.column_join import JoinOptions, add_columns
    from clipaudit.run.reader import Run

    images = {"images": [{"shard": 0, "index": 3}, {"shard": 1, "index": 3}]}
    client.post("/api/v1/tags", json={"tag": "odd", **images}, headers=WRITES)
    client.post("/api/v1/tags", json={"tag": "wet", "images": [{"shard": 1, "index": 3}]}, headers=WRITES)
    table = tmp_path / "tags.jsonl.copy.jsonl"
    table.write_text(client.get("/api/v1/export/tags.jsonl").text)
    copy = tmp_path / "run"
    shutil.copytree(run.directory.url, copy)
    add_columns(str(copy), str(table), JoinOptions())
    joined = Run(str(copy)).table("tagged")["tagged"].to_pylist()
    assert sorted(value for value in joined if value) == [["odd"], ["odd", "wet"]]


def test_tags_go_to_no_other_image_of_the_same_number(client, tmp_path):
    """The file is of a run whose shards have other images now: keys tell, and the page says how many are left out."""
    images = [{"shard": 0, "index": 3}, {"shard": 0, "index": 4}]
    client.post("/api/v1/tags", json={"tag": "odd", "images": images}, headers=WRITES)
    path = tmp_path / "tags.jsonl"
    path.write_text(path.read_text().replace("p0_0003", "another"))
    facts = client.get("/api/v1/tags").json()
    assert (facts["counts"], facts["foreign"]) == ({"odd": 1}, 1)
    assert [row["key"] for row in client.get("/api/v1/rows", params={"where": "tag.odd = true"}).json()["rows"]] == [
        "p0_0004"
    ]
    assert "another" not in client.get("/api/v1/export/exclude.txt").text


@pytest.mark.parametrize(
    "change",
    [
        {"images": [[-1, 0, "a"]]},
        {"images": [[0, 2**31, "a"]]},
        {"images": [[0, True, "a"]]},
        {"images": [[0, "1", "a"]]},
        {"images": [[0, 1]]},
        {"tag": "a b"},
        {"reason": "x" * 501},
        {"author": 7},
        {"id": None},
    ],
)
def test_lines_that_no_page_wrote_are_left_alone(tmp_path, change):
    log = TagLog(tmp_path / "tags.jsonl")
    log.add("odd", [(0, 1, "a")])
    event = json.loads(log.path.read_text())
    with log.path.open("a") as handle:
        handle.write(json.dumps({**event, "id": "other", "tag": "wet", **change}) + "\n")
    assert (log.state().counts, log.state().damaged) == ({"odd": 1}, 1)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path, monkeypatch):
    log = TagLog(tmp_path / "tags.jsonl")
    log.add("odd", [(0, 1, "a")])
    monkeypatch.setattr("clipaudit.explorer.event_log.MAX_BYTES", 10)
    with pytest.raises(IntegrityError, match="move it"):
        TagLog(log.path).state()


def test_what_was_seen_is_what_is_tagged(client):
    view = {"tag": "sea", "where": ["place = sea"], "count": 1}
    answer = client.post("/api/v1/tags", json=view, headers=WRITES)
    assert (answer.status_code, "look again" in answer.text) == (400, True)
    matched = client.get("/api/v1/rows", params={"where": "place = sea"}).json()["matched"]
    assert client.post("/api/v1/tags", json={**view, "count": matched}, headers=WRITES).status_code == 200


def test_an_empty_token_lets_nobody_write(run, tmp_path):
    from clipaudit.explorer.server import ExplorerOptions, create_app

    options = ExplorerOptions(write=True, tags=tmp_path / "tags.jsonl")
    with TestClient(create_app(run.directory.url, device="cpu", explorer=options), base_url="http://127.0.0.1") as page:
        asked = {"tag": "odd", "images": [{"shard": 0, "index": 0}]}
        for headers in ({}, {"x-clipaudit-token": ""}):
            assert page.post("/api/v1/tags", json=asked, headers=headers).status_code == 403


def test_an_attribute_called_tags_keeps_its_name(run, tmp_path):
    from clipaudit.run.column_join import JoinOptions, add_columns

    shutil.copytree(run.directory.url, tmp_path / "run")
    table = tmp_path / "tags.csv"
    table.write_text("shard,key,tags\n0,p0_0001,mine\n")
    add_columns(str(tmp_path / "run"), table, JoinOptions())
    from clipaudit.run.reader import Run

    with TestClient(explorer_app(Run(str(tmp_path / "run")), tmp_path), base_url="http://127.0.0.1") as page:
        page.post("/api/v1/tags", json={"tag": "odd", "images": [{"shard": 0, "index": 3}]}, headers=WRITES)
        assert page.get("/api/v1/run").json()["tags_column"] == "page.tags"
        shown = {
            where: page.get("/api/v1/rows", params={"where": where}).json()["rows"]
            for where in ("tags = mine", "page.tags = odd")
        }
    assert {where: [row["key"] for row in rows] for where, rows in shown.items()} == {
        "tags = mine": ["p0_0001"],
        "page.tags = odd": ["p0_0003"],
    }
