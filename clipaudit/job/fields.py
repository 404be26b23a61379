"""The fields of a job, with the type of its labels: that of the run, else what the first shard's labels are."""

from __future__ import annotations

from dataclasses import replace

from clipaudit.config import JobConfig
from clipaudit.errors import RunNotFound
from clipaudit.run.directory import RunDirectory
from clipaudit.schema import Shard
from clipaudit.shards.braces import expand_braces
from clipaudit.shards.fields import Fields, parse_fields
from clipaudit.shards.label_kind import LookedUpKind, look_up_kind
from clipaudit.shards.listing import expand


def fields_of(config: JobConfig, run_dir: RunDirectory) -> tuple[Fields, LookedUpKind]:
    """The parsed fields, and what the first labels are, where they had to be looked at.

    A run that exists keeps the type of its labels, so that every worker and every later job agree. UsageError for a
    specification that is not understood, and where there is no shard.
    """
    fields = parse_fields(config.fields)
    if not fields.kind_is_open:
        return fields, LookedUpKind(kind=fields.label_kind)
    try:
        known = LookedUpKind(kind=run_dir.open().table.label_kind)
    except RunNotFound:
        known = look_up_kind(first_shard(config), fields)
    return replace(fields, kind=known.kind), known


def first_shard(config: JobConfig) -> Shard:
    """The first shard of a job; the others are not looked up where the pattern names them one by one."""
    return expand([expand_braces(config.shards[0])[0]])[0]
