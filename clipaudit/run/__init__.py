"""The table on disk: a run's files, written, read, kept and exported."""

from typing import Any

from clipaudit.moved import moved_name


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    """`clipaudit.run.Run` and the other names that this module had in version 0.1."""
    return moved_name("clipaudit.run", name)
