"""Splits image embeddings into heads, MLPs and constants that add up to the whole, in one forward pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from clipaudit.arrays import ArrayHolder
from clipaudit.config import Precision
from clipaudit.errors import UsageError
from clipaudit.model import attention_pool
from clipaudit.model import readout as algebra
from clipaudit.model.attention_pool import PooledReadout
from clipaudit.model.linears import HALVES, replacements
from clipaudit.model.readout import Readout
from clipaudit.model.residual_means import ResidualMeans
from clipaudit.model.sizes import resized
from clipaudit.model.taps import Record, Taps
from clipaudit.model.towers import Tower, describe_tower


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TokenValues(ArrayHolder):
    """What each head read from each token. Token i adds `scale alpha_i v_i T` to the head's coordinates, and over all
    tokens these sum to the coordinates."""

    alpha: Tensor
    """(B, layers, heads, tokens): attention weights of the class token, in 0..1, summing to 1. With average pooling the
    mean over the pooled queries, weighted by 1/sigma where the norm precedes the pool. Where a LayerNorm scales the
    attention branch (EVA-02), that scale is in it too. Towers that pool by attention have an axis more, (B, layers,
    heads, P, tokens): through each of the pool's P heads, weighted by its attention and 1/sigma."""
    v: Tensor
    """(B, layers, heads, tokens, head_dim): values, bias included."""
    norm: Tensor
    """(B, tokens): length of each token's residual stream before the last block; register-like tokens stand out."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Decomposition(ArrayHolder):
    """One batch of unit image embeddings as sums of parts (docs/method.md 1).

    Tensors are on the model's device, float32 (float64 for a float64 model); B images, D joint dimensions, layers as
    chosen, ascending.

    >>> loaded = load_model("demo")
    >>> out = Decomposer(loaded.model)(loaded.transform(PIL.Image.open("photo.jpg"))[None])
    >>> bool(torch.allclose(sum(out.parts.values()), out.embedding, atol=1e-5))
    True
    """

    heads: Tensor
    """(B, layers, heads, head_dim): each head's coordinates y; `readout.expand(heads)` gives its vectors in R^D."""
    embedding: Tensor
    """(B, D): unit length, from the model's own forward pass."""
    scale: Tensor
    """(B,): s = 1 / (sigma norm), the factor between residual stream and unit embedding."""
    norm: Tensor
    """(B,): length of the model's embedding before normalisation."""
    remainder: Tensor
    """(B,): largest absolute entry of `embedding - sum(parts)`. It checks that the parts are the whole, because they
    come from the recorded values and the stored matrices, not from differences of the residual stream."""
    parts: dict[str, Tensor]
    """name -> (B, D); they add up to the embedding. `heads`, `attention_bias`, `mlp`: sums over the chosen layers;
    `other_layers`: attention and MLPs of the layers not chosen; `initial`: the residual stream before the first block;
    `norm_bias`: the last LayerNorm's bias. A tower that pools by attention has `pool_bias` and, with an MLP there,
    `pool_mlp` too."""
    attention: Tensor | None = None
    """(B, layers, D), with `terms`: each layer's heads and output bias together."""
    mlp: Tensor | None = None
    """(B, layers, D), with `terms`: each layer's MLP."""
    self_attention: Tensor | None = None
    """(B, layers, D), with `terms`: what the class token's attention to itself adds in each layer, all heads together,
    a part of `heads`. None for towers that pool patches."""
    residual_means: Tensor | None = None
    """(B, layers * (heads + 2) + 1), with `terms`: see `TableSpec.residual_means`. None where the published code's
    allocation is not defined; see `ResidualMeans.of`."""
    tokens: TokenValues | None = None
    """With `tokens`: what each head read from each token."""

    @property
    def constants(self) -> dict[str, Tensor]:
        """The parts that no layer computes from the image: initial, attention_bias, norm_bias, each (B, D)."""
        return {name: self.parts[name] for name in ("initial", "attention_bias", "norm_bias")}


class Decomposer:
    """The exact decomposition of an image encoder's unit embedding into its attention heads and the rest.

        z = initial + sum over layers (heads + attention bias + MLP) + norm bias

    after Gandelsman, Efros, Steinhardt, "Interpreting CLIP's Image Representation via Text-Based Decomposition", ICLR
    2024, section 3 (docs/method.md 1). One forward pass of the model itself, with its attention swapped for modules
    that record; see `taps.tapped` for threads. The readout is computed from the weights at construction: after changing
    weights, make a new Decomposer. A model with batch or dropout layers must be in eval mode.

    Args:
        model: an open_clip model or its image tower, in eval mode.
        layers: the layers whose heads are returned, 0-based; None for all. Returned in ascending order.
        terms: also return each chosen layer's attention sum, MLP term and class-token self-attention.
        tokens: also return each chosen head's attention weights and values per token (memory: tokens times larger).
        precision: `fp32` computes in the weights' own precision, `bf16` and `fp16` under autocast, `int8` (CPU only)
            with the blocks' large projections in 8 bits, see `linears`. What is added here is always computed in at
            least float32.
        compiled: run the forward pass through `torch.compile`: the first batch of each size takes a minute.

    Raises:
        UnsupportedTower: the tower is not one that can be decomposed exactly.
        UsageError: a layer that the tower does not have, an unknown precision, or int8 on an accelerator.

    >>> loaded = load_model("demo")
    >>> images = loaded.transform(PIL.Image.open("photo.jpg"))[None]  # (1, 3, 64, 64)
    >>> out = Decomposer(loaded.model, layers=[4, 5])(images)
    >>> out.heads.shape  # images, layers, heads, coordinates
    torch.Size([1, 2, 4, 32])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int] | None = None,
        terms: bool = False,
        tokens: bool = False,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        if precision not in get_args(Precision):
            raise UsageError(f"precision must be fp32, bf16, fp16 or int8, not {precision!r}")
        self.tower: Tower = describe_tower(model)
        self.layers = _check_layers(layers, self.tower.layers)
        self.terms = terms
        self.with_tokens = tokens
        self.precision: Precision = precision
        self.compiled = compiled
        self._linears = replacements(self.tower, precision)
        self.residual_means = ResidualMeans.of(self.tower, self.layers) if terms else None
        self._prepare()
        build = algebra.build if self.tower.pool is None else attention_pool.build
        self.readout: Readout = build(self.tower, self.layers)

    def __call__(self, images: Tensor) -> Decomposition:
        """Decompose a batch.

        Args:
            images: (B, 3, height, width) floating point, B at least 1, normalised by the model's own preprocessing, on
                its device.

        Raises:
            UsageError: the images have another shape, dtype or device than the tower takes, or the model is in training
                mode.
        """
        self._check_images(images)
        device = images.device.type
        with torch.inference_mode():
            with (
                torch.autocast(device, dtype=HALVES.get(self.precision), enabled=self.precision in HALVES),
                self._taps.installed() as record,
            ):
                features = self._forward(images.to(self.tower.parameter().dtype))
            with torch.autocast(device, enabled=False):
                features = features[0] if isinstance(features, tuple) else features
                return self._assemble(record, features)

    def resized(self, size: tuple[int, int]) -> Decomposer:
        """The same for images of another (height, width) in pixels; the readout is shared. Raises as `resized`."""
        if size == self.tower.image_size:
            return self
        view = copy.copy(self)
        view.tower = describe_tower(resized(self.tower.visual, size))
        view._prepare()
        return view

    def _prepare(self) -> None:
        """Make what every forward pass of this tower uses."""
        own = self.terms and self.tower.pooling == "token"
        self._taps = Taps(self.tower, self.layers if self.with_tokens else (), linears=self._linears, own=own)
        self._forward = torch.compile(self.tower.visual) if self.compiled else self.tower.visual

    def _check_images(self, images: Tensor) -> None:
        expected = (3, *self.tower.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected or not len(images) or not images.is_floating_point():
            shape = "x".join(map(str, images.shape))
            raise UsageError(
                f"images must be floating point of shape Bx{'x'.join(map(str, expected))} with B at least 1, "
                f"not {shape} {images.dtype}"
            )
        weights = self.tower.parameter()
        if images.device != weights.device:
            raise UsageError(f"images are on {images.device} but the model is on {weights.device}")
        if self.tower.visual.training:
            raise UsageError("the model is in training mode: call model.eval() first")

    def _assemble(self, record: Record, features: Tensor) -> Decomposition:
        """The recorded rows to parts of the unit embedding, in at least float32 (docs/method.md 1):

        z = s e G + sum_l s b_l G + sum_l s m_l G + sum_{l,h} s u_{l,h} M_{l,h} + beta P / ||r||
        """
        result = torch.float64 if features.dtype == torch.float64 else torch.float32
        work = torch.float64 if _rounds_matmul(features) else result
        pool = _Pool(self.tower, record, work)
        matrices = self.readout.on(features.device, work)
        raw = features.to(work)
        norm = raw.norm(dim=-1)
        embedding = raw / norm[:, None]
        scale = pool.inverse_sigma / norm  # s = 1 / (sigma ||r||)

        factor = scale[:, None, None, None]
        u = torch.stack([pool.values(layer) for layer in self.layers], dim=1)  # (B, layers, heads, [P,] head_dim)
        heads = self.readout.coordinates(u, matrices) * factor  # y = s u T
        by_layer = self.readout.by_layer(heads, matrices)  # sum_h y Q
        bias = self._attention_bias(pool, matrices) * scale[:, None, None]  # (B, layers, D)
        mlps = torch.stack([pool.mlp(layer) for layer in self.layers], dim=1)  # (B, layers, [P,] width)
        streams = torch.stack([mlps.sum(dim=1), self._other_layers(pool, mlps)], dim=1)  # (B, 2, [P,] width)
        mlp_sum, other_layers = (self.readout.joint(streams, matrices) * scale[:, None, None]).unbind(dim=1)
        parts = {
            "heads": by_layer.sum(dim=1),
            "attention_bias": bias.sum(dim=1),
            "mlp": mlp_sum,
            "other_layers": other_layers,
            "initial": self._initial(pool, matrices) * scale[:, None],
            "norm_bias": matrices["norm_bias"] / norm[:, None],
        }
        parts |= self._pool_parts(record, matrices, scale)
        remainder = (embedding - sum(parts.values())).abs().amax(dim=-1)
        attention = mlp = tokens = self_attention = means = None
        if self.terms:
            attention = (by_layer + bias).to(result)
            mlp = (self.readout.joint(mlps, matrices) * scale[:, None, None]).to(result)
        if self.terms and self.tower.pooling == "token":
            own = torch.stack([pool.own(layer) for layer in self.layers], dim=1)  # (B, layers, heads, head_dim)
            y = self.readout.coordinates(own, matrices) * factor
            self_attention = self.readout.by_layer(y, matrices).to(result)
            if self.residual_means is not None:
                means = self.residual_means.column(u, own, mlps, pool.final(), scale).to(result)
        if self.with_tokens:
            tokens = pool.tokens(self.layers, result)
        return Decomposition(
            heads=heads.to(result),
            embedding=embedding.to(result),
            scale=scale.to(result),
            norm=norm.to(result),
            remainder=remainder.to(result),
            parts={name: part.to(result) for name, part in parts.items()},
            attention=attention,
            mlp=mlp,
            self_attention=self_attention,
            residual_means=means,
            tokens=tokens,
        )

    def _attention_bias(self, pool: _Pool, matrices: dict[str, Tensor]) -> Tensor:
        """(B or 1, layers, D) output biases of the chosen layers, before the image's scale."""
        if isinstance(self.readout, PooledReadout):
            return self.readout.biases(pool.mass, matrices)
        bias = matrices["attention_bias"][None]
        if "attention_bias_scaled" not in matrices:
            return bias
        scales = torch.stack([pool.branch_scale(layer) for layer in self.layers], dim=1)  # (B, layers)
        return bias + scales[..., None] * matrices["attention_bias_scaled"]

    def _other_layers(self, pool: _Pool, mlps: Tensor) -> Tensor:
        """(B, width) what the layers that were not chosen add to the residual stream."""
        total = torch.zeros_like(mlps[:, 0])
        for layer in range(self.tower.layers):
            if layer not in self.layers:
                total += pool.attention(layer) + pool.mlp(layer)
        return total

    def _initial(self, pool: _Pool, matrices: dict[str, Tensor]) -> Tensor:
        """(B or 1, D) the residual stream before the first block, in joint space."""
        if "initial" in matrices:
            return matrices["initial"][None]
        return self.readout.joint(pool.initial(), matrices)

    def _pool_parts(self, record: Record, matrices: dict[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
        """(B, D) each: what an attention pool adds of its own; nothing for other towers."""
        if self.tower.pool is None:
            return {}
        parts = {"pool_bias": matrices["pool_bias"] * scale[:, None]}
        if record.pool_mlp is not None:
            parts["pool_mlp"] = record.pool_mlp.to(scale.dtype) @ matrices["rest"] * scale[:, None]
        return parts


class _Pool:
    """Pools the recorded rows of tokens with the weights that they have in the embedding.

    The weight is 1 for the class token, and with average pooling 1 / tokens, or proportional to 1 / sigma of each token
    where the last norm precedes the average. For each of the P heads of an attention pool it is A / sigma, which gives
    an axis of length P behind B. R rows: those that `Record` holds.
    """

    def __init__(self, tower: Tower, record: Record, dtype: torch.dtype) -> None:
        self._tower, self._record, self._dtype = tower, record, dtype
        assert record.final is not None
        inverse = algebra.inverse_sigma(tower.norm, record.final.to(dtype))  # (B, R)
        self.inverse_sigma = inverse.mean(dim=1)
        """(B,) mean of 1 / sigma over the pooled tokens."""
        if tower.pool is not None:
            normed = algebra.norm_as(tower.norm, record.final.to(dtype))
            self._weights = attention_pool.attention_of(tower.pool, normed) * inverse[:, None]  # (B, P, R)
            self.mass = self._weights.sum(dim=-1)
            """(B, P): what a constant in every token is multiplied with."""
            self.inverse_sigma = inverse.new_ones(len(inverse))
            if tower.pool.post_norm is not None:
                assert record.pooled is not None
                self.inverse_sigma = algebra.inverse_sigma(tower.pool.post_norm, record.pooled.to(dtype))
        elif tower.keeps_rows and not tower.norm_before_pool:
            rows = tower.tokens - tower.pool_start
            self._weights = inverse.new_full((len(inverse), rows), 1 / rows)
        else:
            self._weights = inverse / inverse.sum(dim=1, keepdim=True)  # (B, R), all 1 where R is 1

    def _mean(self, rows: Tensor) -> Tensor:
        """Weighted sum over rows: (B, R, ...) -> (B, ...), or (B, P, ...)."""
        if self._tower.pool is not None:
            return torch.einsum("bpr,br...->bp...", self._weights, rows)
        if rows.shape[1] == 1:
            return rows[:, 0]
        return torch.einsum("br,br...->b...", self._weights, rows)

    def _rows(self, layer: int) -> Tensor:
        """(B, R, heads * head_dim)"""
        return self._record.values[layer].to(self._dtype).flatten(2)

    def _row_scale(self, layer: int) -> Tensor | None:
        """(B, R), where the attention branch has a LayerNorm."""
        return algebra.branch_scale(self._tower.blocks[layer], self._rows(layer))

    def branch_scale(self, layer: int) -> Tensor:
        """(B,) pooled scale of the attention branch."""
        scale = self._row_scale(layer)
        assert scale is not None
        return self._mean(scale)

    def values(self, layer: int) -> Tensor:
        """u, times the branch's own scale where it has one: (B, heads, head_dim), or (B, heads, P, head_dim)."""
        rows, scale = self._rows(layer), self._row_scale(layer)
        rows = rows if scale is None else rows * scale[..., None]
        pooled = self._mean(rows)
        by_head = pooled.reshape(*pooled.shape[:-1], self._tower.heads, self._tower.head_dim)
        return by_head if self._tower.pool is None else by_head.transpose(1, 2)

    def own(self, layer: int) -> Tensor:
        """The part of `values` that the class token reads from itself, (B, heads, head_dim)."""
        rows, scale = self._record.own_values[layer].to(self._dtype), self._row_scale(layer)
        return rows[:, 0] if scale is None else rows[:, 0] * scale[..., None]

    def final(self) -> Tensor:
        """(B, width): the residual stream of the class token that the last norm reads."""
        assert self._record.final is not None
        return self._record.final[:, 0].to(self._dtype)

    def attention(self, layer: int) -> Tensor:
        """(B, width): the attention branch's update, by the block's own modules."""
        return self._mean(algebra.attention_update(self._tower.blocks[layer], self._rows(layer)))

    def mlp(self, layer: int) -> Tensor:
        """(B, width): the MLP branch's update."""
        return self._mean(self._record.mlps[layer].to(self._dtype))

    def initial(self) -> Tensor:
        """(B, width): the residual stream before the first block."""
        assert self._record.initial is not None
        return self._mean(self._record.initial.to(self._dtype))

    def tokens(self, layers: Sequence[int], dtype: torch.dtype) -> TokenValues:
        """Pooled attention weights and the values of the chosen layers."""
        alphas = []
        for layer in layers:
            alpha, scale = self._record.alphas[layer].to(self._dtype).transpose(1, 2), self._row_scale(layer)
            pooled = self._mean(alpha if scale is None else alpha * scale[..., None, None])
            alphas.append(pooled if self._tower.pool is None else pooled.transpose(1, 2))
        values = [self._record.token_values[layer] for layer in layers]
        assert self._record.token_norms is not None
        return TokenValues(
            alpha=torch.stack(alphas, dim=1).to(dtype),
            v=torch.stack(values, dim=1).to(dtype),
            norm=self._record.token_norms.to(dtype),
        )


def _rounds_matmul(x: Tensor) -> bool:
    """Whether float32 products on this device may be rounded to TF32, which is too coarse for sums of parts."""
    return x.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"


def _check_layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(count))
    chosen = tuple(sorted(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= count or len(set(chosen)) != len(chosen):
        raise UsageError(f"layers must be different numbers from 0 to {count - 1}, not {list(layers)}")
    return chosen
