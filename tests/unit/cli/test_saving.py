"""Runs that cannot be written to: results are printed, and the sentence names --out."""

from __future__ import annotations

import json

import pytest

from clipaudit.errors import UsageError
from clipaudit.retrieval.duplicates import DuplicatesConfig, find_duplicates
from clipaudit.retrieval.plan import IndexConfig, build_indexes
from clipaudit.run.derived import require_writable
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.storage.directory import Storage
from tests.make_audits import audited
from tests.make_runs import MEMORY, SPEC, make_run
from tests.make_texts import make_pool, write_pool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    audited(folder, index=False)
    write_pool(folder / "pool.tsv", make_pool(40))
    (folder / "classes.txt").write_text("land\nsea\n")
    return folder


@pytest.fixture
def read_only(folder, monkeypatch):
    """The run of `folder`, in which no file can be made or replaced."""
    run, allowed = folder / "run", Storage.replace

    def replace(self, path, data):
        if str(run) in self.full(path):
            raise UsageError(f"cannot write {self.full(path)}: Read-only file system")
        return allowed(self, path, data)

    monkeypatch.setattr(Storage, "replace", replace)
    return run


COMMANDS = {
    "heads": (["--texts", "pool.tsv", "--steps", "3", "--no-roles"], "heads.json"),
    "ablate": (["--classes", "classes.txt", "--templates", "single", "--head", "L01H00"], "ablation.json"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_that_is_read_only_costs_the_files_and_not_the_result(clipaudit, folder, read_only, name, as_json):
    arguments = [folder / each if str(each).endswith((".tsv", ".txt")) else each for each in COMMANDS[name][0]]
    ended = clipaudit(name, read_only, *arguments, *["--json"] * as_json)
    assert ended.returncode == 2
    assert ended.stderr.strip().endswith("the result is not saved; give another directory with --out")
    if as_json:
        assert json.loads(ended.stdout)
    else:
        assert "L01H00" in ended.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_with_out_nothing_is_written_into_the_run(clipaudit, folder, read_only, tmp_path, name):
    arguments = [folder / each if str(each).endswith((".tsv", ".txt")) else each for each in COMMANDS[name][0]]
    ended = clipaudit(name, read_only, *arguments, "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / COMMANDS[name][1]).is_file()


def test_duplicates_write_where_they_are_told_and_into_neither_run(tmp_path):
    first, second = (make_run(str(tmp_path / name), SPEC, shards=1, rows=20) for name in ("a", "b"))
    before = [[(e.path, e.modified) for e in run.storage.walk()] for run in (first, second)]
    out = tmp_path / "out"
    result = find_duplicates(Run(first), Run(second), DuplicatesConfig(memory=MEMORY), out=str(out))
    assert result.table == f"{out}/duplicates.parquet"
    assert sorted(path.name for path in out.iterdir()) == ["duplicates.parquet", "summary.json"]
    assert [[(e.path, e.modified) for e in run.storage.walk()] for run in (first, second)] == before
    inside = find_duplicates(Run(first), None, DuplicatesConfig(memory=MEMORY))
    assert inside.table == first.storage.full("duplicates/within/duplicates.parquet")


def test_near_duplicates_are_shown_on_a_page(clipaudit, folder, tmp_path):
    options = ["--similarity", "0.5", "--bits", "64", "--memory", "16GB", "--out", tmp_path / "out"]
    ended = clipaudit("duplicates", folder / "run", *options, "--html", "page.html", "--json")
    assert ended.returncode == 0, ended.stderr
    page, counts = (tmp_path / "page.html").read_text(), json.loads(ended.stdout)
    assert "1 cluster of near-duplicates" in page
    assert page.count("data:image/jpeg;base64,") == min(counts["largest"], 12)
    assert page.count(' class="keep"') == counts["clusters"] == 1
    assert "<script" not in page
    refused = clipaudit("duplicates", folder / "run", *options, "--html", "nowhere/page.html")
    assert refused.returncode == 2
    assert "--html nowhere/page.html cannot be written: No such file" in refused.stderr


def test_what_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    directory = make_run(str(tmp_path / "run"), SPEC, shards=1, rows=20)
    monkeypatch.setattr("clipaudit.run.derived.os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match=r"run is read-only; give another directory with --out"):
        find_duplicates(Run(directory), None, DuplicatesConfig(memory=MEMORY))
    with pytest.raises(UsageError, match=r"run is read-only; give another directory with --out"):
        build_indexes(IndexConfig(run=directory.url, heads="embedding", memory=MEMORY))


def test_a_file_in_the_place_of_a_directory_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        require_writable(RunDirectory(str(tmp_path / "file")), "indexes")
