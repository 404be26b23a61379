"""Our components in the first paper's published allocation, and a tower cut to its last blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipaudit.model import Decomposer
from clipaudit.model.taps import tapped


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
    flat = (visual.ln_post.weight.double() @ visual.proj.double()).float()  # where a mean of 1 points
    bias = readout.norm_bias.float() / out.norm[:, None]  # (B, D)
    mean = record.final[:, 0].mean(dim=-1)  # (B,)

    def at(x: Tensor, ndim: int) -> Tensor:
        return x.reshape(-1, *[1] * (ndim - 1))

    weighted = out.tokens.v * out.tokens.alpha[..., None]  # (B, layers, heads, tokens, head_dim)
    y = torch.einsum("blhij,lhjk->blihk", weighted, readout.T.float()) * at(s, 5)
    W = torch.stack([block.out.weight for block in tower.blocks])  # (layers, width, width)
    b = torch.stack([block.out.bias for block in tower.blocks])  # (layers, width)
    row_means = W.mean(dim=1).unflatten(-1, (tower.heads, tower.head_dim))
    own_mean = torch.einsum("blhij,lhj->blih", weighted, row_means) + b.mean(dim=-1)[:, None, None] / spots
    attentions = readout.expand(y.transpose(1, 2)).transpose(1, 2)
    attentions = attentions + (readout.attention_bias.float()[:, None, None] * at(s, 5) / spots)
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
