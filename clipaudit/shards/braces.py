"""Braces in shard patterns, as in bash: counted before they are expanded, because a short pattern may name billions."""

from __future__ import annotations

import re
from typing import Final

from braceexpand import braceexpand

from clipaudit.errors import UsageError

MAX_SHARDS: Final = 1_000_000
"""Largest number of shards of one job."""
_MAX_DEPTH: Final = 50  # of braces within braces: both recursions stay far from Python's limit
_MAX_DIGITS: Final = 100  # of a number in a range: Python refuses to convert more than 4300
# What braceexpand takes for a range; everything else within braces is a list or stands for itself.
_NUMBERS: Final = re.compile(r"^(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?$")
_LETTERS: Final = re.compile(r"^([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?$")
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def expand_braces(pattern: str) -> list[str]:
    """The distinct texts that a pattern stands for, in order.

    `{000..146}` (zero-padded), `{0..10..2}`, `{a..c}`, `{train,val}` and these within each other; a backslash is an
    ordinary character. Braces of another kind (`{a}`) stay as they are, and so does a pattern whose braces are not
    balanced. Raises UsageError when the texts would be more than MAX_SHARDS, before any of them is made.
    """
    if count_braces(pattern) > MAX_SHARDS:
        raise UsageError(f"the pattern {pattern!r} names more than {MAX_SHARDS:,} shards, the limit of one job")
    return list(dict.fromkeys(braceexpand(pattern, escape=False))) if balanced(pattern) else [pattern]


def count_braces(pattern: str) -> int:
    """How many texts a pattern stands for, repeated ones included; nothing is expanded for it.

    1 for a pattern whose braces are not balanced. Raises UsageError for braces nested more than 50 deep and for numbers
    of more than 100 digits.
    """
    return _count(pattern, pattern, 0) if balanced(pattern) else 1


def balanced(pattern: str) -> bool:
    """Whether a pattern has as many closing braces as opening ones, so that its braces are expanded."""
    return pattern.count("{") == pattern.count("}")


def _count(text: str, pattern: str, depth: int) -> int:
    """Texts that `text`, a part of `pattern` within `depth` braces, stands for: a product over its outermost braces."""
    if depth > _MAX_DEPTH:
        raise UsageError(f"the pattern {pattern!r} nests braces more than {_MAX_DEPTH} deep")
    total, open_braces, start = 1, 0, 0
    for position, character in enumerate(text):
        if character == "{":
            if open_braces == 0:
                start = position + 1
            open_braces += 1
        elif character == "}":
            open_braces -= 1
            if open_braces == 0:
                total *= _count_inside(text[start:position], pattern, depth)
    return total


def _count_inside(inside: str, pattern: str, depth: int) -> int:
    """Texts that one pair of braces around `inside` stands for: a range's, or the sum over a list's items."""
    if limits := _NUMBERS.match(inside):
        if any(len(number) > _MAX_DIGITS for number in limits.groups("")):
            raise UsageError(f"the pattern {pattern!r} has a number of more than {_MAX_DIGITS} digits in its braces")
        return _steps(int(limits[1]), int(limits[2]), limits[3])
    if limits := _LETTERS.match(inside):
        return _steps(_ALPHABET.index(limits[1]), _ALPHABET.index(limits[2]), limits[3])
    return sum(_count(item, pattern, depth + 1) for item in _items(inside))


def _steps(first: int, last: int, step: str | None) -> int:
    """Numbers from `first` to `last`, both included, upwards or downwards; a step of 0 counts as 1."""
    # Not len(range(...)), which fails above 2^63.
    return abs(last - first) // max(int(step or 1), 1) + 1


def _items(inside: str) -> list[str]:
    """The text split at its commas outside of braces."""
    items, open_braces, start = [], 0, 0
    for position, character in enumerate(inside):
        open_braces += (character == "{") - (character == "}")
        if character == "," and open_braces == 0:
            items.append(inside[start:position])
            start = position + 1
    return [*items, inside[start:]]
