"""The published ablation of MLPs and class-token self-attention, replayed on our components."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.contract.test_oracle import last_blocks  # noqa: F401 - a fixture


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, Decomposer, INITIAL, PublishedAllocation, Shared, Basis, columns_of, published_allocation
    global tiny_tower

    import torch

    from clipaudit.heads.allocation import INITIAL, PublishedAllocation, Shared
    from clipaudit.model import Decomposer
    from clipaudit.run.basis import Basis
    from tests.published import columns_of, published_allocation, tiny_tower


DATA = Path(__file__).parent.parent / "data" / "oracle"
TOLERANCE = 1e-5


def published_ablations(attentions, mlps, whole):
    """The published script: all MLPs, the class token's attention to itself, or both at their means over the images.

    attentions (B, layers, tokens, heads, D), mlps (B, rows, D) and the unit embedding `whole` (B, D) that they are
    parts of. Returns the ablated embeddings by row of the table.
    """
    cls_attn = attentions[:, :, 0].sum(axis=2)  # what the script saves beside the heads
    mlps_lost = (mlps - mlps.mean(axis=0)).sum(axis=1)
    cls_lost = (cls_attn - cls_attn.mean(axis=0)).sum(axis=1)
    return {
        "base": whole,
        "mlps": whole - mlps_lost,
        "self-attention": whole - cls_lost,
        "both": whole - mlps_lost - cls_lost,
    }


def our_ablations(out, columns, allocation, shared, mlps):
    """The same from our columns, mean-ablated in the published allocation."""
    layers = len(out.mlp[0])

    def lost(names):
        values = [allocation(name, columns[name], shared) for name in names]
        return sum(value - value.mean(axis=0) for value in values)

    mlps_lost = lost(mlps)
    self_lost = lost([f"self_attention_L{layer:02d}" for layer in range(layers)])
    whole = out.embedding.double().numpy()
    return {
        "base": whole,
        "mlps": whole - mlps_lost,
        "self-attention": whole - self_lost,
        "both": whole - mlps_lost - self_lost,
    }


def check(ours, published, tolerance=TOLERANCE):
    for row, expected in published.items():
        assert np.abs(ours[row] - expected).max() <= tolerance, row
    # The tolerance means something: each row of the table moves the embeddings by far more.
    for row in ("mlps", "self-attention"):
        assert np.abs(published[row] - published["base"]).max() > 100 * tolerance, row


def test_the_published_ablation_on_the_oracles_images(last_blocks):  # noqa: F811
    with np.load(DATA / "decomposition.npz") as arrays:
        reference = {name: arrays[name].astype(np.float64) for name in arrays.files}
    parts = []
    for stream in reference["streams"]:
        tower = last_blocks.starting_from(torch.from_numpy(stream).float())
        decomposer = Decomposer(tower, terms=True)
        parts.append((decomposer(torch.zeros(1, 3, 64, 64)), decomposer))
    out, decomposer = joined([part for part, _ in parts]), parts[0][1]
    columns, shared, basis = columns_of(decomposer, out)
    allocation = PublishedAllocation(basis, layers=8, tokens=65)
    features = reference["image_features"]
    whole = features / np.linalg.norm(features, axis=1, keepdims=True)
    published = published_ablations(reference["attentions"], reference["mlps"], whole)
    check(our_ablations(out, columns, allocation, shared, ["mlp_L00", "mlp_L01"]), published)


def joined(parts):
    """Decompositions of single images as one batch."""
    names = ("heads", "embedding", "scale", "norm", "remainder", "attention", "mlp", "self_attention", "residual_means")
    first = parts[0]
    values = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return type(first)(parts={}, **values)


def test_every_component_of_a_whole_tower_in_the_published_allocation():
    visual = tiny_tower(width=96, heads=3, patch=8, size=32, layers=3, embed_dim=24)
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    decomposer = Decomposer(visual, terms=True)
    out = decomposer(images)
    columns, shared, basis = columns_of(decomposer, out)
    allocation = PublishedAllocation(basis, layers=3, tokens=17)
    attentions, mlps = (values.double().numpy() for values in published_allocation(visual, images))
    for layer in range(3):
        for head in range(3):
            label = f"L{layer:02d}H{head:02d}"
            ours = allocation(label, columns[label], shared) @ allocation.basis.Q(label)
            assert np.abs(ours - attentions[:, layer, :, head].sum(axis=1)).max() <= TOLERANCE
        column = f"attention_L{layer:02d}"
        ours = allocation(column, columns[column], shared)
        assert np.abs(ours - attentions[:, layer].sum(axis=(1, 2))).max() <= TOLERANCE
    initial = allocation(INITIAL, np.empty((12, 0)), shared)
    assert np.abs(initial - mlps[:, 0]).max() <= TOLERANCE
    columns[INITIAL] = np.empty((12, 0))
    names = [INITIAL, *(f"mlp_L{layer:02d}" for layer in range(3))]
    whole = out.embedding.double().numpy()
    check(our_ablations(out, columns, allocation, shared, names), published_ablations(attentions, mlps, whole))


@pytest.mark.skipif("CLIPAUDIT_ORACLE" not in os.environ, reason="CLIPAUDIT_ORACLE names no full oracle directory")
def test_full_oracle():
    from tests.published import full_oracle

    oracle, model = full_oracle()
    with np.load(oracle / "decomposition.npz") as arrays:
        data = {name: arrays[name] for name in arrays.files}
    decomposer = Decomposer(model.visual, terms=True)
    out = decomposer(torch.from_numpy(data["images"]))
    columns, shared, basis = columns_of(decomposer, out)
    columns[INITIAL] = np.empty((len(data["images"]), 0))
    allocation = PublishedAllocation(basis, layers=8, tokens=65)
    features = data["image_features"].astype(np.float64)
    whole = features / np.linalg.norm(features, axis=1, keepdims=True)
    published = published_ablations(data["attentions"].astype(np.float64), data["mlps"].astype(np.float64), whole)
    names = [INITIAL, *(f"mlp_L{layer:02d}" for layer in range(8))]
    check(our_ablations(out, columns, allocation, shared, names), published)
