"""Heat maps of cues on samples: what each patch adds, through the cue's heads, to the product with the cue's text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipaudit.cues.report.pictures import SampleKey, compact, identity
from clipaudit.cues.result.finding_parts import SampleRef
from clipaudit.cues.result.result import Finding
from clipaudit.errors import ShardUnreadable, UsageError
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.localize.frames import FramedPicture
from clipaudit.localize.run_maps import RunMaps
from clipaudit.run.reader import Run
from clipaudit.run.stored_images import StoredImages


@dataclass(frozen=True, eq=False, kw_only=True)
class MapDirection:
    """The heads and the direction that a finding's maps show."""

    heads: tuple[str, ...]
    """Labels, such as `L22H05`."""
    text: str
    """Names the cue best."""
    opposite: str | None
    direction: npt.NDArray[np.float32]
    """(1, D): the text's vector minus that of the other end, so that what all texts have in common cancels."""


class HeatMaps:
    """Draws a finding's cue on its samples, with the run's own model, which is loaded at once.

    Raises UsageError when the model cannot be loaded here, RunMismatch when it has other weights than the run's.
    """

    def __init__(
        self, run: Run, texts: RunTexts, *, side: int = 112, device: str = "auto", others: Sequence[Run] = ()
    ) -> None:
        """`others`: further runs whose samples are drawn."""
        self.run, self.texts = run, texts
        readers = [(StoredImages(of), of.manifest.shards) for of in (*others, run)]
        self._images = {shard.url: (images, shard.id) for images, shards in readers for shard in shards}
        self.maps = RunMaps(run, side=side, device=device)

    def map_direction(self, finding: Finding) -> MapDirection | None:
        """Heads and direction of a finding's maps: from the text at one end of the cue to that at the other.

        The ends are those of the whole embedding. None when no text names the cue.
        """
        named = [word for word in finding.cue.words if word.property != "attribute"]
        word = min(named, key=lambda word: word.head is not None, default=None)
        heads = tuple(dict.fromkeys(finding.cue.heads))
        if word is None or not heads:
            return None
        opposite = finding.cue.opposite or None
        vectors = self.texts.vectors([word.text, *([opposite] if opposite else [])])
        return MapDirection(
            heads=heads, text=word.text, opposite=opposite, direction=vectors[:1] - vectors[1:].sum(axis=0)
        )

    def __call__(self, finding: Finding, samples: Sequence[SampleRef]) -> Mapping[SampleKey, bytes]:
        """WebP files of the samples that can be read, with the cue's map over each; all on one scale."""
        cue = self.map_direction(finding)
        if cue is None:
            return {}
        read = {identity(sample): picture for sample in samples if (picture := self._read(sample)) is not None}
        drawn = self.maps(list(read.values()), cue.heads, cue.direction)
        return {name: _webp(pixels) for name, pixels in zip(read, drawn, strict=True)}

    def _read(self, sample: SampleRef) -> FramedPicture | None:
        if sample.url not in self._images:
            return None
        images, shard_id = self._images[sample.url]  # two runs may number the same shards differently
        try:
            return self.maps.read(images.read(shard_id, sample.offset, sample.nbytes), sample.key)
        except (UsageError, ShardUnreadable):
            return None


def _webp(pixels: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return compact(buffer.getvalue())
