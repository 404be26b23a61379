"""Train the demo model with `python -m clipaudit.demo.training.train --out DIR`; the same command resumes it."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import typer
from open_clip.transformer import PatchDropout
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipaudit.demo.training.batches import BatchMaker, TrainingBatch, batches
from clipaudit.demo.training.tokenizer import vocab_size
from clipaudit.model import bundled

_CHECKPOINT, _LOG = "checkpoint.safetensors", "log.jsonl"
_HELD_OUT_SEED = 1_000_003
"""Of the batch that progress is measured on; no training uses it."""
_MAX_LOGIT_SCALE = math.log(100)
"""As in CLIP (Radford et al., ICML 2021, section 2.5): the temperature stays at or above 1/100."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that the trained weights depend on."""

    seed: int = 0
    """Of weights and data."""
    images: int = 700_000
    """Images seen in all."""
    batch: int = 256
    """Images in a step."""
    lr: float = 1e-3
    """Highest learning rate."""
    warmup: float = 0.05
    """Fraction of the steps over which the learning rate rises; afterwards it follows a cosine to zero."""
    weight_decay: float = 0.1
    patch_dropout: float = 0.5
    dense: float = 0.2
    """Last fraction of the steps, in which no patch is dropped."""
    ema: float = 0.998
    """Decay of the averaged weights."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    generator: str = "clipaudit.demo.training.data:training_batch"
    """`module:function` of the function that makes batches."""

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return max(1, self.images // self.batch)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        rise = max(1, round(self.warmup * self.steps))
        if step < rise:
            return self.lr * (step + 1) / rise
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))

    def dropout_at(self, step: int) -> float:
        """Fraction of patches dropped in a step."""
        return self.patch_dropout if step < (1 - self.dense) * self.steps else 0.0


class Trainer:
    """Model, optimiser state and averaged weights after `step` steps; a step is a function of these and its batch."""

    def __init__(self, recipe: Recipe, bpe: Path, device: torch.device) -> None:
        self.recipe, self.bpe, self.device, self.step = recipe, bpe, device, 0
        config = bundled.model_config(vocab_size(bpe))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = open_clip.CLIP(**config).to(device)
        self.dropout = PatchDropout(recipe.patch_dropout)
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.model.visual.patch_dropout = self.dropout
        self.model.train()
        self.parameters = dict(self.model.named_parameters())
        self.optimiser = torch.optim.AdamW(self._groups(), lr=recipe.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
        for parameter in self.parameters.values():
            self.optimiser.state[parameter] = {
                "step": torch.tensor(0.0, device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        # For sequences this short plain matrix products train 1.4 times as fast on a CPU as its flash attention.
        self._attention = [SDPBackend.MATH]
        if device.type != "cpu":
            self._attention += [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]
        self._mean = torch.tensor(bundled.MEAN, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(bundled.STD, device=device).view(1, 3, 1, 1) * 255

    def train(self, batch: TrainingBatch) -> dict[str, float]:
        """One optimiser step; returns loss, in-batch retrieval accuracy (both ways), gradient norm and logit scale."""
        # Seeded by the step, so that a resumed training drops the patches that an uninterrupted one drops.
        torch.manual_seed(self.recipe.seed * 1_000_000_007 + self.step)
        self.dropout.prob = self.recipe.dropout_at(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.lr_at(self.step)
        loss, accuracy = self._loss(self.model, batch)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, _MAX_LOGIT_SCALE)
            decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.parameters.values()), 1 - decay)
        self.step += 1
        scale = float(self.model.logit_scale.detach().exp())
        return {"loss": float(loss.detach()), "accuracy": accuracy, "norm": float(norm), "scale": scale}

    @torch.no_grad()
    def evaluate(self, batch: TrainingBatch) -> dict[str, float]:
        """Loss and retrieval accuracy of the averaged weights, without patch dropout."""
        loss, accuracy = self._loss(self.averaged, batch)
        return {"loss": float(loss), "accuracy": accuracy}

    def save(self, path: Path) -> None:
        """Write the whole state as one safetensors file, atomically."""
        tensors = {f"model.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.named_parameters()}
        for name, parameter in self.parameters.items():
            for part in ("exp_avg", "exp_avg_sq"):
                tensors[f"{part}.{name}"] = self.optimiser.state[parameter][part]
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        temporary = path.with_name(f".{path.name}.tmp")
        save_file(plain, temporary, metadata={"state": json.dumps(self._identity() | {"step": self.step})})
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from a file that `save` wrote; ValueError names a setting that differs."""
        with safe_open(path, "pt") as file, torch.no_grad():
            state = json.loads(file.metadata()["state"])
            for name, value in self._identity().items():
                if state.get(name) != value:
                    raise ValueError(f"{path} was trained with {name} {state.get(name)!r}, not {value!r}")
            averaged = dict(self.averaged.named_parameters())
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(f"model.{name}"))
                averaged[name].copy_(file.get_tensor(f"averaged.{name}"))
                moments = self.optimiser.state[parameter]
                moments["step"].fill_(state["step"])
                for part in ("exp_avg", "exp_avg_sq"):
                    moments[part].copy_(file.get_tensor(f"{part}.{name}"))
        self.step = state["step"]

    def export(self, target: Path) -> None:
        """Write the averaged weights as an open_clip directory."""
        bundled.write_directory(target, self.averaged.state_dict(), self.bpe, vocab_size(self.bpe))

    def _groups(self) -> list[dict[str, Any]]:
        """Weight decay for matrices only: not for biases, norms, embeddings and the logit scale."""
        decayed: list[torch.nn.Parameter] = []
        plain: list[torch.nn.Parameter] = []
        for name, parameter in self.parameters.items():
            free = parameter.ndim < 2 or "embedding" in name
            (plain if free else decayed).append(parameter)
        return [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]

    def _identity(self) -> dict[str, Any]:
        return asdict(self.recipe) | {"bpe": hashlib.sha256(self.bpe.read_bytes()).hexdigest()[:16]}

    def _loss(self, model: open_clip.CLIP, batch: TrainingBatch) -> tuple[torch.Tensor, float]:
        """Contrastive loss in both directions, and in-batch retrieval accuracy, 0..1."""
        images = torch.from_numpy(batch.images).to(self.device)
        tokens = torch.from_numpy(batch.tokens).to(self.device)
        caption = torch.from_numpy(batch.caption).to(self.device)
        # (B, H, W, 3) -> (B, 3, H, W)
        pixels = images.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)
        with torch.autocast(self.device.type, dtype=torch.bfloat16), sdpa_kernel(self._attention):
            image_features = model.encode_image(pixels.contiguous())
            text_features = _encode_text(model, tokens)
        image_features = F.normalize(image_features.float(), dim=-1)
        text_features = F.normalize(text_features.float(), dim=-1)[caption]
        logits = model.logit_scale.exp() * image_features @ text_features.T
        # images whose captions are equal share their target evenly: a repeated caption is no negative
        same = caption[:, None] == caption[None, :]
        target = same / same.sum(1, keepdim=True)
        # `same` is symmetric, so one target serves both directions.
        loss = F.cross_entropy(logits, target) / 2 + F.cross_entropy(logits.T, target) / 2
        return loss, _accuracy(logits.detach(), caption)


def _encode_text(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """`model.encode_text` without the padding: attention is causal, so nothing behind the end token matters."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    features: torch.Tensor = x[torch.arange(len(x), device=x.device), tokens.argmax(-1)] @ model.text_projection
    return features


def _accuracy(logits: torch.Tensor, caption: torch.Tensor) -> float:
    """How often the best match has the right caption, mean of both directions."""
    matches = [caption[matrix.argmax(1)] == caption for matrix in (logits, logits.T)]
    return float(torch.cat(matches).float().mean())


class _Stop:
    """Records SIGTERM and SIGINT, so that the step in progress ends first; a second signal ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: object) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@dataclass(kw_only=True)
class Watch:
    """Prints and logs progress: loss, rate, time left, and at intervals the averaged weights' retrieval accuracy."""

    out: Path
    recipe: Recipe
    console: Console
    print_every: float = 20
    """Seconds."""
    evaluate_every: float = 180
    """Seconds."""

    def __post_init__(self) -> None:
        self._begun = self._printed = self._evaluated = time.monotonic()
        self._figures: list[Mapping[str, float]] = []

    def after_step(self, trainer: Trainer, figures: Mapping[str, float], held_out: TrainingBatch | None) -> None:
        """Count one step; with a `held_out` batch, measure the averaged weights on it when it is time."""
        self._figures.append(figures)
        now = time.monotonic()
        last = trainer.step >= self.recipe.steps
        if now - self._printed < self.print_every and not last:
            return
        rate = len(self._figures) * self.recipe.batch / max(1e-9, now - self._printed)
        means = {name: float(np.mean([f[name] for f in self._figures])) for name in figures}
        if held_out is not None and (last or now - self._evaluated >= self.evaluate_every):
            averaged = trainer.evaluate(held_out)
            means |= {f"averaged_{name}": value for name, value in averaged.items()}
            self._evaluated = time.monotonic()
        self._say(trainer.step, rate, means)
        self._printed, self._figures = time.monotonic(), []

    def _say(self, step: int, rate: float, means: Mapping[str, float]) -> None:
        seconds = self._seconds_left(step, rate)
        line = f"step {step}/{self.recipe.steps}  loss {means['loss']:.3f}  in-batch {means['accuracy']:.1%}"
        line += (
            f"  norm {means['norm']:.2f}  scale {means['scale']:.0f}  {rate:.0f} images/s  {seconds / 60:.0f} min left"
        )
        if "averaged_accuracy" in means:
            line += f"\n  averaged weights, held-out batch: loss {means['averaged_loss']:.3f}"
            line += f"  in-batch {means['averaged_accuracy']:.1%}"
        self.console.print(line)
        record = {"step": step, "images_per_second": rate, "seconds": time.monotonic() - self._begun, **means}
        with (self.out / _LOG).open("a") as file:
            file.write(json.dumps({name: round(value, 5) for name, value in record.items()}) + "\n")

    def _seconds_left(self, step: int, rate: float) -> float:
        """Steps without patch dropout take about twice as long as those that drop half."""
        dense = self.recipe.steps - math.ceil((1 - self.recipe.dense) * self.recipe.steps)
        slow = 1 + 2.2 * self.recipe.patch_dropout
        remaining = self.recipe.steps - step
        if remaining > dense:
            remaining += round(dense * (slow - 1))
        return remaining * self.recipe.batch / rate


def train(trainer: Trainer, out: Path, *, workers: int, checkpoint_minutes: float, console: Console) -> int | None:
    """Train to the end and write `out/model`; returns None, or the signal that ended it early after a checkpoint."""
    recipe, checkpoint = trainer.recipe, out / _CHECKPOINT
    make = BatchMaker(generator=recipe.generator, bpe=trainer.bpe, seed=recipe.seed, size=recipe.batch)
    held_out = BatchMaker(generator=recipe.generator, bpe=trainer.bpe, seed=_HELD_OUT_SEED, size=recipe.batch)(0)
    watch = Watch(out=out, recipe=recipe, console=console)
    saved = time.monotonic()
    with _Stop() as stop, batches(make, trainer.step, recipe.steps, workers=workers) as upcoming:
        for batch in upcoming:
            figures = trainer.train(batch)
            if not math.isfinite(figures["loss"]):
                raise RuntimeError(f"step {trainer.step}: the loss is {figures['loss']}; try a smaller --lr")
            watch.after_step(trainer, figures, held_out)
            if stop.signal or time.monotonic() - saved > 60 * checkpoint_minutes:
                trainer.save(checkpoint)
                saved = time.monotonic()
            if stop.signal:
                return stop.signal
    trainer.save(checkpoint)
    trainer.export(out / "model")
    return None


def main(
    out: Annotated[Path, typer.Option(help="Directory of checkpoints, log and the finished model.")],
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = Recipe.seed,
    images: Annotated[int, typer.Option(help="How many images to see.")] = Recipe.images,
    batch: Annotated[int, typer.Option(help="Images in a step.")] = Recipe.batch,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = Recipe.lr,
    weight_decay: Annotated[float, typer.Option(help="AdamW's, on matrices.")] = Recipe.weight_decay,
    patch_dropout: Annotated[float, typer.Option(help="Fraction of patches dropped.")] = Recipe.patch_dropout,
    dense: Annotated[float, typer.Option(help="Last fraction of the steps without patch dropout.")] = Recipe.dense,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights.")] = Recipe.ema,
    generator: Annotated[str, typer.Option(help="module:function that makes batches.")] = Recipe.generator,
    bpe: Annotated[Path, typer.Option(help="BPE file.")] = bundled.PACKAGED / bundled.BPE,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that make batches; 0: none.")] = 1,
    threads: Annotated[int, typer.Option(help="torch's threads; 0: one a core.")] = 0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5,
) -> None:
    """Train the demo model, or go on where an interrupted training of the same settings stopped."""
    recipe = Recipe(
        seed=seed,
        images=images,
        batch=batch,
        lr=lr,
        weight_decay=weight_decay,
        patch_dropout=patch_dropout,
        dense=dense,
        ema=ema,
        generator=generator,
    )
    console = Console(soft_wrap=True, highlight=False)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    out.mkdir(parents=True, exist_ok=True)
    own_bpe = out / bundled.BPE
    if not own_bpe.exists():  # a resumed training keeps the tokens it began with
        shutil.copyfile(bpe, own_bpe)
    trainer = Trainer(recipe, own_bpe, torch.device(chosen))
    if (out / _CHECKPOINT).exists():
        try:
            trainer.resume(out / _CHECKPOINT)
        except ValueError as error:
            raise typer.BadParameter(f"{error}; use another --out") from error
        console.print(f"resuming {out} at step {trainer.step} of {recipe.steps}")
    parameters = sum(p.numel() for p in trainer.parameters.values())
    console.print(f"{parameters / 1e6:.2f} M parameters, {recipe.steps} steps of {recipe.batch}, {chosen}")
    ended_by = train(trainer, out, workers=workers, checkpoint_minutes=checkpoint_minutes, console=console)
    if ended_by:
        console.print(f"stopped at step {trainer.step}; the same command goes on from there")
        raise typer.Exit(128 + ended_by)
    console.print(f"wrote {out / 'model'}")


if __name__ == "__main__":
    typer.run(main)
