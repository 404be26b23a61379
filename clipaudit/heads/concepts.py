"""What some images of a run are made of, in words: sparse concepts of stored embeddings, by label or column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Ints
from clipaudit.errors import UsageError
from clipaudit.heads.sparse import Dictionary, dictionary_of, fidelity, sparse_weights, strongest
from clipaudit.heads.texts.fit import TextVectors, fit_remark
from clipaudit.heads.texts.pool import TextPool
from clipaudit.run.moments import Moments
from clipaudit.run.reader import Run
from clipaudit.run.rows import ALL, Rows, group_column, moments_over, require_rows, stream_rows
from clipaudit.statistics import Proportion

FOLDER: Final = "concepts"
FILE: Final = "concepts.json"
PENALTY: Final = 0.25
SAMPLE: Final = 2000
_EVERYTHING: Final = "all images"
_LEAST: Final = 20
"""Images drawn of each group, or all where it has fewer."""


@dataclass(frozen=True, kw_only=True)
class ConceptConfig:
    """Which images are put into concepts, and how sparsely."""

    by: str | None = None
    """`label`, or a column whose values part the images; None for all images as one group."""
    rows: Rows = ALL
    penalty: float = PENALTY
    """Least cosine of a concept with what the others leave, above 0 and below 1; higher gives fewer concepts."""
    sample: int = SAMPLE
    """Images that are drawn at most, as many of each group."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.penalty < 1:
            raise UsageError(f"--penalty must be above 0 and below 1, not {self.penalty:g}")
        if self.sample < 1:
            raise UsageError(f"--sample must be at least 1, not {self.sample}")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept of a group of images."""

    text: str
    property: str
    weight: float
    """Mean weight over the group's images, 0..1."""
    images: Proportion
    """Of the group's drawn images, those in which it has a weight."""
    elsewhere: float | None
    """Share of the images of all other groups in which it has one, 0..1; None where there is one group."""


@dataclass(frozen=True, kw_only=True)
class ConceptGroup:
    """Images of one label or value, and what they are made of."""

    name: str
    rows: int
    drawn: int
    """Of these rows, those that were put into concepts."""
    concepts: tuple[Concept, ...]
    """Those whose mean weight is furthest above that of all other groups first; of one group, the largest."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Concepts:
    """What images of a run are made of."""

    run: Run = field(repr=False)
    config: ConceptConfig
    pool: TextPool = field(repr=False)
    groups: tuple[ConceptGroup, ...]
    """Largest first; images without a value are in none."""
    concepts: float
    """Mean number of concepts in an image."""
    cosine: float
    """Mean cosine of an image with the sum of its concepts, both relative to the mean of all rows: 1 is all of it."""
    texts_remark: str | None
    """That few of the texts fit the model, in a sentence; None when they do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Drawn:
    """The images that are put into concepts."""

    names: tuple[str, ...]
    """Of the G groups."""
    sizes: Ints
    """(G,) rows of each group."""
    group: Ints
    """(n,) each drawn image's group."""
    embeddings: Float32s
    """(n, D)"""


def concepts_of(
    run: Run,
    pool: TextPool,
    texts: TextVectors,
    config: ConceptConfig,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> Concepts:
    """Put images drawn from each group into sparse concepts of the pool; `on_images(done, total)` as it goes.

    UsageError when no row passes, the run has no such column, or there is one row alone, which nothing can be relative
    to. Source: SpLiCE (`heads.sparse`).
    """
    moments: Moments = moments_over(run, config.rows)
    require_rows(run, config.rows, moments.count)
    if moments.count < 2:
        raise UsageError("one image alone has no concepts: they are relative to the mean of all rows")
    vectors = np.asarray(texts.vectors(pool.texts))
    dictionary = dictionary_of(pool, vectors)
    drawn = _draw(run, config)
    mean = moments.mean("embedding")
    weights = sparse_weights(drawn.embeddings, mean, dictionary, config.penalty, on_images)
    return Concepts(
        run=run,
        config=config,
        pool=pool,
        groups=_groups(drawn, dictionary, weights),
        concepts=float((weights > 0).sum(axis=1).mean()),
        cosine=float(fidelity(drawn.embeddings, mean, dictionary, weights).mean()),
        texts_remark=fit_remark(pool, vectors, texts),
    )


def _draw(run: Run, config: ConceptConfig) -> _Drawn:
    """As many images of each group, at random, read in one pass after one that counts."""
    group, names = _grouping(run, config)
    sizes = np.bincount(group[group >= 0], minlength=len(names))
    quota = max(config.sample // max(len(names), 1), _LEAST)
    rng = np.random.default_rng(config.seed)
    places = [np.flatnonzero(group == g) for g in range(len(names))]
    chosen = np.sort(np.concatenate([rng.choice(p, min(quota, len(p)), replace=False) for p in places]))
    found: list[Float32s] = []
    start = 0
    for batch in stream_rows(run, ["embedding"], (), config.rows):
        stop = start + len(batch)
        inside = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)]
        found.append(batch.vectors["embedding"][inside - start])
        start = stop
    return _Drawn(names=names, sizes=sizes, group=group[chosen], embeddings=np.concatenate(found))


def _grouping(run: Run, config: ConceptConfig) -> tuple[Ints, tuple[str, ...]]:
    """(n,) the group of every row, -1 without a value, and the groups' names, the largest group first."""
    if config.by is None:
        count = moments_over(run, config.rows).count
        return np.zeros(count, np.int64), (_EVERYTHING,)
    column = group_column(run, config.by)
    if column == "label" and run.spec.multi_label:
        raise UsageError("--by label needs images of one label each; name another column, or leave --by out")
    values: list[Any] = []
    for batch in stream_rows(run, (), [column], config.rows):
        values += [_plain(value) for value in batch.columns[column]]
    counts: dict[Any, int] = {}
    for value in values:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    if not counts:
        raise UsageError(f"--by {config.by}: no row has a value of it")
    if len(counts) > config.sample:
        raise UsageError(f"--by {config.by} has {len(counts):,} values, more than --sample {config.sample:,} images")
    order = sorted(counts, key=lambda value: (-counts[value], str(value)))
    numbers = {value: number for number, value in enumerate(order)}
    names = run.class_names.by_label if column == "label" and run.class_names is not None else {}
    group = np.array([numbers.get(value, -1) for value in values], np.int64)
    return group, tuple(str(names.get(value, value)) for value in order)


def _plain(value: Any) -> Any:  # noqa: ANN401 - a label or a value of a column
    """A number of numpy as Python's own, so that it equals the class file's label."""
    return value.item() if isinstance(value, np.generic) else value


def _groups(drawn: _Drawn, dictionary: Dictionary, weights: Float32s) -> tuple[ConceptGroup, ...]:
    G = len(drawn.names)
    count = np.bincount(drawn.group, minlength=G)
    has = np.stack([(weights[drawn.group == g] > 0).sum(axis=0) for g in range(G)])  # (G, T)
    mean = np.stack([weights[drawn.group == g].mean(axis=0, dtype=np.float64) for g in range(G)])
    elsewhere, weight_elsewhere = _elsewhere(has / count[:, None], drawn.sizes), _elsewhere(mean, drawn.sizes)
    above = mean if weight_elsewhere is None else np.where(mean > 0, mean - weight_elsewhere, 0.0)
    return tuple(
        ConceptGroup(
            name=drawn.names[g],
            rows=int(drawn.sizes[g]),
            drawn=int(count[g]),
            concepts=tuple(
                Concept(
                    text=dictionary.texts[place],
                    property=dictionary.properties[place],
                    weight=float(mean[g, place]),
                    images=Proportion(right=int(has[g, place]), total=int(count[g])),
                    elsewhere=None if elsewhere is None else float(elsewhere[g, place]),
                )
                for place in strongest(above[g], len(dictionary)).tolist()
            ),
        )
        for g in range(G)
    )


def _elsewhere(shares: Float64s, sizes: Ints) -> Float64s | None:
    """(G, T) mean of shares (G, T) over all other groups, each weighing as many rows as it has; None for one group."""
    if len(sizes) == 1:
        return None
    rows = sizes[:, None].astype(np.float64)
    others: Float64s = ((rows * shares).sum(axis=0) - rows * shares) / (rows.sum() - rows)
    return np.clip(others, 0.0, 1.0)  # a difference of sums may round below 0


def concepts_json(result: Concepts, top: int) -> dict[str, Any]:
    """Plain JSON values, with the `top` concepts of each group."""
    config, pool = result.config, result.pool
    return {
        "run": result.run.url,
        "fingerprint": result.run.manifest.fingerprint,
        "where": list(config.rows.where),
        "by": config.by,
        "penalty": config.penalty,
        "sample": config.sample,
        "seed": config.seed,
        "texts": {"source": pool.source, "count": len(pool), "fingerprint": pool.fingerprint},
        "texts_remark": result.texts_remark,
        "concepts_an_image": result.concepts,
        "cosine": result.cosine,
        "groups": [
            {
                "name": group.name,
                "rows": group.rows,
                "drawn": group.drawn,
                "concepts": [_concept_json(concept) for concept in group.concepts[:top]],
            }
            for group in result.groups
        ],
    }


def _concept_json(concept: Concept) -> dict[str, Any]:
    low, high = concept.images.interval()
    share = {"value": concept.images.value, "low": low, "high": high}
    return {**asdict(concept), "images": share}
