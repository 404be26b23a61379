"""Linear layers in another arithmetic, for the time of a pass: half precision cast once, or dynamic int8 on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipaudit.config import Precision
from clipaudit.errors import UsageError
from clipaudit.model.taps import joint_projection
from clipaudit.model.towers import LINEARS, Tower

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of each precision that runs under autocast."""

_LARGEST = 127  # symmetric: -128 stays unused, so that a sign never changes a magnitude


class HalfLinear(nn.Module):
    """A linear layer for a pass under autocast, whose weights are cast once: autocast would cast them at each call,
    as it keeps casts of weights that take gradients only."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) in the half precision."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Int8Linear(nn.Module):
    """`x W' + b` with both sides rounded to 8 bits: weights once, by output channel; inputs at each call, by token.

    Products and sums of integers are exact (int32), so the rounding of the two sides is the only error. A scale for
    each token, not one for all: CLIP's towers have tokens with activations far larger than the others'.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = _nonzero(weight.abs().amax(dim=1) / _LARGEST)
        self.weight = (weight / scale[:, None]).round_().to(torch.int8)
        """(out, in) int8."""
        self.scale, self.bias = scale, torch.zeros_like(scale) if bias is None else bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) float32 -> (..., out) float32."""
        rows = x.reshape(-1, x.shape[-1])
        step = _nonzero(rows.abs().amax(dim=1, keepdim=True) / _LARGEST)
        rounded = (rows / step).round_().to(torch.int8)
        products = torch._int_mm(rounded, self.weight.T)  # (rows, out) int32
        # Cast, then multiply: a product of int32 and float32 takes ten times as long.
        return torch.addcmul(self.bias, products.float().mul_(step), self.scale).reshape(*x.shape[:-1], -1)


@torch.no_grad()
def replacements(tower: Tower, precision: Precision) -> dict[nn.Module, nn.Module]:
    """Which module stands in for which during a pass: linear layers, and an attention's joint projection by the
    attention itself. Nothing for `fp32`.

    With `int8` the projections to queries, keys and values and the MLPs are rounded, 11 of 12 multiplications of a
    block; output projections, and whatever stands before and behind the blocks, stay as they are, so that what the
    heads write is still exactly linear in their values, and their sum is the int8 model's own embedding.
    """
    if precision == "fp32":
        return {}
    if precision == "int8":
        _require_int8(tower)
        return dict(_replaced(tower, Int8Linear, outputs=False))
    dtype = HALVES[precision]
    return dict(_replaced(tower, lambda weight, bias: HalfLinear(weight, bias, dtype), outputs=True))


def _replaced(
    tower: Tower, make: Callable[[Tensor, Tensor | None], nn.Module], *, outputs: bool
) -> Iterator[tuple[nn.Module, nn.Module]]:
    for block in tower.blocks:
        weight, bias = joint_projection(block.attention)
        chosen = [block.module.get_submodule("mlp")]
        if weight is not None:
            yield block.attention, make(weight, bias)
        else:
            chosen += [block.attention.get_submodule(name) for name in ("q_proj", "k_proj", "v_proj")]
        if outputs:
            chosen.append(block.out)
        for root in chosen:
            for linear in root.modules():
                if type(linear) in LINEARS:
                    assert isinstance(linear, nn.Linear)
                    yield linear, make(linear.weight, linear.bias)


def _require_int8(tower: Tower) -> None:
    weights = tower.parameter()
    if weights.device.type != "cpu":
        raise UsageError(f"--precision int8 is for the CPU, and the model is on {weights.device}: use bf16 there")
    if weights.dtype != torch.float32:
        raise UsageError(f"--precision int8 rounds float32 weights, and the model's are {weights.dtype}")


def _nonzero(scale: Tensor) -> Tensor:
    """1 where it is 0: an all-zero channel or token stays 0."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
