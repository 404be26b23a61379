"""The command `texts check`: which texts of a file a model tells apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipaudit.cli.command import Command
from clipaudit.cli.options import (
    JsonOption,
    ModelOption,
    PretrainedOption,
    TextDeviceOption,
    at_least,
    model_config,
    option,
    print_json,
)
from clipaudit.cli.terminal import tell
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clipaudit.arrays import Float32s
    from clipaudit.config import ModelConfig

texts = typer.Typer(
    help="Lists of texts for `--texts`: which of them a model tells apart.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@texts.callback()
def _texts() -> None:
    """Lists of texts for `--texts`: which of them a model tells apart."""


@texts.command("check", cls=Command)
def check(
    file: Annotated[
        str, typer.Argument(help="Texts, one a line, or text, tab, property; a path or URL.", show_default=False)
    ],
    run: Annotated[str | None, option("Ask this run's model instead of --model.", "--run")] = None,
    model: ModelOption = "ViT-B-32",
    pretrained: PretrainedOption = None,
    top: Annotated[int, option("Texts shown that are not told apart [20].")] = 20,
    device: TextDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say which texts of a list a model tells apart, before heads, searches and reports are put into its words.

    Each text is worded anew, three times; it is told apart when every wording is nearer to it than to any other text of
    the list. Also listed are texts that are to the model like made-up words, and how well each property does.

    Example: `clipaudit texts check demo-out/birds/classnames.txt --run demo-out/birds-run`
    """
    at_least("--top", top, 1)
    if run is not None and (model != "ViT-B-32" or pretrained is not None):
        raise UsageError("--run names the model already: leave --model and --pretrained out")
    from clipaudit.cli.console.texts import print_check
    from clipaudit.heads.texts.check import WORDINGS, check_json, check_texts
    from clipaudit.heads.texts.pool import load_pool
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.run.reader import Run

    pool = load_pool(file)
    tell(f"asking the model for {(1 + len(WORDINGS)) * len(pool):,} texts, {len(WORDINGS)} wordings of each")
    if run is not None:
        opened_run = Run(run)
        name = str(opened_run.manifest.identity["model"])
        result = check_texts(pool, RunTexts(opened_run, device, _loading, keep=False))
    else:
        config = model_config(model, pretrained, "fp32", device)
        name = config.name
        result = check_texts(pool, _ModelTexts(config))
    if as_json:
        print_json(check_json(result, name))
    else:
        print_check(result, name, top)


def _loading(model: str) -> None:
    tell(f"loading {model} ...")


class _ModelTexts:
    """Texts to vectors by a model that no run names; loaded at once."""

    def __init__(self, config: ModelConfig) -> None:
        from clipaudit.heads.texts.encoder import load_tokenizer
        from clipaudit.model.loading import load_model

        _loading(config.name)
        self._encoder: tuple[Any, Any] = load_model(config), load_tokenizer(config)

    def vectors(self, texts: Sequence[str]) -> Float32s:
        """(T, D) unit float32 vectors."""
        from clipaudit.heads.texts.encoder import encode_texts

        return encode_texts(*self._encoder, texts)
