"""Heat maps of cues on samples: what each patch adds, through the cue's heads, to the product with the cue's text."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from PIL import Image

from clipaudit.audit.parts import SampleRef
from clipaudit.audit.result import Finding
from clipaudit.errors import ShardError, UsageError
from clipaudit.localize.frames import Picture
from clipaudit.localize.runmaps import RunMaps
from clipaudit.report.gallery import Sample, compact, identity
from clipaudit.run import Run
from clipaudit.storedshards import read_piece
from clipaudit.textvectors import RunTexts

_MAX_BYTES: Final = 64 * 2**20


class HeatMaps:
    """Draws a finding's cue on its samples, with the run's own model, which is loaded at once.

    Raises UsageError when the model cannot be loaded here, RunMismatch when it has other weights than the run's.
    """

    def __init__(self, run: Run, texts: RunTexts, *, side: int = 112, device: str = "auto") -> None:
        self._maps, self._texts = RunMaps(run, side=side, device=device), texts

    def __call__(self, finding: Finding, samples: Sequence[SampleRef]) -> Mapping[Sample, bytes]:
        """WebP files of the samples that can be read, with the cue's map over each; all on one scale."""
        word = next((word for word in finding.cue.words if word.head is not None), None)
        heads = list(dict.fromkeys(finding.cue.heads))
        if word is None or not heads:
            return {}
        read = {identity(sample): picture for sample in samples if (picture := self._read(sample)) is not None}
        vectors = self._texts.vectors([word.text, *([finding.cue.opposite] if finding.cue.opposite else [])])
        # against the other end of the direction, so that what every text has in common falls out
        drawn = self._maps(list(read.values()), heads, vectors[:1] - vectors[1:].sum(axis=0))
        return {name: _webp(pixels) for name, pixels in zip(read, drawn, strict=True)}

    def _read(self, sample: SampleRef) -> Picture | None:
        if sample.offset is None or not sample.nbytes or sample.nbytes > _MAX_BYTES:
            return None
        try:
            return self._maps.read(read_piece(sample.url, sample.offset, sample.nbytes), sample.key)
        except (UsageError, ShardError):
            return None


def heat_maps(run: Run, device: str, note: Callable[[str], None]) -> HeatMaps | None:
    """Made if the model can be loaded and decomposed here; else None, and `note` is told why."""
    try:
        return HeatMaps(run, RunTexts(run, device), device=device)
    except UsageError as error:
        note(f"no heat maps: {error}")
        return None


def _webp(pixels: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return compact(buffer.getvalue())
