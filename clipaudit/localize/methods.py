"""The interface of localisers, which say where in an image a text is, and the table of them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from clipaudit.config import Precision
from clipaudit.errors import UsageError
from clipaudit.localize.attention import GradCam, RawAttention, Relevance, Rollout
from clipaudit.localize.surgery import Form, Path, Surgery, feature_surgery, similarities, single_text, text_weights
from clipaudit.localize.tensors import as_grid, check_texts
from clipaudit.localize.token_maps import TokenDecomposition


class Localiser(Protocol):
    """A method that scores patches of images by texts."""

    def __call__(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scores of patches, larger where there is more of the text.

        Args:
            images: (B, 3, height, width) float, normalised by the model's preprocessing, on its device; the sides may
                be any multiples of the patch's unless the tower is bound to one size.
            texts: (T, D) unit text vectors on the same device.

        Returns:
            (B, T, rows, columns) float, in the method's own units.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class Options:
    """Options of all localisers; each method reads its own."""

    heads: Sequence[tuple[int, int]] | None = None
    """Decomposition and contrast: the (layer, head) pairs that count; None for all."""
    layers: Sequence[int] | None = None
    """Decomposition and contrast: the layers that count; None for all."""
    blocks: int | None = None
    """Surgery: how many of the last blocks have the second path; None for 6."""
    form: Form = "paper"
    """Surgery: the paper's feature surgery or the published code's."""
    empty: Tensor | None = None
    """Surgery: (1, D) or (D,) the empty text, which one text alone is compared with."""
    precision: Precision = "fp32"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A localiser of the table."""

    make: Callable[[nn.Module, Options], Localiser]
    """For an open_clip model or its image tower."""
    about: str
    """One line for tables and help."""
    text_by_text: bool = False
    """Whether each text costs a pass of its own (then its map does not depend on the other texts)."""


class DecompositionMaps:
    """`TokenDecomposition` as a localiser."""

    def __init__(self, model: nn.Module, options: Options, contrast: bool) -> None:
        self._tokens = TokenDecomposition(model, options.heads, options.layers, options.precision)
        self._contrast = contrast

    def __call__(self, images: Tensor, texts: Tensor) -> Tensor:
        """See `Localiser`; in parts of the cosine."""
        return self._tokens(images, texts, contrast=self._contrast).patches


class SimilarityMaps:
    """Cosines of patch features with texts, with feature surgery or plain."""

    def __init__(self, model: nn.Module, options: Options, path: Path, feature_surgery: bool) -> None:
        self._surgery = Surgery(model, options.blocks, path, options.precision)
        self._form, self._empty, self._by_features = options.form, options.empty, feature_surgery

    @torch.inference_mode()
    def __call__(self, images: Tensor, texts: Tensor) -> Tensor:
        """See `Localiser`; in cosines, or differences of cosines."""
        check_texts(self._surgery.tower, texts)
        features = self._surgery(images)
        K, whole = similarities(features, texts)
        if self._by_features and len(texts) == 1:
            if self._empty is None:
                raise UsageError(
                    "surgery with one text compares it with the empty text: give that too, or a second text"
                )
            K = single_text(K, similarities(features, self._empty.reshape(1, -1))[0])
        elif self._by_features:
            K = feature_surgery(K, text_weights(whole), self._form)
        return as_grid(K, features.grid)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "decomposition": Method(
            make=lambda model, options: DecompositionMaps(model, options, False),
            about="what each patch adds through the heads (exact)",
        ),
        "contrast": Method(
            make=lambda model, options: DecompositionMaps(model, options, True),
            about="what each patch adds through the heads, less the mean over the texts",
        ),
        "surgery": Method(
            make=lambda model, options: SimilarityMaps(model, options, "surgery", True),
            about="CLIP Surgery: second path of value-value attention, and feature surgery",
        ),
        "values": Method(
            make=lambda model, options: SimilarityMaps(model, options, "surgery", False),
            about="CLIP Surgery's second path alone",
        ),
        "maskclip": Method(
            make=lambda model, options: SimilarityMaps(model, options, "maskclip", False),
            about="MaskCLIP: the last block's own values",
        ),
        "patches": Method(
            make=lambda model, options: SimilarityMaps(model, options, "plain", False),
            about="the model's own patch features",
        ),
        "relevance": Method(
            make=lambda model, _: Relevance(model),
            about="gradient-weighted attention (Chefer 2021)",
            text_by_text=True,
        ),
        "gradcam": Method(
            make=lambda model, _: GradCam(model), about="Grad-CAM on the last layer's heads", text_by_text=True
        ),
        "rollout": Method(make=lambda model, _: Rollout(model), about="attention rollout"),
        "attention": Method(make=lambda model, _: RawAttention(model), about="the last layer's attention"),
    }
)
"""The localisers by name, best known first."""


def localiser(name: str, model: nn.Module, options: Options | None = None) -> Localiser:
    """The localiser of that name for an open_clip model or its image tower.

    Raises UsageError for a name that is not in METHODS, and what the method raises for the model and the options.

    >>> loaded = load_model("demo")
    >>> image = loaded.transform(PIL.Image.open("photo.jpg"))[None]  # (1, 3, 64, 64)
    >>> texts = torch.from_numpy(TextPool.of(["a bird", "water"]).vectors("demo-out/birds-run"))  # (2, 128)
    >>> localiser("contrast", loaded.model)(image, texts).shape
    torch.Size([1, 2, 8, 8])
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name].make(model, options or Options())
