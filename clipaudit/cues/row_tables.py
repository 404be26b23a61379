"""Tables by image that an owner acts on: `AuditResult.rows`, ready to be written as Parquet, CSV or lists.

Every table begins with `shard_id` int32, `index` int32, `key` string, `class` string (but `collect`).

| name | one row is | further columns |
|---|---|---|
| `groups` | an image that was used | `rows` (`association`, `counterfactual`, `both`), a column per attribute |
| `weights` | an image of the association | a column per attribute, `weight` of all declared ones together, of several
|  |  | also `weight.NAME` of each alone; metadata `effective_n`, `cap` |
| `balanced` | an image of a subset with equal groups | |
| `collect` | a cell to fill | `class`, `attribute`, `value`, `have`, `collect`, `finding` |
| `spuriosity` | an image of a class that has a finding's cue | `finding`, `score`, `rank` (1 has most of the cue) |
| `review` | an image worth a look | `finding` (`label` for one whose label is contradicted), `reason` |
| `slices` | an image of an error slice | `answerer`, `slice`, `images` in words, `answer`, `wrong`, `rank` (1 most) |

Without labels there are no `weights`, `balanced` and `collect`: they would teach a model what nobody has checked.

`answers` comes from `answer_table`; `heads.json` is `heads(result)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Ints
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.shift import having_classes, strongest_direction
from clipaudit.cues.measure.vectors import read_vectors
from clipaudit.cues.result.result import AuditResult, Finding
from clipaudit.cues.statistics.balance import CAP, balanced_subset, balanced_weights, group_codes
from clipaudit.run.classes import ClassNames

_REVIEWED: Final = 200


def row_tables(
    context: Context,
    findings: Sequence[Finding],
    everything: ImageFacts,
    test: ImageFacts | None,
    columns: Sequence[str],
    *,
    slices: pa.Table,
    doubtful: pa.Table,
) -> dict[str, pa.Table]:
    """The tables of the module's docstring; `columns` are the usable attributes, `doubtful` the rows of `review` for
    labels."""
    names = context.names
    tables = {
        "groups": _groups(everything, test, names, columns),
        "collect": collect(findings),
        "spuriosity": _joined([spuriosity(context, finding) for finding in findings], _SPURIOSITY),
        "review": _joined([*(_review(finding) for finding in findings), doubtful], _REVIEW),
    }
    if slices.num_rows:
        tables["slices"] = slices
    if context.classes_from != "label":
        del tables["collect"]
        return tables
    # nobody asked for image properties: with all of them together every image would be a group of its own. They count
    # where they have a finding, and in the weight of all columns only where no column is declared.
    with_finding = {finding.cue.attribute for finding in findings}
    declared = [name for name in columns if name not in context.measured]
    used = [name for name in columns if name in declared or name in with_finding]
    groups = _groups_of(everything, declared or used)
    weights, effective = balanced_weights(groups)
    parts = {name: _values(everything, name) for name in used}
    # a column by itself is what a rehearsal of it is trained with (docs/method.md S14)
    alone = {
        f"weight.{name.removeprefix('attributes.')}": pa.array(balanced_weights(_groups_of(everything, [name]))[0])
        for name in (used if len(used) > 1 else ())
    }
    table = pa.table({**_identity(everything, names), **parts, "weight": pa.array(weights), **alone})
    tables["weights"] = table.replace_schema_metadata({"effective_n": f"{effective:.1f}", "cap": f"{CAP:g}"})
    subset = everything.take(balanced_subset(groups, context.options.seed))
    tables["balanced"] = pa.table(_identity(subset, names))
    return tables


def presence_tables(
    images: ImageFacts,
    names: ClassNames,
    findings: Sequence[Finding],
    scores: Sequence[pa.Table],
    columns: Sequence[str],
) -> dict[str, pa.Table]:
    """The same where images have several labels, whose lists are the classes `names`: weights and a balanced subset
    need one label an image. scores: the `spuriosity` of findings."""
    return {
        "groups": _groups(images, None, names, columns),
        "collect": collect(findings),
        "spuriosity": _joined(scores, _SPURIOSITY),
        "review": _joined([_review(finding) for finding in findings], _REVIEW),
    }


def heads(result: AuditResult) -> dict[str, Any]:
    """`heads.json`: by finding, which heads and texts, to ablate them elsewhere."""
    return {
        "model": result.model,
        "model_fingerprint": result.model_fingerprint,
        "findings": [
            {
                "finding": finding.id,
                "class": finding.class_name,
                "cue": finding.cue.name,
                "verdict": str(finding.verdict),
                "heads": list(finding.counterfactual.heads if finding.counterfactual else finding.cue.heads),
                "words": [word.text for word in finding.cue.words],
            }
            for finding in result.findings
        ],
    }


def _groups_of(facts: ImageFacts, columns: Sequence[str]) -> Ints:
    """(n,) class x values of the columns."""
    return group_codes(facts.truth, [facts.attributes[name] for name in columns])


# -- what to collect, what to look at ----------------------------------------------------------------------------------


def collect(findings: Sequence[Finding]) -> pa.Table:
    """Cells to fill so that a finding's value no longer goes with its classes: the numbers of its class rows."""
    rows: list[dict[str, Any]] = []
    for finding in findings:
        if finding.kind != "value":
            continue
        rows += [
            {
                "class": row.class_name,
                "attribute": finding.cue.attribute,
                "value": row.collect_value,
                "have": row.without_cue if row.has else row.with_cue,
                "collect": row.collect,
                "finding": finding.id,
            }
            for row in finding.classes
            if row.collect
        ]
    return pa.Table.from_pylist(rows, schema=_COLLECT)


def spuriosity(context: Context, finding: Finding) -> pa.Table:
    """All images of the classes that have a finding's cue by how much of it they have, along the strongest direction of
    its heads."""
    upper = having_classes(context, finding)
    m, sign = strongest_direction(context, finding, upper)
    if m is None:
        return pa.table({name: pa.array([], kind) for name, kind in _SPURIOSITY.items()})
    direction = context.scan.directions[m]
    facts = context.facts.take(upper[context.design.truth])
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
