"""The images of a source in little memory: about 100 bytes each, whatever their columns hold."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, Self

from clipaudit.errors import UsageError
from clipaudit.schema import CLASSNAMES, name_key
from clipaudit.shards.pack_writer import ROWS, WHOLE_FILE, ImageEntry, Omissions, as_text
from clipaudit.shards.tar_writer import MAX_MEMBER_BYTES, stored_bytes
from clipaudit.storage.text_file import TextLine, parse_lines

_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")
_LIKE_NUMBERED: Final = re.compile(r"[{\[]|-?[0-9]+\s*[,;:|=.)\s]|.*[,;|]\s*-?[0-9]+$")
"""Names of which `classnames.txt` might be read as numbers with names, or as JSON."""
_JSON_BYTES: Final = 1024  # of a json that holds path, split and label, in the archive


class Catalogue:
    """Images in the source's own order, with their classes, splits and columns; filled by one of the sources.

    A context manager for as long as it is filled.

    Columns are written to a file of one json object a line, of which the memory holds offsets.
    """

    def __init__(self, root: str, kind: str, work: Path | None) -> None:
        """`root`: the directory that images lie in; `kind`: what the source is, for messages.

        `work`: an existing directory for the file of rows; None where nothing may be written (a dry run), then columns
        are dropped.
        """
        self.root = os.path.realpath(root)
        self.kind = kind
        self.work = work
        self.notes: list[str] = []
        """What the user should know of how the source was understood."""
        self.columns: list[str] = []
        """Columns of the table, as they are written into the json."""
        self.label_in_columns = False
        """Whether the columns hold the label, so that the json needs no further one."""
        self.documents = False
        """Whether the columns of an image are its whole json."""
        self.caption: str | None = None
        """Column that becomes a caption; None for no caption."""
        self.class_names: list[str] = []
        """In the order of their numbers, for people; after `finish`."""
        self.names_file: bytes | None = None
        """Content of `classnames.txt`; None without classes, or where their names are not known. After `finish`."""
        self.left_out = Omissions()
        self._names = bytearray()
        self._ends = array("Q")
        self._folder_paths: list[str] = []
        self._folder_numbers: dict[str, int] = {}
        self._folders = array("I")
        self._sizes = array("Q")
        self._offsets = array("q")
        self._labels = array("i")
        self._splits = array("I")
        self._rows = array("q")
        self._label_numbers: dict[str, int] = {}
        self._class_numbers: list[int] = []  # in the order of _label_numbers
        self._split_numbers: dict[str, int] = {"": 0}
        self._stamps = array("q")
        self._row_digest = hashlib.blake2b(digest_size=16)
        self._row_file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Complete the file of rows."""
        if self._row_file is not None:
            self._row_file.close()

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def has_rows(self) -> bool:
        """Whether a sample has columns, in the file ROWS of `work`."""
        return self._row_file is not None

    def add(
        self,
        folder: str,
        name: str,
        size: int,
        *,
        label: str | None = None,
        split: str = "",
        columns: dict[str, object] | None = None,
        offset: int = WHOLE_FILE,
        stamp: int = 0,
    ) -> None:
        """Add one image. `folder` and `name` as in ImageEntry; `stamp` changes when the file is written again.

        A file of no bytes or of more than 8 GiB, and one whose class is blank, is left out and counted. Raises
        UsageError when the columns cannot be written down.
        """
        if not 0 < size <= MAX_MEMBER_BYTES:
            self.left_out.add("too_large" if size else "empty_file", f"{folder}/{name}" if folder else name)
            return
        if label is not None and not clean(label):
            self.left_out.add("no_label", f"{folder}/{name}" if folder else name)
            return
        if folder not in self._folder_numbers:
            self._folder_numbers[folder] = len(self._folder_paths)
            self._folder_paths.append(folder)
        row = json.dumps(columns, ensure_ascii=False).encode("utf-8", "backslashreplace") if columns else b""
        if row:
            self._row_digest.update(row + b"\n")
        self._names += os.fsencode(name)
        self._ends.append(len(self._names))
        self._folders.append(self._folder_numbers[folder])
        self._sizes.append(size)
        self._offsets.append(offset)
        self._stamps.append(stamp)
        self._labels.append(
            -1 if label is None else self._label_numbers.setdefault(clean(label), len(self._label_numbers))
        )
        self._splits.append(self._split_numbers.setdefault(clean(split), len(self._split_numbers)))
        self._rows.append(self._write_row(row))

    def know(self, label: str | None) -> None:
        """Give a class its number although its image is left out: that of another split has the same numbers."""
        if label is not None and clean(label):
            self._label_numbers.setdefault(clean(label), len(self._label_numbers))

    def _write_row(self, row: bytes) -> int:
        """Append a sample's columns to the file of rows; its offset, -1 where there is nothing to write."""
        if not row or self.work is None:
            return -1
        try:
            if self._row_file is None:
                self._row_file = (self.work / ROWS).open("wb")
            offset = self._row_file.tell()
            self._row_file.write(row + b"\n")
        except OSError as error:
            raise UsageError(f"{self.work} cannot be written: {error.strerror}") from error
        return offset

    def keep_numbers(self, names_file: bytes | None) -> None:
        """The labels are class numbers and stay so; `names_file` is the `classnames.txt` that names them, if any."""
        self._class_numbers = [int(name) for name in self._label_numbers]
        self.names_file = names_file
        names = list(map(str, sorted(self._class_numbers)))
        self.class_names = names if names_file is None else [line.columns[-1] for line in _lines(names_file)]

    def order_names(self, names_file: bytes) -> None:
        """Number the labels as a `classnames.txt` does, one name a line; a note where it lacks one of them."""
        positions = {line.columns[0]: line.number - 1 for line in _lines(names_file)}
        missing = next((name for name in self._label_numbers if name not in positions), None)
        if missing is not None:
            self.notes.append(f"{CLASSNAMES} of the source is not used: {missing!r} is not one of its names")
        elif self._label_numbers:
            self._class_numbers = [positions[name] for name in self._label_numbers]
            self.class_names, self.names_file = list(positions), names_file

    def finish(self) -> None:
        """Number the classes, unless the source did, by their sorted names, numbers by value."""
        names = list(self._label_numbers)
        self._note_alike(names)
        if self._class_numbers or not names:
            return
        numeric = all(_NUMBER.fullmatch(name) for name in names)
        self.class_names = sorted(names, key=(lambda name: (int(name), name)) if numeric else None)
        positions = {name: position for position, name in enumerate(self.class_names)}
        self._class_numbers = [positions[name] for name in names]
        # With its number before it, no name is taken for a number and a name, such as `1 cat` and `2 dog`.
        numbered = any(_LIKE_NUMBERED.match(name) for name in self.class_names)
        lines = (f"{number}\t{name}\n" if numbered else f"{name}\n" for number, name in enumerate(self.class_names))
        self.names_file = "".join(lines).encode()

    def _note_alike(self, names: Sequence[str]) -> None:
        """Notes of classes that people may take for one: they differ in case, underscores or spelling of Unicode."""
        first: dict[str, str] = {}
        for name in names:
            other = first.setdefault(name_key(name), name)
            if other != name:
                self.notes.append(f"{other!a} and {name!a} are two classes although they read alike")

    @property
    def splits(self) -> dict[str, int]:
        """Images of each split; the empty name stands for none."""
        names = list(self._split_numbers)
        counts = [0] * len(names)
        for split in self._splits:
            counts[split] += 1
        return {name: number for name, number in zip(names, counts, strict=True) if number}

    @property
    def fingerprint(self) -> str:
        """Hex digest of all images (path, size, time, class, split, columns) in their order."""
        digest = self._row_digest.copy()
        classes = (list(self._label_numbers), self._class_numbers, self.names_file)
        names = (self._folder_paths, classes, list(self._split_numbers))
        digest.update(repr(names).encode("utf-8", "backslashreplace"))
        arrays = (
            self._ends,
            self._folders,
            self._sizes,
            self._offsets,
            self._stamps,
            self._labels,
            self._splits,
            self._rows,
        )
        for numbers in (self._names, *arrays):
            digest.update(numbers)
        return digest.hexdigest()

    def image_bytes(self) -> int:
        """Bytes of all images."""
        return sum(self._sizes)

    def stored_sizes(self) -> array[int]:
        """Of each image: about the bytes that its sample takes in a shard."""
        beside = _JSON_BYTES + (stored_bytes(1) if self._label_numbers else 0)
        return array("Q", (stored_bytes(size) + beside for size in self._sizes))

    def entries(self, positions: Sequence[int]) -> list[ImageEntry]:
        """The images at these positions of the source's order."""
        splits = list(self._split_numbers)
        return [
            ImageEntry(
                number=position,
                folder=self._folder_paths[self._folders[position]],
                name=os.fsdecode(
                    bytes(self._names[self._ends[position - 1] if position else 0 : self._ends[position]])
                ),
                size=self._sizes[position],
                offset=self._offsets[position],
                label=self._class_numbers[label] if (label := self._labels[position]) >= 0 else None,
                split=splits[self._splits[position]],
                row=self._rows[position],
            )
            for position in positions
        ]


@functools.lru_cache(maxsize=4096)  # a few names, asked for at every image
def clean(label: str) -> str:
    """A label as one line of text: control characters and repeated spaces become one space."""
    return " ".join(as_text(" ".join(label.split())).split())


def _lines(names_file: bytes) -> list[TextLine]:
    return parse_lines(names_file, f"{CLASSNAMES} of the source")
