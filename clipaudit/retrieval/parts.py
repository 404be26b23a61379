"""What a query asks for: texts, samples and images, each with a weight; read from options and said in words."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias

import pyarrow.compute as pc

from clipaudit.arrays import Floats
from clipaudit.errors import UsageError
from clipaudit.retrieval.queries import QueryEncoder, check_text, parse_key, read_image, stored_coordinates
from clipaudit.run.reader import Run
from clipaudit.schema import Names

Paths: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
"""One path or several."""

MAX_PARTS: Final = 16
_MIN_WEIGHT, _MAX_WEIGHT = 1e-6, 1e6
"""Sizes of a weight: beyond them one part of a sum of float32 numbers would not be seen beside another."""
_WEIGHTED: Final = re.compile(r"(?P<what>.*\S)\s*=\s*(?P<weight>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")


@dataclass(frozen=True, kw_only=True)
class QueryPart:
    """One text, sample or image of a query; exactly one of the three is given."""

    text: str | None = None
    key: tuple[int, str] | None = None
    """(shard id, key) of a sample of the run."""
    image: bytes | None = field(default=None, repr=False)
    """An image file's bytes."""
    name: str = "the image"
    """What `image` is called."""
    weight: float = 1.0
    """Of the part's score in the sum; below 0 for what images should not have."""

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.text, self.key, self.image)) != 1:
            raise UsageError("a part of a query is one text, one sample or one image")
        check_weight(self.words, self.weight)
        if self.text is not None:
            check_text(self.text)

    @cached_property
    def identity(self) -> tuple[object, ...]:
        """What tells it from other parts, an image by its hash: for caches, which must not hold image files."""
        image = None if self.image is None else hashlib.sha256(self.image).hexdigest()
        return self.text, self.key, image, self.weight

    @property
    def words(self) -> str:
        """The part without its weight."""
        if self.text is not None:
            return f"\u201c{self.text}\u201d"
        return self.name if self.key is None else f"{self.key[0]}/{self.key[1]}"


def in_words(parts: Sequence[QueryPart]) -> str:
    """`“a dog” + 2 x 0/photo_17 - “fog”`."""
    phrase = ""
    for part in parts:
        size = abs(part.weight)
        words = part.words if size == 1 else f"{size:g} x {part.words}"
        sign = "-" if part.weight < 0 else "+"
        phrase += f" {sign} {words}" if phrase else f"minus {words}" if sign == "-" else words
    return phrase


def parts_of(
    run: Run,
    *,
    text: Names | Mapping[str, float] = (),
    key: Names | Mapping[str, float] = (),
    image: Paths | Mapping[str, float] = (),
    minus: Names | Mapping[str, float] = (),
) -> tuple[QueryPart, ...]:
    """The parts of a query: texts, SHARD/KEY of samples and image files, with weights; `minus` are texts to avoid.

    UsageError for no part or more than MAX_PARTS, a sample that is not in the run, a file that cannot be read, and a
    weight that is 0, not finite, below 1e-6 or above 1e6 in size.
    """
    parts = [QueryPart(text=each, weight=weight) for each, weight in _weights(text).items()]
    parts += [QueryPart(key=parse_key(run, each), weight=weight) for each, weight in _weights(key).items()]
    parts += [
        QueryPart(image=read_image(Path(each)), name=each, weight=weight) for each, weight in _weights(image).items()
    ]
    parts += [QueryPart(text=each, weight=-weight) for each, weight in _weights(minus).items()]
    check_parts(parts)
    return tuple(parts)


def check_parts(parts: Sequence[QueryPart]) -> None:
    """UsageError unless a query has some parts, and not too many."""
    if not parts:
        raise UsageError("give one of --image, --key and --text, or several")
    if len(parts) > MAX_PARTS:
        raise UsageError(f"{len(parts)} texts, samples and images are more than the {MAX_PARTS} of one query")


def check_weight(what: str, weight: float) -> None:
    """UsageError unless a weight can be used in a sum."""
    if not math.isfinite(weight) or not _MIN_WEIGHT <= abs(weight) <= _MAX_WEIGHT:
        raise UsageError(
            f"the weight {weight:g} of {what} cannot be used: give one from {_MIN_WEIGHT:g} to {_MAX_WEIGHT:g}, or its"
            " negative"
        )


def part_vectors(
    run: Run,
    encoder: QueryEncoder,
    part: QueryPart,
    names: Sequence[str],
    fold: Callable[[str, Floats], Floats],
) -> dict[str, Floats]:
    """A part's coordinates for each head of `names`, (dh,) floats, (D,) for `embedding`.

    fold: of a head's name and (1, D) text vectors, the texts in the head's coordinates, (1, dh). UsageError as in
    `stored_coordinates` and `QueryEncoder`.
    """
    if part.text is not None:
        vector = encoder.text(part.text)
        return {name: fold(name, vector[None])[0] for name in names}
    if part.key is not None:
        return stored_coordinates(run, *part.key, names)
    assert part.image is not None
    return encoder.image(part.image, names, part.name)


# -- options -----------------------------------------------------------------------------------------------------------


def parse_texts(option: str, texts: Iterable[str]) -> dict[str, float]:
    """Texts of an option with their weights: `a dog`, `a dog=2`, and `a dog=-1` or `-a dog` for what to avoid."""
    weights: dict[str, float] = {}
    for text in texts:
        what, weight = _weighted(text)
        if len(what) > 1 and what[0] == "-" and what[1] not in "- ":
            what, weight = what[1:], -weight
        _add(weights, option, what, weight)
    return weights


def parse_minus(texts: Iterable[str]) -> dict[str, float]:
    """Texts of `--minus` with their weights, which are above 0; UsageError for others."""
    weights: dict[str, float] = {}
    for text in texts:
        what, weight = _weighted(text)
        if weight <= 0:
            raise UsageError(f"--minus {text!r}: the weight is subtracted, so give one above 0")
        _add(weights, "--minus", what, weight)
    return weights


def parse_keys(run: Run, keys: Iterable[str]) -> dict[str, float]:
    """Samples of `--key` with their weights; a key that ends like a weight and is in the run is taken as it is."""
    weights: dict[str, float] = {}
    for key in keys:
        what, weight = (key, 1.0) if _WEIGHTED.fullmatch(key) and _has(run, key) else _weighted(key)
        _add(weights, "--key", what, weight)
    return weights


def parse_images(paths: Iterable[str]) -> dict[str, float]:
    """Files of `--image` with their weights; a file of that very name is taken as it is."""
    weights: dict[str, float] = {}
    for path in paths:
        what, weight = (path, 1.0) if Path(path).exists() else _weighted(path)
        _add(weights, "--image", what, weight)
    return weights


def _weights(given: Paths | Mapping[str, float]) -> Mapping[str, float]:
    if isinstance(given, Mapping):
        return given
    paths = [given] if isinstance(given, (str, os.PathLike)) else given
    return dict.fromkeys([os.fspath(path) for path in paths], 1.0)


def _weighted(text: str) -> tuple[str, float]:
    match = _WEIGHTED.fullmatch(text)
    return (match["what"], float(match["weight"])) if match else (text, 1.0)


def _add(weights: dict[str, float], option: str, what: str, weight: float) -> None:
    if what in weights:
        raise UsageError(f"{option} {what!r} is given twice: give it once, with a weight such as {what}=2")
    weights[what] = weight


def _has(run: Run, text: str) -> bool:
    shard, key = parse_key(run, text)
    return shard in run.records and bool(pc.any(pc.equal(run.table("key", shard)["key"], key)).as_py())
