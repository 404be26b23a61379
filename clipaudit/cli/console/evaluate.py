"""What `evaluate ...` prints: figures as tables on stdout."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clipaudit.cli.console.format import new_table
from clipaudit.cli.terminal import plain, results
from clipaudit.heads.experiment_json import proportion_json
from clipaudit.statistics import p_text

if TYPE_CHECKING:
    from rich.console import Console

    from clipaudit.heads.zeroshot import Group, Score
    from clipaudit.localize.evaluation.head_places import HeadPlaces
    from clipaudit.localize.evaluation.multilabel import MultiLabelResult
    from clipaudit.localize.evaluation.segmentation import SegmentationResult
    from clipaudit.localize.evaluation.waterbirds import WaterbirdsGroup
    from clipaudit.statistics import Proportion

_MAX_CLASSES = 20  # that are listed, the most frequent ones


def print_segmentation(result: SegmentationResult) -> None:
    """Print a table of methods (rows) and figures (columns), in percent with 95 % intervals."""
    console = _console()
    table = new_table(("method", False), *((f"{name}, %", True) for name in result.methods[0].figures))
    for method in result.methods:
        table.add_row(method.method, *map(str, method.figures.values()))
    console.print(table)
    console.print(_images(result.images, result.unusable, result.left_out), soft_wrap=True)


def print_recognition(result: MultiLabelResult) -> None:
    """Print the mean average precisions, and those of the classes that occur most."""
    console, table = _console(), new_table(("mean average precision, %", False), ("", True))
    for name, estimate in result.mean.items():
        table.add_row(name, str(estimate))
    console.print(table)
    titles = ("class", "images", *next(iter(result.by_class.values())))
    classes = new_table(*((title, title != "class") for title in titles))
    by_frequency = sorted(result.by_class, key=lambda name: -result.occurrences[name])
    for name in by_frequency[:_MAX_CLASSES]:
        values = (f"{100 * value:.1f}" for value in result.by_class[name].values())
        classes.add_row(plain(name), str(result.occurrences[name]), *values)
    console.print(classes)
    left_out = len(by_frequency) - _MAX_CLASSES
    more = f"; {left_out} more classes: --json has them" if left_out > 0 else ""
    console.print(_images(result.images, 0) + more, soft_wrap=True)


def print_heads(result: HeadPlaces) -> None:
    """Print the heads of objects and of places, with the share of their maps on the object."""
    console = _console()
    for kind, side in (("object", "on it"), ("place", "off it")):
        figures = ("adds", "share on the object, %", "by chance, %", f"p ({side})")
        table = new_table((f"heads of the {kind}", False), *((title, True) for title in figures))
        for head in result.of(kind):  # type: ignore[arg-type]
            shares = (f"{100 * value:.1f}" for value in (head.inside, head.null))
            table.add_row(head.head, f"{head.adds:+.4f}", *shares, f"{head.p:.3f}")
        console.print(table)
    covered = f"; objects cover {100 * result.covered:.1f} % of an image"
    console.print(f"{result.images:,} images{covered}; chance: each map on another image's mask, 1,000 permutations")


def print_groups(result: WaterbirdsGroup) -> None:
    """Print the accuracy by group: as it is, with early layers and MLPs at their means, and with the heads too."""
    figures = ("images", "as it is, %", "early layers and MLPs at means, %", "and the heads, %")
    console, table = _console(), new_table(("", False), *((title, True) for title in figures))
    scores = (result.plain, result.early, result.ablated)
    table.add_row("accuracy", f"{result.images:,}", *(_share(score.accuracy) for score in scores))
    worst = [score.worst_group(result.min_group) for score in scores]
    if all(group is not None for group in worst):
        table.add_row("worst group", "", *(_share(group[1]) for group in worst if group is not None))
    for group, before in result.plain.groups.items():
        name = f"{result.names.names[group[0]]}, {group[1]}"
        table.add_row(plain(name), f"{before.total:,}", *(_share(score.groups[group]) for score in scores))
    console.print(table)
    console.print(f"{len(result.heads)} heads: {', '.join(result.heads)}; means over these very images", soft_wrap=True)
    if result.control is not None:
        control = result.control
        console.print(
            f"{control.sets:,} random sets of as many heads of the same layers: worst group {100 * control.mean:.1f} +-"
            f" {100 * control.deviation:.1f} %, {p_text(control.p)}",
            soft_wrap=True,
        )
    if result.plain.near_chance:
        console.print("the plain model cannot be told from guessing: check labels, class names and weights")


def groups_json(result: WaterbirdsGroup) -> dict[str, Any]:
    """The figures of `print_groups` as plain JSON values."""
    scores = {"plain": result.plain, "early": result.early, "ablated": result.ablated}

    def group_json(item: tuple[Group, Proportion]) -> dict[str, Any]:
        (row, place), share = item
        return {"class": result.names.names[row], "place": place, **proportion_json(share)}

    def score_json(score: Score) -> dict[str, Any]:
        worst = score.worst_group(result.min_group)
        return {
            "accuracy": proportion_json(score.accuracy),
            "worst_group": worst and group_json(worst),
            "groups": [group_json(item) for item in score.groups.items()],
        }

    control = None if result.control is None else asdict(result.control)
    figures = {name: score_json(score) for name, score in scores.items()}
    return {"images": result.images, "heads": list(result.heads), **figures, "worst_group_control": control}


def _share(proportion: Proportion) -> str:
    low, high = proportion.interval()
    return f"{100 * proportion.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _console() -> Console:
    """Stdout with at least 120 columns: a narrow terminal breaks lines, but no figure is cut."""
    console = results()
    console.width = max(console.width, 120)
    return console


def _images(images: int, unusable: int, left_out: int = 0) -> str:
    others = f", {unusable:,} more with masks that say nothing" if unusable else ""
    others += f", {left_out:,} left out for want of an image, mask or label" if left_out else ""
    return f"{images:,} images{others}; 95 % bootstrap intervals over images"
