"""CLIP Surgery: patch features by value-value attention on a second path, and feature surgery on their similarities.

Source: Li, Wang, Duan, Li: CLIP Surgery (arXiv 2304.05653), docs/method.md 4. Written from the paper: the published
repository has no licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipaudit.arrays import ArrayHolder
from clipaudit.config import Precision
from clipaudit.errors import UsageError
from clipaudit.localize.tensors import autocast, check_images
from clipaudit.model import Tower, describe_tower, resized
from clipaudit.model.readout import attention_update
from clipaudit.model.taps import tapped

Form: TypeAlias = Literal["paper", "code"]
Path: TypeAlias = Literal["surgery", "maskclip", "plain"]

DEFAULT_BLOCKS = 6
TAU = 2.0
"""The sharpness of the softmax over texts that weighs them (the published value)."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PatchFeatures(ArrayHolder):
    """A batch's patches in the joint space, from one forward pass."""

    whole: Tensor
    """(B, D): the model's own embedding (the class token of the original path), not normalised."""
    patches: Tensor
    """(B, rows * columns, D): not normalised, row after row."""
    grid: tuple[int, int]
    """Rows and columns of patches."""


class Surgery:
    """Patch features by the dual path of CLIP Surgery (section "architecture surgery").

    From the first of the last `blocks` blocks on a second path runs beside the model's own: it starts as the residual
    stream there, and each block adds its output projection of value-value attention, softmax(v v' / sqrt(dh)) v, with v
    read from the original path; it has no MLP. The original path, and so the embedding, is what it is without it.

    `path="maskclip"` gives the features of Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, instead:
    in the last block each token reads its own value only; residual and MLP stay. `path="plain"` gives the tokens as the
    model leaves them, which is what both methods are compared with.

    Args:
        model: an open_clip model or its image tower, in eval mode; it is left as it is.
        blocks: how many of the last blocks have the second path; None for 6 (or all, where the tower has fewer).
        path: see above.
        precision: `fp32` computes in the weights' own precision, `bf16` and `fp16` under autocast.

    Raises:
        UnsupportedTower: the tower is not one that can be tapped.
        UsageError: blocks that the tower does not have.
    """

    def __init__(
        self, model: nn.Module, blocks: int | None = None, path: Path = "surgery", precision: Precision = "fp32"
    ) -> None:
        self.tower: Tower = describe_tower(model)
        if path not in get_args(Path):
            raise UsageError(f"the path must be surgery, maskclip or plain, not {path!r}")
        if blocks is not None and not 1 <= blocks <= self.tower.layers:
            raise UsageError(f"surgery needs 1 to {self.tower.layers} blocks in this tower, not {blocks}")
        self.blocks = min(DEFAULT_BLOCKS, self.tower.layers) if blocks is None else blocks
        self.path: Path = path
        self.precision: Precision = precision

    def __call__(self, images: Tensor) -> PatchFeatures:
        """Features of a batch of any size of image whose sides are multiples of the patch's.

        Args:
            images: (B, 3, height, width) floating point, normalised by the model's own preprocessing, on its device.

        Raises:
            UsageError: images of another shape, dtype or device, or a model in training mode.
            UnsupportedTower: another size than the model's own, for a tower that is bound to it.
        """
        check_images(self.tower, images)
        tower = describe_tower(resized(self.tower.visual, (images.shape[2], images.shape[3])))
        with torch.inference_mode(), autocast(images.device, self.precision):
            pixels = images.to(tower.parameter().dtype)
            if self.path == "surgery":
                whole, rows = _value_path(tower, pixels, self.blocks)
            else:
                whole, rows = _last_block(tower, pixels, own_values=self.path == "maskclip")
            patches = project(tower, rows[:, tower.prefix_tokens :])
        result = torch.float64 if whole.dtype == torch.float64 else torch.float32
        return PatchFeatures(whole=whole.to(result), patches=patches.to(result), grid=tower.grid)


def similarities(features: PatchFeatures, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines K of patches and of the whole with texts: (B, N, T) and (B, T).

    Args:
        features: of a batch.
        texts: (T, D) floats, text embeddings of any length above 0.
    """
    unit = F.normalize(texts.to(features.patches), dim=-1)
    # One product for the batch: (B * N, D) @ (D, T), scaled in place by the patches' lengths.
    K = features.patches @ unit.T
    K /= features.patches.norm(dim=-1, keepdim=True)
    return K, F.normalize(features.whole, dim=-1) @ unit.T


def text_weights(whole: Tensor, tau: float = TAU) -> Tensor:
    """w: how obvious each text is in the image, softmax(tau K) over its mean: (B, T) cosines -> (B, T), mean 1.

    Source: arXiv 2304.05653, feature surgery (docs/method.md 4).
    """
    # a softmax over T texts sums to 1: times T its mean is 1
    return (tau * whole).softmax(dim=-1) * whole.shape[-1]


def feature_surgery(K: Tensor, weights: Tensor, form: Form = "paper") -> Tensor:
    """Similarities less what they share with all texts, in closed form; never anything of size N x T x D.

    The published code multiplies features out to (N, T, D), weighs texts, subtracts the mean over texts and sums over
    D. As the sum over D of the products is the cosine, that is

        paper:  S = K - rowmean(w * K)          code:  S = w * K - rowmean(w * K)

    Args:
        K: (B, N, T) cosines of N tokens (or (B, 1, T), the whole image) with T >= 2 texts.
        weights: (B, T) from `text_weights`.
        form: the paper's equation, or what the published code computes.

    Returns:
        (B, N, T), differences of cosines.

    Raises:
        UsageError: one text alone, which shares everything with itself: use `single_text`.

    Source: arXiv 2304.05653, feature surgery (docs/method.md 4).
    """
    if K.shape[-1] < 2:
        raise UsageError("feature surgery compares texts: give at least two, or one and the empty text")
    if form not in get_args(Form):
        raise UsageError(f"the form of feature surgery must be paper or code, not {form!r}")
    shared = torch.einsum("bnt,bt->bn", K, weights) / K.shape[-1]  # rowmean(w * K)
    return (K if form == "paper" else K * weights[:, None]) - shared[..., None]


def single_text(K: Tensor, empty: Tensor) -> Tensor:
    """One text against the empty one, which stands for what all texts share: K_text - K_empty.

    K: (B, N, T) cosines, empty: (B, N, 1) those of the empty text; returns (B, N, T).
    """
    return K - empty


def project(tower: Tower, rows: Tensor) -> Tensor:
    """(B, n, width) tokens of the residual stream to (B, n, D), each as if it were the pooled one.

    A tower that pools by attention pools each token alone: with one token to read, its attention is 1.
    """
    if tower.pool is not None:
        return _pooled_alone(tower, rows)
    x: Tensor = tower.norm(rows)
    for step in tower.head:
        x = step(x) if isinstance(step, nn.Linear) else x @ step
    return x


def _pooled_alone(tower: Tower, rows: Tensor) -> Tensor:
    batch, count, _ = rows.shape
    x = rows.flatten(0, 1)[:, None]  # (B * n, 1, width)
    visual: Any = tower.visual
    if tower.family == "open_clip ViT":
        pooled: Tensor = visual._pool(x)[0] @ visual.proj
    else:
        pooled = visual.head(visual.trunk.forward_head(visual.trunk.norm(x)))
    return pooled.reshape(batch, count, -1)


def _value_path(tower: Tower, images: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """(B, D) the model's own output and (B, tokens, width) the end of the second path."""
    start = tower.layers - blocks
    path: list[Tensor] = []  # holds one tensor, the second path up to the current block

    def begin(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        path.append(inputs[0])

    def attend(layer: int, _q: Tensor, _k: Tensor, v: Tensor, _bias: Tensor | None) -> None:
        if layer >= start:
            # softmax(v v' / sqrt(dh)) v, heads side by side: (B, tokens, heads * head_dim)
            rows = F.scaled_dot_product_attention(v, v, v).transpose(1, 2).flatten(2)
            # v is read from the original path: this one only collects, and feeds no block
            path[0] = path[0] + attention_update(tower.blocks[layer], rows)

    with tapped(tower, attend=attend):
        hook = tower.container.get_submodule(str(start)).register_forward_pre_hook(begin)
        try:
            whole = tower.visual(images)
        finally:
            hook.remove()
    return _features(whole), path[0]


def _last_block(tower: Tower, images: Tensor, own_values: bool) -> tuple[Tensor, Tensor]:
    """The same with every token through the last block, reading all tokens or its own value only."""
    entered: list[tuple[Tensor, dict[str, Any]]] = []
    again = False

    def attend(_layer: int, _q: Tensor, _k: Tensor, v: Tensor, _bias: Tensor | None) -> Tensor | None:
        # second time (MaskCLIP): each token's own value in place of what it attends to
        return v if again and own_values else None

    def enter(_module: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        entered.append((inputs[0], options))  # options: rotary positions, relative positions

    with tapped(tower, attend=attend):
        hook = tower.container.get_submodule(str(tower.layers - 1)).register_forward_pre_hook(enter, with_kwargs=True)
        try:
            whole = tower.visual(images)
        finally:
            hook.remove()
        again = True
        # The forward pass above asked the last block for the class token only.
        x, options = entered[0]
        rows: Tensor = tower.blocks[-1].module(x, **options)
    return _features(whole), rows


def _features(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
