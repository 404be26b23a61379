"""The part of `check` that compares bytes: every file of a run against the record that has its hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from clipaudit.errors import IntegrityError
from clipaudit.run.checksums import SUMS, is_sealed, read_sums
from clipaudit.run.directory import ATTEMPTS, BASIS, COMMITTED, FAILED, MANIFEST, MOMENTS, PROJECTIONS, RunDirectory
from clipaudit.run.growth import GROWTH, MOVES
from clipaudit.run.records import MALFORMED, ColumnRecord, CommitRecord, StoredFile, is_as_written
from clipaudit.storage.local import TEMPORARY
from clipaudit.storage.text_file import parse_json

_READ_BYTES: Final = 4 * 2**20
_CARD: Final = "card.json"
_PLAIN_NAME: Final = re.compile(r"\w[\w.-]*")
_RECORDS: Final = (COMMITTED, FAILED, GROWTH, MOVES)
_OF_THE_JOB: Final = tuple(f"{folder}/" for folder in (PROJECTIONS, MOMENTS, ATTEMPTS, *_RECORDS))
_SAFETENSORS: Final = ".safetensors"
_SAID: Final = re.compile(r"explorer/[\w.-]+\.jsonl")
"""What people say of a run: tags and labels, a JSON object a line, which only grow and so have no hash."""
_COLUMN_RECORD: Final = re.compile(r"columns/[^/]+\.json")


def check_files(
    directory: RunDirectory, files: Mapping[str, StoredFile], written: str, sums: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Problems of files as bytes: missing, of another size, or of another hash; `written` is the verb in sentences.

    `sums` has hashes of further files whose sizes are not recorded.
    """
    wanted: dict[str, tuple[int | None, str]] = {path: (None, sha256) for path, sha256 in (sums or {}).items()}
    wanted |= {path: (stored.bytes, stored.sha256) for path, stored in files.items()}
    for path, (expected_bytes, sha256) in wanted.items():
        full = directory.storage.full(path)
        digest, size = hashlib.sha256(), 0
        try:
            with directory.storage.open(path) as handle:
                while data := handle.read(_READ_BYTES):
                    digest.update(data)
                    size += len(data)
        except FileNotFoundError:
            yield f"{full} is not there"
            continue
        except OSError as error:
            yield f"{full} cannot be read: {error}"
            continue
        except IntegrityError as error:
            yield str(error)
            continue
        if expected_bytes not in (None, size):
            yield f"{full} has {size} bytes where {expected_bytes} were {written}"
        elif digest.hexdigest() != sha256:
            yield f"{full} is not what was {written}: its sha256 differs"


def check_run_files(directory: RunDirectory, records: Iterable[CommitRecord]) -> Iterator[str]:
    """The run's own files against what the shards recorded of them, and the shards' records against each other."""
    recorded: dict[str, dict[StoredFile, int]] = {}
    for record in records:
        for name, stored in record.run_files.items():
            recorded.setdefault(name, {}).setdefault(stored, record.shard_id)
    for name, versions in recorded.items():
        if len(versions) > 1:
            first, second = list(versions.values())[:2]
            yield f"shards {first} and {second} were written with different versions of {name}"
        yield from check_files(directory, {name: next(iter(versions))}, "committed")


def check_records(directory: RunDirectory) -> Iterator[str]:
    """The records of commits, failures, growth and moves against the digests in them."""
    for folder in _RECORDS:
        paths = [f"{folder}/{name}" for name in directory.storage.names(folder) if name.endswith(".json")]
        for path, data in zip(paths, directory.storage.read_many(paths), strict=True):
            if data is not None and not is_as_written(data):
                yield f"{directory.storage.full(path)} is not what was written: its digest differs"


class DerivedFiles:
    """What was made of the table (heads, indexes, reports, text vectors ...): its problems, and what has no hash."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        entries = [entry for entry in directory.storage.walk() if not _is_temporary(entry.path)]
        self._paths = [entry.path for entry in entries]
        self._special = {entry.path for entry in entries if not entry.regular}
        self.unrecorded: list[str] = []
        """Files whose hash stands nowhere, relative to the run; complete after `problems`."""

    def problems(self) -> Iterator[str]:
        """Compare every file with `SHA256SUMS` of its directory, an index's card, or the hash in itself."""
        covered: set[str] = set()
        for path in self._paths:
            if path.rpartition("/")[2] == SUMS:
                yield from self._check_sums(path, covered)
        for path in self._paths:
            if path.rpartition("/")[2] == _CARD:
                yield from self._check_card(path, covered)
        for path in self._paths:
            if _COLUMN_RECORD.fullmatch(path) is not None:
                yield from self._check_column(path, covered)
        for path in self._paths:
            if path in covered or path in (MANIFEST, BASIS) or path.startswith(_OF_THE_JOB):
                continue
            if path in self._special:
                yield f"{self._directory.storage.full(path)} is not a regular file"
                continue
            if _SAID.fullmatch(path) is not None:
                yield from self._check_said(path)
                continue
            sealed = self._is_sealed(path) if path.endswith(_SAFETENSORS) else None
            if sealed is None:
                self.unrecorded.append(path)
            elif not sealed:
                yield f"{self._directory.storage.full(path)} is not what was written: its sha256 differs"

    def _check_sums(self, path: str, covered: set[str]) -> Iterator[str]:
        folder = path.removesuffix(SUMS)
        covered.add(path)
        try:
            sums = read_sums(self._directory.storage.read(path), self._directory.storage.full(path))
        except IntegrityError as error:
            yield str(error)
            return
        files = {f"{folder}{name}": sha256 for name, sha256 in sums.items()}
        covered.update(files)
        yield from check_files(self._directory, {}, "written", files)

    def _check_column(self, path: str, covered: set[str]) -> Iterator[str]:
        """The values of a joined column, whose record has their size and hash."""
        covered.add(path)
        full = self._directory.storage.full(path)
        try:
            data = self._directory.storage.read(path)
            record = ColumnRecord.from_json(data, full)
        except IntegrityError as error:
            yield str(error)
            return
        if not is_as_written(data):
            yield f"{full} is not what was written: its digest differs"
        covered.add(record.path)
        yield from check_files(self._directory, {record.path: record.file}, "written")

    def _check_said(self, path: str) -> Iterator[str]:
        """Lines of a file that people add to; one that was cut short costs what it says, and no other."""
        lines = self._directory.storage.read(path).decode("utf-8", errors="replace").split("\n")
        damaged = [number for number, line in enumerate(lines, 1) if line.strip() and not _is_object(line)]
        if damaged:
            others = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            yield f"{self._directory.storage.full(path)} cannot be read in line {damaged[0]}{others}"

    def _check_card(self, path: str, covered: set[str]) -> Iterator[str]:
        """The files of an index of before, whose card has their hashes."""
        folder, full = path.removesuffix(_CARD), self._directory.storage.full(path)
        try:
            files = json.loads(self._directory.storage.read(path))["files"]
            stored = {str(key): StoredFile(**value) for key, value in files.items()}
        except (*MALFORMED, IntegrityError) as error:
            yield f"{full} is damaged: {error}"
            return
        if foreign := [key for key in stored if not _PLAIN_NAME.fullmatch(key)]:
            yield f"{full} is damaged: {foreign[0]!r} is no file of it"
            return
        new = {f"{folder}{key}": value for key, value in stored.items() if f"{folder}{key}" not in covered}
        covered.update(new)
        yield from check_files(self._directory, new, "written")

    def _is_sealed(self, path: str) -> bool | None:
        try:
            return is_sealed(self._directory.storage.read(path))
        except (FileNotFoundError, IntegrityError):
            return False


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_temporary(path: str) -> bool:
    return any(part.startswith(".") and part.endswith(TEMPORARY) for part in path.split("/"))
