"""Sets of replaced columns: those that are chosen, and random ones that are like them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipaudit.arrays import Bools
from clipaudit.errors import UsageError
from clipaudit.schema import parse_head_label


def as_set(columns: Sequence[str], chosen: Sequence[str]) -> Bools:
    """(P,) which of the replaced columns are chosen; UsageError when one of `chosen` is not among them."""
    missing = [name for name in chosen if name not in columns]
    if missing:
        raise UsageError(f"{missing[0]} is not among the columns that are replaced: {some_of(columns)}")
    return np.array([name in set(chosen) for name in columns], np.bool_)


def random_sets(columns: Sequence[str], chosen: Sequence[str], count: int = 1000, seed: int = 0) -> Bools:
    """(count, P) booleans, random sets matched to `chosen`: from each layer as many of the heads as `chosen` has.

    Drawn evenly and independently; the chosen set is itself among the possible ones, as a permutation test needs.
    Columns that are not heads (MLPs) stay as they are in `chosen`. UsageError as in `as_set`.
    """
    wanted = as_set(columns, chosen)
    sets = np.tile(wanted, (count, 1))
    rng = np.random.default_rng(seed)
    layers: dict[int, list[int]] = {}
    for place, name in enumerate(columns):
        if (layer := layer_of(name)) is not None:
            layers.setdefault(layer, []).append(place)
    for _, places in sorted(layers.items()):
        # ranks of random numbers are random permutations: the places with the first ranks are drawn
        order = rng.random((count, len(places))).argsort(axis=1)
        sets[:, places] = order < int(wanted[places].sum())
    return sets


def layer_of(column: str) -> int | None:
    """The layer of a head's column; None for any other column."""
    try:
        return parse_head_label(column)[0]
    except ValueError:
        return None


def some_of(names: Sequence[str]) -> str:
    """Names for a message: all of a few, or the first and last with their number."""
    return ", ".join(names) if len(names) <= 8 else f"{names[0]} to {names[-1]} ({len(names)} in all)"
