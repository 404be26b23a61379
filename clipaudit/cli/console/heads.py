"""What `heads` and `ablate` print: tables of heads in words, of accuracies and of studies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

if TYPE_CHECKING:
    from clipaudit.heads.description import Description, HeadWords
    from clipaudit.heads.experiment import Ablation, Experiment
    from clipaudit.heads.studies import Point, Study
    from clipaudit.heads.zeroshot import Control
    from clipaudit.statistics import Proportion

_SHARED: Final = 5
_MOST_CLASSES: Final = 30


class Progress:
    """A bar on stderr that counts heads or rows; silent where stderr is no terminal. A context manager."""

    def __init__(self, what: str) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(what))
        self._bar = Bar(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So many are done."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done)

    def loading(self, model: str) -> None:
        """The model is about to be loaded."""
        self._console.print(f"[dim]loading {escape(model)} ...[/dim]")


def print_heads(found: Description, top: int, place: str) -> None:
    """A table of heads on stdout, strongest first; what else is to know beneath."""
    console = Console(highlight=False)
    columns = [("head", False), ("share", True), ("role", False), ("text", False), ("explains", True), ("sum", True)]
    table = _table(*columns, *([("again", True)] if found.config.stability else []))
    for words in sorted(found.heads, key=lambda words: -words.share):
        _add_head(table, found, words, top)
    console.print(table)
    for sentence in _legend(found):
        console.print(f"[dim]{escape(sentence)}[/dim]", soft_wrap=True)
    for text, heads in list(found.shared.items())[:_SHARED]:
        shown = ", ".join(heads[:8]) + (", ..." if len(heads) > 8 else "")
        console.print(
            f"[dim]in {len(heads)} heads[/dim] {escape(found.pool.texts[text])} [dim]{shown}[/dim]", soft_wrap=True
        )
    if found.roles_missing and found.config.roles:
        console.print(f"[yellow]note[/yellow] {escape(found.roles_missing)}", soft_wrap=True)
    console.print(
        f"[dim]{found.rows:,} rows{escape(found.config.rows.described)};"
        f" {escape(found.pool.summary)}; written to {escape(place)}[/dim]",
        soft_wrap=True,
    )


def _add_head(table: Table, found: Description, words: HeadWords, top: int) -> None:
    span, shared = words.span, found.shared
    first = [words.head, f"{100 * words.share:.1f} %", _role(words)]
    if not len(span):
        table.add_row(*first, "[dim]no text spans it[/dim]", "", "")
    for place in range(min(top, len(span))):
        text = int(span.texts[place])
        others = len(shared.get(text, ())) - 1
        mark = f" [dim](+{others})[/dim]" if others > 0 else ""
        cells = [f"{escape(found.pool.texts[text])}{mark}", _percent(span.explained[place])]
        cells.append(_percent(span.cumulative[place]))
        if words.stability is not None:
            known = place < words.stability.top
            cells.append(_percent(words.stability.frequency[text], 0) if known else "")
        table.add_row(*(first if place == 0 else ["", "", ""]), *cells)


def _role(words: HeadWords) -> str:
    if words.role is None:
        return ""
    if words.role.label is None:
        kind = f", {escape(words.role.kind)}" if words.role.kind else ""
        return f"[dim]no clear role{kind}[/dim]"
    return f"{escape(words.role.label)} [dim]{_percent(words.role.confidence, 0)}[/dim]"


def _legend(found: Description) -> Iterator[str]:
    yield "share: of the embedding's variance; shares overlap. explains: of the head's variance, sum: with those above"
    if found.shared:
        yield "(+n): as many other heads have the text too"
    if any(words.role is not None for words in found.heads):
        yield "role: the property that spans most of the head, and how often it comes first when texts are drawn again"
    if found.config.stability:
        yield "again: how often the text is chosen when shards are drawn again"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def print_ablation(found: Ablation, place: str) -> None:
    """Accuracy before and after on stdout, by group or class, with the control."""
    console = Console(highlight=False)
    _warn(console, found.base.near_chance, found.question)
    table = _table(("", False), ("rows", True), ("as it is", True), ("ablated", True), ("points", True))
    base, ablated, names = found.base, found.ablated, found.question.names.names
    _compare(table, "accuracy", base.accuracy, ablated.accuracy)
    for name, before, after in _worst(found):
        _compare(table, name, before, after)
    if base.groups:
        for (row, value), before in base.groups.items():
            _compare(table, f"[dim]{escape(names[row])}, {escape(value)}[/dim]", before, ablated.groups[row, value])
    elif len(names) <= _MOST_CLASSES:
        for name, before, after in zip(names, base.by_class, ablated.by_class, strict=True):
            _compare(table, f"[dim]{escape(name)}[/dim]", before, after)
    console.print(table)
    for sentence in _ablation_remarks(found):
        console.print(f"[dim]{escape(sentence)}[/dim]", soft_wrap=True)
    for name, control in (("accuracy", found.accuracy_control), ("worst group", found.worst_control)):
        if control is not None:
            console.print(escape(_control(name, control)), soft_wrap=True)
    console.print(f"[dim]written to {escape(place)}[/dim]", soft_wrap=True)


def print_study(found: Study, place: str) -> None:
    """A study's points on stdout; seeds of one point are shown together."""
    console = Console(highlight=False)
    _warn(console, found.near_chance, found.question)
    grouped = any(point.worst_group is not None for point in found.points)
    columns = [("", False), ("columns", True), ("accuracy", True), ("95 % interval", True), ("points", True)]
    table = _table(*columns, *([("worst group", True)] if grouped else []))
    series = ""
    for points in _seeds_together(found.points):
        first, share = points[0], fmean(point.accuracy.value for point in points)
        if first.series != series:
            table.add_row(f"[dim]{escape(first.series)}[/dim]")
            series = first.series
        low, high = first.accuracy.interval()
        interval = f"{_percent(low)} to {_percent(high)}"
        if len(points) > 1:
            values = [point.accuracy.value for point in points]
            interval = f"seeds {_percent(min(values))} to {_percent(max(values))}"
        change = 100 * (share - found.base.accuracy.value)
        cells = [escape(first.name), str(first.columns), _percent(share), interval, f"{change:+.1f}"]
        if grouped:
            worst = [point.worst_group.value for point in points if point.worst_group is not None]
            cells.append(_percent(fmean(worst)) if worst else "")
        table.add_row(*cells)
    console.print(table)
    for note in found.notes:
        console.print(f"[yellow]note[/yellow] {escape(note)}", soft_wrap=True)
    console.print(
        f"[dim]{found.base.accuracy.total:,} rows{escape(found.question.asked.rows.described)}; means from"
        f" {escape(found.means)}; written to {escape(place)}[/dim]",
        soft_wrap=True,
    )


def _seeds_together(points: Sequence[Point]) -> list[list[Point]]:
    together: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        together.setdefault((point.series, point.name), []).append(point)
    return list(together.values())


def _worst(found: Ablation) -> Iterator[tuple[str, Proportion, Proportion]]:
    """The group that is worst before, and the one that is worst after, each before and after."""
    least, names = found.question.config.min_group, found.question.names.names
    before, after = found.base.worst_group(least), found.ablated.worst_group(least)
    if before is None or after is None:
        return
    for title, (row, value) in {"worst group as it is": before[0], "worst group ablated": after[0]}.items():
        name = f"{title} [dim]({escape(names[row])}, {escape(value)})[/dim]"
        yield name, found.base.groups[row, value], found.ablated.groups[row, value]


def _compare(table: Table, name: str, before: Proportion, after: Proportion) -> None:
    if before.total:
        change = 100 * (after.value - before.value)
        table.add_row(name, f"{before.total:,}", _percent(before.value), _percent(after.value), f"{change:+.1f}")


def _ablation_remarks(found: Ablation) -> Iterator[str]:
    roles = {head: role.label or role.kind for head, role in found.roles.items()}
    shown = ", ".join(f"{name} ({roles[name]})" if name in roles else name for name in found.columns)
    if not found.columns:
        yield "nothing is replaced: choose with --heads, --layers, --mlps or --role"
    elif found.reconstructed is not None:
        yield f"replaced by what {found.reconstructed} texts span (MLPs by their means): {shown}"
    else:
        yield f"replaced by their means: {shown}"
    if found.columns:
        yield f"means from {found.means.source}"
    where = found.question.asked.rows.described
    yield f"class names from {found.question.names.source}{f'; rows{where}' if where else ''}"
    small = [group for group in found.base.groups.values() if group.total < found.question.config.min_group]
    if small:
        yield f"{len(small)} groups of fewer than {found.question.config.min_group} rows cannot be the worst"


def _control(name: str, control: Control) -> str:
    return (
        f"control: {name} {_percent(control.observed)} beats {_percent(control.beaten)} of {control.sets:,} random sets"
        f" of as many heads of the same layers (they reach {_percent(control.mean)} +- {100 * control.deviation:.1f};"
        f" p = {control.p:.3g})"
    )


def _warn(console: Console, near_chance: bool, question: Experiment) -> None:
    if near_chance:
        console.print(
            "[bold red]WARNING[/bold red] plain accuracy cannot be told from guessing one of"
            f" {len(question.names)} classes: wrong class names ({escape(question.names.source)}), labels or"
            " preprocessing are the usual cause, and nothing below means much",
            soft_wrap=True,
        )


def _table(*columns: tuple[str, bool]) -> Table:
    """A table without lines; columns by name, and whether they stand to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, right in columns:
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    return table
