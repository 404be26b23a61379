"""Text vectors of a run's own model: checked against the run's fingerprint, kept beside the run, loaded when needed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy

from clipaudit.arrays import Float32s
from clipaudit.config import ModelConfig
from clipaudit.errors import RunMismatch, StorageFull, UsageError
from clipaudit.run.checksums import is_sealed, sealed
from clipaudit.run.reader import Run

CACHE: Final = "texts"
"""Directory of a run: `<first digits of the model's fingerprint>-<hash of the texts>.safetensors`.

The file's metadata has both in full, and the hash of the vectors."""


class RunTexts:
    """Texts to unit vectors in a run's joint space.

    The model is loaded for the first texts that are not stored beside the run, so that a repeated question needs none.
    """

    def __init__(
        self, run: Run, device: str = "auto", on_load: Callable[[str], None] | None = None, *, keep: bool = True
    ) -> None:
        """`on_load` is told the model's name before it is loaded, which may take long; without `keep` nothing is
        written into the run.
        """
        self._keep = keep
        self._run = run
        self._device = device
        self._on_load = on_load
        self._encoder: tuple[Any, Any] | None = None

    def vectors(self, texts: Sequence[str]) -> Float32s:
        """(T, D) unit float32 vectors of texts; RunMismatch when the run's model has other weights now.

        UsageError as in `texts.encoder.encode_texts`.
        """

        def encode() -> Float32s:
            from clipaudit.heads.texts.encoder import encode_texts  # brings torch, which a cached answer does without

            return encode_texts(*self._load(), texts)

        return self._cached(list(texts), encode)

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> Float32s:
        """(C, D) unit float32 vectors of classes, the mean over prompt templates normalised again.

        RunMismatch as in `vectors`, UsageError as in `texts.encoder.encode_classes`.
        """

        def encode() -> Float32s:
            from clipaudit.heads.texts.encoder import encode_classes

            return encode_classes(*self._load(), names, templates)

        return self._cached([list(names), list(templates)], encode)

    def _load(self) -> tuple[Any, Any]:
        """The run's model and its tokenizer."""
        from clipaudit.heads.texts.encoder import load_tokenizer
        from clipaudit.model.loading import load_model

        if self._encoder is None:
            config = ModelConfig.of_run(self._run.manifest.identity, device=self._device)
            if self._on_load is not None:
                self._on_load(config.name)
            loaded = load_model(config)
            wanted = self._run.manifest.model["fingerprint"]
            if loaded.fingerprint != wanted:
                raise RunMismatch(
                    f"the model that {config.name} names here has other weights (fingerprint {loaded.fingerprint}) than"
                    f" the run at {self._run.directory.url} ({wanted}): its texts would mean nothing there"
                )
            self._encoder = loaded, load_tokenizer(config)
        return self._encoder

    def _cached(self, texts: list[Any], encode: Callable[[], Float32s]) -> Float32s:
        model = str(self._run.manifest.model["fingerprint"])
        digest = hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()
        path, storage = f"{CACHE}/{model[:16]}-{digest[:16]}.safetensors", self._run.directory.storage
        known = {"model": model, "texts": digest}
        with contextlib.suppress(
            FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, safetensors.SafetensorError
        ):
            data = storage.read(path)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            # None: stored by version 0.1, without a hash. What is damaged is encoded again.
            if known.items() <= header["__metadata__"].items() and is_sealed(data) is not False:
                return self._checked(safetensors.numpy.load(data)["vectors"])
        vectors = self._checked(encode())
        if not self._keep:
            return vectors
        # where the run may not be written to, or the disk is full, the next call encodes the texts again
        with contextlib.suppress(UsageError, StorageFull):
            storage.make_directories([CACHE])
            storage.replace(path, sealed({"vectors": np.ascontiguousarray(vectors)}, known))
        return vectors

    def _checked(self, vectors: Float32s) -> Float32s:
        if vectors.shape[1:] != (self._run.spec.embed_dim,):
            raise RunMismatch(
                f"the model's texts are of shape {vectors.shape}, and the run's embeddings have"
                f" {self._run.spec.embed_dim} numbers"
            )
        return vectors
