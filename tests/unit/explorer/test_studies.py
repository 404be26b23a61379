"""The page's other screens over HTTP: the run, a report's findings, heads in words, CLIP's answers, what is missing."""

import pytest
from starlette.testclient import TestClient

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.explorer.report_file import find_report
from tests.make_audits import audited
from tests.make_explorers import damage_report, explorer_app, write_example_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = audited(tmp_path_factory.mktemp("studied"), index=False)
    return run


@pytest.fixture(scope="module")
def client(run, tmp_path_factory):
    report = write_example_report(run, tmp_path_factory.mktemp("report") / "report")
    app = explorer_app(run, tmp_path_factory.mktemp("tags"), report=str(report))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def bare(run, tmp_path):
    """The page over a run without report, words of heads, or indexes."""
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        yield client


def test_the_run_says_what_it_is_and_what_is_missing(bare, run):
    facts = bare.get("/api/v1/run").json()
    assert (facts["rows"], facts["report"], facts["pictures_missing"], facts["write"]) == (24, None, None, True)
    assert facts["heads"] == list(run.head_labels)
    findings = bare.get("/api/v1/findings").json()
    assert findings["command"] == f"clipaudit report {run.directory.url}"
    heads = bare.get("/api/v1/heads").json()
    assert (heads["missing"], heads["command"]) == (
        "The heads have no words yet.",
        f"clipaudit heads {run.directory.url}",
    )
    assert sum(head["share"] for head in heads["heads"]) > 0
    assert bare.get("/api/v1/indexes").json() == []
    assert "clipaudit index" in bare.post("/api/v1/search", json={"text": "a"}).json()["error"]


def test_findings_are_cards_whose_cells_are_filters(client):
    answer = client.get("/api/v1/findings").json()
    card = answer["findings"][0]
    assert (card["verdict"], card["class_name"]) == ("Confirmed shortcut", "waterbird")
    assert card["answerers"][0]["net"]["value"] is not None
    cells = {(cell["class_name"], cell["value"]): cell for row in card["cells"]["rows"] for cell in row}
    cell = cells["waterbird", "land"]
    assert cell["where"] == ["label = 1", "place = land"]
    assert cell["accuracy"]["value"] is not None
    assert client.get("/api/v1/rows", params={"where": " and ".join(cell["where"])}).status_code == 200
    assert answer["report"]["gate"]["outcome"] in ("passed", "failed", "inconclusive")


def test_a_report_of_another_run_or_none_is_told(run, tmp_path):
    with pytest.raises(UsageError, match="there is no report"):
        find_report(run, str(tmp_path))
    out = write_example_report(run, tmp_path / "report")
    damage_report(out, lambda document: document["audit"].update(run_fingerprint="other"))
    with pytest.raises(UsageError, match="of another run"):
        find_report(run, str(out))
    (out / "report.json").write_text("{")
    with pytest.raises(IntegrityError, match="is damaged"):
        find_report(run, str(out))


def test_a_report_of_another_form_is_told_and_the_page_goes_on(run, tmp_path):
    out = write_example_report(run, tmp_path / "report")
    damage_report(out, lambda document: document["audit"]["findings"][0].pop("cue"))
    app = explorer_app(run, tmp_path, report=str(out))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.get("/api/v1/findings")
        assert (answer.status_code, "make the report again" in answer.text) == (409, True)


def test_a_reports_report_is_found_inside_the_run(run, tmp_path):
    assert find_report(run, None) is None


def test_bars_of_a_text_sum_to_its_score(bare):
    answer = bare.get("/api/v1/rows/0/3/parts", params={"text": "a cat"}).json()
    assert sum(part["value"] for part in answer["parts"]) == pytest.approx(answer["score"], abs=1e-9)
    assert answer["of"] == "“a cat”"


def test_strips_show_both_ends(bare):
    strip = bare.get("/api/v1/heads/L01H00/strips", params={"text": "a cat", "size": 5}).json()[0]
    top, bottom = ([row["score"] for row in strip[end]] for end in ("top", "bottom"))
    assert (len(top), len(bottom)) == (5, 5)
    assert top == sorted(top, reverse=True)
    assert bottom == sorted(bottom)
    assert min(top) >= max(bottom)


def test_pictures_that_are_gone_are_told_and_all_else_works(tmp_path):
    run = audited(tmp_path, shards=1, index=False)
    (tmp_path / "s-0.tar").unlink()
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        assert "not there any more" in client.get("/api/v1/run").json()["pictures_missing"]
        assert client.get("/api/v1/thumbnails/0/1").status_code == 404
        assert client.get("/api/v1/rows").json()["matched"] == 12


def test_shards_that_come_later_are_counted(run, tmp_path, monkeypatch):
    monkeypatch.setattr("clipaudit.explorer.workspace.LISTING_SECONDS", 0.0)
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        assert client.get("/api/v1/state").json()["new_shards"] == 0
        monkeypatch.setattr("clipaudit.run.directory.RunDirectory.committed_ids", lambda self: {0, 1, 2, 3})
        assert client.get("/api/v1/state").json()["new_shards"] == 2


def test_a_run_in_an_object_store_is_looked_at_like_any_other(run, tmp_path, monkeypatch):
    import fsspec

    from clipaudit.explorer.server import ExplorerOptions, create_app

    monkeypatch.chdir(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.put(f"{run.directory.url}/", "/explored/remote/", recursive=True)
    options = ExplorerOptions(write=True, token="token")
    with TestClient(create_app("memory://explored/remote", explorer=options), base_url="http://127.0.0.1") as client:
        assert client.get("/api/v1/rows", params={"where": "place = sea"}).json()["matched"] > 0
        assert client.get("/api/v1/thumbnails/0/3").status_code == 200
        assert client.get("/api/v1/heads").status_code == 200
        images = {"tag": "odd", "images": [{"shard": 0, "index": 3}]}
        assert client.post("/api/v1/tags", json=images, headers={"x-clipaudit-token": "token"}).status_code == 200
    assert [path.name for path in tmp_path.iterdir()] == ["remote-tags.jsonl"], "the run itself is only read"
    memory.rm("/explored", recursive=True)
