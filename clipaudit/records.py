"""What a run directory's JSON files hold: the manifest, and the record of each shard's commit or failure."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from clipaudit.errors import IntegrityError, RunMismatch
from clipaudit.schema import SCHEMA_VERSION, Shard, TableSpec

_Record = TypeVar("_Record")
_SHOWN_CHARACTERS = 60


def now() -> str:
    """The present time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`run.json`: what a run is bound to. Written once; every resume is compared with it."""

    clipaudit_version: str
    identity: dict[str, Any]
    """The options that change what is stored (`AuditConfig.identity`), plain JSON values."""
    fingerprint: str
    """Fingerprint of `identity`."""
    model: dict[str, Any]
    """Facts of the model, plain JSON values; `fingerprint` among them is that of the weights."""
    table: TableSpec
    shards: tuple[Shard, ...]
    """In the order of their ids."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that computed the run."""
    created: str = field(default_factory=now)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """UTF-8 JSON, for people too."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()

    @staticmethod
    def from_json(data: bytes, where: str) -> Manifest:
        """Read back; `where` names the file. IntegrityError when it is damaged, RunMismatch when of another version."""
        return _parse(Manifest, data, where, RunMismatch)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """Size and content of one written file."""

    bytes: int
    sha256: str
    """Hex digits."""


@dataclass(frozen=True, kw_only=True)
class CommitRecord:
    """`_committed/000123.json`: the shard is done, and these are its files."""

    shard_id: int
    url: str
    attempt: str
    files: dict[str, StoredFile]
    """By path relative to the run directory."""
    rows: int
    ok: int
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows that are not `ok`, by status."""
    details: dict[str, list[str]] = field(default_factory=dict)
    """The first few sentences that explain skipped rows, by status."""
    truncated: str | None = None
    """Why the shard ended early, or None when it was read to its end."""
    input_size: int
    """Bytes of the shard."""
    input_etag: str = ""
    bytes_good: int
    """Bytes of the shard up to the last complete member; equal to `input_size` when nothing was lost."""
    missing_attributes: dict[str, int] = field(default_factory=dict)
    """Samples that lack a declared attribute, by attribute."""
    bad_attributes: dict[str, int] = field(default_factory=dict)
    """Samples whose value of an attribute is no text, number or truth value and was left out, by attribute."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by stage; `total` is the whole attempt's."""
    worker: str = ""
    committed_at: str = field(default_factory=now)
    schema_version: int = SCHEMA_VERSION

    @property
    def projections(self) -> str:
        """Path of the Parquet file, relative to the run directory."""
        return self._file("projections/")

    @property
    def moments(self) -> str:
        """Path of the moments file, relative to the run directory."""
        return self._file("moments/")

    def _file(self, prefix: str) -> str:
        for name in self.files:
            if name.startswith(prefix):
                return name
        raise IntegrityError(f"the commit record of shard {self.shard_id} names no file under {prefix}")

    def to_json(self) -> bytes:
        """UTF-8 JSON on one line: there may be 100,000 of these."""
        return _compact(self)

    @staticmethod
    def from_json(data: bytes, where: str) -> CommitRecord:
        """Read back; IntegrityError naming `where` when it is damaged, partial or of another version."""
        return _parse(CommitRecord, data, where, IntegrityError)


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """`_failed/000123.json`: the shard was given up, after `attempts` attempts."""

    shard_id: int
    url: str
    attempts: int
    kind: str
    """`error`, `timeout`, `worker_lost` or `node_lost`."""
    error: str
    """One sentence."""
    traceback: str = ""
    """Of the last attempt."""
    failed_at: str = field(default_factory=now)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """UTF-8 JSON on one line."""
        return _compact(self)

    @staticmethod
    def from_json(data: bytes, where: str) -> FailureRecord:
        """Read back; IntegrityError naming `where` when it is damaged, partial or of another version."""
        return _parse(FailureRecord, data, where, IntegrityError)


def _compact(record: CommitRecord | FailureRecord) -> bytes:
    return json.dumps(asdict(record), ensure_ascii=False, separators=(",", ":")).encode()


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def _parse(kind: type[_Record], data: bytes, where: str, newer: type[IntegrityError | RunMismatch]) -> _Record:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"{where} is damaged: not JSON ({len(data)} bytes; {error})") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise IntegrityError(f"{where} is damaged: it states no schema version")
    if version != SCHEMA_VERSION:
        raise newer(
            f"{where} has schema version {version}, and this clipaudit reads version {SCHEMA_VERSION}:"
            f" use the clipaudit that wrote it{' (a newer one)' if version > SCHEMA_VERSION else ''}"
        )
    try:
        record: _Record = _adapter(cast(Hashable, kind)).validate_json(data, strict=True)
        return record
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(f"{where} is damaged: {at}: {first['msg']}") from error


def compare_manifests(stored: Manifest, asked: Manifest, url: str) -> None:
    """Check that a resume asks for the run that is stored; RunMismatch names in one sentence what differs."""
    keys = sorted(stored.identity.keys() | asked.identity.keys())
    changed = [key for key in keys if stored.identity.get(key) != asked.identity.get(key)]
    if changed:
        listed = "; ".join(
            f"{key} was {_shown(stored.identity.get(key))}, now {_shown(asked.identity.get(key))}" for key in changed
        )
        raise RunMismatch(f"{url} holds a run with other options ({listed}): give the same options, or another --out")
    _compare_shards(stored.shards, asked.shards, url)
    was, now_is = stored.model.get("fingerprint"), asked.model.get("fingerprint")
    if was != now_is:
        raise RunMismatch(
            f"{url} holds a run of a model with other weights (fingerprint {was}, now {now_is}): give the same weights,"
            " or another --out"
        )
    if stored.table != asked.table:
        raise RunMismatch(f"{url} holds a run with another table ({_table_change(stored, asked)}): give another --out")


def _compare_shards(stored: tuple[Shard, ...], asked: tuple[Shard, ...], url: str) -> None:
    before, after = {shard.url: shard for shard in stored}, {shard.url: shard for shard in asked}
    added, removed = [name for name in after if name not in before], [name for name in before if name not in after]
    if added or removed:
        changes = (("added", added), ("removed", removed))
        listed = " and ".join(f"{len(names)} {word} (first: {names[0]})" for word, names in changes if names)
        raise RunMismatch(f"{url} holds a run over other shards, {listed}: give the same shards, or another --out")
    for name, shard in before.items():
        other = after[name]
        for what in ("size", "etag", "id"):
            was, now_is = getattr(shard, what), getattr(other, what)
            if was != now_is:
                raise RunMismatch(
                    f"shard {name} has changed since the run at {url} began ({what} was {was}, now {now_is}):"
                    " restore it, or give another --out"
                )


def _table_change(stored: Manifest, asked: Manifest) -> str:
    before, after = asdict(stored.table), asdict(asked.table)
    name = next(name for name in before if before[name] != after[name])
    return f"{name} was {_shown(before[name])}, now {_shown(after[name])}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
