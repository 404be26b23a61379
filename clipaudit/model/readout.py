"""The linear map from each head to the joint space, with everything linear behind the head folded in: pure algebra.

Source of the decomposition: Gandelsman, Efros, Steinhardt, "Interpreting CLIP's Image Representation via Text-Based
Decomposition", ICLR 2024, section 3. Here each component subtracts its own mean, and biases are components of their own
(docs/method.md 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipaudit.arrays import ArrayHolder
from clipaudit.model.towers import Block, Tower

Matrices: TypeAlias = dict[str, Tensor]
"""A readout's arrays by name, on one device."""

_RANK_TOLERANCE = 1e-13
"""Directions that a head writes with less than this share of its largest singular value are rounding noise."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Readout(ArrayHolder):
    """Where the heads and the constants of a tower point in the joint space. Tensors are float64 on the CPU.

    With u a head's attention-weighted value (head_dim) and s the image's scale, the head adds `s u M = y Q` to the unit
    embedding, where `M = T Q` and `y = s u T` are its coordinates.
    """

    layers: tuple[int, ...]
    """The layers that the first axis of Q, T and attention_bias stands for, ascending."""
    Q: Tensor
    """(layers, heads, head_dim, D): each head's orthonormal basis, one row per coordinate. It is the orthonormal frame
    nearest to M (polar decomposition), which has no free signs or order, so that it is the same on every machine. A
    head that writes fewer than head_dim directions (rank-deficient weights, head_dim > D) has as Q Q' the projector
    on those; then coordinates outside are 0."""
    T: Tensor
    """(layers, heads, head_dim, head_dim): symmetric, positive semi-definite."""
    G: Tensor
    """(width, D): residual stream to joint space, last LayerNorm's centring and gain and the head folded in."""
    norm_bias: Tensor
    """(D,): the last LayerNorm's bias (and the head's) in joint space; scales with 1 / norm."""
    attention_bias: Tensor
    """(layers, D): each layer's attention output bias in joint space; scales with s."""
    attention_bias_scaled: Tensor | None = None
    """(layers, D): the part of it that a post-norm scales per image; None in pre-norm towers."""
    initial: Tensor | None = None
    """(D,): the class token's embedding in joint space, scales with s; None with average pooling (differs by image)."""
    _on_device: dict[tuple[torch.device, torch.dtype], Matrices] = field(default_factory=dict, repr=False)

    @property
    def head_dim(self) -> int:
        """Coordinates of one head."""
        return self.T.shape[-1]

    def fold(self, texts: Tensor) -> Tensor:
        """Texts in every head's coordinates, `Q t`: (n, D) -> (layers, heads, n, head_dim).

        A head's image-text product is then `y . (Q t)`. In the dtype and on the device of the texts.
        """
        Q = self.on(texts.device, texts.dtype)["Q"]
        return torch.einsum("nd,lhkd->lhnk", texts, Q)

    def fold_values(self, texts: Tensor) -> Tensor:
        """Texts as seen by every head's values, `M t`: (n, D) -> (layers, heads, n, head_dim)."""
        T = self.on(texts.device, texts.dtype)["T"]
        return torch.einsum("lhnk,lhjk->lhnj", self.fold(texts), T)

    def fold_tokens(self, texts: Tensor) -> Tensor:
        """Texts as seen by every head's values through each of the pool's P heads (1 without an attention pool).

        (n, D) -> (layers, heads, P, n, head_dim).
        """
        return self.fold_values(texts)[:, :, None]

    def coordinates(self, u: Tensor, matrices: Matrices) -> Tensor:
        """Pooled values u to coordinates before the image's scale, `u T`; both (B, layers, heads, head_dim)."""
        return torch.einsum("blhj,lhjk->blhk", u, matrices["T"])

    def by_layer(self, y: Tensor, matrices: Matrices) -> Tensor:
        """Coordinates (B, layers, heads, head_dim) to what each layer's heads add together, (B, layers, D)."""
        # (layers, B, heads * head_dim) @ (layers, heads * head_dim, D): einsum would copy Q on every call
        return (y.flatten(2).transpose(0, 1) @ matrices["Q"].flatten(1, 2)).transpose(0, 1)

    def joint(self, stream: Tensor, matrices: Matrices) -> Tensor:
        """Pooled residual streams (B, ..., width) to the joint space, before the image's scale: (B, ..., D)."""
        return stream @ matrices["G"]

    def expand(self, heads: Tensor) -> Tensor:
        """Head contributions in joint space, `y Q`: (..., layers, heads, head_dim) -> (..., layers, heads, D)."""
        Q = self.on(heads.device, heads.dtype)["Q"]
        return torch.einsum("...lhk,lhkd->...lhd", heads, Q)

    def on(self, device: torch.device, dtype: torch.dtype) -> Matrices:
        """Every array by its name, on a device and in a dtype; cached."""
        key = (device, dtype)
        if key not in self._on_device:
            with torch.inference_mode(False):  # the copies outlive the caller's mode, and texts may need gradients
                self._on_device[key] = {name: value.to(device=device, dtype=dtype) for name, value in self._named()}
        return self._on_device[key]

    def arrays(self, dtype: npt.DTypeLike = np.float32) -> dict[str, npt.NDArray[np.floating]]:
        """Every array by its name, as numpy, for saving: Q and T (layers, heads, dh, ...), G (width, D), norm_bias
        (D,), attention_bias and, where the tower has them, attention_bias_scaled and initial."""
        return {name: value.numpy().astype(dtype) for name, value in self._named()}

    def _named(self) -> list[tuple[str, Tensor]]:
        named = {
            "Q": self.Q,
            "T": self.T,
            "G": self.G,
            "norm_bias": self.norm_bias,
            "attention_bias": self.attention_bias,
            "attention_bias_scaled": self.attention_bias_scaled,
            "initial": self.initial,
        }
        return [(name, value) for name, value in named.items() if value is not None]


@torch.no_grad()
def build(tower: Tower, layers: Sequence[int]) -> Readout:
    """The readout of a tower's chosen layers, computed in float64 on the CPU from the model's present weights."""
    gain, bias = affine(tower.norm)
    projection, shift = head_map(tower)
    # G = C diag(gamma) P with C = I - 11' / d, (d, D): C subtracts the mean over rows
    G = gain[:, None] * projection
    G = G - G.mean(dim=0)
    updates = [fold_attention(tower.blocks[layer]) for layer in layers]
    M = torch.stack([weight @ G for weight, _, _ in updates])  # W_O G: (layers, heads * head_dim, D)
    Q, T = polar(M.reshape(len(layers), tower.heads, tower.head_dim, -1))
    scaled = torch.stack([b for _, b, _ in updates])
    return Readout(
        layers=tuple(layers),
        Q=Q,
        T=T,
        G=G,
        norm_bias=bias @ projection + shift,
        attention_bias=torch.stack([b for _, _, b in updates]) @ G,
        attention_bias_scaled=scaled @ G if any(block.post_norm is not None for block in tower.blocks) else None,
        initial=None if tower.pooling == "average" else class_token(tower) @ G,
    )


def polar(M: Tensor) -> tuple[Tensor, Tensor]:
    """M = T Q with T symmetric positive semi-definite and Q the nearest frame of orthonormal rows.

    Args:
        M: (..., k, D) float64.

    Returns:
        Q (..., k, D) and T (..., k, k). Where M has rank r < k, Q has rank r too (a partial isometry): a completed
        basis would be arbitrary, and would give texts coordinates in directions that the head cannot write.
    """
    # M = U S V': T = U S U' and Q = U V', without the directions of singular value 0
    U, sigma, Vh = torch.linalg.svd(M, full_matrices=False)
    written = sigma > _RANK_TOLERANCE * sigma[..., :1]
    Q = (U * written[..., None, :]) @ Vh
    T = (U * sigma[..., None, :]) @ U.mT
    return Q, T


def branch_scale(block: Block, rows: Tensor) -> Tensor | None:
    """1 / sigma of the LayerNorm inside the attention branch, per row; given it, the branch is linear in the heads.

    Args:
        block: the block; None is returned where it has no such LayerNorm.
        rows: (..., heads * head_dim) the heads' values before the output projection.

    Returns:
        (...,) in the dtype of rows.
    """
    if block.inner_norm is not None:
        return inverse_sigma(block.inner_norm, rows)
    if block.post_norm is not None:
        return inverse_sigma(block.post_norm, linear_as(block.out, rows))
    return None


def inverse_sigma(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """(..., width) -> (...,): 1 / sqrt(var(x) + eps) over the last axis, as the LayerNorm computes it."""
    return (x.var(dim=-1, unbiased=False) + norm.eps).rsqrt()


def attention_update(block: Block, rows: Tensor) -> Tensor:
    """What the attention branch adds to the residual stream, by the block's own modules.

    Args:
        block: the block.
        rows: (..., heads * head_dim) the heads' values before the output projection.

    Returns:
        (..., width) in the dtype of rows.
    """
    x = rows if block.inner_norm is None else norm_as(block.inner_norm, rows)
    x = linear_as(block.out, x)
    x = x if block.post_norm is None else norm_as(block.post_norm, x)
    return x if block.gamma is None else x * block.gamma.to(x.dtype)


def linear_as(linear: nn.Linear, x: Tensor) -> Tensor:
    """The linear map in the dtype of x: (..., in) -> (..., out)."""
    return F.linear(x, linear.weight.to(x.dtype), None if linear.bias is None else linear.bias.to(x.dtype))


def norm_as(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The LayerNorm in the dtype of x, of any shape (..., width)."""
    weight, bias = (None if p is None else p.to(x.dtype) for p in (norm.weight, norm.bias))
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def double(x: Tensor) -> Tensor:
    """A parameter of any shape in float64 on the CPU."""
    return x.detach().to(device="cpu", dtype=torch.float64)  # first to the CPU: MPS has no float64


def affine(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Gain and bias of a LayerNorm, (width,) float64 each; ones and zeros where it has none."""
    size = norm.normalized_shape[0]
    gain = torch.ones(size, dtype=torch.float64) if norm.weight is None else double(norm.weight)
    bias = torch.zeros(size, dtype=torch.float64) if norm.bias is None else double(norm.bias)
    return gain, bias


def head_map(tower: Tower) -> tuple[Tensor, Tensor]:
    """The linear maps behind the pool as one: matrix (width of the pooled row, D) and bias (D,)."""
    width = tower.width if tower.pool is None else tower.pool.out.out_features
    matrix, bias = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for step in tower.head:
        weight = double(step.weight).T if isinstance(step, nn.Linear) else double(step)
        matrix, bias = matrix @ weight, bias @ weight
        if isinstance(step, nn.Linear) and step.bias is not None:
            bias = bias + double(step.bias)
    return matrix, bias


def fold_attention(block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """W (heads * head_dim, width), b and c (width,) of `update = k (u W + b) + c`, float64.

    k is from `branch_scale`, or 1 where the branch has no LayerNorm. b is 0 except in post-norm blocks, where the norm
    scales the output bias too.
    """
    weight, fixed = double(block.out.weight).T, torch.zeros(block.out.out_features, dtype=torch.float64)
    if block.out.bias is not None:
        fixed = double(block.out.bias)
    scaled = torch.zeros_like(fixed)
    if block.inner_norm is not None:
        gain, bias = affine(block.inner_norm)
        # LN(u) W = k (u C) diag(gain) W + bias W
        fixed = fixed + bias @ weight
        weight = gain[:, None] * weight
        weight = weight - weight.mean(dim=0)
    if block.post_norm is not None:
        gain, bias = affine(block.post_norm)
        # LN(u W + c) = k (u W + c) C diag(gain) + bias
        weight = (weight - weight.mean(dim=1, keepdim=True)) * gain
        scaled, fixed = (fixed - fixed.mean()) * gain, bias
    if block.gamma is not None:
        gamma = double(block.gamma)
        weight, scaled, fixed = weight * gamma, scaled * gamma, fixed * gamma
    return weight, scaled, fixed


def class_token(tower: Tower) -> Tensor:
    """(width,): the class token as it enters the first block, the same for every image."""
    visual = tower.visual
    if tower.family == "open_clip ViT":
        token, norm = visual.class_embedding, visual.ln_pre
        position: Tensor | None = visual.positional_embedding[0]  # type: ignore[index]
    else:
        trunk = visual.trunk
        token, norm = trunk.cls_token[0, 0], getattr(trunk, "norm_pre", nn.Identity())  # type: ignore[union-attr,index]
        table = getattr(trunk, "pos_embed", None)
        position = None if table is None or trunk.no_embed_class else table[0, 0]  # type: ignore[union-attr]
    x = double(token) if position is None else double(token) + double(position)  # type: ignore[arg-type]
    if isinstance(norm, nn.LayerNorm):
        gain, bias = affine(norm)
        x = F.layer_norm(x, x.shape, gain, bias, norm.eps)
    return x
