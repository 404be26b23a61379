"""Linear layers in 8 bits and half precision: what is rounded, what stays exact, and where it is refused."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, nn, autocast, Decomposer, describe_tower, HALVES, Int8Linear, replacements, Taps, images_for
    global plain_embedding, tiny

    import torch
    from torch import nn

    from clipaudit.localize.tensors import autocast
    from clipaudit.model import Decomposer, describe_tower
    from clipaudit.model.linears import HALVES, Int8Linear, replacements
    from clipaudit.model.taps import Taps
    from tests.tiny_models import images_for, plain_embedding, tiny


# Joint projections of torch and timm, EVA's separate ones and its joint one without a key bias, gated MLPs.
KINDS = [
    "ViT-B-32-quickgelu",
    "ViT-M-16-alt",
    "ViT-L-14-CLIPA",
    "EVA02-B-16",
    "EVA02-E-14",
    "MobileCLIP-B",
    "ViTamin-S",
]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    spread=st.floats(0, 4),
    biased=st.booleans(),
)
def test_products_are_those_of_the_rounded_numbers(seed, shape, spread, biased):
    rows, inner, out = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inner)) * 10 ** rng.uniform(-spread, spread, (rows, 1))
    weight = rng.standard_normal((out, inner)) * 10 ** rng.uniform(-spread, spread, (out, 1))
    bias = rng.standard_normal(out) if biased else np.zeros(out)
    x, weight, bias = (value.astype(np.float32) for value in (x, weight, bias))
    layer = Int8Linear(torch.from_numpy(weight), torch.from_numpy(bias) if biased else None)
    found = layer(torch.from_numpy(x)).numpy()
    # In float64: each side is off by at most half a step of its own scale, no matter how large the others are.
    step_x, step_w = np.abs(x).max(1, keepdims=True) / 127, np.abs(weight).max(1, keepdims=True) / 127
    exact = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    bound = 0.51 * (step_x * np.abs(weight).sum(1) + np.abs(x).sum(1, keepdims=True) * step_w.T)
    bound = bound + 0.27 * inner * step_x * step_w.T + 1e-5 * (np.abs(exact) + np.abs(bias))
    assert (np.abs(found - exact) <= bound).all()


def test_zero_rows_and_channels_give_the_bias():
    weight = torch.randn(5, 8)
    weight[2] = 0
    layer = Int8Linear(weight, torch.arange(5.0))
    x = torch.randn(2, 3, 8)
    x[1, 1] = 0
    out = layer(x)
    assert out.shape == (2, 3, 5)
    assert torch.equal(out[1, 1], torch.arange(5.0))
    assert (out[..., 2] == 2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_whole_int8_embedding(kind):
    visual = tiny(kind)
    images = images_for(visual)
    plain, rounded = Decomposer(visual)(images), Decomposer(visual, precision="int8")(images)
    assert rounded.remainder.max() <= 5e-6, "what is rounded stands before the parts, not between them and the sum"
    gap = (plain.embedding - rounded.embedding).norm(dim=-1)
    assert gap.min() > 1e-5, "nothing was rounded"
    assert gap.max() < 0.2
    assert torch.equal(Decomposer(visual)(images).embedding, plain.embedding), "the model was changed"


@pytest.mark.parametrize("kind", KINDS)
def test_every_large_projection_of_a_block_is_replaced(kind):
    tower = describe_tower(tiny(kind))
    replaced = replacements(tower, "int8")
    for block in tower.blocks:
        large = {m for m in block.module.modules() if isinstance(m, nn.Linear)} - {block.out}
        joint = {getattr(block.attention, "qkv", None)}
        assert large - joint <= replaced.keys() - {block.out}
        assert block.out not in replaced
        assert block.attention in replaced or block.attention.q_proj in replaced
    assert not replacements(tower, "fp32")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_cast_once_change_nothing(kind, precision):
    visual = tiny(kind)
    images = images_for(visual)
    decomposer = Decomposer(visual, precision=precision)
    found = decomposer(images)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", dtype=HALVES[precision]),
        Taps(decomposer.tower).installed(),
    ):
        features = visual(images)
    features = (features[0] if isinstance(features, tuple) else features).float()
    assert torch.equal(found.embedding, features / features.norm(dim=-1)[:, None])


def test_int8_is_refused_where_it_cannot_run():
    with pytest.raises(
        UsageError, match=r"^--precision int8 is for the CPU, and the model is on meta: use bf16 there$"
    ):
        Decomposer(tiny("ViT-B-32").to("meta"), precision="int8")
    with pytest.raises(UsageError, match=r"rounds float32 weights, and the model's are torch\.bfloat16"):
        Decomposer(tiny("ViT-B-32").bfloat16(), precision="int8")


@pytest.mark.full
@pytest.mark.parametrize("kind", ["ViT-B-32-quickgelu", "ViT-L-14-CLIPA", "EVA02-B-16"])
def test_a_compiled_pass_is_traced_once_and_gives_the_same(kind, monkeypatch):
    # Tracing the swapped modules is ours to get right; what inductor makes of it is not, and takes a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager", fullgraph=True))
    visual = tiny(kind)
    images, others = images_for(visual), images_for(visual, seed=2)
    plain, compiled = Decomposer(visual, terms=True), Decomposer(visual, terms=True, compiled=True)
    embedding = plain_embedding(visual, images)
    torch._dynamo.reset()
    compiled(images)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (others, images):
            expected, found = plain(batch), compiled(batch)
            for name in ("heads", "embedding", "remainder", "attention", "mlp"):
                assert (getattr(found, name) - getattr(expected, name)).abs().max() <= 1e-6
    assert torch.equal(plain_embedding(visual, images), embedding), "the model was changed"


def test_where_int8_does_not_reach_it_is_refused():
    with pytest.raises(UsageError, match=r"^--precision int8 is for `clipaudit audit`"):
        autocast(torch.device("cpu"), "int8")
