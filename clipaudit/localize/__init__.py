"""Where in the image: heat maps of texts by token decomposition, CLIP Surgery and other localisers."""

from clipaudit.localize.heatmaps import Points, enlarged, min_max, points
from clipaudit.localize.methods import METHODS, Localiser, Method, Options, localiser
from clipaudit.localize.surgery import (
    PatchFeatures,
    Surgery,
    feature_surgery,
    similarities,
    single_text,
    text_weights,
)
from clipaudit.localize.token_maps import TokenDecomposition, TokenMaps

__all__ = [
    "METHODS",
    "Localiser",
    "Method",
    "Options",
    "PatchFeatures",
    "Points",
    "Surgery",
    "TokenDecomposition",
    "TokenMaps",
    "enlarged",
    "feature_surgery",
    "localiser",
    "min_max",
    "points",
    "similarities",
    "single_text",
    "text_weights",
]
