"""Our components in the first paper's published allocation, and a tower cut to its last blocks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipaudit.arrays import Floats
from clipaudit.heads.allocation import Shared
from clipaudit.model import Decomposer, Decomposition
from clipaudit.model.taps import tapped
from clipaudit.run.basis import Basis
from clipaudit.schema import attention_column, head_label, mlp_column, self_attention_column
from tests.tiny_models import enliven


def full_oracle() -> tuple[Path, open_clip.CLIP]:
    """The directory of the full oracle, which CLIPAUDIT_ORACLE names, and its model."""
    oracle = Path(os.environ["CLIPAUDIT_ORACLE"])
    model = open_clip.CLIP(**json.loads((oracle / "model/open_clip_config.json").read_text())["model_cfg"]).eval()
    model.load_state_dict(load_file(oracle / "model/open_clip_model.safetensors"))
    return oracle, model


@torch.inference_mode()
def published_allocation(visual: nn.Module, images: Tensor, total_layers: int | None = None) -> tuple[Tensor, Tensor]:
    """Contributions to the unit embedding as the published code of Gandelsman et al. (ICLR 2024) allocates them.

    There the last LayerNorm's mean and bias are spread evenly over the 2 L + 1 components and, inside an attention
    layer, over its heads and tokens, as is the output projection's bias; our components subtract their own means, and
    keep biases apart. `total_layers` is L where the tower is only the last part of one with L layers.

    Returns:
        attentions (B, layers, tokens, heads, D) and mlps (B, 1 + layers, D), row 0 the residual stream before the first
        block.
    """
    decomposer = Decomposer(visual, terms=True, tokens=True)
    tower, readout = decomposer.tower, decomposer.readout
    out = decomposer(images)
    with tapped(tower) as record:
        visual(images)
    s, components, spots = out.scale, 2 * (total_layers or tower.layers) + 1, tower.tokens * tower.heads
    flat = (visual.ln_post.weight.double() @ visual.proj.double()).to(s)  # where a mean of 1 points
    bias = readout.norm_bias.to(s) / out.norm[:, None]  # (B, D)
    mean = record.final[:, 0].mean(dim=-1)  # (B,)

    def at(x: Tensor, ndim: int) -> Tensor:
        return x.reshape(-1, *[1] * (ndim - 1))

    weighted = out.tokens.v * out.tokens.alpha[..., None]  # (B, layers, heads, tokens, head_dim)
    y = torch.einsum("blhij,lhjk->blihk", weighted, readout.T.to(s)) * at(s, 5)
    W = torch.stack([block.out.weight for block in tower.blocks])  # (layers, width, width)
    b = torch.stack([block.out.bias for block in tower.blocks])  # (layers, width)
    row_means = W.mean(dim=1).unflatten(-1, (tower.heads, tower.head_dim))
    own_mean = torch.einsum("blhij,lhj->blih", weighted, row_means) + b.mean(dim=-1)[:, None, None] / spots
    attentions = readout.expand(y.transpose(1, 2)).transpose(1, 2)
    attentions = attentions + (readout.attention_bias.to(s)[:, None, None] * at(s, 5) / spots)
    attentions = attentions + ((own_mean - at(mean, 4) / (components * spots)) * at(s, 4))[..., None] * flat
    attentions = attentions + bias[:, None, None, None] / (components * spots)

    start = tower.visual._embeds(images)[:, 0]  # (B, width)
    rows = torch.stack([start, *(record.mlps[layer][:, 0] for layer in range(tower.layers))], dim=1)
    mlps = torch.cat([out.parts["initial"][:, None], out.mlp], dim=1)
    mlps = mlps + ((rows.mean(dim=-1) - at(mean, 2) / components) * at(s, 2))[..., None] * flat
    return attentions, mlps + bias[:, None] / components


class LastBlocks(nn.Module):
    """Makes a tower start from a given residual stream: its patches are zero and its position table is the stream."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def starting_from(self, stream: Tensor) -> nn.Module:
        """stream (tokens, width) of one image; any pixels give the rest of that image's forward pass."""
        with torch.no_grad():
            self.visual.conv1.weight.zero_()
            self.visual.class_embedding.zero_()
            self.visual.positional_embedding.copy_(stream)
        return self.visual


def tiny_tower(
    width: int,
    heads: int,
    patch: int,
    size: int | tuple[int, int],
    layers: int,
    embed_dim: int,
    quick: bool = False,
    seed: int = 0,
) -> nn.Module:
    """An open_clip ViT with random weights whose attention is far from even, and whose biases are not zero."""
    visual = open_clip.transformer.VisionTransformer(
        image_size=size,
        patch_size=patch,
        width=width,
        layers=layers,
        heads=heads,
        mlp_ratio=2.0,
        output_dim=embed_dim,
        act_layer=open_clip.transformer.QuickGELU if quick else nn.GELU,
    ).eval()
    return enliven(visual, seed)


def columns_of(decomposer: Decomposer, out: Decomposition) -> tuple[dict[str, Floats], Shared, Basis]:
    """What a run with components holds of a batch, by column and not rounded, with the run's basis; float64."""
    values: dict[str, Floats] = {}
    layers, heads = out.heads.shape[1:3]
    labels = [head_label(layer, head) for layer in range(layers) for head in range(heads)]
    for number, label in enumerate(labels):
        values[label] = out.heads.flatten(1, 2)[:, number].double().numpy()
    terms = {attention_column: out.attention, mlp_column: out.mlp, self_attention_column: out.self_attention}
    for column, term in terms.items():
        values |= {column(layer): term[:, layer].double().numpy() for layer in range(layers)}
    means, scale, norm = (x.double().numpy() for x in (out.residual_means, out.scale, out.norm))
    tensors = decomposer.readout.arrays(np.float64) | decomposer.residual_means.arrays(np.float64)
    basis = Basis(heads=tuple(labels), tensors=tensors, metadata={})
    return values, Shared(residual_means=means, scale=scale, norm=norm), basis
