"""The page's other screens over HTTP: the run, a report's findings, heads in words, CLIP's answers, what is missing."""

import shlex
import shutil

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
    shown = client.get("/api/v1/rows", params={"where": cell["where"][0], "limit": 100}).json()
    assert 0 < shown["matched"] < 24
    assert {row["label"] for row in shown["rows"]} == {"1"}
    both = client.get("/api/v1/rows", params={"where": " and ".join(cell["where"])}).json()
    assert all((row["label"], row["key"][0]) == ("1", "p") for row in both["rows"])
    assert both["matched"] < shown["matched"]
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
        assert client.get("/api/v1/rows").json()["matched"] == 24


def test_the_newest_report_inside_the_run_is_found_and_strangers_are_left_alone(run, tmp_path):
    from clipaudit.run.reader import Run

    shutil.copytree(run.directory.url, tmp_path / "run")
    own = Run(str(tmp_path / "run"))
    assert find_report(own, None) is None
    beside = write_example_report(own, tmp_path / "report")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/report.json").write_text("{")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/report.json").write_text("[]")
    assert find_report(own, None).storage.url == str(beside)
    damage_report(beside, lambda document: document["audit"].update(run="elsewhere/other-run"))
    assert find_report(own, None) is None, "of a run of the same options beside it"
    first = write_example_report(own, tmp_path / "run/reports/a")
    newest = write_example_report(own, tmp_path / "run/reports/b")
    damage_report(newest, lambda document: document["audit"].update(started="2099-01-01T00:00:00+00:00"))
    assert find_report(own, None).storage.url == str(newest)
    damage_report(newest, lambda document: document["audit"].update(state={"committed_at": "2001-01-01T00:00:00"}))
    assert find_report(own, None).storage.url == str(first), "images of another run with the same options"


def test_the_interface_without_the_page_looks_for_no_report(tmp_path, monkeypatch):
    from clipaudit.explorer import workspace
    from clipaudit.explorer.server import create_app

    run = audited(tmp_path, shards=1)
    monkeypatch.setattr(workspace, "find_report", lambda *given: pytest.fail("it looks"))
    create_app(run.directory.url, device="cpu")


def test_mistakes_are_cards_whose_images_are_filters(client, run):
    answer = client.get("/api/v1/mistakes").json()
    part = answer["answerers"][0]["slices"][0]
    assert (part["class_name"], part["class_filter"]) == ("waterbird", "label = 1")
    columns = {column["name"] for column in client.get("/api/v1/columns").json()}
    for where in (part["where"], part["where_wrong"], answer["labels"]["where"]):
        assert where is None or client.get("/api/v1/rows", params={"where": where}).status_code == 200
    assert (part["where"] is None) == ("slice.a_sketch" not in columns)


def test_commands_are_for_a_shell_and_have_the_options_of_the_first_start(run, tmp_path):
    from clipaudit.explorer.server import ExplorerOptions, create_app

    folder = tmp_path / "it's; a run"
    shutil.copytree(run.directory.url, folder)
    given = ExplorerOptions(write=True, token="t", options=("--report", "a b"))
    with TestClient(create_app(str(folder), device="cpu", explorer=given), base_url="http://127.0.0.1") as client:
        commands = client.get("/api/v1/run").json()["commands"]
    words = {name: shlex.split(command) for name, command in commands.items()}
    assert words["restart"][:5] == ["clipaudit", "explore", str(folder), "--report", "a b"]
    assert {"--write", "--no-browser"} <= set(words["restart"])
    assert words["columns"] == ["clipaudit", "columns", "add", str(folder), "tags.jsonl"]


def test_pictures_of_two_runs_have_other_addresses(run, bare, tmp_path):
    """The fingerprint is of options and weights alone: two runs on one port must not share a browser's pictures."""
    from clipaudit.run.reader import Run

    shutil.copytree(run.directory.url, tmp_path / "run")
    other = Run(str(tmp_path / "run"))
    assert other.manifest.fingerprint == run.manifest.fingerprint
    with TestClient(explorer_app(other, tmp_path), base_url="http://127.0.0.1") as second:
        versions = [client.get("/api/v1/run").json()["pictures"] for client in (bare, second)]
        assert versions[0] != versions[1]
        kept = second.get("/api/v1/thumbnails/0/1", params={"v": versions[1]})
        foreign = second.get("/api/v1/thumbnails/0/1", params={"v": versions[0]})
    assert "immutable" in kept.headers["cache-control"]
    assert foreign.headers["cache-control"] == "no-cache"


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


def test_whose_answers_are_right_is_a_column_of_the_wall(client):
    """Of the example's images four are in this run: CLIP always says landbird, the trained model never does."""
    answers = client.get("/api/v1/findings").json()["answers"]
    assert answers == {
        "report.clip.right": "CLIP",
        "rehearsed.right": "a model trained here",
        "clip.without.water_a_lake.right": "CLIP without “water: a lake”",
    }
    rows = {
        where: [
            (row["shard"], row["index"]) for row in client.get("/api/v1/rows", params={"where": where}).json()["rows"]
        ]
        for where in ("report.clip.right = true", "rehearsed.right = true", "clip.without.water_a_lake.right = false")
    }
    # images 0 and 4 are landbirds, 1 and 3 waterbirds
    assert sorted(rows["report.clip.right = true"]) == [(0, 0), (1, 4)]
    assert rows["clip.without.water_a_lake.right = false"] == rows["report.clip.right = true"]
    assert sorted(rows["rehearsed.right = true"]) == [(0, 3), (1, 1)]
    wrong = client.get("/api/v1/rows", params={"where": "rehearsed.right = true"}).json()["rows"][0]
    assert wrong["right"] == {
        "report.clip.right": False,
        "rehearsed.right": True,
        "clip.without.water_a_lake.right": True,
    }
    detail = client.get(f"/api/v1/rows/{wrong['shard']}/{wrong['index']}").json()["columns"]
    assert (detail["rehearsed.predicted"], detail["report.clip.predicted"]) == ("waterbird", "landbird")
    sliced = client.get("/api/v1/rows", params={"where": "slice.a_sketch = wrong"}).json()
    assert sliced["matched"] > 0
