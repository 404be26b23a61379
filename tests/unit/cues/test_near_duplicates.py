"""Near duplicates that the audit finds by itself (S2b)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clipaudit.cues.measure.image_facts import ImageFacts, image_facts
from clipaudit.cues.measure.near_duplicates import least_cosine
from clipaudit.cues.statistics.near_hashes import BITS, close_pairs
from clipaudit.run.rows import chosen_rows
from tests.audit_worlds import World, noise_world, write_world


def flipped(hashes: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """Hashes (n,) uint64 with as many bits changed."""
    masks = np.array([sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False)) for _ in hashes], np.uint64)
    return hashes ^ masks


def copied_world(bits: int, noise: float) -> World:
    """300 images of noise and a copy of each: hashes differ in some bits, embeddings by noise."""
    rng = np.random.default_rng(5)
    world = noise_world(300, np.arange(300) % 2, 5, 2)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    near = flipped(hashes, bits, rng)
    moved = world.coordinates + noise * rng.standard_normal(world.coordinates.shape).astype(np.float32)
    return replace(
        world,
        labels=np.tile(world.labels, 2),
        coordinates=np.concatenate([world.coordinates, moved]),
        attributes={"place": list(world.attributes["place"]) * 2},
        phash=np.concatenate([hashes, near]).view(np.int64),
    )


def facts_of(world: World, path) -> ImageFacts:  # type: ignore[no-untyped-def]
    run = write_world(world, path)
    return image_facts(run, chosen_rows(run, ()), {0: 0, 1: 1})


@pytest.mark.parametrize("copies", [0, 40])
def test_close_hashes_are_those_of_all_pairs(copies):
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, 400, dtype=np.uint64)
    for bits in range(BITS + 3):
        hashes = np.concatenate([hashes, flipped(hashes[:copies], bits, rng)])
    first, second = close_pairs(hashes)
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.argwhere(np.triu(distance <= BITS, 1))
    # of many copies of one image four a band are named, which join the rest
    assert {(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)} <= set(map(tuple, expected.tolist()))
    assert set(first.tolist()) | set(second.tolist()) == set(expected.ravel().tolist())


def test_many_hashes_that_are_all_alike_are_joined_in_bounded_memory():
    hashes = np.arange(3000, dtype=np.uint64)  # of twelve bits
    first, second = close_pairs(hashes)
    assert 3000 <= len(first) <= 3000 * 4 * 17 * 4
    assert set(first.tolist()) | set(second.tolist()) == set(range(3000))


def test_copies_with_a_slightly_different_hash_are_one_image(tmp_path):
    facts = facts_of(copied_world(4, 0.02), tmp_path / "run")
    assert facts.cluster.max() + 1 == 300
    assert (facts.cluster[:300] == facts.cluster[300:]).all()
    # the whole cluster is on one half, so that nothing is read from a copy of what chose it
    assert (facts.discovery[:300] == facts.discovery[300:]).all()


@pytest.mark.parametrize(("bits", "noise"), [(4, 3.0), (12, 0.02)])
def test_like_hashes_of_other_pictures_and_like_pictures_with_other_hashes_are_not_joined(tmp_path, bits, noise):
    assert facts_of(copied_world(bits, noise), tmp_path / "run").cluster.max() + 1 == 600


def test_how_alike_copies_must_be_depends_on_how_alike_different_images_are():
    rng = np.random.default_rng(2)
    phash = rng.integers(-(2**63), 2**63, 1000)
    truth = np.arange(1000) % 4

    def unit(common: float) -> np.ndarray:
        x = rng.standard_normal((1000, 32)) + common
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    apart, together = least_cosine(unit(0.0), truth, phash), least_cosine(unit(3.0), truth, phash)
    assert apart == pytest.approx(0.8)
    assert 0.9 < together < 0.995
    # a model that takes all for one: no copy is asked to be closer than rounding allows
    assert least_cosine(unit(1000.0), truth, phash) == pytest.approx(0.995)
    # copies are no measure of how alike different images are
    assert least_cosine(unit(0.0), truth, np.zeros(1000, np.int64)) == pytest.approx(0.95)
