"""What every localiser asks of its input, and how it computes: checks, autocast, grids of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipaudit.config import Precision
from clipaudit.errors import UsageError
from clipaudit.model import Tower, resized

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_images(tower: Tower, images: Tensor) -> None:
    """UsageError unless images are (B, 3, height, width) floats on the model's device, and the model in eval mode."""
    if images.ndim != 4 or images.shape[1] != 3 or not len(images) or not images.is_floating_point():
        shape = "x".join(map(str, images.shape))
        raise UsageError(
            f"images must be floating point of shape Bx3xHxW with B at least 1, not {shape} {images.dtype}"
        )
    device = tower.parameter().device
    if images.device != device:
        raise UsageError(f"images are on {images.device} but the model is on {device}")
    if tower.visual.training:
        raise UsageError("the model is in training mode: call model.eval() first")


def check_texts(tower: Tower, texts: Tensor) -> None:
    """UsageError unless texts are (T, D) with T at least 1 and D the tower's joint dimension."""
    if texts.ndim != 2 or texts.shape[1] != tower.embed_dim:
        shape = "x".join(map(str, texts.shape))
        raise UsageError(f"text vectors must be of shape Tx{tower.embed_dim}, not {shape}")
    if not len(texts):
        raise UsageError("there is no text to look for: give at least one")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a model of this precision runs. Raises UsageError for int8, which audits alone can use."""
    if precision == "int8":
        raise UsageError("--precision int8 is for `clipaudit audit`: use fp32, bf16 or fp16 here")
    return torch.autocast(device.type, dtype=_AUTOCAST.get(precision), enabled=precision in _AUTOCAST)


@torch.inference_mode()
def embed(tower: Tower, images: Tensor, precision: Precision = "fp32") -> Tensor:
    """(B, D) unit embeddings by the tower alone, of images of any size that it takes."""
    check_images(tower, images)
    visual = resized(tower.visual, (images.shape[2], images.shape[3]))
    with autocast(images.device, precision):
        output = visual(images.to(tower.parameter().dtype))
    features: Tensor = output[0] if isinstance(output, tuple) else output
    return F.normalize(features.float(), dim=-1)


def as_grid(scores: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, rows * columns, T) -> (B, T, rows, columns)."""
    return scores.transpose(1, 2).reshape(scores.shape[0], scores.shape[2], *grid)
