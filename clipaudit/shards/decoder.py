"""Image bytes to uint8 pixels at the model's input size, by the loaded model's own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tensor_steps

from clipaudit.arrays import Float64s, Uint8s
from clipaudit.config import DecodeConfig
from clipaudit.errors import UsageError
from clipaudit.shards.image_file import open_plain, too_large, upright
from clipaudit.shards.image_header import Header, HeaderError, read_header
from clipaudit.shards.image_plugins import BROKEN
from clipaudit.shards.image_properties import image_properties

try:
    import simplejpeg
except ImportError:  # an optional package, of the extra `fast`: the same pixels, decoded faster
    simplejpeg = None

Step: TypeAlias = Callable[[Any], Any]
"""One step of a preprocessing: PIL image -> PIL image, or (3, H, W) uint8 tensor -> (3, H, W) uint8 tensor."""

_PLAIN_MODES: Final = ("L", "LA", "RGB", "RGBA", "RGBX", "CMYK")
_HASH_SIDE: Final = 32
DEVICE_PIXELS: Final = 2**22
"""Images with more pixels are resized on the host also with `resize="device"`, to bound the memory of the queue."""


class ImageUndecodable(ValueError):
    """The bytes are not an image, or a broken one; the message is one sentence."""


class ImageTooLarge(ValueError):
    """The image has more pixels than the limit, or would take too long to decode; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image, before normalisation."""

    image: Uint8s
    """(H, W, 3) uint8 RGB, contiguous; at the model's input size, except for images that the device resizes."""
    width: int
    """Pixels of the original as displayed (after EXIF orientation)."""
    height: int
    """Likewise."""
    phash: int | None
    """`perceptual_hash(image)`; None when the device resizes the image."""
    properties: tuple[float, ...] = ()
    """Of `schema.IMAGE_PROPERTIES`, measured on the whole picture; nan for one that the picture does not have."""
    truncated: bool = False
    """Whether the file's end is missing and the rest of the picture is grey, as `--allow-truncated-images` admits."""


class ImageDecoder:
    """Decodes by a model's own validation transform; thread-safe, and most of its work releases the GIL.

    For 8-bit grey, RGB, alpha and CMYK images the pixels are those of open_clip's transform, whose conversion to RGB
    drops alpha. It differs where that transform would spoil the picture: the EXIF orientation is applied, palette and
    1-bit images are expanded before they are resized, and 16-bit grey is scaled, not clipped. Of an animation the first
    frame is taken; colour profiles are ignored, as in open_clip. Grey and RGB images are resized by torch, which is
    much faster (benchmarks/decode.py) and at most one grey level from the transform; all others by Pillow. JPEGs are
    decoded by simplejpeg where it is installed and reports no error, else by Pillow, with the same pixels.
    """

    mean: tuple[float, float, float]
    """Per channel, for values in 0..1; the normalisation that follows on the device is (x / 255 - mean) / std."""
    std: tuple[float, float, float]
    """Likewise."""
    size: tuple[int, int]
    """(height, width) of every decoded image."""

    def __init__(self, transform: Any, config: DecodeConfig, *, fast: bool = True) -> None:  # noqa: ANN401
        """Use the steps of `transform`, the Compose for validation that open_clip returned with the model.

        With `fast=False` every image is decoded and resized by Pillow. Raises UsageError for a transform that does not
        end in ToTensor and Normalize, or whose results differ in size.
        """
        self._steps, self.mean, self.std = _split(transform)
        self._max_pixels = config.max_image_pixels
        self._allow_truncated = config.allow_truncated_images
        sizes = {self._by_pillow(Image.new("RGB", shape)).shape for shape in ((64, 48), (48, 64), (1, 1))}
        if len(sizes) != 1:
            raise UsageError(f"the model's preprocessing gives images of different sizes: {sorted(sizes)}")
        height, width, _ = sizes.pop()
        self.size = (height, width)
        translated = [_tensor_step(step) for step in self._steps]
        self._tensor_steps = [step for step in translated if step is not None]
        self._fast = fast and len(self._tensor_steps) == len(translated)
        self._on_device = self._fast and config.resize == "device"

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode one image file's content. Raises ImageUndecodable or ImageTooLarge."""
        try:
            header = read_header(data)
        except HeaderError as error:
            raise ImageUndecodable(str(error)) from None
        width, height = (header.width, header.height) if header.orientation < 5 else (header.height, header.width)
        if (reason := too_large(header, self._max_pixels)) is not None:
            raise ImageTooLarge(reason)
        self._check_strip(width, height)
        rgb = _open_jpeg(header) if self._fast else None
        truncated = False
        if rgb is None:
            pil_image, truncated = self._open(header)
            # open_clip resizes images of other modes before it converts them to RGB, which gives other pixels.
            rgb = np.array(pil_image if pil_image.mode == "RGB" else pil_image.convert("RGB"))
            if not self._fast or pil_image.mode not in ("L", "RGB"):
                image = self._by_pillow(pil_image)
                properties = image_properties(rgb, len(data), header.quantisation)
                return DecodedImage(image, width, height, perceptual_hash(image), properties, truncated)
        properties = image_properties(rgb, len(data), header.quantisation)
        if self._on_device and rgb.shape[:2] != self.size and width * height <= DEVICE_PIXELS:
            return DecodedImage(rgb, width, height, None, properties, truncated)
        image = self._by_tensors(rgb)
        return DecodedImage(image, width, height, perceptual_hash(image), properties, truncated)

    def _open(self, header: Header) -> tuple[Image.Image, bool]:
        """(decoded image, whether its end was missing); raises as `_open`."""
        try:
            return _open(header), False
        except ImageUndecodable:
            if not self._allow_truncated or header.format != "JPEG":
                raise
            return _open(header, truncated=True), True

    def resize(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 RGB of any size -> (3, height, width) uint8 at the model's size, on the image's device."""
        for step in self._tensor_steps:
            image = step(image)
        return image

    def _check_strip(self, width: int, height: int) -> None:
        """Raise ImageTooLarge when an intermediate result of the resizing would have too many pixels.

        Resizing the short side of a thin strip to the model's size makes its long side enormous.
        """
        limit = max(self._max_pixels, 64 * self.size[0] * self.size[1])
        for step in self._steps:
            shape = _resized(step, width, height)
            if shape is not None and not 0 < shape[0] * shape[1] <= limit:
                raise ImageTooLarge(f"{width} x {height} pixels are too long and narrow to be resized for the model")

    def _by_pillow(self, image: Image.Image) -> Uint8s:
        for step in self._steps:
            image = step(image)
        return np.array(image.convert("RGB"))

    def _by_tensors(self, rgb: Uint8s) -> Uint8s:
        # (H, W, 3) -> (3, H, W) without a copy: torch resizes this memory layout fastest.
        tensor = self.resize(torch.from_numpy(rgb).permute(2, 0, 1))
        # The copy to a contiguous (H, W, 3) is numpy's: torch would start a thread pool in each decoding thread.
        return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())


def perceptual_hash(image: Uint8s) -> int:
    """64-bit hash of the low frequencies of an (H, W, 3) uint8 RGB image, as a signed integer.

    The usual perceptual hash: a bit says whether one of the 8 x 8 lowest coefficients of the type-2 cosine transform
    (constant row and column left out) of the 32 x 32 grey image lies above their median. Similar images differ in few
    bits, unrelated ones in about 32.
    """
    grey = Image.fromarray(image).convert("L").resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX)
    # (8, 32) @ (32, 32) @ (32, 8) -> (8, 8)
    coefficients = _COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T
    coefficients = coefficients.round(3)  # in a flat image they are rounding noise, and must all be 0
    bits = np.packbits(coefficients > np.median(coefficients))
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def _cosines() -> Float64s:
    """(8, 32) float64: rows k = 1..8 of the type-2 cosine transform, cos(pi k (2 n + 1) / 64) / 4 for n = 0..31."""
    frequency, position = np.arange(1, 9)[:, None], np.arange(_HASH_SIDE)[None, :]
    rows: Float64s = np.cos(np.pi * frequency * (2 * position + 1) / (2 * _HASH_SIDE)) / 4
    return rows


_COSINES: Final = _cosines()


def _open_jpeg(header: Header) -> Uint8s | None:
    """A decoded grey or colour JPEG, upright, (H, W, 3) uint8; None for files that Pillow has to decode or refuse."""
    if simplejpeg is None or header.components not in (1, 3):
        return None
    try:
        rgb: Uint8s = simplejpeg.decode_jpeg(header.pixels, colorspace="RGB")
    except ValueError:  # damaged, or of a kind that simplejpeg does not know
        return None
    except MemoryError:
        raise ImageTooLarge(f"{header.width} x {header.height} pixels do not fit into memory") from None
    if header.orientation != 1:
        rgb = np.array(upright(Image.fromarray(rgb), header.orientation))
    return rgb


def _open(header: Header, *, truncated: bool = False) -> Image.Image:
    """The decoded image, upright. Raises ImageUndecodable, or ImageTooLarge when memory runs out."""
    try:
        image = open_plain(header, truncated=truncated)
        image.load()
        return upright(_expanded(image), header.orientation)
    except MemoryError:
        raise ImageTooLarge(f"{header.width} x {header.height} pixels do not fit into memory") from None
    except BROKEN as error:
        raise ImageUndecodable(f"the {header.format} cannot be decoded: {error}") from None


def _expanded(image: Image.Image) -> Image.Image:
    """The image in a mode that can be resized: palette, 1-bit and 16-bit images are converted to 8 bits a channel."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32).clip(0, 65535)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are fractions of an unknown range")
    elif image.mode not in _PLAIN_MODES:
        image = image.convert("RGB")
    # A transparent colour of grey and RGB images, which convert() would try to keep, sometimes with a warning.
    image.info.pop("transparency", None)
    return image


def _split(transform: Any) -> tuple[list[Step], tuple[float, float, float], tuple[float, float, float]]:  # noqa: ANN401
    """(steps on pixels, mean, std) of a validation transform."""
    steps = list(getattr(transform, "transforms", []))
    names = [type(step).__name__ for step in steps]
    if names[-2:] not in (["ToTensor", "Normalize"], ["MaybeToTensor", "Normalize"]):
        listed = ", ".join(names) or "it has no steps"
        raise UsageError(f"the model's preprocessing does not end in ToTensor and Normalize: {listed}")
    return steps[:-2], _three(steps[-1].mean), _three(steps[-1].std)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _resized(step: Any, width: int, height: int) -> tuple[int, int] | None:  # noqa: ANN401
    """(height, width) that a step resizes an image to; None for steps that do not resize."""
    match type(step).__name__:
        case "Resize" if isinstance(step.size, int) or len(step.size) == 1:
            side = step.size if isinstance(step.size, int) else step.size[0]
            short = min(width, height)
            return max(side * height // short, 1), max(side * width // short, 1)
        case "ResizeKeepRatio" if not (step.random_scale_prob or step.random_aspect_prob):
            rows, columns = step.get_params(_Shape(width, height), step.size, step.longest)
            return rows, columns
        case _:
            return None


def _tensor_step(step: Any) -> Step | None:  # noqa: ANN401
    """A step on (3, H, W) uint8 tensors with the result of a step on PIL images, up to rounding; None if unknown."""
    match type(step).__name__:
        case "Resize":
            return lambda tensor: tensor_steps.resize(
                tensor, step.size, step.interpolation, max_size=step.max_size, antialias=True
            )
        case "ResizeKeepRatio" if not (step.random_scale_prob or step.random_aspect_prob):
            return lambda tensor: tensor_steps.resize(
                tensor, _resized(step, tensor.shape[2], tensor.shape[1]), step.interpolation, antialias=True
            )
        case "CenterCrop":
            return lambda tensor: tensor_steps.center_crop(tensor, list(step.size))
        case "CenterCropOrPad":
            return lambda tensor: step(tensor)
        case "MaybeConvertMode":
            return lambda tensor: tensor
        case _:
            return None


class _Shape:
    """The part of a PIL image that ResizeKeepRatio reads: its `size`, (width, height)."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
