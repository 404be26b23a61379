"""Which part of a picture the model sees, and maps laid over exactly that part, whatever the picture's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms import Compose, InterpolationMode, Resize

from clipaudit.arrays import ArrayHolder, Float32s, Uint8s
from clipaudit.config import DecodeConfig
from clipaudit.errors import UsageError
from clipaudit.model import Tower
from clipaudit.model.sizes import patch_side
from clipaudit.shards.decoder import ImageDecoder, ImageTooLarge, ImageUndecodable

_MAX_PATCHES = 4
"""A whole picture has at most this many times the patches of a square one."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the model's input lies in a picture, in the picture's own pixels, edges as real numbers."""

    size: tuple[int, int]
    """Height and width of the picture as displayed."""
    top: float
    left: float
    bottom: float
    right: float
    """May lie outside the picture, where the preprocessing pads."""

    @property
    def kept(self) -> str:
        """How many of the picture's pixels the model saw, in words; empty where it saw all of it."""
        height, width = self.size
        seen = (round(self.bottom - self.top), round(self.right - self.left))
        whole = seen[0] >= height and seen[1] >= width
        return "" if whole else f"{seen[1]} x {seen[0]} of {width} x {height} pixels"

    @property
    def crop(self) -> str:
        """What part of the picture the model saw, and how to show it all; empty where it saw all of it."""
        return self.kept and f"the model's preprocessing keeps {self.kept}, the rest is dark: --whole shows it all"

    def scaled(self, size: tuple[int, int]) -> Frame:
        """The same for the picture at another size."""
        y, x = size[0] / self.size[0], size[1] / self.size[1]
        return Frame(size=size, top=self.top * y, bottom=self.bottom * y, left=self.left * x, right=self.right * x)

    def spread(self, maps: Float32s, mode: str = "bilinear") -> Float32s:
        """Maps of patches over the picture: (..., rows, columns) -> (..., height, width) float32; nan outside.

        Bilinear between the centres of patches, constant beyond the outermost; `nearest` keeps the patches as squares.
        """
        # The centre of the picture's pixel (y, x) in the input, -1..1 from edge to edge as grid_sample has it.
        y = (2 * (np.arange(self.size[0]) + 0.5) - self.top - self.bottom) / (self.bottom - self.top)
        x = (2 * (np.arange(self.size[1]) + 0.5) - self.left - self.right) / (self.right - self.left)
        grid = torch.from_numpy(np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)).float()
        flat = torch.from_numpy(np.ascontiguousarray(maps, np.float32)).reshape(1, -1, *maps.shape[-2:])
        spread = F.grid_sample(flat, grid[None], mode=mode, padding_mode="border", align_corners=False)[0].numpy()
        spread[:, (np.abs(y) > 1)[:, None] | (np.abs(x) > 1)[None, :]] = np.nan
        return np.asarray(spread.reshape(*maps.shape[:-2], *self.size), np.float32)

    def place(self, row: float, column: float) -> tuple[float, float]:
        """A place in the input, 0..1 from its upper left corner, as (x, y) in the picture's pixels, kept inside it."""
        x = self.left + column * (self.right - self.left)
        y = self.top + row * (self.bottom - self.top)
        return min(max(x, 0.0), self.size[1] - 1.0), min(max(y, 0.0), self.size[0] - 1.0)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FramedPicture(ArrayHolder):
    """An image file, as displayed and as the model sees it."""

    name: str
    display: Uint8s
    """(height, width, 3) uint8 RGB, in its own shape but at a size for display."""
    seen: Uint8s
    """(h, w, 3) uint8 RGB at the size that goes into the model."""
    frame: Frame
    """Where `seen` lies in the picture at its own size."""


class PictureReader:
    """Reads pictures for one model: by its own preprocessing (which crops), or whole, in their own shape.

    Args:
        transform: the model's validation transform.
        tower: its image tower; only whole pictures need it.
        whole: give the model the whole picture at about its own resolution, sides rounded to whole patches, instead of
            what its preprocessing keeps. Embeddings are then not those of an audit.
        display_side: the longer side of the displayed picture in pixels.
        side: whole pictures with about this many pixels on their shorter side; None for the model's own.

    Raises:
        UsageError: a side below one patch.
    """

    def __init__(
        self,
        transform: Any,  # noqa: ANN401 - a torchvision Compose, which has no types
        tower: Tower | None,
        *,
        whole: bool = False,
        display_side: int = 300,
        side: int | None = None,
    ) -> None:
        self._transform, self._tower, self._display_side, self._side = transform, tower, display_side, side
        self._whole = whole or side is not None
        if side is not None and tower is not None and side < (least := max(patch_side(tower.image_size, tower.grid))):
            raise UsageError(f"--side must be at least a patch, {least} pixels, not {side}")
        self._decode = ImageDecoder(transform, DecodeConfig())
        self.mean, self.std = self._decode.mean, self._decode.std

    def open(self, path: str) -> FramedPicture:
        """The picture in a file. Raises UsageError when there is none, or none that can be decoded."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        return self.read(data, path)

    def read(self, data: bytes, name: str) -> FramedPicture:
        """The picture in the bytes of a file; `name` is for messages. UsageError when it cannot be decoded."""
        seen, frame = self.see(data, name)
        display = self._resize(_shaped(frame.size, self._display_side))(data).image
        return FramedPicture(name=name, display=display, seen=seen, frame=frame)

    def see(self, data: bytes, name: str) -> tuple[Uint8s, Frame]:
        """The (h, w, 3) uint8 `seen` and the `frame` of `read`, without a picture for display: one decoding, not two.

        UsageError when it cannot be decoded.
        """
        try:
            decoded = self._decode(data)
            size = (decoded.height, decoded.width)
            if not self._whole:
                return decoded.image, seen_by(self._transform, size)
            return self._resize(self._whole_size(size))(data).image, entire(size)
        except (ImageUndecodable, ImageTooLarge) as error:
            raise UsageError(f"{name}: {error}") from None

    def _resize(self, size: tuple[int, int]) -> ImageDecoder:
        resize = Resize(size, interpolation=InterpolationMode.BICUBIC)
        return ImageDecoder(Compose([resize, *self._transform.transforms[-2:]]), DecodeConfig())

    def _whole_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The shorter side as the model's own or as asked for, whole patches, not too many of them."""
        assert self._tower is not None
        patch = patch_side(self._tower.image_size, self._tower.grid)
        shorter = self._side or min(self._tower.image_size)
        scale = shorter / min(size)
        own = max(1, shorter // patch[0]) * max(1, shorter // patch[1])
        count = size[0] * scale / patch[0] * size[1] * scale / patch[1]
        scale *= min(1.0, math.sqrt(_MAX_PATCHES * own / count))
        rows, columns = (max(1, round(side * scale / step)) for side, step in zip(size, patch, strict=True))
        # One row or column of patches could still have any length: bound each side by the other.
        rows, columns = min(rows, _MAX_PATCHES * own // columns or 1), min(columns, _MAX_PATCHES * own // rows or 1)
        return rows * patch[0], columns * patch[1]


def entire(size: tuple[int, int]) -> Frame:
    """The frame of a model that sees the whole picture, whatever its shape."""
    return Frame(size=size, top=0.0, left=0.0, bottom=float(size[0]), right=float(size[1]))


def seen_by(transform: Any, size: tuple[int, int]) -> Frame:  # noqa: ANN401
    """The frame of open_clip's preprocessing: its Resize, ResizeKeepRatio, CenterCrop and CenterCropOrPad in order.

    Args:
        transform: a torchvision Compose.
        size: height and width of the picture as displayed.

    Raises:
        UsageError: a step of another kind that may move pixels.
    """
    scale, offset, now = [1.0, 1.0], [0.0, 0.0], list(size)
    for step in transform.transforms:
        name = type(step).__name__
        # input = scale * picture - offset: resizing multiplies the scale, cropping sets the offset
        if name in ("Resize", "ResizeKeepRatio"):
            new = _resized(step, now)
            ratio = [n / o for n, o in zip(new, now, strict=True)]
            scale, offset, now = [s * r for s, r in zip(scale, ratio, strict=True)], offset, new
        elif name in ("CenterCrop", "CenterCropOrPad"):
            target = step.size if isinstance(step.size, tuple | list) else (step.size, step.size)
            offset = [_crop_start(side, wanted) for side, wanted in zip(now, target, strict=True)]
            now = list(target)
        elif name not in ("MaybeConvertMode", "MaybeToTensor", "ToTensor", "Normalize", "function"):
            raise UsageError(f"the model's preprocessing has a step that moves pixels in a way unknown here: {name}")
    (top, left), (bottom, right) = offset, [o + n for o, n in zip(offset, now, strict=True)]
    return Frame(size=size, top=top / scale[0], bottom=bottom / scale[0], left=left / scale[1], right=right / scale[1])


def _resized(step: Any, now: list[int]) -> list[int]:  # noqa: ANN401
    """[height, width] behind a resizing step."""
    if type(step).__name__ == "ResizeKeepRatio":
        shape = type("Shape", (), {"size": (now[1], now[0])})
        return list(step.get_params(shape, step.size, step.longest))
    if isinstance(step.size, int) or len(step.size) == 1:
        side = step.size if isinstance(step.size, int) else step.size[0]
        return [side if length == min(now) else int(side * length / min(now)) for length in now]
    return list(step.size)


def _crop_start(side: int, wanted: int) -> float:
    """Where a centred crop of `wanted` pixels begins; negative where `side` is padded to it."""
    return round((side - wanted) / 2.0) if side >= wanted else -((wanted - side) // 2)


def _shaped(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """The same shape with a longer side of `longest` pixels, no side 0."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
