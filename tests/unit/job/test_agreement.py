"""The error of a faster way of computing, measured on the first shard: right, stored, and a limit that holds."""

import dataclasses

import numpy as np
import pytest

from clipaudit.config import DecodeConfig, JobConfig, ModelConfig
from clipaudit.errors import UsageError
from tests.make_shards import jpeg_bytes, write_members


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, first_shard, measure, measure_if_asked, ShardWorker, Decomposer, Normaliser, load_model
    global ImageDecoder

    import torch

    from clipaudit.job.agreement import first_shard, measure, measure_if_asked
    from clipaudit.job.worker import ShardWorker
    from clipaudit.model import Decomposer
    from clipaudit.model.loading import Normaliser, load_model
    from clipaudit.shards.decoder import ImageDecoder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shards")
    for number, count in enumerate((9, 5)):
        files = ((f"{n:03d}.jpg", jpeg_bytes(60, 50, seed=100 * number + n)) for n in range(count))
        write_members(directory / f"{number}.tar", files)
    return directory


@pytest.fixture
def config(shards, tiny_model, tmp_path):
    return JobConfig(
        shards=(f"{shards}/{{0..1}}.tar",),
        out=str(tmp_path / "run"),
        model=ModelConfig(name=tiny_model, precision="int8", device="cpu"),
    )


def parts(config):
    loaded = load_model(config.model)
    decomposer = Decomposer(loaded.model, layers=[2, 3], precision=config.model.precision)
    return config, loaded, decomposer, ImageDecoder(loaded.transform, config.decode)


def test_it_is_the_difference_of_the_two_ways(config, shards):
    _, loaded, rounded, decoder = made = parts(config)
    measured = measure(*made)
    normalise = Normaliser(decoder.mean, decoder.std, loaded.device)
    images = normalise([decoder(jpeg_bytes(60, 50, seed=n)).image for n in range(9)])
    exact, other = Decomposer(loaded.model, layers=[2, 3])(images), rounded(images)
    assert measured.shard == str(shards / "0.tar")
    assert measured.images == 9
    assert measured.min_cosine == pytest.approx(float((exact.embedding * other.embedding).sum(-1).min()), abs=1e-6)
    assert measured.largest_difference == pytest.approx(
        float((exact.embedding - other.embedding).abs().max()), abs=1e-6
    )
    assert measured.largest_head_difference == pytest.approx(float((exact.heads - other.heads).abs().max()), abs=1e-6)
    assert 0 < measured.largest_difference < 0.1
    assert measured.time_ratio > 0


def test_device_resizing_is_measured_too(config, monkeypatch):
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, precision="fp32"),
        decode=DecodeConfig(resize="device"),
    )
    assert measure(*parts(config)).largest_difference <= 1e-6, "on a CPU it is the same code"
    made = parts(config)
    resize = made[3].resize
    monkeypatch.setattr(made[3], "resize", lambda image: resize(255 - image))
    assert measure(*made).largest_difference > 1e-3
    assert not measure_if_asked(*parts(dataclasses.replace(config, decode=DecodeConfig())))


def test_the_limit_refuses_and_can_be_lowered(config):
    strict = dataclasses.replace(config, model=dataclasses.replace(config.model, min_agreement=1.0))
    with pytest.raises(
        UsageError, match=r"^--precision int8: over 9 images of \S+0\.tar the least cosine with fp32 is 0"
    ):
        ShardWorker(strict)
    lenient = dataclasses.replace(config, model=dataclasses.replace(config.model, min_agreement=0.5))
    stored = ShardWorker(lenient).facts.model["agreement"]
    assert 0.5 < stored["min_cosine"] < 1
    assert stored["images"] == 9


def test_no_number_is_refused(config, monkeypatch):
    made = parts(config)
    with torch.no_grad():
        weight = made[1].model.visual.transformer.resblocks[0].mlp.c_fc.weight
        weight[0, 0] = np.nan
    made = (made[0], made[1], Decomposer(made[1].model, layers=[2, 3], precision="int8"), made[3])
    with pytest.raises(UsageError, match="the least cosine with fp32 is nan"):
        measure_if_asked(*made)


def test_without_an_image_to_measure_on(config, tmp_path):
    write_members(tmp_path / "0.tar", [("a.txt", b"no image"), ("b.jpg", b"nor this")])
    made = parts(dataclasses.replace(config, shards=(str(tmp_path / "0.tar"),)))
    with pytest.raises(UsageError, match=r"0\.tar holds no image"):
        measure_if_asked(*made)
    (tmp_path / "1.tar").write_bytes(b"junk" * 1000)
    made = parts(dataclasses.replace(config, shards=(str(tmp_path / "1.tar"),)))
    with pytest.raises(UsageError, match="the error of a faster option could not be measured"):
        measure_if_asked(*made)


def test_the_first_shard_is_found_without_the_others(config, shards):
    missing = dataclasses.replace(config, shards=(f"{shards}/{{0..9}}.tar",))
    assert first_shard(missing).url == str(shards / "0.tar")
    globbed = dataclasses.replace(config, shards=(f"{shards}/*.tar",))
    assert first_shard(globbed).url == str(shards / "0.tar")
