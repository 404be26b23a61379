"""Text vectors of a run's own model: kept beside the run, never another model's, and made again when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipaudit.errors import RunMismatch
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.make_runs import make_run
from tests.worded_models import write_worded_model

TEXTS = ["a cat", "a dog", "two dogs"]


@pytest.fixture
def run(tmp_path) -> Run:
    """A run that says it was made with the model beside it."""
    from clipaudit.config import ModelConfig
    from clipaudit.model.loading import load_model

    model = str(write_worded_model(tmp_path / "model"))
    spec = TableSpec(heads=("L00H00",), head_dim=4, embed_dim=24)
    make_run(str(tmp_path / "run"), spec, shards=1, label=lambda _: None)
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    manifest["identity"] |= {"model": model, "pretrained": None}
    manifest["model"]["fingerprint"] = load_model(ModelConfig(name=model)).fingerprint
    (tmp_path / "run/run.json").write_text(json.dumps(manifest))
    return Run(str(tmp_path / "run"))


def cached(run) -> list[Path]:
    return sorted((Path(run.directory.url) / "texts").iterdir())


def test_vectors_are_made_once(run):
    loads = []
    first = RunTexts(run, on_load=loads.append).vectors(TEXTS)
    assert first.shape == (3, 24)
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    assert (RunTexts(run, on_load=loads.append).vectors(TEXTS) == first).all()
    assert len(loads) == len(cached(run)) == 1
    classes = RunTexts(run, on_load=loads.append)
    assert np.allclose(classes.classes(TEXTS, ["{}"]), first, atol=1e-6)
    assert not np.allclose(classes.classes(TEXTS, ["the {}"]), first, atol=1e-3)
    assert len(loads) == 2
    assert len(cached(run)) == 3


@pytest.mark.parametrize("damage", [b"", b"junk", b"\xff" * 64])
def test_a_damaged_file_is_made_again(run, damage):
    first = RunTexts(run).vectors(TEXTS)
    (path,) = cached(run)
    path.write_bytes(damage)
    assert (RunTexts(run).vectors(TEXTS) == first).all()
    assert path.read_bytes() != damage


def test_a_file_that_cannot_be_kept_costs_nothing(run):
    (Path(run.directory.url) / "texts").write_text("a file where the directory should be")
    assert RunTexts(run).vectors(TEXTS).shape == (3, 24)


def test_another_model_under_the_same_name_is_refused(run, tmp_path):
    write_worded_model(tmp_path / "model", seed=1)
    with pytest.raises(RunMismatch, match=r"has other weights \(fingerprint .*its texts would mean nothing there"):
        RunTexts(run).vectors(TEXTS)
