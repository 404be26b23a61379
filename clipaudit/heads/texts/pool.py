"""The text pool: our own descriptions by property, or any list that a user brings."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Final, TypeAlias

from clipaudit.arrays import Float32s
from clipaudit.errors import UsageError
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.reader import RunPlace, opened
from clipaudit.schema import Names, as_names
from clipaudit.storage.text_file import TextLine, parse_lines, read_lines

CORE: Final = "core-like"
"""An object or a part of one: what a class is usually named for."""
CONTEXT: Final = "context-like"
"""Setting, style, quality, a person's attributes, text and watermarks: what a class should not hang on."""
UNSPECIFIED: Final = "unspecified"
"""Property or kind of a text whose file gives none."""
KINDS: Final = (CORE, CONTEXT, UNSPECIFIED)
BUNDLED: Final = "clipaudit's own pool"
_OF_MODELS: Final = {"demo": "demo.tsv"}
"""Models that know a few words only: any other text says nothing about their heads."""
_HEADER: Final = ("text", "property", "kind")
_PICTURE_OF: Final = re.compile(r"^(an? )?(photo|image|picture) of ")
_Row: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class TextPool:
    """Texts with the property and the kind of each, all in one order; no text is there twice.

    >>> pool = TextPool.of(["a photo of water", "a photo of a forest"])
    >>> pool.vectors("demo-out/birds-run").shape  # unit vectors of the run's own model
    (2, 128)
    >>> TextPool.load().source
    "clipaudit's own pool"
    """

    texts: tuple[str, ...] = field(repr=False)
    properties: tuple[str, ...] = field(repr=False)
    """Such as `colour`; UNSPECIFIED where the file has none."""
    kinds: tuple[str, ...] = field(repr=False)
    """CORE, CONTEXT or UNSPECIFIED."""
    source: str
    """The file, or BUNDLED."""
    duplicates: int = 0
    """Lines left out because an earlier one says the same but for case and spaces (CLIP sees neither)."""

    @staticmethod
    def of(texts: Names, properties: Names = (), source: str = "given in Python") -> TextPool:
        """One text or several, with a property for each or for none.

        Texts that say the same but for case and spaces are there once; a property of clipaudit's own pool has its kind
        there. ValueError when there are properties, and not as many as texts.
        """
        names = as_names(properties) or (UNSPECIFIED,) * len(as_names(texts))
        kinds = _property_kinds()
        rows = zip(as_names(texts), names, strict=True)
        return _pool([(text.strip(), name, kinds.get(name, UNSPECIFIED)) for text, name in rows], source)

    @staticmethod
    def load(path: str | None = None) -> TextPool:
        """The texts of a file or URL, or clipaudit's own pool; see `load_pool`."""
        return load_pool(path)

    def vectors(self, run: RunPlace, device: str = "auto") -> Float32s:
        """(T, D) unit float32 vectors of the texts by a run's own model, which runs on `device`.

        They are kept beside the run. RunMismatch when the run's model has other weights now.
        """
        return RunTexts(opened(run), device).vectors(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.properties) == len(self.kinds):
            raise ValueError("texts, properties and kinds differ in length")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of texts, properties and kinds in their order, to record which pool a result was made with."""
        lines = ("\t".join(row) for row in zip(self.texts, self.properties, self.kinds, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def summary(self) -> str:
        """One line for the user: how many texts of how many properties, and what was left out."""
        known = Counter(self.properties)
        known.pop(UNSPECIFIED, None)
        of = f" in {_counted(len(known), 'property', 'properties')}" if known else ""
        lost = f"; {_counted(self.duplicates, 'duplicate', 'duplicates')} left out" if self.duplicates else ""
        return f"{_counted(len(self), 'text', 'texts')}{of} from {self.source}{lost}"

    def require(self, count: int) -> None:
        """Raise UsageError when there are fewer than `count` texts."""
        if len(self) < count:
            raise UsageError(f"{count:,} texts were asked for, there are {len(self):,} in {self.source}")


def subject_of(text: str) -> str:
    """A text without case and without `a photo of` before it: texts with one subject are wordings of one another."""
    return _PICTURE_OF.sub("", text.casefold())


def pool_for(model: str, path: str | None = None) -> TextPool:
    """The texts of a file, else those that the model of this name knows, if it knows few, else our own pool.

    Raises UsageError as in `load_pool`.
    """
    if path is not None or model not in _OF_MODELS:
        return load_pool(path)
    name = _OF_MODELS[model]
    rows = parse_lines((resources.files("clipaudit.heads.texts") / "models" / name).read_bytes(), name)[1:]
    return _pool([_row(line, True, {}, name) for line in rows], f"the words of --model {model}")


def load_pool(path: str | None = None) -> TextPool:
    """The texts of a file (local, or any fsspec URL), or our own pool.

    One text a line, or `text<TAB>property`, or `text<TAB>property<TAB>kind`; the first line decides whether there are
    columns, and may be the header `text<TAB>property`. Without a kind, a property of our own pool has its kind there.
    Blank lines are skipped, of duplicates the first is kept. A line that begins with `#` is a text like any other.
    Raises UsageError naming file and line.
    """
    if path is None:
        return _bundled()
    lines = read_lines(path)
    first = tuple(column.lower() for column in lines[0].columns) if lines else ()
    if tuple(first[0].split(",") if len(first) == 1 else ()) in (_HEADER, _HEADER[:2]):
        raise UsageError(f"{path}: the columns are separated by commas: write text<TAB>property, with a tab")
    if first in (_HEADER, _HEADER[:2]):
        del lines[0]
    if not lines:
        raise UsageError(f"{path} has no texts: write one a line")
    tabs = len(lines[0].columns) > 1
    kinds = _property_kinds() if tabs else {}
    return _pool([_row(line, tabs, kinds, path) for line in lines], path)


def _row(line: TextLine, tabs: bool, kinds: dict[str, str], path: str) -> _Row:
    """Text, property and kind of one line of a user's file."""
    columns = line.columns
    if not tabs:
        if len(columns) > 1:
            raise UsageError(f"{path}, line {line.number}: there is a tab, and the first line has none")
        return columns[0], UNSPECIFIED, UNSPECIFIED
    if len(columns) not in (2, 3) or not all(columns[:2]):
        raise UsageError(
            f"{path}, line {line.number}: this file has text<TAB>property or text<TAB>property<TAB>kind in its lines,"
            f" and here are {_counted(sum(map(bool, columns)), 'column', 'columns')}"
        )
    kind = columns[2] if len(columns) == 3 else kinds.get(columns[1], UNSPECIFIED)
    if kind not in KINDS:
        raise UsageError(f"{path}, line {line.number}: the kind {kind!r} is none of {', '.join(KINDS)}")
    return columns[0], columns[1], kind


def _pool(rows: list[_Row], source: str) -> TextPool:
    distinct: dict[str, _Row] = {}
    for row in rows:
        distinct.setdefault(row[0].casefold(), row)
    return TextPool(
        texts=tuple(row[0] for row in distinct.values()),
        properties=tuple(row[1] for row in distinct.values()),
        kinds=tuple(row[2] for row in distinct.values()),
        source=source,
        duplicates=len(rows) - len(distinct),
    )


@cache
def _bundled() -> TextPool:
    folder = resources.files("clipaudit.heads.texts") / "pool"
    rows: list[_Row] = []
    for name, kind in _property_kinds().items():
        for line in parse_lines((folder / f"{name}.txt").read_bytes(), f"{name}.txt"):
            text, *own = line.columns
            rows.append((text, name, own[0] if own else kind))
    return _pool(rows, BUNDLED)


@cache
def _property_kinds() -> dict[str, str]:
    """Our own properties in their order, each with the kind of its texts."""
    index = resources.files("clipaudit.heads.texts") / "pool" / "properties.toml"
    return {name: entry["kind"] for name, entry in tomllib.loads(index.read_text(encoding="utf-8")).items()}


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count:,} {singular if count == 1 else plural}"
