"""Heat maps of cues on samples: what each patch adds, through the cue's heads, to the product with the cue's text."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from clipaudit.audit.parts import SampleRef
from clipaudit.audit.result import Finding
from clipaudit.config import ModelConfig
from clipaudit.decomposer import describe
from clipaudit.errors import RunMismatch, ShardError, UsageError
from clipaudit.localize.frames import Picture, PictureReader
from clipaudit.localize.maps import TokenDecomposition
from clipaudit.localize.overlay import overlaid
from clipaudit.model import Normaliser, load_model
from clipaudit.report.gallery import Sample, compact, identity
from clipaudit.run import Run
from clipaudit.schema import parse_head_label
from clipaudit.storedshards import read_piece
from clipaudit.textvectors import RunTexts

_BATCH: Final = 16
_MAX_BYTES: Final = 64 * 2**20


class HeatMaps:
    """Draws a finding's cue on its samples, with the run's own model, which is loaded at once.

    Raises UsageError when the model cannot be loaded here, RunMismatch when it has other weights than the run's.
    """

    def __init__(self, run: Run, texts: RunTexts, *, side: int = 112, device: str = "auto") -> None:
        asked = run.manifest.identity
        config = ModelConfig(name=asked["model"], pretrained=asked.get("pretrained"), device=device)
        self._loaded = load_model(config)
        if self._loaded.fingerprint != run.manifest.model["fingerprint"]:
            raise RunMismatch(f"the model that {config.name} names here has other weights than the run's")
        self._texts = texts
        self._reader = PictureReader(self._loaded.transform, describe(self._loaded.model), shown=side)
        self._normalise = Normaliser(self._reader.mean, self._reader.std, self._loaded.device)

    def __call__(self, finding: Finding, samples: Sequence[SampleRef]) -> Mapping[Sample, bytes]:
        """WebP files of the samples that can be read, with the cue's map over each; all on one scale."""
        word = next((word for word in finding.cue.words if word.head is not None), None)
        heads = list(dict.fromkeys(finding.cue.heads))
        if word is None or not heads:
            return {}
        read = [(identity(sample), picture) for sample in samples if (picture := self._read(sample)) is not None]
        if not read:
            return {}
        maps = TokenDecomposition(self._loaded.model, [parse_head_label(head) for head in heads])
        vectors = self._texts.vectors([word.text, *([finding.cue.opposite] if finding.cue.opposite else [])])
        # against the other end of the direction, so that what every text has in common falls out
        text = torch.from_numpy(vectors[:1] - vectors[1:].sum(axis=0)).to(self._loaded.device)
        scores = np.concatenate([self._scores(maps, text, part) for part in _batches([p for _, p in read])])
        low, high = (float(value) for value in np.quantile(scores, (0.05, 0.98)))
        return {
            name: _drawn(overlaid(picture.shown, one, picture.frame, low=low, high=high))
            for (name, picture), one in zip(read, scores, strict=True)
        }

    def _scores(self, maps: TokenDecomposition, text: Any, pictures: Sequence[Picture]) -> Any:  # noqa: ANN401
        """(n, rows, columns) float32."""
        found = maps(self._normalise([picture.seen for picture in pictures]), text)
        return found.patches[:, 0].float().cpu().numpy()

    def _read(self, sample: SampleRef) -> Picture | None:
        if sample.offset is None or not sample.nbytes or sample.nbytes > _MAX_BYTES:
            return None
        try:
            data = read_piece(sample.url, sample.offset, sample.nbytes)
            return self._reader.read(data, sample.key)
        except (UsageError, ShardError):
            return None


def heat_maps(run: Run, device: str, note: Callable[[str], None]) -> HeatMaps | None:
    """Made if the model can be loaded and decomposed here; else None, and `note` is told why."""
    try:
        return HeatMaps(run, RunTexts(run, device), device=device)
    except UsageError as error:
        note(f"no heat maps: {error}")
        return None


def _batches(pictures: list[Picture]) -> Iterator[list[Picture]]:
    for start in range(0, len(pictures), _BATCH):
        yield pictures[start : start + _BATCH]


def _drawn(pixels: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return compact(buffer.getvalue())
