"""What an audit was asked, for its result."""

from __future__ import annotations

import importlib.metadata
from typing import Final

from clipaudit.cues.options import AuditOptions
from clipaudit.cues.result.finding_parts import ClassesFrom
from clipaudit.cues.result.panels import Settings
from clipaudit.heads.texts.pool import TextPool
from clipaudit.run.classes import ClassNames
from clipaudit.schema import VERSION

_PACKAGES: Final = ("numpy", "scipy", "pyarrow")


def settings_of(
    options: AuditOptions, pool: TextPool, names: ClassNames, classes_from: ClassesFrom, *, several_labels: bool
) -> Settings:
    """The settings of an audit; several_labels: whether images may have several labels."""
    return Settings(
        alpha=options.alpha,
        delta_warn=options.delta_warn,
        delta_fail=options.delta_fail,
        directions_per_head=options.directions,
        n_min=options.n_min,
        permutations=options.permutations,
        random_sets=options.random_sets,
        negative_audits=options.negative_audits,
        positive_trials=options.positive_trials,
        margin=options.margin,
        core=options.core,
        clean_labels=options.clean_labels,
        seed=options.seed,
        pool=pool.source,
        pool_fingerprint=pool.fingerprint,
        classes=names.source,
        classes_from=classes_from,
        several_labels=several_labels,
        templates=options.templates,
        user_texts=options.user_texts,
        attributes=options.attributes,
        rehearse=options.rehearse,
        predictions=options.predictions,
        scores=options.scores,
        split=options.split,
        cluster=options.cluster,
        environment=options.environment,
    )


def versions() -> dict[str, str]:
    """Of what made the result."""
    return {"clipaudit": VERSION, **{name: importlib.metadata.version(name) for name in _PACKAGES}}
