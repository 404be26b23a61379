"""One pass over the heads: every direction's strengths on all images, and what controls need of a sample of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float32s, Float64s, Ints
from clipaudit.cues.measure.answers import sampled
from clipaudit.cues.measure.directions import Direction
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.vectors import each_of_vectors
from clipaudit.cues.result.finding_parts import Predictability
from clipaudit.cues.statistics.cuts import Codes, Honest, honest
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.predictability import MAX_CLASSES, MAX_ROWS, predictability
from clipaudit.cues.statistics.screen import Screen, screen_of
from clipaudit.cues.statistics.strength import binned
from clipaudit.run.basis import Basis

SAMPLE: Final = 20_000
BINS: Final = 256
"""Of the scan: a D differs by less than 1e-4 from that of single values."""
_CHUNK: Final = 65_536
_THREADS: Final = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class Scan:
    """What one pass found; M directions, s sampled images."""

    directions: tuple[Direction, ...]
    screen: Screen
    sample: Ints
    """(s,) places of the sampled images."""
    codes: npt.NDArray[np.uint16]
    """(s, M) binned scores of the sample."""
    spare: Float32s
    """(s, trials) scores along random directions of random heads, in an order of their own: no class goes with them."""
    regressions: Mapping[str, Future[Predictability]]
    """S5 of each head, which goes on beside what comes after the scan."""
    values: dict[str, npt.NDArray[np.float16]]
    """(s, dh) of the sample, by head, as stored."""
    means: dict[str, Float64s]
    """(dh,) over all images, by head."""
    heads_sum: Float32s
    """(s, D) sum of the scanned heads' deviations from their means."""

    @cached_property
    def predictability(self) -> tuple[Predictability, ...]:
        """S5 of every head, largest skill first; waits for the regressions."""
        return tuple(sorted((future.result() for future in self.regressions.values()), key=_least_skill_last))


def scan(
    facts: ImageFacts,
    design: Design,
    directions: Mapping[str, Sequence[Direction]],
    subspace: Float64s,
    *,
    trials: int,
    seed: int,
    regress: bool = True,
    on_head: Callable[[int, int], None] = lambda done, total: None,
) -> Scan:
    """Scores of every direction on all of `facts`, whose classes are `design.truth`; in memory is one head, or
    several small ones, at a time.

    subspace (r, D): what class prompts span. regress: whether S5 is computed. Enter `one_thread_each` around it and all
    that follows.
    """
    run, basis = facts.run, facts.run.basis()
    sample = sample_places(facts, design, SAMPLE, seed)
    few_rows = few_places(facts, design, seed)
    rng = np.random.default_rng([seed, 6])
    heads = list(directions)
    hosts = [heads[place] for place in rng.integers(0, len(heads), trials).tolist()]
    screened, codes = list[Honest](), list[Codes]()
    regressions: dict[str, Future[Predictability]] = {}
    sample_values, means = dict[str, npt.NDArray[np.float16]](), dict[str, Float64s]()
    spare = np.empty((len(sample), trials), np.float32)
    total = np.zeros((len(sample), run.spec.embed_dim), np.float32)
    # The regressions run beside the reading and screening of further heads, and beside the findings: nothing but the
    # report asks for them. Each holds 2,000 rows.
    with _working_on(_THREADS) as pool, ThreadPoolExecutor(_THREADS) as screening:
        for done, (head, values) in enumerate(each_of_vectors(run, heads, facts.position), 1):
            mean = values.mean(axis=0, dtype=np.float64)
            sample_values[head], means[head] = values[sample], mean
            deviations = sample_values[head].astype(np.float32) - mean.astype(np.float32)
            # (y - mean) Q, summed over heads
            total += deviations @ basis.Q(head).astype(np.float32)
            _fill_spare(spare, [place for place, host in enumerate(hosts) if host == head], deviations, rng)
            scores, few = _scores(values, mean, directions[head]), few_values(values, few_rows)
            if regress:
                regressions[head] = pool.submit(_predictability, head, few, basis, subspace, design, few_rows, seed)
            del values  # all images of a head: only its scores are needed beyond here
            # `map` keeps the order of the directions, whichever thread ends first
            for column, tests in screening.map(lambda column: _one(column, design, BINS), scores):
                screened.append(tests)
                codes.append(column[sample])
            on_head(done, len(heads))
    return Scan(
        directions=tuple(direction for head in heads for direction in directions[head]),
        screen=screen_of(screened, classes=design.classes),
        sample=sample,
        codes=np.stack(codes, axis=1) if codes else np.empty((len(sample), 0), np.uint16),  # of heads that never vary
        spare=spare,
        regressions=regressions,
        values=sample_values,
        means=means,
        heads_sum=total,
    )


def _fill_spare(spare: Float32s, trials: Sequence[int], deviations: Float32s, rng: np.random.Generator) -> None:
    """A real head's scores in an order of their own: a shift can be planted and nothing else is in them."""
    for trial in trials:
        spare[:, trial] = rng.permutation(_along_random(deviations, rng))


@contextmanager
def _working_on(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that takes no more tasks after the block, and ends those that it has."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


def sample_places(facts: ImageFacts, design: Design, limit: int, seed: int) -> Ints:
    """(s,) places of at most about `limit` images, classes as evenly as they allow, in order."""
    if len(facts) <= limit:
        return np.arange(len(facts))
    chosen = sampled(facts, limit, seed)
    places: Ints = np.searchsorted(facts.position, chosen.position)
    return places


def few_places(facts: ImageFacts, design: Design, seed: int) -> Ints:
    """(s,) places of the images that predictability is estimated from: of the largest classes."""
    large = np.argsort(-design.counts, kind="stable")[:MAX_CLASSES]
    inside = np.flatnonzero(np.isin(design.truth, large))
    candidates = facts.take(inside)
    places: Ints = inside[sample_places(candidates, design, MAX_ROWS, seed)]
    return places


def few_values(values: npt.NDArray[np.float16], places: Ints) -> Float64s:
    """(s, dh) float64."""
    values_: Float64s = values[places].astype(np.float64)
    return values_


def _predictability(
    head: str, values: Float64s, basis: Basis, subspace: Float64s, design: Design, places: Ints, seed: int
) -> Predictability:
    cluster = np.arange(len(places)) if design.cluster is None else design.cluster[places]
    part = subspace @ basis.Q(head).astype(np.float64).T
    _, truth = np.unique(design.truth[places], return_inverse=True)
    return predictability(head, values, part, truth.astype(np.int64), int(truth.max()) + 1, cluster, seed)


def _along_random(deviations: Float32s, rng: np.random.Generator) -> Float32s:
    """(s,) scores of a head's deviations (s, dh) along a random direction."""
    u = rng.standard_normal(deviations.shape[1])
    scores: Float32s = deviations @ (u / np.linalg.norm(u)).astype(np.float32)
    return scores


def _least_skill_last(entry: Predictability) -> float:
    return -(entry.skill_class_free.value or 0.0)


def _scores(values: npt.NDArray[np.float16], mean: Float64s, directions: Sequence[Direction]) -> list[Float32s]:
    """Each direction's (n,) class-free scores."""
    if not directions:
        return []
    folded = np.stack([direction.class_free for direction in directions], axis=1).astype(np.float32)
    scores = np.empty((len(directions), len(values)), np.float32)
    centre = mean.astype(np.float32)
    for start in range(0, len(values), _CHUNK):
        piece = slice(start, start + _CHUNK)
        scores[:, piece] = ((values[piece].astype(np.float32) - centre) @ folded).T
    return list(scores)


def _one(scores: Float32s, design: Design, bins: int) -> tuple[Codes, Honest]:
    codes = binned(scores, bins)
    return codes, honest(codes, design, bins)
