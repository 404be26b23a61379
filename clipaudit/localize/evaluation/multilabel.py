"""Which of many classes are in an image: average precision of class scores over images, plain and after surgery."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipaudit.arrays import Bools, Float32s
from clipaudit.errors import UsageError
from clipaudit.heads.presence import precisions
from clipaudit.localize.evaluation.segmentation import Encode, Normalise, batches
from clipaudit.localize.masks import Masked
from clipaudit.localize.surgery import Form, feature_surgery, text_weights
from clipaudit.run.classes import ClassNames
from clipaudit.run.reader import Run
from clipaudit.run.rows import ALL, Rows, stream_rows
from clipaudit.schema import SampleLabel, labels_in
from clipaudit.statistics import BootstrapEstimate

SCORES = ("cosine", "softmax", "surgery")
_SHARPNESS = 100.0
"""CLIP's logit scale, for the softmax."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MultiLabelResult:
    """Mean average precision over the classes that occur, and each class's, 0..1.

    Intervals are normal ones, with the bootstrap's standard deviation over images.
    """

    mean: dict[str, BootstrapEstimate]
    """By score of SCORES; `surgery - softmax` is the paired difference."""
    by_class: dict[str, dict[str, float]]
    """Class -> score -> average precision, classes that occur."""
    occurrences: dict[str, int]
    """Class -> images that have it."""
    images: int


def class_scores(whole: Tensor, texts: Tensor, form: Form = "paper") -> dict[str, Tensor]:
    """Three scores of each image for each class, (B, T) each.

    `cosine`: as it is. `softmax`: over the classes, at CLIP's scale 100, the usual baseline. `surgery`: the cosine less
    one number for each image, the mean over classes of w times cosine (arXiv 2304.05653; docs/method.md 4): the order
    of the classes of one image does not change, but images that are close to every class no longer come first.

    Args:
        whole: (B, D) unit image embeddings.
        texts: (T, D) unit class vectors, T at least 2.
        form: of feature surgery.

    UsageError with fewer than two texts.
    """
    cosine = whole @ texts.T
    surgery = feature_surgery(cosine[:, None], text_weights(cosine), form)[:, 0]
    return {"cosine": cosine, "softmax": (_SHARPNESS * cosine).softmax(dim=-1), "surgery": surgery}


def recognise(
    samples: Iterable[Masked],
    encode: Encode,
    names: ClassNames,
    texts: Tensor,
    normalise: Normalise,
    *,
    form: Form = "paper",
    batch_size: int = 32,
    on_images: Callable[[int], None] = lambda _: None,
) -> MultiLabelResult:
    """Score images for every class, and rank images by each class's score. Keeps images x classes numbers.

    Args:
        samples: images with `labels`; labels without a class are left out.
        encode: the model's input to (B, D) unit embeddings; any image encoder, for no patches are read.
        names: the classes.
        texts: (T, D) unit vectors of the classes.
        normalise: pixels to the model's input.
        form: of feature surgery.
        batch_size: images a forward pass.
        on_images: called with the number of images after each batch.

    Raises:
        UsageError: fewer than two classes, or no image has one of them.
    """

    def scored() -> Iterator[tuple[Tensor, list[SampleLabel]]]:
        for batch in batches(samples, batch_size):
            yield encode(normalise([sample.seen for sample in batch])), [sample.labels for sample in batch]

    return _recognised(scored(), names, texts, form, on_images)


def recognise_rows(
    run: Run,
    names: ClassNames,
    texts: Tensor,
    rows: Rows = ALL,
    *,
    form: Form = "paper",
    on_images: Callable[[int], None] = lambda _: None,
) -> MultiLabelResult:
    """The same of the stored embeddings and labels of a run; no image is read. UsageError also without such rows.

    texts: (C, D) unit float32 vectors of the classes.
    """

    def scored() -> Iterator[tuple[Tensor, list[SampleLabel]]]:
        for batch in stream_rows(run, ["embedding"], ["label"], rows):
            yield torch.from_numpy(batch.vectors["embedding"]), batch.columns["label"].tolist()

    return _recognised(scored(), names, texts, form, on_images)


def _recognised(
    batches_of: Iterable[tuple[Tensor, list[SampleLabel]]],
    names: ClassNames,
    texts: Tensor,
    form: Form,
    on_images: Callable[[int], None],
) -> MultiLabelResult:
    """Batches of embeddings (B, D) with what each image has, scored and ranked."""
    if len(names) < 2:
        raise UsageError("recognition compares classes: give at least two")
    scores: dict[str, list[Float32s]] = {name: [] for name in SCORES}
    truth: list[Bools] = []
    for whole, labels in batches_of:
        for name, values in class_scores(whole, texts, form).items():
            scores[name].append(values.float().cpu().numpy())
        truth.append(np.stack([_present(labels_in(each), names) for each in labels]))
        on_images(sum(map(len, truth)))
    present = np.concatenate(truth) if truth else np.zeros((0, len(names)), np.bool_)
    if not present.any():
        raise UsageError(f"no image has one of the {len(names)} classes of {names.source}")
    return _result({name: np.concatenate(values) for name, values in scores.items()}, present, names)


def _present(labels: tuple[int | str, ...], names: ClassNames) -> Bools:
    """(T,) which classes are among the labels."""
    present = np.zeros(len(names), np.bool_)
    for label in labels:
        if names.knows(label):
            present[names.rows([label])[label]] = True
    return present


def _result(scores: dict[str, Float32s], truth: Bools, names: ClassNames) -> MultiLabelResult:
    ranked = precisions(scores, truth)
    by_class = {
        names.names[c]: {name: float(values[place]) for name, values in ranked.plain.items()}
        for place, c in enumerate(ranked.occurring)
    }
    mean = {name: ranked.mean(name) for name in scores}
    mean["surgery - softmax"] = ranked.difference("surgery", "softmax")
    occurrences = {names.names[c]: int(truth[:, c].sum()) for c in ranked.occurring}
    return MultiLabelResult(mean=mean, by_class=by_class, occurrences=occurrences, images=len(truth))
