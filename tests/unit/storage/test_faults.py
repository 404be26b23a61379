"""Paths that cannot be written end as one sentence that names them, wherever a command writes."""

import errno
import os

import pytest

from clipaudit.errors import StorageFull, UsageError
from clipaudit.storage.directory import Storage
from clipaudit.storage.faults import folder_aside, making, of_the_system
from tests.make_runs import make_run

LONG = "x" * 300


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a-file"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FileExistsError(errno.EEXIST, "File exists", "x"), "there is a file of this name"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), "its directory is gone, or is one that takes no files"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), "there is a directory of this name"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), "a part of this path is a file"),
        (PermissionError(errno.EPERM, "Operation not permitted", "x"), "Operation not permitted"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "File name too long"),
    ],
)
def test_what_is_in_the_way_is_one_sentence(error, sentence):
    with pytest.raises(UsageError, match=f"^cannot write PLACE: .*{sentence}"), making("PLACE"):
        raise error


def test_a_folder_aside_is_gone_at_the_end_also_after_an_error(tmp_path):
    target = tmp_path / "out"
    with folder_aside(target) as aside:
        (aside / "a").write_text("1")
        aside.rename(target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(StorageFull), folder_aside(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_errors_that_no_program_makes_are_the_systems():
    assert isinstance(of_the_system(OSError(errno.ENOSPC, "full")), StorageFull)
    told = of_the_system(OSError(errno.ENAMETOOLONG, "File name too long", "a/b"))
    assert str(told) == "a/b cannot be used: File name too long"
    assert of_the_system(FileNotFoundError(errno.ENOENT, "No such file", "a/b")) is None
    assert of_the_system(OSError("no number")) is None


def test_below_a_file_there_are_no_names_and_nothing_can_be_made(file):
    storage = Storage(str(file / "run"))
    assert storage.names("") == []
    with pytest.raises(UsageError, match="a part of this path is a file"):
        storage.make_directories([""])


@pytest.mark.parametrize("place", ["a-file/x", LONG])
@pytest.mark.parametrize(
    "words",
    [
        ["export", "run", "--out"],
        ["index", "run", "--out"],
        ["report", "run", "--out"],
        ["pack", "photos"],
        ["demo-data", "nulls", "--count", "2"],
        ["demo"],
        ["duplicates", "run", "--html"],
        ["duplicates", "run", "--out"],
    ],
)
def test_commands_say_where_they_cannot_write(clipaudit, tmp_path, file, words, place):
    make_run(tmp_path / "run")
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/1.jpg").write_bytes(b"1")
    ended = clipaudit(*words, place)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("clipaudit: ")
    assert "a-file" in last or LONG in last


def test_a_file_in_the_place_of_a_directory_is_called_one(clipaudit, tmp_path, file):
    make_run(tmp_path / "run")
    for words in (["demo"], ["demo-data", "nulls", "--count", "2"], ["index", "run", "--out"]):
        ended = clipaudit(*words, file)
        assert ended.returncode == 2
        assert "is a file" in ended.stderr.splitlines()[-1]
        assert file.read_text() == ""


def test_a_pipe_or_device_is_not_put_away_by_a_file(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for name in ("pipe", "link"):
        with pytest.raises(UsageError, match=f"{name}: there is a device, pipe or socket of this name"):
            Storage(str(tmp_path)).replace(name, b"1")
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]
