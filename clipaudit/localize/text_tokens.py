"""How close an image is to each token of a text: the text's side of the multimodal maps of arXiv 2304.05653."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipaudit.errors import UsageError
from clipaudit.heads.texts.encoder import Tokenizer, encode_texts
from clipaudit.model.loading import LoadedModel

_SAME = 1 - 1e-4
"""Cosine from which a token's vector is the text's own."""


@dataclass(frozen=True, kw_only=True)
class TokenScore:
    """One token of a text."""

    token: str
    """As the tokenizer spells it; `[start]`, `[end]` and `[pad]` stand for those."""
    cosine: float
    """Of the image with the token's own vector in the joint space."""
    is_text: bool
    """Whether the model takes this token's vector for the whole text's: its cosine is the text's."""


@torch.inference_mode()
def token_scores(loaded: LoadedModel, tokenizer: Tokenizer, image: Tensor, text: str) -> tuple[TokenScore, ...]:
    """Cosines of an image with the tokens of a text, in order.

    Every token's row at the end of the text encoder goes through its last norm and projection, as the row that stands
    for the text does. Nothing is propagated back and no word is left out: these are similarities, not parts of the
    text's cosine. In a causal encoder (CLIP's) a token knows itself and those before it only, and only the row of the
    text itself was ever trained to be near images: a low cosine is not evidence that a word does not matter.

    Args:
        loaded: the model.
        tokenizer: its tokenizer.
        image: (D,) unit embedding on the model's device.
        text: a text that fits the model's context.

    Raises:
        UsageError: a text encoder of another library, whose tokens cannot be read, or a text that is too long.
    """
    whole = torch.from_numpy(encode_texts(loaded, tokenizer, [text])[0]).to(image)
    ids = tokenizer([text], context_length=tokenizer.context_length)
    rows = F.normalize(_rows(loaded.model, ids.to(loaded.device)).to(image), dim=-1)  # (tokens, D)
    own = (rows @ whole) >= _SAME
    names = _spelled(tokenizer, ids[0].tolist())
    # CoCa's text is read from a row behind all tokens.
    names += ["[end]"] * (len(rows) - len(names))
    return tuple(
        TokenScore(token=name or "[pad]", cosine=cosine, is_text=is_text)
        for name, cosine, is_text in zip(names, (rows @ image).tolist(), own.tolist(), strict=True)
        if name or is_text
    )


def _rows(model: nn.Module, ids: Tensor) -> Tensor:
    """(1, context) token ids -> (tokens, D): the last layer's rows through norm and projection, not normalised."""
    owner: Any = model if hasattr(model, "ln_final") else getattr(model, "text", None)
    if not isinstance(getattr(owner, "ln_final", None), nn.Module) or not hasattr(owner, "transformer"):
        kind = type(owner if owner is not None else model).__name__
        raise UsageError(f"the tokens of this model's text encoder cannot be read: {kind} is not open_clip's own")
    outputs: list[Tensor] = []
    hook = owner.transformer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        encode: Any = model.encode_text
        encode(ids)
    finally:
        hook.remove()
    x: Tensor = owner.ln_final(outputs[0])[0]
    projection = owner.text_projection
    if projection is None:
        return x
    rows: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return rows


def _spelled(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The tokens as texts; empty for those that follow the text."""
    reader: Any = getattr(tokenizer, "tokenizer", tokenizer)
    empty = tokenizer([""], context_length=tokenizer.context_length)[0].tolist()
    special = {getattr(tokenizer, "sot_token_id", None): "[start]", getattr(tokenizer, "eot_token_id", None): "[end]"}
    length = len(ids)
    while length and ids[length - 1] == empty[-1]:
        length -= 1
    words = [special.get(token) or str(reader.decode([token])).strip() or "[space]" for token in ids[:length]]
    return words + [""] * (len(ids) - length)
