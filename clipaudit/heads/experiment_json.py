"""Experiments and ablations as plain JSON values."""

from __future__ import annotations

from typing import Any

from clipaudit.heads.description import role_json
from clipaudit.heads.experiment import Ablation, Experiment
from clipaudit.heads.zeroshot import Score
from clipaudit.statistics import Proportion


def question_json(question: Experiment) -> dict[str, Any]:
    """What an experiment asks, as plain JSON values."""
    run, config = question.run, question.config
    return {
        "run": run.url,
        "fingerprint": run.manifest.fingerprint,
        "model": run.manifest.model["fingerprint"],
        "classes": {"source": question.names.source, "names": list(question.names.names)},
        "templates": config.templates,
        "allocation": config.allocation,
        "where": list(question.asked.rows.where),
        "fit": list(question.fit.where),
        "attribute": question.asked.attribute,
        "min_group": config.min_group,
        "seed": config.seed,
    }


def ablation_json(result: Ablation) -> dict[str, Any]:
    """An ablation as plain JSON values."""
    return {
        **question_json(result.question),
        "columns": list(result.columns),
        "roles": {head: role_json(role) for head, role in result.roles.items()},
        "reconstructed": result.reconstructed,
        "direction": result.direction,
        "means": result.means.source,
        "near_chance": result.base.near_chance,
        "base": score_json(result.base, result.question),
        "ablated": score_json(result.ablated, result.question),
        "accuracy_control": result.accuracy_control and vars(result.accuracy_control),
        "worst_group_control": result.worst_control and vars(result.worst_control),
    }


def score_json(result: Score, question: Experiment) -> dict[str, Any]:
    """A score as plain JSON values: counts with shares and 95 % intervals."""
    names, worst = question.names.names, result.worst_group(question.config.min_group)
    return {
        "accuracy": proportion_json(result.accuracy),
        "classes": [
            {"class": name, **proportion_json(share)} for name, share in zip(names, result.by_class, strict=True)
        ],
        "groups": [
            {"class": names[row], "value": value, **proportion_json(share)}
            for (row, value), share in result.groups.items()
        ],
        "worst_group": None
        if worst is None
        else {"class": names[worst[0][0]], "value": worst[0][1], **proportion_json(worst[1])},
        "confusion": result.confusion.tolist(),
    }


def proportion_json(proportion: Proportion) -> dict[str, Any]:
    """Counts, share (0..1) and 95 % interval."""
    low, high = proportion.interval()
    return {
        "right": proportion.right,
        "total": proportion.total,
        "share": proportion.value,
        "low": low,
        "high": high,
    }
