"""What a weight file holds: prefixes of training code taken off, what does not fit named, numbers that are none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import open_clip.factory
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

_PREFIXES: Final = ("_orig_mod.", "module.", "model.")
"""What torch.compile, data parallelism and training frameworks put before every name."""
_NAMED: Final = 3
_LISTS: Final = re.compile(r'(Missing|Unexpected) key\(s\) in state_dict: ((?:"[^"]*"(?:, )?)+)')
_SIZES: Final = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((\[.*?\])\) from checkpoint,"
    r" the shape in current model is torch\.Size\((\[.*?\])\)"
)


def weight_file(name: str, pretrained: str | None) -> Path | None:
    """The local weight file that open_clip reads for this model, if it is one that a user gave."""
    if pretrained is not None and Path(pretrained).is_file():
        return Path(pretrained)
    if not name.startswith("local-dir:"):
        return None
    folder = Path(name.removeprefix("local-dir:"))
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
    given = [folder / file for file in names if (folder / file).is_file()]
    others = sorted(path for kind in ("*.safetensors", "*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    return next(iter([*given, *others]), None)


def mended_copy(source: Path, folder: Path) -> Path | None:
    """A copy of a weight file with plain names and float32 numbers, in `folder`; None when that changes nothing.

    open_clip loads neither prefixed names nor, at another image size than the weights', numbers in half precision.
    """
    try:
        weights: dict[str, Tensor] = open_clip.factory.load_state_dict(str(source))
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None
    if not all(isinstance(value, Tensor) for value in weights.values()):
        return None
    changed = {_plain(name): value.float() if _is_half(value) else value for name, value in weights.items()}
    same = changed.keys() == weights.keys() and not any(map(_is_half, weights.values()))
    if same or len(changed) < len(weights):
        return None
    target = folder / "open_clip_model.safetensors"
    # A copy of each: tensors of a checkpoint may share memory, which safetensors refuses to save.
    save_file({name: value.clone().contiguous() for name, value in changed.items()}, target)
    return target


def mismatch(error: BaseException) -> str | None:
    """What does not fit, in one sentence, from the error of `load_state_dict`; None when it is another error."""
    text = str(error)
    names = {kind: re.findall(r'"([^"]*)"', listed) for kind, listed in _LISTS.findall(text)}
    missing, unexpected = names.get("Missing", []), names.get("Unexpected", [])
    sizes = _SIZES.findall(text)
    parts = []
    if missing and not unexpected and not any(name.startswith("visual.") for name in missing):
        parts.append("the checkpoint holds the image encoder alone, and classes and cues need the text encoder too")
    if missing:
        parts.append(f"missing: {_some(missing)}")
    if unexpected:
        parts.append(f"unexpected: {_some(unexpected)}")
    if sizes:
        listed = [f"{name} is {theirs}, the model's is {ours}" for name, theirs, ours in sizes]
        parts.append(_some(listed))
    return "; ".join(parts) or None


def not_finite(model: nn.Module) -> Iterator[str]:
    """Names of weights that hold numbers which are not finite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            yield name


def _plain(name: str) -> str:
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def _is_half(value: Tensor) -> bool:
    return value.dtype in (torch.float16, torch.bfloat16)


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:_NAMED])
    return f"{listed} and {len(names) - _NAMED:,} more" if len(names) > _NAMED else listed
