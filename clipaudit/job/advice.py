"""Advice before the work: very many tiny shards, which cost more than their images."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from clipaudit.run.moments_file import moments_bytes
from clipaudit.schema import Shard, TableSpec, arrow_schema
from clipaudit.shards.fields import Fields
from clipaudit.shards.listing import is_local
from clipaudit.shards.sources.tars import BESIDE

_SHARDS: Final = 200
_IMAGES_A_SHARD: Final = 100
"""With fewer images a shard what is stored once a shard is more than a tenth of their rows."""
_COLUMN_BYTES: Final = 250
"""Of a Parquet file's footer and pages, a column."""
_RECORD_BYTES: Final = 1200
_PACKED_BYTES: Final = 10**8
"""Of a shard that `clipaudit pack` writes."""


def pack_advice(shards: Sequence[Shard], samples: int, table: TableSpec, fields: Fields) -> str | None:
    """One sentence for many shards of few images: the bytes that packing saves, and its command; else None.

    samples: images of all shards, estimated; 0 where that is not known. fields: what the job reads; None too where
    `pack` would not keep it. Counted are the files of each shard but for its rows: moments, the Parquet file's footer
    and the commit record.
    """
    if len(shards) < _SHARDS or not 0 < samples < _IMAGES_A_SHARD * len(shards) or not _packed(fields):
        return None
    fewer = max(1, -(-sum(shard.size for shard in shards) // _PACKED_BYTES))
    each = bytes_per_shard(table)
    folders = {shard.url.rpartition("/")[0] for shard in shards}
    folder = shlex.quote(folders.pop()) if len(folders) == 1 and is_local(shards[0].url) else "DIRECTORY"
    saved = each * (len(shards) - fewer)
    return (
        f"{len(shards):,} shards of about {max(1, round(samples / len(shards)))} images: each stores"
        f" {each / 1000:,.0f} kB beside its rows. Packed into {fewer:,}, the run takes {saved / 1e6:,.0f} MB less and"
        f" is read faster: `clipaudit pack {folder} SHARDS`, then audit SHARDS"
    )


def _packed(fields: Fields) -> bool:
    """Whether `pack` keeps all that these fields are read from: no other files, and no names of members or shards."""
    items = [item for item in (fields.label, *fields.attributes, fields.caption) if item is not None]
    return not fields.images and all(item.extension in BESIDE for item in items)


def bytes_per_shard(table: TableSpec) -> int:
    """About how many bytes a shard stores beside its rows."""
    return moments_bytes(table) + _COLUMN_BYTES * len(arrow_schema(table).names) + _RECORD_BYTES
