"""A report made again with one more column, in a process of its own."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

from clipaudit.errors import UsageError
from clipaudit.explorer.report_file import ReportFile
from clipaudit.heads.texts.prompts import TEMPLATE_SETS
from clipaudit.storage.text_file import is_remote

_PLAIN: Final = (
    "--classes-from",
    "--attribute",
    "--core",
    "--split",
    "--cluster",
    "--environment",
    "--text",
    "--margin",
    "--scores",
    "--fail-on",
    "--masks",
    "--seed",
)
"""Options that are taken over as they are."""
_PATHS: Final = ("--classes", "--texts", "--templates", "--test-run", "--predictions", "--waivers")
"""Options that name files, as seen from where the report was made."""
_FLAGS: Final = ("--clean-labels", "--no-rehearse", "--require-evidence", "--no-pictures", "--no-heat")
_PARENTS: Final = 3
_ENDED_WITH_A_REPORT: Final = (0, 1, 3, 4)
_TAIL: Final = 2000


def report_options(report: ReportFile) -> list[str]:
    """The options that made a report, from its command, whose files are found again.

    The report may be a stranger's: nothing of it is run, only options that are known here are taken over, and no file
    of theirs may be remote. UsageError for a command that is not understood, or a file that is not there any more.
    """
    words = _words(str(report.document.get("command", "")))
    options: list[str] = []
    while words:
        word = words.pop(0)
        if word in _FLAGS:
            options.append(word)
        elif word in _PLAIN and words:
            options.append(f"{word}={words.pop(0)}")
        elif word in _PATHS and words:
            options.append(f"{word}={_found(report, word, words.pop(0))}")
        elif word.startswith("-"):
            raise UsageError(f"the report was made with {word[:40]}, which this page does not know: make it again")
    return options


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if words[:2] != ["clipaudit", "report"]:
        return []  # made from Python: with the defaults
    return words[2:]


def _found(report: ReportFile, option: str, given: str) -> str:
    name, equals, path = given.partition("=") if option == "--predictions" else ("", "", given)
    if option == "--templates" and path in TEMPLATE_SETS:
        return given
    if is_remote(path):
        raise UsageError(f"{option} {given[:200]} lies elsewhere: make the report by hand")
    places = [Path(path)]
    if report.storage.local:
        places += [parent / path for parent in list(Path(report.storage.full()).resolve().parents)[:_PARENTS]]
    for place in places:
        if place.exists():
            return f"{name}{equals}{place.resolve()}"
    raise UsageError(f"{option} {given[:200]}, with which the report was made, is not there: start the page beside it")


class Reaudit:
    """One `clipaudit report` in a process without a shell. For any number of threads."""

    def __init__(self, arguments: Sequence[str], on_end: Callable[[bool], None]) -> None:
        """Start it; on_end is called in a thread of its own with whether there is a report."""
        self.arguments = ("report", *arguments)
        self.started = time.monotonic()
        self.failure: str | None = None
        """Why there is no report, in words."""
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the process
        self._on_end = on_end
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clipaudit", *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    @property
    def command(self) -> str:
        """For a shell."""
        return shlex.join(["clipaudit", *self.arguments])

    @property
    def running(self) -> bool:
        """Whether the report is still made, or what follows it."""
        return self._thread.is_alive()

    @property
    def seconds(self) -> int:
        """Since the start."""
        return int(time.monotonic() - self.started)

    def stop(self) -> None:
        """End the process, and wait for it."""
        if self._process.poll() is None:
            self._process.terminate()
        self._thread.join(10)

    def wait(self) -> None:
        """Until everything is done."""
        self._thread.join()

    def _wait(self) -> None:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read()[-_TAIL:].decode(errors="replace").replace("\r", "\n").strip().splitlines()
        self._log.close()
        done = code in _ENDED_WITH_A_REPORT
        if not done:
            last = next((line.strip(" │╰╯─") for line in reversed(lines) if line.strip(" │╰╯─╭")), "")
            self.failure = f"the report was not made (exit code {code}): {last}"
        try:
            self._on_end(done)
        except Exception as error:  # noqa: BLE001 - of a thread: the page tells it
            self.failure = str(error)
