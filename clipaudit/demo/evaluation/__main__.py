"""The figures, targets and card of a demo model: `python -m clipaudit.demo.evaluation --model DIR`."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clipaudit.config import ModelConfig
from clipaudit.demo.evaluation.masks import object_masks
from clipaudit.demo.evaluation.measured import Figure
from clipaudit.demo.evaluation.model_card import card
from clipaudit.demo.evaluation.questions import questions
from clipaudit.demo.evaluation.recognition import ImageEncoder, footprint, recognition
from clipaudit.demo.evaluation.report import ModelEvaluation, machine, training_facts
from clipaudit.demo.evaluation.shortcut import shortcut
from clipaudit.errors import ClipauditError

IMAGES = 2000
_LOG_WIDTH = 120


def evaluate(
    model: str,
    *,
    images: int = IMAGES,
    seed: int = 1,
    command: str = "",
    training: Mapping[str, Any] | None = None,
    note: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> ModelEvaluation:
    """Measure every figure of a demo model on images that no training has used.

    Args:
        model: an open_clip directory of the demo's architecture, or `demo`.
        images: drawn for each question and art; `birds` has four times as many, `things` twice, the masks half.
        seed: of all images and resamples; figures but the load time depend on nothing else.
        command: the command line, for the record.
        training: `training_facts` of the training's directory, for the card.
        note: for the card: how the model was chosen among several, what was tried without success.
        say: told each step.
    """
    begun = time.monotonic()
    config = ModelConfig(name=model, batch_size=64)
    figures: list[Figure] = []
    size = footprint(config)
    encoder = ImageEncoder.load(config)
    for question in questions():
        say(f"{question.name} ...")
        figures += recognition(encoder, question, count=images, seed=seed)
    say("birds and things: shards, audit, heads in words, ablation ...")
    with tempfile.TemporaryDirectory(prefix="clipaudit-evaluate-") as work:
        study = shortcut(encoder, Path(work), birds=4 * images, things=2 * images, seed=seed)
    say("masks ...")
    masks = object_masks(encoder, count=max(1, images // 2), seed=seed)
    return ModelEvaluation(
        model=encoder.loaded.description,
        figures=[*figures, *study.figures, *masks, *size],
        shortcut=study,
        seed=seed,
        images=images,
        command=command,
        machine=machine(),
        seconds=time.monotonic() - begun,
        training=training,
        note=note,
    )


def main(
    model: Annotated[str, typer.Option(help="open_clip directory of a demo model, or demo for the shipped one.")],
    out: Annotated[Path, typer.Option(help="Directory for evaluation.json.")] = Path("demo-evaluation"),
    seed: Annotated[int, typer.Option(help="Seed of all images and resamples.")] = 1,
    images: Annotated[int, typer.Option(min=8, help="Images for each question and art.")] = IMAGES,
    card_file: Annotated[Path | None, typer.Option("--card", help="Write the model card to this file.")] = None,
    training: Annotated[Path | None, typer.Option(help="The training's --out, for the card's recipe.")] = None,
    note: Annotated[str, typer.Option(help="For the card: how this model was chosen among others.")] = "",
) -> None:
    """Measure a demo model on freshly drawn images, print figures beside their targets, and write them as JSON.

    Example: `python -m clipaudit.demo.evaluation --model train/model --training train --card MODEL_CARD.md`
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
    command = shlex.join(["python", "-m", "clipaudit.demo.evaluation", *sys.argv[1:]])
    try:
        facts = None if training is None else training_facts(training)
        evaluation = evaluate(
            model,
            images=images,
            seed=seed,
            command=command,
            training=facts,
            note=note,
            say=lambda line: console.print(line, style="dim"),
        )
    except ClipauditError as error:
        raise typer.BadParameter(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(evaluation.record(), indent=2) + "\n", encoding="utf-8")
    console.print(evaluation.table())
    if card_file is not None:
        card_file.parent.mkdir(parents=True, exist_ok=True)
        card_file.write_text(card(evaluation), encoding="utf-8")
    written = [str(out / "evaluation.json"), *([] if card_file is None else [str(card_file)])]
    console.print(f"{evaluation.seconds:.0f} s; wrote {' and '.join(written)}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
