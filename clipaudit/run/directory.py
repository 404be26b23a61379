"""A run directory: the manifest, the commits and failures of its shards, and the names of its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clipaudit.errors import ClipauditError, IntegrityError, RunNotFound, StoreUnavailable, UsageError
from clipaudit.redact import private_url
from clipaudit.run.growth import GROWTH, MOVES, Growth, History, Moment, Move, history_of, split_moment
from clipaudit.run.records import (
    CommitRecord,
    FailureRecord,
    Manifest,
    StoredFile,
    compare_models,
    compare_options,
    now,
)
from clipaudit.storage.directory import Storage
from clipaudit.storage.faults import storage_errors
from clipaudit.storage.local import TEMPORARY
from clipaudit.storage.remote import remote_errors

MANIFEST = "run.json"
BASIS = "basis.safetensors"
RUN_FILES = (MANIFEST, BASIS)
"""Written once, before the first shard, and never changed."""
PROJECTIONS, MOMENTS, COMMITTED, FAILED, ATTEMPTS = "projections", "moments", "_committed", "_failed", "_attempts"
_RECORD_NAME = re.compile(r"(\d{6,})\.json")
_ATTEMPT_NAME = re.compile(r"(\d{6,})-([0-9A-Za-z_]+)\.\w+")


def new_attempt() -> str:
    """A name for an attempt at a shard that no other attempt has."""
    return uuid.uuid4().hex[:12]


def shard_of(path: str) -> int | None:
    """Shard id in the name of one of a run's per-shard files, or None when the name is of another kind."""
    name = path.rsplit("/", 1)[-1]
    match = _RECORD_NAME.fullmatch(name) or _ATTEMPT_NAME.fullmatch(name)
    return int(match[1]) if match else None


@contextlib.contextmanager
def _best_effort() -> Iterator[None]:
    """Ignore errors of removing what is no longer needed: the commit before it stands, and `gc` removes the rest."""
    with contextlib.suppress(ClipauditError, *remote_errors()):
        yield


class RunDirectory:
    """One run's directory at `url`, a local path or any fsspec URL. Cheap to make; nothing is read or written by that.

    Every method that writes raises StorageFull when there is no space left, and UsageError when writing is not allowed.
    Paths are relative to the directory.
    """

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        self.url = self.storage.url

    def __repr__(self) -> str:
        return f"RunDirectory({self.url!r})"

    def __reduce__(self) -> tuple[type[RunDirectory], tuple[str]]:
        return RunDirectory, (private_url(self.url),)

    # -- the manifest ------------------------------------------------------------------------------------------------

    def create(self, manifest: Manifest) -> bool:
        """Begin the run by writing `run.json`; False when there is a run here already."""
        self.prepare()
        return self.storage.create(MANIFEST, manifest.to_json())

    def prepare(self) -> None:
        """Make the directories that a job writes into; a run that was copied may lack those that were empty."""
        self.storage.make_directories(["", PROJECTIONS, MOMENTS, COMMITTED, FAILED, ATTEMPTS])

    def open(self) -> Manifest:
        """The run's manifest as it was created; RunNotFound when there is none, IntegrityError when it is damaged.

        `history` also knows the shards that were added later, and where all of them are now.
        """
        try:
            data = self.storage.read(MANIFEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            name, at, behind = self.url.rpartition("@")
            mistaken = at and "/" not in behind and RunDirectory(name).exists()
            hint = f"; behind the @ of {name} give a generation, or a date such as 2026-11-01" if mistaken else ""
            raise RunNotFound(f"there is no run at {self.url}: {MANIFEST} is not there{hint}") from error
        return Manifest.from_json(data, self.storage.full(MANIFEST))

    def history(self) -> History:
        """The manifest with all that was appended and moved since; RunNotFound, IntegrityError for damaged records."""
        manifest = self.open()
        growths = [Growth.from_json(data, where) for where, data in self._numbered(GROWTH)]
        moves = [Move.from_json(data, where) for where, data in self._numbered(MOVES)]
        return history_of(manifest, growths, moves, self.url)

    def grow(self, growth: Growth) -> bool:
        """Add a generation of shards; False when another driver has added one of this number."""
        return self._create_numbered(GROWTH, growth.generation, growth.to_json())

    def move(self, move: Move) -> bool:
        """Record where shards are now; False when another driver has made a record of this number."""
        return self._create_numbered(MOVES, move.number, move.to_json())

    def _create_numbered(self, folder: str, number: int, data: bytes) -> bool:
        self.storage.make_directories([folder])
        path = f"{folder}/{number:06d}.json"
        # A store can create the file and lose its answer, and is then asked again: the content tells whose it is.
        return self.storage.create(path, data) or self.storage.read(path) == data

    def _numbered(self, folder: str) -> Iterator[tuple[str, bytes]]:
        """(full path, content) of the records of a folder, in the order of their numbers."""
        names = [name for name in self.storage.names(folder) if _RECORD_NAME.fullmatch(name)]
        paths = [f"{folder}/{name}" for name in sorted(names, key=lambda name: int(name.removesuffix(".json")))]
        for path, data in zip(paths, self.storage.read_many(paths), strict=True):
            if data is not None:
                yield self.storage.full(path), data

    def create_or_resume(self, manifest: Manifest) -> Manifest:
        """Begin the run, or resume the one that is here; returns the manifest that counts, the stored one.

        Raises RunMismatch when the stored run has other options or another model; of its shards it may have others, see
        `job.shard_list`. Of two drivers that begin at the same time, the second resumes what the first began.
        """
        if self.create(manifest) and self.storage.exclusive:
            return manifest
        stored = self.open()  # a store that is not exclusive may let two drivers create it: the later content counts
        compare_options(stored, manifest.identity, self.url)
        compare_models(stored, manifest, self.url)
        return stored

    def run_files(self) -> dict[str, StoredFile]:
        """Size and hash of the files that hold for the whole run, for commit records; those that are there."""
        contents = zip(RUN_FILES, self.storage.read_many(RUN_FILES), strict=True)
        return {
            name: StoredFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in contents
            if data is not None
        }

    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self.storage.exists(MANIFEST)

    # -- names -------------------------------------------------------------------------------------------------------

    def projections_path(self, shard_id: int, attempt: str) -> str:
        """Where an attempt's rows go."""
        return f"{PROJECTIONS}/{shard_id:06d}-{attempt}.parquet"

    def moments_path(self, shard_id: int, attempt: str) -> str:
        """Where an attempt's moments go."""
        return f"{MOMENTS}/{shard_id:06d}-{attempt}.safetensors"

    def commit_path(self, shard_id: int) -> str:
        """Where a shard's commit record is, once it is committed."""
        return f"{COMMITTED}/{shard_id:06d}.json"

    def _failure_path(self, shard_id: int) -> str:
        return f"{FAILED}/{shard_id:06d}.json"

    def _attempt_path(self, shard_id: int, attempt: str) -> str:
        return f"{ATTEMPTS}/{shard_id:06d}-{attempt}.json"

    # -- commits -----------------------------------------------------------------------------------------------------

    def commit(self, record: CommitRecord) -> bool:
        """Make a shard's files count; False when another attempt is committed already (then `discard` these files).

        Called by drivers, never by workers: on a store that cannot refuse to overwrite (not `exclusive`), one driver is
        then the only writer of commits, so that the first attempt to finish counts there too. Raises StoreUnavailable
        when the record exists and cannot be read.
        """
        path = self.commit_path(record.shard_id)
        if not self.storage.create(path, record.to_json()):
            # the record may be of this attempt: a store can create it and lose its answer, and is then asked again
            committed = self.read_commit(record.shard_id)
            if committed is None:  # the files of the losing attempt will be removed, so the winner must be known
                raise StoreUnavailable(f"{self.storage.full(path)} exists, and cannot be read")
            if committed.attempt != record.attempt:
                return False
        with _best_effort():
            self.storage.remove(self._attempt_path(record.shard_id, record.attempt))
        return True

    def discard(self, record: CommitRecord) -> None:
        """Remove the files of an attempt that lost; nothing happens unless another attempt is committed."""
        with _best_effort():
            committed = self.read_commit(record.shard_id)
            if committed is None or committed.attempt == record.attempt:
                return
            for name in (*record.files, self._attempt_path(record.shard_id, record.attempt)):
                self.storage.remove(name)

    def read_commit(self, shard_id: int) -> CommitRecord | None:
        """One shard's commit record, or None when it is not committed."""
        path = self.commit_path(shard_id)
        try:
            data = self.storage.read(path)
        except FileNotFoundError:
            return None
        return self._commit_of(data, path)

    def committed_ids(self) -> set[int]:
        """Ids of the committed shards, by listing alone."""
        return {int(match[1]) for name in self.storage.names(COMMITTED) if (match := _RECORD_NAME.fullmatch(name))}

    def committed(self, ids: Iterable[int] | None = None) -> dict[int, CommitRecord]:
        """The commit records, all or those of some committed shards, in the order of shard ids.

        IntegrityError names a record that cannot be read.
        """
        chosen = self.committed_ids() if ids is None else ids
        paths = [self.commit_path(shard_id) for shard_id in sorted(chosen)]
        contents = zip(paths, self.storage.read_many(paths), strict=True)
        records = [self._commit_of(data, path) for path, data in contents if data is not None]
        return {record.shard_id: record for record in records}

    def _commit_of(self, data: bytes, path: str) -> CommitRecord:
        record = CommitRecord.from_json(data, self.storage.full(path))
        if self.commit_path(record.shard_id) != path:
            raise IntegrityError(f"{self.storage.full(path)} is damaged: it records shard {record.shard_id}")
        return record

    # -- failures ----------------------------------------------------------------------------------------------------

    def record_failure(self, record: FailureRecord) -> None:
        """Record that a shard was given up, in place of an older record of it."""
        self.storage.replace(self._failure_path(record.shard_id), record.to_json())

    def failed_ids(self) -> set[int]:
        """Ids of the shards with a failure record, by listing alone."""
        return {int(match[1]) for name in self.storage.names(FAILED) if (match := _RECORD_NAME.fullmatch(name))}

    def failures(self) -> dict[int, FailureRecord]:
        """The failure records in the order of shard ids; IntegrityError names a record that cannot be read."""
        paths = [f"{FAILED}/{name}" for name in self.storage.names(FAILED) if _RECORD_NAME.fullmatch(name)]
        contents = zip(paths, self.storage.read_many(paths), strict=True)
        records = [
            FailureRecord.from_json(data, self.storage.full(path)) for path, data in contents if data is not None
        ]
        return {record.shard_id: record for record in records}

    def clear_failure(self, shard_id: int) -> None:
        """Remove the failure record of a committed shard, if there is one; a commit counts more than a failure."""
        with _best_effort():
            self.storage.remove(self._failure_path(shard_id))

    # -- attempts ----------------------------------------------------------------------------------------------------

    def begin_attempt(self, shard_id: int, attempt: str, worker: str = "") -> None:
        """Record that an attempt began; its commit removes the record."""
        record: dict[str, Any] = {"shard_id": shard_id, "attempt": attempt, "worker": worker, "began_at": now()}
        self.storage.replace(self._attempt_path(shard_id, attempt), json.dumps(record).encode())

    def attempt_began(self, shard_id: int, attempt: str) -> bool:
        """Whether an attempt that is not committed recorded that it began."""
        return self.storage.exists(self._attempt_path(shard_id, attempt))

    def attempts(self, shard_id: int) -> list[str]:
        """Names of a shard's attempts that began and were not committed."""
        matches = (_ATTEMPT_NAME.fullmatch(name) for name in self.storage.names(ATTEMPTS))
        return [match[2] for match in matches if match and int(match[1]) == shard_id]

    # -- what is made from committed shards --------------------------------------------------------------------------

    @contextlib.contextmanager
    def publish(self, directory: str) -> Iterator[str]:
        """Make a derived directory (`heads`, `indexes/L22H05`) aside and put it in place when the block ends well.

        Yields the full path (for `storage.fs`) of an empty directory to write into. An older directory of that name is
        replaced. On object stores, which cannot rename, the files are copied one after another, so that a reader may
        see some of them.
        """
        parent, _, name = directory.rpartition("/")
        suffix = uuid.uuid4().hex[:12]
        aside = f"{parent}/" * bool(parent) + f".{name}.{suffix}{TEMPORARY}"
        self.storage.make_directories([aside])
        try:
            with storage_errors(self.storage.full(directory)):
                yield self.storage.full(aside)
                self._put_in_place(aside, directory, suffix)
        finally:
            self.storage.remove_tree(aside)

    def _put_in_place(self, aside: str, directory: str, suffix: str) -> None:
        if not self.storage.local:
            self.storage.remove_tree(directory)
            self.storage.move_tree(aside, directory)
            return
        target = Path(self.storage.full(directory))
        old = target.with_name(f".{target.name}.{suffix}.old{TEMPORARY}")
        with contextlib.suppress(FileNotFoundError):
            target.rename(old)
        Path(self.storage.full(aside)).rename(target)
        shutil.rmtree(old, ignore_errors=True)


def newest_place(place: str | os.PathLike[str] | RunDirectory, what: str) -> RunDirectory:
    """A run's directory for what works on its newest state alone; UsageError for `RUN@GENERATION` and `RUN@TIME`.

    what: the beginning of the sentence, such as `gc works on the whole run`.
    """
    directory, moment = (place, None) if isinstance(place, RunDirectory) else opened_place(place)
    if moment is not None:
        raise UsageError(f"{what}: leave out @{moment.text} behind {directory.url}")
    return directory


def opened_place(place: str | os.PathLike[str]) -> tuple[RunDirectory, Moment | None]:
    """A run's directory and the state that is asked for: `RUN@GENERATION`, `RUN@2026-11-01`, or the newest of `RUN`.

    A path or URL that exists by its whole name wins. UsageError for a date that does not exist.
    """
    text = os.fspath(place)
    run, moment = split_moment(text)
    if moment is None or RunDirectory(text).storage.exists(""):
        return RunDirectory(text), None
    return RunDirectory(run), Moment.parse(moment)
