"""The Waterbirds protocol of arXiv 2310.05916 on streamed images: answers by group, before and after ablation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from clipaudit.arrays import Float32s
from clipaudit.errors import UsageError
from clipaudit.heads.column_sets import as_set, random_sets
from clipaudit.heads.zeroshot import Control, LogitBatch, Score, control, score, score_sets
from clipaudit.localize.evaluation.segmentation import Normalise, batches
from clipaudit.localize.masks import Masked
from clipaudit.model import Decomposer
from clipaudit.run.classes import ClassNames
from clipaudit.schema import head_label, parse_head_label

PUBLISHED_HEADS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ViT-B-16": ("L09H06", "L09H08", "L10H10", "L10H11", "L11H00", "L11H03", "L11H06"),
        "ViT-L-14": (
            *("L21H01", "L21H03", "L21H06", "L21H08", "L21H11", "L21H13", "L21H14"),
            *("L22H02", "L22H12", "L22H13", "L22H15", "L23H01", "L23H03", "L23H05", "L23H06"),
        ),
        "ViT-H-14": (*("L29H04", "L29H08", "L29H14", "L30H06", "L30H11", "L30H12", "L30H15", "L31H08", "L31H12"),),
    }
)
"""The heads of place and geography that the paper ablates, by model (LAION-2B weights), from its published
`compute_use_specific_heads.py`."""
KEPT_LAYERS: Final = 4
"""How many of the last layers keep their attention; that of earlier ones, and every MLP, becomes its mean."""
_EARLY: Final = "early layers and MLPs"


@dataclass(frozen=True, eq=False, kw_only=True)
class WaterbirdsGroup:
    """Zero-shot answers by class and place. Means are those of the images that are classified, as in the paper."""

    names: ClassNames
    heads: tuple[str, ...]
    images: int
    plain: Score
    early: Score
    """With every MLP, and the attention of all but the last layers, replaced by its mean."""
    ablated: Score
    """With the heads replaced by their means too."""
    control: Control | None
    """The worst group's accuracy among random sets of as many heads of the same layers; None without such sets, or
    where every group is too small."""
    min_group: int


def group_accuracy(
    samples: Iterable[Masked],
    decomposer: Decomposer,
    names: ClassNames,
    texts: Tensor,
    heads: Sequence[str],
    normalise: Normalise,
    *,
    kept_layers: int = KEPT_LAYERS,
    random: int = 0,
    min_group: int = 10,
    seed: int = 0,
    batch_size: int = 32,
    on_images: Callable[[int], None] = lambda _: None,
) -> WaterbirdsGroup:
    """Decompose images as they come, keep what each part adds to each class, and count answers with parts at means.

    Keeps images x heads of the kept layers x classes numbers.

    Args:
        samples: images with a label and the attribute `place`.
        decomposer: of all layers, with `terms`.
        names: the classes; labels say which.
        texts: (C, D) unit vectors of the classes, on the model's device.
        heads: labels of heads in the kept layers.
        normalise: pixels to the model's input.
        kept_layers: how many of the last layers keep their attention.
        random: sets of as many heads of the same layers to compare with.
        min_group: smaller groups cannot be the worst.
        seed: of the random sets.
        batch_size: images a forward pass.
        on_images: called with the number of images after each batch.

    Raises:
        UsageError: heads that the kept layers do not have, a label without a class.
    """
    columns = _columns(decomposer, kept_layers)
    chosen = as_set(columns, [_EARLY, *_checked(heads, columns, kept_layers)])
    rows = _logits(samples, decomposer, names, texts, normalise, kept_layers, batch_size, on_images)
    plain, early, ablated = score([rows], [chosen & False, as_set(columns, [_EARLY]), chosen])
    return WaterbirdsGroup(
        names=names,
        heads=tuple(heads),
        images=len(rows.truth),
        plain=plain,
        early=early,
        ablated=ablated,
        control=_drawn(rows, columns, (_EARLY, *heads), ablated, random, min_group, seed),
        min_group=min_group,
    )


def _logits(
    samples: Iterable[Masked],
    decomposer: Decomposer,
    names: ClassNames,
    texts: Tensor,
    normalise: Normalise,
    kept_layers: int,
    batch_size: int,
    on_images: Callable[[int], None],
) -> LogitBatch:
    """All images' products with the classes, and what replacing each column by its mean takes away."""
    parts: list[Float32s] = []
    products: list[Float32s] = []
    truth: list[int] = []
    places: list[str | None] = []
    for batch in batches(samples, batch_size):
        whole, removed = _products(decomposer, normalise([sample.seen for sample in batch]), texts, kept_layers)
        products.append(whole)
        parts.append(removed)
        truth += [_class(names, sample) for sample in batch]
        places += [sample.attributes["place"] for sample in batch]
        on_images(len(truth))
    removed = np.concatenate(parts, axis=1)  # (P, n, C)
    return LogitBatch(
        base=np.concatenate(products),
        # replacing a column by its mean takes y - mean y from every logit
        removed=removed - removed.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32),
        truth=np.array(truth),
        values=np.array(places, object),
    )


def _drawn(
    rows: LogitBatch,
    columns: Sequence[str],
    chosen: Sequence[str],
    ablated: Score,
    random: int,
    min_group: int,
    seed: int,
) -> Control | None:
    """The worst group's accuracy among random sets of as many heads of the same layers."""
    worst = ablated.worst_group(min_group)
    if not random or worst is None:
        return None
    sets = random_sets(columns, chosen, random, seed)
    return control(worst[1].value, score_sets([rows], sets).worst_group(min_group))


def _columns(decomposer: Decomposer, kept_layers: int) -> tuple[str, ...]:
    """Names of what can be replaced: everything early at once, then each head of the kept layers."""
    tower = decomposer.tower
    if not 1 <= kept_layers <= tower.layers:
        raise UsageError(f"--keep-layers must be 1 to {tower.layers} in this tower, not {kept_layers}")
    late = range(tower.layers - kept_layers, tower.layers)
    return (_EARLY, *(head_label(layer, head) for layer in late for head in range(tower.heads)))


def _checked(heads: Sequence[str], columns: Sequence[str], kept_layers: int) -> Sequence[str]:
    for label in heads:
        try:
            parse_head_label(label)
        except ValueError as error:
            raise UsageError(f"--head: {error}") from None
        if label not in columns:
            raise UsageError(
                f"--head {label}: the last {kept_layers} layers, whose heads stay, are {columns[1]} to {columns[-1]}"
            )
    return heads


def _products(decomposer: Decomposer, pixels: Tensor, texts: Tensor, kept_layers: int) -> tuple[Float32s, Float32s]:
    """(B, C) products of the embeddings with the classes, and (P, B, C) what each column adds to them."""
    out = decomposer(pixels)
    assert out.attention is not None
    early = (out.parts["mlp"] + out.attention[:, :-kept_layers].sum(dim=1)) @ texts.T
    late = torch.einsum("blhk,lhck->blhc", out.heads[:, -kept_layers:], decomposer.readout.fold(texts)[-kept_layers:])
    removed = torch.cat([early[:, None], late.flatten(1, 2)], dim=1)  # (B, P, C)
    return (out.embedding @ texts.T).cpu().numpy(), removed.transpose(0, 1).cpu().numpy()


def _class(names: ClassNames, sample: Masked) -> int:
    assert sample.label is not None
    return names.rows([sample.label])[sample.label]
