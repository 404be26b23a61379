"""Classes of images without labels: what their captions name, or what CLIP itself answers."""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Ints
from clipaudit.cues.result.finding_parts import ClassesFrom
from clipaudit.errors import UsageError
from clipaudit.heads.texts.mentions import SEVERAL, forms_of, named_class
from clipaudit.run.classes import ClassNames
from clipaudit.run.reader import Run
from clipaudit.run.rows import stream_rows

_CAPTIONS: Final = 65_536
"""Captions read at a time."""


def classes_source(run: Run, wanted: ClassesFrom | None) -> ClassesFrom:
    """What says which class an image of the run is: what is wanted, else its label, else its caption.

    UsageError when the run has no such column, or nothing is wanted and it has neither.
    """
    labels, captions, url = run.spec.label_kind is not None, run.spec.caption, run.directory.url
    if wanted is None and not labels and not captions:
        raise UsageError(
            f"the run at {url} has no labels and no captions: audit its shards again with --label or --caption, or take"
            " CLIP's own answers for classes with --classes-from clip"
        )
    if wanted == "label" and not labels:
        raise UsageError(
            f"the run at {url} has no labels: audit its shards again with --label, or ask for --classes-from"
            f" {'caption or clip' if captions else 'clip'}"
        )
    if wanted == "caption" and not captions:
        raise UsageError(
            f"the run at {url} has no captions: audit its shards again with --caption, or ask for --classes-from"
            f" {'label or clip' if labels else 'clip'}"
        )
    return wanted or ("label" if labels else "caption")


def caption_classes(run: Run, names: ClassNames) -> Ints:
    """(n,) int64 class that the caption of each ok row of the run names: NONE or SEVERAL where it names not one."""
    forms = forms_of(names.names, names.others)
    classes = [
        named_class(caption, forms)
        for batch in stream_rows(run, (), ["caption"], size=_CAPTIONS)
        for caption in batch.columns["caption"].tolist()
    ]
    return np.array(classes, np.int64)


def own_answers(run: Run, names: ClassNames, classes: Float32s) -> Ints:
    """(n,) int64 class that CLIP answers for each ok row of the run, from class vectors (C, D).

    SEVERAL where the answer is a name of several classes.
    """
    parts = [
        (batch.vectors["embedding"] @ classes.T).argmax(axis=1).astype(np.int64)
        for batch in stream_rows(run, ["embedding"])
    ]
    repeated = np.array(names.shares_name, np.bool_)
    answers = np.concatenate([np.empty(0, np.int64), *parts])
    return np.where(repeated[answers], SEVERAL, answers)
