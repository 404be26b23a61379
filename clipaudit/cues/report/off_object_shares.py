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
from clipaudit.cues.report.heat import Along, HeatMaps
from clipaudit.cues.report.pictures import CARDS
from clipaudit.cues.result.finding_parts import Evidence
from clipaudit.cues.result.off_object import NAME, not_measured
from clipaudit.cues.result.result import AuditResult, Finding
from clipaudit.cues.statistics.pseudo import otsu
from clipaudit.errors import ShardError, UsageError
from clipaudit.heads.texts.classes import load_templates
from clipaudit.heads.texts.pool import load_pool, pool_for
from clipaudit.localize.masks import Mask, covered, read_cut_mask
from clipaudit.localize.off_object import OffObject, off_object, off_shares
from clipaudit.run.stored_images import Place, Sample, StoredImages

Array: TypeAlias = npt.NDArray[Any]

IMAGES: Final = 32
"""Of a finding, at most."""
LEAST: Final = 10
"""Images below which nothing is said."""
_STREAM: Final = 20
"""Of the seed, for this draw alone."""
_THREADS: Final = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class _Image:
    seen: Uint8s
    mask: Mask | None
    """(h, w) of the same pixels, above 0 on the object."""
    cluster: str
    """Equal for pictures that are equal to the eye."""


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
        """The item of one finding; it says why when there is nothing to say."""
        if finding.id not in self._samples:
            return not_measured(f"only the first {CARDS} findings get heat maps")
        try:
            along = self._heat.along(finding)
            if along is None:
                return not_measured(
                    "no text names the cue" if finding.cue.heads else "no head is known to carry the cue"
                )
            images = self._read([self._places[one] for one in self._samples[finding.id] if one in self._places])
            return self._measured(finding, along, images)
        except (ShardError, UsageError) as error:
            return not_measured(str(error))

    def _draw(self, finding: Finding) -> list[Sample]:
        """Images of the class that show the cue, in the order of the shards."""
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

    def _read(self, places: Sequence[Place]) -> list[_Image]:
        """Those that can be read; what the first one that cannot raises, when too few can."""
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(self._image, places))
        images = [one for one in found if isinstance(one, _Image)]
        faults = [one for one in found if isinstance(one, ShardError | UsageError)]
        if len(images) >= LEAST or not faults:
            return images
        raise faults[0]

    def _image(self, place: Place) -> _Image | ShardError | UsageError:
        where = f"{place.url}: {place.key}"
        try:
            data, mask = self._stored.read(place)
            seen, frame = self._heat.maps.see(data, where)
            cut = None if mask is None else read_cut_mask(mask, where, frame, (seen.shape[0], seen.shape[1]))
        except (ShardError, UsageError) as error:
            return error
        return _Image(seen=seen, mask=cut, cluster=where if place.phash is None else str(place.phash))

    def _measured(self, finding: Finding, along: Along, images: Sequence[_Image]) -> Evidence:
        masked = [image for image in images if image.mask is not None]
        exact = len(masked) >= LEAST
        if exact:
            images = masked
        if len(images) < LEAST:
            return not_measured(f"{len(images)} images of the class that show the cue are too few, {LEAST} are needed")
        seen = [image.seen for image in images]
        if exact:
            scores, outliers = self._heat.maps.scorer(along.heads, along.direction)(seen)
            grid = (scores.shape[1], scores.shape[2])
            cover = np.stack([covered(image.mask, grid) for image in images if image.mask is not None])
        else:
            others = self._others(finding, along)
            scores, guessed, outliers = self._heat.maps.two(seen, (along.heads, along.direction), others)
            cover = np.stack([one > otsu(one) for one in _flat(guessed)]).astype(np.float32)
        found = off_object(*off_shares(_flat(scores), cover, _flat(outliers)), [image.cluster for image in images])
        if found is None or found.n < LEAST:
            return not_measured("too few of the images show both an object and something else")
        return _item(found, along, self._masks if exact else None)

    def _others(self, finding: Finding, along: Along) -> tuple[list[str], Float32s]:
        """Heads and direction (1, D) whose map says where the model sees the class, above Otsu's threshold.

        The class's text less the mean of the pool's, through all stored heads but the cue's, and without the cue's
        direction: a cue must not say itself where the object is.
        """
        run, texts, settings = self._heat.run, self._heat.texts, self._result.settings
        pool = pool_for(str(run.manifest.model["name"]))
        if pool.fingerprint != settings.pool_fingerprint:
            pool = load_pool(settings.pool)
        named = texts.classes([finding.class_name], load_templates(settings.templates))
        direction = named - texts.vectors(pool.texts).mean(axis=0)
        cue = along.direction / np.linalg.norm(along.direction)
        heads = [head for head in run.head_labels if head not in along.heads]
        if not heads:
            raise UsageError(
                "the shards hold no masks, and all stored heads carry the cue, so that none can guess the object"
            )
        return heads, direction - (direction @ cue.T) * cue


def _flat(maps: Array) -> Array:
    """(n, rows, columns) -> (n, patches)"""
    return maps.reshape(len(maps), -1)


def _item(found: OffObject, along: Along, masks: str | None) -> Evidence:
    share, low, high, area = (round(100 * value) for value in (found.share, found.low, found.high, found.area))
    source = "the masks in the shards say" if masks else "the model's other heads guess"
    return Evidence(
        name=NAME,
        supports=found.supports,
        value=round(found.share, 4),
        sentence=f"Of what the cue's heads see of {along.text!r}, {share} % (95 % interval {low} to {high} %) lies off"
        f" the object; spread evenly it would be {area} % ({found.n} images of the class with the cue; {source} where"
        " the object is).",
    )
