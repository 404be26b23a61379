"""`clipaudit report` as a user runs it, on the demo's birds: water and land are named, and the gate stops a job."""

import json
import re
import shutil
import subprocess
import sys

import jsonschema
import pytest
import tinyhtml5.parser

from tests.commands import ROOT, call, write_demo

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def birds(shared, tmp_path_factory):
    """The demo's audited birds, and what `clipaudit report` made of them."""
    demo, folder = shared("demo-out", write_demo) / "demo-out", tmp_path_factory.mktemp("birds")
    shutil.copytree(demo / "birds-run", folder / "run")
    (folder / "shards").mkdir()
    shutil.copy(demo / "birds/classnames.txt", folder / "shards")

    def run(*arguments):
        return call(folder, *arguments)

    options = ("--classes", "shards/classnames.txt", "--attribute", "place", "--split", "json:split")
    return folder, run, run("report", "run", *options, "--out", "report"), options


def test_the_shortcut_of_the_birds_is_confirmed_and_fails_the_gate(birds):
    folder, _, done, _ = birds
    assert done.returncode == 1, done.stderr
    found = json.loads((folder / "report/report.json").read_text())
    confirmed = [f for f in found["audit"]["findings"] if f["verdict"] == "confirmed shortcut"]
    assert {f["class_name"] for f in confirmed} <= {"waterbird", "landbird"}
    assert confirmed
    assert re.search("water|land", confirmed[0]["cue"]["name"])


def test_the_page_is_whole_and_shows_the_birds(birds):
    folder, _, _, _ = birds
    page = (folder / "report/index.html").read_text()
    parser = tinyhtml5.parser.HTMLParser()
    parser.parse(page)
    assert parser.errors == []
    assert len(page.encode()) <= 3_000_000
    assert "<script" not in page
    assert page.count("data:image/webp") >= 16
    assert "light places speak for the cue" in page
    assert "no picture" not in page


def test_the_files_agree_with_their_schema_and_each_other(birds):
    folder, _, _, _ = birds
    found = json.loads((folder / "report/report.json").read_text())
    jsonschema.validate(found, json.loads((folder / "report/report.schema.json").read_text()))
    assert all((folder / "report" / file["name"]).is_file() for file in found["files"])


def test_the_job_gives_the_same_files_but_for_times_and_waivers_let_it_pass(birds):
    folder, _, _, options = birds
    first = json.loads((folder / "report/report.json").read_text())
    entries = [
        {"finding": name, "owner": "jo", "reason": "a demo", "expires": "2999-01-01"}
        for name in first["gate"]["failing"]
    ]
    (folder / "waivers.json").write_text(json.dumps(entries))
    done = subprocess.run(
        [sys.executable, ROOT / "jobs/report.py", "run", *options, "--out", "job", "--waivers",
         "waivers.json"],
        capture_output=True, text=True, timeout=600, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    second = json.loads((folder / "job/report.json").read_text())
    assert second["gate"]["waived"] == first["gate"]["failing"]
    for found in (first, second):
        found["audit"].update(started="", seconds=0)
    assert second["audit"] == first["audit"]
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == {path.name for path in (folder / "job").iterdir()}
    for name in names - {"report.json", "index.html", "junit.xml", "summary.md", "SHA256SUMS"}:
        assert (folder / "job" / name).read_bytes() == (folder / "report" / name).read_bytes(), name


def test_python_gives_the_same_audit_and_report(birds, monkeypatch):
    """What docs/report.md shows."""
    from clipaudit.cues import AuditOptions, audit_cues
    from clipaudit.cues.report import save_report

    folder, _, _, _ = birds
    monkeypatch.chdir(folder)
    options = AuditOptions(classes="shards/classnames.txt", attributes=("place",), split="split")
    result = audit_cues("run", options)
    report = save_report(result, "python", pictures=False)
    assert report.gate.outcome == "failed"
    first, second = (json.loads((folder / name / "report.json").read_text()) for name in ("report", "python"))
    for found in (first, second):
        found["audit"].update(started="", seconds=0)
    for one, other in zip(first["audit"]["findings"], second["audit"]["findings"], strict=True):
        assert one["evidence"][0]["value"] > 0.8, "where the cue sits was measured with the pictures"
        assert other["evidence"].pop(0)["sentence"] == "Not measured: the report was made without heat maps."
        assert one["evidence"].pop(0)["name"] == "off the object"
    assert second["audit"] == first["audit"]
    assert "<table>" in result._repr_html_()
    assert result.table("findings").num_rows == len(result.findings)


def test_another_run_can_be_scored(birds):
    folder, run, _, _ = birds
    assert run("demo-data", "birds", "others", "--count", 800, "--seed", 7).returncode == 0
    assert run("audit", "others/*.tar", "--out", "other-run", "--model", "demo", "--label", "cls", "--attributes",
               "json:place", "--engine", "local", "--layers", "all").returncode == 0  # fmt: skip
    done = run("report", "run", "--attribute", "place", "--test-run", "other-run", "--out", "shifted", "--no-pictures",
               "--fail-on", "never")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "shifted/report.json").read_text())["audit"]
    assert found["test_run"].endswith("other-run")
    assert "other-run" in found["data"]["counterfactual"]
    assert found["shift"]["rows"]
    assert found["hygiene"]["leaked_clusters"] is not None


def test_with_labels_alone_there_are_candidates_and_never_more(birds):
    folder, run, _, _ = birds
    done = run(
        "report", "run", "--classes", "shards/classnames.txt", "--out", "labels", "--require-evidence", "--no-pictures"
    )
    found = json.loads((folder / "labels/report.json").read_text())
    assert done.returncode == found["gate"]["exit_code"], done.stderr
    # candidates are no evidence; an image property may be confirmed, and fail if its tie is strong enough
    assert found["gate"]["exit_code"] == (1 if found["gate"]["failing"] else 3)
    # what is measured on the pixels is a column, and may be confirmed as one (docs/columns.md)
    texts = [f for f in found["audit"]["findings"] if f["kind"] == "text"]
    assert {f["verdict"] for f in texts} <= {"candidate", "observed", "inconclusive"}
