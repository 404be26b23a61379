"""Pictures of a page: read from the shards by their places, skipped when they are gone, kept within the budget."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipaudit.cues.findings.galleries import drawn_in_proportion
from clipaudit.cues.report.pictures import add_heat, identity, read_pictures, strips
from clipaudit.cues.result.finding_parts import Gallery, SampleRef
from clipaudit.demo.world.datasets import write_world
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.schema import Shard
from clipaudit.shards.listing import stat_shard
from tests.audit_examples import confirmed, example_result
from tests.make_runs import make_manifest


@pytest.fixture
def birds(tmp_path):
    """A run over one shard of six pictures, and an audit whose first finding shows them."""
    (path,) = write_world("birds", tmp_path / "shards", count=6, seed=0)
    now = stat_shard(str(path))
    shard = Shard(id=0, url=str(path), size=now.size, etag=now.etag)
    directory = RunDirectory(str(tmp_path / "run"))
    directory.create(make_manifest(shards=(shard,)))
    with tarfile.open(path) as tar:
        members = [
            (member.name[:-4], member.offset_data, member.size) for member in tar if member.name.endswith(".jpg")
        ]
    samples = tuple(
        SampleRef(
            shard_id=0, index=index, key=key, url=str(path), offset=offset, nbytes=size, label=1,
            class_name="waterbird", predicted="waterbird", predicted_without=None, value="water", score=0.1,
        )
        for index, (key, offset, size) in enumerate(members)
    )  # fmt: skip
    shown = Gallery(aligned=samples[:4], conflicting=samples[4:], least_spurious=(), drawn="Drawn.")
    finding = replace(confirmed(), gallery=shown)
    return Run(directory), replace(example_result(), findings=(finding,)), path


def test_every_sample_is_shown_by_its_own_picture(birds):
    run, audit, _ = birds
    pictures = read_pictures(audit, [run])
    assert len(pictures.plain) == 6
    assert len({picture.url for picture in pictures.plain.values()}) == 6
    assert all(picture.url.startswith("data:image/webp;base64,") for picture in pictures.plain.values())
    assert {(picture.width, picture.height) for picture in pictures.plain.values()} == {(64, 64)}
    titles = [strip.title for strip in strips(audit.findings[0], pictures)]
    assert titles == ["“waterbird” with the cue “water”", "“waterbird” without it: where the shortcut fails"]


def test_a_changed_or_missing_shard_shows_no_wrong_picture(birds):
    run, audit, path = birds
    with path.open("ab") as file:
        file.write(b"\0" * 512)
    assert read_pictures(audit, [run]).plain == {}
    path.unlink()
    assert read_pictures(audit, [Run(run.directory)]).plain == {}


def test_samples_without_a_place_or_of_another_run_are_left_out(birds):
    run, audit, _ = birds
    finding = audit.findings[0]
    lost = replace(finding.gallery.aligned[0], offset=None)
    other = replace(finding.gallery.aligned[1], url="/elsewhere.tar")
    found = replace(finding, gallery=replace(finding.gallery, aligned=(lost, other), conflicting=(), least_spurious=()))
    assert read_pictures(replace(audit, findings=(found,)), [run]).plain == {}


def test_heat_maps_join_their_pictures(birds):
    from io import BytesIO

    from PIL import Image

    run, audit, _ = birds
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP")
    pictures = read_pictures(audit, [run])
    found = add_heat(audit, pictures, lambda finding, samples: {identity(s): buffer.getvalue() for s in samples[:2]})
    assert found.plain == pictures.plain
    (first, *_) = strips(audit.findings[0], found)
    assert [shown.heat is not None for shown in first.pictures] == [True, True, False, False]


@given(share=st.floats(0, 1), rows=st.integers(0, 60), count=st.integers(1, 8), seed=st.integers(0, 5))
def test_the_first_pictures_are_right_as_often_as_is_claimed(share, rows, count, seed):
    rng = np.random.default_rng(seed)
    mask, right = rng.random(rows) < 0.7, rng.random(rows) < share
    drawn = drawn_in_proportion(mask, right, count, rng)
    assert len(set(drawn.tolist())) == len(drawn) == min(count, mask.sum())
    assert mask[drawn].all()
    for first in range(1, len(drawn) + 1):
        assert abs(right[drawn[:first]].sum() - first * right[mask].mean()) <= 0.5 + 1e-9
