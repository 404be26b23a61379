"""Class names (from a file, beside the shards, or the run's labels) and the prompt templates that they go into."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.heads.texts.textfile import TextLine, is_remote, parse_lines, read_if_there, read_lines
from clipaudit.schema import Label

CLASSNAMES: Final = "classnames.txt"
"""The file beside the shards, as in the WebDataset sets of CLIP benchmark (there one directory up)."""
TEMPLATE_SETS: Final = ("imagenet", "simple", "single")
"""OpenAI's 80 templates for ImageNet; the 7 of them that do nearly as well; one."""
_TEMPLATES: Final = Path(__file__).parent / "templates"
SINGLE: Final = ("a photo of a {}.",)
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")
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
        """Names of more than one class, which no prompt can tell apart (ImageNet has two: missile, sunglasses)."""
        counted = dict.fromkeys(self.names, 0)
        for name in self.names:
            counted[name] += 1
        return tuple(name for name, count in counted.items() if count > 1)

    def knows(self, label: int | str) -> bool:
        """Whether `rows` would find a class for this label."""
        return self._row(label) is not None

    def rows(self, labels: Iterable[Label]) -> dict[int | str, int]:
        """Which class each of a run's labels is; rows without a label (None) belong to none.

        A label is looked up among the file's labels (7 and "7" are the same), a word also among its names (case and
        underscores make no difference). Raises UsageError with the labels that have no class.
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
        return self._by_name.get(_key(label)) if row is None and isinstance(label, str) else row

    @cached_property
    def _by_label_text(self) -> dict[str, int]:
        return {str(label): row for row, label in enumerate(self.labels)}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        """Rows by name, the names of several classes left out."""
        repeated = {_key(name) for name in self.repeated}
        return {key: row for row, name in enumerate(self.names) if (key := _key(name)) not in repeated}

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
    classes = load_classes(path) if path is not None else _beside(shards)
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
        classes = ClassNames(labels=words, names=names, source="the run's labels")
    classes.rows(wanted)
    return classes


def listed_classes(path: str | None, shards: Sequence[str]) -> ClassNames:
    """The class names of images without labels, or with lists of them: from the file if one is given, else from
    `classnames.txt` beside the `shards` (URLs) or one above. UsageError when there is neither, or fewer than two names.
    """
    classes = load_classes(path) if path is not None else _beside(shards)
    if classes is None:
        raise UsageError(
            f"classes that do not come from labels need names, and there is no {CLASSNAMES} beside the shards: give a"
            " file with --classes"
        )
    if len(classes) < 2:
        raise UsageError(f"an audit compares classes, and {classes.source} names one")
    return classes


def load_templates(spec: str = "imagenet") -> tuple[str, ...]:
    """Prompt templates with one `{}` each: a name of TEMPLATE_SETS, or a file with one a line.

    Raises UsageError when there is no such set or file, and naming the line that is no template.
    """
    if spec == "single":
        return SINGLE
    if spec in TEMPLATE_SETS:
        # a copy of CLIP's published prompts (MIT): open_clip has them too, but importing it brings torch
        return tuple((_TEMPLATES / f"{spec}.txt").read_text("utf-8").splitlines())
    data = read_if_there(spec)
    if data is None:
        raise UsageError(f"no templates {spec!r}: give {', '.join(TEMPLATE_SETS)} or a file with one a line")
    lines = parse_lines(data, spec)
    for line in lines:
        if len(line.columns) > 1 or line.columns[0].count("{}") != 1:
            raise UsageError(f"{spec}, line {line.number}: a template needs {{}} once, where the class name goes")
    if not lines:
        raise UsageError(f"{spec} has no templates: write one a line, with {{}} where the class name goes")
    return tuple(dict.fromkeys(line.columns[0] for line in lines))


def _classes(lines: list[TextLine], path: str) -> ClassNames:
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
        return ClassNames(labels=_labels(lines, path), names=names, source=path, others=others if any(others) else ())
    for position, line in enumerate(lines, 1):
        if line.number != position:
            raise UsageError(f"{path}, line {position}: blank, though names follow; labels count the lines from 0")
    return ClassNames(labels=tuple(range(len(names))), names=names, source=path)


def _labels(lines: list[TextLine], path: str) -> tuple[int | str, ...]:
    """The first column, each once; integers when all of them are."""
    seen: dict[str, int] = {}
    for line in lines:
        first = seen.setdefault(line.columns[0], line.number)
        if first != line.number:
            raise UsageError(f"{path}, line {line.number}: the label {line.columns[0]!r} is in line {first} already")
    return tuple(int(text) for text in seen) if all(map(_INTEGER.fullmatch, seen)) else tuple(seen)


def _beside(shards: Sequence[str]) -> ClassNames | None:
    """The classes of `classnames.txt` in the directories of the shards, or in those above; None without such a file."""
    files: dict[str, ClassNames] = {}
    for directory in dict.fromkeys(_parent(url) for url in shards if "::" not in url):
        for place in filter(None, (directory, _parent(directory))):
            path = f"{place.rstrip('/')}/{CLASSNAMES}"
            data = read_if_there(path)
            if data is not None:
                files[path] = _classes(parse_lines(data, path), path)
                break
    if len({(names.labels, names.names, names.others) for names in files.values()}) > 1:
        raise UsageError(f"{' and '.join(list(files)[:2])} differ: give the file of class names that is right")
    return next(iter(files.values()), None)


def _parent(url: str) -> str:
    """The directory of a path or URL; empty where there is none."""
    if not is_remote(url):
        path = Path(url).absolute()
        return "" if path == path.parent else str(path.parent)
    head, _, _ = url.rstrip("/").rpartition("/")
    return "" if head.endswith(("/", ":")) else head


def _key(name: str) -> str:
    """A name as it is compared: without case, underscores as spaces."""
    return " ".join(name.replace("_", " ").split()).casefold()


def _listed(labels: Sequence[int | str]) -> str:
    return ", ".join(map(repr, labels[:_LISTED])) + (", ..." if len(labels) > _LISTED else "")
