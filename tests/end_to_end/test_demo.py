"""`clipaudit demo` and `demo-data` as a user runs them."""

import html
import json
import re
import shlex

import pytest
import tinyhtml5.parser

from clipaudit.run.reader import Run
from tests.commands import call


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """One small demo: the finished process and its directory."""
    folder = tmp_path_factory.mktemp("demo")
    done = call(folder, "demo", "out", "--birds", 400, "--things", 400, "--seed", 3)
    assert done.returncode == 0, done.stderr
    return done, folder


def test_it_says_what_it_found_and_what_to_open(shown):
    done, folder = shown
    assert re.search(r"waterbirds on land|landbirds on water", done.stdout)
    assert "random sets of as many heads" in done.stdout
    assert "What to do: " in done.stdout
    *_, last, explorer = done.stdout.strip().splitlines()
    opened = last.removeprefix("Open ")
    assert opened == "out/report/index.html"
    assert (folder / opened).is_file()
    assert explorer == "Look through it: clipaudit explore out/birds-run --write"


@pytest.mark.full
def test_it_ends_with_the_report_that_its_command_makes_again(shown):
    _, folder = shown
    made = json.loads((folder / "out/report/report.json").read_text())
    assert made["audit"]["data"]["attributes"] == ["attributes.place"]
    program, *arguments = shlex.split(made["command"])
    assert program == "clipaudit"
    again = call(folder, *arguments, "--out", "again")
    assert again.returncode == made["gate"]["exit_code"], again.stderr
    found = json.loads((folder / "again/report.json").read_text())
    for one in (made, found):
        one["audit"].update(started="", seconds=0)
    assert found["audit"] == made["audit"]


def test_report_and_page_of_heads_lead_to_each_other(shown):
    _, folder = shown
    report, heads = ((folder / "out" / name).read_text() for name in ("report/index.html", "heads.html"))
    assert 'href="../heads.html"' in report
    assert 'href="report/index.html"' in heads


def test_a_sheet_compares_the_background_head_with_the_whole_embedding(shown):
    done, folder = shown
    path, said = re.search(r"Images alike in one respect: (\S+)\n\s+(.*)", done.stdout).groups()
    assert path == "out/like.html"
    by_head, by_everything = (int(found) for found in re.findall(r"(\d+) (?:have that background|and \d+\.)", said))
    assert by_head > by_everything, "the head finds the background, which is what it is for"
    heads, page = (folder / "out/heads.html").read_text(), (folder / path).read_text()
    assert said in heads
    assert re.search(r"<h2>by (L\d\dH\d\d)</h2>", page)[1] in said
    assert "<h2>by the whole embedding</h2>" in page
    assert f"background {by_head}" in page
    assert page.count("data:image/jpeg") == 1 + 2 * (1 + 2 * 12), "each picture and the query have a map beside them"
    assert "<script" not in page


def test_the_page_of_heads_gives_the_command_of_the_sheet(shown):
    _, folder = shown
    commands = html.unescape((folder / "out/heads.html").read_text())
    program, *arguments = shlex.split(re.search(r"^(?:<pre.*>)?(clipaudit query .*)$", commands, re.MULTILINE)[1])
    made = call(folder, *arguments)
    assert made.returncode == 0, made.stderr

    def found(page):
        return re.findall(r'class="key">([^<]*)<', (folder / page).read_text())

    assert program == "clipaudit"
    assert found("like.html") == found("out/like.html")


def test_the_page_of_heads_needs_nothing_but_itself(shown):
    _, folder = shown
    page = (folder / "out/heads.html").read_text()
    parser = tinyhtml5.parser.HTMLParser()
    parser.parse(page)
    assert parser.errors == []
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", page) == ["report/index.html", "like.html"]
    assert "<script" not in page
    assert len(re.findall(r"<code>L\d\dH\d\d</code>", page)) == 24
    # each of five texts has three images at both ends, all of a head's in one JPEG
    assert page.count('<span class="picture"') == 24 * 5 * 2 * 3
    assert page.count("url(data:image/jpeg;base64,") == 24
    assert len(page) < 3_000_000


def test_its_runs_are_runs_like_any_other(shown, clipaudit):
    _, folder = shown
    for name in ("birds", "things"):
        assert clipaudit("check", folder / f"out/{name}-run").returncode == 0
        assert Run(str(folder / f"out/{name}-run")).coverage().ok == 400


def test_it_never_writes_into_a_directory_that_has_something(shown, clipaudit):
    _, folder = shown
    again = clipaudit("demo", folder / "out")
    assert again.returncode == 2
    assert again.stderr.strip().splitlines()[-1].endswith("is not empty: give another directory, or remove it first")


def test_demo_data_names_its_worlds(clipaudit, tmp_path):
    made = clipaudit("demo-data", "planted", "shards", "--count", 12, "--shard-size", 5)
    assert made.returncode == 0
    assert made.stdout.split() == [*(f"shards/planted-00000{n}.tar" for n in range(3)), "shards/classnames.txt"]
    refused = clipaudit("demo-data", "bird", "shards")
    assert refused.returncode == 2
    assert "there is no demo data set 'bird'; there are: birds, things, planted, nulls" in refused.stderr
