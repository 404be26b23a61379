"""An open_clip ViT written out, every token in every layer: what the localisers are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Trace:
    """Every layer's attention weights (B, heads, N, N), and the second path of CLIP Surgery, all (B, N, ...)."""

    attention: list[Tensor] = field(default_factory=list)
    entered: list[Tensor] = field(default_factory=list)
    second: Tensor | None = None
    tokens: Tensor | None = None
    embedding: Tensor | None = None


def plain_forward(visual: nn.Module, images: Tensor, second_from: int | None = None, stop: int | None = None) -> Trace:
    """The tower on a batch; from layer `second_from` on also the path of value-value attention without MLP.

    `stop`: the first layer that is left out.
    """
    trace = Trace()
    x = visual._embeds(images)
    for layer, block in enumerate(visual.transformer.resblocks[:stop]):
        trace.entered.append(x)
        if layer == second_from:
            trace.second = x
        normed = block.ln_1(x)
        q, k, v = heads_of(block.attn, normed)
        A = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        if torch.is_grad_enabled() and not A.requires_grad:
            A.requires_grad_()
        trace.attention.append(A)
        if trace.second is not None:
            weights = (v @ v.transpose(-2, -1) * v.shape[-1] ** -0.5).softmax(dim=-1)
            trace.second = trace.second + block.ls_1(block.attn.out_proj((weights @ v).transpose(1, 2).flatten(2)))
        x = x + block.ls_1(block.attn.out_proj((A @ v).transpose(1, 2).flatten(2)))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    trace.tokens = x
    trace.embedding = visual.ln_post(x[:, 0]) @ visual.proj
    return trace


def heads_of(attention: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, each (B, heads, N, head_dim)."""
    joint = x @ attention.in_proj_weight.T + attention.in_proj_bias
    return joint.reshape(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
