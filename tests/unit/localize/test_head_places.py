"""Where heads look, on planted maps and on the demo model."""

from __future__ import annotations

import numpy as np
import pytest

from clipaudit.config import ModelConfig
from clipaudit.demo.world.datasets import write_world
from clipaudit.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global EvaluationConfig, LocaliserEvaluation, shares

    from clipaudit.localize.evaluation.evaluate import EvaluationConfig, LocaliserEvaluation
    from clipaudit.localize.evaluation.head_places import shares


RNG = np.random.default_rng(0)


def test_planted_shares():
    cover = (RNG.random((200, 64)) < 0.2).astype(np.float32)
    on, null = shares(cover + 0.1, cover, 200)
    assert on > 0.7
    assert (null < on).all()
    assert null.mean() == pytest.approx(cover.mean(), abs=0.01)
    off, null = shares(1 - cover, cover, 200)
    assert off == 0
    assert (null > off).all()
    blind, null = shares(RNG.random((200, 64)).astype(np.float32), cover, 200)
    assert 0.01 < (null >= blind).mean() < 0.99
    assert np.isnan(shares(np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32), 5)[0])


def test_the_demo_models_heads(tmp_path):
    write_world("things", tmp_path, count=150, seed=5)
    config = EvaluationConfig(
        shards=(f"{tmp_path}/things-*.tar",), model=ModelConfig(name="demo", device="cpu"), label="json:label"
    )
    found = LocaliserEvaluation(config).heads("json:background")
    assert (found.images, len(found.heads)) == (150, 24)
    objects, places = found.of("object"), found.of("place")
    assert all(head.inside > head.null and head.p < 0.05 for head in objects[:3])
    assert all(head.inside < head.null and head.p < 0.05 for head in places[:3])
    with pytest.raises(UsageError, match=r"none of the 150 samples has .*place=json:nowhere"):
        LocaliserEvaluation(config).heads("json:nowhere")
