"""`pack`: a source to shards. The source is listed, shards are planned, and each is written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import random
import shutil
import tempfile
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, overload

from clipaudit.errors import StorageFull, UsageError
from clipaudit.schema import CLASSNAMES, VERSION
from clipaudit.shards.pack_processes import ShardProcesses
from clipaudit.shards.pack_writer import PART, RECORD, Omissions, ShardSummary, ShardTask
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.opening import open_source
from clipaudit.shards.sources.options import SourceOptions
from clipaudit.storage.local import replace_file

WORK: Final = ".pack-"
"""Begins the name of the directory in OUT that is there only while a pack runs."""
REASONS: Final = {
    "not_an_image": "no image by its name",
    "hidden": "hidden file",
    "no_class": "not in a class folder",
    "other_split": "of another split",
    "outside": "leads out of the source",
    "folder_link": "link to a folder",
    "missing_file": "does not exist",
    "empty_file": "empty file",
    "too_large": "larger than 8 GiB",
    "unreadable": "cannot be read",
    "changed": "changed while it was packed",
    "no_label": "no label",
    "no_path": "no path",
    "repeated_path": "listed before",
    "no_image": "no image bytes",
    "beside": "file of the image before it, such as a mask",
    "bad_row": "row that cannot be read",
    "bad_json": "json that cannot be read (its image is packed without it)",
    "unknown_image": "annotation of an unknown image",
    "unknown_category": "annotation of an unknown category",
}
"""Why something is left out, as it is printed."""


Writer: TypeAlias = "Callable[[Sequence[ShardTask]], Iterator[ShardSummary]]"
"""Writes shards, in any order; each one's summary as soon as it is there. Raises OSError."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """One pack: from where, to where, how."""

    source: str
    """A directory, a table, a COCO json, a Parquet file or a tar."""
    out: Path
    """Local directory of the shards."""
    options: SourceOptions = field(default_factory=SourceOptions)
    shard_mb: float = 100.0
    """About the size of a shard, in units of 10^6 bytes."""
    shuffle: int | None = 0
    """Seed of the order of images; None for the source's own order."""
    workers: int = 1
    """Processes that write shards."""


@dataclass(kw_only=True)
class Packing:
    """What is to be written, and what was."""

    kind: str
    """What the source was taken for."""
    images: int
    """Images to be packed."""
    nbytes: int
    """Of all images."""
    shards: int
    class_names: list[str]
    splits: dict[str, int]
    """Images of each split."""
    columns: list[str]
    """Of the table, in the samples' json."""
    notes: list[str]
    left_out: dict[str, int]
    """Reason (a key of REASONS) to number."""
    examples: dict[str, list[str]]
    """Reason to the first three names."""
    samples: int = 0
    """Written, with those of shards that were finished before."""
    finished_before: int = 0
    """Shards that an earlier pack had finished."""
    stored_bytes: int = 0
    """Of all finished shards."""


def plan(config: PackConfig) -> Packing:
    """List the source and plan the shards; writes nothing. Raises UsageError as `pack`."""
    _check(config)
    catalogue = open_source(config.source, config.options, None)
    order = _order(len(catalogue), config.shuffle)
    return _described(catalogue, len(_boundaries(catalogue.stored_sizes(), config.shard_mb, order)))


def pack(
    config: PackConfig,
    *,
    planned: Callable[[Packing], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    writer: Writer | None = None,
) -> Packing:
    """Pack a source into `OUT/shard-NNNNNN.tar`, with `classnames.txt` and `pack.jsonl` beside them.

    The images' bytes are never changed. `planned` is called once before anything is written, `progress` with
    (images written, images) after each shard. A shard that an earlier call with the same source and options finished
    is not written again. `writer` writes the shards elsewhere, on a cluster that sees the same directories; default:
    `config.workers` processes here. Raises UsageError when the source or an option is wrong, or OUT holds other shards,
    and StorageFull.
    """
    _check(config)
    _refuse_foreign(config.out)
    existed = config.out.exists()
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        with (
            _Record(config.out) as record,
            ShardProcesses(config.workers if writer is None else 1) as processes,
            tempfile.TemporaryDirectory(prefix=WORK, dir=config.out) as work,
        ):
            catalogue = open_source(config.source, config.options, Path(work))
            return _pack(config, catalogue, record, writer or processes.write, planned, progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{config.out} has no space left; free some, and give the same command again") from error
        raise UsageError(f"{error.filename or config.out} cannot be used: {error.strerror}") from error
    finally:
        if not existed:
            with contextlib.suppress(OSError):
                config.out.rmdir()  # it is empty when the source was refused


def _pack(
    config: PackConfig,
    catalogue: Catalogue,
    record: _Record,
    writer: Writer,
    planned: Callable[[Packing], None],
    progress: Callable[[int, int], None],
) -> Packing:
    order = _order(len(catalogue), config.shuffle)
    sizes = catalogue.stored_sizes()
    shards = _boundaries(sizes, config.shard_mb, order)
    packing = _described(catalogue, len(shards))
    finished = record.begin(_fingerprint(config, catalogue))
    needed = sum(sizes) - sum(summary.nbytes for summary in finished.values())
    free = shutil.disk_usage(config.out).free
    if needed > free:
        raise StorageFull(f"the shards take about {needed:,} bytes, and {config.out} has {free:,} bytes free")
    planned(packing)
    packing.finished_before = len(finished)
    if catalogue.names_file is not None:
        replace_file(config.out / CLASSNAMES, catalogue.names_file)
    left_out = Omissions()
    left_out.merge(catalogue.left_out.counts, catalogue.left_out.examples)
    done = 0
    tasks = ShardTasks(config, catalogue, order, shards, skip=set(finished))
    for summary in chain(finished.values(), writer(tasks)):
        if summary.name not in finished:
            record.add(summary)
        packing.samples += summary.samples
        packing.stored_bytes += summary.nbytes
        left_out.merge(summary.left_out, summary.examples)
        done += summary.samples + sum(summary.left_out.values())
        progress(done, packing.images)
    packing.left_out, packing.examples = left_out.counts, left_out.examples
    return packing


def _check(config: PackConfig) -> None:
    if not config.shard_mb > 0:
        raise UsageError(f"--shard-mb {config.shard_mb} must be above 0")
    if config.workers < 1:
        raise UsageError(f"--workers {config.workers} must be at least 1")
    if "://" in config.source or "://" in str(config.out):
        raise UsageError("pack reads and writes local files: copy the source here, and the shards to where they belong")
    source, out = Path(config.source).resolve(), config.out.resolve()
    if not source.exists():
        raise UsageError(f"{config.source} does not exist")
    if source.is_dir() and out.is_relative_to(source):
        raise UsageError(f"{config.out} lies inside {config.source}: give a directory outside of it")


def _refuse_foreign(out: Path) -> None:
    """Raise UsageError when OUT is a file, or holds shards that no pack has written."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a directory for the shards")
    if out.is_dir() and not (out / RECORD).exists() and (any(out.glob("*.tar")) or (out / CLASSNAMES).exists()):
        raise UsageError(f"{out} holds shards that `clipaudit pack` did not write: give another directory")


def _order(count: int, seed: int | None) -> array[int]:
    """Positions in the source's order, in the order of packing; 8 bytes each."""
    order = array("q", range(count))
    if seed is not None:
        random.Random(seed).shuffle(order)  # noqa: S311 - an order, no secret
    return order


def _boundaries(sizes: Sequence[int], shard_mb: float, order: Sequence[int]) -> list[tuple[int, int]]:
    """(first, behind the last) of each shard in `order`; a shard is full when its samples reach `shard_mb`.

    `sizes`: bytes that each image's sample takes, in the source's order.
    """
    limit = shard_mb * 1e6
    shards, start, nbytes = [], 0, 0
    for end, position in enumerate(order):
        if nbytes + sizes[position] > limit and end > start:
            shards.append((start, end))
            start, nbytes = end, 0
        nbytes += sizes[position]
    return [*shards, (start, len(order))] if len(order) else []


def _described(catalogue: Catalogue, shards: int) -> Packing:
    if not len(catalogue):
        reasons = [
            f"{number:,} {REASONS[reason]} (such as {catalogue.left_out.examples[reason][0]})"
            for reason, number in catalogue.left_out.counts.items()
        ]
        raise UsageError(f"no image is left to pack ({catalogue.kind}): {'; '.join(reasons) or 'the source is empty'}")
    return Packing(
        kind=catalogue.kind,
        images=len(catalogue),
        nbytes=catalogue.image_bytes(),
        shards=shards,
        class_names=catalogue.class_names,
        splits=catalogue.splits,
        columns=catalogue.columns,
        notes=catalogue.notes,
        left_out=dict(catalogue.left_out.counts),
        examples=catalogue.left_out.examples,
    )


def _fingerprint(config: PackConfig, catalogue: Catalogue) -> str:
    """Changes with everything that changes a shard's bytes."""
    parts = (VERSION, catalogue.fingerprint, config.shard_mb, config.shuffle, catalogue.caption)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


class ShardTasks(Sequence[ShardTask]):
    """The shards that are to be written; each one's list of images is made when it is asked for, and not kept."""

    def __init__(
        self,
        config: PackConfig,
        catalogue: Catalogue,
        order: Sequence[int],
        shards: Sequence[tuple[int, int]],
        *,
        skip: Collection[str],
    ) -> None:
        """`shards` are (first, behind the last) in `order`, and `skip` the names of those that are there already."""
        self._config, self._catalogue, self._order = config, catalogue, order
        named = ((f"shard-{number:06d}.tar", bounds) for number, bounds in enumerate(shards))
        self._shards = [(name, bounds) for name, bounds in named if name not in skip]

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, number: int) -> ShardTask: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[ShardTask]: ...
    def __getitem__(self, number: int | slice) -> ShardTask | Sequence[ShardTask]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        name, (start, end) = self._shards[number]
        catalogue = self._catalogue
        return ShardTask(
            path=str(self._config.out.resolve() / name),
            root=catalogue.root,
            entries=catalogue.entries(self._order[start:end]),
            work=None if catalogue.work is None else str(catalogue.work.resolve()),
            rows=catalogue.has_rows,
            class_names=None if catalogue.label_in_columns else catalogue.class_names,
            documents=catalogue.documents,
            caption=catalogue.caption,
        )


class _Record:
    """The file `pack.jsonl`: the plan's fingerprint, then one line for each finished shard. A context manager.

    Locked while it is open: of two packs into one directory the second is refused.
    """

    def __init__(self, out: Path) -> None:
        self._out = out

    def __enter__(self) -> _Record:
        self._file: IO[bytes] = (self._out / RECORD).open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(f"another pack is writing into {self._out}") from None
        self._remove_parts()  # of a pack that was killed; no other runs here now
        for work in self._out.glob(f"{WORK}*"):
            shutil.rmtree(work, ignore_errors=True)
        return self

    def _remove_parts(self) -> None:
        for aside in self._out.glob(f".shard-*{PART}"):
            aside.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self._remove_parts()  # of processes that were stopped
        if not self._file.tell():
            (self._out / RECORD).unlink(missing_ok=True)  # the source was refused: nothing was begun
        self._file.close()

    def begin(self, fingerprint: str) -> dict[str, ShardSummary]:
        """The shards of this plan that are there as they were written, by name.

        Raises UsageError when the record is of another plan.
        """
        self._file.seek(0)
        lines = list(_json_lines(self._file.read()))
        if lines and lines[0].get("plan") != fingerprint:
            raise UsageError(
                f"{self._out} holds shards of another source or other options, or the source has changed since: "
                "give another directory, or delete that one"
            )
        self._file.truncate(0)
        self._append({"clipaudit": VERSION, "plan": fingerprint})
        finished = {}
        for line in lines[1:]:
            summary = ShardSummary(**line)
            path = self._out / summary.name
            if path.is_file() and path.stat().st_size == summary.nbytes:
                finished[summary.name] = summary
                self._append(line)
        return finished

    def add(self, summary: ShardSummary) -> None:
        """Note a shard that is written."""
        self._append(asdict(summary))

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


def _json_lines(data: bytes) -> Iterator[dict[str, Any]]:
    """The lines of a record; ends before a line that was cut."""
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        yield json.loads(line)
