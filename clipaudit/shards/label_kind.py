"""What the labels of a data set are where their source alone does not tell: the first images decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from clipaudit.errors import ShardError
from clipaudit.schema import OK, LabelKind, Shard
from clipaudit.shards.field_values import MAX_JSON_BYTES, BadValue, Field, Json, document_of, read_text, value_at
from clipaudit.shards.fields import Fields
from clipaudit.shards.labels import class_number
from clipaudit.shards.reader import ShardReader

_LABELS: Final = 50
"""Labels that decide, of at most so many bytes of a shard."""
_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class LookedUpKind:
    """What the first labels of a shard are."""

    kind: LabelKind | None
    """None where no label tells more than its source does."""
    example: str = ""
    """One of these labels and the sample that has it, such as `'owl' in 000017`; empty where none was looked at."""
    warning: str = ""
    """One sentence where some are of another kind; they will be bad labels."""


def look_up_kind(shard: Shard, fields: Fields) -> LookedUpKind:
    """The type of the labels by the first 50 of a shard: what most are, and of equals the first.

    `cls`: `int`, or `string` for names. `json:PATH`: `string`, or where the values are lists `strings` or `ints`, for
    lists that are all empty `strings`. Reads at most 16 MiB; a shard that cannot be read tells nothing.
    """
    label = fields.label
    if label is None or not fields.kind_is_open:
        return LookedUpKind(kind=fields.label_kind)
    examples: dict[LabelKind, list[str]] = {}
    empty_lists = 0
    try:
        for key, value in _first_values(shard, label):
            if value == []:
                empty_lists += 1
                continue
            kind = _kind(value, label)
            if kind is not None:
                examples.setdefault(kind, []).append(f"{value!r:.60} in {key}")
            if sum(map(len, examples.values())) >= _LABELS:
                break
    except ShardError:
        return LookedUpKind(kind=None)
    if not examples:
        return LookedUpKind(kind="strings" if empty_lists else None)
    chosen = max(examples, key=lambda kind: len(examples[kind]))
    others = [kind for kind in examples if kind != chosen]
    example = examples[chosen][0]
    if not others:
        return LookedUpKind(kind=chosen, example=example)
    mended = "; --label cls:text reads both as names" if label.in_cls else ""
    return LookedUpKind(
        kind=chosen,
        example=example,
        warning=f"{shard.url}: labels {label.spec} are of several kinds, such as {example} and"
        f" {examples[others[0]][0]}: those unlike the first will be bad labels{mended}",
    )


def _first_values(shard: Shard, label: Field) -> Iterator[tuple[str, Json]]:
    """(key, value) of the first samples that have the label."""
    extension = label.source
    with ShardReader(
        shard, wants=lambda name: name == extension, complete=bool, max_member_bytes=MAX_JSON_BYTES
    ) as reader:
        for group in reader:
            if group.status == OK and extension in group.members:
                data = group.members[extension].data
                try:
                    text = read_text({extension: data}, extension) if label.in_cls else None
                    value: Json = text.strip() if text is not None else value_at(document_of(data), label.path)
                except BadValue:
                    continue
                if value is not None and value != "":
                    yield group.key, value
            if reader.bytes_good >= _BYTES:
                return


def _kind(value: Json, label: Field) -> LabelKind | None:
    """What one label is; None where it is nothing that can be a label."""
    if label.in_cls:
        try:
            class_number(str(value).encode(errors="replace"))
        except BadValue:
            return "string"
        return "int"
    if not isinstance(value, list):
        return "string"
    types = {type(entry) for entry in value}
    return "ints" if types == {int} else "strings" if types == {str} else None
