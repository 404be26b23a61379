"""Query vectors: of an image file, of a sample of the run, or of a text, by the run's own model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from clipaudit.arrays import Floats
from clipaudit.config import DecodeConfig, ModelConfig
from clipaudit.errors import RunMismatch, UsageError
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.run.reader import Run
from clipaudit.schema import OK, head_label, parse_head_label

MAX_IMAGE_BYTES: Final = 32 * 2**20
_MAX_TEXT: Final = 2000
_MAX_PIXELS: Final = 89_478_485
"""Of a query image: Pillow's warning limit, half of what a run accepts."""


class QueryEncoder:
    """The run's model, loaded when the first query needs it; for any number of threads, one query at a time."""

    def __init__(
        self, run: Run, device: str = "auto", on_load: Callable[[str], None] | None = None, *, keep: bool = True
    ) -> None:
        """`on_load` is told the model's name before it is loaded, which may take long; `keep` as in `RunTexts`."""
        self._run, self._device, self._on_load, self._keep = run, device, on_load, keep
        # two queries at once would load the model twice
        self._lock = threading.Lock()
        self._image_parts: tuple[Any, Any, Any] | None = None
        self._texts: Any = None

    def image(self, data: bytes, names: Sequence[str], title: str = "the query image") -> dict[str, Floats]:
        """Coordinates of an image file's bytes by index name, (dh,) float32 each; (D,) for `embedding`.

        `title` stands for the file in messages. UsageError when the image cannot be decoded or is too large,
        RunMismatch when the run's model has other weights now.
        """
        if len(data) > MAX_IMAGE_BYTES:
            raise UsageError(f"{title} has {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}")
        with self._lock:
            return self._image(data, names, title)

    def text(self, text: str) -> Floats:
        """(D,) float32, the unit vector of a text, from beside the run or from the model.

        UsageError when it is empty or too long, RunMismatch when the run's model has other weights now.
        """
        vector: Floats = self.texts([text])[0]
        return vector

    def texts(self, texts: Sequence[str]) -> Floats:
        """(T, D) float32, the unit vectors of several texts, kept beside the run as one; as `text`."""
        from clipaudit.heads.texts.vectors import RunTexts

        for text in texts:
            check_text(text)
        with self._lock:
            if self._texts is None:
                self._texts = RunTexts(self._run, self._device, self._on_load, keep=self._keep)
            vectors: Floats = self._texts.vectors(texts)
            return vectors

    def _image(self, data: bytes, names: Sequence[str], title: str) -> dict[str, Floats]:
        from clipaudit.shards.decoder import ImageTooLarge, ImageUndecodable  # brings torch
        from clipaudit.shards.image_header import HeaderError, read_header

        try:
            read_header(data)  # before a model is loaded
        except HeaderError as error:
            raise UsageError(f"{title} cannot be used: {error}") from error
        decomposer, decoder, normalise = self._image_parts or self._load()
        try:
            decoded = decoder(data)
        except (ImageUndecodable, ImageTooLarge) as error:
            raise UsageError(f"{title} cannot be used: {error}") from error
        out = decomposer(normalise([decoded.image]))
        heads = out.heads.float().cpu().numpy()[0]  # (layers, heads, dh)
        coordinates: dict[str, Floats] = {EMBEDDING: out.embedding.float().cpu().numpy()[0]}
        for place, layer in enumerate(self._layers()):
            coordinates |= {head_label(layer, head): heads[place, head] for head in range(heads.shape[1])}
        return {name: coordinates[name] for name in names}

    def _layers(self) -> list[int]:
        return sorted({parse_head_label(name)[0] for name in self._run.head_labels})

    def _load(self) -> tuple[Any, Any, Any]:
        from clipaudit.model import Decomposer
        from clipaudit.model.loading import Normaliser, load_model
        from clipaudit.shards.decoder import ImageDecoder

        identity = self._run.manifest.identity
        if self._on_load is not None:
            self._on_load(identity["model"])
        precision = identity.get("precision", "fp32")
        loaded = load_model(ModelConfig.of_run(identity, precision=precision, device=self._device))
        if loaded.fingerprint != self._run.manifest.model["fingerprint"]:
            raise RunMismatch(
                f"the model that {identity['model']} names here has other weights than that of the run at"
                f" {self._run.directory.url}: its images would mean nothing there"
            )
        pixels = min(int(identity.get("max_image_pixels") or _MAX_PIXELS), _MAX_PIXELS)
        decomposer = Decomposer(loaded.model, layers=self._layers(), precision=precision)
        decoder = ImageDecoder(loaded.transform, DecodeConfig(max_image_pixels=pixels))
        self._image_parts = decomposer, decoder, Normaliser(decoder.mean, decoder.std, loaded.device)
        return self._image_parts


def check_text(text: str) -> None:
    """UsageError for a query text that is empty or too long."""
    if not text.strip():
        raise UsageError("the query text is empty")
    if len(text) > _MAX_TEXT:
        raise UsageError(f"the query text has {len(text)} characters, more than {_MAX_TEXT}")


def read_image(path: Path) -> bytes:
    """An image file's bytes; UsageError when it is missing or too large."""
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise UsageError(f"--image {path} has more than {MAX_IMAGE_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--image {path} cannot be read: {error.strerror}") from error


def parse_key(run: Run, text: str) -> tuple[int, str]:
    """`3/photo_0001` or `train-000003/photo_0001` -> (shard id, key); keys may hold slashes, shard names may not.

    UsageError when it is no such text, or names no shard of the run, or several.
    """
    shard, slash, key = text.partition("/")
    if not slash or not shard or not key:
        raise UsageError(f"--key {text!r} is not SHARD/KEY, such as 3/photo_0001 or train-000003/photo_0001")
    shards = run.manifest.shards
    if shard.isdecimal() and int(shard) < len(shards):
        return int(shard), key
    stem = shard.removesuffix(".tar")
    named = [each.id for each in shards if each.url.rsplit("/", 1)[-1].removesuffix(".tar") == stem]
    if len(named) != 1:
        many = f"{len(named)} shards have that name: give a number" if named else "there is no such shard"
        raise UsageError(f"--key {text!r}: {many} (the run has {len(shards):,}, numbered from 0)")
    return named[0], key


def stored_coordinates(run: Run, shard: int, key: str, names: Sequence[str]) -> dict[str, Floats]:
    """A sample's stored coordinates by index name, (dh,) float16 each, (D,) for `embedding`.

    UsageError when the run has no such sample, or it is not ok.
    """
    if shard not in run.records:
        raise UsageError(f"shard {shard} is not committed in the run at {run.directory.url}")
    table = run.table(["key", "status"], [shard])
    keys, statuses = table["key"].to_pylist(), table["status"].to_pylist()
    ok = [position for position, status in enumerate(statuses) if status == OK]
    # vectors are read for ok rows alone: their places differ from those in the table
    places = [place for place, position in enumerate(ok) if keys[position] == key]
    if not places:
        reason = next((status for other, status in zip(keys, statuses, strict=True) if other == key), None)
        url = run.manifest.shards[shard].url
        raise UsageError(f"the sample {key!r} of {url} " + (f"is {reason}" if reason else "is not in the run"))
    return {name: run.vectors(name, (), [shard]).values[places[0]] for name in names}
