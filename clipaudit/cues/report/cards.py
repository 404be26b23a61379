"""A finding's card and the tables of groups: what the templates show, worked out beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from clipaudit.cues.report.pictures import Pictures, PictureStrip, strips
from clipaudit.cues.report.plots import Curve, distributions, dose_response, gap_rows, interval_row
from clipaudit.cues.report.reliance_words import numbers
from clipaudit.cues.report.waivers import Applied
from clipaudit.cues.report.words import (
    Number,
    count,
    decimal,
    having_name,
    p_value,
    share,
    who,
    with_limits,
)
from clipaudit.cues.result.column_words import column_in_words, value_word
from clipaudit.cues.result.finding_parts import CellTable, Distributions, Estimate, GroupAccuracy, Groups
from clipaudit.cues.result.reliance_parts import Arm, Counterfactual
from clipaudit.cues.result.result import AuditResult, Finding

_MOST_GROUPS: Final = 40
_MOST_CLASSES: Final = 12
_BANDS: Final = {
    "matched head sets": "as many random heads of the same layers are taken out instead",
    "random directions": "random directions of the same heads are taken out instead",
    "none": "",
}
_KINDS: Final = ("one", "two", "three")


@dataclass(frozen=True, kw_only=True)
class CardLine:
    """One group of a table."""

    name: str
    n: int
    before: str
    after: str
    plot: Markup
    worst: bool
    grey: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One count of a class x cue table."""

    count: float
    expected: float
    low: bool
    """Less than half of what is expected."""


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """One class of such a table."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """All of a finding's card that is not in the finding itself."""

    finding: Finding
    anchor: str
    waiver: Applied | None
    strips: tuple[PictureStrip, ...]
    drawn: str
    """What the pictures are a sample of, and how it was drawn."""
    heat: bool
    """Some pictures have heat maps."""
    distributions: Markup | None
    cell_rows: tuple[CellRow, ...]
    dose: Markup | None
    gap: Markup | None
    """CLIP's gap before and after, with the band of the controls; None where heads were not taken out."""
    band: str
    """What the controls are, in words; empty without a band."""
    counted: bool
    """How many images have the cue is known for every class."""
    collects: bool
    """Images are to be collected for some class."""
    arms: tuple[Arm, ...]
    numbers: tuple[Number, ...]
    groups: tuple[CardLine, ...]
    rows: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """Accuracy by group of one attribute."""

    attribute: str
    sentence: str
    rows_in_words: str
    replaced: int | None
    """Rank of the finding whose heads were replaced; None where nothing was."""
    lines: tuple[CardLine, ...]
    hidden: int
    left_out: tuple[str, ...]


def anchor(finding: Finding) -> str:
    """A finding's place on the page."""
    return f"finding-{finding.id}"


def _drawn(finding: Finding) -> str:
    part = finding.relying
    if part is None or not part.examples:
        return finding.gallery.drawn
    return (
        f"Drawn at random from the images that were scored, right and wrong answers of {who(part.answerer)} in"
        " proportion; those with the least of the cue have the lowest scores."
    )


def card(finding: Finding, pictures: Pictures, waivers: tuple[Applied, ...], several_labels: bool = False) -> Card:
    """A finding's card; several_labels: images may have several."""
    tested = finding.counterfactual
    rows = strips(finding, pictures, several_labels)
    return Card(
        finding=finding,
        anchor=anchor(finding),
        waiver=next((w for w in waivers if w.matches == finding.id and w.status == "active"), None),
        strips=rows,
        drawn=_drawn(finding),
        heat=any(image.heat for strip in rows for image in strip.pictures),
        distributions=None if finding.distributions is None else _distributions(finding.distributions),
        cell_rows=() if finding.cells is None else cell_rows(finding.cells, having_name(finding)),
        dose=_dose(tested) if tested is not None and len(tested.doses) > 1 else None,
        gap=None if tested is None else gap_chart(tested),
        band="" if tested is None or tested.control_band is None else _BANDS[tested.control],
        counted=all(row.with_cue is not None and row.without_cue is not None for row in finding.classes),
        collects=any(row.collect for row in finding.classes),
        arms=() if tested is None else tested.arms,
        numbers=numbers(finding),
        groups=() if finding.groups is None else lines(finding.groups),
        rows="" if finding.groups is None else finding.groups.rows,
        facts=_facts(finding),
    )


def gap_chart(effect: Counterfactual) -> Markup:
    """The gap before and after the heads are taken out, in points, over the band of its controls."""
    start, band = effect.gap_before.value, effect.control_band
    # a control that closes d points of the gap leaves it at start - d
    ends = None if band is None or start is None else (start - band[1], start - band[0])
    return gap_rows([("as it is", "before", effect.gap_before), ("cue taken out", "after", effect.gap_after)], ends)


def group_tables(result: AuditResult) -> tuple[GroupTable, ...]:
    """Every attribute's groups, with the accuracies after a replacement where a finding has them."""
    tables = []
    for groups in result.groups:
        source = next(
            (
                f
                for f in result.findings
                if f.counterfactual and f.groups is not None and f.groups.attribute == groups.attribute
            ),
            None,
        )
        displayed = source.groups if source is not None and source.groups is not None else groups
        group_lines = lines(displayed)
        tables.append(
            GroupTable(
                attribute=column_in_words(groups.attribute),
                sentence=_groups_sentence(displayed),
                rows_in_words=f"Rows: {displayed.rows}",
                replaced=None if source is None else source.rank,
                lines=group_lines[:_MOST_GROUPS],
                hidden=max(len(group_lines) - _MOST_GROUPS, 0),
                left_out=displayed.left_out[:12],
            )
        )
    return tuple(tables)


def lines(groups: Groups) -> tuple[CardLine, ...]:
    """Groups, lowest accuracy first, those without one last."""
    average = groups.plain_average.value
    ordered = sorted(groups.groups, key=lambda group: (_value(group) is None, _value(group) or 0.0))
    return tuple(
        CardLine(
            name=group_name(group, groups.attribute),
            n=group.n,
            before=share(_value(group), 0),
            after=share(None if group.without is None else group.without.value, 0),
            plot=interval_row([("before", group.accuracy), ("after", group.without)], 0, 1, average),
            worst=groups.worst is not None
            and (group.class_name, group.value) == (groups.worst.class_name, groups.worst.value),
            grey=group.size in ("count only", "greyed"),
        )
        for group in ordered
    )


def group_name(group: GroupAccuracy, attribute: str) -> str:
    """`waterbird, land`."""
    return group.class_name if group.value is None else f"{group.class_name}, {value_word(attribute, group.value)}"


def cell_rows(cells: CellTable, first: str) -> tuple[CellRow, ...]:
    """The finding's class and those with the largest counts, in the table's order."""
    order = sorted(range(len(cells.classes)), key=lambda row: (cells.classes[row] != first, -sum(cells.counts[row])))
    return tuple(
        CellRow(
            name=cells.classes[row],
            cells=tuple(
                Cell(count=count, expected=expected, low=count < expected / 2)
                for count, expected in zip(cells.counts[row], cells.expected[row], strict=True)
            ),
        )
        for row in sorted(order[:_MOST_CLASSES])
    )


def _value(group: GroupAccuracy) -> float | None:
    return None if group.accuracy is None else group.accuracy.value


def _groups_sentence(groups: Groups) -> str:
    worst, average = groups.worst, groups.plain_average.value
    if worst is None or worst.accuracy is None or worst.accuracy.value is None or average is None:
        return f"No group has the {groups.n_min} images that are needed to say which one is answered worst."
    parts = [
        f"The worst group is {group_name(worst, groups.attribute)}: {share(worst.accuracy.value, 0)} right, while all"
        f" images together are at {share(average, 0)} and the groups’ mean is {share(groups.group_mean.value, 0)}."
    ]
    if groups.gap is not None and groups.gap_if_equal is not None:
        parts.append(
            f"That is {100 * groups.gap:.0f} points below the average; chance alone would show"
            f" {100 * groups.gap_if_equal:.0f} if all groups were alike."
        )
    return " ".join(parts)


def _distributions(histograms: Distributions) -> Markup:
    curves = []
    for kind, series in zip(_KINDS, histograms.series, strict=False):
        total = max(sum(series.counts), 1)
        name = f"{series.name} ({count(series.n)})"
        curves.append(Curve(name=name, kind=kind, ys=[number / total for number in series.counts]))
    return distributions(histograms.edges, curves, f"score of “{histograms.label}” →")


def _dose(tested: Counterfactual) -> Markup:
    named: tuple[tuple[str, list[Estimate]], ...] = (
        ("conflicting images", [point.conflicting for point in tested.doses]),
        ("aligned images", [point.aligned for point in tested.doses]),
        ("gap between them", [point.gap for point in tested.doses]),
    )
    curves = []
    for kind, (name, estimates) in zip(_KINDS, named, strict=True):
        limits = [(e.value, e.low, e.high) for e in estimates if e.value is not None]
        if len(limits) == len(tested.doses):
            curves.append(
                Curve(
                    name=name,
                    kind=kind,
                    ys=[100 * value for value, _, _ in limits],
                    lows=[None if low is None else 100 * low for _, low, _ in limits],
                    highs=[None if high is None else 100 * high for _, _, high in limits],
                )
            )
    xs = [point.alpha for point in tested.doses]
    return dose_response(xs, curves, "share of the cue taken away →", "Accuracy in percent as the cue is taken away")


def _facts(finding: Finding) -> tuple[tuple[str, str], ...]:
    association, cue, tested = finding.association, finding.cue, finding.counterfactual
    facts: list[tuple[str, str]] = [
        ("Finding", finding.id),
        ("Tie in the data, D", f"{with_limits(association.d)}, {association.strength}, n = {count(association.d.n)}"),
        ("With the class’s own part", decimal(association.d_plain)),
        ("p, Mann-Whitney", p_value(association.p)),
        ("q, false discovery rate", p_value(association.q)),
        ("p, largest of all tests", p_value(association.p_family)),
        ("Rows", association.rows),
        ("Cramér’s V with the attribute", decimal(association.cramers_v)),
        ("Odds ratio", _odds(association.odds_ratio)),
        ("Largest share of one value", share(association.alignment, 0)),
        ("Heads that carry it", ", ".join(cue.heads)),
        ("Opposite end", cue.opposite or "–"),
        ("Part outside the class prompts", share(cue.class_part, 0)),
        ("Tests merged into this", count(finding.merged)),
    ]
    facts += [
        (rival.class_name + " against all others", f"D = {decimal(rival.d)} (n = {count(rival.n)})")
        for rival in association.rivals[:4]
    ]
    if tested is not None:
        facts += [("Controls", f"{count(tested.control_sets)} {tested.control}: {tested.matched}")]
    if finding.stability is not None:
        stable = finding.stability
        facts.append((f"Stability over {len(stable.environments)} × {stable.by}",
                      f"I² = {share(stable.i_squared, 0)}, p = {p_value(stable.p)}"))  # fmt: skip
    return tuple(fact for fact in facts if fact[1] != "–")


def _odds(odds: Estimate | None) -> str:
    if odds is None or odds.value is None:
        return "–"
    low, high = odds.low, odds.high
    return f"{odds.value:,.1f}" + (f" [{low:,.1f}, {high:,.1f}]" if low is not None and high is not None else "")
