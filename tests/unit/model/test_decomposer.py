"""The decomposition's promises: parts are the whole, the model stays as it was, and misuse ends in one sentence."""

from __future__ import annotations

import threading

import pytest

from clipaudit.errors import UnsupportedTower, UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, nn, Decomposer, describe_tower, token_map, token_scores, tapped, enliven, images_for
    global plain_embedding, tiny

    import open_clip
    import torch
    from torch import nn

    from clipaudit.model import Decomposer, describe_tower, token_map, token_scores
    from clipaudit.model.taps import tapped
    from tests.tiny_models import enliven, images_for, plain_embedding, tiny


# One of each kind: class token, LayerScale, average pooling with the norm behind and before the pool, an inner norm
# with rotary positions, post-norm blocks, relative positions, no class token's position.
KINDS = [
    "ViT-B-32-quickgelu",
    "ViT-M-16-alt",
    "ViT-L-14-CLIPA",
    "vit_medium_patch16_gap_256",
    "EVA02-B-16",
    "EVA02-E-14",
    "vit_relpos_medium_patch16_cls_224",
    "MobileCLIP-B",
    "ViTamin-S",
]
# Towers whose attention branch holds no LayerNorm, so that a head can be knocked out by zeroing its output columns.
PLAIN_KINDS = [kind for kind in KINDS if not kind.startswith("EVA02")]


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    return tiny("ViT-B-32-quickgelu", layers=4)


@pytest.fixture(scope="module")
def images(visual):
    return images_for(visual, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_whole_in_double_precision(kind):
    visual = tiny(kind).double()
    images = images_for(visual).double()
    out = Decomposer(visual, layers=[0, 2], terms=True)(images)
    assert out.embedding.dtype == out.heads.dtype == torch.float64
    assert (out.embedding - plain_embedding(visual, images)).abs().max() <= 1e-13
    assert out.remainder.max() <= 1e-13
    assert (sum(out.parts.values()) - out.embedding).abs().max() <= 1e-13


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_whole_under_autocast(kind, precision):
    visual = tiny(kind)
    images = images_for(visual)
    out = Decomposer(visual, precision=precision)(images)
    assert out.heads.dtype == torch.float32
    assert out.remainder.max() <= 2e-2 * out.embedding.abs().max()
    assert out.remainder.max() > 1e-6, "autocast did nothing"
    assert (out.embedding - plain_embedding(visual, images)).norm(dim=-1).max() <= 0.1


@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest.mark.usefixtures("no_grad")
def test_a_heads_part_is_what_the_residual_stream_loses_without_it(kind):
    # A sum can be right with its terms mixed up; this looks at one head of the last layer, by the model alone.
    visual = tiny(kind)
    images, head = images_for(visual), 1
    decomposer = Decomposer(visual)
    tower, block = decomposer.tower, decomposer.tower.blocks[-1]
    for parameter in block.module.mlp.parameters():
        parameter.zero_()  # it reads what the heads wrote; without it their direct effect is left
    seen: list[torch.Tensor] = []
    handle = tower.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out = decomposer(images)
    seen.clear()
    visual(images)
    columns = slice(head * tower.head_dim, (head + 1) * tower.head_dim)
    block.out.weight[:, columns] = 0
    visual(images)
    handle.remove()
    lost = seen[0] - seen[1]
    sigma = (seen[0].var(dim=-1, unbiased=False) + tower.norm.eps).sqrt()
    lost = lost / sigma[..., None]
    if tower.norm_before_pool:
        lost = lost[:, 0] if tower.pooling == "token" else lost[:, tower.pool_start :].mean(dim=1)
    direct = lost @ decomposer.readout.G.float() / out.norm[:, None]
    part = decomposer.readout.expand(out.heads)[:, -1, head]
    assert part.norm(dim=-1).min() > 1e-3
    assert (part - direct).abs().max() <= 5e-6


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_sum_to_heads_and_terms_to_parts(kind):
    visual = tiny(kind)
    decomposer = Decomposer(visual, layers=[1, 2], terms=True, tokens=True)
    out = decomposer(images_for(visual))
    tokens, tower = out.tokens, decomposer.tower
    assert tokens.alpha.shape == (3, 2, tower.heads, tower.tokens)
    assert tokens.v.shape == (3, 2, tower.heads, tower.tokens, tower.head_dim)
    if not any(block.scaled for block in tower.blocks):
        assert (tokens.alpha.sum(dim=-1) - 1).abs().max() <= 1e-6
    read = torch.einsum("blhi,blhij->blhj", tokens.alpha, tokens.v)
    y = torch.einsum("blhj,lhjk->blhk", read, decomposer.readout.T.float()) * out.scale[:, None, None, None]
    assert (y - out.heads).abs().max() <= 1e-6
    assert (out.attention.sum(dim=1) - out.parts["heads"] - out.parts["attention_bias"]).abs().max() <= 1e-6
    assert (out.mlp.sum(dim=1) - out.parts["mlp"]).abs().max() <= 1e-6
    plain = Decomposer(visual, layers=[1, 2])(images_for(visual))
    assert plain.tokens is plain.attention is plain.mlp is None
    assert (plain.heads - out.heads).abs().max() <= 1e-6, "asking for tokens changed the heads"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [False, True])
def test_self_attention_is_what_the_class_token_reads_from_itself(kind, tokens):
    visual = tiny(kind)
    out = Decomposer(visual, terms=True, tokens=tokens)(images_for(visual))
    decomposer = Decomposer(visual, tokens=True)
    every = decomposer(images_for(visual))
    if decomposer.tower.pooling != "token":
        assert out.self_attention is out.residual_means is None
        return
    own = every.tokens.alpha[..., 0, None] * every.tokens.v[..., 0, :]  # (B, layers, heads, head_dim)
    y = torch.einsum("blhj,lhjk->blhk", own, decomposer.readout.T.float()) * every.scale[:, None, None, None]
    expected = decomposer.readout.expand(y).sum(dim=2)
    assert out.self_attention.shape == out.attention.shape
    assert (out.self_attention - expected).abs().max() <= 1e-6
    assert expected.abs().max() > 1e-3
    scaled = any(block.scaled for block in decomposer.tower.blocks)
    assert (out.residual_means is None) is scaled


@pytest.mark.parametrize("kind", KINDS)
def test_token_scores_are_the_heads_products_with_texts(kind):
    visual = tiny(kind)
    decomposer = Decomposer(visual, tokens=True)
    out = decomposer(images_for(visual))
    texts = torch.randn(4, decomposer.tower.embed_dim, generator=torch.Generator().manual_seed(3))
    scores = token_scores(out, decomposer.readout, texts)
    products = decomposer.readout.expand(out.heads) @ texts.T
    assert (scores.sum(dim=3) - products).abs().max() <= 5e-6
    assert (torch.einsum("blhk,lhnk->blhn", out.heads, decomposer.readout.fold(texts)) - products).abs().max() <= 5e-6
    assert (token_map(out, decomposer.readout, texts) - scores.sum(dim=(1, 2))).abs().max() <= 5e-6


def test_attention_weights_are_the_models_own(visual, images):
    out = Decomposer(visual, layers=[0], tokens=True)(images)
    block = visual.transformer.resblocks[0]
    with torch.inference_mode():
        x = block.ln_1(visual._embeds(images))
        _, weights = block.attn(x, x, x, need_weights=True, average_attn_weights=False)
    assert (out.tokens.alpha[:, 0] - weights[:, :, 0]).abs().max() <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_layers_are_a_slice_of_all_layers(kind):
    visual = tiny(kind)
    images = images_for(visual)
    everything, some = Decomposer(visual)(images), Decomposer(visual, layers=[2, 0])(images)
    assert (some.heads - everything.heads[:, [0, 2]]).abs().max() <= 1e-6
    assert some.remainder.max() <= 5e-6
    assert not everything.parts["other_layers"].any()
    assert some.parts["other_layers"].norm(dim=-1).min() > 1e-3


def test_an_image_does_not_depend_on_its_batch(visual, images):
    decomposer = Decomposer(visual)
    together = decomposer(images)
    for index in range(len(images)):
        alone = decomposer(images[index : index + 1])
        assert (alone.heads[0] - together.heads[index]).abs().max() <= 1e-6
        assert (alone.embedding[0] - together.embedding[index]).abs().max() <= 1e-6


def snapshot(model: nn.Module) -> tuple[dict[str, int], dict[str, torch.Tensor], list[int]]:
    """Identity of every module, copies of every parameter, number of hooks."""
    modules = {name: id(module) for name, module in model.named_modules()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return modules, {name: value.clone() for name, value in model.state_dict().items()}, hooks


def assert_unchanged(model: nn.Module, before: tuple) -> None:
    modules, values, hooks = snapshot(model)
    assert modules == before[0]
    assert values.keys() == before[1].keys()
    assert all(torch.equal(values[name], before[1][name]) for name in values)
    assert hooks == before[2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_bit_for_bit_what_it_was(kind):
    visual = tiny(kind)
    images = images_for(visual)
    before, embedding = snapshot(visual), plain_embedding(visual, images)
    Decomposer(visual, tokens=True, terms=True)(images)
    assert_unchanged(visual, before)
    assert torch.equal(plain_embedding(visual, images), embedding)


def test_the_model_is_restored_after_an_exception(visual, images):
    before, embedding = snapshot(visual), plain_embedding(visual, images)

    def fail(pixels: torch.Tensor) -> None:
        with tapped(describe_tower(visual)):
            visual(pixels)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(images)
    assert_unchanged(visual, before)
    with pytest.raises(RuntimeError):
        fail(images[:, :2])  # the model itself fails
    assert_unchanged(visual, before)
    assert torch.equal(plain_embedding(visual, images), embedding)


def test_taps_share_parameters_and_nest(visual, images):
    tower, keys = describe_tower(visual), list(visual.state_dict())
    originals = {name: id(parameter) for name, parameter in visual.named_parameters()}
    before = snapshot(visual)
    with torch.inference_mode(), tapped(tower) as outer:
        assert {name: id(parameter) for name, parameter in visual.named_parameters()} == originals
        assert list(visual.state_dict()) == keys
        with tapped(tower) as inner:
            visual(images)
        assert not outer.values
        assert len(inner.values) == tower.layers
        visual(images)
        assert len(outer.values) == tower.layers
    assert_unchanged(visual, before)
    assert all(torch.equal(outer.values[layer], inner.values[layer]) for layer in outer.values)


def test_two_threads_take_turns_on_one_model(visual, images):
    decomposer, results = Decomposer(visual), {}
    expected = [decomposer(images[index : index + 1]).heads for index in range(4)]

    def work(index: int) -> None:
        results[index] = [decomposer(images[index : index + 1]).heads for _ in range(5)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(heads, expected[index]) for index in range(4) for heads in results[index])


def test_a_whole_model_and_a_tower_with_token_output_are_understood():
    config = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "output_tokens": True}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    model = enliven(open_clip.CLIP(48, config, text))
    images = images_for(model)
    out = Decomposer(model)(images)
    assert out.remainder.max() <= 5e-6
    assert (out.embedding - plain_embedding(model.visual, images)).abs().max() <= 5e-6


def test_weights_in_half_precision_are_decomposed():
    visual = tiny("ViT-B-32").bfloat16()
    out = Decomposer(visual)(images_for(visual))
    assert out.heads.dtype == torch.float32
    assert out.remainder.max() <= 2e-2 * out.embedding.abs().max()


def test_no_gradient_is_kept(visual, images):
    out = Decomposer(visual)(images.clone().requires_grad_())
    assert not out.heads.requires_grad
    assert not out.embedding.requires_grad


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 3, 96, 95), {}),
        ((3, 96, 96), {}),
        ((0, 3, 96, 96), {}),
        ((1, 1, 96, 96), {}),
        ((1, 3, 96, 96), {"dtype": "uint8"}),
        ((1, 3, 96, 96), {"device": "meta"}),
    ],
    ids=[f"wrong{number}" for number in range(6)],
)
def test_wrong_images_end_in_one_sentence(visual, shape, options):
    dtype = getattr(torch, options.get("dtype", "float32"))
    with pytest.raises(UsageError, match=r"^images (must be|are on) [^\n]*$"):
        Decomposer(visual)(torch.zeros(shape, dtype=dtype, device=options.get("device", "cpu")))


@pytest.mark.parametrize("layers", [[4], [-1], [1, 1], []])
def test_wrong_layers_end_in_one_sentence(visual, layers):
    with pytest.raises(UsageError, match=r"^layers must be different numbers from 0 to 3, not \[[^\n]*$"):
        Decomposer(visual, layers=layers)


def test_other_misuse_ends_in_one_sentence(visual, images):
    with pytest.raises(UsageError, match=r"^precision must be fp32, bf16, fp16 or int8, not 'int4'$"):
        Decomposer(visual, precision="int4")
    out = Decomposer(visual)(images)
    with pytest.raises(UsageError, match=r"tokens=True"):
        token_scores(out, Decomposer(visual).readout, torch.zeros(1, 144))
    training = tiny("ViT-B-32").train()
    with pytest.raises(UsageError, match=r"training mode"):
        Decomposer(training)(images)


def with_module(kind: str, path: str, module: object) -> nn.Module:
    """A tiny tower with one attribute, given by its dotted path, replaced."""
    visual = tiny(kind)
    parent, _, name = path.rpartition(".")
    setattr(visual.get_submodule(parent), name, module)
    return visual


def wrapped() -> nn.Module:
    class Wrapped(nn.Module):
        def forward(self, x):
            return x * 2

    return Wrapped()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: nn.Linear(2, 2), "not a tower that clipaudit knows"),
        (lambda: with_module("ViT-B-32", "transformer.resblocks.1.attn.forward", None), "was replaced"),
        (lambda: with_module("ViT-B-32", "transformer.resblocks.1.attn.out_proj", wrapped()), "out_proj is a Wrapped"),
        (lambda: with_module("ViT-B-32", "ln_post", nn.RMSNorm(128)), "ln_post is a RMSNorm"),
        (lambda: with_module("ViT-B-32", "ln_pre", wrapped()), "ln_pre is a Wrapped"),
        (lambda: with_module("ViT-M-16-alt", "transformer.resblocks.0.ls_1", wrapped()), "layer scale is a Wrapped"),
        (lambda: tiny("ViT-B-32", qk_norm=True), "standard residual block"),
        (lambda: tiny("ViT-B-32", pool_type="none"), "pool_type"),
        (lambda: tiny("MobileCLIP2-L-14", timm_proj="mlp"), "Mlp behind the pool is not linear"),
        (lambda: tiny("MobileCLIP2-L-14", timm_pool="max"), "global_pool"),
        (lambda: with_module("EVA02-B-16", "trunk.blocks.0.attn.gate", nn.Linear(128, 128)), "gated"),
        (lambda: with_module("EVA02-B-16", "trunk.fc_norm", nn.LayerNorm(128)), "2 LayerNorms"),
    ],
)
def test_what_is_not_understood_is_refused(model, reason):
    with pytest.raises(UnsupportedTower, match=reason):
        describe_tower(model())


def test_a_tower_is_refused_while_it_is_tapped(visual):
    with tapped(describe_tower(visual)), pytest.raises(UnsupportedTower):
        describe_tower(visual)
