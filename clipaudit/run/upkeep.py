"""Looking after a run: how far it is, what may be thrown away, and whether everything stored is what was committed."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from clipaudit.errors import IntegrityError, RunNotFound
from clipaudit.run.basis import read_basis
from clipaudit.run.directory import ATTEMPTS, FAILED, MOMENTS, PROJECTIONS, RunDirectory, shard_of
from clipaudit.run.moments import Moments
from clipaudit.run.moments_file import load_moments
from clipaudit.run.projections import open_table, stored_types, verify
from clipaudit.run.reader import Run
from clipaudit.run.records import CommitRecord
from clipaudit.run.row_moments import moments_by_label, moments_of_rows
from clipaudit.schema import OK
from clipaudit.storage.directory import Entry
from clipaudit.storage.local import TEMPORARY

YOUNG_SECONDS = 6 * 3600.0
"""Files younger than this may belong to a job that is writing them: `gc` leaves them alone."""

REMAINDER_TOLERANCE = {"fp32": 5e-6, "int8": 5e-6, "fp16": 5e-3, "bf16": 2e-2}
"""Largest remainder, max abs on the unit embedding, that the integrity check of a precision may leave."""

_ROWS_TOLERANCE = 1e-9
_PROJECTOR_TOLERANCE = 1e-4
_READ_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is."""

    run: str
    shards: int
    committed: int
    failed: int
    """Given up, and not committed since."""
    pending: int
    partial: int
    """Committed, but truncated: the end of the shard could not be read."""
    rows: int
    ok: int
    skipped: dict[str, int]
    """Rows that are not ok, by status."""
    coverage: float
    """Ok rows among the rows of committed shards, 0..1."""
    lost: float
    """Share of the samples of committed shards that are no ok rows, 0..1: those skipped, and by their bytes those
    behind the place where a shard is damaged; what a cut file lacks nobody can know. 1 when there are no rows."""
    bytes_in: int
    bytes_coverage: float
    """Input bytes of all shards that were read whole, 0..1; below 1 as long as shards are pending."""
    bytes_stored: int
    """Everything that belongs to committed shards, and the run's own files; no orphans."""
    bytes_orphaned: int
    images_per_second: float
    """Ok rows by the seconds of their attempts, per worker; 0 when nothing was timed."""
    timings: dict[str, float]
    """Seconds by stage, over all committed shards."""
    remarks: tuple[str, ...]
    """What a reader should know, one sentence each."""

    @property
    def bytes_per_image(self) -> float:
        """Stored bytes for each ok row; 0 when there are none."""
        return self.bytes_stored / self.ok if self.ok else 0.0


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What `clipaudit check` found."""

    run: str
    shards: int
    """Committed shards that were looked at."""
    rows: int
    problems: tuple[str, ...]
    """One sentence each; empty when all is well."""
    largest_remainder: float
    remainder_tolerance: float
    remainder_quantiles: dict[str, float]
    """Median, 99 % and 99.9 % of the remainder over all ok rows, approximate: of at most 1000 rows a shard."""


def status(run: str | RunDirectory) -> RunStatus:
    """Count a run's shards, samples and bytes; RunNotFound when there is no run."""
    reader = Run(run)
    directory, coverage, records = reader.directory, reader.coverage(), reader.records
    failed = [shard for shard in directory.failures() if shard not in records]
    entries = directory.storage.walk()
    orphans = {entry.path for entry in _orphans(directory, entries, records)}
    timings: Counter[str] = Counter()
    for record in records.values():
        timings.update(record.timings)
    total = timings.get("total", 0.0)
    return RunStatus(
        run=directory.url,
        shards=coverage.shards,
        committed=coverage.committed,
        failed=len(failed),
        pending=coverage.shards - coverage.committed - len(failed),
        partial=coverage.truncated,
        rows=coverage.rows,
        ok=coverage.ok,
        skipped=coverage.skipped,
        coverage=coverage.samples_share,
        lost=_lost(records),
        bytes_in=coverage.bytes_in,
        bytes_coverage=coverage.bytes_share,
        bytes_stored=sum(entry.bytes for entry in entries if entry.path not in orphans and _is_own(entry.path)),
        bytes_orphaned=sum(entry.bytes for entry in entries if entry.path in orphans),
        images_per_second=coverage.ok / total if total > 0 else 0.0,
        timings=dict(timings),
        remarks=tuple(_remarks(reader, failed)),
    )


def _lost(records: dict[int, CommitRecord]) -> float:
    found = records.values()
    rows, ok = sum(record.rows for record in found), sum(record.ok for record in found)
    size, good = sum(record.input_size for record in found), sum(record.bytes_good for record in found)
    if not rows:
        return 1.0 if records else 0.0
    return 1 - ok / rows * (good / size if size else 1.0)


def _is_own(path: str) -> bool:
    """Whether a file is part of the table itself, and not of what was made from it later."""
    return "/" not in path or path.startswith((f"{PROJECTIONS}/", f"{MOMENTS}/", "_"))


def _remarks(reader: Run, failed: list[int]) -> Iterator[str]:
    failures = reader.directory.failures() if failed else {}
    for shard in failed[:3]:
        yield f"shard {failures[shard].url} failed {failures[shard].attempts} times: {failures[shard].error}"
    cut = [record for record in reader.records.values() if record.truncated is not None]
    for record in cut[:3]:
        lost = record.input_size - record.bytes_good
        yield f"shard {record.url} is truncated, {lost:,} of {record.input_size:,} bytes are lost: {record.truncated}"
    if len(failed) > 3 or len(cut) > 3:
        yield "more shards failed or are truncated; see _failed/ and _committed/ in the run"
    for field, wrong in (("missing_attributes", "is missing from"), ("bad_attributes", "is no plain value in")):
        counts: Counter[str] = Counter()
        for record in reader.records.values():
            counts.update(getattr(record, field))
        for name, count in sorted(counts.items()):
            yield f"attribute {name} {wrong} {count:,} samples"


def gc(run: str | RunDirectory, *, dry_run: bool = False, min_age_seconds: float = YOUNG_SECONDS) -> list[str]:
    """Remove what no commit refers to and what was left written aside; returns the paths, relative to the run.

    Files younger than `min_age_seconds`, or of unknown age, stay: a job may be writing them. 0 removes those too.
    Ages are told by the clock that stamps the files, the store's or the file server's, which may differ from ours.
    """
    directory = run if isinstance(run, RunDirectory) else RunDirectory(run)
    if not directory.exists():
        raise RunNotFound(f"there is no run at {directory.url}")
    # files first, commits after: a file that is committed in between is then seen as committed
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
    """Every file, and what time it is for the store (seconds since the epoch); None when it does not stamp files."""
    probe = f".clock-{uuid.uuid4().hex[:12]}{TEMPORARY}"
    directory.storage.replace(probe, b"1")
    try:
        entries = directory.storage.walk()
    finally:
        directory.storage.remove(probe)
    now = next((entry.modified for entry in entries if entry.path == probe), None)
    return [entry for entry in entries if entry.path != probe], now


def _orphans(directory: RunDirectory, entries: list[Entry], records: dict[int, CommitRecord]) -> list[Entry]:
    kept = {name for record in records.values() for name in record.files}
    return [entry for entry in entries if _is_orphan(entry.path, kept, records)]


def _is_orphan(path: str, kept: set[str], records: dict[int, CommitRecord]) -> bool:
    if _is_aside(path):
        return True
    shard = shard_of(path)
    if path.startswith((f"{PROJECTIONS}/", f"{MOMENTS}/")):
        return shard is not None and path not in kept
    return path.startswith((f"{ATTEMPTS}/", f"{FAILED}/")) and shard in records


def _is_aside(path: str) -> bool:
    return any(part.startswith(".") and part.endswith(TEMPORARY) for part in path.split("/"))


def _remove_empty_asides(directory: RunDirectory, removed: list[str]) -> None:
    for path in removed:
        parts = path.split("/")
        for depth, part in enumerate(parts[:-1]):
            if part.startswith(".") and part.endswith(TEMPORARY):
                directory.storage.remove_tree("/".join(parts[: depth + 1]))


def check(run: str | RunDirectory, *, remainder_tolerance: float | None = None) -> CheckReport:
    """Read everything that is committed and compare it with its records; problems are listed, not raised.

    For each shard: hashes, sizes, rows, columns, footer, unique keys, status counts, the remainders against
    `remainder_tolerance` (default: by the run's precision), and the moments against those of the rows. For the run: the
    basis. RunNotFound when there is no run; IntegrityError only when `run.json` or a commit record cannot be read.
    """
    reader = Run(run)
    precision = str(reader.manifest.identity.get("precision", "fp32"))
    tolerance = REMAINDER_TOLERANCE.get(precision, 2e-2) if remainder_tolerance is None else remainder_tolerance
    problems = list(_check_basis(reader))
    remainders = [np.zeros(0, np.float32)]
    largest = 0.0
    for record in reader.records.values():
        found, remainder = _check_shard(reader, record, tolerance)
        problems += found
        largest = max(largest, float(remainder.max(initial=0.0)))
        remainders.append(remainder[:: max(1, len(remainder) // 1000)])
    sample = np.concatenate(remainders)
    quantiles = (
        {}
        if not len(sample)
        else {name: float(np.quantile(sample, q)) for name, q in (("0.5", 0.5), ("0.99", 0.99), ("0.999", 0.999))}
    )
    return CheckReport(
        run=reader.directory.url,
        shards=len(reader.records),
        rows=sum(record.rows for record in reader.records.values()),
        problems=tuple(problems),
        largest_remainder=largest,
        remainder_tolerance=tolerance,
        remainder_quantiles=quantiles,
    )


def _check_shard(reader: Run, record: CommitRecord, tolerance: float) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Problems of one shard, and the remainders of its ok rows."""
    none = np.zeros(0, np.float32)
    shard = next((shard for shard in reader.manifest.shards if shard.id == record.shard_id), None)
    if shard is None or shard.url != record.url:
        return [f"shard {record.shard_id} ({record.url}) is committed, but is not in run.json"], none
    damaged = list(_check_files(reader.directory, record))
    if damaged:
        return damaged, none  # what a damaged file says is not worth comparing
    try:
        _verify_table(reader, record)
        problems, remainder = _check_rows(reader, record, tolerance)
        return [*problems, *_check_moments(reader, record)], remainder
    except IntegrityError as error:
        return [str(error)], none


def _check_files(directory: RunDirectory, record: CommitRecord) -> Iterator[str]:
    for path, stored in record.files.items():
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
        if size != stored.bytes:
            yield f"{full} has {size} bytes where {stored.bytes} were committed"
        elif digest.hexdigest() != stored.sha256:
            yield f"{full} is not what was committed: its sha256 differs"


def _verify_table(reader: Run, record: CommitRecord) -> None:
    footer = {"clipaudit.shard": record.url, "clipaudit.shard_id": str(record.shard_id)}
    footer["clipaudit.fingerprint"] = reader.manifest.fingerprint
    size = record.files[record.projections].bytes
    verify(reader.directory, record.projections, reader.spec, rows=record.rows, size=size, footer=footer)


def _check_rows(reader: Run, record: CommitRecord, tolerance: float) -> tuple[list[str], npt.NDArray[np.float32]]:
    full = reader.directory.storage.full(record.projections)
    columns = ["shard_id", "key", "status", "remainder"]
    with open_table(reader.directory, record.projections) as file:
        table = file.read(columns, stored_types(reader.spec))
    problems = []
    counts = Counter(table["status"].to_pylist())
    if counts != Counter({OK: record.ok, **record.skipped}):
        problems.append(f"{full} counts {dict(counts)} by status, and its commit record another number")
    if pc.any(pc.not_equal(table["shard_id"], record.shard_id)).as_py():
        problems.append(f"{full} holds rows of another shard")
    good = table.filter(pc.equal(table["status"], OK))
    repeated = [key for key, count in Counter(good["key"].to_pylist()).items() if count > 1]
    if repeated:
        problems.append(f"{full} holds {len(repeated)} keys more than once among ok rows; the first: {repeated[0]}")
    remainder = np.asarray(good["remainder"], np.float32)
    over = int((~(remainder <= tolerance)).sum())
    if over:
        worst = f"the largest: {remainder.max():.1e}"
        problems.append(f"{full} has {over} rows with a remainder over {tolerance:.1e}; {worst}")
    return problems, remainder


def _check_moments(reader: Run, record: CommitRecord) -> Iterator[str]:
    directory = reader.directory
    full = directory.storage.full(record.moments)
    stored = load_moments(directory, record.moments)
    template = Moments.empty(reader.spec)
    if (stored.total.heads, stored.total.wide) != (template.heads, template.wide):
        yield f"{full} holds moments of other columns"
        return
    difference = _difference(stored.total, moments_of_rows(directory, record.projections, template))
    if not difference <= _ROWS_TOLERANCE:
        yield f"{full} disagrees with the rows: moments differ by {difference:.1e} of their scale"
    recomputed = moments_by_label(directory, record.projections, template, list(stored.labels))
    for label, moments in stored.labels.items():
        difference = _difference(moments, recomputed[label])
        if not difference <= _ROWS_TOLERANCE:
            yield f"{full} disagrees with the rows of label {label!r}: moments differ by {difference:.1e} of the scale"


def _difference(a: Moments, b: Moments) -> float:
    """Largest difference of two moments, relative to the scale of each kind of number; inf when the counts differ."""
    if a.count != b.count:
        return float("inf")
    pairs = (
        (a.head_mean, b.head_mean),
        (a.head_scatter, b.head_scatter),
        (a.wide_mean, b.wide_mean),
        (a.wide_scatter, b.wide_scatter),
    )
    scaled = [np.abs(x - y).max(initial=0.0) / max(np.abs(y).max(initial=0.0), 1e-30) for x, y in pairs]
    return float(max(scaled))


def _check_basis(reader: Run) -> Iterator[str]:
    """Q's rows are orthonormal, or for a head of deficient rank an isometry's: Q Q' is a projector."""
    if not reader.records:
        return
    try:
        basis = read_basis(reader.directory, reader.spec.heads)
    except (IntegrityError, RunNotFound) as error:
        yield str(error)
        return
    for head in reader.spec.heads:
        Q = basis.Q(head).astype(np.float64)
        gram = Q @ Q.T
        off = float(np.abs(gram @ gram - gram).max(initial=0.0))
        if not off <= _PROJECTOR_TOLERANCE or Q.shape != (reader.spec.head_dim, reader.spec.embed_dim):
            yield f"the basis of {head} in basis.safetensors is not orthonormal: off by {off:.1e}"
            return
