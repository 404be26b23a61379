"""The exact decomposition of a CLIP image encoder into its attention heads."""

from typing import Any

from clipaudit.model.decomposer import Decomposer, Decomposition, TokenValues
from clipaudit.model.readout import Readout
from clipaudit.model.sizes import Positions, resized, with_positions
from clipaudit.model.token_scores import token_map, token_scores
from clipaudit.model.towers import Tower, describe_tower
from clipaudit.moved import moved_name

__all__ = [
    "Decomposer",
    "Decomposition",
    "Positions",
    "Readout",
    "TokenValues",
    "Tower",
    "describe_tower",
    "resized",
    "token_map",
    "token_scores",
    "with_positions",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    """`clipaudit.model.load_model` and the other names that this module had in version 0.1."""
    return moved_name("clipaudit.model", name)
