"""What a run directory's JSON files hold: the manifest, and the record of each shard's commit or failure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from clipaudit.errors import IntegrityError, RunMismatch
from clipaudit.schema import SCHEMA_VERSION, Shard, TableSpec, parse_head_label

MALFORMED = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError, MemoryError),
)
"""What parsing bytes from elsewhere may raise."""

COLUMN_NAME = re.compile(r"[^\W\d][\w-]{0,99}")
"""Of a column of attributes."""
_MAX_COUNT = 2**53  # of rows or bytes: JSON numbers beyond it are not exact
_MAX_LENGTH = 2**16  # numbers of one vector
_Record = TypeVar("_Record")
_QUOTED_CHARACTERS = 60
_DIGEST_DIGITS = 16
_SHARD_FILE = re.compile(r"projections/(\d+)-\w+\.parquet|moments/(\d+)-\w+\.safetensors", re.ASCII)
_DIGEST_END = re.compile(rb',"digest":"([^"]*)"}$')


def now() -> str:
    """The present time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`run.json`: what a run is bound to. It is written once, and every resume is compared with it."""

    clipaudit_version: str
    identity: dict[str, Any]
    """The options that change what is stored (`JobConfig.identity`), plain JSON values."""
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
        """UTF-8 JSON, indented for people."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()

    @staticmethod
    def from_json(data: bytes, where: str) -> Manifest:
        """Read back; `where` names the file. IntegrityError when it is damaged, RunMismatch when of another version."""
        manifest = parse_record(Manifest, data, where, RunMismatch)
        wrong = _wrong_table(manifest.table) or wrong_shards(manifest.shards)
        if wrong:
            raise IntegrityError(f"{where} is damaged: {wrong}")
        return manifest


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
    run_files: dict[str, StoredFile] = field(default_factory=dict)
    """`run.json` and `basis.safetensors` as this attempt found them; empty in runs of version 0.1."""
    rows: int
    ok: int
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows that are not `ok`, by status."""
    details: dict[str, list[str]] = field(default_factory=dict)
    """The first few sentences that explain skipped rows, by status, and notes, by kind."""
    notes: dict[str, int] = field(default_factory=dict)
    """What costs no image, counted by kind: `shards.feed.ReadReport.notes`."""
    truncated: str | None = None
    """Why the shard ended early, or None when it was read to its end."""
    input_size: int
    """Bytes of the shard."""
    input_etag: str = ""
    input_sha256: str = ""
    """Of the whole shard, hex digits, taken while it was read; empty in runs of version 0.1."""
    generation: int = 0
    """That added the shard to the run: 0 for those of `run.json`, then those of `growth/`."""
    bytes_good: int
    """Bytes of the shard up to the last complete member; equal to `input_size` when nothing was lost."""
    missing_attributes: dict[str, int] = field(default_factory=dict)
    """Samples that lack a declared attribute, by attribute."""
    bad_attributes: dict[str, int] = field(default_factory=dict)
    """Samples whose value of an attribute is no text, number or truth value and was left out, by attribute."""
    attribute_kinds: dict[str, list[str]] | None = None
    """What the values of each attribute were in the json, `shards.fields.Values.kinds`; None in runs of version 0.1."""
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
        """UTF-8 JSON on one line with a digest of itself; a run may have 100,000 of these."""
        return one_line(self)

    @staticmethod
    def from_json(data: bytes, where: str) -> CommitRecord:
        """Read back; IntegrityError naming `where` when it is damaged, partial or of another version.

        A record may name the two files of its own shard and no others, because a run from elsewhere must not make this
        process read or delete files outside of it.
        """
        record = parse_record(CommitRecord, data, where, IntegrityError)
        wrong = _wrong_commit(record)
        if wrong:
            raise IntegrityError(f"{where} is damaged: {wrong}")
        return record


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
        """UTF-8 JSON on one line with a digest of itself."""
        return one_line(self)

    @staticmethod
    def from_json(data: bytes, where: str) -> FailureRecord:
        """Read back; IntegrityError naming `where` when it is damaged, partial or of another version."""
        return parse_record(FailureRecord, data, where, IntegrityError)


@dataclass(frozen=True, kw_only=True)
class ColumnRecord:
    """`columns/NAME.json`: a column that was joined to the run after the job, and where its values come from."""

    name: str
    kind: Literal["number", "integer", "boolean", "text", "texts"]
    """What its values are: float64, int64, booleans, texts, or lists of texts."""
    path: str
    """Of the Parquet file with the values, relative to the run directory."""
    file: StoredFile
    """Size and hash of that file."""
    rows: int
    """Rows that have a value."""
    source: str
    """Path or URL of the table that was read, without credentials."""
    source_sha256: str
    """Hex digits, of the table as it was read."""
    source_column: str
    """The column's name in the table."""
    by: Literal["key", "shard,key"]
    """What told the images of the table's rows."""
    unknown: int = 0
    """Rows of the table that named no image of the run and were left out."""
    author: str = ""
    """Name of the user who added it."""
    error_rate: float | None = None
    """Share of its values that are wrong, 0..0.45, where it was measured; None where nobody knows."""
    error_images: int | None = None
    """Images that the rate was measured on."""
    added_at: str = field(default_factory=now)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """UTF-8 JSON on one line with a digest of itself."""
        return one_line(self)

    @staticmethod
    def from_json(data: bytes, where: str) -> ColumnRecord:
        """Read back; IntegrityError naming `where` when it is damaged, of another version, or names a foreign file."""
        record = parse_record(ColumnRecord, data, where, IntegrityError)
        own = re.compile(rf"columns/{re.escape(record.name)}-[0-9a-f]{{12}}\.parquet", re.ASCII)
        if COLUMN_NAME.fullmatch(record.name) is None or own.fullmatch(record.path) is None:
            raise IntegrityError(f"{where} is damaged: it names {record.path!r}, which is no file of {record.name!r}")
        return record


def _wrong_table(table: TableSpec) -> str:
    """What cannot be right about a table, in words, or nothing."""
    try:
        for name in table.heads:
            parse_head_label(name)
    except ValueError as error:
        return str(error)
    for name in table.components:
        if re.fullmatch(r"(?:attention|mlp|self_attention)_L\d{2,}", name) is None:
            return f"{name!r} is no component"
    for names in (table.heads, table.components, table.attributes, table.image_properties):
        if len(set(names)) < len(names) or not all(names) or any("\0" in name for name in names):
            return "a column is empty or named twice"
    if not 0 <= table.residual_means <= _MAX_LENGTH:
        return f"a column of {table.residual_means} residual means"
    if not (0 < table.head_dim <= table.embed_dim <= _MAX_LENGTH and len(table.vectors) <= _MAX_LENGTH):
        return f"heads of {table.head_dim} numbers in a space of {table.embed_dim}"
    return ""


def wrong_shards(shards: tuple[Shard, ...], first: int = 0) -> str:
    """What cannot be right about a list of shards whose ids begin with `first`, in words, or nothing."""
    for position, shard in enumerate(shards, first):
        if shard.id != position or not 0 <= shard.size <= _MAX_COUNT or not shard.url or "\0" in shard.url:
            return f"shard {position} of the list is shard {shard.id}, {shard.url!r}, of {shard.size} bytes"
    return ""


def _wrong_commit(record: CommitRecord) -> str:
    """What cannot be right about a commit record, in words, or nothing."""
    counts = (record.shard_id, record.rows, record.ok, record.input_size, record.bytes_good, *record.skipped.values())
    if not all(0 <= count <= _MAX_COUNT for count in counts):
        return "a count is negative or too large"
    number = f"{record.shard_id:06d}"
    for name, stored in record.files.items():
        match = _SHARD_FILE.fullmatch(name)
        if match is None or number not in match.groups():
            return f"it names {name!r}, which is no file of shard {record.shard_id}"
        if not 0 <= stored.bytes <= _MAX_COUNT:
            return f"{name} of {stored.bytes} bytes"
    kinds = {name.partition("/")[0] for name in record.files}
    return "" if len(kinds) == len(record.files) == 2 else "it does not name the two files of its shard"


def one_line(record: object) -> bytes:
    """A record (a dataclass) as one line of JSON, whose last member `digest` is the hash of the line without it."""
    # not asdict, which copies every dictionary: that is noticeable for a driver of 100,000 shards
    line = json.dumps(vars(record), default=vars, ensure_ascii=False, separators=(",", ":")).encode()
    return line[:-1] + b',"digest":"' + _digest(line) + b'"}'


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:_DIGEST_DIGITS].encode()


def is_as_written(data: bytes) -> bool:
    """Whether a record's bytes match the digest in them; also True without one (version 0.1, or edited by hand)."""
    match = _DIGEST_END.search(data)
    return match is None or _digest(data[: match.start()] + b"}") == match[1]


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def parse_record(kind: type[_Record], data: bytes, where: str, newer: type[IntegrityError | RunMismatch]) -> _Record:
    """A record from its JSON; `newer` is raised for another schema version, IntegrityError for anything else wrong."""
    try:
        record: _Record = _adapter(cast(Hashable, kind)).validate_json(data, strict=True)
    except ValidationError as error:
        _refuse_version(data, where, newer)
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(f"{where} is damaged: {at}: {first['msg']}") from error
    if getattr(record, "schema_version", None) != SCHEMA_VERSION or b'"schema_version"' not in data:
        _refuse_version(data, where, newer)
    return record


def _refuse_version(data: bytes, where: str, newer: type[IntegrityError | RunMismatch]) -> None:
    """Raise what is wrong with the file as a whole: no JSON, no version, or another one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is damaged: not JSON ({len(data)} bytes; {error})") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise IntegrityError(f"{where} is damaged: it states no schema version")
    if version != SCHEMA_VERSION:
        raise newer(
            f"{where} has schema version {version}, and this clipaudit reads version {SCHEMA_VERSION}:"
            f" use the clipaudit that wrote it{' (a newer one)' if version > SCHEMA_VERSION else ''}"
        )


def compare_options(stored: Manifest, identity: dict[str, Any], url: str) -> None:
    """RunMismatch that names the options (`JobConfig.identity`) which differ from the stored run's."""
    keys = sorted(stored.identity.keys() | identity.keys())
    changed = [key for key in keys if stored.identity.get(key) != identity.get(key)]
    if changed:
        listed = "; ".join(
            f"{key} was {_quoted(stored.identity.get(key))}, now {_quoted(identity.get(key))}" for key in changed
        )
        raise RunMismatch(f"{url} holds a run with other options ({listed}): give the same options, or another --out")


def compare_models(stored: Manifest, asked: Manifest, url: str) -> None:
    """RunMismatch when the weights or the table are not those of the stored run."""
    old, new = stored.model.get("fingerprint"), asked.model.get("fingerprint")
    if old != new:
        raise RunMismatch(
            f"{url} holds a run of a model with other weights (fingerprint {old}, now {new}): give the same weights,"
            " or another --out"
        )
    if stored.table != asked.table:
        raise RunMismatch(f"{url} holds a run with another table ({_table_change(stored, asked)}): give another --out")


def _table_change(stored: Manifest, asked: Manifest) -> str:
    before, after = asdict(stored.table), asdict(asked.table)
    name = next(name for name in before if before[name] != after[name])
    return f"{name} was {_quoted(before[name])}, now {_quoted(after[name])}"


def _quoted(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."
