"""Texts to unit vectors in the joint space: the model's tokenizer, batches, prompt templates."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import open_clip
import torch

from clipaudit.arrays import Float32s
from clipaudit.config import ModelConfig
from clipaudit.errors import UsageError
from clipaudit.model.loading import LoadedModel, first_line, quiet_open_clip
from clipaudit.model.names import resolve, spelled

Template: TypeAlias = str | Callable[[str], str]
"""A prompt with `{}` where the name goes, or a function such as those of `open_clip.OPENAI_IMAGENET_TEMPLATES`."""

_LOCAL = "local-dir:"


class Tokenizer(Protocol):
    """What open_clip's tokenizers have in common."""

    @property
    def context_length(self) -> int:
        """Most tokens of a text, start and end included."""

    def __call__(self, texts: list[str], context_length: int | None = None) -> torch.Tensor:
        """(n, context_length) int64 token ids, cut or padded."""


def load_tokenizer(config: ModelConfig) -> Tokenizer:
    """The tokenizer of the model that `config` names, in every spelling that `load_model` takes.

    Raises UnknownModel as `load_model` does, and UsageError when the tokenizer's files cannot be had.
    """
    name, _, _ = resolve(config)
    try:
        with quiet_open_clip():
            tokenizer: Tokenizer = open_clip.get_tokenizer(name, **_local_bpe(name))
    except (ImportError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the tokenizer of {spelled(config)} cannot be loaded: {first_line(error)}") from error
    return tokenizer


def encode_texts(loaded: LoadedModel, tokenizer: Tokenizer, texts: Sequence[str], *, batch_size: int = 128) -> Float32s:
    """(T, D) unit float32 vectors of texts, in order; not centred.

    Raises UsageError when a text is longer than the model's context (tokenizers cut it without telling), when the
    tokenizer is not the model's, or when a vector is not finite or of length 0.
    """
    batches = [_encode(loaded, tokenizer, piece) for piece in _pieces(texts, batch_size)]
    return np.concatenate(batches) if batches else np.empty((0, 0), np.float32)


def encode_classes(
    loaded: LoadedModel,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[Template] = ("a photo of a {}.",),
    *,
    batch_size: int = 128,
) -> Float32s:
    """(C, D) unit float32 vectors of classes: the mean over all templates of the unit vectors, normalised again.

    The same as open_clip's zero-shot classifier (prompt ensembling: Radford et al. 2021, section 3.1.4). UsageError as
    in `encode_texts`, or without templates.
    """
    if not templates:
        raise UsageError("there is no prompt template: give at least one, such as 'a photo of a {}.'")
    classes: list[Float32s] = []
    for piece in _pieces(names, max(1, batch_size // len(templates))):
        prompts = [fill(template, name) for name in piece for template in templates]
        vectors = encode_texts(loaded, tokenizer, prompts, batch_size=batch_size)
        # (names * templates, D) -> (names, templates, D) -> (names, D)
        classes.append(_unit(vectors.reshape(len(piece), len(templates), -1).mean(axis=1, dtype=np.float64)))
    return np.concatenate(classes) if classes else np.empty((0, 0), np.float32)


def fill(template: Template, name: str) -> str:
    """A class name put into a template; braces in the name stay as they are. UsageError for a template without `{}`."""
    if callable(template):
        return template(name)
    if "{}" not in template:
        raise UsageError(f"the prompt template {template!r} has no {{}} for the class name")
    return template.replace("{}", name)


@torch.inference_mode()
def _encode(loaded: LoadedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> Float32s:
    tokens = _tokens(tokenizer, texts)
    vocabulary = _vocabulary(loaded.model)
    if vocabulary is not None and int(tokens.max()) >= vocabulary:
        raise UsageError(
            f"the tokenizer is not this model's: it gives token {int(tokens.max())}, and the model knows {vocabulary}"
        )
    encode: Any = loaded.model.encode_text
    features = encode(tokens.to(loaded.device)).double().cpu().numpy()
    if not np.isfinite(features).all():
        raise UsageError("the model's text encoder gives numbers that are not finite")
    return _unit(features)


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """(n, context) token ids, of texts that all fit."""
    context = tokenizer.context_length
    # Tokenizers cut silently, each in its own way. With twice the context, a text that fits leaves the second half as
    # the empty text does.
    roomy = tokenizer(["", *texts], context_length=2 * context)[:, context:]
    cut = (roomy[1:] != roomy[:1]).any(dim=1)
    if bool(cut.any()):
        text = texts[int(cut.int().argmax())]
        start = text if len(text) <= 60 else f"{text[:57]}..."
        raise UsageError(f"a text is longer than the {context} tokens that the model reads: {start!r}")
    return tokenizer(list(texts), context_length=context)


def _vocabulary(model: torch.nn.Module) -> int | None:
    """How many tokens the text encoder knows; None when it has no plain embedding table."""
    for owner in (model, getattr(model, "text", None)):
        table = getattr(owner, "token_embedding", None)
        if isinstance(table, torch.nn.Embedding):
            return table.num_embeddings
    return None


def _local_bpe(name: str) -> dict[str, str]:
    """`bpe_path` of a model directory that brings its own merges: open_clip would look in the working directory."""
    if not name.startswith(_LOCAL):
        return {}
    directory = Path(name.removeprefix(_LOCAL))
    config = json.loads((directory / "open_clip_config.json").read_text(encoding="utf-8"))
    given = config.get("model_cfg", {}).get("text_cfg", {}).get("tokenizer_kwargs", {}).get("bpe_path")
    return {"bpe_path": str(directory / given)} if given and (directory / given).is_file() else {}


def _pieces(items: Sequence[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while piece := list(itertools.islice(iterator, size)):
        yield piece


def _unit(rows: npt.NDArray[np.floating[Any]]) -> Float32s:
    """(n, D) rows of length 1, float32."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise UsageError("the model's text encoder gives a vector of length 0")
    unit: Float32s = (rows / lengths).astype(np.float32)
    return unit
