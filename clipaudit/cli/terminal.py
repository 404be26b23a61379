"""The terminal: results on stdout, remarks and events on stderr, how wide they are, and what `--quiet` leaves out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from clipaudit.pages.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_PIPE_WIDTH: Final = 10_000
"""Columns of a pipe or file: a program that reads it, or `grep`, needs one line for each row."""


@contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """While it is open, `events` shows nothing if `quiet`."""
    before = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(before)


def is_quiet() -> bool:
    """Whether plans, progress and advice are left out."""
    return _quiet.get()


def results() -> Console:
    """Standard output: what the command was asked for."""
    return _console(stderr=False, quiet=False)


def remarks() -> Console:
    """Standard error: notes and warnings, which `--quiet` leaves."""
    return _console(stderr=True, quiet=False)


def events() -> Console:
    """Standard error: what will be done, how far it is, and what comes next; silent with `--quiet`."""
    return _console(stderr=True, quiet=_quiet.get())


def tell(sentence: str) -> None:
    """Print one event, which is not wrapped."""
    events().print(f"[dim]{plain(sentence)}[/dim]", soft_wrap=True)


def advise(*words: object) -> None:
    """Print the command that comes next, as a shell takes it."""
    tell(f"next  {shlex.join(map(str, words))}")


def note(sentence: str) -> None:
    """Print one remark, which is not wrapped."""
    remarks().print(f"[yellow]note[/yellow] {plain(sentence)}", soft_wrap=True)


def plain(text: str) -> str:
    """A text out of data as rich's markup that shows it as it is, on one line, its control characters as escapes."""
    from rich.markup import escape

    return escape(one_line(text))


def _console(*, stderr: bool, quiet: bool) -> Console:
    """Colours only on a terminal and without NO_COLOR, which rich sees to; a terminal's own width, else a wide one."""
    from rich.console import Console

    console = Console(stderr=stderr, quiet=quiet, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console
