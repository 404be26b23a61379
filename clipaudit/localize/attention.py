"""Localisers that read attention weights: raw attention, rollout, Grad-CAM and gradient-weighted relevance.

They are the usual baselines. Layer-wise relevance propagation (LRP, partial LRP) is not among them: zennit has no rules
for attention, and lxt 2.1, which has them, depends on transformers, accelerate and bitsandbytes and states that LRP is
patented and free for personal and scientific use only. Chefer et al. 2021 is the published method without LRP.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipaudit.localize.tensors import as_grid, check_images, check_texts
from clipaudit.model import Tower, describe_tower, resized
from clipaudit.model.attention_pool import attention_of
from clipaudit.model.readout import norm_as
from clipaudit.model.taps import Record, tapped


class RawAttention:
    """The last layer's attention of the class token (or of the averaged patches), averaged over heads; reads no text.

    In a tower that pools by attention, that pool's attention.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tower = describe_tower(model)

    @torch.inference_mode()
    def __call__(self, images: Tensor, texts: Tensor) -> Tensor:
        """(B, 3, height, width), (T, D) -> (B, T, rows, columns) shares of attention, the same for every text.

        UsageError as in `tensors.check_images` and `check_texts`.
        """
        tower = _sized(self.tower, images, texts)
        if tower.pool is not None:
            return _spread(_attention(tower, images, tower.layers)[2], tower, len(texts))
        weights, _, row = _attention(tower, images, tower.layers - 1)
        return _spread(_read(row, weights[-1].mean(dim=1)), tower, len(texts))


class Rollout:
    """Attention rollout: the product over layers of (A + I) / 2, A averaged over heads; reads no text.

    Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. One row is carried from the last layer to
    the first, so that a layer costs N^2 and not N^3.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tower = describe_tower(model)

    @torch.inference_mode()
    def __call__(self, images: Tensor, texts: Tensor) -> Tensor:
        """(B, 3, height, width), (T, D) -> (B, T, rows, columns) shares of attention, the same for every text.

        UsageError as in `tensors.check_images` and `check_texts`.
        """
        tower = _sized(self.tower, images, texts)
        weights, _, row = _attention(tower, images, 0, average=True)
        for A in reversed(weights):
            # row (A + I) / 2, where I stands for the residual connection
            row = (row + _read(row, A[:, 0])) / 2
        return _spread(row, tower, len(texts))


class GradCam:
    """Grad-CAM on the last layer's attention: its heads' maps weighed by their mean gradients, negative sums set to 0.

    Selvaraju et al., "Grad-CAM", ICCV 2017, with the heads as channels, as in the tables of Chefer et al.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tower = describe_tower(model)

    def __call__(self, images: Tensor, texts: Tensor) -> Tensor:
        """(B, 3, height, width), (T, D) -> (B, T, rows, columns), 0 or more; in gradients of the cosine, no unit.

        UsageError as in `tensors.check_images` and `check_texts`.
        """

        def cam(tower: Tower, weights: list[Tensor], gradients: list[Tensor], row: Tensor) -> Tensor:
            A, G = weights[-1], gradients[-1]  # (B, heads, queries, tokens)
            prefix = tower.prefix_tokens
            importance = G[..., prefix:].mean(dim=(2, 3))  # (B, heads): the channels' weights of Grad-CAM
            pooled = torch.einsum("bq,bhqn->bhn", row[:, : A.shape[2]], A)
            return torch.einsum("bh,bhn->bn", importance, pooled).relu() / A.shape[1]

        return _by_gradient(self.tower, images, texts, self.tower.layers - 1, cam)


class Relevance:
    """Gradient-weighted attention relevance: R <- R + E_h[(grad A * A)+] R over the layers, from the identity.

    Chefer, Gur, Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", ICCV 2021, equations 5 and 6.

    Args:
        model: an open_clip model or its image tower.
        first_layer: the first layer that counts; 0 as in the paper. The authors' CLIP notebook uses the last one only.
    """

    def __init__(self, model: nn.Module, first_layer: int = 0) -> None:
        self.tower = describe_tower(model)
        self.first_layer = first_layer

    def __call__(self, images: Tensor, texts: Tensor) -> Tensor:
        """(B, 3, height, width), (T, D) -> (B, T, rows, columns), 0 or more; in gradients of the cosine, no unit.

        UsageError as in `tensors.check_images` and `check_texts`.
        """

        def relevance(tower: Tower, weights: list[Tensor], gradients: list[Tensor], row: Tensor) -> Tensor:
            # the pooled row of R alone: row <- row + row E_h[(grad A * A)+], from the last layer to the first
            start = row
            for A, G in zip(reversed(weights), reversed(gradients), strict=True):
                row = row + _read(row, (G * A).relu().mean(dim=1))
            # without the identity's share, which is no attention
            return row - start

        return _by_gradient(self.tower, images, texts, self.first_layer, relevance)


def _sized(tower: Tower, images: Tensor, texts: Tensor) -> Tower:
    check_images(tower, images)
    check_texts(tower, texts)
    return describe_tower(resized(tower.visual, (images.shape[2], images.shape[3])))


def _attention(
    tower: Tower, images: Tensor, first: int, *, average: bool = False, gradients: bool = False
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Attention weights of layers from `first` on, (B, heads or 1, queries, tokens) each; the embeddings (B, D); and
    how the last layer's tokens are pooled, (B, tokens)."""
    weights: list[Tensor] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor | None:
        if layer < first:
            return None
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        A = (scores if bias is None else scores + bias).softmax(dim=-1)
        # with frozen weights nothing before the first layer asks for gradients
        if gradients and not A.requires_grad:
            A.requires_grad_()
        weights.append(A.mean(dim=1, keepdim=True) if average else A)
        # the output must come from these weights, or they have no gradient
        return A @ v if gradients else None

    with tapped(tower, attend=attend) as record:
        output = tower.visual(images.to(tower.parameter().dtype))
    features = output[0] if isinstance(output, tuple) else output
    return weights, features, _pooled(tower, record, features)


def _by_gradient(
    tower: Tower,
    images: Tensor,
    texts: Tensor,
    first: int,
    combine: Callable[[Tower, list[Tensor], list[Tensor], Tensor], Tensor],
) -> Tensor:
    """Maps from attention weights and the gradients of each text's cosine with respect to them, a text at a time."""
    tower = _sized(tower, images, texts)
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors that were made in inference mode cannot take part in a backward pass.
        weights, features, row = _attention(tower, images.clone(), first, gradients=True)
        cosines = F.normalize(features, dim=-1) @ F.normalize(texts.clone().to(features), dim=-1).T  # (B, T)
        rows = []
        for text in range(len(texts)):
            # The sum over the batch: no image's cosine depends on another image's weights.
            gradients = torch.autograd.grad(cosines[:, text].sum(), weights, retain_graph=text + 1 < len(texts))
            rows.append(combine(tower, weights, list(gradients), row).detach()[:, tower.prefix_tokens :])
    return as_grid(torch.stack(rows, dim=2), tower.grid).detach()


def _pooled(tower: Tower, record: Record, features: Tensor) -> Tensor:
    """(B, tokens): 1 for the class token, the mean over patches, or the attention of a pool averaged over its heads."""
    if tower.pool is not None:
        assert record.final is not None
        return attention_of(tower.pool, norm_as(tower.norm, record.final.detach())).mean(dim=1).detach()
    row = features.new_zeros(len(features), tower.prefix_tokens + tower.grid[0] * tower.grid[1])
    if tower.pooling == "token":
        row[:, 0] = 1
    else:
        row[:, tower.pool_start :] = 1 / (row.shape[1] - tower.pool_start)
    return row


def _read(row: Tensor, A: Tensor) -> Tensor:
    """A row over a layer's outputs, (B, tokens), carried to its inputs by weights (B, queries, tokens)."""
    return torch.einsum("bq,bqn->bn", row[:, : A.shape[1]], A)


def _spread(row: Tensor, tower: Tower, texts: int) -> Tensor:
    """(B, tokens) -> (B, T, rows, columns) without a copy for each text."""
    return row[:, tower.prefix_tokens :].reshape(-1, 1, *tower.grid).expand(-1, texts, -1, -1).float()
