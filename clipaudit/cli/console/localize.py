"""What a user sees of evaluations: images counted on stderr, figures as a table on stdout."""

from __future__ import annotations

from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from clipaudit.heads.experiment import proportion_json

if TYPE_CHECKING:
    from clipaudit.heads.zeroshot import Group, Score
    from clipaudit.localize.evaluation.head_places import HeadPlaces
    from clipaudit.localize.evaluation.multilabel import MultiLabelResult
    from clipaudit.localize.evaluation.segmentation import SegmentationResult
    from clipaudit.localize.evaluation.waterbirds import WaterbirdsGroup
    from clipaudit.statistics import Proportion

_CLASSES = 20


class Counter:
    """Counts images on stderr where that is a terminal; a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
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
            self._progress.stop()  # otherwise it would print an empty line

    def __call__(self, images: int) -> None:
        """So many images are done."""
        self._progress.update(self._task, completed=images)


def print_segmentation(result: SegmentationResult) -> None:
    """Methods in rows, figures in columns, in percent with 95 % intervals."""
    console, table = _console(), Table(box=None, pad_edge=False)
    table.add_column("method")
    for name in result.methods[0].figures:
        table.add_column(f"{name}, %", justify="right", no_wrap=True)
    for found in result.methods:
        table.add_row(found.method, *map(str, found.figures.values()))
    console.print(table)
    console.print(_images(result.images, result.unusable, result.left_out), soft_wrap=True)


def print_recognition(result: MultiLabelResult) -> None:
    """The means, and the classes that occur most."""
    console, table = _console(), Table(box=None, pad_edge=False)
    table.add_column("mean average precision, %")
    table.add_column("", justify="right")
    for name, found in result.mean.items():
        table.add_row(name, str(found))
    console.print(table)
    classes = Table(box=None, pad_edge=False)
    for title in ("class", "images", *next(iter(result.by_class.values()))):
        classes.add_column(title, justify="left" if title == "class" else "right")
    often = sorted(result.by_class, key=lambda name: -result.occurrences[name])
    for name in often[:_CLASSES]:
        values = (f"{100 * value:.1f}" for value in result.by_class[name].values())
        classes.add_row(name, str(result.occurrences[name]), *values)
    console.print(classes)
    more = f"; {len(often) - _CLASSES} more classes: --json has them" if len(often) > _CLASSES else ""
    console.print(_images(result.images, 0) + more, soft_wrap=True)


def print_heads(result: HeadPlaces) -> None:
    """Heads of objects and of places, with the share of their maps on the object."""
    console = _console()
    for kind, side in (("object", "on it"), ("place", "off it")):
        table = Table(box=None, pad_edge=False)
        for title in (f"heads of the {kind}", "adds", "share on the object, %", "by chance, %", f"p ({side})"):
            table.add_column(title, justify="left" if title.startswith("heads") else "right")
        for found in result.of(kind):  # type: ignore[arg-type]
            shares = (f"{100 * value:.1f}" for value in (found.inside, found.null))
            table.add_row(found.head, f"{found.adds:+.4f}", *shares, f"{found.p:.3f}")
        console.print(table)
    covered = f"; objects cover {100 * result.covered:.1f} % of an image"
    console.print(f"{result.images:,} images{covered}; chance: each map on another image's mask, 1,000 permutations")


def print_groups(result: WaterbirdsGroup) -> None:
    """Accuracy by group: as it is, with early layers and MLPs at their means, and with the heads too."""
    console, table = _console(), Table(box=None, pad_edge=False)
    for title in ("", "images", "as it is, %", "early layers and MLPs at means, %", "and the heads, %"):
        table.add_column(title, justify="right" if title else "left")
    scores = (result.plain, result.early, result.ablated)
    table.add_row("accuracy", f"{result.images:,}", *(_share(found.accuracy) for found in scores))
    worst = [found.worst_group(result.min_group) for found in scores]
    if all(found is not None for found in worst):
        table.add_row("worst group", "", *(_share(found[1]) for found in worst if found is not None))
    for group, before in result.plain.groups.items():
        name = f"{result.names.names[group[0]]}, {group[1]}"
        table.add_row(escape(name), f"{before.total:,}", *(_share(found.groups[group]) for found in scores))
    console.print(table)
    console.print(f"{len(result.heads)} heads: {', '.join(result.heads)}; means over these very images", soft_wrap=True)
    if result.control is not None:
        found = result.control
        console.print(
            f"{found.sets:,} random sets of as many heads of the same layers: worst group {100 * found.mean:.1f} +-"
            f" {100 * found.deviation:.1f} %, p = {found.p:.3g}",
            soft_wrap=True,
        )
    if result.plain.near_chance:
        console.print("the plain model cannot be told from guessing: check labels, class names and weights")


def groups_json(result: WaterbirdsGroup) -> dict[str, Any]:
    """The same as plain JSON values."""
    scores = {"plain": result.plain, "early": result.early, "ablated": result.ablated}

    def group(found: tuple[Group, Proportion]) -> dict[str, Any]:
        (row, place), share = found
        return {"class": result.names.names[row], "place": place, **proportion_json(share)}

    def whole(found: Score) -> dict[str, Any]:
        worst = found.worst_group(result.min_group)
        groups = [group(item) for item in found.groups.items()]
        return {"accuracy": proportion_json(found.accuracy), "worst_group": worst and group(worst), "groups": groups}

    control = None if result.control is None else asdict(result.control)
    figures = {name: whole(found) for name, found in scores.items()}
    return {"images": result.images, "heads": list(result.heads), **figures, "worst_group_control": control}


def _share(found: Proportion) -> str:
    low, high = found.interval()
    return f"{100 * found.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _console() -> Console:
    """Stdout, wide enough for a table: a narrow terminal breaks its lines, rather than its figures."""
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    return console


def _images(images: int, unusable: int, left_out: int = 0) -> str:
    left = f", {unusable:,} more with masks that say nothing" if unusable else ""
    left += f", {left_out:,} left out for want of an image, mask or label" if left_out else ""
    return f"{images:,} images{left}; 95 % bootstrap intervals over images"
