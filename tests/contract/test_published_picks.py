"""`--allocation published`: the published loop's texts come out in order, on towers of four shapes."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, Decomposer, Moments, PublishedAllocation, empty_moments, textspans, merge, moments_of, columns_of
    global published_allocation, tiny_tower

    import torch

    from clipaudit.heads.allocation import PublishedAllocation, empty_moments
    from clipaudit.heads.textspan import textspans
    from clipaudit.model import Decomposer
    from clipaudit.run.moments import Moments, merge, moments_of
    from tests.published import columns_of, published_allocation, tiny_tower


# Heads, head width, patch, image size, joint dimension, QuickGELU; in the second a head is wider than the joint space.
SHAPES = {
    "4 heads of 48, patch 14, QuickGELU": (4, 48, 14, 56, 128, True),
    "4 heads of 80, patch 32, more than D": (4, 80, 32, 96, 64, False),
    "2 heads of 64 on 48 x 80 pixels": (2, 64, 16, (48, 80), 96, False),
    "12 heads of 16": (12, 16, 8, 32, 64, False),
}
LAYERS, IMAGES, TEXTS = 2, 160, 300


def published_picks(data, texts, steps, rank):
    """The published greedy loop on a head's outputs (n, D) and texts (T, D), in float64."""
    vh = np.linalg.svd(data, full_matrices=False)[2][:rank]
    texts = texts @ vh.T @ vh  # projected on the span of the head's outputs
    data = data - data.mean(axis=0)
    picks = []
    for _ in range(steps):
        picks.append(int(np.argmax((data @ texts.T).std(axis=0))))
        text = texts[picks[-1]]
        data = data - np.outer(data @ text / (text @ text), text)
        texts = texts - np.outer(texts @ text / (text @ text), text)
    return picks


SLOW = ("4 heads of 80, patch 32, more than D", "12 heads of 16")


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=pytest.mark.full) if shape in SLOW else shape for shape in SHAPES]
)
def test_published_picks_come_out_in_order(shape):
    heads, head_dim, patch, size, D, quick = SHAPES[shape]
    visual = tiny_tower(heads * head_dim, heads, patch, size, LAYERS, D, quick=quick).double()
    generator = torch.Generator().manual_seed(2)
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(IMAGES, 3, height, width, generator=generator, dtype=torch.float64)
    texts = torch.randn(TEXTS, D, generator=generator, dtype=torch.float64).numpy()
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    steps, rank = min(20, head_dim - 2), min(80, head_dim + 3)

    attentions, _ = published_allocation(visual, images)
    outputs = attentions.sum(dim=2).numpy()  # (B, layers, heads, D)
    decomposer = Decomposer(visual, terms=True)
    columns, shared, basis = columns_of(decomposer, decomposer(images))
    tokens = decomposer.tower.tokens
    published = PublishedAllocation(basis, LAYERS, tokens)
    template = empty_moments(published, basis.heads, D)
    values = {head: published(head, columns[head], shared) for head in basis.heads}
    values["embedding"] = np.zeros((IMAGES, D))
    pieces = [{name: array[part] for name, array in values.items()} for part in np.array_split(np.arange(IMAGES), 3)]
    moments = merge([moments_of(template, piece, stored=False) for piece in pieces])
    spans = textspans(moments, published.basis, texts, steps, "reference", project=published.spanned)
    own = textspans(own_moments(columns, basis.heads, D), basis, texts, steps, "reference")

    differing = 0
    for number, head in enumerate(basis.heads):
        expected = published_picks(outputs[:, number // heads, number % heads], texts, steps, rank)
        assert spans[head].texts.tolist() == expected, head
        differing += own[head].texts.tolist() != expected
    assert differing, "our own allocation chooses the same texts: the test shows nothing"


def own_moments(columns, heads, D):
    """Moments of the heads' own coordinates, not rounded."""
    dim = columns[heads[0]].shape[1]
    template = Moments(
        heads=tuple(heads),
        wide=(),
        count=0,
        head_mean=np.zeros((len(heads), dim)),
        head_scatter=np.zeros((len(heads), dim, dim)),
        wide_mean=np.zeros((0, D)),
        wide_scatter=np.zeros((0, D)),
    )
    return moments_of(template, {head: columns[head] for head in heads}, stored=False)
