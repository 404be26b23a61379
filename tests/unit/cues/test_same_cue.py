"""Whether two image properties are one cue: copies and sources count as they do everywhere (S2b, S6b)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from clipaudit.cues.findings.same_cue import go_together, same_cue
from clipaudit.cues.statistics.attribute import Attribute

DELTA = 0.2


def of_one_class(values, having, cluster=None, source=None):
    n = len(values)
    codes = np.arange(n) if cluster is None else cluster
    return go_together(values, having, np.zeros(n, np.int64), DELTA, codes, source)


def follower(rng, having, share):
    """(n,) 1 where a second property is there: of images with the first in a share, of the others in the rest."""
    return (rng.random(len(having)) < np.where(having, share, 1 - share)).astype(np.float64)


def test_properties_that_go_together_are_one_and_those_drawn_apart_are_two():
    rng = np.random.default_rng(51)
    having = rng.random(600) < 0.5
    assert of_one_class(follower(rng, having, 0.8), having)
    assert not of_one_class(follower(rng, having, 0.5), having)
    assert of_one_class(follower(rng, having, 0.8), np.arange(600) < 4) is None, (
        "no class has five images with the first"
    )


def test_copies_make_nothing_sure():
    """Trap 18: 60 images whose properties go together by chance, ten times each, are 60 images."""
    alike = sure = 0
    for seed in range(300):
        rng = np.random.default_rng([52, seed])
        having = rng.random(60) < 0.5
        values, rows = follower(rng, having, 0.5), np.repeat(np.arange(60), 10)
        once, copies = of_one_class(values, having), of_one_class(values[rows], having[rows], cluster=rows)
        assert copies == once
        alike += bool(of_one_class(values[rows], having[rows]))
        sure += bool(copies)
    assert sure <= 24  # of 300; P(more at 5 %) = 1 %
    assert alike > sure, "as 600 images they would be one in more draws"


def test_four_images_ten_times_each_tell_nothing_apart():
    rows = np.repeat(np.arange(8), 10)
    assert of_one_class(rows.astype(float), rows < 4, cluster=rows) is None


@pytest.mark.parametrize("sources", [8, 20, 40])
def test_properties_of_the_source_are_not_one_because_it_has_both(sources):
    """Every camera has shares of its own of both properties; images alone would call them one in many draws."""
    told = untold = 0
    for seed in range(200):
        rng = np.random.default_rng([53, sources, seed])
        source = np.arange(sources * 60) % sources
        shares = rng.uniform(0.05, 0.95, (2, sources))
        having = rng.random(len(source)) < shares[0, source]
        values = (rng.random(len(source)) < shares[1, source]).astype(np.float64)
        told += bool(of_one_class(values, having, source=source))
        untold += bool(of_one_class(values, having))
    assert told <= 0.05 * 200
    if sources == 8:
        assert untold > 5 * max(told, 1)


def test_what_follows_inside_every_source_is_one_cue():
    rng = np.random.default_rng(54)
    source, having = np.arange(800) % 20, rng.random(800) < 0.5
    assert of_one_class(follower(rng, having, 0.9), having, source=source)
    few = np.arange(800) % 7
    assert of_one_class(follower(rng, having, 0.9), having, source=few) is False, "fewer than eight decide nothing"


@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_a_report_counts_the_sources_of_its_images(named):
    """Eight cameras; dark and blurred are settings that lie on much the same ones by chance."""
    rng = np.random.default_rng(55)
    truth, camera = rng.integers(0, 2, 1600), np.arange(1600) % 8
    uppers = np.array([True, False])
    cues = []
    for name, cameras in (("image.brightness", (0, 1, 2, 3)), ("image.sharpness", (0, 1, 2, 4))):
        codes = (rng.random(1600) < np.where(np.isin(camera, cameras), 0.9, 0.1)).astype(np.int64)
        attribute = Attribute(column=name, values=("low", "high"), codes=codes)
        cues.append(SimpleNamespace(screen=SimpleNamespace(attribute=attribute), value=1, upper=uppers))
    scan, options = SimpleNamespace(sample=np.arange(1600)), SimpleNamespace(delta_warn=DELTA)
    for told in (False, True):
        sampled = SimpleNamespace(
            cluster=camera if told and named else np.arange(1600), sources=camera if told else None
        )
        context = SimpleNamespace(scan=scan, sampled=sampled, truth=truth, options=options)
        assert same_cue(context, *cues) is not told, "as images they go together, as eight cameras they may"
