"""What if some heads, or one text in them, were gone: groups of images anew, beside random sets of heads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Bools, Float64s, Floats, Ints
from clipaudit.cues.reliance.images import class_shares
from clipaudit.errors import UsageError
from clipaudit.explorer.head_logits import HeadLogits, head_logits, sampled_rows, truth_of
from clipaudit.explorer.workspace import Workspace
from clipaudit.heads.ablation import check_stored
from clipaudit.heads.column_sets import as_set, random_sets
from clipaudit.heads.experiment import Experiment, ExperimentConfig
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.filter_columns import value_text
from clipaudit.schema import parse_head_label

SETS: Final = 100
"""Random sets of heads."""
LEAST_SETS: Final = 3
"""With fewer other sets there is no band."""
WHOLE_RANGE: Final = 40
"""Of fewer sets the band is from the least to the most."""
LEAST_IMAGES: Final = 10
"""Smaller groups cannot be the worst, as in `ablate`."""
LEAST_IN_CELL: Final = 5
"""Images of a class on each side, for the class to count in the gap."""
_DRAWN: Final = 1000
_TABLES: Final = 2
_BANDS: Final = 16


@dataclass(frozen=True, kw_only=True)
class Around:
    """A share before and after, 0..1, and where random sets of heads leave it."""

    before: float | None
    after: float | None
    low: float | None = None
    high: float | None = None
    """2.5 % and 97.5 % of the random sets, or their range where they are few; None where there are too few."""


@dataclass(frozen=True, kw_only=True)
class GroupChange:
    """One group: a class, or a class with a value of a column."""

    label: int | str
    class_name: str
    value: str | None
    images: int
    accuracy: Around
    aligned: bool | None
    """Whether the value goes with the class; None where the gap does not use the group."""


@dataclass(frozen=True, kw_only=True)
class GapChange:
    """Accuracy where the column points the right way minus where it misleads, averaged over classes."""

    gap: Around
    net: float | None
    """By how much the gap falls, less what random sets of heads make it fall; None where there are too few sets."""
    net_low: float | None
    net_high: float | None
    """95 % interval over images, which count as independent."""
    p: float | None
    """(1 + random sets that close as much) / (1 + random sets)."""
    classes: tuple[str, ...]
    """Those that have both kinds of images."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What taking something out changes."""

    images: int
    sampled: bool
    """Whether they are a random sample of those that pass the filters."""
    unlabelled: int
    sets: int
    """Random sets of as many heads of the same layers that the band is of."""
    accuracy: Around
    worst: Around | None
    worst_name: tuple[str, ...] | None
    """Class and value of the worst group after."""
    groups: tuple[GroupChange, ...]
    gap: GapChange | None


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupedRows:
    """Rows of a run by group."""

    code: Ints
    """(n,) group of every row, -1 for none."""
    keys: tuple[tuple[int, str | None], ...]
    """Class and value of each."""
    aligned: Ints
    """(G,) 1 where the value goes with the class, 0 where it does not, -1 where that is not asked."""
    pointed: Bools
    """(C,) classes that have the finding's value; all False where no finding says."""


class WhatIf:
    """GroupedRows of a run's images without any of its heads. For any number of threads.

    The logits of all stored heads stay in memory, MAX_BYTES of `head_logits` for each of the latest two directions
    (none is one), and the right answers of the random sets of the latest few numbers of heads a layer.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace, self._run = workspace, workspace.run
        self._lock = threading.RLock()
        self._tables: OrderedDict[str | None, HeadLogits] = OrderedDict()
        self._bands: OrderedDict[tuple[str | None, tuple[int, ...]], tuple[Bools, Any]] = OrderedDict()

    @cached_property
    def question(self) -> Experiment:
        """What `ablate` would be asked, over all rows; UsageError without labels, and where images have several."""
        return self.asked()

    def asked(self, attribute: str | None = None, where: tuple[str, ...] = ()) -> Experiment:
        """The same by a column, over the rows that pass filters: the report's classes and prompts."""
        workspace = self._workspace
        if self._run.spec.multi_label:
            raise UsageError(
                "images of this run have several labels: `clipaudit ablate` gives the average precision of each"
            )
        config = ExperimentConfig(
            classes=workspace.given_classes(),
            templates=workspace.class_prompts.source,
            attribute=attribute,
            where=where,
            min_group=LEAST_IMAGES,
        )
        return Experiment(self._run, RunTexts(self._run, workspace.device, keep=workspace.write), config)

    # -- tables and bands --------------------------------------------------------------------------------------------

    def table(self, direction: str | None) -> HeadLogits:
        """What every stored head adds to the logits, as a whole or along a text."""
        with self._lock:
            if direction not in self._tables:
                self._tables[direction] = self._new_table(direction)
                while len(self._tables) > _TABLES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(direction)
            return self._tables[direction]

    def _new_table(self, direction: str | None) -> HeadLogits:
        question, scores, heads = self.question, self._workspace.scores, self._run.head_labels
        means, classes = question.means(heads), question.asked.classes
        replacements = (
            question.ablated(heads, means) if direction is None else question.without_direction(heads, direction, means)
        )
        labelled = np.flatnonzero(self.truth >= 0)
        numbers = labelled[sampled_rows(len(labelled), len(heads), len(classes))]
        embedding = scores.vectors("embedding")
        return head_logits(embedding, scores.vectors, classes, self.truth, numbers, replacements)

    @cached_property
    def truth(self) -> Ints:
        """(n,) class of every row, -1 for none."""
        class_of = self.question.asked.class_of  # says first where a run has no labels
        return truth_of(self._workspace.plain_rows().table["label"].to_pylist(), class_of)

    def _band(self, table: HeadLogits, direction: str | None, chosen: Bools) -> Bools:
        """(S, m) right answers without random sets of as many heads of each layer, drawn once for all such sets."""
        layers = np.array([parse_head_label(head)[0] for head in table.heads])
        counts = tuple(int(chosen[layers == layer].sum()) for layer in np.unique(layers))
        with self._lock:
            if (direction, counts) not in self._bands:
                names = [head for head, taken in zip(table.heads, chosen, strict=True) if taken]
                drawn = np.unique(random_sets(table.heads, names, _DRAWN), axis=0)
                drawn = drawn[np.sort(np.random.default_rng(0).permutation(len(drawn))[: SETS + 1])]
                # a bit a set and image: bands of other numbers of heads stay, too
                self._bands[direction, counts] = drawn, np.packbits(table.rights(drawn), axis=1)
                while len(self._bands) > _BANDS:
                    self._bands.popitem(last=False)
            drawn, packed = self._bands[direction, counts]
        # the chosen set is no control of itself
        others = (drawn != chosen).any(axis=1)
        rights: Bools = np.unpackbits(packed[others][:SETS], axis=1, count=len(table.numbers)).astype(np.bool_)
        return rights

    # -- one question ------------------------------------------------------------------------------------------------

    def change(self, heads: tuple[str, ...], direction: str | None, groups: GroupedRows, passing: Bools) -> Change:
        """What taking out heads, or a text's direction in them, changes in the groups.

        passing: (n,) rows that count. UsageError for a head that the run does not store.
        """
        check_stored(self._run, heads)
        table = self.table(direction)
        chosen = as_set(table.heads, tuple(dict.fromkeys(heads)))
        before, after = table.rights(np.stack([chosen & False, chosen]))
        drawn = self._band(table, direction, chosen) if heads else np.empty((0, len(before)), np.bool_)
        if len(drawn) < LEAST_SETS:
            drawn = drawn[:0]
        inside = passing[table.numbers]
        code = np.where(inside, groups.code[table.numbers], -1)
        counts = _Counts(code, len(groups.keys))
        shares = counts.shares(np.concatenate([before[None], after[None], drawn]))
        total = _Counts(np.where(inside, 0, -1), 1).shares(np.concatenate([before[None], after[None], drawn]))
        names = self.question.names
        listed = tuple(
            GroupChange(
                label=names.labels[c],
                class_name=names.names[c],
                value=value,
                images=int(counts.sizes[g]),
                accuracy=_around(shares[:, g]),
                aligned=None if groups.aligned[g] < 0 else bool(groups.aligned[g]),
            )
            for g, (c, value) in enumerate(groups.keys)
            if counts.sizes[g]
        )
        large = np.flatnonzero(counts.sizes >= LEAST_IMAGES)
        worst = None if not len(large) else int(large[shares[1, large].argmin()])
        return Change(
            images=int(inside.sum()),
            sampled=len(table.numbers) < int((self.truth >= 0).sum()),
            unlabelled=int((passing & (self.truth < 0)).sum()),
            sets=len(drawn),
            accuracy=_around(total[:, 0]),
            worst=None if worst is None else _around(shares[:, large].min(axis=1)),
            worst_name=None if worst is None else self._named(groups.keys[worst]),
            groups=listed,
            gap=self._gap(groups, code, np.stack([before, after]), drawn),
        )

    def _named(self, key: tuple[int, str | None]) -> tuple[str, ...]:
        name = self.question.names.names[key[0]]
        return (name,) if key[1] is None else (name, key[1])

    def _gap(self, groups: GroupedRows, code: Ints, plain: Bools, drawn: Bools) -> GapChange | None:
        """The gap by side: aligned and conflicting images of a class, whatever values they have."""
        C = len(self.question.names)
        classes = np.array([key[0] for key in groups.keys], np.int64)
        side = np.where(groups.aligned >= 0, 2 * classes + (groups.aligned == 0), -1)
        cell = np.where(code >= 0, side[code], -1)
        sizes = np.bincount(cell[cell >= 0], minlength=2 * C).reshape(C, 2)
        usable = sizes.min(axis=1) >= LEAST_IN_CELL
        if not usable.any():
            return None
        weights = class_shares(usable, groups.pointed)  # (C,)
        coefficients = np.stack([weights, -weights], axis=1).ravel()  # aligned minus conflicting
        per_image = np.where(cell >= 0, (coefficients / np.maximum(sizes.ravel(), 1))[cell], 0.0)
        gaps = np.concatenate([plain, drawn]).astype(np.float32) @ per_image.astype(np.float32)
        around = _around(gaps.astype(np.float64))
        names = tuple(self.question.names.names[c] for c in np.flatnonzero(usable))
        if not len(drawn):
            return GapChange(gap=around, net=None, net_low=None, net_high=None, p=None, classes=names)
        closed, random = gaps[0] - gaps[1], gaps[0] - gaps[2:]
        # an image's change beyond the mean of the random sets: 1 right now, -1 wrong now
        beyond = plain[1].astype(np.float64) - drawn.mean(axis=0)
        net = float(-(per_image * beyond).sum())
        error = _standard_error(beyond, cell, coefficients)
        return GapChange(
            gap=around,
            net=net,
            net_low=net - 1.96 * error,
            net_high=net + 1.96 * error,
            p=(1 + int((random >= closed).sum())) / (1 + len(random)),
            classes=names,
        )


def _standard_error(values: Float64s, cell: Ints, coefficients: Float64s) -> float:
    """Of the sum over cells of a coefficient times the cell's mean."""
    known = cell >= 0
    sizes = np.bincount(cell[known], minlength=len(coefficients))
    sums = np.bincount(cell[known], values[known], minlength=len(coefficients))
    squares = np.bincount(cell[known], values[known] ** 2, minlength=len(coefficients))
    means = sums / np.maximum(sizes, 1)
    variance = np.maximum(squares / np.maximum(sizes, 1) - means**2, 0.0)
    return float(np.sqrt((coefficients**2 * variance / np.maximum(sizes - 1, 1)).sum()))


class _Counts:
    """Shares of right answers by group."""

    def __init__(self, code: Ints, groups: int) -> None:
        """code: (m,) group of each image, -1 for none."""
        chosen = np.flatnonzero(code >= 0)
        self._order = chosen[np.argsort(code[chosen], kind="stable")]
        self.sizes: Ints = np.bincount(code[chosen], minlength=groups)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    def shares(self, rights: Bools) -> Float64s:
        """(S, m) right answers to (S, G) shares; nan for a group without images."""
        sums = np.zeros((len(rights), len(self.sizes)))
        present = np.flatnonzero(self.sizes)
        if len(present):
            sorted_rights = rights[:, self._order]
            sums[:, present] = np.add.reduceat(sorted_rights, self._starts[present], axis=1, dtype=np.int32)
        with np.errstate(invalid="ignore"):
            shares: Float64s = sums / self.sizes
        return shares


def _around(values: Floats) -> Around:
    """Of before, after, and the random sets."""
    before, after = (None if np.isnan(value) else float(value) for value in values[:2])
    drawn = values[2:]
    if not len(drawn) or before is None:
        return Around(before=before, after=after)
    low, high = np.quantile(drawn, [0.0, 1.0] if len(drawn) < WHOLE_RANGE else [0.025, 0.975])
    return Around(before=before, after=after, low=float(low), high=float(high))


def groups_of(what_if: WhatIf, values: list[Any] | None, finding: dict[str, Any] | None) -> GroupedRows:
    """Classes, or classes by the values (n,) of a column.

    A value goes with a class where the finding says so: a card with `value` and the classes that have it; without a
    finding, where the class has more of it than a column that is independent of the class would give.
    """
    truth, C = what_if.truth, len(what_if.question.names)
    if values is None:
        keys: tuple[tuple[int, str | None], ...] = tuple((c, None) for c in range(C))
        return GroupedRows(code=truth, keys=keys, aligned=np.full(C, -1), pointed=np.zeros(C, np.bool_))
    texts = [None if value is None else value_text(value) for value in values]
    distinct = sorted({text for text in texts if text is not None})
    places = {text: place for place, text in enumerate(distinct)}
    value = np.array([-1 if text is None else places[text] for text in texts], np.int64)
    V = max(len(distinct), 1)
    known = (truth >= 0) & (value >= 0)
    cell = np.where(known, truth * V + value, -1)
    counts = np.bincount(cell[known], minlength=C * V).reshape(C, V)
    pointed = np.zeros(C, np.bool_)
    if finding is None:
        expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / max(int(counts.sum()), 1)
        aligned = (counts > expected).astype(np.int64)
    else:
        has = {side["label"]: side["has"] for side in finding["classes"]}
        labels = what_if.question.names.labels
        pointed = np.array([bool(has.get(label)) for label in labels])
        tested = np.array([label in has for label in labels])
        holds = np.array([text == finding["value"] for text in distinct] or [False])
        aligned = np.where(tested[:, None], (pointed[:, None] == holds).astype(np.int64), -1)
    present = np.flatnonzero(counts.ravel())
    number = np.full(C * V, -1)
    number[present] = np.arange(len(present))
    return GroupedRows(
        code=np.where(cell >= 0, number[cell], -1),
        keys=tuple((int(c) // V, distinct[int(c) % V]) for c in present),
        aligned=aligned.ravel()[present],
        pointed=pointed,
    )
