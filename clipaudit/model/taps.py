"""Swaps a tower's attention for modules that record what each head adds, for the time of one forward pass."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from clipaudit.arrays import ArrayHolder
from clipaudit.model.towers import Block, Tower

Attend: TypeAlias = Callable[[int, Tensor, Tensor, Tensor, Tensor | None], Tensor | None]
"""Observes or replaces a layer's attention: (layer, q, k, v, bias) -> attention-weighted values in the shape of q, or
None for the model's own. q is (B, heads, queries, head_dim), k and v (B, heads, tokens, head_dim), positions included;
bias, (..., queries, tokens), is added to the scores. The last block of a class-token tower has one query."""

# One lock per tower, because modules are swapped in the model itself: two decompositions of one model in two threads
# take turns. The lock belongs to the container of the blocks, which resized views of a tower share.
_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


@dataclass(eq=False, repr=False)
class Record(ArrayHolder):
    """What the taps recorded, in the dtype that the model computed in.

    R rows an image: the class token, the mean over the pooled tokens, or (where tokens have different weights) every
    pooled token.
    """

    tower: Tower
    values: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> (B, R, heads, head_dim): attention-weighted values before the output projection, value bias included."""
    mlps: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> (B, R, width): what the MLP branch adds to the residual stream."""
    initial: Tensor | None = None
    """(B, R, width): the residual stream before the first block; None for the class token, where it is a constant."""
    final: Tensor | None = None
    """(B, R, width): the residual stream that the last LayerNorm reads."""
    alphas: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> (B, heads, R, tokens): attention weights, for the layers asked for."""
    token_values: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> (B, heads, tokens, head_dim): values, for the layers asked for."""
    own_values: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> (B, 1, heads, head_dim): the part of `values` that the class token reads from itself, with `own`."""
    token_norms: Tensor | None = None
    """(B, tokens): length of each token's residual stream before the last block, where tokens are asked for."""
    pool_mlp: Tensor | None = None
    """(B, pool width): what the MLP of an attention pool adds."""
    pooled: Tensor | None = None
    """(B, pool width): what the norm behind an attention pool reads."""

    def rows(self, x: Tensor) -> Tensor:
        """(B, tokens, ...) -> (B, R, ...), copied, because a view would hold every token's row in memory."""
        if self.tower.pooling == "token":
            return x[:, :1].clone()
        pooled = x[:, self.tower.pool_start :]
        return pooled.clone() if self.tower.keeps_rows else pooled.mean(dim=1, keepdim=True)


@contextmanager
def tapped(tower: Tower, tokens: Collection[int] = (), attend: Attend | None = None) -> Iterator[Record]:
    """While the context is open, a forward pass of the tower fills the yielded record.

    Every block's attention is replaced by a module that shares its parameters, runs one fused attention and records the
    pooled rows; with class-token pooling the last block computes the class token only. The image embedding is the same
    up to rounding. The originals return on exit, also after an exception; contexts may be nested (the inner one
    records). Threads that open contexts on one tower take turns. A thread that calls the model without a context at the
    same time would run the swapped modules: give it a model of its own.

    Args:
        tower: from `describe_tower`.
        tokens: layers whose attention weights and values are recorded for every token.
        attend: called in every layer with its queries, keys and values, see `Attend`; gradients flow through it.
    """
    with Taps(tower, tokens, attend).installed() as record:
        yield record


class Taps:
    """The modules that `tapped` swaps in, made once and installed for each pass.

    They are the same modules every time, so that a compiled forward pass stays valid.

    Args:
        tower, tokens, attend: as for `tapped`.
        linears: modules that replace others during a pass, see `linears.replacements`.
        own: also record what the class token reads from itself, in every layer; for class-token pooling alone.
    """

    def __init__(
        self,
        tower: Tower,
        tokens: Collection[int] = (),
        attend: Attend | None = None,
        linears: Mapping[nn.Module, nn.Module] | None = None,
        own: bool = False,
    ) -> None:
        self.tower, self.tokens, self.own = tower, frozenset(tokens), own
        self.record = Record(tower)
        """Of the running pass, or else of the last one."""
        replaced = linears or {}
        self._taps = [_Tap(self, block, layer, attend, replaced) for layer, block in enumerate(tower.blocks)]
        self._class_token = _ClassTokenBlock(tower.blocks[-1], self._taps[-1]) if tower.pooling == "token" else None
        self._linears = [
            swap for block in tower.blocks for swap in _replacements(block.module.get_submodule("mlp"), replaced)
        ]

    @contextmanager
    def installed(self) -> Iterator[Record]:
        """See `tapped`."""
        tower = self.tower
        with _lock(tower.container), ExitStack() as restore:
            outer, self.record = self.record, Record(tower)
            restore.callback(setattr, self, "record", outer)
            for layer, block in enumerate(tower.blocks):
                _swap(restore, block.module, "attn", self._taps[layer])
                restore.callback(_hook_mlp(block, layer, self).remove)
            for parent, name, linear in self._linears:
                _swap(restore, parent, name, linear)
            if self._class_token is not None:
                _swap(restore, tower.container, str(tower.layers - 1), self._class_token)
            if self.tokens:
                restore.callback(_hook_norms(tower.container.get_submodule(str(tower.layers - 1)), self).remove)
            if tower.pooling != "token":
                restore.callback(_hook_input(tower.blocks[0].module, self, "initial").remove)
            restore.callback(_hook_input(tower.norm, self, "final").remove)
            for handle in _hook_pool(self):
                restore.callback(handle.remove)
            yield self.record


def joint_projection(attention: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Weight (3 * inner, width) and bias of an attention's joint projection; (None, None) where there are three."""
    if isinstance(attention, nn.MultiheadAttention):
        return attention.in_proj_weight, attention.in_proj_bias
    qkv = attention._modules.get("qkv")
    if qkv is None:
        return None, None
    assert isinstance(qkv, nn.Linear)
    q_bias, v_bias = attention._parameters.get("q_bias"), attention._parameters.get("v_bias")
    if q_bias is None or v_bias is None:
        return qkv.weight, qkv.bias
    return qkv.weight, torch.cat((q_bias, torch.zeros_like(q_bias), v_bias))  # EVA's keys have no bias


def _replacements(
    root: nn.Module, replaced: Mapping[nn.Module, nn.Module]
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, replacement) of each replaced module below `root`."""
    for parent in root.modules():
        for name, child in parent.named_children():
            if child in replaced:
                yield parent, name, replaced[child]


def _lock(container: nn.Module) -> threading.RLock:
    with _locks_guard:
        return _locks.setdefault(container, threading.RLock())


def _swap(restore: ExitStack, parent: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a child module until `restore` is closed."""
    restore.callback(setattr, parent, name, getattr(parent, name))
    setattr(parent, name, module)


def _hook_mlp(block: Block, layer: int, taps: Taps) -> torch.utils.hooks.RemovableHandle:
    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = taps.record.rows(output)
        taps.record.mlps[layer] = rows if block.mlp_gamma is None else rows * block.mlp_gamma

    return block.mlp.register_forward_hook(record)


def _hook_input(module: nn.Module, taps: Taps, name: str) -> torch.utils.hooks.RemovableHandle:
    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        # Behind the pool there is one row an image and no token axis.
        setattr(taps.record, name, taps.record.rows(x) if x.ndim == 3 else x[:, None].clone())

    return module.register_forward_pre_hook(record)


def _hook_pool(taps: Taps) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """What the pool's MLP adds, and what the norm behind the pool reads, for a tower that pools by attention."""

    def record_mlp(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        taps.record.pool_mlp = output[:, 0].clone()

    def record_pooled(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taps.record.pooled = inputs[0][:, 0].clone()  # the first query's

    pool = taps.tower.pool
    if pool is not None and pool.mlp is not None:
        yield pool.mlp.register_forward_hook(record_mlp)
    if pool is not None and pool.post_norm is not None:
        yield pool.post_norm.register_forward_pre_hook(record_pooled)


def _hook_norms(block: nn.Module, taps: Taps) -> torch.utils.hooks.RemovableHandle:
    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taps.record.token_norms = inputs[0].norm(dim=-1)

    return block.register_forward_pre_hook(record)


class _Tap(nn.Module):
    """Multi-head self-attention on another module's parameters that records the pooled rows of the heads' values.

    Takes the calls of nn.MultiheadAttention (query, key, value) and of timm's attentions (x, rope, relative positions).
    """

    def __init__(
        self, taps: Taps, block: Block, layer: int, attend: Attend | None, replaced: Mapping[nn.Module, nn.Module]
    ) -> None:
        super().__init__()
        original, tower = block.attention, taps.tower
        # the dictionaries themselves are shared, so that parameters and state_dict keys stay what they are
        self._parameters, self._buffers, self._modules = original._parameters, original._buffers, original._modules
        self.training = original.training
        # in lists, so that nn.Module does not register them as children of this module
        self._out, self._inner_norm = [replaced.get(block.out, block.out)], [block.inner_norm]
        self._joint, self._separate = [replaced.get(original)], [replaced]
        self._heads, self._head_dim = tower.heads, tower.head_dim
        self._taps, self._layer, self._tokens, self._attend = taps, layer, layer in taps.tokens, attend
        self._own = taps.own
        self._original, self._is_torch = [original], isinstance(original, nn.MultiheadAttention)
        self._prefix = getattr(original, "num_prefix_tokens", 0)
        self._rotate_half = getattr(original, "rotate_half", False)
        self.source: Tensor | None = None
        """Tokens that give keys and values; None: the same as the queries'."""

    def forward(
        self,
        x: Tensor,
        *_: Tensor,
        rope: Tensor | None = None,
        shared_rel_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        need_weights: bool = False,
    ) -> Tensor | tuple[Tensor, None]:
        """(B, queries, width) -> (B, queries, width); for nn.MultiheadAttention's callers a pair with None."""
        if attn_mask is not None or is_causal or need_weights:
            raise ValueError("a tapped image tower takes no mask and gives no attention weights")
        out = self._read_once(x) if self._can_read_once(rope) else self._read(x, rope, shared_rel_pos)
        record = self._taps.record
        record.values[self._layer] = record.rows(out)
        out = out.flatten(2)
        inner_norm = self._inner_norm[0]
        out = self._out[0](out if inner_norm is None else inner_norm(out))
        return (out, None) if self._is_torch else out

    def _read(self, x: Tensor, rope: Tensor | None, shared_rel_pos: Tensor | None) -> Tensor:
        """Attention: (B, queries, width) -> attention-weighted values (B, queries, heads, head_dim)."""
        q, k, v = self._project(x)
        if rope is not None:
            k = self._rotate(k, rope).type_as(v)
            # A class-token query stands before the rotated patch tokens.
            q = q if self.source is not None else self._rotate(q, rope).type_as(v)
        bias = self._position_bias(shared_rel_pos)
        out = None if self._attend is None else self._attend(self._layer, q, k, v, bias)
        if out is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B, heads, queries, head_dim)
        if self._tokens:
            self._record_tokens(q, k, v, bias)
        if self._own:
            self._record_own(self._class_weights(q, k, bias)[..., :1] * v[:, :, :1])
        return out.transpose(1, 2)

    def _can_read_once(self, rope: Tensor | None) -> bool:
        plain = rope is None and self._is_torch
        return plain and self.source is not None and not self._tokens and self._attend is None

    def _read_once(self, x: Tensor) -> Tensor:
        """`_read` for one query an image, without the projections of every token to keys and values.

        q . (x W_K + b_K) = (q W_K') . x + constant, and a constant changes no softmax; sum_i a_i (x_i W_V + b_V) =
        (sum_i a_i x_i) W_V + b_V, as the weights sum to 1. Same shapes as `_read`.
        """
        assert self.source is not None
        weight, bias = self._fused()
        assert weight is not None
        shape = (self._heads, self._head_dim)
        wq, wk, wv = weight.reshape(3, *shape, -1).unbind(0)  # each (heads, head_dim, width)
        bq, _, bv = (None,) * 3 if bias is None else bias.reshape(3, -1).unbind(0)
        q = F.linear(x, wq.flatten(0, 1), bq).reshape(-1, *shape).transpose(0, 1)  # (heads, B, head_dim)
        folded = (q * self._head_dim**-0.5 @ wk).transpose(0, 1)  # (B, heads, width)
        scores = folded @ self.source.transpose(1, 2)  # (B, heads, tokens)
        weights = scores.softmax(dim=-1).to(scores.dtype)
        read = weights @ self.source  # (B, heads, width)
        out: Tensor = (read.transpose(0, 1) @ wv.mT).transpose(0, 1)  # (B, heads, head_dim)
        out = out if bv is None else out + bv.reshape(shape)
        if self._own:
            v = F.linear(self.source[:, :1], wv.flatten(0, 1), bv).reshape(-1, 1, *shape).transpose(1, 2)
            self._record_own(weights[..., None, :1] * v)
        return out[:, None]

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], -1, self._heads, self._head_dim).permute(2, 0, 3, 1, 4)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x, keys and values of the source: each (B, heads, tokens, head_dim)."""
        source = x if self.source is None else self.source
        weight, bias = self._fused()
        if weight is None:
            q = self._split(self._child("q_proj")(x))[0]
            k = self._split(self._child("k_proj")(source))[0]
            v = self._split(self._child("v_proj")(source))[0]
        elif self.source is None:
            joint = self._joint[0]
            q, k, v = self._split(F.linear(x, weight, bias) if joint is None else joint(x)).unbind(0)
        else:
            cut = self._heads * self._head_dim
            q = self._split(F.linear(x, weight[:cut], None if bias is None else bias[:cut]))[0]
            k, v = self._split(F.linear(source, weight[cut:], None if bias is None else bias[cut:])).unbind(0)
        if "q_norm" in self._modules:
            q, k = self._child("q_norm")(q), self._child("k_norm")(k)
        return q, k, v

    def _fused(self) -> tuple[Tensor | None, Tensor | None]:
        return joint_projection(self._original[0])

    def _child(self, name: str) -> nn.Module:
        child = self._modules[name]
        assert child is not None
        return self._separate[0].get(child, child)

    def _rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        prefix, patches = x[:, :, : self._prefix], x[:, :, self._prefix :]
        return torch.cat([prefix, apply_rot_embed_cat(patches, rope, half=self._rotate_half)], dim=2)

    def _position_bias(self, shared: Tensor | None) -> Tensor | None:
        rel_pos = self._modules.get("rel_pos")
        bias: Tensor | None = shared if rel_pos is None else rel_pos.get_bias()  # type: ignore[operator]
        # the only query is the class token, token 0
        return bias if bias is None or self.source is None else bias[..., :1, :]

    def _record_tokens(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
        record = self._taps.record
        token = record.tower.pooling == "token"
        weights = self._class_weights(q, k, bias) if token else self._weights(q, k, bias)
        record.alphas[self._layer] = record.rows(weights.transpose(1, 2)).transpose(1, 2)
        record.token_values[self._layer] = v.clone()

    def _weights(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """Attention weights, (B, heads, queries, tokens)."""
        scores = q @ k.transpose(-2, -1) * self._head_dim**-0.5
        weights: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1)
        return weights

    def _class_weights(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """The weights of the first query alone, (B, heads, 1, tokens)."""
        return self._weights(q[:, :, :1], k, None if bias is None else bias[..., :1, :])

    def _record_own(self, values: Tensor) -> None:
        """values (B, heads, 1, head_dim): the class token's value times its weight."""
        self._taps.record.own_values[self._layer] = values.transpose(1, 2).clone()


class _ClassTokenBlock(nn.Module):
    """The last block, for the class token only: keys and values of all tokens, everything else of one."""

    def __init__(self, block: Block, tap: _Tap) -> None:
        super().__init__()
        self._modules, self._parameters = block.module._modules, block.module._parameters
        self._block, self._tap = [block], [tap]  # in lists, so that they are not registered as children

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, tokens, width) -> (B, 1, width)."""
        block, tap = self._block[0], self._tap[0]
        tap.source = block.norm(x)
        try:
            out: Tensor = block.module(x[:, :1], *args, **kwargs)
            return out
        finally:
            tap.source = None
