"""`clipaudit demo` and `demo-data` as a user runs them."""

import os
import re
import subprocess
import sys

import pytest

from clipaudit.run import Run
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """One small demo: the finished process and its directory."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "clipaudit", "demo", "out", "--birds", "400", "--things", "400", "--seed", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done, folder


def test_it_says_what_it_found_and_what_to_open(shown):
    done, folder = shown
    assert re.search(r"waterbirds on land|landbirds on water", done.stdout)
    assert "random sets of as many heads" in done.stdout
    page = folder / done.stdout.strip().splitlines()[-1].removeprefix("Open ")
    assert page.is_file()


def test_the_page_needs_nothing_but_itself(shown):
    _, folder = shown
    page = (folder / "out/index.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,)", page)
    assert "<script" not in page
    assert page.count("data:image/png") == 24
    assert len(re.findall(r"<code>L\d\dH\d\d</code>", page)) == 24


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
