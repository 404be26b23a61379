"""How much each image token contributes, through each head, to a text."""

from __future__ import annotations

import torch
from torch import Tensor

from clipaudit.decomposer.decomposer import Decomposition, TokenValues
from clipaudit.decomposer.readout import Readout
from clipaudit.errors import UsageError


def token_scores(out: Decomposition, readout: Readout, texts: Tensor) -> Tensor:
    """Contribution of each token, through each head, to the product of the unit embedding with each text.

    The texts are folded into the heads first, so that nothing of size tokens x heads x D is ever built. Over tokens the
    scores sum to the head's product with the text.

    Args:
        out: made with `tokens=True`.
        readout: of the same decomposer.
        texts: (n, D) text embeddings, any length, on the same device.

    Returns:
        (B, layers, heads, tokens, n); token 0 is the class token in towers that have one.

    Raises:
        UsageError: the decomposition holds no tokens.
    """
    tokens = _tokens(out)
    folded = readout.fold_values(texts.to(tokens.v.dtype))  # (layers, heads, n, head_dim)
    weights = tokens.alpha * out.scale[:, None, None, None]
    return torch.einsum("blhik,lhnk->blhin", tokens.v, folded) * weights[..., None]


def token_map(out: Decomposition, readout: Readout, texts: Tensor) -> Tensor:
    """`token_scores` summed over all heads of the chosen layers: (B, tokens, n), for heat maps; arguments as there."""
    tokens = _tokens(out)
    folded = readout.fold_values(texts.to(tokens.v.dtype))
    weights = tokens.alpha * out.scale[:, None, None, None]
    weighted = tokens.v * weights[..., None]  # (B, layers, heads, tokens, head_dim)
    return torch.einsum("blhik,lhnk->bin", weighted, folded)


def _tokens(out: Decomposition) -> TokenValues:
    if out.tokens is None:
        raise UsageError("the decomposition holds no tokens: make the Decomposer with tokens=True")
    return out.tokens
