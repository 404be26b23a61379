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
from tests.make_runs import MEMORY, make_run


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


@pytest.fixture(scope="module")
def worked(stored, tmp_path_factory):
    """The run with something of every kind that commands write into it."""
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.retrieval.duplicates import DuplicatesConfig, find_duplicates
    from clipaudit.run.derived import publish

    folder = tmp_path_factory.mktemp("worked") / "run"
    shutil.copytree(stored, folder)
    run = Run(str(folder))
    RunTexts(run).vectors(["a dog", "a cat"])
    find_duplicates(run, None, DuplicatesConfig(memory=MEMORY))
    publish(run, "heads/all", {"heads.json": {"heads": []}, "page.html": "<p>Heads in words</p>"})
    return folder


def every_file(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_changed_byte_in_any_file_of_a_run_is_noticed(worked, tmp_path):
    assert check(str(worked)).problems == ()
    assert check(str(worked)).remarks == ()
    names = every_file(worked)
    kinds = {name.partition("/")[0] for name in names}
    assert kinds >= {
        "run.json",
        BASIS,
        "projections",
        "moments",
        "_committed",
        "indexes",
        "texts",
        "heads",
        "duplicates",
    }
    shutil.copytree(worked, tmp_path / "run")
    unnoticed = []
    for name in names:
        path = tmp_path / "run" / name
        before = path.read_bytes()
        for at in {len(before) // 3, len(before) // 2, max(len(before) - 40, 0)} if before else ():
            path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
            try:
                noticed = bool(check(str(tmp_path / "run")).problems)
            except IntegrityError:
                noticed = True
            unnoticed += [] if noticed else [(name, at)]
        path.write_bytes(before)
    assert unnoticed == []


def test_a_missing_file_and_one_without_a_hash_are_told_apart(worked, tmp_path):
    shutil.copytree(worked, tmp_path / "run")
    (tmp_path / "run/heads/all/page.html").unlink()
    (tmp_path / "run/heads/all/notes.txt").write_text("mine")
    report = check(str(tmp_path / "run"))
    assert [problem.rpartition("/")[2] for problem in report.problems] == ["page.html is not there"]
    assert report.remarks == (
        "a file in the run came without a hash, by version 0.1 or by hand; the first: heads/all/notes.txt",
    )


def test_what_is_no_regular_file_is_a_problem_also_where_no_hash_is_recorded(worked, tmp_path):
    shutil.copytree(worked, tmp_path / "run")
    os.mkfifo(tmp_path / "run/heads/all/pipe")
    (tmp_path / "run/heads/all/link.html").symlink_to("page.html")
    report = check(str(tmp_path / "run"))
    assert report.problems == (f"{tmp_path}/run/heads/all/pipe is not a regular file",)
    assert report.remarks[0].endswith("heads/all/link.html")


def test_a_damaged_list_of_hashes_is_a_problem(worked, tmp_path):
    shutil.copytree(worked, tmp_path / "run")
    for content in (b"", b"../../etc/passwd", b"0" * 64 + b"  ../run.json\n"):
        (tmp_path / "run/heads/all/SHA256SUMS").write_bytes(content)
        assert any("no list of hashes" in problem for problem in check(str(tmp_path / "run")).problems)


def test_derived_files_can_be_verified_by_sha256sum(worked):
    import subprocess

    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=worked / "heads/all", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "heads.json: OK" in done.stdout


def test_files_of_before_that_have_no_hashes_are_read_and_said(worked, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(worked, folder)
    for path in folder.rglob("SHA256SUMS"):
        path.unlink()
    report = check(str(folder))
    assert report.problems == ()
    assert "came without a hash" in report.remarks[0]
    index = next((folder / "indexes" / "L01H00").glob("*.faiss"))
    overwrite(index, index.stat().st_size // 2, b"changed!")
    assert any(str(index) in problem for problem in check(str(folder)).problems), "by the hashes of its card"


def test_damaged_text_vectors_are_encoded_again(worked, tmp_path):
    import numpy as np

    from clipaudit.heads.texts.vectors import RunTexts

    folder = tmp_path / "run"
    shutil.copytree(worked, folder)
    right = RunTexts(Run(str(folder))).vectors(["a dog", "a cat"])
    (path,) = (folder / "texts").iterdir()
    overwrite(path, path.stat().st_size - 8, b"changed!")
    np.testing.assert_array_equal(RunTexts(Run(str(folder))).vectors(["a dog", "a cat"]), right)
    assert check(str(folder)).problems == ()


@pytest.mark.parametrize("pattern", ["indexes/L01H00/*.faiss", "indexes/L01H00/card.json", "indexes/_rows/*/*.arrow"])
def test_a_query_does_not_wait_for_a_pipe(run, pattern):
    from clipaudit.retrieval.retriever import Retriever

    path = next(run.glob(pattern))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IntegrityError, match=r"not a regular file|has 0 bytes"):
        Retriever(Run(str(run))).search(key="0/p0_0000", heads={"L01H00": 1.0})


@pytest.mark.parametrize("pattern", ["heads/all/heads.json", "heads/all/SHA256SUMS", "texts/*"])
def test_a_pipe_among_derived_files_is_not_waited_for(worked, tmp_path, pattern):
    shutil.copytree(worked, tmp_path / "run")
    path = next((tmp_path / "run").glob(pattern))
    path.unlink()
    os.mkfifo(path)
    assert any(path.name in problem for problem in check(str(tmp_path / "run")).problems)


def test_what_people_said_is_read_line_by_line(run):
    """Tags and labels only grow and have no hash: their lines must be what the explorer writes, JSON objects."""
    (run / "explorer").mkdir()
    path = run / "explorer/tags.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"}\n')
    report = check(str(run))
    assert report.problems == ()
    assert not any("without a hash" in remark for remark in report.remarks)
    path.write_text('{"id": "a"}\n{"id": "cut\n[1]\n')
    assert [problem.removeprefix(f"{run}/") for problem in check(str(run)).problems] == [
        "explorer/tags.jsonl cannot be read in line 2 and 1 more"
    ]
