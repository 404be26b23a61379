"""`status` and `gc`: how far a run is, and the removal of files that no commit refers to."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from clipaudit.errors import RunNotFound
from clipaudit.run.columns import COLUMNS, read_columns
from clipaudit.run.directory import ATTEMPTS, FAILED, MOMENTS, PROJECTIONS, RunDirectory, newest_place, shard_of
from clipaudit.run.growth import GROWTH, MOVES
from clipaudit.run.reader import Run
from clipaudit.run.records import CommitRecord
from clipaudit.storage.directory import Entry
from clipaudit.storage.local import TEMPORARY

_EXAMPLES = 100
YOUNG_SECONDS = 6 * 3600.0
"""`gc` removes no file younger than this, because a job may be writing it."""


@dataclass(frozen=True, kw_only=True)
class GenerationStatus:
    """How far one generation of a run is."""

    generation: int
    """0 for the shards that the run began with, 1 for those of the first `audit --append`."""
    created: str
    """When its shards were added, ISO 8601, UTC."""
    shards: int
    committed: int


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is."""

    run: str
    """Its path or URL."""
    shards: int
    """All shards of the run."""
    committed: int
    failed: int
    """Given up, and not committed since."""
    pending: int
    partial: int
    """Committed, but truncated: the end of the shard could not be read."""
    rows: int
    """Samples in committed shards."""
    ok: int
    """Those with vectors."""
    skipped: dict[str, int]
    """Rows that are not ok, by status."""
    notes: dict[str, int]
    """What costs no image, by kind: `bad_metadata`, `further_image`, `truncated_image` of samples; members that belong
    to no sample: `meta_file`, `nested_archive`, `hidden_file`, `nameless_file`."""
    coverage: float
    """Ok rows among the rows of committed shards, 0..1."""
    lost: float
    """Share of the samples of committed shards that are no ok rows, 0..1: those skipped, and an estimate, by bytes, of
    those behind the place where a shard is damaged. Samples that are missing from a shorter file are not counted. 1
    when there are no rows."""
    bytes_in: int
    """Bytes of all shards."""
    bytes_coverage: float
    """Input bytes of all shards that were read whole, 0..1; below 1 as long as shards are pending."""
    bytes_stored: int
    """Bytes of the files of committed shards and of the run itself; no orphans."""
    bytes_orphaned: int
    """Bytes that `gc` would remove, in files of any age."""
    images_per_second: float
    """Ok rows divided by the seconds of their attempts, per worker; 0 when nothing was timed."""
    timings: dict[str, float]
    """Seconds by stage, over all committed shards."""
    generations: tuple[GenerationStatus, ...]
    """One for the run's beginning, and one for each append."""
    remarks: tuple[str, ...]
    """What a reader of the figures should know, one sentence each."""
    examples: dict[str, tuple[str, ...]]
    """By status and by kind of note, at most 100 of each: `SHARD: KEY: what is wrong and what mends it`."""

    @property
    def bytes_per_image(self) -> float:
        """Stored bytes for each ok row; 0 when there are none."""
        return self.bytes_stored / self.ok if self.ok else 0.0


def status(run: str | RunDirectory) -> RunStatus:
    """Count a run's shards, samples and bytes; RunNotFound when there is no run."""
    reader = Run(run)
    directory, coverage, records = reader.directory, reader.coverage(), reader.records
    failed = [shard for shard in directory.failures() if shard not in records and shard < coverage.shards]
    entries = directory.storage.walk()
    everything = records if reader.moment is None else directory.committed()
    orphans = {entry.path for entry in _orphans(directory, entries, everything)}
    later = everything.keys() - records.keys()  # committed, and no part of this state
    timings: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for record in records.values():
        timings.update(record.timings)
        notes.update(record.notes)
    total = timings.get("total", 0.0)
    return RunStatus(
        run=reader.url,
        shards=coverage.shards,
        committed=coverage.committed,
        failed=len(failed),
        pending=coverage.shards - coverage.committed - len(failed),
        partial=coverage.truncated,
        rows=coverage.rows,
        ok=coverage.ok,
        skipped=coverage.skipped,
        notes=dict(notes),
        coverage=coverage.samples_share,
        lost=_lost(records.values()),
        bytes_in=coverage.bytes_in,
        bytes_coverage=coverage.bytes_share,
        bytes_stored=sum(
            entry.bytes
            for entry in entries
            if entry.path not in orphans and _is_own(entry.path) and shard_of(entry.path) not in later
        ),
        bytes_orphaned=sum(entry.bytes for entry in entries if entry.path in orphans),
        images_per_second=coverage.ok / total if total > 0 else 0.0,
        timings=dict(timings),
        generations=_generations(reader),
        remarks=tuple(_remarks(reader, failed)),
        examples=skipped_examples(records),
    )


def _generations(reader: Run) -> tuple[GenerationStatus, ...]:
    history = reader.history
    committed = Counter(map(history.generation_of, reader.records))
    parts = [(history.manifest.created, history.manifest.shards)]
    parts += [(growth.created, growth.shards) for growth in history.growths]
    return tuple(
        GenerationStatus(generation=number, created=created, shards=len(shards), committed=committed[number])
        for number, (created, shards) in enumerate(parts)
    )


def skipped_examples(records: Mapping[int, CommitRecord]) -> dict[str, tuple[str, ...]]:
    """`RunStatus.examples`: the first skipped samples of each status, and notes of each kind, over all shards."""
    by_status: dict[str, list[str]] = {}
    for record in records.values():
        shard = record.url.rpartition("/")[2]
        for name, details in record.details.items():
            chosen = by_status.setdefault(name, [])
            chosen += [f"{shard}: {detail}" for detail in details[: _EXAMPLES - len(chosen)]]
    return {name: tuple(chosen) for name, chosen in sorted(by_status.items())}


def _lost(records: Collection[CommitRecord]) -> float:
    """`RunStatus.lost`: 1 - (ok / rows) (good bytes / bytes), as if samples were spread evenly over the bytes."""
    rows, ok = sum(record.rows for record in records), sum(record.ok for record in records)
    size, good = sum(record.input_size for record in records), sum(record.bytes_good for record in records)
    if not rows:
        return 1.0 if records else 0.0
    return 1 - ok / rows * (good / size if size else 1.0)


def _is_own(path: str) -> bool:
    """Whether a file is part of the table itself, and not of what was made from it later."""
    return "/" not in path or path.startswith("_") or path.partition("/")[0] in (PROJECTIONS, MOMENTS, GROWTH, MOVES)


def _remarks(reader: Run, failed: list[int]) -> Iterator[str]:
    failures = reader.directory.failures() if failed else {}
    for shard in failed[:3]:
        yield f"shard {failures[shard].url} failed {_times(failures[shard].attempts)}: {failures[shard].error}"
    cut = [record for record in reader.records.values() if record.truncated is not None]
    for record in cut[:3]:
        lost = record.input_size - record.bytes_good
        yield f"shard {record.url} is truncated, {lost:,} of {record.input_size:,} bytes are lost: {record.truncated}"
    if len(failed) > 3 or len(cut) > 3:
        yield "more shards failed or are truncated; see _failed/ and _committed/ in the run"
    empty = [record.url for record in reader.records.values() if not record.rows and record.truncated is None]
    if empty:
        more = f" and {len(empty) - 1:,} more hold" if len(empty) > 1 else " holds"
        yield f"shard {empty[0]}{more} no sample"
    yield from _repeated(reader.records.values())
    for field, wrong in (("missing_attributes", "is missing from"), ("bad_attributes", "cannot be read in")):
        counts: Counter[str] = Counter()
        for record in reader.records.values():
            counts.update(getattr(record, field))
        for name, count in sorted(counts.items()):
            column = name if name.startswith("--") else f"attribute {name}"  # captions are counted as `--caption`
            yield f"{column} {wrong} {count:,} sample{'' if count == 1 else 's'}"


def _repeated(records: Collection[CommitRecord]) -> Iterator[str]:
    """A sentence for each content that several shards have, three at most."""
    urls: dict[str, list[str]] = {}
    for record in records:
        if record.input_sha256:
            urls.setdefault(record.input_sha256, []).append(record.url)
    repeated = [names for names in urls.values() if len(names) > 1]
    for first, *others in repeated[:3]:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        yield f"{first} and {others[0]}{more} have the same content: their images count {_times(len(others) + 1)}"
    if len(repeated) > 3:
        yield f"{len(repeated) - 3} more contents are there in several shards"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def gc(run: str | RunDirectory, *, dry_run: bool = False, min_age_seconds: float = YOUNG_SECONDS) -> list[str]:
    """Remove files that no commit refers to, and leftovers written aside; returns their paths relative to the run.

    Files younger than `min_age_seconds`, or of unknown age, stay, because a job may be writing them; 0 removes those
    too. Ages are by the clock of the store or file server, which may differ from this machine's. With `dry_run` nothing
    is removed. RunNotFound when there is no run.
    """
    directory = newest_place(run, "gc removes what no state of a run needs")
    if not directory.exists():
        raise RunNotFound(f"there is no run at {directory.url}")
    # list files first and commits second: a file that is committed in between is then known as committed
    entries, now = _entries_and_clock(directory) if min_age_seconds > 0 else (directory.storage.walk(), None)
    orphans = _orphans(directory, entries, directory.committed())
    removed = []
    for entry in orphans:
        if min_age_seconds > 0 and (now is None or entry.modified is None or now - entry.modified < min_age_seconds):
            continue
        if not dry_run:
            shard = shard_of(entry.path)
            record = None if shard is None else directory.read_commit(shard)
            if record is not None and entry.path in record.files:
                continue  # committed since the listing
            directory.storage.remove(entry.path)
        removed.append(entry.path)
    if not dry_run:
        _remove_empty_asides(directory, removed)
    return removed


def _entries_and_clock(directory: RunDirectory) -> tuple[list[Entry], float | None]:
    """Every file, and the store's present time (seconds since the epoch), or None when it has no times of files."""
    probe = f".clock-{uuid.uuid4().hex[:12]}{TEMPORARY}"
    directory.storage.replace(probe, b"1")
    try:
        entries = directory.storage.walk()
    finally:
        directory.storage.remove(probe)
    now = next((entry.modified for entry in entries if entry.path == probe), None)
    return [entry for entry in entries if entry.path != probe], now


def _orphans(directory: RunDirectory, entries: list[Entry], records: dict[int, CommitRecord]) -> list[Entry]:
    committed = {name for record in records.values() for name in record.files}
    if any(entry.path.startswith(f"{COLUMNS}/") for entry in entries):
        committed |= {record.path for record in read_columns(directory).values()}
    return [entry for entry in entries if _is_orphan(entry.path, committed, records)]


def _is_orphan(path: str, committed: set[str], records: dict[int, CommitRecord]) -> bool:
    if _is_aside(path):
        return True
    shard = shard_of(path)
    if path.startswith((f"{PROJECTIONS}/", f"{MOMENTS}/")):
        return shard is not None and path not in committed
    if path.startswith(f"{COLUMNS}/"):
        return path.endswith(".parquet") and path not in committed
    return path.startswith((f"{ATTEMPTS}/", f"{FAILED}/")) and shard in records


def _is_aside(path: str) -> bool:
    return any(part.startswith(".") and part.endswith(TEMPORARY) for part in path.split("/"))


def _remove_empty_asides(directory: RunDirectory, removed: list[str]) -> None:
    for path in removed:
        parts = path.split("/")
        for depth, part in enumerate(parts[:-1]):
            if part.startswith(".") and part.endswith(TEMPORARY):
                directory.storage.remove_tree("/".join(parts[: depth + 1]))
