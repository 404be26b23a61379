"""Steps of an audit that need nothing of each other, two at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

AT_ONCE: Final = 2
"""Folds, each of which has its own features in memory."""
Item = TypeVar("Item")
First = TypeVar("First")
Second = TypeVar("Second")


def both(first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
    """What both return, the second done by a thread beside the first.

    Linear algebra leaves Python's lock, so that two cores are used. Neither may change what the other reads. An error
    of the first is raised once the second has ended, else one of the second.
    """
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(second)
        return first(), beside.result()


def each(function: Callable[[Item], First], items: Sequence[Item]) -> list[First]:
    """What a function returns for every item, in their order; two items at a time."""
    if len(items) == 1:
        return [function(items[0])]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, items))
