"""Towers that pool by attention: exact parts, heads, tokens, other sizes, and an audit of one."""

from __future__ import annotations

import json
import threading

import pytest

from clipaudit.cli.console.job import ConsoleReporter
from clipaudit.config import ExecutionConfig, JobConfig, ModelConfig, StoreConfig
from clipaudit.errors import UnsupportedTower
from clipaudit.job.driver import run_job as run_audit
from clipaudit.job.engine_local import LocalPool
from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from tests.make_shards import write_photos


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, recompute, METHODS, TokenDecomposition, localiser, Decomposer, resized, token_map
    global token_scores, attention_of, attention_update, inverse_sigma, tapped, images_for, plain_embedding, tiny
    global save_file

    import open_clip
    import torch
    from safetensors.torch import save_file

    from clipaudit.job.recompute import recompute
    from clipaudit.localize import METHODS, TokenDecomposition, localiser
    from clipaudit.model import Decomposer, resized, token_map, token_scores
    from clipaudit.model.attention_pool import attention_of
    from clipaudit.model.readout import attention_update, inverse_sigma
    from clipaudit.model.taps import tapped
    from tests.tiny_models import images_for, plain_embedding, tiny


KINDS = ["ViT-B-16-SigLIP", "coca_ViT-B-32", "PE-Core-B-16"]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_whole_in_double_precision(kind):
    visual = tiny(kind).double()
    images = images_for(visual).double()
    out = Decomposer(visual, layers=[0, 2], terms=True)(images)
    assert (sum(out.parts.values()) - plain_embedding(visual, images)).abs().max() <= 1e-13
    assert out.remainder.max() <= 1e-13
    assert (out.attention.sum(dim=1) - out.parts["heads"] - out.parts["attention_bias"]).abs().max() <= 1e-13
    assert (out.mlp.sum(dim=1) - out.parts["mlp"]).abs().max() <= 1e-13
    assert out.parts["heads"].norm(dim=-1).min() > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_the_basis_is_orthonormal_and_shared(kind):
    decomposer = Decomposer(tiny(kind))
    arrays = decomposer.readout.arrays()
    assert arrays["Q"].shape[:2] == arrays["T"].shape[:2] == (1, 1)
    Q = torch.from_numpy(arrays["Q"][0, 0])
    gram = Q @ Q.T  # a projector: CoCa's LayerNorm behind the pool takes one direction away
    assert (gram @ gram - gram).abs().max() <= 1e-5
    assert len(Q) - gram.trace() == pytest.approx(int(kind.startswith("coca")), abs=1e-3)
    assert decomposer.readout.head_dim == len(Q)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("no_grad")
def test_a_head_is_what_the_linear_pool_would_lose_without_it(kind):
    # With the norm's sigma, the pool's attention and its MLP held as they are, the pooled row is linear in the stream:
    # what the head adds to every token, pooled by the same weights, is its part.
    visual = tiny(kind).double()
    images = images_for(visual).double()
    decomposer = Decomposer(visual)
    out, tower = decomposer(images), decomposer.tower
    with tapped(tower) as record:
        visual(images)
    rows = record.values[1].clone()  # (B, tokens, heads, head_dim)
    whole = attention_update(tower.blocks[1], rows.flatten(2))
    rows[:, :, 1] = 0
    added = whole - attention_update(tower.blocks[1], rows.flatten(2))  # (B, tokens, width)
    weights = attention_of(tower.pool, tower.norm(record.final)) * inverse_sigma(tower.norm, record.final)[:, None]
    pooled = torch.einsum("bpn,bnw->bpw", weights, added)
    direct = decomposer.readout.joint(pooled, decomposer.readout.on(images.device, torch.float64))
    part = decomposer.readout.expand(out.heads)[:, 1, 1]
    assert (part - direct * out.scale[:, None]).abs().max() <= 1e-13
    assert part.abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_sum_to_heads(kind):
    visual = tiny(kind)
    images, decomposer = images_for(visual), Decomposer(visual, tokens=True)
    texts = torch.randn(5, decomposer.tower.embed_dim)
    out = decomposer(images)
    scores = token_scores(out, decomposer.readout, texts)
    expected = decomposer.readout.expand(out.heads) @ texts.T
    assert (scores.sum(dim=3) - expected).abs().max() <= 2e-5
    assert (token_map(out, decomposer.readout, texts) - scores.sum(dim=(1, 2))).abs().max() <= 2e-5
    folded = torch.einsum("blhk,lhnk->blhn", out.heads, decomposer.readout.fold(texts))
    assert (folded - expected).abs().max() <= 2e-5
    one = TokenDecomposition(visual, heads=[(1, 1)])(images, texts)
    assert (one.heads - expected[:, 1, 1]).abs().max() <= 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_every_localiser_takes_them(kind):
    visual = tiny(kind).requires_grad_(False)
    images = images_for(visual, 2)
    dimension = Decomposer(visual, layers=[0]).tower.embed_dim
    texts = torch.nn.functional.normalize(torch.randn(3, dimension), dim=-1)
    for name in METHODS:
        maps = localiser(name, visual)(images, texts)
        assert maps.shape[:2] == (2, 3), name
        assert maps.isfinite().all(), name
        singles = torch.cat([localiser(name, visual)(image[None], texts) for image in images])
        assert torch.allclose(maps, singles, rtol=1e-3, atol=5e-6), name


def test_another_size():
    visual = tiny("ViT-B-16-SigLIP")
    out = Decomposer(visual).resized((32, 80))(torch.randn(2, 3, 32, 80))
    assert out.remainder.max() <= 5e-6
    assert resized(visual, (64, 64)) is visual


def test_pools_of_another_kind_are_refused():
    visual = tiny("ViT-B-16-SigLIP")
    visual.trunk.attn_pool.latent_len = 2
    with pytest.raises(UnsupportedTower, match="several queries"):
        Decomposer(visual)


def write_model(directory) -> open_clip.CLIP:
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 3,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
            "attentional_pool": True,
            "attn_pooler_heads": 4,
            "attn_pooler_queries": 3,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**config).eval()
    directory.mkdir()
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    return model


def test_an_audit_takes_them(tmp_path, capsys):
    model = write_model(tmp_path / "model")
    config = JobConfig(
        shards=(str(write_photos(tmp_path / "s.tar", 7)),),
        out=str(tmp_path / "run"),
        model=ModelConfig(name=str(tmp_path / "model"), device="cpu"),
        store=StoreConfig(layers="2"),
        execution=ExecutionConfig(engine="local"),
    )
    with ConsoleReporter(config) as reporter:
        run_audit(config, LocalPool(config), reporter, threading.Event())
    assert "pools by attention" in capsys.readouterr().err
    run = Run(config.out)
    assert run.spec.head_dim == run.basis().Q("L02H01").shape[0] == Decomposer(model).readout.head_dim
    assert check(config.out).problems == ()
    assert not recompute(config.out).problems
    readout = Decomposer(model, layers=[1, 2]).readout
    stored = torch.from_numpy(run.vectors("L02H01").values.astype("float32"))
    total = stored @ torch.from_numpy(run.basis().Q("L02H01"))
    assert (total - readout.expand(stored[:, None, None])[:, 0, 0]).abs().max() <= 1e-5
