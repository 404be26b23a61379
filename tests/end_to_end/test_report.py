"""`clipaudit report` as a user runs it, on the demo's birds: water and land are named, and the gate stops a job."""

import json
import re
import subprocess
import sys

import jsonschema
import pytest
import tinyhtml5.parser

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Audited birds, and what `clipaudit report` made of them."""
    folder = tmp_path_factory.mktemp("birds")

    def run(*arguments):
        command = [sys.executable, "-m", "clipaudit", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=600, cwd=folder, env=environment(), check=False
        )

    assert run("demo-data", "birds", "shards", "--count", 4000, "--shard-size", 1000).returncode == 0
    audited = run("audit", "shards/*.tar", "--out", "run", "--model", "demo", "--label", "cls", "--attributes",
                  "json:place,json:split", "--engine", "local", "--layers", "all")  # fmt: skip
    assert audited.returncode == 0, audited.stderr
    options = ("--classes", "shards/classnames.txt", "--attribute", "place", "--split", "json:split")
    return folder, run, run("report", "run", *options, "--out", "report"), options


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


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


def test_the_files_agree_with_their_schema_and_each_other(birds):
    folder, _, _, _ = birds
    found = json.loads((folder / "report/report.json").read_text())
    jsonschema.validate(found, json.loads((folder / "report/report.schema.json").read_text()))
    assert all((folder / "report" / file["name"]).is_file() for file in found["files"])


def test_the_same_command_gives_the_same_json_but_for_times(birds):
    folder, run, _, options = birds
    run("report", "run", *options, "--out", "again")
    first, second = (json.loads((folder / name / "report.json").read_text()) for name in ("report", "again"))
    for found in (first, second):
        found["audit"].update(started="", seconds=0)
    assert first == second


def test_with_labels_alone_there_are_candidates_and_never_more(birds):
    folder, run, _, _ = birds
    done = run(
        "report", "run", "--classes", "shards/classnames.txt", "--out", "labels", "--require-evidence", "--no-heat"
    )
    assert done.returncode in (0, 3), done.stderr
    found = json.loads((folder / "labels/report.json").read_text())
    assert {f["verdict"] for f in found["audit"]["findings"]} <= {"candidate", "observed", "inconclusive"}


def test_a_waiver_lets_the_gate_pass(birds):
    folder, run, _, options = birds
    found = json.loads((folder / "report/report.json").read_text())
    entries = [
        {"finding": name, "owner": "jo", "reason": "a demo", "expires": "2999-01-01"}
        for name in found["gate"]["failing"]
    ]
    (folder / "waivers.json").write_text(json.dumps(entries))
    done = run("report", "run", *options, "--out", "waived", "--waivers", "waivers.json", "--no-heat")
    assert done.returncode == 0, done.stderr


def test_mistakes_end_as_one_sentence(birds):
    _, run, _, _ = birds
    for arguments, message in (
        (("report", "nowhere"), "there is no run at nowhere"),
        (("report", "run", "--classes", "none.txt"), "none.txt"),
        (("report", "run", "--attribute", "colour"), "colour"),
    ):
        done = run(*arguments, "--out", "mistake")
        assert done.returncode == 2
        assert message in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_the_job_is_the_command(birds):
    folder, _, _, options = birds
    done = subprocess.run(
        [sys.executable, ROOT / "jobs/report.py", "run", *options, "--out", "job", "--no-heat", "--fail-on", "never"],
        capture_output=True, text=True, timeout=600, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "job/index.html").is_file()
