"""From a cue to the parts of its finding: association, words, tables, distributions, stability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.findings.collecting import shares_of, to_collect, value_counts
from clipaudit.cues.findings.sentences import Words, listed
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.declared_columns import own_design
from clipaudit.cues.measure.naming import value_contrast
from clipaudit.cues.result.finding_parts import (
    Association,
    CellTable,
    ClassRow,
    CueWord,
    Distribution,
    Distributions,
    Estimate,
    Rival,
    Stability,
    strength_word,
)
from clipaudit.cues.statistics.attributes import AttributeScreen, cramers_v, expected_counts, odds_ratio
from clipaudit.cues.statistics.cuts import Cut, Honest, contrasts, half_tables, strength_interval
from clipaudit.cues.statistics.environments import environments_of, stability
from clipaudit.cues.statistics.intervals import accuracy
from clipaudit.cues.statistics.known_error import KnownError, corrected_cells
from clipaudit.cues.statistics.screen import named_side
from clipaudit.cues.statistics.strength import BINS, binned

_RIVALS: Final = 20
_SHOWN_ROWS: Final = 20
_SHOWN_CLASSES: Final = 12
_BINS: Final = 32


# -- association -------------------------------------------------------------------------------------------------------


def text_association(context: Context, axis: Honest, scores: Floats, member: int) -> Association:
    """Of a text with the classes above the cut along its axis; scores (s,) along the plain axis; the p-values are those
    of the strongest direction (row of the family) that carries it."""
    design = context.sample_design
    table = half_tables(binned(scores, BINS), design, BINS)[1]
    plain = 2 * float(contrasts(table, axis.cut.upper[None]).a[0]) - 1
    n = round(float(design.counts.sum()) / 2)
    return _association(context, member, axis.cut, axis.d, n, {"d_plain": plain})


def attribute_association(context: Context, screen: AttributeScreen, place: int) -> Association:
    """Of an attribute's value, or of the column as a whole (the last row), with the classes above its cut."""
    m = context.row_of(screen, place)
    upper = context.family.cuts[m].upper
    extra: dict[str, Any] = {"d_plain": None, "cramers_v": cramers_v(screen.counts)}
    if place < len(screen.values):
        having, lacking = value_counts(screen.counts, int(screen.values[place]))
        table = [[having[side].sum(), lacking[side].sum()] for side in (upper, ~upper)]
        shares = shares_of(screen.counts, int(screen.values[place]))
        extra |= {"odds_ratio": odds_ratio(table), "alignment": float(shares[upper].max())}
        error = context.known_errors.get(screen.attribute.column)
        if error is not None:
            extra["corrected"] = corrected_association(context, screen, place, upper, error)
    n = round(float(screen.independent.sum()) / 2)
    return _association(context, m, context.family.cuts[m], context.family.d[m], n, extra)


def corrected_association(
    context: Context, screen: AttributeScreen, place: int, upper: Bools, error: KnownError
) -> Estimate:
    """D of a value corrected for the column's known error, on the confirmation half (S6c); upper (K,) has it."""
    rows = ~context.design.halves
    # the same groups as in the uncorrected D: copies share a weight, sources widen the interval
    own = own_design(context.design, screen.attribute, None if context.source is None else context.source.name)
    source = context.facts.cluster if context.named_sources else own.source
    return corrected_cells(
        screen.attribute.codes[rows],
        context.design.truth[rows],
        context.facts.cluster[rows],
        int(screen.values[place]),
        upper,
        len(screen.attribute.values),
        error,
        source=None if source is None else source[rows],
        seed=context.options.seed,
    ).d


def _association(context: Context, m: int, cut: Cut, by_class: Float64s, n: int, extra: dict[str, Any]) -> Association:
    family, delta = context.family, context.options.delta_warn
    corrected = extra.get("corrected")
    low, high = strength_interval(cut.d, cut.error, context.design.quantile(context.level, 0.5))
    passed, least, most = bool(context.passed[m]), low, high
    # S6c corrects the limits of D; wrong values weaken a tie and make none, so the test of what was called stands
    if corrected is not None and corrected.low is not None and corrected.high is not None:
        least, most = corrected.low, corrected.high
        p = family.q[m] if family.family is None else family.family[m]
        passed = bool(p <= context.options.alpha) and least > delta
    return Association(
        rows=f"{context.rows}, confirmation half",
        d=Estimate(value=cut.d, low=low, high=high, n=n, level=context.level),
        strength=strength_word(cut.d),
        rivals=_rivals(context, by_class),
        replication=cut.replication,
        replicated=cut.replicated,
        p=float(family.p[m]),
        q=float(family.q[m]),
        p_family=None if family.family is None else float(family.family[m]),
        delta=delta,
        above_delta=passed and least > delta and not context.few_sources,
        within_delta=least > -delta and most < delta,
        corrected=corrected,
        **{name: value for name, value in extra.items() if name != "corrected"},
    )


def _rivals(context: Context, d: Float64s) -> tuple[Rival, ...]:
    """Every class against all others along the cue (K,), largest first."""
    counts = context.design.counts
    order = np.argsort(-np.abs(d), kind="stable").tolist()
    return tuple(Rival(class_name=context.name(j), d=float(d[j]), n=round(float(counts[j]))) for j in order[:_RIVALS])


def class_rows(
    context: Context,
    upper: Bools,
    d: Float64s,
    error: Float64s,
    screen: AttributeScreen | None = None,
    value: int | None = None,
) -> tuple[ClassRow, ...]:
    """A row for each named class, then for others up to twenty in all.

    upper (K,) bool, classes that have the cue; d, error (K,): each class against all others along it.
    """
    design = context.design
    named = named_side(upper[None])[0]
    plan = counts = None
    if screen is not None and value is not None:
        counts = value_counts(screen.counts, value)
        plan = to_collect(*counts, upper)
    word = None if screen is None or value is None else screen.attribute.values[value]
    # of a label the images with it come first; both sides have the same |D|
    order = sorted(range(design.classes), key=lambda k: (not named[k], -abs(float(d[k]))))
    order = [0, 1] if context.presence is not None else order
    rows = []
    # every named class: shift and page read from the rows which classes have the cue
    for k in order[: max(_SHOWN_ROWS, int(named.sum()))]:
        low, high = strength_interval(float(d[k]), float(error[k]), context.family.quantile)
        collect = 0 if plan is None else int(plan.with_cue[k] + plan.without_cue[k])
        rows.append(
            ClassRow(
                class_name=context.name(k),
                label=context.label(k),
                has=bool(upper[k]),
                named=bool(named[k]),
                d=Estimate(value=float(d[k]), low=low, high=high, n=round(float(design.counts.sum()) / 2)),
                n=int(design.rows_of_class[k]),
                independent=int(design.independent[k]),
                share=None if screen is None or value is None else _share(screen, k, value),
                with_cue=None if counts is None else int(counts[0][k]),
                without_cue=None if counts is None else int(counts[1][k]),
                collect=collect,
                collect_value=None if not collect or word is None else (f"not {word}" if upper[k] else word),
            )
        )
    return tuple(rows)


def _share(screen: AttributeScreen, k: int, value: int) -> Estimate:
    """Share of a class's independent images that have a value, with Wilson's interval."""
    return accuracy(float(screen.independent[k, value]), float(screen.independent[k].sum()))


def side_word(upper: Bools) -> Literal["has", "lacks", "both"]:
    """Whether the named side of a cut has the cue, lacks it, or is both; upper (K,) classes that have it."""
    named = named_side(upper[None])[0]
    return "both" if named.all() else "has" if bool(upper[named].all()) else "lacks"


def named_words(context: Context, upper: Bools, cue: str, column: str | None = None) -> Words:
    """How the finding speaks of itself; upper (K,) classes have the cue and are named where sides are equal."""
    side = side_word(upper)
    named = upper if side in ("both", "has") else ~upper
    names = [context.name(k) for k in range(context.design.classes)]
    return Words(
        classes=tuple(name for name, inside in zip(names, named, strict=True) if inside),
        cue=cue,
        side=side,
        others=tuple(name for name, inside in zip(names, named, strict=True) if not inside),
        column=column,
        presence=context.presence is not None,
    )


def guess_warning(context: Context, name: str, cue: str) -> str:
    """Why a class that is not from labels may go with a cue without the class's images doing so."""
    if context.classes_from == "caption":
        return (
            f"Captions decide: people may name {name} where there is {cue!r} and leave it out elsewhere, and images"
            " whose caption names no class are not compared."
        )
    return f"{cue!r} may be what makes CLIP answer {name}, also in images of other classes."


# -- words, tables, distributions --------------------------------------------------------------------------------------


def head_words(context: Context, heads: Sequence[str], members: Ints, having: Ints, count: int = 3) -> list[CueWord]:
    """What each of the first heads says of the cue: the text nearest to how its output differs with the cue (having
    (s,) 1 with, 0 without) inside classes. d is that of the cut along the head's strongest member."""
    words = []
    basis = context.run.basis()
    for head in heads[:count]:
        values = context.scan.values[head].astype(np.float32)
        K = context.design.classes
        contrast = value_contrast(values, context.truth, having == 1, having >= 0, K) @ basis.Q(head).astype(np.float64)
        nearest = context.namer.words(contrast, 1, context_only=True)
        own = [m for m in members.tolist() if context.scan.directions[m].head == head]
        d = max((abs(context.family.cuts[m].d) for m in own), default=None)
        words += [CueWord(text=w.text, property=w.property, kind=w.kind, head=head, d=d) for w in nearest]
    return words


def attribute_cells(context: Context, screen: AttributeScreen, upper: Bools | None = None) -> CellTable:
    """Class x value counts; with many classes those of upper (K,), which have the cue, and all others together."""
    counts, names = screen.counts, [context.name(j) for j in range(context.design.classes)]
    if upper is not None and len(names) > _SHOWN_CLASSES:
        counts = np.stack([screen.counts[upper].sum(axis=0), screen.counts[~upper].sum(axis=0)])
        names = [listed([name for name, has in zip(names, upper, strict=True) if has]), "all others"]
    return cell_table(screen.attribute.column, names, screen.attribute.values, counts, screen.missing)


def cell_table(
    source: str, names: Sequence[str], values: Sequence[str], counts: npt.ArrayLike, missing: int, **more: Any
) -> CellTable:
    """A table of counts with what independence would give."""
    table = np.asarray(counts, np.float64)
    return CellTable(
        source=source,
        corrected=bool(more.pop("corrected", False)),
        classes=tuple(names),
        values=tuple(values),
        counts=tuple(tuple(map(float, row)) for row in table),
        expected=tuple(tuple(map(float, row)) for row in expected_counts(table)),
        missing=missing,
        **more,
    )


def distributions(
    context: Context, label: str, scores: Floats, upper: Bools, values: Sequence[str] = (), codes: Ints | None = None
) -> Distributions:
    """Histograms of scores (s,): the classes that have the cue (upper (K,)), all others, and if there are two to four
    values each with each."""
    # a few far scores would press all others into one bar
    low, high = np.quantile(scores, (0.001, 0.999))
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    inside = upper[context.truth]
    own = listed([context.name(k) for k in np.flatnonzero(upper).tolist()])
    sides = [(own, inside), ("all others", ~inside)]
    series = [_series(name, name, None, scores[rows], edges) for name, rows in sides]
    if codes is not None and 2 <= len(values) <= 4:
        series += [
            _series(f"{name}, {value}", name, value, scores[rows & (codes == place)], edges)
            for name, rows in sides
            for place, value in enumerate(values)
        ]
    return Distributions(label=label, edges=tuple(map(float, edges)), series=tuple(series))


def _series(name: str, class_name: str, value: str | None, scores: Floats, edges: Floats) -> Distribution:
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), bins=edges)
    return Distribution(
        name=name, class_name=class_name, value=value, n=len(scores), counts=tuple(int(n) for n in counts)
    )


def finding_stability(context: Context, scores: Floats, upper: Bools) -> Stability | None:
    """The strength of the classes that have the cue (upper (K,)) along scores (s,) in each environment."""
    column = context.options.environment
    if column is not None and column in context.sampled.attributes:
        attribute = context.sampled.attributes[column]
        codes, names = environments_of(context.sampled.shard_id, attribute.values, attribute.codes)
    else:
        codes, names = environments_of(context.sampled.shard_id, None, None)
    by = "shard" if column is None else column
    return stability(scores, upper[context.truth].astype(np.int64), 1, 2, codes, names, by, context.sampled.cluster)
