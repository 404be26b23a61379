"""Columns that are joined to the run, or dropped, while the page is open."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from clipaudit.explorer import workspace
from clipaudit.run.column_join import JoinOptions, add_columns
from clipaudit.run.column_list import drop_columns
from clipaudit.run.reader import Run
from tests.make_audits import audited
from tests.make_explorers import TOKEN, explorer_app

WRITES = {"x-clipaudit-token": TOKEN}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("columns"), index=False).directory.url


@pytest.fixture
def moody(place, tmp_path):
    """The run's path, with a column `mood` for the first shard's images."""
    join_moods(place, tmp_path)
    yield place
    if "mood" in Run(place).joined:
        drop_columns(place, ["mood"])


def join_moods(place, folder):
    lines = [f"0,p0_{number:04d},{'glad' if number % 2 else 'sad'}\n" for number in range(12)]
    (folder / "moods.csv").write_text("shard,key,mood\n" + "".join(lines))
    add_columns(place, str(folder / "moods.csv"), JoinOptions())


@pytest.fixture
def client(moody, tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "LISTING_SECONDS", 0.0)
    with TestClient(explorer_app(Run(moody), tmp_path), base_url="http://127.0.0.1") as client:
        yield client


def rows(client, **asked):
    return client.get("/api/v1/rows", params=asked)


def names(client) -> set[str]:
    return {column["short"] for column in client.get("/api/v1/columns").json()}


@pytest.mark.parametrize("seen", [True, False], ids=["open", "not-read-yet"])
def test_a_column_dropped_under_an_open_filter_is_told_and_everything_else_goes_on(client, moody, seen):
    before = client.get("/api/v1/state").json()["revision"]
    if seen:
        assert rows(client, where="mood = glad").json()["matched"] == 6
    drop_columns(moody, ["mood"])
    if seen:
        assert client.get("/api/v1/state").json()["revision"] == before + 1, "the page asks for everything again"
    for asked in ({"where": "mood = glad"}, {"sort": "mood"}, {"group": "mood"}):
        answer = rows(client, **asked)
        assert (answer.status_code, "'mood' is not in the run" in answer.text) == (400, True), answer.text
        assert "Traceback" not in answer.text
    assert rows(client).json()["matched"] == 24
    assert rows(client, where="place = sea").json()["matched"] == 12
    assert "mood" not in names(client)
    assert "attributes.mood" not in client.get("/api/v1/rows/0/3").json()["columns"]
    assert client.get("/api/v1/state").json()["revision"] == before + 1, "once"


def test_a_column_that_comes_while_the_page_is_open_can_be_filtered_by(place, tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "LISTING_SECONDS", 0.0)
    with TestClient(explorer_app(Run(place), tmp_path), base_url="http://127.0.0.1") as client:
        assert rows(client, where="mood = sad").status_code == 400
        join_moods(place, tmp_path)
        client.get("/api/v1/state")
        assert rows(client, where="mood = sad").json()["matched"] == 6
        drop_columns(place, ["mood"])


def test_a_tag_that_is_undone_under_an_open_filter_is_told(client):
    asked = {"tag": "odd", "images": [{"shard": 0, "index": 3}]}
    event = client.post("/api/v1/tags", json=asked, headers=WRITES).json()["events"][0]["id"]
    assert rows(client, where="tag.odd = true").json()["matched"] == 1
    client.post("/api/v1/tags/undo", json={"event": event}, headers=WRITES)
    answer = rows(client, where="tag.odd = true")
    assert (answer.status_code, "'tag.odd' is not in the run" in answer.text) == (400, True), answer.text


def test_the_run_is_looked_at_again_no_sooner_than_the_store_is(client, moody, monkeypatch):
    monkeypatch.setattr(workspace, "LISTING_SECONDS", 600.0)
    before = client.get("/api/v1/state").json()["revision"]
    drop_columns(moody, ["mood"])
    assert client.get("/api/v1/state").json()["revision"] == before
