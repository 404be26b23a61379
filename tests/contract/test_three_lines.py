"""The example of three lines in docs/models.md and docs/localize.md, run on towers of every kind."""

from __future__ import annotations

import re

import pytest

from tests.commands import ROOT


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, plain_embedding, images_for, tiny, describe_tower

    import torch

    from clipaudit import describe_tower
    from tests.tiny_models import images_for, plain_embedding, tiny


def example(page: str) -> str:
    (block,) = re.findall(
        r"^```python\n(from clipaudit import Decomposer, token_scores\n.*?)^```",
        (ROOT / page).read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return block


def test_both_pages_have_the_same_three_lines():
    assert example("docs/models.md") == example("docs/localize.md")
    lines = [line for line in example("docs/models.md").splitlines() if line and not line.startswith("from ")]
    assert len(lines) == 3


# Class token, average pooling, rotary positions with inner norms, an attention pool.
@pytest.mark.parametrize("kind", ["ViT-B-32-quickgelu", "ViT-L-14-CLIPA", "EVA02-B-16", "ViT-B-16-SigLIP"])
def test_the_example_is_right_for_any_tower(kind):
    model = tiny(kind)
    images = images_for(model)
    texts = torch.randn(2, describe_tower(model).embed_dim, generator=torch.Generator().manual_seed(3))
    scope = {"model": model, "images": images, "texts": texts}
    exec(compile(example("docs/models.md"), "docs/models.md", "exec"), scope)
    out, attention, heads, scores = (scope[name] for name in ("out", "attention", "heads", "scores"))
    tower = scope["split"].tower
    batch, layers, D = len(images), tower.layers, tower.embed_dim
    assert attention.shape[:3] == (batch, layers, tower.heads)
    assert attention.shape[-1] == tower.tokens
    assert heads.shape == (batch, layers, tower.heads, D)
    assert scores.shape == (batch, layers, tower.heads, tower.tokens, 2)
    # heads and the rest are the whole; tokens sum to the heads' products
    others = sum(part for name, part in out.parts.items() if name != "heads")
    assert (heads.sum(dim=(1, 2)) + others - plain_embedding(model, images)).abs().max() <= 2e-6
    assert (scores.sum(dim=3) - heads @ texts.T).abs().max() <= 1e-5
    if tower.pooling == "token" and not any(block.scaled for block in tower.blocks):
        assert (attention.sum(dim=-1) - 1).abs().max() <= 1e-6
