"""What is asked of a picture: methods and their options, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clipaudit.config import DecodeConfig, parse_layers
from clipaudit.errors import UsageError
from clipaudit.localize.methods import METHODS, Options
from clipaudit.localize.surgery import Form
from clipaudit.model import Tower
from clipaudit.schema import parse_head_label
from clipaudit.shards.image_file import too_large
from clipaudit.shards.image_header import HeaderError, read_header

BY_TOKENS: Final = ("decomposition", "contrast")
"""The methods that tell heads apart."""
_WITH_BLOCKS: Final = ("surgery", "values")


def check_question(texts: Sequence[str], method: str, heads: Sequence[str], *, layers: bool, blocks: bool) -> None:
    """What can be told of a question before a model is loaded; `layers` and `blocks` say whether they are given.

    UsageError for no text, an empty one, an unknown method, and options that a method does not have.
    """
    if not texts:
        raise UsageError("there is no text to look for: give at least one --text")
    if not all(text.strip() for text in texts):
        raise UsageError("a text to look for is empty: give words to --text")
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}; there are: {', '.join(METHODS)}")
    if heads and method not in BY_TOKENS:
        raise UsageError(f"--head goes with --method decomposition or contrast: {method} knows no single heads")
    if layers and (heads or method not in BY_TOKENS):
        raise UsageError("--layers goes with --method decomposition or contrast, and without --head")
    if blocks and method not in _WITH_BLOCKS:
        raise UsageError(f"--blocks goes with --method {' or '.join(_WITH_BLOCKS)}: {method} has no second path")
    parse_heads(heads)


def check_picture(path: str) -> None:
    """UsageError when a file is no picture of a format that is read, or a too large one; decodes nothing."""
    try:
        header = read_header(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except HeaderError as error:
        raise UsageError(f"{path} is no picture that can be read: {error}") from None
    if (reason := too_large(header, DecodeConfig().max_image_pixels)) is not None:
        raise UsageError(f"{path}: {reason}")


def method_options(tower: Tower, *, layers: str | None, blocks: int | None, form: Form) -> Options:
    """Options as they stand on a command line; UsageError for layers that the tower does not have."""
    chosen = None if layers is None else parse_layers(layers, tower.layers)
    return Options(layers=chosen, blocks=blocks, form=form)


def parse_heads(labels: Sequence[str]) -> list[tuple[int, int]]:
    """Head labels, also several with commas between, as (layer, head) pairs; UsageError for what is none."""
    heads = []
    for label in (part.strip() for text in labels for part in text.split(",") if part.strip()):
        try:
            heads.append(parse_head_label(label))
        except ValueError as error:
            raise UsageError(f"--head: {error}") from None
    return heads
