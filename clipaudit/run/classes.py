"""What the labels of a run are called: class names from a file, from beside the shards, or the labels themselves."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from clipaudit.errors import Note, UsageError
from clipaudit.schema import CLASSNAMES, Label, name_key
from clipaudit.storage.text_file import TextLine, is_remote, parse_lines, read_if_there, read_lines

_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")
_NUMBER_FIRST: Final = re.compile(r"-?[0-9]+\s*[,;:|=]\s*\S.*")
_NUMBER_LAST: Final = re.compile(r".*\S\s*[,;|]\s*-?[0-9]+")
_COUNTED: Final = re.compile(r"([0-9]+)[.)]?\s+\S.*")
_HEADERS: Final = ("label", "id", "index", "number", "class", "class_id", "class id", "class_index")
"""First columns of a header; none of them is a label where all others are numbers."""
_LISTED: Final = 5


@dataclass(frozen=True, kw_only=True)
class ClassNames:
    """What the labels of a run are called. Class i is `names[i]`; its label is `labels[i]`."""

    labels: tuple[int | str, ...]
    names: tuple[str, ...]
    source: str
    """The file, or `the run's labels`."""
    others: tuple[tuple[str, ...], ...] = ()
    """Further names of each class, by which captions may call it; empty when no class has one."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def by_label(self) -> dict[int | str, str]:
        """Label to name."""
        return dict(zip(self.labels, self.names, strict=True))

    @property
    def repeated(self) -> tuple[str, ...]:
        """Names of more than one class, which no prompt can tell apart (ImageNet has two: missile, sunglasses).

        Case, underscores and Unicode's spellings make no difference, as in `rows`; of such names the first is given.
        """
        return tuple(self.names[rows[0]] for rows in self._rows_by_key(self.names) if len(rows) > 1)

    @property
    def shares_name(self) -> tuple[bool, ...]:
        """Of each class, whether another has its name."""
        shared = {row for rows in self._rows_by_key(self.names) if len(rows) > 1 for row in rows}
        return tuple(row in shared for row in range(len(self)))

    def _rows_by_key(self, names: Iterable[str]) -> list[list[int]]:
        """The rows of each name, one name a class; names that differ in case alone together."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name_key(name), []).append(row)
        return list(rows.values())

    def remarks(self) -> list[str]:
        """What a user should know of the names: classes that share one."""
        shared = [rows for rows in self._rows_by_key(self.names) if len(rows) > 1]
        remarks = [
            f"{self.source}: labels {_joined([self.labels[row] for row in rows])} have the same name,"
            f" {self.names[rows[0]]!r}: no prompt tells these classes apart, so give each a name of its own"
            for rows in shared[:_LISTED]
        ]
        if len(shared) > _LISTED:
            remarks.append(f"{self.source}: {len(shared) - _LISTED} more names are shared by several classes")
        first: dict[str, int] = {name_key(name): row for row, name in enumerate(self.names)}
        for row, others in enumerate(self.others):
            for name in others:
                owner = first.setdefault(name_key(name), row)
                if owner != row:
                    remarks.append(
                        f"{self.source}: {name!r} is a name of the labels {self.labels[owner]} and {self.labels[row]}:"
                        " captions with it name neither"
                    )
        return remarks

    def knows(self, label: int | str) -> bool:
        """Whether `rows` would find a class for this label."""
        return self._row(label) is not None

    def name_of(self, label: Label) -> str | None:
        """What a label is called; None where the names do not tell, or the label is its own name."""
        row = None if label is None else self._row(label)
        return None if row is None or self.names[row] == label else self.names[row]

    def label_of(self, name: str) -> int | str | None:
        """The label of the class of this name, however it is spelled; None where no class or several have it."""
        row = self._by_name.get(name_key(name))
        return None if row is None else self.labels[row]

    def rows(self, labels: Iterable[Label]) -> dict[int | str, int]:
        """Which class each of a run's labels is; rows without a label (None) belong to none.

        A label is looked up among the file's labels (7 and "7" are the same), a text also among its names (case and
        underscores make no difference). Where labels are but the lines' numbers, a text that is a name is that name: of
        classes called 1, 2 and 3 the label "1" is the first. Raises UsageError with the labels that have no class.
        """
        wanted = dict.fromkeys(label for label in labels if label is not None)
        rows = {label: self._row(label) for label in wanted}
        missing = [label for label, row in rows.items() if row is None]
        if missing:
            many = f"labels {_listed(missing)} have" if len(missing) > 1 else f"label {missing[0]!r} has"
            raise UsageError(
                f"the run's {many} no name in {self.source}, which has {len(self)} classes: {self._examples}"
            )
        return {label: row for label, row in rows.items() if row is not None}

    def _row(self, label: int | str) -> int | None:
        row = self._by_label_text.get(str(label))
        if isinstance(label, str) and (row is None or self._labels_are_lines):
            return self._by_exact_name.get(label, self._by_name.get(name_key(label), row))
        return row

    @cached_property
    def _labels_are_lines(self) -> bool:
        return self.labels == tuple(range(len(self)))

    @cached_property
    def _by_exact_name(self) -> dict[str, int]:
        """Rows by name as it is written, the names of several classes left out: `Cat` and `cat` are two."""
        counts = Counter(self.names)
        return {name: row for row, name in enumerate(self.names) if counts[name] == 1}

    @cached_property
    def _by_label_text(self) -> dict[str, int]:
        return {str(label): row for row, label in enumerate(self.labels)}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        """Rows by name, the names of several classes left out."""
        return {name_key(self.names[rows[0]]): rows[0] for rows in self._rows_by_key(self.names) if len(rows) == 1}

    @property
    def _examples(self) -> str:
        """The first few labels with their names."""
        pairs = [f"{label} = {name}" if str(label) != name else name for label, name in self.by_label.items()]
        return ", ".join(pairs[:_LISTED]) + (", ..." if len(pairs) > _LISTED else "")


def load_classes(path: str) -> ClassNames:
    """Class names of a file (local, or any fsspec URL): one a line, labels count from 0; or `label<TAB>name`, which
    further names may follow, each after a tab: captions may call the class by any of them.

    The first line decides which. Raises UsageError naming file and line: empty, a blank line between names (which
    would move the labels), a label that is there twice, wrong columns.
    """
    return _classes(read_lines(path), path)


def find_classes(path: str | None, shards: Sequence[str], labels: Iterable[Label]) -> ClassNames:
    """The class names of a run with these `labels`: from the file if one is given, else from `classnames.txt` in the
    directory of its `shards` (URLs) or the one above, else the labels themselves if they are words.

    Raises UsageError when numbers have no names, when two directories of shards disagree, and as `load_classes` and
    `ClassNames.rows`, so that every label has a class.
    """
    wanted = list(dict.fromkeys(label for label in labels if label is not None))
    if not wanted:
        raise UsageError("the run has no labels: audit again with --label")
    classes = load_classes(path) if path is not None else classes_beside(shards)
    words_only = all(isinstance(label, str) for label in wanted)
    if classes is not None and path is None and words_only and not any(map(classes.knows, wanted)):
        classes = None  # the file names the classes of another field than the one chosen as label
    if classes is None:
        if not words_only:
            raise UsageError(
                f"the run's labels are numbers ({_listed(wanted)}) and there is no {CLASSNAMES} beside its shards:"
                " give a file with their names"
            )
        words = tuple(sorted(str(label) for label in wanted))
        names = tuple(" ".join(word.replace("_", " ").split()) or word for word in words)
        classes = _noted(ClassNames(labels=words, names=names, source="the run's labels"))
    classes.rows(wanted)
    return classes


def listed_classes(path: str | None, shards: Sequence[str]) -> ClassNames:
    """The class names of images without labels, or with lists of them: from the file if one is given, else from
    `classnames.txt` beside the `shards` (URLs) or one above. UsageError when there is neither, or fewer than two names.
    """
    classes = load_classes(path) if path is not None else classes_beside(shards)
    if classes is None:
        raise UsageError(
            f"classes that do not come from labels need names, and there is no {CLASSNAMES} beside the shards: give a"
            " file with --classes"
        )
    if len(classes) < 2:
        raise UsageError(f"an audit compares classes, and {classes.source} names one")
    return classes


def _classes(lines: list[TextLine], path: str) -> ClassNames:
    """The classes of a file's lines."""
    return _noted(_parsed(lines, path))


def _noted(names: ClassNames) -> ClassNames:
    """The names; what a user should know of them is given as a `Note`."""
    for remark in names.remarks():
        warnings.warn(remark, Note, stacklevel=3)
    return names


def _parsed(lines: list[TextLine], path: str) -> ClassNames:
    if not lines:
        raise UsageError(f"{path} has no class names: write one a line")
    if lines[0].columns[0].startswith(("{", "[")):
        raise UsageError(f"{path} looks like JSON: write a name a line, or label<TAB>name")
    labelled = len(lines[0].columns) > 1
    for line in lines:
        numbers = any(map(_INTEGER.fullmatch, line.columns[2:]))  # a table's further column, and no names
        if (len(line.columns) > 1) != labelled or not all(line.columns) or numbers:
            form = "label<TAB>name" if labelled else "a name without a tab"
            raise UsageError(f"{path}, line {line.number}: not {form}, which the first line has")
    names = tuple(line.columns[1 if labelled else 0] for line in lines)
    if labelled:
        others = tuple(line.columns[2:] for line in lines)
        labels = _labels(lines, path)
        if all(map(_INTEGER.fullmatch, names)) and not any(map(_INTEGER.fullmatch, map(str, labels))):
            raise UsageError(f"{path}: the second column holds numbers: write label<TAB>name, the label first")
        return ClassNames(labels=labels, names=names, source=path, others=others if any(others) else ())
    for position, line in enumerate(lines, 1):
        if line.number != position:
            raise UsageError(f"{path}, line {position}: blank, though names follow; labels count the lines from 0")
    _refuse_numbered(names, path)
    return ClassNames(labels=tuple(range(len(names))), names=names, source=path)


def _refuse_numbered(names: Sequence[str], path: str) -> None:
    """UsageError where lines are a label and a name that no tab separates, such as `0,airplane` or `1 cat`."""
    rows = names[1:] or names  # the first may be a header
    separated = all(map(_NUMBER_FIRST.fullmatch, rows)) or all(map(_NUMBER_LAST.fullmatch, rows))
    counts = [int(match[1]) if (match := _COUNTED.fullmatch(name)) else -1 for name in names]
    counted = len(names) > 1 and counts[0] >= 0 and counts == [*range(counts[0], counts[0] + len(names))]
    if separated or counted:
        example = next(name for name in names if any(character.isdigit() for character in name))
        raise UsageError(
            f"{path}: lines such as {example!r} look like a label and a name: separate them by a tab, label<TAB>name,"
            " or write the names alone, one a line"
        )


def _labels(lines: list[TextLine], path: str) -> tuple[int | str, ...]:
    """The first column, each once; integers when all of them are."""
    seen: dict[str, int] = {}
    for line in lines:
        first = seen.setdefault(line.columns[0], line.number)
        if first != line.number:
            raise UsageError(f"{path}, line {line.number}: the label {line.columns[0]!r} is in line {first} already")
    texts = list(seen)
    if len(texts) > 1 and texts[0].casefold() in _HEADERS and all(map(_INTEGER.fullmatch, texts[1:])):
        raise UsageError(f"{path}, line 1: {texts[0]!r} is no label like the others: remove the header")
    return tuple(int(text) for text in seen) if all(map(_INTEGER.fullmatch, seen)) else tuple(seen)


def classes_beside(shards: Sequence[str]) -> ClassNames | None:
    """The classes of `classnames.txt` in the directories of some shards (URLs), or in those above; None without one.

    UsageError when the file cannot be used, or two directories of shards disagree.
    """
    files = {path: _classes(parse_lines(data, path), path) for path, data in _files_beside(shards)}
    if len({(names.labels, names.names, names.others) for names in files.values()}) > 1:
        raise UsageError(f"{' and '.join(list(files)[:2])} differ: give the file of class names that is right")
    return next(iter(files.values()), None)


def named_differently(shards: Sequence[str]) -> str | None:
    """How the files of class names beside some shards (URLs) call one label two names; None where they do not.

    Such as `label 1 is 'cat' in a/classnames.txt and 'dog' in b/classnames.txt`. A file that cannot be used is left to
    `classes_beside`, and one that names further labels is no contradiction.
    """
    first: dict[str, tuple[str, str]] = {}
    for path, data in _files_beside(shards):
        try:
            classes = _parsed(parse_lines(data, path), path)
        except UsageError:
            continue
        for label, name in classes.by_label.items():
            known, where = first.setdefault(str(label), (name, path))
            if name_key(known) != name_key(name):
                return f"label {label} is {known!r} in {where} and {name!r} in {path}"
    return None


def _files_beside(shards: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the file of class names that belongs to each directory of shards, each once."""
    seen = set()
    for directory in dict.fromkeys(_parent(url) for url in shards if "::" not in url):
        for place in filter(None, (directory, _parent(directory))):
            path = f"{place.rstrip('/')}/{CLASSNAMES}"
            data = None if path in seen else read_if_there(path)
            if data is not None:
                yield path, data
            if data is not None or path in seen:
                seen.add(path)
                break


def _parent(url: str) -> str:
    """The directory of a path or URL; empty where there is none."""
    if not is_remote(url):
        path = Path(url).absolute()
        return "" if path == path.parent else str(path.parent)
    head, _, _ = url.rstrip("/").rpartition("/")
    return "" if head.endswith(("/", ":")) else head


def _joined(labels: Sequence[int | str]) -> str:
    """`0 and 1`, `0, 3 and 7`."""
    words = [str(label) for label in labels]
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _listed(labels: Sequence[int | str]) -> str:
    return ", ".join(map(repr, labels[:_LISTED])) + (", ..." if len(labels) > _LISTED else "")
