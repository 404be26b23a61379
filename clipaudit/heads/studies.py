"""The first paper's tables and figures from stored rows: MLPs, attention layers, single heads, texts per head.

Source: Gandelsman, Efros, Steinhardt 2024 (arXiv 2310.05916): table 1 and figure 2 (components and cumulative layers),
section 4.2 and figure 3 (accuracy by texts per head, against common words and random vectors). What a run does not
store stays as it is, and is named in a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from clipaudit.arrays import Float32s
from clipaudit.errors import UsageError
from clipaudit.heads.ablation import (
    Replacement,
    component_columns,
    layer_heads,
    span_reconstruction,
    stream_variants,
    why_no_self_attention,
)
from clipaudit.heads.experiment import Experiment
from clipaudit.heads.experiment_json import proportion_json, question_json
from clipaudit.heads.texts.commonwords import common_words
from clipaudit.heads.zeroshot import Group, SetScores, near_chance, score_sets
from clipaudit.schema import attention_column, parse_head_label
from clipaudit.statistics import Proportion

Variant: TypeAlias = tuple[Replacement, ...]

STUDIES: Final = ("components", "layers", "heads", "texts")
TEXT_COUNTS: Final = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60)
TEXTS, WORDS, RANDOM = "texts", "common words", "random vectors"
_AT_ONCE: Final = 64
"""Variants in one pass over the rows."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One variant of a study."""

    name: str
    """In words."""
    series: str = ""
    """Which line of the figure it is on."""
    x: float | None = None
    """Where on it: layers ablated, or texts a head."""
    seed: int | None = None
    columns: int
    """How many columns are replaced."""
    accuracy: Proportion
    """Of zero-shot classification, over all rows."""
    worst_group: Proportion | None
    """None without an attribute, or when every group is too small."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """A study's points; the first is the plain model."""

    name: str
    question: Experiment = field(repr=False)
    points: tuple[Point, ...]
    means: str
    """Where replacement means come from."""
    notes: tuple[str, ...]
    """What the run does not store, and what else a reader should know, one sentence each."""

    @property
    def base(self) -> Point:
        """The plain model."""
        return self.points[0]

    @property
    def near_chance(self) -> bool:
        """Whether the plain model's accuracy cannot be told from guessing."""
        return near_chance(self.base.accuracy, len(self.question.names))


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A variant to be scored."""

    name: str
    variant: Variant
    series: str = ""
    x: float | None = None
    seed: int | None = None


def study(
    question: Experiment,
    name: str,
    *,
    seeds: int = 3,
    counts: Sequence[int] = TEXT_COUNTS,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """One of STUDIES; `seeds` and `counts` (texts a head) are for `texts` alone. `on_step(done, total)` as it goes.

    UsageError for another name, or when the run stores nothing that the study could replace.
    """
    question.require_single_labels(f"--study {name}")
    if name == "texts":
        plans, source = _texts(question, seeds, counts)
        notes = [_texts_note(question, seeds)]
    else:
        makers = {"components": _components, "layers": _layers, "heads": _heads}
        if name not in makers:
            raise UsageError(f"--study must be one of {', '.join(STUDIES)}, not {name!r}")
        plans, source, notes = makers[name](question)
    stored = sorted({parse_head_label(head)[0] for head in question.run.head_labels})
    if len(stored) < question.run.manifest.model.get("tower", {}).get("layers", 0):
        notes.append(f"the run stores layers {', '.join(map(str, stored))}: all others stay as they are")
    if question.published is not None:
        notes.append(
            "parts are those of the published code (--allocation published); it counts the class token's embedding,"
            " `initial`, as one more MLP"
        )
    points = _score(question, plans, on_step)
    return Study(name=name, question=question, points=points, means=source, notes=tuple(notes))


def _score(question: Experiment, plans: Sequence[_Plan], on_step: Callable[[int, int], None]) -> tuple[Point, ...]:
    """The plain model and every plan, a bounded number of variants in each pass over the rows."""
    points: list[Point] = []
    for start in range(0, len(plans), _AT_ONCE):
        piece = plans[start : start + _AT_ONCE]
        # each variant is one column that a set takes or leaves; the first set takes none
        sets = np.concatenate([np.zeros((1, len(piece)), np.bool_), np.eye(len(piece), dtype=np.bool_)])
        scores = score_sets(stream_variants(question.run, question.asked, [plan.variant for plan in piece]), sets)
        if not points:
            points.append(_point(_Plan(name="nothing replaced", variant=()), scores, 0, question))
        points += [_point(plan, scores, row, question) for row, plan in enumerate(piece, 1)]
        on_step(min(start + _AT_ONCE, len(plans)), len(plans))
    return tuple(points)


def _point(plan: _Plan, scores: SetScores, row: int, question: Experiment) -> Point:
    groups: dict[Group, Proportion] = {
        group: Proportion(right=int(scores.group_right[row, g]), total=int(scores.group_total[g]))
        for g, group in enumerate(scores.groups)
    }
    large = [proportion for proportion in groups.values() if proportion.total >= question.config.min_group]
    return Point(
        name=plan.name,
        series=plan.series,
        x=plan.x,
        seed=plan.seed,
        columns=len(plan.variant),
        accuracy=Proportion(right=int(scores.class_right[row].sum()), total=int(scores.class_total.sum())),
        worst_group=min(large, key=lambda proportion: proportion.value, default=None),
    )


# -- the studies -------------------------------------------------------------------------------------------------------


def _components(question: Experiment) -> tuple[list[_Plan], str, list[str]]:
    """The rows of the paper's ablation table: all MLPs, class-token self-attention, and both; then each MLP alone."""
    run, mlps = question.run, question.mlps()
    missing = why_no_self_attention(run)
    own = () if missing is not None else component_columns(run, "self_attention")
    means = question.means([*mlps, *own])
    rows = {"all stored MLPs": mlps}
    if own:
        rows |= {"class-token self-attention": own, "both": (*mlps, *own)}
    plans = [_Plan(name=name, variant=question.ablated(columns, means)) for name, columns in rows.items()]
    plans += [_Plan(name=name, variant=question.ablated([name], means), series="one MLP") for name in mlps]
    notes = [] if missing is None else [f"no row of class-token self-attention: {missing}"]
    return plans, means.source, notes


def _layers(question: Experiment) -> tuple[list[_Plan], str, list[str]]:
    run = question.run
    layers = sorted({parse_head_label(head)[0] for head in run.head_labels})
    # the stored sum of a layer has its output bias, which no head has
    whole = all(attention_column(layer) in run.spec.components for layer in layers)
    columns = {layer: (attention_column(layer),) if whole else layer_heads(run, [layer]) for layer in layers}
    means = question.means([name for names in columns.values() for name in names])
    single = {layer: question.ablated(names, means) for layer, names in columns.items()}
    plans = [_Plan(name=f"layer {layer}", variant=single[layer], series="one layer") for layer in layers]
    for series, order in (("from the first stored", layers), ("from the last", layers[::-1])):
        for count in range(1, len(order) + 1):
            variant = tuple(r for layer in order[:count] for r in single[layer])
            span = f"layers {min(order[:count])} to {max(order[:count])}"
            plans.append(_Plan(name=span, variant=variant, series=series, x=count))
    notes = [] if whole else ["attention layers are the sums of their heads, without the output bias: no --components"]
    return plans, means.source, notes


def _heads(question: Experiment) -> tuple[list[_Plan], str, list[str]]:
    heads = question.run.head_labels
    means = question.means(heads)
    plans = [
        _Plan(name=replacement.column, variant=(replacement,), series="one head", x=place)
        for place, replacement in enumerate(question.ablated(heads, means))
    ]
    return plans, means.source, []


def _texts(question: Experiment, seeds: int, counts: Sequence[int]) -> tuple[list[_Plan], str]:
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {seeds}")
    if not counts or min(counts) < 1:
        raise UsageError("the study needs at least one text a head")
    heads, published = question.run.head_labels, question.published
    means = question.means(heads)
    plans = [_Plan(name="every stored head at its mean", variant=question.ablated(heads, means), x=0)]
    # as many texts span all of a head
    head_dim = question.run.spec.head_dim if published is None else published.head_dim
    sizes = sorted({min(count, head_dim) for count in counts})
    for series, seed, vectors in _pools(question, seeds):
        spans = question.spans_of(vectors, heads, sizes[-1])
        for count in sizes:
            variant = span_reconstruction(question.run, spans, means, count, published)
            plans.append(_Plan(name=f"{count} {series}", variant=variant, series=series, x=count, seed=seed))
    return plans, means.source


def _pools(question: Experiment, seeds: int) -> Iterator[tuple[str, int, Float32s]]:
    """Candidates of equal number: the pool's texts, common words, random directions; drawn anew for each seed."""
    pool, size = question.pool, _pool_size(question)
    texts = question.texts.vectors(pool.texts)
    words = question.texts.vectors(common_words()[:size])
    for seed in range(seeds):
        rng = np.random.default_rng([question.config.seed, seed])
        # bootstrap draws: texts and words are as much a sample as random directions are
        yield TEXTS, seed, texts[rng.integers(0, len(texts), size)]
        yield WORDS, seed, words[rng.integers(0, len(words), size)]
        # normal coordinates favour no direction; candidates may have any length
        vectors = rng.standard_normal((size, question.run.spec.embed_dim)).astype(np.float32)
        yield RANDOM, seed, vectors


def _pool_size(question: Experiment) -> int:
    return min(len(question.pool), len(common_words()))


def _texts_note(question: Experiment, seeds: int) -> str:
    return (
        f"{_pool_size(question):,} candidates each of {question.pool.source}, CLIP's most common words and random"
        f" directions, drawn with replacement for each of {seeds} seeds; all stored heads are replaced by what their"
        " texts span"
    )


# -- JSON --------------------------------------------------------------------------------------------------------------


def study_json(result: Study) -> dict[str, Any]:
    """A study as plain JSON values."""
    return {
        "study": result.name,
        **question_json(result.question),
        "means": result.means,
        "notes": list(result.notes),
        "near_chance": result.near_chance,
        "points": [_point_json(point) for point in result.points],
    }


def _point_json(point: Point) -> dict[str, Any]:
    worst = point.worst_group
    return {
        "name": point.name,
        "series": point.series,
        "x": point.x,
        "seed": point.seed,
        "columns": point.columns,
        "accuracy": proportion_json(point.accuracy),
        "worst_group": None if worst is None else proportion_json(worst),
    }
