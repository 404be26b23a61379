"""Means over the entries of the residual stream, by component: what the published code's allocation needs beside rows.

Every component here subtracts its own mean. The code published with Gandelsman, Efros, Steinhardt (ICLR 2024) subtracts
the mean of the whole stream, an equal share from each component, so that the mean of each must be known
(docs/method.md 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipaudit.arrays import ArrayHolder
from clipaudit.model import readout as algebra
from clipaudit.model.towers import Tower

Arrays: TypeAlias = dict[str, npt.NDArray[np.floating]]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ResidualMeans(ArrayHolder):
    """What the weights say of means. Tensors are float64 on the CPU."""

    by_value: Tensor
    """(layers, heads, head_dim): mean over the residual stream of what a unit of a head's value writes."""
    flat: Tensor
    """(D,): where a residual stream of ones points, 1' diag(gamma) P."""
    attention_bias: Tensor
    """(layers,): mean of each layer's attention output bias."""
    initial: float
    """Mean of the class token's embedding as it enters the first block."""

    @staticmethod
    @torch.no_grad()
    def of(tower: Tower, layers: Sequence[int]) -> ResidualMeans | None:
        """Of a tower's chosen layers; None for towers that the published code does not know: those without a class
        token in their pool, and those with a LayerNorm inside the attention branch."""
        if tower.pooling != "token" or any(block.scaled for block in tower.blocks):
            return None
        gain, _ = algebra.affine(tower.norm)
        projection, _ = algebra.head_map(tower)
        updates = [algebra.fold_attention(tower.blocks[layer]) for layer in layers]
        by_value = torch.stack([weight.mean(dim=1) for weight, _, _ in updates])  # (layers, heads * head_dim)
        return ResidualMeans(
            by_value=by_value.reshape(len(layers), tower.heads, tower.head_dim),
            flat=gain @ projection,
            attention_bias=torch.stack([bias.mean() for _, _, bias in updates]),
            initial=float(algebra.class_token(tower).mean()),
        )

    def column(self, u: Tensor, own: Tensor, mlps: Tensor, final: Tensor, scale: Tensor) -> Tensor:
        """The column `residual_means` of a batch; see `TableSpec.residual_means`.

        Args:
            u: (B, layers, heads, head_dim) heads' values.
            own: the same of the class token's attention to itself.
            mlps: (B, layers, width) MLP terms.
            final: (B, width) the residual stream that the last norm reads.
            scale: (B,) s.

        Returns:
            (B, layers * (heads + 2) + 1) in the dtype of u.
        """
        by_value = self.by_value.to(u)
        heads = torch.einsum("blhj,lhj->blh", u, by_value)
        self_attention = torch.einsum("blhj,lhj->bl", own, by_value)
        layers = torch.cat([heads, self_attention[..., None], mlps.mean(dim=-1, keepdim=True)], dim=-1)
        return torch.cat([layers.flatten(1), final.mean(dim=-1, keepdim=True)], dim=1) * scale[:, None]

    def arrays(self, dtype: npt.DTypeLike = np.float32) -> Arrays:
        """What the run's basis keeps of it: `flat` (D,), `attention_bias_mean` (layers,), `initial_mean` (1,)."""
        return {
            "flat": self.flat.numpy().astype(dtype),
            "attention_bias_mean": self.attention_bias.numpy().astype(dtype),
            "initial_mean": np.array([self.initial], dtype),
        }
