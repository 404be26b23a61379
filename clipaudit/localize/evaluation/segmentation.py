"""Zero-shot segmentation by heat maps: one object an image (first paper), or every pixel a class (second paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from clipaudit.arrays import Float32s, Float64s, Uint8s
from clipaudit.errors import UsageError
from clipaudit.localize.evaluation.metrics import Sums, pixel_auc
from clipaudit.localize.heatmaps import enlarged, points
from clipaudit.localize.masks import OUTSIDE, Mask, Masked
from clipaudit.localize.methods import METHODS, Localiser
from clipaudit.run.classes import ClassNames
from clipaudit.statistics import BootstrapEstimate, average_precision

Normalise: TypeAlias = Callable[[list[Uint8s]], Tensor]
"""Images (h, w, 3) of one size to the model's input (B, 3, h, w)."""
Encode: TypeAlias = Callable[[Tensor], Tensor]
"""The model's input (B, 3, height, width) to unit embeddings (B, D)."""


class Measure(Protocol):
    """How maps of one image become numbers that add up over images."""

    columns: int
    """Of `Sums`."""
    predicts: bool
    """Whether `choose` reads the image's cosines."""

    def choose(self, sample: Masked, cosines: Float32s | None) -> list[int]:
        """Texts whose maps are needed for an image; (texts,) its cosines where `predicts`."""

    def row(self, maps: Float32s, mask: Mask) -> list[float] | None:
        """(texts, rows, columns) patches and (h, w) mask to columns of `Sums`; None for an image without a figure."""

    def figures(self, sums: Sums) -> dict[str, BootstrapEstimate]:
        """Named figures of the sums."""


class ObjectProtocol:
    """The label's map against the object's mask, by the figures of the first paper's evaluation.

    A map is scaled to 0..1; what lies above its mean is the object. Pixel accuracy and the IoU of object and background
    are over all pixels of all images; AP ranks both channels, map and 1 - map, against mask and its inverse, and is
    averaged over images (Chefer et al. 2021, whose evaluation the paper uses). AUC is ours: object's pixels against the
    rest, by image; 0.5 is chance and no threshold enters.

    Args:
        names: the classes; a label says which one.
    """

    columns = 9
    predicts = False
    _floor = -math.inf
    """What lower scores become before a map is scaled."""

    def __init__(self, names: ClassNames) -> None:
        self._names = names

    def choose(self, sample: Masked, cosines: Float32s | None) -> list[int]:
        """The label's own class, whatever the (C,) cosines; UsageError for a label that has none."""
        assert sample.label is not None
        return [self._names.rows([sample.label])[sample.label]]

    def row(self, maps: Float32s, mask: Mask) -> list[float] | None:
        """See `Measure`; maps (n, h, w), mask (H, W). None for an image all object or all background: no AUC, no AP."""
        known = mask != OUTSIDE
        truth, scores = mask[known] > 0, np.maximum(_over(maps, mask)[0][known].astype(np.float64), self._floor)
        if truth.all() or not truth.any():
            return None
        # min-max scaled; the object is what lies above the mean, as in the published evaluation
        low, high = scores.min(), scores.max()
        scaled = (scores - low) / (high - low) if high > low else np.zeros_like(scores)
        predicted = scaled > scaled.mean()
        both, either = (predicted & truth).sum(), (predicted | truth).sum()
        neither, not_both = (~predicted & ~truth).sum(), (~predicted | ~truth).sum()
        ap = average_precision(np.concatenate([1 - scaled, scaled]), np.concatenate([~truth, truth])).item()
        right = float((predicted == truth).sum())
        return [1, right, truth.size, both, either, neither, not_both, ap, pixel_auc(scores, truth)]

    def figures(self, sums: Sums) -> dict[str, BootstrapEstimate]:
        """Pixel accuracy, mIoU, mAP, AUC, and the IoU of the object alone, each 0..1."""
        statistics: dict[str, Callable[[Float64s], Float64s]] = {
            "pixel accuracy": lambda s: s[:, 1] / s[:, 2],
            "mIoU": lambda s: (s[:, 3] / s[:, 4] + s[:, 5] / s[:, 6]) / 2,
            "mAP": lambda s: s[:, 7] / s[:, 0],
            "AUC": lambda s: s[:, 8] / s[:, 0],
            "object IoU": lambda s: s[:, 3] / s[:, 4],
        }
        return {name: sums.estimate(statistic) for name, statistic in statistics.items()}


class ReferenceProtocol(ObjectProtocol):
    """The first paper's evaluation on ImageNet-Segmentation as its code has it: the map is of the class that the model
    itself predicts, no label is read, and scores below 0 count as 0 before the map is scaled. Made for the method
    `contrast`, whose 0 is the mean over the classes, and for masks that are squeezed onto cropped images.

    One thing differs: the code spreads LayerNorm's mean and all biases evenly over tokens, here they are no token's
    (docs/method.md 1), which moves a map by nearly a constant.
    """

    predicts = True
    _floor = 0.0

    def choose(self, sample: Masked, cosines: Float32s | None) -> list[int]:
        """The class that the image is closest to by its (C,) cosines."""
        assert cosines is not None
        return [int(cosines.argmax())]


class ClassesProtocol:
    """Every pixel the class whose map is highest there, as in the second paper's open-vocabulary segmentation.

    mIoU is the mean over classes that occur of intersection over union, summed over all images.

    Args:
        numbers: the number that stands for each class in the masks, in the order of the texts; others are not counted.
    """

    predicts = False

    def __init__(self, numbers: Sequence[int]) -> None:
        self._count = len(numbers)
        self._class_of = np.full(max(numbers) + 2, -1, np.int32)  # one row more: OUTSIDE, as -1, is the last
        self._class_of[list(numbers)] = np.arange(len(numbers))
        self.columns = 3 * self._count

    def choose(self, sample: Masked, cosines: Float32s | None) -> list[int]:
        """All classes, whatever the (C,) cosines."""
        return list(range(self._count))

    def row(self, maps: Float32s, mask: Mask) -> list[float] | None:
        """See `Measure`; maps (n, h, w), mask (H, W). None when no pixel has a class."""
        classes = self._class_of[np.where(mask < len(self._class_of) - 1, mask, OUTSIDE)]
        known = classes >= 0
        if not known.any():
            return None
        truth, predicted = classes[known], _over(maps, mask).argmax(axis=0)[known]
        right = truth[truth == predicted]
        counts = [np.bincount(values, minlength=self._count) for values in (right, truth, predicted)]
        return [float(value) for value in np.concatenate(counts)]

    def figures(self, sums: Sums) -> dict[str, BootstrapEstimate]:
        """Pixel accuracy and mIoU."""
        n = self._count

        def accuracy(s: Float64s) -> Float64s:
            shares: Float64s = s[:, :n].sum(axis=1) / s[:, n : 2 * n].sum(axis=1)
            return shares

        def iou(s: Float64s) -> Float64s:
            # IoU = |A and B| / (|A| + |B| - |A and B|), of classes that occur
            both, truth, predicted = s[:, :n], s[:, n : 2 * n], s[:, 2 * n :]
            occurs = truth > 0
            ious = np.where(occurs, both / np.maximum(truth + predicted - both, 1), 0.0)
            means: Float64s = ious.sum(axis=1) / occurs.sum(axis=1)
            return means

        return {"pixel accuracy": sums.estimate(accuracy), "mIoU": sums.estimate(iou)}


class PointsProtocol:
    """Whether point prompts for the label lie where they should: positive ones on the object, negative ones off it.

    Args:
        names: the classes; a label says which one.
        threshold: of `points`.
    """

    columns = 6
    predicts = False

    def __init__(self, names: ClassNames, threshold: float = 0.8) -> None:
        self._object, self._threshold = ObjectProtocol(names), threshold

    def choose(self, sample: Masked, cosines: Float32s | None) -> list[int]:
        """The label's own class, whatever the (C,) cosines."""
        return self._object.choose(sample, cosines)

    def row(self, maps: Float32s, mask: Mask) -> list[float] | None:
        """See `Measure`; maps (n, h, w), mask (H, W). None when the image is all object or all background."""
        inside, known = mask > 0, mask != OUTSIDE
        if inside[known].all() or not inside.any():
            return None
        prompts = points(torch.from_numpy(maps[0]), (mask.shape[0], mask.shape[1]), threshold=self._threshold)
        hits = inside[prompts.xy[:, 1], prompts.xy[:, 0]]
        positive = prompts.labels == 1
        on, off = float((hits & positive).sum()), float((~hits & ~positive).sum())
        return [1, float(positive.sum()), on, float((~positive).sum()), off, float(inside[known].mean())]

    def figures(self, sums: Sums) -> dict[str, BootstrapEstimate]:
        """Shares of points that lie rightly, and the share of pixels on objects, which is chance."""
        statistics: dict[str, Callable[[Float64s], Float64s]] = {
            "positive on object": lambda s: s[:, 2] / s[:, 1],
            "negative off object": lambda s: s[:, 4] / s[:, 3],
            "object's share": lambda s: s[:, 5] / s[:, 0],
        }
        return {name: sums.estimate(statistic) for name, statistic in statistics.items()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Segmented:
    """One method's figures."""

    method: str
    figures: dict[str, BootstrapEstimate]


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentationResult:
    """All methods' figures on the same images."""

    methods: tuple[Segmented, ...]
    images: int
    unusable: int
    """Images whose mask gives no figure: all object, all background, no known class."""
    left_out: int = 0
    """Samples without an image, a mask or a label."""


def segment(
    samples: Iterable[Masked],
    localisers: Mapping[str, Localiser],
    texts: Tensor,
    protocol: Measure,
    normalise: Normalise,
    *,
    encode: Encode | None = None,
    batch_size: int = 32,
    on_images: Callable[[int], None] = lambda _: None,
) -> SegmentationResult:
    """Run localisers over images with masks, all on the same images, in one pass.

    Args:
        samples: images with masks.
        localisers: by name.
        texts: (T, D) unit class vectors on the model's device.
        protocol: one of the protocols above.
        normalise: pixels to the model's input.
        encode: the model's input to (B, D) unit embeddings; only a protocol that predicts needs it.
        batch_size: images a forward pass.
        on_images: called with the number of images after each batch.

    Raises:
        UsageError: no image was usable.
    """
    sums = {name: Sums(protocol.columns) for name in localisers}
    images = unusable = 0
    for batch in batches(samples, batch_size):
        pixels = normalise([sample.seen for sample in batch])
        chosen = _chosen(protocol, batch, pixels, texts, encode)
        usable: set[int] = set()
        for name, method in localisers.items():
            for number, maps in enumerate(_maps(name, method, pixels, texts, chosen)):
                row = protocol.row(maps, _mask(batch[number]))
                if row is not None:
                    sums[name].add(row)
                    usable.add(number)
        images, unusable = images + len(usable), unusable + len(batch) - len(usable)
        on_images(images + unusable)
    if not images:
        raise UsageError("no image could be scored: every mask is all object, all background or without a class")
    methods = tuple(Segmented(method=name, figures=protocol.figures(sums[name])) for name in localisers)
    return SegmentationResult(methods=methods, images=images, unusable=unusable)


def _chosen(
    protocol: Measure, batch: Sequence[Masked], pixels: Tensor, texts: Tensor, encode: Encode | None
) -> list[list[int]]:
    """Texts whose maps are needed, by image."""
    if not protocol.predicts:
        return [protocol.choose(sample, None) for sample in batch]
    assert encode is not None
    cosines = (encode(pixels) @ texts.T).float().cpu().numpy()
    return [protocol.choose(sample, row) for sample, row in zip(batch, cosines, strict=True)]


def _maps(
    name: str, method: Localiser, pixels: Tensor, texts: Tensor, chosen: Sequence[list[int]]
) -> Iterator[Float32s]:
    """Each image's maps of its chosen texts, (texts, rows, columns)."""
    # Methods that compare texts must see them all; those that cost a pass for each text get the chosen ones only.
    by_image = name in METHODS and METHODS[name].text_by_text
    everything = None if by_image else method(pixels, texts)
    for number, rows in enumerate(chosen):
        maps = method(pixels[number : number + 1], texts[rows])[0] if everything is None else everything[number, rows]
        yield maps.float().cpu().numpy()


def _over(maps: Float32s, mask: Mask) -> Float32s:
    """(texts, rows, columns) -> (texts, h, w), one value a pixel of the mask."""
    pixels: Float32s = enlarged(torch.from_numpy(maps)[None], (mask.shape[0], mask.shape[1]))[0].numpy()
    return pixels


def _mask(sample: Masked) -> Mask:
    assert sample.mask is not None
    return sample.mask


def batches(samples: Iterable[Masked], size: int) -> Iterator[list[Masked]]:
    """Runs of images of one size."""
    for _, same in groupby(samples, key=lambda sample: sample.seen.shape):
        while batch := list(islice(same, size)):
            yield batch
