"""Labels of shards before a job writes anything: class numbers that mean one thing, and labels of the run's kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clipaudit.errors import RunMismatch, ShardError
from clipaudit.run.classes import named_differently
from clipaudit.run.reader import Run
from clipaudit.schema import BAD_LABEL, OK, Label, Shard
from clipaudit.shards.field_values import MAX_JSON_BYTES, Origin
from clipaudit.shards.fields import Fields, extract
from clipaudit.shards.reader import ShardReader

_SHARDS: Final = 8
_SAMPLES: Final = 20
_BYTES: Final = 4 * 2**20
"""Of the beginning of each shard that is looked into."""


def refuse_other_numbers(shards: Sequence[Shard], fields: Fields) -> None:
    """RunMismatch when class numbers mean different things in shards of one run, by the `classnames.txt` beside them.

    shards: all of the run, those that are about to be added too. Packed one by one, two sets of folders are numbered
    each by its own names: with one class more, all behind it have other numbers.
    """
    if fields.label_kind not in ("int", "ints"):
        return
    contradiction = named_differently([shard.url for shard in shards])
    if contradiction is not None:
        raise RunMismatch(
            f"{contradiction}: class numbers of these shards mean different things, and nothing was written: pack all"
            " images together, give the names as labels (such as --label json:label), or keep to one run for each"
        )


def refuse_other_labels(run: Run, shards: Sequence[Shard], fields: Fields) -> None:
    """RunMismatch when the first labels of a new shard are all of another kind than the run's.

    At most 8 shards, evenly spread, are looked into, 4 MiB of each. Numbers where the run's labels are names, or the
    other way round, would make classes that are none. A shard that cannot be read is left to the job.
    """
    if fields.label is None:
        return
    numbers_in_run = _are_numbers([label for label in run.label_counts(list(run.records)[:1]) if label is not None])
    step = max(1, -(-len(shards) // _SHARDS))
    for shard in shards[::step]:
        try:
            labels, bad = _first_labels(shard, fields)
        except ShardError:
            continue
        if not labels and bad:
            raise RunMismatch(
                f"{shard.url}: the labels of its first {len(bad)} samples are of another kind than the run's, such as"
                f" {bad[0]}: nothing was added"
            )
        numbers = _are_numbers(labels)
        if numbers_in_run is not None and numbers is not None and numbers != numbers_in_run:
            kinds = ("numbers", "names") if numbers else ("names", "numbers")
            raise RunMismatch(
                f"{shard.url}: its labels are {kinds[0]}, such as {labels[0]!r}, and those of the run at"
                f" {run.directory.url} are {kinds[1]}: nothing was added"
            )


def _first_labels(shard: Shard, fields: Fields) -> tuple[list[Label], list[str]]:
    """Labels of the first samples that have one, and `KEY: why` of those whose label cannot be read."""
    labels: list[Label] = []
    bad: list[str] = []
    with ShardReader(shard, wants=fields.wants, complete=bool, max_member_bytes=MAX_JSON_BYTES) as reader:
        for group in reader:
            if group.status == OK:
                data = {name: member.data for name, member in group.members.items()}
                values = extract(data, fields, Origin(key=group.key, shard=shard.url))
                if values.status == BAD_LABEL:
                    bad.append(f"{group.key}: {values.detail}")
                elif values.status == OK:
                    labels += values.label if isinstance(values.label, tuple) else (values.label,)
            if len(labels) + len(bad) >= _SAMPLES or reader.bytes_good >= _BYTES:
                break
    return labels, bad


def _are_numbers(labels: Sequence[Label]) -> bool | None:
    """Whether labels are whole numbers, as such or in text; None where some are and some are not, or there is none."""
    numbers = {isinstance(label, int) or (isinstance(label, str) and label.lstrip("-").isdecimal()) for label in labels}
    return numbers.pop() if len(numbers) == 1 else None
