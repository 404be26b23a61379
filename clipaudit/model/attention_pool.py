"""Towers that pool by attention (SigLIP, PE-Core, CoCa): the same algebra with the pool's attention weights in it.

A latent query with P heads reads all tokens behind the last norm. Given its attention A (P x tokens) and the norm's
1/sigma of each token, the pool is linear in what every layer added to every token:

    pooled = sum over p, i  A_{p,i} / sigma_i  x_i C diag(gamma) W_V^p W_O^p  + constants

so that a head of the tower adds `sum_p u_p mix_p W^p`, with u_p its value pooled by p's weights. It writes up to P
times head_dim directions, through the one map W = W_O (head) that all heads share: coordinates have as many numbers as
the pool is wide, in one basis for all heads. The pool's own MLP is a part of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import open_clip.transformer as oc
import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from clipaudit.model import readout as algebra
from clipaudit.model.readout import Matrices, Readout
from clipaudit.model.towers import AttentionPool, Tower


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledReadout(Readout):
    """Where heads and constants point behind an attention pool. Q and T are shared by all heads: their first two axes
    have length 1, and K is the pool's width. `attention_bias` is (layers, P, K / P), before the image's pooling."""

    heads: int
    mix: Tensor
    """(layers, heads, P, head_dim, K / P): from a head's value to the pool's value, by head of the pool."""
    values: Tensor
    """(P, width, K / P): from the residual stream to the pool's value; the norm's centring and gain folded in."""
    out: Tensor
    """(K, D): from the pool's values to the joint space."""
    rest: Tensor
    """(width of the pool's output, D): from the pool's output to the joint space, which its MLP takes."""
    pool_bias: Tensor
    """(D,): the norm's and the pool's own biases in joint space; scales with s."""

    def fold(self, texts: Tensor) -> Tensor:
        """See `Readout`: the same coordinates for every head, (layers, heads, n, K) without a copy for each."""
        return super().fold(texts).expand(len(self.layers), self.heads, -1, -1)

    def fold_tokens(self, texts: Tensor) -> Tensor:
        """(n, D) texts -> (layers, heads, P, n, head_dim), for the values of P pooling heads; see `Readout`."""
        m = self.on(texts.device, texts.dtype)
        seen = (texts @ m["out"].T).reshape(len(texts), self.values.shape[0], -1)  # (n, P, K / P)
        return torch.einsum("npk,lhpjk->lhpnj", seen, m["mix"])

    def coordinates(self, u: Tensor, matrices: Matrices) -> Tensor:
        """(B, layers, heads, P, head_dim) pooled values -> (B, layers, heads, K)."""
        return torch.einsum("blhpj,lhpjk->blhpk", u, matrices["mix"]).flatten(-2) @ matrices["T"][0, 0]

    def by_layer(self, y: Tensor, matrices: Matrices) -> Tensor:
        """(B, layers, heads, K) coordinates -> (B, layers, D) sums of the heads; see `Readout`."""
        return y.sum(dim=2) @ matrices["Q"][0, 0]

    def joint(self, stream: Tensor, matrices: Matrices) -> Tensor:
        """(B, ..., P, width) pooled residual streams -> (B, ..., D)."""
        return torch.einsum("...pw,pwk->...pk", stream, matrices["values"]).flatten(-2) @ matrices["out"]

    def biases(self, mass: Tensor, matrices: Matrices) -> Tensor:
        """(B, P) sums of A / sigma -> (B, layers, D) output biases, before the image's scale."""
        return torch.einsum("bp,lpk->blpk", mass, matrices["attention_bias"]).flatten(-2) @ matrices["out"]

    def _named(self) -> list[tuple[str, Tensor]]:
        more = {name: getattr(self, name) for name in ("mix", "values", "out", "rest", "pool_bias")}
        return [(name, value) for name, value in super()._named() if name != "G"] + list(more.items())


@torch.no_grad()
def build(tower: Tower, layers: Sequence[int]) -> PooledReadout:
    """The readout of a tower's chosen layers, computed in float64 on the CPU from the model's present weights."""
    pool = tower.pool
    assert pool is not None
    gain, bias = algebra.affine(tower.norm)
    matrix, shift = algebra.head_map(tower)  # (pool output, D)
    if pool.post_norm is not None:
        post_gain, post_bias = algebra.affine(pool.post_norm)
        shift, matrix = post_bias @ matrix + shift, post_gain[:, None] * matrix
        matrix = matrix - matrix.mean(dim=0)
    weight, value_bias = _value_map(pool)  # (width, K)
    out = algebra.double(pool.out.weight).T @ matrix  # (K, D)
    out_bias = torch.zeros(len(matrix), dtype=torch.float64) if pool.out.bias is None else algebra.double(pool.out.bias)
    values = gain[:, None] * weight
    values = (values - values.mean(dim=0)).reshape(tower.width, pool.heads, -1).transpose(0, 1)  # (P, width, K / P)
    updates = [algebra.fold_attention(tower.blocks[layer]) for layer in layers]
    W = torch.stack([update for update, _, _ in updates]).reshape(len(layers), tower.heads, tower.head_dim, -1)
    Q, T = algebra.polar(out)
    return PooledReadout(
        layers=tuple(layers),
        Q=Q[None, None],
        T=T[None, None],
        G=torch.zeros(0, len(shift), dtype=torch.float64),
        norm_bias=shift,
        attention_bias=torch.einsum("lw,pwk->lpk", torch.stack([b for _, _, b in updates]), values),
        heads=tower.heads,
        mix=torch.einsum("lhjw,pwk->lhpjk", W, values),
        values=values,
        out=out,
        rest=matrix,
        pool_bias=(bias @ weight + value_bias) @ out + out_bias @ matrix,
    )


def attention_of(pool: AttentionPool, tokens: Tensor) -> Tensor:
    """How much each of the pool's heads reads of each token: (B, tokens, width) behind the norm -> (B, P, tokens)."""
    module, like = pool.module, tokens.dtype
    if isinstance(module, AttentionPoolLatent):
        wk, bk = _half(module.kv, 0)
        q = module.latent[0].to(like)
        q = algebra.linear_as(module.q, q) if isinstance(module.q, nn.Linear) else q
    else:
        assert isinstance(module, oc.AttentionalPooler)
        wq, wk, _ = _projections(module.attn)
        bq, bk, _ = module.attn.in_proj_bias.chunk(3)
        q = F.linear(algebra.norm_as(module.ln_q, module.query[:1].to(like)), wq.to(like), bq.to(like))
    k = F.linear(tokens, wk.to(like), None if bk is None else bk.to(like))
    # (1, K) -> (P, K / P), and (B, tokens, K) -> (B, P, tokens, K / P)
    q, k = q.reshape(pool.heads, -1), k.reshape(*k.shape[:2], pool.heads, -1).transpose(1, 2)
    q, k = _normed(module, "q_norm", q), _normed(module, "k_norm", k)
    scores: Tensor = torch.einsum("pk,bpnk->bpn", q, k) * k.shape[-1] ** -0.5
    return scores.softmax(dim=-1)


def _normed(module: nn.Module, name: str, x: Tensor) -> Tensor:
    norm = getattr(module, name, None)
    return algebra.norm_as(norm, x) if isinstance(norm, nn.LayerNorm) else x


def _half(linear: nn.Linear, which: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the keys (0) or the values (1) in a joint projection."""
    return linear.weight.chunk(2)[which], None if linear.bias is None else linear.bias.chunk(2)[which]


def _value_map(pool: AttentionPool) -> tuple[Tensor, Tensor]:
    """Weight (width, K) and bias (K,) of the pool's value projection, float64."""
    module = pool.module
    if isinstance(module, AttentionPoolLatent):
        weight, bias = _half(module.kv, 1)
    else:
        assert isinstance(module, oc.AttentionalPooler)
        weight, bias = _projections(module.attn)[2], module.attn.in_proj_bias.chunk(3)[2]
    zeros = torch.zeros(len(weight), dtype=torch.float64)
    return algebra.double(weight).T, zeros if bias is None else algebra.double(bias)


def _projections(attention: nn.MultiheadAttention) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value weights, which lie together where all are of one width."""
    if attention._qkv_same_embed_dim:
        q, k, v = attention.in_proj_weight.chunk(3)
        return q, k, v
    return attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
