"""What `rehearse` prints: for every column a table of ways to train, the answer in words and the learning curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from clipaudit.cli.console.format import new_table
from clipaudit.cli.terminal import plain, results
from clipaudit.cues.result.column_words import column_in_words

if TYPE_CHECKING:
    from clipaudit.cues.result.finding_parts import Estimate
    from clipaudit.cues.result.rehearsal_parts import ColumnRehearsal, RehearsalPanel


_ACCURACIES = ("average %", "group mean %", "worst %", "gap, points")
_AUCS = ("AUC", "mean of both", "lower AUC", "gap")
"""Of one label of several: over all images, of both kinds of images, of the worse kind, and between them."""


def print_rehearsal(panel: RehearsalPanel) -> None:
    """Print the panel on stdout, shares in percent with 95 % intervals."""
    console = results()
    how = (
        "each fifth of them scored by a probe of the others"
        if panel.out_of_fold
        else f"{panel.scored_images:,} others scored"
    )
    sample = ""
    if panel.training_images < panel.training_rows_at_hand and not panel.out_of_fold:
        sample = f" of {panel.training_rows_at_hand:,}"
    # of several labels each has a probe of its own, and none is right or wrong
    probe, right = ("A linear probe", f": {_share(panel.accuracy)} right") if panel.accuracy else ("Linear probes", "")
    console.print(
        f"{probe} of {panel.training_images:,}{sample} images ({plain(panel.trained_on)}), {how}{right}.",
        soft_wrap=True,
    )
    for column in panel.columns:
        _print_column(console, column)


def _print_column(console: Console, column: ColumnRehearsal) -> None:
    name = column_in_words(column.attribute)
    label = "" if column.label is None else f"{column.label}: "
    console.print(
        f"\n[bold]{plain(label)}{plain(name)} = {plain(column.value)}[/bold], which goes with {plain(column.classes)}"
    )
    if column.arms:
        table = new_table(
            ("trained (images)", False),
            *((heading, True) for heading in (_ACCURACIES if column.label is None else _AUCS)),
        )
        number, difference = (_percent, _points) if column.label is None else (_decimal, _decimal)
        for arm in column.arms:
            table.add_row(
                f"{arm.name} ({arm.training_images:,})",
                number(arm.average),
                number(arm.group_mean),
                number(arm.worst_group),
                difference(arm.gap),
            )
        console.print(table)
    console.print(plain(column.sentence), soft_wrap=True)
    if column.curve is not None:
        sizes = "; ".join(
            f"{point.conflicting:,}: worst group {100 * point.worst_group:.0f} %, group mean"
            f" {100 * point.group_mean:.0f} %"
            for point in column.curve.points
        )
        console.print(
            "[dim]By how many training images go against it"
            f" (of {column.curve.at_hand:,}; more stand for the same mix): {sizes}[/dim]",
            soft_wrap=True,
        )


def _share(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def _percent(estimate: Estimate | None) -> str:
    """As `_share`, for a column whose heading has the unit."""
    return _share(estimate).replace(" %", "")


def _decimal(estimate: Estimate) -> str:
    """An AUC, or a difference of two."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _points(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{100 * estimate.value:+.0f} [{100 * estimate.low:+.0f}, {100 * estimate.high:+.0f}]"
