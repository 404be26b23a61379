"""Which class a caption names: class names as whole words, singular or plural, the longer of two that overlap."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Words: TypeAlias = tuple[str, ...]

NONE: Final = -1
"""Instead of a class: none is named."""
SEVERAL: Final = -2
"""Instead of a class: more than one is named."""
_ZERO_WIDTH_SPACE: Final = 0x200B
_HISSING: Final = ("s", "x", "z", "ch", "sh", "o")


@dataclass(frozen=True, eq=False, kw_only=True)
class Forms:
    """How class names may stand in a text."""

    classes: Mapping[Words, frozenset[int]]
    """Names, and their plurals, to the classes that they name: more than one where classes share a name."""
    lengths: Mapping[str, tuple[int, ...]]
    """First words to the numbers of words of the forms that begin with them."""


def words_of(text: str) -> Words:
    """A text's words: letters and digits with their marks; case makes no difference, all else parts words."""
    return tuple(unicodedata.normalize("NFC", text).casefold().translate(_CHARACTERS).split())


def forms_of(names: Sequence[str], others: Sequence[Sequence[str]] = ()) -> Forms:
    """How each class name, and each of a class's further names, may stand in a text: as it is, and with its last word
    in the plural.

    Plurals are those of the rules of English (cats, boxes, ponies, wolves), not of its exceptions (mice, geese).
    """
    classes: dict[Words, set[int]] = {}
    lengths: dict[str, set[int]] = {}
    further = ((place, name) for place, more in enumerate(others) for name in more)
    for place, name in (*enumerate(names), *further):
        words = words_of(name)
        for last in (words[-1], *_plurals(words[-1])) if words else ():
            form = (*words[:-1], last)
            classes.setdefault(form, set()).add(place)
            lengths.setdefault(form[0], set()).add(len(form))
    return Forms(
        classes={form: frozenset(places) for form, places in classes.items()},
        lengths={word: tuple(sorted(counts)) for word, counts in lengths.items()},
    )


def named_classes(text: str, forms: Forms) -> frozenset[int]:
    """The classes that a text names. Of names that overlap the one of most words counts; equally long ones all do."""
    words = words_of(text)
    spans = [
        (start, start + length)
        for start, word in enumerate(words)
        for length in forms.lengths.get(word, ())
        if start + length <= len(words) and words[start : start + length] in forms.classes
    ]
    longest: list[tuple[int, int]] = []
    for start, stop in sorted(spans, key=lambda span: span[0] - span[1]):  # of most words first
        if not any(a < stop and start < b and b - a > stop - start for a, b in longest):
            longest.append((start, stop))
    return frozenset(place for start, stop in longest for place in forms.classes[words[start:stop]])


def named_class(text: str | None, forms: Forms) -> int:
    """The one class that a caption names; NONE without a caption or a name in it, SEVERAL when it names more."""
    named: frozenset[int] = frozenset() if text is None else named_classes(text, forms)
    return next(iter(named)) if len(named) == 1 else SEVERAL if named else NONE


def _plurals(word: str) -> Iterator[str]:
    yield f"{word}s"
    if word.endswith(_HISSING):
        yield f"{word}es"
    if word.endswith("y") and word[-2:-1] not in ("", *"aeiou"):
        yield f"{word[:-1]}ies"
    if word.endswith(("f", "fe")):
        yield f"{word.removesuffix('e')[:-1]}ves"


class _Characters(dict[int, int | str | None]):
    """For `str.translate`: what words are made of stays, what is not seen (a soft hyphen) goes, all else is a space."""

    def __missing__(self, code: int) -> int | str | None:
        kind = unicodedata.category(chr(code))
        unseen = kind == "Cf" and code != _ZERO_WIDTH_SPACE
        self[code] = character = code if kind[0] in "LNM" else None if unseen else " "
        return character


_CHARACTERS: Final = _Characters()
