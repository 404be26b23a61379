"""How much of a cue's heat map lies off the object: one item of a finding's evidence, measured on its class's images.

The images are drawn, with the audit's seed, from those of the class that show the cue (score above Otsu's threshold).
What counts is the share of their maps' positive part that lies off the object, register-like patches left out. The
object is the mask beside the image in the shard; without masks, where the model's other heads see the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from clipaudit.arrays import Float32s, Uint8s
from clipaudit.cues.report.heat import HeatMaps, MapDirection
from clipaudit.cues.report.pictures import CARDS
from clipaudit.cues.result.finding_parts import Evidence
from clipaudit.cues.result.off_object import NAME, not_measured
from clipaudit.cues.result.result import AuditResult, Finding
from clipaudit.cues.statistics.pseudo import otsu
from clipaudit.errors import ShardError, UsageError
from clipaudit.heads.texts.pool import load_pool, pool_for
from clipaudit.heads.texts.prompts import load_templates
from clipaudit.localize.masks import Mask, covered, read_cut_mask
from clipaudit.localize.off_object import OffObject, off_object, off_shares
from clipaudit.run.row import ImageId
from clipaudit.run.stored_images import StoredImages, StoredPlace

Array: TypeAlias = npt.NDArray[Any]

IMAGES: Final = 32
"""Images of a finding, at most."""
MIN_IMAGES: Final = 10
"""Images below which nothing is measured."""
_STREAM: Final = 20
"""Makes the random numbers of this draw independent of others with the same seed."""
_THREADS: Final = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class _Image:
    pixels: Uint8s
    mask: Mask | None
    """(h, w) of the same pixels, above 0 on the object."""
    cluster: str
    """Equal for pictures with equal perceptual hashes."""


class OffObjects:
    """Measures findings of an audit with the maps that its pictures are drawn with.

    Args:
        result: the audit, with its table `spuriosity`.
        heat: the run's model.
        masks: extension of the masks beside the images, such as `seg.png`; None to take no masks.
    """

    def __init__(self, result: AuditResult, heat: HeatMaps, masks: str | None) -> None:
        self._result, self._heat, self._masks = result, heat, masks
        self._stored = StoredImages(heat.run, masks)
        self._samples = {finding.id: self._draw(finding) for finding in result.findings[:CARDS]}
        self._places = self._stored.places({sample for drawn in self._samples.values() for sample in drawn})

    def __call__(self, finding: Finding) -> Evidence:
        """The item of one finding; where nothing could be measured it says why."""
        if finding.id not in self._samples:
            return not_measured(f"only the first {CARDS} findings get heat maps")
        try:
            mapped = self._heat.map_direction(finding)
            if mapped is None:
                return not_measured(
                    "no text names the cue" if finding.cue.heads else "no head is known to carry the cue"
                )
            images = self._read(
                [self._places[sample] for sample in self._samples[finding.id] if sample in self._places]
            )
            return self._measured(finding, mapped, images)
        except (ShardError, UsageError) as error:
            return not_measured(str(error))

    def _draw(self, finding: Finding) -> list[ImageId]:
        """(shard, index) of images of the class that show the cue, drawn with the audit's seed, in order."""
        if "spuriosity" not in self._result.rows:  # an audit that was read back from its JSON
            return []
        table = self._result.rows["spuriosity"].filter(pc.field("finding") == finding.id)
        if not len(table):
            return []
        scores = np.asarray(table["score"].to_numpy(), np.float64)
        having = np.flatnonzero(scores > otsu(scores))
        rng = np.random.default_rng([self._result.settings.seed, _STREAM, int(finding.id, 16)])
        chosen = table.take(rng.permutation(having)[:IMAGES])
        return sorted(zip(chosen["shard_id"].to_pylist(), chosen["index"].to_pylist(), strict=True))

    def _read(self, places: Sequence[StoredPlace]) -> list[_Image]:
        """The images that can be read; raises the first one's error when fewer than 10 can."""
        with ThreadPoolExecutor(_THREADS) as pool:
            outcomes = list(pool.map(self._image, places))
        images = [outcome for outcome in outcomes if isinstance(outcome, _Image)]
        faults = [outcome for outcome in outcomes if isinstance(outcome, ShardError | UsageError)]
        if len(images) >= MIN_IMAGES or not faults:
            return images
        raise faults[0]

    def _image(self, place: StoredPlace) -> _Image | ShardError | UsageError:
        where = f"{place.url}: {place.key}"
        try:
            data, mask = self._stored.read_with_member(place)
            pixels, frame = self._heat.maps.see(data, where)
            cut = None if mask is None else read_cut_mask(mask, where, frame, (pixels.shape[0], pixels.shape[1]))
        except (ShardError, UsageError) as error:
            return error
        return _Image(pixels=pixels, mask=cut, cluster=where if place.phash is None else str(place.phash))

    def _measured(self, finding: Finding, mapped: MapDirection, images: Sequence[_Image]) -> Evidence:
        masked = [image for image in images if image.mask is not None]
        exact = len(masked) >= MIN_IMAGES
        if exact:
            images = masked
        if len(images) < MIN_IMAGES:
            return not_measured(
                f"{len(images)} images of the class that show the cue are too few, {MIN_IMAGES} are needed"
            )
        pixels = [image.pixels for image in images]
        if exact:
            scores, outliers = self._heat.maps.scorer(mapped.heads, mapped.direction)(pixels)
            grid = (scores.shape[1], scores.shape[2])
            cover = np.stack([covered(image.mask, grid) for image in images if image.mask is not None])
        else:
            others = self._others(finding, mapped)
            scores, guessed, outliers = self._heat.maps.two(pixels, (mapped.heads, mapped.direction), others)
            cover = np.stack([guess > otsu(guess) for guess in _flat(guessed)]).astype(np.float32)
        measured = off_object(*off_shares(_flat(scores), cover, _flat(outliers)), [image.cluster for image in images])
        if measured is None or measured.n < MIN_IMAGES:
            return not_measured("too few of the images show both an object and something else")
        return _item(measured, mapped, self._masks if exact else None)

    def _others(self, finding: Finding, mapped: MapDirection) -> tuple[list[str], Float32s]:
        """Heads and direction (1, D) whose map says where the model sees the class, above Otsu's threshold.

        The class's text less the mean of the pool's, through all stored heads but the cue's, and without the cue's
        direction: a cue must not decide itself where the object is.
        """
        run, texts, settings = self._heat.run, self._heat.texts, self._result.settings
        pool = pool_for(str(run.manifest.model["name"]))
        if pool.fingerprint != settings.pool_fingerprint:
            pool = load_pool(settings.pool)
        named = texts.classes([finding.class_name], load_templates(settings.templates))
        direction = named - texts.vectors(pool.texts).mean(axis=0)
        cue = mapped.direction / np.linalg.norm(mapped.direction)
        heads = [head for head in run.head_labels if head not in mapped.heads]
        if not heads:
            raise UsageError(
                "the shards hold no masks, and all stored heads carry the cue, so that none can guess the object"
            )
        return heads, direction - (direction @ cue.T) * cue


def _flat(maps: Array) -> Array:
    """(n, rows, columns) -> (n, patches)"""
    return maps.reshape(len(maps), -1)


def _item(measured: OffObject, mapped: MapDirection, masks: str | None) -> Evidence:
    share, low, high, area = (
        round(100 * value) for value in (measured.share, measured.low, measured.high, measured.area)
    )
    source = "the masks in the shards say" if masks else "the model's other heads guess"
    return Evidence(
        name=NAME,
        supports=measured.supports,
        value=round(measured.share, 4),
        sentence=f"Of what the cue's heads see of {mapped.text!r}, {share} % (95 % interval {low} to {high} %) lies off"
        f" the object; spread evenly it would be {area} % ({measured.n} images of the class with the cue; {source}"
        " where the object is).",
    )
