"""Shares off the object, their interval, and masks found beside images by a few bytes of a shard."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipaudit.errors import ShardUnreadable, UsageError
from clipaudit.run.reader import Run
from clipaudit.run.stored_images import StoredImages
from tests.make_audits import audited
from tests.make_shards import huge_png_bytes, jpeg_bytes, member_offsets, png_bytes, write_shard


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global OUTSIDE, covered, entire, read_cut_mask, off_object, off_shares

    from clipaudit.localize.frames import entire
    from clipaudit.localize.masks import OUTSIDE, covered, read_cut_mask
    from clipaudit.localize.off_object import off_object, off_shares


def test_shares_of_planted_maps():
    cover = np.array([[1, 1, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    scores = np.array([[3, 0, 1, -5], [2, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [-1, -1, 0, 0]])
    share, area, mass = off_shares(scores, cover)
    np.testing.assert_allclose(mass, [4, 4, 4, 4, 0])
    np.testing.assert_allclose(share, [0.25, 0.75, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(area, [0.5, 0.875, np.nan, np.nan, np.nan])
    left_out = np.zeros(cover.shape, bool)
    left_out[0, 2] = True
    share, area, mass = off_shares(scores, cover, left_out)
    assert (share[0], area[0], mass[0]) == (0, pytest.approx(1 / 3), 3), (
        "a patch that is left out is neither mass nor area"
    )


def test_padding_is_neither_on_the_object_nor_off_it():
    """A wide picture in a square: the object fills the lower half of its two rows, the other two rows are padding."""
    mask = np.full((4, 4), OUTSIDE, np.int32)
    mask[1:3] = [[0] * 4, [1] * 4]
    np.testing.assert_allclose(covered(mask, (4, 1)), [np.nan, 0, 1, np.nan])
    np.testing.assert_allclose(covered(mask, (2, 1)), [0, 1])  # of what is picture in each patch
    share, area, mass = off_shares(np.array([[5.0, 1.0, 3.0, 5.0]]), covered(mask, (4, 1))[None])
    assert (share[0], area[0], mass[0]) == (pytest.approx(0.25), pytest.approx(0.5), 4)


def test_the_interval_holds_the_truth_and_evenly_spread_mass_says_nothing():
    rng, trials = np.random.default_rng(0), 400
    held = sure = 0
    for _ in range(trials):
        area = rng.uniform(0.3, 0.9, 40)
        share = np.clip(area + rng.normal(0, 0.1, 40), 0, 1)
        found = off_object(share, area, rng.gamma(3, size=40), np.arange(40))
        held += found.low <= 0.6 <= found.high
        sure += found.supports is not None
    assert held / trials >= 0.93
    assert sure / trials <= 0.07


def test_mass_off_and_on_the_object_is_told_apart():
    rng = np.random.default_rng(1)
    area = rng.uniform(0.5, 0.7, 40)
    noise = rng.normal(0, 0.05, 40)
    assert off_object(area + 0.2 + noise, area, np.ones(40), np.arange(40)).supports is True
    assert off_object(area - 0.2 + noise, area, np.ones(40), np.arange(40)).supports is False
    mass = np.where(np.arange(40) < 20, 1.0, 0.001)
    half = area + np.where(np.arange(40) < 20, 0.2, -0.5) + noise
    found = off_object(half, area, mass, np.arange(40))
    assert found.supports is True, "images in which heads see nothing say nothing"
    assert found.share == pytest.approx((half[:20] @ mass[:20]) / mass[:20].sum(), abs=2e-3)


def test_equal_pictures_are_one_draw():
    rng = np.random.default_rng(2)
    share, area, cluster = rng.uniform(0, 1, 12), rng.uniform(0.4, 0.6, 12), np.arange(12)
    columns = (share, area, rng.gamma(3, size=12), cluster)
    once, often = off_object(*columns), off_object(*(np.repeat(column, 20) for column in columns))
    assert (often.share, often.n) == (pytest.approx(once.share), 240)
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert off_object(share, area, np.ones(12), np.zeros(12)) is None
    assert off_object(np.full(3, np.nan), np.full(3, np.nan), np.zeros(3), cluster[:3]) is None


# -- masks beside images -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Photos whose masks lie before, behind or not beside them, some with the previous one's leftovers between."""
    folder = tmp_path_factory.mktemp("masked")
    samples = []
    for number in range(6):
        image, mask = jpeg_bytes(40, 30, seed=number), b"mask %d" % number
        members = {"cls": number % 2, "jpg": image, "seg.png": mask, "txt": "behind"}
        if number % 3 == 1:
            members = {"SEG.PNG": mask, "cls": number % 2, "jpg": image}
        if number % 3 == 2:
            members = {"cls": number % 2, "jpg": image, "depth.seg.png": b"another", "other.png": png_bytes(4, 4)}
        samples.append((f"p{number}", members))
    write_shard(folder / "s-0.tar", samples)
    return audited(folder, shards=0, index=False)


def test_every_image_comes_with_its_own_mask(run):
    stored = StoredImages(run, "seg.png")
    places = stored.places([(0, index) for index in range(6)] + [(0, 99)])
    assert sorted(places) == [(0, index) for index in range(6)]
    truth = member_offsets(run.manifest.shards[0].url)
    for (_, index), place in places.items():
        data, mask = stored.read_with_member(place)
        assert (place.key, place.offset) == (f"p{index}", truth[f"p{index}.jpg"][1])
        assert data == jpeg_bytes(40, 30, seed=index)
        assert mask == (None if index % 3 == 2 else b"mask %d" % index)
        assert StoredImages(run, None).read_with_member(place) == (data, None)


def test_a_changed_shard_is_not_read(run, tmp_path):
    stored = StoredImages(run, "seg.png")
    place = stored.places([(0, 0)])[0, 0]
    with pytest.raises(ShardUnreadable, match="more than 64 MiB"):
        stored.read_with_member(replace(place, nbytes=2**27))
    shard, stat = Path(place.url), Path(place.url).stat()
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # as long as before: only the content tells
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    try:
        with pytest.raises(ShardUnreadable, match=r"s-0.tar: the shard has changed since the audit"):
            StoredImages(run, "seg.png").read_with_member(place)
    finally:
        shard.write_bytes(data)
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_mask_is_refused_before_it_is_decoded():
    frame = entire((30, 40))
    for data, problem in (
        (huge_png_bytes(), "the mask has 30000 x 30000 pixels but the image 30 x 40"),
        (b"mask 0", "the mask cannot be read"),
        (png_bytes(40, 30), "a mask is an 8-bit grey or palette PNG, not RGB"),
    ):
        with pytest.raises(UsageError, match=rf"^s-0.tar: p0: {problem}"):
            read_cut_mask(data, "s-0.tar: p0", frame, (8, 8))
    assert read_cut_mask(png_bytes(40, 30, mode="L"), "p0", frame, (8, 8)).shape == (8, 8)
