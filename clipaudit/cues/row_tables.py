"""Tables by image for a data set's owner to act on: `AuditResult.rows`, to be written as Parquet, CSV or lists.

Every table begins with `shard_id` int32, `index` int32, `key` string, `class` string (but `collect`).

| name | one row is | further columns |
|---|---|---|
| `groups` | an image that was used | `rows` (`association`, `counterfactual`, `both`), a column per attribute |
| `weights` | an image of the association | a column per attribute, `weight`; metadata `effective_n`, `cap` |
| `balanced` | an image of a subset with equal groups | |
| `collect` | a cell to fill | `class`, `attribute`, `value`, `have`, `collect`, `finding` |
| `spuriosity` | an image of a finding's class | `finding`, `score`, `rank` (1 has most of the cue) |
| `review` | an image worth a look | `finding`, `reason` |

Without labels there are no `weights`, `balanced` and `collect`: their classes have not been checked by anybody.

`heads.json` is `heads(result)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.measure.answers import read_vectors
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.result.result import AuditResult, Finding
from clipaudit.heads.texts.classes import ClassNames

CAP: Final = 50.0
"""Largest weight of an image: a few images of a rare group would otherwise decide a training."""
_REVIEWED: Final = 200
"""Images to look at of each finding, at most."""


def row_tables(
    context: Context,
    findings: Sequence[Finding],
    everything: ImageFacts,
    test: ImageFacts | None,
    columns: Sequence[str],
) -> dict[str, pa.Table]:
    """The tables of the module's docstring, by name.

    everything: the association's images; test: those that are scored, when they are others; columns: usable attributes.
    """
    names = context.names
    tables = {
        "groups": _groups(everything, test, names, columns),
        "collect": collect(context, findings),
        "spuriosity": _joined([spuriosity(context, finding) for finding in findings], _SPURIOSITY),
        "review": _joined([_review(finding) for finding in findings], _REVIEW),
    }
    if context.classes_from != "label":
        del tables["collect"]
        return tables
    groups = _cells(everything, columns)
    weights, effective = balanced_weights(groups)
    parts = {name: _values(everything, name) for name in columns}
    table = pa.table({**_identity(everything, names), **parts, "weight": pa.array(weights)})
    tables["weights"] = table.replace_schema_metadata({"effective_n": f"{effective:.1f}", "cap": f"{CAP:g}"})
    subset = everything.take(balanced_subset(groups, context.options.seed))
    tables["balanced"] = pa.table(_identity(subset, names))
    return tables


def heads(result: AuditResult) -> dict[str, Any]:
    """`heads.json`: the heads and texts of each finding, to ablate them elsewhere."""
    return {
        "model": result.model,
        "model_fingerprint": result.model_fingerprint,
        "findings": [
            {
                "finding": finding.id,
                "class": finding.class_name,
                "cue": finding.cue.name,
                "verdict": str(finding.verdict),
                "heads": list(finding.counterfactual.arms[0].heads if finding.counterfactual else finding.cue.heads),
                "words": [word.text for word in finding.cue.words],
            }
            for finding in result.findings
        ],
    }


# -- weights -----------------------------------------------------------------------------------------------------------


def balanced_weights(groups: Ints) -> tuple[Float64s, float]:
    """(n,) float64 weights n / (G n_g), at most 50, and the effective number of images.

    groups: (n,) group of each image, at least 0; G groups of n_g images each. Effective: (sum w)^2 / sum w^2 (Kish
    1965).
    """
    if not len(groups):
        return np.empty(0), 0.0
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights = np.minimum(len(groups) / (len(counts) * counts[codes]), CAP)
    return weights, float(weights.sum() ** 2 / (weights**2).sum())


def balanced_subset(groups: Ints, seed: int = 0) -> Ints:
    """(m,) places, ascending, of a random sample with as many images of each group (n,) as the smallest has."""
    if not len(groups):
        return np.empty(0, np.int64)
    rng = np.random.default_rng([seed, 10])
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.lexsort((rng.random(len(groups)), codes))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(order)) - np.repeat(starts, counts)
    places: Ints = np.sort(order[rank < counts.min()])
    return places


def _cells(facts: ImageFacts, columns: Sequence[str]) -> Ints:
    """(n,) class x values of all columns; a missing value is a value of its own."""
    groups = facts.truth.copy()
    for name in columns:
        attribute = facts.attributes[name]
        groups = groups * (len(attribute.values) + 1) + attribute.codes + 1
    return groups


# -- what to collect, what to look at ----------------------------------------------------------------------------------


def collect(context: Context, findings: Sequence[Finding]) -> pa.Table:
    """Cells of attribute findings with fewer images than if class and value were independent, and how many to add."""
    rows: list[dict[str, Any]] = []
    for finding in findings:
        screen = next(
            (screen for screen in context.attributes if screen.attribute.column == finding.cue.attribute), None
        )
        if screen is None:
            continue
        k = next(k for k in range(context.design.classes) if context.name(k) == finding.class_name)
        share = screen.counts.sum(axis=0) / max(int(screen.counts.sum()), 1)
        # the class keeps its most aligned value; the others are filled up to the shares of all images
        top = int(np.argmax(screen.counts[k] / np.maximum(share, 1e-9)))
        target = screen.counts[k, top] * share / max(float(share[top]), 1e-9)
        rows += [
            {
                "class": finding.class_name,
                "attribute": screen.attribute.column,
                "value": value,
                "have": int(screen.counts[k, place]),
                "collect": int(np.ceil(target[place])) - int(screen.counts[k, place]),
                "finding": finding.id,
            }
            for place, value in enumerate(screen.attribute.values)
            if target[place] > screen.counts[k, place] and place != top
        ]
    return pa.Table.from_pylist(rows, schema=_COLLECT)


def spuriosity(context: Context, finding: Finding) -> pa.Table:
    """All images of a finding's class, most of the cue first, scored along the strongest direction of its heads."""
    k = next(k for k in range(context.design.classes) if context.name(k) == finding.class_name)
    direction, sign = _strongest(context, finding, k)
    if direction is None:
        return pa.table({name: pa.array([], kind) for name, kind in _SPURIOSITY.items()})
    facts = context.facts.take(context.design.truth == k)
    values = read_vectors(context.run, direction.head, facts.position).astype(np.float32)
    centre = context.scan.means[direction.head].astype(np.float32)
    scores = sign * ((values - centre) @ direction.class_free.astype(np.float32))
    order = np.argsort(-scores, kind="stable")
    table = pa.table(
        {
            "finding": pa.array([finding.id] * len(order)),
            **_identity(facts, context.names),
            "score": pa.array(scores.astype(np.float64)),
        }
    ).take(pa.array(order))
    return table.append_column("rank", pa.array(np.arange(1, len(order) + 1)))


def _strongest(context: Context, finding: Finding, k: int) -> tuple[Any, float]:
    """The direction of the finding's heads along which class k differs most, and its end, -1 or 1."""
    places = [m for m, direction in enumerate(context.scan.directions) if direction.head in finding.cue.heads]
    if not places:
        return None, 1.0
    best = max(places, key=lambda m: float(context.family.low[m, k]))
    return context.scan.directions[best], 1.0 if context.family.d[best, k] >= 0 else -1.0


def _review(finding: Finding) -> pa.Table:
    rows = [
        {
            "finding": finding.id,
            "shard_id": ref.shard_id,
            "index": ref.index,
            "key": ref.key,
            "class": ref.class_name,
            "reason": reason,
        }
        for reason, refs in (
            ("goes against the cue", finding.gallery.conflicting),
            ("has least of the cue", finding.gallery.least_spurious),
        )
        for ref in refs
    ][:_REVIEWED]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(_REVIEW.items())))


# -- columns -----------------------------------------------------------------------------------------------------------

_ID: Final = {"shard_id": pa.int32(), "index": pa.int32(), "key": pa.string(), "class": pa.string()}
_SPURIOSITY: Final = {"finding": pa.string(), **_ID, "score": pa.float64(), "rank": pa.int64()}
_REVIEW: Final = {"finding": pa.string(), **_ID, "reason": pa.string()}
_COLLECT: Final = pa.schema(
    [
        ("class", pa.string()),
        ("attribute", pa.string()),
        ("value", pa.string()),
        ("have", pa.int64()),
        ("collect", pa.int64()),
        ("finding", pa.string()),
    ]
)


def _groups(facts: ImageFacts, test: ImageFacts | None, names: ClassNames, columns: Sequence[str]) -> pa.Table:
    if test is None:
        return _group_part(facts, names, columns, "both")
    parts = [(facts, "association"), (test, "counterfactual")]
    return pa.concat_tables([_group_part(part, names, columns, word) for part, word in parts])


def _group_part(facts: ImageFacts, names: ClassNames, columns: Sequence[str], word: str) -> pa.Table:
    parts: Mapping[str, Any] = {name: _values(facts, name) for name in columns}
    return pa.table({**_identity(facts, names), "rows": pa.array([word] * len(facts), pa.string()), **parts})


def _identity(facts: ImageFacts, names: ClassNames) -> dict[str, Any]:
    words = np.array([*names.names, None], object)
    return {
        "shard_id": pa.array(facts.shard_id, pa.int32()),
        "index": pa.array(facts.index, pa.int32()),
        "key": facts.key.combine_chunks() if isinstance(facts.key, pa.ChunkedArray) else facts.key,
        "class": pa.array(words[facts.truth], pa.string()),
    }


def _values(facts: ImageFacts, name: str) -> pa.Array:
    attribute = facts.attributes[name]
    words = np.array([*attribute.values, None], object)
    return pa.array(words[attribute.codes], pa.string())


def _joined(tables: Sequence[pa.Table], columns: Mapping[str, pa.DataType]) -> pa.Table:
    schema = pa.schema(list(columns.items()))
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])
