"""One shard of `pack`: reads the files of its samples and writes the tar aside, then renames it. Imports little."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from clipaudit.shards.tar_writer import END_OF_ARCHIVE, SampleMembers

PART: Final = ".part"
"""Suffix of a shard that is being written; what an interrupted pack leaves is removed by the next one."""
RECORD: Final = "pack.jsonl"
"""In OUT: the plan, then a line for each finished shard; what a repeated pack goes on from."""
EXAMPLES: Final = 3
"""Of each reason for leaving something out."""
WHOLE_FILE: Final = -1
"""In place of an offset: the image is a file of its own."""
ROWS: Final = "rows.jsonl"
_quoted: Final = json.encoder.encode_basestring
_BUFFER_BYTES: Final = 4 * 2**20
_STEM_CHARACTERS: Final = 48
_SAFE: Final = re.compile(rf"[A-Za-z0-9-][A-Za-z0-9_-]{{0,{_STEM_CHARACTERS - 1}}}(?<!_)")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,8}")


_quoted_once: Final = lru_cache(maxsize=4096)(_quoted)  # of names that many samples share


class Omissions:
    """What is not packed, counted by reason, with the first few names of each."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """Reason to number."""
        self.examples: dict[str, list[str]] = {}
        """Reason to the first names, at most EXAMPLES."""

    def add(self, reason: str, name: str) -> None:
        """Count one file or row."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES:
            names.append(as_text(name))

    def merge(self, counts: dict[str, int], examples: dict[str, list[str]]) -> None:
        """Add what was counted elsewhere."""
        for reason, number in counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + number
            names = self.examples.setdefault(reason, [])
            names += examples.get(reason, [])[: EXAMPLES - len(names)]


class ImageEntry(NamedTuple):
    """One image to be packed, and where its bytes are."""

    number: int
    """Position in the source's own order, from 0; begins the key, so that keys are unique."""
    folder: str
    """Directory below the root (`""` for the root itself); or the file with the bytes, a path or a name in `work`."""
    name: str
    """File name; with `folder` the path that the json gives. An extension alone, such as `.png`, for nameless bytes."""
    size: int
    """Bytes of the image when the source was listed."""
    offset: int
    """Of the image in the file `folder`; WHOLE_FILE for a file of its own."""
    label: int | None
    """Class number; None without one."""
    split: str
    """Name of the split; empty without one."""
    row: int
    """Offset of the sample's columns in the file of rows; -1 without."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to be written; small enough to be sent to another process."""

    path: str
    """Of the finished shard."""
    root: str
    """Real path of the directory that all images lie in."""
    entries: list[ImageEntry]
    work: str | None
    """Directory of the files that were made of the source: columns, images out of tables; None without."""
    rows: bool
    """Whether `work` has the samples' columns, one json object a line."""
    class_names: list[str] | None
    """Names to be written as `label` into the json; None where the columns hold the label."""
    documents: bool
    """Whether the columns are the sample's whole json, so that nothing is added to them."""
    caption: str | None
    """Column that becomes `KEY.txt`; None without."""


@dataclass(kw_only=True)
class ShardSummary:
    """What was written."""

    name: str
    """File name of the shard."""
    samples: int = 0
    nbytes: int = 0
    """Of the shard."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason to number."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason to the first names."""


def write_shard(task: ShardTask) -> ShardSummary:
    """Write one shard whole or not at all, replacing an older file of its name.

    An image that cannot be read, or whose size is no longer the listed one, is left out and counted. Raises OSError
    when the shard cannot be written.
    """
    path = Path(task.path)
    aside = path.with_name(f".{path.name}{PART}")
    summary, left_out = ShardSummary(name=path.name), Omissions()
    try:
        with ExitStack() as stack:
            file = stack.enter_context(aside.open("wb", buffering=_BUFFER_BYTES))
            work = Path(task.work or task.root)
            rows = stack.enter_context((work / ROWS).open("rb")) if task.rows else None
            images = _Images(task.root, work, stack)
            for entry in task.entries:
                data = images.read(entry, left_out)
                if data is not None:
                    file.writelines(_sample(task, entry, data, rows).parts)
                    summary.samples += 1
            file.write(END_OF_ARCHIVE)
            file.flush()
            os.fsync(file.fileno())
            summary.nbytes = file.tell()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    summary.left_out, summary.examples = left_out.counts, left_out.examples
    return summary


def write_piece(task: ShardTask, threads: int, callers: int) -> ShardSummary:
    """`write_shard` as an engine's `map_items` calls it: one thread writes a shard, however many there are."""
    return write_shard(task)


def _sample(task: ShardTask, entry: ImageEntry, data: bytes, rows: BinaryIO | None) -> SampleMembers:
    """A sample's files in the archive: the image, cls, json and txt."""
    key, extension = key_of(entry.number, entry.name)
    members = SampleMembers(key)
    members.add(extension, data)
    if entry.label is not None:
        members.add("cls", b"%d" % entry.label)
    columns = b"{}"
    if rows is not None and entry.row >= 0:
        rows.seek(entry.row)
        columns = rows.readline().rstrip(b"\n")
    members.add("json", columns if task.documents else _document(task, entry, columns))
    caption = json.loads(columns).get(task.caption) if task.caption is not None else None
    if caption is not None and str(caption).strip():
        members.add("txt", str(caption).encode("utf-8", "backslashreplace"))
    return members


def _document(task: ShardTask, entry: ImageEntry, columns: bytes) -> bytes:
    """The sample's json: path, split, the class's name, then the columns, which are a json object without these."""
    path = f"{entry.folder}/{entry.name}" if entry.folder and entry.offset == WHOLE_FILE else entry.name
    # A name that is an extension alone was made up for bytes that came without one.
    first = [f'"path": {_quoted(as_text(path))}'] if not path.startswith(".") else []
    if entry.split:
        first.append(f'"split": {_quoted_once(entry.split)}')
    if task.class_names is not None and entry.label is not None:
        first.append(f'"label": {_quoted_once(task.class_names[entry.label])}')
    head = ", ".join(first).encode()
    if columns == b"{}":
        return b"{%s}" % head
    return b"{%s, %s" % (head, columns[1:]) if first else columns


def key_of(number: int, name: str) -> tuple[str, str]:
    """(key, extension) of a sample: the number keeps keys apart, the file's name lets a person recognise it.

    >>> key_of(17, "IMG 4.2.JPG")
    ('00000017-IMG_4_2', 'jpg')
    """
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    safe = stem if _SAFE.fullmatch(stem) else _UNSAFE.sub("_", stem).strip("_")[:_STEM_CHARACTERS]
    return (f"{number:08d}-{safe}" if safe else f"{number:08d}"), _extension(suffix)


@lru_cache(maxsize=256)
def _extension(suffix: str) -> str:
    return suffix.lower() if _EXTENSION.fullmatch(suffix.lower()) else "jpg"


def as_text(name: str) -> str:
    """A file name with its bytes that are not UTF-8 as `\\xNN`, and without control characters."""
    if name.isascii() and name.isprintable():  # the rule, in a tenth of the time
        return name
    try:
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a surrogate pair, out of a json
        text = name.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda match: repr(match.group())[1:-1], text)


class _Images:
    """Reads images below a root; links are followed where they stay below it."""

    def __init__(self, root: str, work: Path, stack: ExitStack) -> None:
        self._root = root
        self._work = work
        self._stack = stack
        self._containers: dict[str, BinaryIO] = {}

    def read(self, entry: ImageEntry, left_out: Omissions) -> bytes | None:
        """The image's bytes as they are; None, counted in `left_out`, when they cannot be used."""
        try:
            data = self._file(entry) if entry.offset == WHOLE_FILE else self._part(entry)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            left_out.add("outside" if error.errno == errno.ELOOP else "unreadable", _place(entry))
            return None
        if len(data) != entry.size:
            left_out.add("changed", _place(entry))
            return None
        return data

    def _file(self, entry: ImageEntry) -> bytes:
        path = f"{self._root}/{entry.folder}/{entry.name}"  # two slashes count as one
        # O_NOFOLLOW: a file that has become a link since it was listed must not lead out of the source; O_NONBLOCK: nor
        # a pipe stop the program.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            descriptor = os.open(inside(path, self._root), flags)
        try:
            return _all_bytes(descriptor, entry.size)
        finally:
            os.close(descriptor)

    def _part(self, entry: ImageEntry) -> bytes:
        if entry.folder not in self._containers:
            container = (self._work / entry.folder).open("rb", buffering=0)
            self._containers[entry.folder] = self._stack.enter_context(container)
        file = self._containers[entry.folder]
        return os.pread(file.fileno(), entry.size, entry.offset)


def _place(entry: ImageEntry) -> str:
    """The path of an image, for messages."""
    return f"{entry.folder}/{entry.name}" if entry.folder else entry.name


def _all_bytes(descriptor: int, size: int) -> bytes:
    """The file's bytes, at most one more than `size`. Raises OSError for what is no regular file."""
    data = os.read(descriptor, size + 1)
    if len(data) == size:  # the rule: one call
        return data
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    parts = io.BytesIO(data)
    parts.seek(0, io.SEEK_END)
    while parts.tell() <= size and (data := os.read(descriptor, size + 1 - parts.tell())):
        parts.write(data)
    return parts.getvalue()


def inside(path: str, root: str) -> str:
    """The real path of a file below the real path `root`. Raises OSError (ELOOP) when it is not below it."""
    real = os.path.realpath(path)
    if not real.startswith(root.rstrip("/") + "/"):
        raise OSError(errno.ELOOP, "the path leads out of the source", path)
    return real
