"""The exact decomposition of a CLIP image encoder into its attention heads."""

from clipaudit.decomposer.decomposer import Decomposer, Decomposition, TokenValues
from clipaudit.decomposer.readout import Readout
from clipaudit.decomposer.sizes import resized
from clipaudit.decomposer.spatial import token_map, token_scores
from clipaudit.decomposer.towers import Tower, describe

__all__ = [
    "Decomposer",
    "Decomposition",
    "Readout",
    "TokenValues",
    "Tower",
    "describe",
    "resized",
    "token_map",
    "token_scores",
]
