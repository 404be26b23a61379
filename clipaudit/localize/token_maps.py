"""Token decomposition: what each patch adds, through chosen heads, to the product of an image with a text.

Source: Gandelsman, Efros, Steinhardt 2024 (arXiv 2310.05916), section 5 (docs/method.md 4). Exact for the unit
embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from clipaudit.arrays import ArrayHolder
from clipaudit.config import Precision
from clipaudit.errors import UsageError
from clipaudit.localize.tensors import as_grid, check_images, check_texts
from clipaudit.model import Decomposer, Decomposition, describe_tower, token_scores
from clipaudit.model.token_scores import token_map
from clipaudit.schema import head_label

OUTLIER = 2.0
"""A token whose residual stream is this many times as long as its image's median is marked as register-like."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TokenMaps(ArrayHolder):
    """What tokens add to the products of unit image embeddings with texts; patches and `rest` sum to `heads`."""

    patches: Tensor
    """(B, T, rows, columns), or (B, S, T, rows, columns) of S heads one by one."""
    rest: Tensor
    """(B, T) or (B, S, T): what class and register tokens add, which have no place."""
    products: Tensor
    """(B, T): the whole embedding's products with the texts."""
    outliers: Tensor
    """(B, rows, columns) bool: register-like tokens, see `OUTLIER`. What they add was gathered from elsewhere (Darcet
    et al., "Vision Transformers Need Registers", ICLR 2024), so that their place means little."""

    @property
    def heads(self) -> Tensor:
        """(B, T) or (B, S, T): what the chosen heads add altogether."""
        return self.patches.sum(dim=(-2, -1)) + self.rest


class TokenDecomposition:
    """Heat maps of texts by the exact decomposition over heads and tokens.

    The texts are folded into the heads first, so that a thousand cost little more than one, and nothing of size tokens
    x heads x D is built.

    Args:
        model: an open_clip model or its image tower, in eval mode.
        heads: (layer, head) pairs that count; None for all heads of `layers`.
        layers: the layers whose heads count; None for all.
        precision: as in `Decomposer`.

    Raises:
        UnsupportedTower: the tower cannot be decomposed.
        UsageError: layers or heads that the tower does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Sequence[tuple[int, int]] | None = None,
        layers: Sequence[int] | None = None,
        precision: Precision = "fp32",
    ) -> None:
        if heads is not None:
            _check_heads(heads, describe_tower(model).layers, describe_tower(model).heads)
            layers = sorted({layer for layer, _ in heads})
        self.chosen = None if heads is None else tuple(heads)
        self.decomposer = Decomposer(model, layers=layers, tokens=True, precision=precision)

    def __call__(self, images: Tensor, texts: Tensor, *, contrast: bool = False) -> TokenMaps:
        """Maps of the chosen heads together.

        Args:
            images: (B, 3, height, width) as for `Decomposer`, in any size that the tower's patches divide.
            texts: (T, D) on the same device; unit vectors give parts of cosines.
            contrast: take the mean over the texts off each of them first, as the paper does for segmentation: what all
                texts share falls out. Needs two texts.

        Raises:
            UsageError: images or texts of another shape or device, or one text with `contrast`.
        """
        out, texts = self._decompose(images, texts, contrast)
        scores = token_map(self._masked(out), self.decomposer.readout, texts)  # (B, tokens, T)
        return self._maps(out, scores, texts, images)

    def by_head(self, images: Tensor, texts: Tensor, *, contrast: bool = False) -> TokenMaps:
        """Maps of each chosen head alone, in the order given (all: layer by layer).

        images (B, 3, H, W) as the model takes them, texts (T, D) unit vectors, as in a call.
        """
        out, texts = self._decompose(images, texts, contrast)
        scores = token_scores(out, self.decomposer.readout, texts)  # (B, layers, heads, tokens, T)
        if self.chosen is None:
            scores = scores.flatten(1, 2)
        else:
            scores = torch.stack([scores[:, layer, head] for layer, head in self._rows()], dim=1)
        return self._maps(out, scores, texts, images)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the heads, in the order of `by_head`."""
        tower = self.decomposer.tower
        everything = [(layer, head) for layer in self.decomposer.layers for head in range(tower.heads)]
        return tuple(head_label(layer, head) for layer, head in self.chosen or everything)

    def _rows(self) -> list[tuple[int, int]]:
        """The chosen heads' places on the axes of the decomposition's tensors."""
        assert self.chosen is not None
        return [(self.decomposer.layers.index(layer), head) for layer, head in self.chosen]

    def _decompose(self, images: Tensor, texts: Tensor, contrast: bool) -> tuple[Decomposition, Tensor]:
        check_images(self.decomposer.tower, images)
        check_texts(self.decomposer.tower, texts)
        if contrast:
            if len(texts) < 2:
                raise UsageError("the contrast compares texts: give at least two")
            texts = texts - texts.mean(dim=0)  # linear: the maps lose their mean over the texts
        return self.decomposer.resized((images.shape[2], images.shape[3]))(images), texts

    def _masked(self, out: Decomposition) -> Decomposition:
        """The decomposition with the attention of heads that were not chosen set to 0."""
        if self.chosen is None or out.tokens is None:
            return out
        alpha = out.tokens.alpha  # (B, layers, heads, ..., tokens)
        # maps are linear in attention: without it a head adds nothing
        keep = alpha.new_zeros(alpha.shape[1:3])
        for layer, head in self._rows():
            keep[layer, head] = 1
        return replace(
            out, tokens=replace(out.tokens, alpha=alpha * keep.reshape(*keep.shape, *[1] * (alpha.ndim - 3)))
        )

    def _maps(self, out: Decomposition, scores: Tensor, texts: Tensor, images: Tensor) -> TokenMaps:
        """scores (B, ..., tokens, T)"""
        assert out.tokens is not None
        tower = self.decomposer.resized((images.shape[2], images.shape[3])).tower
        prefix = tower.prefix_tokens
        # register-like: residual streams over OUTLIER times as long as the median patch's of the image
        norms = out.tokens.norm  # (B, tokens)
        outliers = norms > OUTLIER * norms[:, prefix:].median(dim=1, keepdim=True).values
        batch = scores.shape[:-2]
        # class and register tokens come first and have no place in the grid
        patches = as_grid(scores[..., prefix:, :].flatten(0, -3), tower.grid)
        return TokenMaps(
            patches=patches.reshape(*batch, *patches.shape[1:]),
            rest=scores[..., :prefix, :].sum(dim=-2),
            products=out.embedding @ texts.to(out.embedding).T,
            outliers=outliers[:, prefix:].reshape(-1, *tower.grid),
        )


def _check_heads(heads: Sequence[tuple[int, int]], layers: int, count: int) -> None:
    if not heads:
        raise UsageError("there is no head to look at: name at least one, such as L11H05")
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < count):
            raise UsageError(
                f"this tower has no head {head_label(layer, head)}: {layers} layers of {count} heads,"
                f" {head_label(0, 0)} to {head_label(layers - 1, count - 1)}"
            )
    if len(set(heads)) != len(heads):
        raise UsageError("a head is named twice")
