"""Shards with masks as a stream: each image as the model sees it, its mask cut to the same place, its label."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clipaudit.arrays import Float32s, Uint8s
from clipaudit.config import DecodeConfig, FieldsConfig
from clipaudit.errors import UsageError
from clipaudit.localize.frames import Frame, PictureReader, entire
from clipaudit.schema import OK, Label
from clipaudit.shards.field_values import Origin
from clipaudit.shards.fields import Fields, extract, parse_fields
from clipaudit.shards.image_header import HeaderError, read_header
from clipaudit.shards.listing import expand
from clipaudit.shards.reader import Group, ShardReader

MASK: Final = "seg.png"
OUTSIDE: Final = -1
"""In a cut mask: padding, which lies outside the picture."""

Mask = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Masked:
    """One image with its truth."""

    where: str
    """`SHARD: KEY`, for messages."""
    seen: Uint8s
    """(h, w, 3) uint8 RGB at the size that goes into the model."""
    mask: Mask | None
    """(h, w) class numbers of the same pixels, OUTSIDE where the model was shown padding; None without a mask."""
    label: Label
    labels: tuple[str, ...] = ()
    """Names of everything in the image, where a list of them was asked for."""
    attributes: dict[str, str | None] = field(default_factory=dict)


class MaskedShards:
    """Iterates over the images of shards that have masks (`seg.png`: 8-bit class numbers, or 255 on an object).

    Args:
        shards: paths or URLs with brace ranges and globs.
        reader: how the model sees pictures.
        label: field of the label, as for an audit; None for none.
        labels: json path of a list of labels, such as json:objects; None for none.
        attributes: fields as for an audit, NAME=json:PATH; samples that lack one are left out.
        squashed: cut masks as the published evaluation of the first paper does: squeezed to the model's input although
            the image is cropped. The default cuts both at the same place.
        masks: whether images without a mask are left out; without masks all images come.
        limit: at most so many images.

    Raises:
        UsageError: no shard, a bad label field; when iterated: a mask that has not its image's size, or no sample with
            all the fields.
    """

    def __init__(
        self,
        shards: Sequence[str],
        reader: PictureReader,
        *,
        label: str | None = None,
        labels: str | None = None,
        attributes: Sequence[str] = (),
        squashed: bool = False,
        masks: bool = True,
        limit: int | None = None,
    ) -> None:
        self.shards = expand(shards)
        self._reader, self._squashed, self._masks, self._limit = reader, squashed, masks, limit
        wanted = ("image", MASK if masks else None, label, labels, *attributes)
        self._wanted = ", ".join(field for field in wanted if field is not None)
        self._fields: Fields = parse_fields(FieldsConfig(label=label, attributes=tuple(attributes)))
        self._labels = None if labels is None else parse_fields(FieldsConfig(label=labels)).label
        if self._labels is not None and self._labels.source != "json":
            raise UsageError(f"--labels {labels!r} is not understood: use json:PATH of a list, such as json:objects")
        self.read = self.left_out = 0
        """Images that came, and samples that did not: without image, mask or label."""
        self._first_left_out = ""

    def __iter__(self) -> Iterator[Masked]:
        for shard in self.shards:
            wanted = {MASK} if self._masks else set()
            with ShardReader(
                shard,
                wants=lambda extension: extension in (MASK, "json") or self._fields.wants(extension),
                complete=lambda members, wanted=wanted: wanted <= members.keys(),  # type: ignore[misc]
                max_member_bytes=DecodeConfig().max_member_bytes,
            ) as groups:
                for group in groups:
                    if self._limit is not None and self.read >= self._limit:
                        return
                    sample = self._sample(group, shard.url)
                    if sample is None:
                        self.left_out += 1
                        self._first_left_out = (
                            self._first_left_out or f"; the first, {group.key}, has {', '.join(group.extensions)}"
                        )
                    else:
                        self.read += 1
                        yield sample
        if not self.read:
            raise UsageError(
                f"none of the {self.left_out} samples has all that is needed: {self._wanted}{self._first_left_out}"
            )

    def _sample(self, group: Group, url: str) -> Masked | None:
        """None for a sample that lacks something or cannot be decoded."""
        data = {name: member.data for name, member in group.members.items()}
        images = self._fields.images_in(data)
        image = data[images[0]] if images else None
        values = extract(data, self._fields, Origin(key=group.key, shard=url))
        mask = data.get(MASK)
        if (
            group.status != OK
            or values.status != OK
            or values.missing
            or values.bad
            or image is None
            or (self._masks and mask is None)
        ):
            return None
        where = f"{url}: {group.key}"
        try:
            picture = self._reader.read(image, where)
        except UsageError:
            return None
        cut = None
        if mask is not None and self._masks:
            cut = read_cut_mask(mask, where, picture.frame, picture.seen.shape[:2], squashed=self._squashed)
        assert not isinstance(values.label, tuple)  # lists are read by `labels` alone
        labels = () if self._labels is None else _list_at(data.get("json"), self._labels.path)
        if labels is None:
            return None
        return Masked(
            where=where,
            seen=picture.seen,
            mask=cut,
            label=values.label,
            labels=labels,
            attributes=values.attributes,
        )


def _list_at(document: bytes | None, path: tuple[str, ...]) -> tuple[str, ...] | None:
    """The texts of the list at a json path; None where there is no list of texts."""
    try:
        value = json.loads(document or b"")
        for part in path:
            value = value[part]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return tuple(value)


def read_mask(data: bytes, where: str) -> Mask:
    """(height, width) int32 numbers of a PNG of 8-bit grey or palette; UsageError for anything else."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode not in ("L", "P", "1"):
                raise UsageError(f"{where}: a mask is an 8-bit grey or palette PNG, not {image.mode}")
            return np.asarray(image.convert("L") if image.mode == "1" else image, np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{where}: the mask cannot be read: {error}") from None


def read_cut_mask(data: bytes, where: str, frame: Frame, size: tuple[int, int], *, squashed: bool = False) -> Mask:
    """A mask's file as it lies under the model's input: (h, w) of `size`; `squashed`: as if that held the whole image.

    Raises UsageError for what `read_mask` refuses, and for a mask that has not its image's size.
    """
    try:
        header = read_header(data)
    except HeaderError as error:
        raise UsageError(f"{where}: the mask cannot be read: {error}") from None
    if (header.height, header.width) != frame.size:  # before a bomb is decoded: the image was small enough
        raise UsageError(
            f"{where}: the mask has {header.height} x {header.width} pixels but the image"
            f" {frame.size[0]} x {frame.size[1]}"
        )
    mask = read_mask(data, where)
    return cut_mask(mask, entire(frame.size) if squashed else frame, size)


def cut_mask(mask: Mask, frame: Frame, size: tuple[int, int]) -> Mask:
    """The mask's nearest number under each pixel of the model's input: (height, width) -> (h, w) of `size`.

    OUTSIDE where the frame reaches beyond the picture.
    """
    rows = np.floor(frame.top + (np.arange(size[0]) + 0.5) / size[0] * (frame.bottom - frame.top)).astype(np.intp)
    columns = np.floor(frame.left + (np.arange(size[1]) + 0.5) / size[1] * (frame.right - frame.left)).astype(np.intp)
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & ((columns >= 0) & (columns < mask.shape[1]))[None, :]
    nearest = mask[rows.clip(0, mask.shape[0] - 1)[:, None], columns.clip(0, mask.shape[1] - 1)[None, :]]
    return np.where(inside, nearest, OUTSIDE)


def covered(mask: Mask, grid: tuple[int, int]) -> Float32s:
    """(patches,) float32, share of the picture's part of each of a grid's patches that is object, 0..1.

    mask (h, w) int32 is above 0 on an object and OUTSIDE where the model was shown padding; nan for patches of padding
    alone, which are neither on the object nor off it.
    """
    layers = torch.from_numpy(np.stack([mask > 0, mask != OUTSIDE]).astype(np.float32))
    object_share, picture = torch.nn.functional.adaptive_avg_pool2d(layers, grid).flatten(1).numpy()
    shares: Float32s = np.divide(object_share, picture, out=np.full_like(picture, np.nan), where=picture > 0)
    return shares
