from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from clipaudit.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, BatchMaker, TrainingBatch, batches, used_merges, write_bpe, Recipe, Trainer
    global _encode_text, main, train, bundled
    global RECIPE, CPU, load_file

    import open_clip
    import torch
    from safetensors.torch import load_file

    from clipaudit.demo.training.batches import BatchMaker, TrainingBatch, batches
    from clipaudit.demo.training.tokenizer import used_merges, write_bpe
    from clipaudit.demo.training.train import Recipe, Trainer, _encode_text, main, train
    from clipaudit.model import bundled

    RECIPE = Recipe(images=32, batch=8, dense=0.5, lr=1e-3)
    CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "bpe.txt.gz"
    write_bpe(path, used_merges(["a photo of an owl in the forest", "a red circle at the lake"]))
    return path


@pytest.fixture
def make(bpe):
    return BatchMaker(generator=RECIPE.generator, bpe=bpe, seed=0, size=RECIPE.batch)


@pytest.fixture(scope="module")
def finished(bpe, tmp_path_factory):
    """(trainer after an uninterrupted training, its directory)"""
    out = tmp_path_factory.mktemp("uninterrupted")
    trainer = Trainer(RECIPE, bpe, CPU)
    assert run(trainer, out) is None
    return trainer, out


def run(trainer: Trainer, out) -> int | None:
    console = Console(file=(out / "console.txt").open("w"))
    with console.file:
        return train(trainer, out, workers=0, checkpoint_minutes=60, console=console)


def same_batch(a: TrainingBatch, b: TrainingBatch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("images", "tokens", "caption"))


@pytest.mark.full
def test_a_resumed_training_ends_bit_identical(bpe, finished, tmp_path, monkeypatch):
    uninterrupted, out = finished
    once = Trainer.train

    def interrupted(self, batch):
        figures = once(self, batch)
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return figures

    monkeypatch.setattr(Trainer, "train", interrupted)
    first = Trainer(RECIPE, bpe, CPU)
    assert run(first, tmp_path) == signal.SIGTERM
    assert not (tmp_path / "model").exists()
    second = Trainer(RECIPE, bpe, CPU)
    second.resume(tmp_path / "checkpoint.safetensors")
    assert second.step == 1
    assert run(second, tmp_path) is None
    whole, resumed = (load_file(directory / "checkpoint.safetensors") for directory in (out, tmp_path))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    weights = [(directory / "model" / bundled.WEIGHTS).read_bytes() for directory in (out, tmp_path)]
    assert weights[0] == weights[1]
    assert uninterrupted.step == second.step == RECIPE.steps


@pytest.mark.full
def test_signal_handlers_are_put_back(bpe, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert run(Trainer(RECIPE, bpe, CPU), tmp_path) is None
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_model_holds_the_averaged_weights_in_half_precision(finished):
    trainer, out = finished
    written = load_file(out / "model" / bundled.WEIGHTS)
    averaged, last = trainer.averaged.state_dict(), trainer.model.state_dict()
    assert written.keys() == averaged.keys()
    for name, value in written.items():
        assert value.dtype == torch.float16
        assert torch.equal(value, averaged[name].half())
    assert not torch.equal(averaged["visual.proj"], last["visual.proj"])
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == RECIPE.steps
    assert {"loss", "accuracy", "images_per_second", "averaged_accuracy"} <= line.keys()


def test_stock_open_clip_loads_the_unpacked_model(finished, tmp_path):
    trainer, out = finished
    name = f"local-dir:{bundled.unpack(out / 'model', tmp_path / 'unpacked')}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    assert tokenizer.vocab_size == model.vocab_size
    assert tokenizer.context_length == model.context_length == bundled.CONTEXT_LENGTH
    assert model.visual.image_size == (64, 64)
    assert model.visual.preprocess_cfg["mean"] == list(bundled.MEAN)
    tokens = tokenizer(["a photo of an owl", "a red circle"])
    with torch.no_grad():
        expected = trainer.averaged.encode_text(tokens)
        assert torch.allclose(model.eval().encode_text(tokens), expected, atol=1e-2)
    assert transform.transforms[0].size == 64


def test_leaving_the_padding_out_changes_no_text(finished, make):
    trainer, _ = finished
    tokens = torch.from_numpy(make(0).tokens).long()
    padded = torch.zeros(len(tokens), bundled.CONTEXT_LENGTH, dtype=torch.long)
    padded[:, : tokens.shape[1]] = tokens
    with torch.no_grad():
        assert torch.allclose(_encode_text(trainer.averaged, tokens), trainer.averaged.encode_text(padded), atol=1e-5)


def test_captions_are_tokenised_as_open_clip_does(make):
    batch = make(3)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(str(make.bpe), context_length=bundled.CONTEXT_LENGTH)
    from clipaudit.demo.training.data import training_batch

    _, captions = training_batch(0, 3, RECIPE.batch)
    expected = tokenizer(captions).numpy()
    rows = batch.tokens[batch.caption]
    assert np.array_equal(rows, expected[:, : rows.shape[1]])
    assert not expected[:, rows.shape[1] :].any()


def test_images_with_the_same_caption_are_interchangeable(bpe):
    trainer = Trainer(RECIPE, bpe, CPU)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    tokens = np.array([[3, 4, 5], [6, 7, 8]], dtype=np.int32)
    caption = np.array([0, 1, 0, 1])
    batch = TrainingBatch(images=images, tokens=tokens, caption=caption)
    swapped = TrainingBatch(images=images[[2, 3, 0, 1]], tokens=tokens, caption=caption)
    assert trainer.evaluate(batch)["loss"] == pytest.approx(trainer.evaluate(swapped)["loss"], abs=1e-5)


def test_the_schedule():
    recipe = Recipe(images=1000, batch=10)
    rates = [recipe.lr_at(step) for step in range(recipe.steps)]
    assert np.argmax(rates) in (4, 5)
    assert max(rates) == recipe.lr
    assert 0 < rates[-1] < 0.01 * recipe.lr
    assert [recipe.dropout_at(step) for step in (0, 79, 80, 99)] == [0.5, 0.5, 0, 0]


@pytest.mark.full
def test_workers_change_no_batch(make):
    expected = [make(step) for step in range(5, 10)]
    with batches(make, 5, 10, workers=2) as made:
        assert all(same_batch(a, b) for a, b in zip(made, expected, strict=True))


@pytest.mark.full
def test_a_failing_generator_is_reported(bpe):
    make = BatchMaker(generator="clipaudit.demo.training.data:missing", bpe=bpe, seed=0, size=8)
    with batches(make, 0, 4, workers=1) as made, pytest.raises(RuntimeError, match=r"step 0: AttributeError.*missing"):
        next(made)


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(main)
    return app


@pytest.mark.full
def test_the_command_resumes_and_refuses_other_settings(bpe, tmp_path):
    arguments = ["--out", str(tmp_path), "--images", "16", "--batch", "8", "--workers", "0", "--bpe", str(bpe)]
    arguments += ["--threads", str(torch.get_num_threads())]
    first = CliRunner().invoke(command(), arguments)
    assert first.exit_code == 0, first.output
    assert "resuming" not in first.output
    again = CliRunner().invoke(command(), arguments)
    assert again.exit_code == 0, again.output
    assert f"resuming {tmp_path} at step 2 of 2\n" in again.output
    other = CliRunner().invoke(command(), [*arguments, "--lr", "0.5"])
    assert other.exit_code == 2
    assert "lr 0.001, not 0.5" in " ".join(other.output.replace("│", " ").split())


def test_unpacking_repairs_and_keeps(finished, tmp_path, monkeypatch):
    source = finished[1] / "model"
    monkeypatch.setenv("CLIPAUDIT_CACHE", str(tmp_path / "cache"))
    folder = bundled.unpack(source)
    assert folder.parent == tmp_path / "cache"
    before = {name: (folder / name).stat() for name in bundled.FILES}
    assert bundled.unpack(source) == folder
    assert {name: (folder / name).stat() for name in bundled.FILES} == before, "nothing was written again"
    weights = (source / bundled.WEIGHTS).read_bytes()
    (folder / bundled.WEIGHTS).write_bytes(bytes(len(weights)))
    (folder / bundled.BPE).unlink()
    assert bundled.unpack(source) == folder
    assert (folder / bundled.WEIGHTS).read_bytes() == weights
    assert sorted(path.name for path in folder.iterdir()) == sorted(bundled.FILES)
    config = json.loads((folder / bundled.CONFIG).read_text())
    assert config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["bpe_path"] == str(folder / bundled.BPE)


def test_many_may_unpack_at_once(finished, tmp_path):
    source, target = finished[1] / "model", tmp_path / "shared"
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: bundled.unpack(source, target), range(32)))
    assert folders == {target}
    assert sorted(path.name for path in target.iterdir()) == sorted(bundled.FILES)


def test_a_cache_that_cannot_be_written_is_a_users_mistake(finished, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPAUDIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="CLIPAUDIT_CACHE"):
        bundled.unpack(finished[1] / "model")
