"""What `ablate` prints: accuracies before and after, controls, and studies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from clipaudit.cli.console.format import new_table, percent
from clipaudit.cli.terminal import plain, results
from clipaudit.heads.experiment import Ablation
from clipaudit.statistics import p_text

if TYPE_CHECKING:
    from clipaudit.heads.experiment import Experiment
    from clipaudit.heads.presence_ablation import PresenceAblation
    from clipaudit.heads.studies import Point, Study
    from clipaudit.heads.zeroshot import Control
    from clipaudit.statistics import Proportion

_MAX_CLASSES: Final = 30  # that are listed one by one


def print_ablation(ablation: Ablation) -> None:
    """Print accuracy before and after on stdout, by group or class, with the control."""
    console = results()
    _warn(console, ablation.base.near_chance, ablation.question)
    table = new_table(("", False), ("rows", True), ("as it is", True), ("ablated", True), ("points", True))
    base, ablated, names = ablation.base, ablation.ablated, ablation.question.names.names
    _add_change(table, "accuracy", base.accuracy, ablated.accuracy)
    for name, before, after in _worst_groups(ablation):
        _add_change(table, name, before, after)
    if base.groups:
        for (row, value), before in base.groups.items():
            _add_change(table, f"[dim]{plain(names[row])}, {plain(value)}[/dim]", before, ablated.groups[row, value])
    elif len(names) <= _MAX_CLASSES:
        for name, before, after in zip(names, base.by_class, ablated.by_class, strict=True):
            _add_change(table, f"[dim]{plain(name)}[/dim]", before, after)
    console.print(table)
    for sentence in _ablation_remarks(ablation):
        console.print(f"[dim]{plain(sentence)}[/dim]", soft_wrap=True)
    for name, control in (("accuracy", ablation.accuracy_control), ("worst group", ablation.worst_control)):
        if control is not None:
            console.print(plain(_control(name, control)), soft_wrap=True)


def print_presence(result: PresenceAblation) -> None:
    """Print mean average precision before and after on stdout, and each label's, those that change most first."""
    console = results()
    base, ablated, names = result.base, result.ablated, result.question.names.names
    if base.near_chance:
        console.print(
            "[bold red]WARNING[/bold red] the plain mean average precision cannot be told from chance"
            f" ({percent(base.chance)}): wrong class names ({plain(result.question.names.source)}), labels or"
            " preprocessing are the usual cause, and nothing below means much",
            soft_wrap=True,
        )
    table = new_table(("", False), ("images", True), ("as it is", True), ("ablated", True), ("points", True))
    for name, before, after in (
        ("mean average precision", base.mean.value, ablated.mean.value),
        ("mean AUC", base.mean_auc, ablated.mean_auc),
    ):
        table.add_row(name, f"{base.images:,}", percent(before), percent(after), f"{100 * (after - before):+.1f}")
    occurring = [c for c in range(len(names)) if base.with_class[c]]
    change = {c: ablated.average_precision[c] - base.average_precision[c] for c in occurring}
    for c in sorted(occurring, key=lambda c: (-abs(change[c]), -base.with_class[c]))[:_MAX_CLASSES]:
        before, after = base.average_precision[c], ablated.average_precision[c]
        cells = (f"{base.with_class[c]:,}", percent(before), percent(after), f"{100 * (after - before):+.1f}")
        table.add_row(f"[dim]{plain(names[c])}[/dim]", *cells)
    console.print(table)
    low, high = 100 * result.change.low, 100 * result.change.high
    lines = [f"mean average precision changes by {100 * result.change.value:+.1f} points, {low:+.1f} to {high:+.1f}"]
    if len(occurring) > _MAX_CLASSES:
        lines.append(f"{len(occurring) - _MAX_CLASSES} more labels: --json has them")
    for sentence in (*lines, *_ablation_remarks(result)):
        console.print(f"[dim]{plain(sentence)}[/dim]", soft_wrap=True)
    if result.control is not None:
        console.print(plain(_control("mean average precision", result.control)), soft_wrap=True)


def print_study(study: Study) -> None:
    """Print a study's points on stdout, the seeds of one point together."""
    console = results()
    _warn(console, study.near_chance, study.question)
    grouped = any(point.worst_group is not None for point in study.points)
    columns = [("", False), ("columns", True), ("accuracy", True), ("95 % interval", True), ("points", True)]
    table = new_table(*columns, *([("worst group", True)] if grouped else []))
    series = ""
    for points in _seeds_together(study.points):
        first, share = points[0], fmean(point.accuracy.value for point in points)
        if first.series != series:
            table.add_row(f"[dim]{plain(first.series)}[/dim]")
            series = first.series
        low, high = first.accuracy.interval()
        interval = f"{percent(low)} to {percent(high)}"
        if len(points) > 1:
            values = [point.accuracy.value for point in points]
            interval = f"seeds {percent(min(values))} to {percent(max(values))}"
        change = 100 * (share - study.base.accuracy.value)
        cells = [plain(first.name), str(first.columns), percent(share), interval, f"{change:+.1f}"]
        if grouped:
            worst = [point.worst_group.value for point in points if point.worst_group is not None]
            cells.append(percent(fmean(worst)) if worst else "")
        table.add_row(*cells)
    console.print(table)
    for note in study.notes:
        console.print(f"[yellow]note[/yellow] {plain(note)}", soft_wrap=True)
    console.print(
        f"[dim]{study.base.accuracy.total:,} rows{plain(study.question.asked.rows.described)}; means from"
        f" {plain(study.means)}[/dim]",
        soft_wrap=True,
    )


def _seeds_together(points: Sequence[Point]) -> list[list[Point]]:
    """The points of one series and name in one list, in the order of their first ones."""
    together: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        together.setdefault((point.series, point.name), []).append(point)
    return list(together.values())


def _worst_groups(ablation: Ablation) -> Iterator[tuple[str, Proportion, Proportion]]:
    """(name, before, after) of the group that is worst before, and of the one that is worst after."""
    min_group, names = ablation.question.config.min_group, ablation.question.names.names
    before, after = ablation.base.worst_group(min_group), ablation.ablated.worst_group(min_group)
    if before is None or after is None:
        return
    for title, (row, value) in {"worst group as it is": before[0], "worst group ablated": after[0]}.items():
        name = f"{title} [dim]({plain(names[row])}, {plain(value)})[/dim]"
        yield name, ablation.base.groups[row, value], ablation.ablated.groups[row, value]


def _add_change(table: Table, name: str, before: Proportion, after: Proportion) -> None:
    if before.total:
        change = 100 * (after.value - before.value)
        table.add_row(name, f"{before.total:,}", percent(before.value), percent(after.value), f"{change:+.1f}")


def _ablation_remarks(ablation: Ablation | PresenceAblation) -> Iterator[str]:
    """What was replaced by what, and where means, classes and rows are from."""
    roles = {head: role.label or role.kind for head, role in ablation.roles.items()}
    replaced = ", ".join(f"{name} ({roles[name]})" if name in roles else name for name in ablation.columns)
    if not ablation.columns:
        yield "nothing is replaced: choose with --heads, --layers, --mlps, --components or --role"
    elif ablation.reconstructed is not None:
        yield f"replaced by what {ablation.reconstructed} texts span (MLPs by their means): {replaced}"
    elif isinstance(ablation, Ablation) and ablation.direction is not None:
        yield f"taken out of them is what they hold along '{ablation.direction}', and nothing else: {replaced}"
    else:
        yield f"replaced by their means: {replaced}"
    if ablation.columns:
        yield f"means from {ablation.means.source}"
    where = ablation.question.asked.rows.described
    yield f"class names from {ablation.question.names.source}{f'; rows{where}' if where else ''}"
    if not isinstance(ablation, Ablation):
        return
    min_group = ablation.question.config.min_group
    small = [group for group in ablation.base.groups.values() if group.total < min_group]
    if small:
        yield f"{len(small)} groups of fewer than {min_group} rows cannot be the worst"


def _control(name: str, control: Control) -> str:
    return (
        f"control: {name} {percent(control.observed)} beats {percent(control.beaten)} of {control.sets:,} random sets"
        f" of as many heads of the same layers (they reach {percent(control.mean)} +- {100 * control.deviation:.1f};"
        f" {p_text(control.p)})"
    )


def _warn(console: Console, near_chance: bool, question: Experiment) -> None:
    """Print a warning when the plain accuracy is that of guessing."""
    if near_chance:
        console.print(
            "[bold red]WARNING[/bold red] plain accuracy cannot be told from guessing one of"
            f" {len(question.names)} classes: wrong class names ({plain(question.names.source)}), labels or"
            " preprocessing are the usual cause, and nothing below means much",
            soft_wrap=True,
        )
