"""Two steps of an audit that need nothing of each other, at one time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
