"""Which of many classes are in an image, as rankings: average precision and AUC of each class's score over images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import ArrayHolder, Bools, Float32s, Float64s, Ints
from clipaudit.errors import UsageError
from clipaudit.statistics import BootstrapEstimate, auc, average_precision

_RESAMPLES: Final = 200
_DRAWN_AT_ONCE: Final = 2**24
"""Numbers of how often each image was drawn that are held at once."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Precisions(ArrayHolder):
    """Average precision of each class that occurs under several scores of the same images, plain and resampled."""

    occurring: Ints
    """(K,) classes that at least one image has."""
    plain: dict[str, Float64s]
    """(K,) by score, 0..1."""
    drawn: dict[str, Float64s]
    """(200,) by score: the mean over classes in each bootstrap sample of images, the same samples for all scores."""

    def mean(self, score: str) -> BootstrapEstimate:
        """Mean average precision of a score."""
        return _estimate(float(self.plain[score].mean()), self.drawn[score])

    def difference(self, score: str, other: str) -> BootstrapEstimate:
        """Mean average precision of one score less that of another, paired over images."""
        value = float(self.plain[score].mean() - self.plain[other].mean())
        return _estimate(value, self.drawn[score] - self.drawn[other])


def _estimate(value: float, drawn: Float64s) -> BootstrapEstimate:
    # Not percentiles: images that are drawn twice raise the precision of rare classes, so that resampled values lie
    # above the value itself. Only their spread is used.
    half = 1.96 * float(np.nanstd(drawn, ddof=1))
    return BootstrapEstimate(value=value, low=value - half, high=value + half)


def precisions(scores: Mapping[str, Float32s], present: Bools) -> Precisions:
    """Average precisions of images ranked by each class's score, with a bootstrap over images (seed 0).

    scores: (n, C) by name. present: (n, C) which classes each image has. UsageError when no image has any.
    """
    occurring = np.flatnonzero(present.any(axis=0))
    if not len(occurring):
        raise UsageError("no image has one of the classes")
    plain = {
        name: np.array([average_precision(values[:, c], present[:, c])[0] for c in occurring])
        for name, values in scores.items()
    }
    sums: dict[str, list[Float64s]] = {name: [] for name in scores}
    for draws in _draws(len(present)):
        for name, values in scores.items():
            resampled = [average_precision(values[:, c], present[:, c], draws) for c in occurring]
            sums[name].append(np.nanmean(resampled, axis=0))  # a class that was not drawn has no precision
    drawn = {name: np.concatenate(parts) for name, parts in sums.items()}
    return Precisions(occurring=occurring, plain=plain, drawn=drawn)


def _draws(images: int) -> Iterator[Ints]:
    """(r, n) how often each image is drawn, 200 draws in all."""
    rng, left = np.random.default_rng(0), _RESAMPLES
    while left:
        count = min(left, max(1, _DRAWN_AT_ONCE // max(images, 1)))
        yield rng.multinomial(images, np.full(images, 1 / images), size=count)
        left -= count


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PresenceScore(ArrayHolder):
    """How well a score of each class ranks the images that have the class above those that lack it."""

    images: int
    with_class: Ints
    """(C,) images that have each class."""
    average_precision: Float64s
    """(C,) 0..1; nan for a class that no image has."""
    auc: Float64s
    """(C,) 0..1, .5 for a score that tells nothing; nan for a class that no image has, or every one."""
    mean: BootstrapEstimate
    """Mean average precision over the classes that occur, with its 95 % interval over images."""

    @property
    def mean_auc(self) -> float:
        """Over the classes that some images have and some lack; nan where there is none."""
        known = self.auc[np.isfinite(self.auc)]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def chance(self) -> float:
        """What a score that tells nothing reaches: the mean share of images that have a class that occurs."""
        return float(self.with_class[self.with_class > 0].mean() / self.images)

    @property
    def near_chance(self) -> bool:
        """Whether the mean average precision cannot be told from chance."""
        return self.mean.low <= self.chance


def presence_scores(
    scores: Sequence[Float32s], present: Bools
) -> tuple[tuple[PresenceScore, ...], tuple[BootstrapEstimate, ...]]:
    """Each score's `PresenceScore`, and the change of mean average precision from the first to each, paired.

    scores: (n, C) each. present: (n, C) bool. UsageError when no image has any class.
    """
    named = {str(place): values for place, values in enumerate(scores)}
    ranked = precisions(named, present)
    with_class = present.sum(axis=0).astype(np.int64)
    results = []
    for name, values in named.items():
        by_class = np.full(present.shape[1], np.nan)
        by_class[ranked.occurring] = ranked.plain[name]
        areas = [auc(values[:, c], present[:, c]) for c in range(present.shape[1])]
        results.append(
            PresenceScore(
                images=len(present),
                with_class=with_class,
                average_precision=by_class,
                auc=np.array(areas, np.float64),
                mean=ranked.mean(name),
            )
        )
    return tuple(results), tuple(ranked.difference(name, "0") for name in named)


def mean_precision(scores: Float32s, present: Bools) -> float:
    """Mean average precision over the classes that occur, 0..1, without an interval; scores and present (n, C)."""
    occurring = np.flatnonzero(present.any(axis=0))
    return float(np.mean([average_precision(scores[:, c], present[:, c])[0] for c in occurring]))
