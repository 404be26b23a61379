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

_INT8_MAX = 127  # symmetric: -128 is not used, so that x and -x are rounded alike


class HalfLinear(nn.Module):
    """A linear layer for a pass under autocast, with weights that are cast once.

    Autocast itself would cast them at each call: it caches casts only of weights that require gradients.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) in the half precision."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Int8Linear(nn.Module):
    """`x W' + b` with both factors rounded to 8 bits: weights once, by output channel; inputs at each call, by token.

    Products and sums of integers are exact (int32), so the rounding of the two factors is the only error. Each token
    has its own scale, because some tokens of CLIP's towers have far larger activations than the others.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = _nonzero(weight.abs().amax(dim=1) / _INT8_MAX)
        columns = (weight / scale[:, None]).round_().to(torch.int8).T
        # torch 2.14 misreads a factor of one row whose strides are those of a column
        self.columns = columns.clone(memory_format=torch.contiguous_format) if len(columns) == 1 else columns
        """(in, out) int8."""
        self.scale, self.bias = scale, torch.zeros_like(scale) if bias is None else bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) float32 -> (..., out) float32."""
        rows = x.reshape(-1, x.shape[-1])
        step = _nonzero(rows.abs().amax(dim=1, keepdim=True) / _INT8_MAX)
        rounded = (rows / step).round_().to(torch.int8)
        products = torch._int_mm(rounded, self.columns)  # (rows, out) int32
        # cast before multiplying: a product of int32 and float32 takes ten times as long
        return torch.addcmul(self.bias, products.float().mul_(step), self.scale).reshape(*x.shape[:-1], -1)


@torch.no_grad()
def replacements(tower: Tower, precision: Precision) -> dict[nn.Module, nn.Module]:
    """Modules of a tower and what replaces each during a pass; empty for `fp32`.

    Keys are linear layers, and attentions for their joint projection of queries, keys and values. With `int8` the
    projections to queries, keys and values and the MLPs are rounded, 11 of 12 multiplications of a block. Output
    projections and everything outside of the blocks stay as they are, so that what heads write is still exactly linear
    in their values, and the parts sum to the int8 model's own embedding.

    Raises UsageError for int8 on an accelerator or with weights that are not float32.
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
    """The scale with 1 in place of 0, so that a channel or token of zeros stays 0 and is not divided by 0."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
