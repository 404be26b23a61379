"""Readers that go away, a full standard output, closed streams, and notes."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from clipaudit.__main__ import main
from clipaudit.cli.streams import flush_streams, guard_streams, reader_is_gone
from clipaudit.errors import Note, StorageFull
from tests.commands import ROOT


@pytest.fixture
def standard(monkeypatch):
    """`standard(descriptor)`: standard output is this descriptor, guarded."""

    def use(descriptor):
        monkeypatch.setattr(sys, "stdout", os.fdopen(descriptor, "w", closefd=False))
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        guard_streams()

    return use


def test_a_reader_that_goes_away_is_no_error(standard):
    read, write = os.pipe()
    standard(write)
    print("first")
    flush_streams()
    assert os.read(read, 10) == b"first\n"
    assert not reader_is_gone()
    os.close(read)
    for _ in range(3):
        print("second " * 5000)
        flush_streams()
    assert reader_is_gone()


def test_a_full_standard_output_is_told_once(standard):
    standard(os.open("/dev/full", os.O_WRONLY))
    print("a line")
    with pytest.raises(StorageFull, match="standard output cannot be written: No space left on device"):
        flush_streams()
    print("another")
    flush_streams()


def test_a_closed_standard_output_takes_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    guard_streams()
    print("a line")
    flush_streams()
    sys.stdout.close()


def test_notes_are_lines_on_standard_error_each_once(monkeypatch, capsys):
    def app():
        for text in ("a note", "a note", "another"):
            warnings.warn(text, Note, stacklevel=1)
        raise SystemExit(0)

    monkeypatch.setattr("clipaudit.cli.app.app", app)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "clipaudit: note: a note\nclipaudit: note: another\n"


def test_a_working_directory_that_was_deleted_is_a_sentence(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as ended:
        main()
    monkeypatch.chdir(tmp_path)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("clipaudit: the working directory cannot be used (No such file")


@pytest.mark.full
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("command", "code", "sentence"), [("| head -1", 0, ""), (">/dev/full", 4, "No space left")])
def test_the_process_ends_as_it_should(tmp_path, unbuffered, command, code, sentence):
    script = f"set -o pipefail; '{sys.executable}' -m clipaudit --help {command}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert sentence in done.stderr
    assert bool(sentence) == bool(done.stderr)
    assert "Traceback" not in done.stderr
