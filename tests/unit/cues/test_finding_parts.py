"""Parts of findings on plain arrays: rows of classes, galleries, values that a model hangs on without a tie."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from clipaudit.cues.findings.galleries import _answers
from clipaudit.cues.findings.parts import class_rows
from clipaudit.cues.findings.value_cues import _difference
from clipaudit.cues.measure.shift import having_classes
from clipaudit.cues.statistics.design import Design


@pytest.mark.parametrize(("having", "side"), [(30, "has"), (34, "lacks"), (3, "has")])
def test_classes_beyond_twenty_are_on_the_side_that_they_are_on(having, side):
    """64 classes, of which 30 are named: the last ten were taken for classes without the cue."""
    upper = np.arange(64) < having
    context = SimpleNamespace(
        presence=None,
        design=Design(np.repeat(np.arange(64), 10), 64),
        family=SimpleNamespace(quantile=1.96),
        name=lambda k: f"class {k}",
        label=lambda k: k,
    )
    rows = class_rows(context, upper, np.linspace(-0.5, 0.5, 64), np.full(64, 0.1))
    assert len(rows) == max(20, min(having, 64 - having))
    assert (having_classes(context, SimpleNamespace(classes=rows, side=side)) == upper).all()


def test_heads_of_a_gallery_are_put_at_the_mean_of_all_other_ablations():
    """One class has nine of ten images: the plain mean of the head lies with it, the mean of classes between both."""
    truth = np.repeat([0, 1], [180, 20])
    values = np.where(truth == 0, -1.0, 1.0)[:, None].astype(np.float16)
    # copies of an odd image of the rare class must not move its mean either
    cluster = np.concatenate([np.arange(190), np.full(10, 190)])
    values[190:] = 5.0
    design = Design(truth, 2, cluster)
    classes = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    # the head writes against the second axis; image 0 is answered 1 while it is in place
    embedding = np.tile(np.array([0.5, 1.3], np.float32), (200, 1))
    context = SimpleNamespace(
        classes_from="label",
        presence=None,
        embedding=embedding,
        classes=classes,
        truth=truth,
        sample_design=design,
        run=SimpleNamespace(basis=lambda: SimpleNamespace(Q=lambda head: np.array([[0.0, -1.0]]))),
        scan=SimpleNamespace(values={"L00H00": values}, means={"L00H00": values.mean(axis=0, dtype=np.float64)}),
    )
    assert _answers(context, np.array([0]), [])[0] == (1, 1)
    # its value, -1, is 1.1 or so below the mean of the class means, .4 below the plain mean: 1.3 - 1.1 < .5 < 1.3 - .4
    assert _answers(context, np.array([0]), ["L00H00"])[0] == (1, 0)


@pytest.mark.parametrize(("copies", "tried"), [(1, True), (5, False)])
def test_fifty_images_on_a_side_are_fifty_different_ones(copies, tried):
    n, rng = 400 // copies, np.random.default_rng(3)
    truth, having = rng.integers(0, 2, n), rng.integers(0, 2, n)
    right = np.where((having == 1) == (truth == 1), rng.random(n) < 0.9, rng.random(n) < 0.3)
    rows = np.repeat(np.arange(n), copies)
    facts = SimpleNamespace(
        truth=truth[rows], discovery=np.ones(len(rows), np.bool_), source=None, cluster=rows, groups=rows
    )
    answers = SimpleNamespace(facts=facts, truth=truth[rows], base=None, right=lambda base: right[rows])
    context = SimpleNamespace(names=("a", "b"), tested=np.arange(2), named_sources=False)
    difference = _difference(context, answers, having[rows], np.array([False, True]))
    assert (difference > 2.5) == tried
    assert tried or difference == 0.0
