"""What each answerer says of each scored image, as a table by image: who is wrong where, with and without a cue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Ints
from clipaudit.cues.answerers.panel import Panel
from clipaudit.cues.measure.context import Context
from clipaudit.cues.result.result import Finding

WITHOUT: Final = "clip.without."
"""Before the id of a finding: CLIP's answer with the heads of the finding's effect at their means."""


def answer_tables(context: Context, panel: Panel | None, findings: Sequence[Finding]) -> dict[str, pa.Table]:
    """The table `answers`; nothing where nobody answers.

    A row a scored image: shard_id, index, key, class, a column an answerer with the class that it answers, and
    `clip.without.ID` for each finding whose heads were taken out.
    """
    if context.answers is None or panel is None:
        return {}
    answers, facts = context.answers, context.answers.facts
    words = np.array(context.names.names, object)

    def named(classes: Ints) -> pa.Array:
        return pa.array(words[classes], pa.string())

    columns: dict[str, Any] = {
        "shard_id": pa.array(facts.shard_id, pa.int32()),
        "index": pa.array(facts.index, pa.int32()),
        "key": facts.key.combine_chunks() if isinstance(facts.key, pa.ChunkedArray) else facts.key,
        "class": named(answers.truth),
    }
    for answerer in panel.answerers:
        columns[answerer.name] = named(answerer.logits.argmax(axis=1))
    for finding in findings:
        effect = next((part.effect for part in finding.reliance if part.answerer == "clip"), None)
        if effect is not None and effect.heads:
            columns[f"{WITHOUT}{finding.id}"] = named(answers.without(effect.heads).argmax(axis=1))
    return {"answers": pa.table(columns)}
