"""The evaluations from a user's words to results: model, classes, shards, methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipaudit.config import ModelConfig
from clipaudit.decomposer import describe
from clipaudit.errors import UsageError
from clipaudit.localize.frames import PictureReader
from clipaudit.localize.inside import HeadPlaces, Kind, places_of_heads
from clipaudit.localize.localisers import METHODS, Options, localiser
from clipaudit.localize.maps import TokenDecomposition
from clipaudit.localize.masks import MaskedShards
from clipaudit.localize.metrics import Estimate
from clipaudit.localize.multilabel import MultiLabelResult, recognise
from clipaudit.localize.segmentation import (
    ClassesProtocol,
    Measure,
    ObjectProtocol,
    PointsProtocol,
    SegmentationResult,
    segment,
)
from clipaudit.localize.surgery import Form
from clipaudit.model import Normaliser, load_model
from clipaudit.textencoder import encode_classes, load_tokenizer
from clipaudit.texts.classes import ClassNames, find_classes, load_classes, load_templates


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is common to the evaluations."""

    shards: tuple[str, ...]
    model: ModelConfig
    classes: str | None = None
    """File of class names; None for `classnames.txt` beside the shards."""
    templates: str = "single"
    label: str = "cls"
    """Field of the label, for one object an image."""
    labels: str = "json:objects"
    """json path of the list of labels, for recognition."""
    limit: int | None = None
    """At most so many images."""
    squashed: bool = False
    """Masks as the first paper's evaluation has them."""
    whole: bool = False
    """Whole pictures instead of what the preprocessing keeps."""
    blocks: int | None = None
    form: Form = "paper"


class Evaluation:
    """A model with classes, ready to be evaluated on shards.

    Raises:
        UsageError: as the loading of models, classes and shards.
    """

    def __init__(self, config: EvaluationConfig, on_images: Callable[[int], None] = lambda _: None) -> None:
        self._config, self._on_images = config, on_images
        self._loaded, self._tokenizer = load_model(config.model), load_tokenizer(config.model)
        self._tower = describe(self._loaded.model)
        self._reader = PictureReader(self._loaded.transform, self._tower, whole=config.whole)
        self._normalise = Normaliser(self._reader.mean, self._reader.std, self._loaded.device)

    def segmentation(self, methods: Sequence[str], protocol: str) -> SegmentationResult:
        """Methods against masks; `protocol` is object, classes or points.

        Raises UsageError for an unknown method, classes without numbers, and what the shards raise.
        """
        for method in methods:
            if method not in METHODS:
                raise UsageError(f"there is no method {method!r}; there are: {', '.join(METHODS)}")
        if not methods:
            raise UsageError("there is no method to evaluate: name at least one")
        label = None if protocol == "classes" else self._config.label
        samples = self._samples(label=label, squashed=self._config.squashed)
        names = self._names(samples, numbers=protocol != "classes")
        options = Options(
            blocks=self._config.blocks,
            form=self._config.form,
            precision=self._config.model.precision,
        )
        if len(names) == 1 and protocol != "classes":
            options = Options(
                blocks=options.blocks, form=options.form, precision=options.precision, empty=self._empty()
            )
        return segment(
            samples,
            {method: localiser(method, self._loaded.model, options) for method in methods},
            self._texts(names),
            _measure(protocol, names),
            self._normalise,
            batch_size=self._config.model.batch_size,
            on_images=self._on_images,
        )

    def recognition(self) -> MultiLabelResult:
        """Classes against lists of labels."""
        samples = self._samples(labels=self._config.labels, masks=False)
        names = self._names(samples, numbers=False)
        return recognise(
            samples,
            self._tower,
            names,
            self._texts(names),
            self._normalise,
            form=self._config.form,
            batch_size=self._config.model.batch_size,
            on_images=self._on_images,
        )

    def heads(self, place: str) -> HeadPlaces:
        """Where heads look; `place` is the json path of what the background is. Keeps all images: mind the limit.

        Raises UsageError when no image has mask, label and place.
        """
        label = self._config.label
        samples = list(self._samples(attributes=(f"object={label}", f"place={place}")))
        if not samples:
            raise UsageError(f"no image has a mask, {label} and {place}")
        kinds: tuple[Kind, ...] = ("object", "place")
        values: dict[Kind, list[str]] = {k: sorted({str(one.attributes[k]) for one in samples}) for k in kinds}
        templates = load_templates(self._config.templates)
        texts: dict[Kind, Tensor] = {}
        for kind, names in values.items():
            vectors = encode_classes(self._loaded, self._tokenizer, names, templates)
            texts[kind] = torch.from_numpy(vectors).to(self._loaded.device)
        return places_of_heads(
            samples,
            TokenDecomposition(self._loaded.model, precision=self._config.model.precision),
            texts,
            values,
            self._normalise,
            batch_size=self._config.model.batch_size,
            on_images=self._on_images,
        )

    def _samples(self, **options: Any) -> MaskedShards:
        return MaskedShards(self._config.shards, self._reader, limit=self._config.limit, **options)

    def _names(self, samples: MaskedShards, *, numbers: bool) -> ClassNames:
        if self._config.classes is not None:
            return load_classes(self._config.classes)
        if not numbers:
            raise UsageError("give --classes FILE: a name a line, or number<TAB>name")
        return find_classes(None, [shard.url for shard in samples.shards], [0])

    def _texts(self, names: ClassNames) -> Tensor:
        templates = load_templates(self._config.templates)
        vectors = encode_classes(self._loaded, self._tokenizer, names.names, templates)
        return torch.from_numpy(vectors).to(self._loaded.device)

    def _empty(self) -> Tensor:
        vectors = encode_classes(self._loaded, self._tokenizer, [""], ("{}",))
        return torch.from_numpy(vectors).to(self._loaded.device)


def _measure(protocol: str, names: ClassNames) -> Measure:
    if protocol == "object":
        return ObjectProtocol(names)
    if protocol == "points":
        return PointsProtocol(names)
    if not all(isinstance(label, int) for label in names.labels):
        raise UsageError(f"{names.source}: masks hold numbers, so give number<TAB>name in each line")
    return ClassesProtocol([int(label) for label in names.labels])


def plain(figures: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    """Estimates as JSON values."""
    return {name: {"value": found.value, "low": found.low, "high": found.high} for name, found in figures.items()}
