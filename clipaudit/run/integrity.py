"""`check`: whether everything that a run stores is what was committed, and agrees with itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from clipaudit.arrays import Float32s
from clipaudit.errors import IntegrityError, RunNotFound
from clipaudit.run.basis import read_basis
from clipaudit.run.column_types import column_type, typed_by_values
from clipaudit.run.directory import BASIS, MANIFEST, RunDirectory
from clipaudit.run.hashes import DerivedFiles, check_files, check_records, check_run_files
from clipaudit.run.moments import Moments
from clipaudit.run.moments_file import load_moments
from clipaudit.run.projections import open_table, stored_types, verify
from clipaudit.run.reader import Run
from clipaudit.run.records import CommitRecord
from clipaudit.run.row_moments import moments_by_label, moments_of_rows
from clipaudit.schema import OK

REMAINDER_TOLERANCE = {"fp32": 5e-6, "int8": 5e-6, "fp16": 5e-3, "bf16": 2e-2}
"""Largest remainder, max abs on the unit embedding, that the integrity check of a precision may leave."""

_ROWS_TOLERANCE = 1e-9
"""Relative difference of stored moments from those of the rows: float64 rounding."""
_TYPE_WORDS = {"number": "numbers", "boolean": "true and false", "text": "text"}
_PROJECTOR_TOLERANCE = 1e-4
"""Largest entry of P P - P for a basis stored in float32."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The result of `clipaudit check`."""

    run: str
    """Its path or URL."""
    shards: int
    """Committed shards that were checked."""
    rows: int
    """Of these shards."""
    problems: tuple[str, ...]
    """One sentence each; empty when all is well."""
    remarks: tuple[str, ...]
    """What could not be checked, one sentence each."""
    largest_remainder: float
    """Over all ok rows: max abs of embedding minus sum of parts, unit embedding."""
    remainder_tolerance: float
    remainder_quantiles: dict[str, float]
    """Median, 99 % and 99.9 % of the remainder over all ok rows, approximate: of at most 1000 rows a shard."""


def check(run: str | RunDirectory, *, remainder_tolerance: float | None = None) -> CheckReport:
    """Read everything that is committed and compare it with its records; problems are listed, not raised.

    For each shard: hashes, sizes, rows, columns, footer, unique keys, status counts, the remainders against
    `remainder_tolerance` (default: by the run's precision), and the moments against those of the rows. For the run:
    `run.json` and the basis, by the hashes that the shards recorded, the records by their digests, and all that was
    made of the rows (heads, indexes, reports ...) by `SHA256SUMS` in its directory. Runs of version 0.1 recorded less:
    then the basis is checked as far as it can be, and files without a hash are counted, with a remark.
    RunNotFound when there is no run; IntegrityError only when `run.json` or a commit record cannot be read.
    """
    reader = Run(run)
    precision = str(reader.manifest.identity.get("precision", "fp32"))
    tolerance = REMAINDER_TOLERANCE.get(precision, 2e-2) if remainder_tolerance is None else remainder_tolerance
    directory, derived = reader.directory, DerivedFiles(reader.directory)
    problems = [*_check_basis(reader), *check_run_files(directory, reader.records.values()), *check_records(directory)]
    problems += derived.problems()
    remainders = [np.zeros(0, np.float32)]
    largest = 0.0
    for record in reader.records.values():
        shard_problems, remainder = _check_shard(reader, record, tolerance)
        problems += shard_problems
        largest = max(largest, float(remainder.max(initial=0.0)))
        # every n-th: quantiles of a large run without all of its remainders in memory
        remainders.append(remainder[:: max(1, -(-len(remainder) // 1000))])
    sample = np.concatenate(remainders)
    quantiles = (
        {}
        if not len(sample)
        else {name: float(np.quantile(sample, q)) for name, q in (("0.5", 0.5), ("0.99", 0.99), ("0.999", 0.999))}
    )
    return CheckReport(
        run=reader.url,
        shards=len(reader.records),
        rows=sum(record.rows for record in reader.records.values()),
        problems=tuple(problems),
        remarks=tuple(_remarks(reader, derived.unrecorded, damaged=bool(problems))),
        largest_remainder=largest,
        remainder_tolerance=tolerance,
        remainder_quantiles=quantiles,
    )


def _check_shard(reader: Run, record: CommitRecord, tolerance: float) -> tuple[list[str], Float32s]:
    """Problems of one shard, and the remainders of its ok rows."""
    none = np.zeros(0, np.float32)
    recorded = reader.history.recorded
    listed = record.shard_id < len(recorded)
    if not listed or record.url not in reader.history.homes(recorded[record.shard_id].url):
        return [f"shard {record.shard_id} ({record.url}) is committed, but is not in run.json"], none
    damaged = list(check_files(reader.directory, record.files, "committed"))
    if damaged:
        return damaged, none  # the content of a damaged file is not compared further
    try:
        _verify_table(reader, record)
        problems, remainder = _check_rows(reader, record, tolerance)
        return [*problems, *_check_moments(reader, record)], remainder
    except IntegrityError as error:
        return [str(error)], none


def _remarks(reader: Run, unrecorded: Sequence[str], *, damaged: bool) -> Iterator[str]:
    """What no record knows. The values that type old attributes are not read from a damaged run."""
    if reader.records and not any(record.run_files for record in reader.records.values()):
        yield (
            f"no shard recorded the hashes of {MANIFEST} and {BASIS} (a run of version 0.1): of the basis, Q is"
            " examined, and that all numbers are finite"
        )
    if not damaged and typed_by_values(reader.records.values(), reader.spec):
        types = reader.attribute_types.items()
        kinds = ", ".join(f"{name} as {_TYPE_WORDS[column_type(kind)]}" for name, kind in types)
        yield f"attributes were stored without their types (a run of version 0.1) and are typed by values: {kinds}"
    if unrecorded:
        number = f"{len(unrecorded)} files" if len(unrecorded) > 1 else "a file"
        yield f"{number} in the run came without a hash, by version 0.1 or by hand; the first: {unrecorded[0]}"


def _verify_table(reader: Run, record: CommitRecord) -> None:
    footer = {"clipaudit.shard": record.url, "clipaudit.shard_id": str(record.shard_id)}
    footer["clipaudit.fingerprint"] = reader.manifest.fingerprint
    size = record.files[record.projections].bytes
    verify(reader.directory, record.projections, reader.spec, rows=record.rows, size=size, footer=footer)


def _check_rows(reader: Run, record: CommitRecord, tolerance: float) -> tuple[list[str], Float32s]:
    """Problems of one shard's plain columns, and the (ok,) remainders of its ok rows."""
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
    # not `>`: nan counts as over
    over = int((~(remainder <= tolerance)).sum())
    if over:
        worst = f"the largest: {remainder.max():.1e}"
        problems.append(f"{full} has {over} rows with a remainder over {tolerance:.1e}; {worst}")
    return problems, remainder


def _check_moments(reader: Run, record: CommitRecord) -> Iterator[str]:
    """Problems of one shard's stored moments, compared with those of its rows."""
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
    # by the largest number of a kind: entries near 0 differ by more than their own size
    scaled = [np.abs(x - y).max(initial=0.0) / max(np.abs(y).max(initial=0.0), 1e-30) for x, y in pairs]
    return float(max(scaled))


def _check_basis(reader: Run) -> Iterator[str]:
    """Problems of the basis. P = Q Q' of each head must be a projector, P P = P; it is 1 unless the head lacks rank."""
    if not reader.records:
        return
    try:
        basis = read_basis(reader.directory, reader.spec.heads)
    except (IntegrityError, RunNotFound) as error:
        yield str(error)
        return
    for name, array in basis.tensors.items():
        if not np.isfinite(array).all():
            yield f"{name} in {BASIS} holds numbers that are not finite"
    for head in reader.spec.heads:
        Q = basis.Q(head).astype(np.float64)
        gram = Q @ Q.T
        # of a head that lacks rank Q Q' is a projector and not the identity
        off = float(np.abs(gram @ gram - gram).max(initial=0.0))
        if not off <= _PROJECTOR_TOLERANCE or Q.shape != (reader.spec.head_dim, reader.spec.embed_dim):
            yield f"the basis of {head} in basis.safetensors is not orthonormal: off by {off:.1e}"
            return
