"""How much each image token contributes, through each head, to a text (docs/method.md 4)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clipaudit.errors import UsageError
from clipaudit.model.decomposer import Decomposition, TokenValues
from clipaudit.model.readout import Readout


def token_scores(out: Decomposition, readout: Readout, texts: Tensor) -> Tensor:
    """Contribution of each token, through each head, to the product of the unit embedding with each text.

    Token i of a head adds `s alpha_i v_i . (M t)`. Texts are folded into the heads first, so that nothing of size
    tokens x heads x D is built. Over tokens the scores sum to the head's product with the text.

    Args:
        out: made with `tokens=True`.
        readout: of the same decomposer.
        texts: (n, D) text embeddings, any length, on the same device.

    Returns:
        (B, layers, heads, tokens, n); token 0 is the class token in towers that have one.

    Raises:
        UsageError: the decomposition holds no tokens.

    >>> loaded = load_model("demo")
    >>> images = loaded.transform(PIL.Image.open("photo.jpg"))[None]  # (1, 3, 64, 64)
    >>> texts = torch.from_numpy(TextPool.of(["a bird", "water"]).vectors("demo-out/birds-run"))  # (2, 128)
    >>> decomposer = Decomposer(loaded.model, tokens=True)
    >>> token_scores(decomposer(images), decomposer.readout, texts).shape  # images, layers, heads, tokens, texts
    torch.Size([1, 6, 4, 65, 2])
    """
    tokens = _tokens(out)
    scores = None
    for weights, folded in _through_pool(out, tokens, readout, texts):
        part = torch.einsum("blhik,lhnk->blhin", tokens.v, folded) * weights[..., None]
        scores = part if scores is None else scores.add_(part)
    assert scores is not None
    return scores


def token_map(out: Decomposition, readout: Readout, texts: Tensor) -> Tensor:
    """`token_scores` summed over all heads of the chosen layers: (B, tokens, n), for heat maps; arguments as there."""
    tokens = _tokens(out)
    if len(texts) > texts.shape[1]:
        # more texts than joint dimensions: fold the D axes instead, and multiply with the texts at the end
        return token_map(out, readout, torch.eye(texts.shape[1]).to(texts)) @ texts.T.to(tokens.v.dtype)
    total = None
    for weights, folded in _through_pool(out, tokens, readout, texts):
        weighted = tokens.v * weights[..., None]  # (B, layers, heads, tokens, head_dim)
        part = torch.einsum("blhik,lhnk->bin", weighted, folded)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _through_pool(
    out: Decomposition, tokens: TokenValues, readout: Readout, texts: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token weights (B, layers, heads, tokens) and texts as the values see them (layers, heads, n, head_dim): once for
    each head of an attention pool, or once for other towers."""
    folded = readout.fold_tokens(texts.to(tokens.v.dtype))  # (layers, heads, P, n, head_dim)
    alpha = tokens.alpha if tokens.alpha.ndim == 5 else tokens.alpha[:, :, :, None]  # (B, layers, heads, P, tokens)
    for number in range(folded.shape[2]):
        yield alpha[:, :, :, number] * out.scale[:, None, None, None], folded[:, :, number]


def _tokens(out: Decomposition) -> TokenValues:
    if out.tokens is None:
        raise UsageError("the decomposition holds no tokens: make the Decomposer with tokens=True")
    return out.tokens
