"""The evaluations, from names of models, files and methods to results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipaudit.config import ModelConfig
from clipaudit.errors import UsageError
from clipaudit.heads.texts.encoder import Tokenizer, encode_classes, load_tokenizer
from clipaudit.heads.texts.prompts import load_templates
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.localize.evaluation.head_places import HeadPlaces, Kind, places_of_heads
from clipaudit.localize.evaluation.multilabel import MultiLabelResult, recognise, recognise_rows
from clipaudit.localize.evaluation.segmentation import (
    ClassesProtocol,
    Measure,
    ObjectProtocol,
    PointsProtocol,
    ReferenceProtocol,
    SegmentationResult,
    segment,
)
from clipaudit.localize.evaluation.waterbirds import PUBLISHED_HEADS, WaterbirdsGroup, group_accuracy
from clipaudit.localize.frames import PictureReader
from clipaudit.localize.masks import MaskedShards
from clipaudit.localize.methods import METHODS, Options, localiser
from clipaudit.localize.surgery import Form
from clipaudit.localize.tensors import autocast, embed
from clipaudit.localize.token_maps import TokenDecomposition
from clipaudit.model import Decomposer, Positions, Tower, describe_tower, with_positions
from clipaudit.model.loading import LoadedModel, Normaliser, load_model
from clipaudit.run.classes import ClassNames, find_classes, listed_classes, load_classes
from clipaudit.run.reader import Run
from clipaudit.schema import as_paths, as_tuples
from clipaudit.shards.listing import expand
from clipaudit.statistics import BootstrapEstimate

_OF_ONE_OBJECT: Mapping[str, Callable[[ClassNames], Measure]] = MappingProxyType(
    {"object": ObjectProtocol, "reference": ReferenceProtocol, "points": PointsProtocol}
)
PROTOCOLS = (*_OF_ONE_OBJECT, "classes")


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
    squashed: bool | None = None
    """Masks squeezed to the model's input, as in the first paper's evaluation; None: with its protocol only."""
    whole: bool = False
    """Whole pictures instead of what the preprocessing keeps."""
    side: int | None = None
    """Whole pictures with about this many pixels on their shorter side."""
    positions: Positions = "bicubic"
    """How position embeddings are resized for them."""
    blocks: int | None = None
    form: Form = "paper"

    def __post_init__(self) -> None:
        as_tuples(self, "shards")
        as_paths(self, "classes", "templates")


class LocaliserEvaluation:
    """A model with classes, to be evaluated on shards.

    Raises:
        The errors of loading models, classes and shards.
    """

    def __init__(self, config: EvaluationConfig, on_images: Callable[[int], None] = lambda _: None) -> None:
        self._config, self._on_images = config, on_images
        # what can be told before the model is loaded, which may take long
        expand(config.shards)
        self._templates = load_templates(config.templates)
        self._named = None if config.classes is None else load_classes(config.classes)

    @cached_property
    def _loaded(self) -> LoadedModel:
        return load_model(self._config.model)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._config.model)

    @cached_property
    def _tower(self) -> Tower:
        """The tower's description, made when a method needs it: recognition takes any image encoder."""
        return describe_tower(with_positions(self._loaded.model, self._config.positions))

    @cached_property
    def _reader(self) -> PictureReader:
        whole = self._config.whole or self._config.side is not None
        tower = self._tower if whole else None
        return PictureReader(self._loaded.transform, tower, whole=whole, side=self._config.side)

    @cached_property
    def _normalise(self) -> Normaliser:
        return Normaliser(self._reader.mean, self._reader.std, self._loaded.device)

    def segmentation(self, methods: Sequence[str], protocol: str) -> SegmentationResult:
        """Methods against masks; `protocol` is one of PROTOCOLS.

        Raises UsageError for an unknown method or protocol, classes without numbers, and what the shards raise.
        """
        for method in methods:
            if method not in METHODS:
                raise UsageError(f"there is no method {method!r}; there are: {', '.join(METHODS)}")
        if not methods:
            raise UsageError("there is no method to evaluate: name at least one")
        if protocol not in PROTOCOLS:
            raise UsageError(f"there is no protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
        config, precision = self._config, self._config.model.precision
        squashed = protocol == "reference" if config.squashed is None else config.squashed
        label = config.label if protocol in ("object", "points") else None
        samples = self._samples(label=label, squashed=squashed)
        names = self._names(samples, numbers=protocol != "classes")
        alone = len(names) == 1 and protocol != "classes"
        empty = self._empty() if alone else None
        options = Options(blocks=config.blocks, form=config.form, precision=precision, empty=empty)
        result = segment(
            samples,
            {method: localiser(method, self._tower.visual, options) for method in methods},
            self._texts(names),
            _measure(protocol, names),
            self._normalise,
            encode=lambda pixels: embed(self._tower, pixels, precision),
            batch_size=config.model.batch_size,
            on_images=self._on_images,
        )
        return replace(result, left_out=samples.left_out)

    def recognition(self) -> MultiLabelResult:
        """Classes against lists of labels; with any image encoder of open_clip's, decomposable or not.

        Raises UsageError as `recognise`, and what the shards raise.
        """
        samples = self._samples(labels=self._config.labels, masks=False)
        names = listed_classes(self._config.classes, [shard.url for shard in samples.shards])
        return recognise(
            samples,
            self._encode,
            names,
            self._texts(names),
            self._normalise,
            form=self._config.form,
            batch_size=self._config.model.batch_size,
            on_images=self._on_images,
        )

    def groups(
        self, place: str, heads: Sequence[str], *, kept_layers: int, random: int, min_group: int
    ) -> WaterbirdsGroup:
        """The Waterbirds protocol, see `group_accuracy`; `place` is the field of the background.

        Raises UsageError without heads where the first paper names none for the model, and what the parts raise.
        """
        config = self._config
        chosen = tuple(heads) or PUBLISHED_HEADS.get(config.model.name.replace("/", "-"), ())
        if not chosen:
            known = ", ".join(PUBLISHED_HEADS)
            raise UsageError(f"give --head: the first paper names heads for {known} only, not for {config.model.name}")
        samples = self._samples(label=config.label, attributes=(f"place={place}",), masks=False)
        names = self._names(samples, numbers=True)
        return group_accuracy(
            samples,
            Decomposer(self._loaded.model, terms=True, precision=config.model.precision),
            names,
            self._texts(names),
            chosen,
            self._normalise,
            kept_layers=kept_layers,
            random=random,
            min_group=min_group,
            batch_size=config.model.batch_size,
            on_images=self._on_images,
        )

    def heads(self, place: str) -> HeadPlaces:
        """Where heads look; `place` is the json path of the background. Keeps all images in memory: set `limit`.

        Raises UsageError when fewer than two images have mask, label and place.
        """
        label = self._config.label
        samples = list(self._samples(attributes=(f"object={label}", f"place={place}")))
        kinds: tuple[Kind, ...] = ("object", "place")
        values: dict[Kind, list[str]] = {
            kind: sorted({str(sample.attributes[kind]) for sample in samples}) for kind in kinds
        }
        texts: dict[Kind, Tensor] = {}
        for kind, names in values.items():
            vectors = encode_classes(self._loaded, self._tokenizer, names, self._templates)
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

    @torch.inference_mode()
    def _encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, height, width) to (B, D) unit embeddings, by the model's own means."""
        with autocast(pixels.device, self._config.model.precision):
            encode: Any = self._loaded.model.encode_image
            features: Tensor = encode(pixels)
        return F.normalize(features.float(), dim=-1)

    def _samples(
        self,
        *,
        label: str | None = None,
        labels: str | None = None,
        attributes: Sequence[str] = (),
        squashed: bool = False,
        masks: bool = True,
    ) -> MaskedShards:
        return MaskedShards(
            self._config.shards,
            self._reader,
            label=label,
            labels=labels,
            attributes=attributes,
            squashed=squashed,
            masks=masks,
            limit=self._config.limit,
        )

    def _names(self, samples: MaskedShards, *, numbers: bool) -> ClassNames:
        if self._named is not None:
            return self._named
        if not numbers:
            raise UsageError("give --classes FILE: a name a line, or number<TAB>name")
        return find_classes(None, [shard.url for shard in samples.shards], [0])

    def _texts(self, names: ClassNames) -> Tensor:
        vectors = encode_classes(self._loaded, self._tokenizer, names.names, self._templates)
        return torch.from_numpy(vectors).to(self._loaded.device)

    def _empty(self) -> Tensor:
        vectors = encode_classes(self._loaded, self._tokenizer, [""], ("{}",))
        return torch.from_numpy(vectors).to(self._loaded.device)


def recognition_of_run(
    run: Run, classes: str | None, templates: str, form: Form, device: str, on_images: Callable[[int], None]
) -> MultiLabelResult:
    """Classes against the lists of labels of a run, by its stored embeddings and its model's text encoder.

    classes: file of class names; None for `classnames.txt` beside the shards, or the labels themselves. UsageError for
    a run of single labels, and as `recognise_rows`.
    """
    if not run.spec.multi_label:
        raise UsageError(
            f"images of the run at {run.directory.url} have one label each: audit with --label json:PATH of a list"
        )
    names = find_classes(classes, [shard.url for shard in run.manifest.shards], run.class_labels())
    vectors = RunTexts(run, device).classes(names.names, load_templates(templates))
    return recognise_rows(run, names, torch.from_numpy(vectors), form=form, on_images=on_images)


def _measure(protocol: str, names: ClassNames) -> Measure:
    if protocol in _OF_ONE_OBJECT:
        return _OF_ONE_OBJECT[protocol](names)
    if not all(isinstance(label, int) for label in names.labels):
        raise UsageError(f"{names.source}: masks hold numbers, so give number<TAB>name in each line")
    return ClassesProtocol([int(label) for label in names.labels])


def plain(figures: dict[str, BootstrapEstimate]) -> dict[str, dict[str, float]]:
    """Estimates as plain JSON values."""
    return {name: {"value": each.value, "low": each.low, "high": each.high} for name, each in figures.items()}
