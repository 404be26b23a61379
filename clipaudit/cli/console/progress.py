"""Progress on stderr, where that is a terminal: a bar of known length, and a count of images."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from clipaudit.cli.terminal import events, tell


class ProgressBar:
    """A bar that counts things of one kind, such as heads or rows; shown at the first count. A context manager."""

    def __init__(self, unit: str) -> None:
        """`unit` stands behind the numbers."""
        self._console = events()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` are done."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done)

    def loading(self, model: str) -> None:
        """Tell that the model is being loaded, also where stderr is no terminal."""
        tell(f"loading {model} ...")


class ImageCounter:
    """Counts images, of which it is not known how many there are. A context manager."""

    def __init__(self, model: str) -> None:
        """Tell that the model is being loaded."""
        tell(f"loading {model} ...")
        console = events()
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.completed} images"), TimeElapsedColumn(), console=console, transient=True
        )
        self._task = self._progress.add_task("images", total=None)
        self._terminal = console.is_terminal

    def __enter__(self) -> Self:
        if self._terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._progress.stop()  # without a terminal it would print an empty line

    def __call__(self, images: int) -> None:
        """`images` images are done."""
        self._progress.update(self._task, completed=images)
