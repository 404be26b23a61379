"""What the answers of a study add up to: shares with intervals, slips, what is shown next, and how many are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.stratified import difference, slip_rate, stratified_share
from clipaudit.explorer.label_log import Drawn, LabelEvent, StudyState
from clipaudit.statistics import wilson

_EVERY: Final = 10
"""One of so many images is shown again."""
CELL: Final = 20
"""Labelled images that each cell of side and cue needs where answers are scored, to tell a gap of 30 points."""
_Z95: Final = 1.959964
_ASSOCIATION, _SCORED = ("association", "both"), ("counterfactual", "both")


@dataclass(frozen=True, kw_only=True)
class SideShare:
    """How many images of a side have the cue."""

    class_name: str
    has: bool
    """Whether it is the side that is said to have the cue."""
    share: Estimate | None
    """In the rows of the association; None while nothing is told."""
    scored: tuple[int, int]
    """Labelled images without and with the cue among the scored rows."""


class Progress:
    """A study's answers, counted."""

    def __init__(self, state: StudyState) -> None:
        self.state, self.study = state, state.study
        self._drawn = {(image.shard, image.index): image for image in self.study.draw}
        self.first: dict[tuple[int, int], LabelEvent] = {}
        """The answer that counts of each image: its first."""
        self.pairs: list[tuple[LabelEvent, LabelEvent]] = []
        """Answers to images that were shown again, beside the first."""
        for label in state.labels:
            place = (label.shard, label.index)
            image = self._drawn.get(place)
            if image is None or image.key != label.key:
                continue
            if place in self.first:
                self.pairs.append((self.first[place], label))
            else:
                self.first[place] = label

    # -- estimates ---------------------------------------------------------------------------------------------------

    def _counts(self, parts: Sequence[str], has: bool) -> tuple[list[int], list[int], list[int]]:
        """(rows, told, having) of the strata of one side in some parts."""
        chosen = [place for place, each in enumerate(self.study.strata) if each.has == has and each.part in parts]
        told, having = (np.zeros(len(self.study.strata), np.int64) for _ in range(2))
        for place, label in self.first.items():
            if label.answer != "unsure":
                stratum = self._drawn[place].stratum
                told[stratum] += 1
                having[stratum] += label.answer == "has"
        return [self.study.strata[place].rows for place in chosen], told[chosen].tolist(), having[chosen].tolist()

    @cached_property
    def sides(self) -> tuple[SideShare, ...]:
        """The side that is said to have the cue, and the other."""
        sides = []
        for has in (True, False):
            _, told, having = self._counts(_SCORED, has)
            name = next((each.class_name for each in self.study.strata if each.has == has), "")
            sides.append(
                SideShare(
                    class_name=name,
                    has=has,
                    share=stratified_share(*self._counts(_ASSOCIATION, has)),
                    scored=(sum(told) - sum(having), sum(having)),
                )
            )
        return tuple(sides)

    @cached_property
    def d(self) -> Estimate | None:
        """Share of the side that is said to have the cue less that of the other; None while one is not known."""
        first, second = self.sides[0].share, self.sides[1].share
        return None if first is None or second is None else difference(first, second)

    @property
    def refuted(self) -> bool:
        """Whether the side that is said to have the cue has no more of it: the whole interval of the difference is
        below delta.
        """
        return self.d is not None and float(self.d.high or 0) < self.study.delta

    @cached_property
    def disagreements(self) -> int:
        """Images that were answered otherwise the second time."""
        return sum(first.answer != second.answer for first, second in self._told_pairs)

    @property
    def repeats(self) -> int:
        """Images that were told twice."""
        return len(self._told_pairs)

    @property
    def _told_pairs(self) -> list[tuple[LabelEvent, LabelEvent]]:
        return [pair for pair in self.pairs if "unsure" not in (pair[0].answer, pair[1].answer)]

    @cached_property
    def error(self) -> Estimate | None:
        """How often one answer slips, by the images that were answered twice; None without any."""
        if not self.repeats:
            return None
        low, high = wilson(self.disagreements / self.repeats, self.repeats, _Z95)
        ends = [slip_rate(1, 2) if share >= 0.5 else (1 - math.sqrt(1 - 2 * share)) / 2 for share in (low, high)]
        value = slip_rate(self.disagreements, self.repeats)
        return Estimate(value=value, low=float(ends[0]), high=float(ends[1]), n=self.repeats)

    @property
    def unsure(self) -> int:
        """Images that nobody could tell."""
        return sum(label.answer == "unsure" for label in self.first.values())

    # -- how many more -----------------------------------------------------------------------------------------------

    @cached_property
    def more(self) -> int | None:
        """About how many more answers decide it; 0 for none, None where more are needed than the draw has."""
        if self.refuted:
            return 0
        rounds = max(self._rounds_for_cells(), self._rounds_for_d())
        a_round = len(self.study.strata)
        missing = math.ceil(rounds * a_round * _EVERY / (_EVERY - 1)) if math.isfinite(rounds) else None
        left = len(self.study.draw) - len(self.first)
        return missing if missing is not None and missing <= left else None

    def _rounds_for_cells(self) -> float:
        """Rounds until each side has enough scored images with and without the cue."""
        needed = 0.0
        for side in self.sides:
            told = sum(side.scored)
            a_round = sum(each.part in _SCORED and each.has == side.has for each in self.study.strata)
            for count in side.scored:
                # before the first answers half of them is as good a guess as any
                share = (count + 0.5) / (told + 1)
                needed = max(needed, (CELL - count) / (share * max(a_round, 1)))
        return needed

    def _rounds_for_d(self) -> float:
        """Rounds until the interval of the difference leaves delta, on the half that the report reads it from."""
        d, delta = self.d, self.study.delta
        if d is None:
            return 0.0
        # |D| is a finding, and a difference in the other direction is not this one
        away = abs(float(d.value or 0.0) - delta)
        half = (float(d.high or 0.0) - float(d.low or 0.0)) / 2
        if away < 1e-9:
            return math.inf
        told = sum(sum(self._counts(_ASSOCIATION, has)[1]) for has in (True, False))
        # half of the images decide, and an interval shrinks with the root of their number
        wanted = 2 * told * (half / away) ** 2
        a_round = sum(each.part in _ASSOCIATION for each in self.study.strata)
        return max(0.0, (wanted - told) / max(a_round, 1))

    # -- what is shown -----------------------------------------------------------------------------------------------

    def upcoming(self, count: int, taken: frozenset[tuple[int, int]] = frozenset()) -> list[Drawn]:
        """The next images to be shown, without those that others have before them (`taken`).

        Every tenth is one that was answered before, which whoever labels cannot know.
        """
        answered = len(self.first) + len(self.pairs)
        fresh = (image for image in self.study.draw if (image.shard, image.index) not in {*self.first, *taken})
        upcoming: list[Drawn] = []
        for position in range(answered, answered + count):
            again = self._again(position // _EVERY, taken) if (position + 1) % _EVERY == 0 else None
            image = again or next(fresh, None)
            if image is None:
                break
            upcoming.append(image)
        return upcoming

    def _again(self, tens: int, taken: frozenset[tuple[int, int]]) -> Drawn | None:
        """An image that was answered once, before the present ten: the same until it is answered."""
        earlier = self.state.labels[: tens * _EVERY]
        twice = {(first.shard, first.index) for first, _ in self.pairs}
        # what cannot be told says nothing of slips
        once = [
            (label.shard, label.index)
            for label in earlier
            if label.answer != "unsure" and (label.shard, label.index) in self.first
        ]
        once = [place for place in once if place not in twice and place not in taken]
        if not once:
            return None
        return self._drawn[once[int(np.random.default_rng([self.study.seed, 3, tens]).integers(len(once)))]]
