"""Ablations where images have several labels: what replacing heads does to the ranking of images by each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Bools, Float32s
from clipaudit.errors import UsageError
from clipaudit.heads.ablation import Means, stream_logits
from clipaudit.heads.column_sets import random_sets
from clipaudit.heads.description import role_json
from clipaudit.heads.experiment import Experiment, Prepared, prepare
from clipaudit.heads.experiment_json import question_json
from clipaudit.heads.named_columns import Choice
from clipaudit.heads.presence import PresenceScore, mean_precision, presence_scores
from clipaudit.heads.roles import Role
from clipaudit.heads.zeroshot import Control, control
from clipaudit.statistics import BootstrapEstimate

_LOGITS: Final = 2**26
"""Logits of random sets that are held at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PresenceAblation:
    """What replacing some columns does to zero-shot ranking: average precision and AUC of each class."""

    question: Experiment = field(repr=False)
    columns: tuple[str, ...]
    reconstructed: int | None
    """Heads were replaced by what so many texts span; None: everything was replaced by its mean."""
    means: Means
    base: PresenceScore
    ablated: PresenceScore
    change: BootstrapEstimate
    """Of the mean average precision, paired over images."""
    roles: dict[str, Role]
    """Of the replaced heads, when they were chosen by role."""
    control: Control | None
    """The ablated mean average precision among those of random sets of as many heads of the same layers."""


def presence_ablation(
    question: Experiment,
    choice: Choice,
    *,
    reconstruct: int | None = None,
    random: int = 0,
    on_head: Callable[[int, int], None] = lambda done, total: None,
) -> PresenceAblation:
    """Replace the chosen columns and rank the images by each class's cosine again (docs/method.md 5).

    Keeps images x classes numbers for the two states, and a bounded number of them for random sets. UsageError as
    `heads.experiment.ablation`, for a run of single labels, and for groups, which need them.
    """
    run = question.run
    if not run.spec.multi_label:
        raise UsageError(f"images of the run at {run.directory.url} have one label each: presence needs lists of them")
    if question.config.attribute is not None:
        raise UsageError(
            "--attribute makes groups of classes by its values, and images of the run at"
            f" {run.directory.url} have several classes: choose rows by --where instead"
        )
    prepared = prepare(question, choice, reconstruct=reconstruct, random=random, on_head=on_head)
    chosen = prepared.chosen
    (plain, replaced), present = _logits(question, prepared, np.stack([chosen & False, chosen]))
    (base, ablated), changes = presence_scores([plain, replaced], present)
    drawn: list[float] = []
    if random:
        sets = random_sets(prepared.everything, prepared.columns, random, question.config.seed)
        drawn = list(_drawn_precisions(question, prepared, sets, len(present)))
    return PresenceAblation(
        question=question,
        columns=prepared.columns,
        reconstructed=reconstruct,
        means=prepared.means,
        base=base,
        ablated=ablated,
        change=changes[1],
        roles=prepared.roles,
        control=control(ablated.mean.value, drawn) if random else None,
    )


def _logits(question: Experiment, prepared: Prepared, sets: Bools) -> tuple[Sequence[Float32s], Bools]:
    """Each of S sets' logits, (n, C) each, and (n, C) which classes each image has; sets (S, P)."""
    parts: list[list[Float32s]] = [[] for _ in sets]
    present: list[Bools] = []
    for batch in stream_logits(question.run, question.asked, prepared.replacements):
        assert batch.present is not None
        present.append(batch.present)
        for place, chosen in enumerate(sets):
            parts[place].append(batch.base - batch.removed[chosen].sum(axis=0))
    if not present:
        raise UsageError("there are no rows to score")
    return [np.concatenate(each) for each in parts], np.concatenate(present)


def _drawn_precisions(question: Experiment, prepared: Prepared, sets: Bools, images: int) -> Iterator[float]:
    """The mean average precision of each of many sets, a bounded number of sets in each pass over the rows."""
    at_once = max(1, _LOGITS // max(images * len(question.names), 1))
    for start in range(0, len(sets), at_once):
        scores, present = _logits(question, prepared, sets[start : start + at_once])
        for values in scores:
            yield mean_precision(values, present)


def presence_json(result: PresenceAblation) -> dict[str, Any]:
    """A presence ablation as plain JSON values; null where a class has no figure."""
    names = result.question.names.names

    def score(of: PresenceScore) -> dict[str, Any]:
        return {
            "images": of.images,
            "mean_average_precision": vars(of.mean),
            "mean_auc": _number(of.mean_auc),
            "chance": of.chance,
            "classes": [
                {
                    "class": name,
                    "images": int(of.with_class[c]),
                    "average_precision": _number(float(of.average_precision[c])),
                    "auc": _number(float(of.auc[c])),
                }
                for c, name in enumerate(names)
            ],
        }

    return {
        **question_json(result.question),
        "columns": list(result.columns),
        "roles": {head: role_json(role) for head, role in result.roles.items()},
        "reconstructed": result.reconstructed,
        "means": result.means.source,
        "near_chance": result.base.near_chance,
        "base": score(result.base),
        "ablated": score(result.ablated),
        "change": vars(result.change),
        "control": result.control and vars(result.control),
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
