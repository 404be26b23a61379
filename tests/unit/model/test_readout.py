"""The readout's algebra: bases, rank, folding, saving."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, Decomposer, build, polar, describe_tower, images_for, tiny

    import torch

    from clipaudit.model import Decomposer
    from clipaudit.model.readout import build, polar
    from clipaudit.model.towers import describe_tower
    from tests.tiny_models import images_for, tiny


def matrix(rows: int, columns: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + columns + rank)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    return left @ torch.randn(rank, columns, generator=generator, dtype=torch.float64)


def test_basis_is_orthonormal_and_gives_the_matrix_back():
    M = matrix(16, 40, 16)
    Q, T = polar(M)
    assert (T @ Q - M).abs().max() <= 1e-12
    assert (Q @ Q.T - torch.eye(16)).abs().max() <= 1e-12
    assert (T - T.T).abs().max() <= 1e-12
    assert torch.linalg.eigvalsh(T).min() > 0


@pytest.mark.parametrize(("rows", "columns", "rank"), [(16, 40, 9), (16, 10, 10), (8, 8, 3), (8, 20, 1)])
def test_a_head_of_lower_rank_spans_only_what_it_writes(rows, columns, rank):
    M = matrix(rows, columns, rank)
    Q, T = polar(M)
    assert Q.shape == (rows, columns)
    assert (T @ Q - M).abs().max() <= 1e-12
    assert (Q @ Q.T @ Q - Q).abs().max() <= 1e-12  # a partial isometry
    assert torch.linalg.matrix_rank(Q) == rank
    beyond = torch.eye(columns, dtype=torch.float64) - torch.linalg.pinv(M) @ M  # what M cannot write
    assert (Q @ beyond).abs().max() <= 1e-11


def test_a_dead_head_has_zero_coordinates():
    Q, T = polar(torch.zeros(4, 8, dtype=torch.float64))
    assert not Q.any()
    assert not T.any()


def test_basis_does_not_hang_on_signs_or_rounding():
    # Singular vectors flip and swap under noise of the last digit; the polar factors must not.
    M = matrix(12, 30, 12)
    Q, T = polar(M)
    rotation = torch.linalg.qr(matrix(30, 30, 30))[0]
    Q2, T2 = polar((M @ rotation) * (1 + 1e-15))
    assert (Q2 @ rotation.T - Q).abs().max() <= 1e-11
    assert (T2 - T).abs().max() <= 1e-11


def test_same_weights_give_the_same_readout_for_any_choice_of_layers():
    tower = describe_tower(tiny("ViT-B-32"))
    everything, some = build(tower, [0, 1, 2]), build(tower, [1])
    assert torch.equal(everything.Q[1], some.Q[0])
    assert torch.equal(everything.attention_bias[1], some.attention_bias[0])
    assert everything.Q.dtype == torch.float64


def test_layer_scale_is_folded_into_matrix_and_bias():
    visual = tiny("ViT-M-16-alt")
    block = visual.transformer.resblocks[1]
    folded = build(describe_tower(visual), [1])
    with torch.no_grad():
        gamma = block.ls_1.gamma.double()
        G = folded.G
        M = (block.attn.out_proj.weight.double() * gamma[:, None]).T @ G
        bias = (block.attn.out_proj.bias.double() * gamma) @ G
    assert ((folded.T @ folded.Q).reshape(-1, 144) - M).abs().max() <= 1e-12
    assert (folded.attention_bias[0] - bias).abs().max() <= 1e-12


def test_readout_ignores_a_constant_on_the_residual_stream():
    # The last LayerNorm subtracts the mean, so G must send the constant vector to zero.
    assert build(describe_tower(tiny("ViT-B-32")), [0]).G.sum(dim=0).abs().max() <= 1e-12


def test_arrays_are_complete_for_saving():
    decomposer = Decomposer(tiny("ViT-B-32"), layers=[1, 2])
    arrays = decomposer.readout.arrays()
    assert {name: value.shape for name, value in arrays.items()} == {
        "Q": (2, 2, 64, 144),
        "T": (2, 2, 64, 64),
        "G": (128, 144),
        "norm_bias": (144,),
        "attention_bias": (2, 144),
        "initial": (144,),
    }
    assert all(value.dtype == np.float32 and value.flags.c_contiguous for value in arrays.values())
    assert decomposer.readout.arrays(np.float64)["T"].dtype == np.float64


@pytest.mark.parametrize("kind", ["ViT-B-32", "MobileCLIP-B", "EVA02-B-16", "vit_relpos_medium_patch16_cls_224"])
def test_class_tokens_start_is_the_stored_constant(kind):
    visual = tiny(kind)
    decomposer = Decomposer(visual)
    out = decomposer(images_for(visual))
    initial = torch.from_numpy(decomposer.readout.arrays()["initial"])
    assert (out.parts["initial"] - out.scale[:, None] * initial).abs().max() <= 1e-7
    assert initial.norm() > 1e-3


def test_more_head_dimensions_than_joint_dimensions():
    visual = tiny("ViT-B-32")
    visual.proj = torch.nn.Parameter(visual.proj[:, :20].detach().clone())  # 64 coordinates for 20 dimensions
    decomposer = Decomposer(visual)
    out = decomposer(images_for(visual))
    assert out.heads.shape[-1] == 64
    assert out.embedding.shape[-1] == 20
    assert out.remainder.max() <= 5e-6


def test_texts_may_carry_gradients_after_a_decomposition():
    visual = tiny("ViT-B-32")
    decomposer = Decomposer(visual)
    decomposer(images_for(visual))
    texts = torch.randn(2, 144, requires_grad=True)
    decomposer.readout.fold_values(texts).sum().backward()
    assert texts.grad.abs().max() > 0
