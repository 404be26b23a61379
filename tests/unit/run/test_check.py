"""`clipaudit check`: every file of a run against the hashes that were recorded of it."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from clipaudit.errors import IntegrityError
from clipaudit.run.directory import BASIS, RunDirectory
from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from tests.make_audits import audited
from tests.make_runs import make_run


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run by the job itself, with its indexes."""
    return audited(tmp_path_factory.mktemp("checked"), shards=1).directory.url


@pytest.fixture
def run(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "run")
    return tmp_path / "run"


def tensors(path):
    """Name to (first byte, bytes) of every tensor of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {
        name: (8 + length + value["data_offsets"][0], value["data_offsets"][1] - value["data_offsets"][0])
        for name, value in header.items()
        if name != "__metadata__"
    }


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_run_as_it_was_written_has_no_problems(run):
    report = check(str(run))
    assert (report.problems, report.remarks) == ((), ())


@pytest.mark.parametrize("name", ["Q", "T", "G", "attention_bias", "initial", "norm_bias"])
def test_eight_bytes_of_any_array_of_the_basis_are_noticed(run, name):
    first, length = tensors(run / BASIS)[name]
    overwrite(run / BASIS, first + length // 2 // 8 * 8, b"\x01" * 8)
    assert any("basis.safetensors is not what was committed" in problem for problem in check(str(run)).problems)


def test_a_changed_manifest_is_noticed(run):
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"precision": "fp32"', '"precision": "bf16"'))
    assert any("run.json" in problem for problem in check(str(run)).problems)


def test_a_changed_index_is_noticed(run):
    index = next((run / "indexes" / "L01H00").glob("*.faiss"))
    overwrite(index, index.stat().st_size // 2, b"changed!")
    assert any(str(index) in problem for problem in check(str(run)).problems)


def test_shards_that_were_written_with_another_basis_are_named(tmp_path):
    directory = make_run(str(tmp_path / "run"), shards=2, rows=5, failures=())
    record = directory.committed()[1]
    other = {**record.run_files, BASIS: replace(record.run_files[BASIS], sha256="0" * 64)}
    directory.storage.replace(directory.commit_path(1), replace(record, run_files=other).to_json())
    assert any(
        "shards 0 and 1 were written with different versions of basis.safetensors" in problem
        for problem in check(directory).problems
    )


def test_runs_of_before_are_examined_as_far_as_possible_and_that_is_said(tmp_path):
    directory = make_run(str(tmp_path / "run"), shards=1, rows=5, failures=())
    record = json.loads(directory.committed()[0].to_json())
    del record["run_files"]
    directory.storage.replace(directory.commit_path(0), json.dumps(record).encode())
    report = check(directory)
    assert report.problems == ()
    assert "version 0.1" in report.remarks[0]
    first, _ = tensors(tmp_path / "run" / BASIS)["T"]
    overwrite(tmp_path / "run" / BASIS, first, b"\x00\x00\xc0\x7f")  # not a number
    assert any("T in basis.safetensors holds numbers" in problem for problem in check(directory).problems)


@pytest.mark.parametrize("pattern", ["projections/*", "moments/*", BASIS, "indexes/L01H00/*.faiss"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(run, pattern):
    path = next(run.glob(pattern))
    path.unlink()
    os.mkfifo(path)
    assert any("not a regular file" in problem for problem in check(str(run)).problems)


@pytest.mark.parametrize("pattern", ["run.json", "_committed/*"])
def test_a_pipe_in_place_of_a_record_is_not_waited_for(run, pattern):
    path = next(run.glob(pattern))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IntegrityError, match="not a regular file"):
        check(str(run))


def test_readers_of_rows_do_not_wait_for_a_pipe(run):
    path = next(run.glob("projections/*"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IntegrityError, match="not a regular file"):
        Run(RunDirectory(str(run)).url).heads("L01H00")
