"""The label of one sample: a number, a name or a list of either, from its files or from its name."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from clipaudit.schema import BAD_LABEL, MISSING_LABEL, OK, LabelKind, SampleLabel
from clipaudit.shards.field_values import (
    BadValue,
    Field,
    Json,
    Origin,
    as_text,
    folders_of,
    read_text,
    text_of_name,
    value_at,
)

MAX_LABEL_CHARACTERS: Final = 1024
MAX_LABELS: Final = 10_000
"""Of one image."""
_NAMES: Final = 8
_NAME_CHARACTERS: Final = 40
"""Of the names in a json that a sentence lists, and of each name."""
_INTEGER: Final = re.compile(rb"[+-]?[0-9]{1,19}")
_LIST_OF: Final[dict[LabelKind, str]] = {"ints": "integers", "strings": "texts"}


@dataclass(frozen=True, slots=True)
class TakenLabel:
    """A sample's label, or why it has none."""

    label: SampleLabel
    status: str = OK
    """`ok`, `missing_label` or `bad_label`."""
    detail: str = ""
    """One sentence for the last two."""


def take_label(
    item: Field, kind: LabelKind, members: Mapping[str, bytes | None], document: Json, origin: Origin
) -> TakenLabel:
    """The label that a field asks for, of one kind; nothing is raised, whatever the files hold.

    members: bytes by lower-case extension, None for a file that was too long. document: the content of the json.
    """
    try:
        label = _label(item, kind, members, document, origin)
    except BadValue as error:
        return TakenLabel(None, BAD_LABEL, f"label {item.spec}: {error}")
    if label is None or label == "":
        return TakenLabel(None, MISSING_LABEL, f"the sample has no label {item.spec}{_instead(item, document, origin)}")
    return TakenLabel(label)


def _instead(item: Field, document: Json, origin: Origin) -> str:
    """What there is where the label is not: the first names in the json, or the folders of the sample."""
    if item.extension is None:
        folders = ", ".join(repr(folder[:_NAME_CHARACTERS]) for folder in folders_of(origin.key)[:_NAMES])
        return f": {origin.key[:_NAME_CHARACTERS]!r} is in {f'the folders {folders}' if folders else 'no folder'}"
    if not item.in_json or not isinstance(document, dict) or not document:
        return ""
    names = [name[:_NAME_CHARACTERS].encode(errors="replace").decode() for name in list(document)[:_NAMES]]
    more = f" and {len(document) - _NAMES} more" if len(document) > _NAMES else ""
    return f"; its json has {', '.join(names)}{more}"


def _label(
    item: Field, kind: LabelKind, members: Mapping[str, bytes | None], document: Json, origin: Origin
) -> SampleLabel:
    if item.in_cls and "cls" not in members:
        return None
    if item.in_cls and kind == "int":
        return class_number(members["cls"])
    if item.extension is None:
        return _text(text_of_name(item, origin))
    if not item.in_json:
        text = _text(read_text(members, item.source))
        if item.in_cls and _INTEGER.fullmatch(text.encode()):
            raise BadValue(f"{text!r} is a number where the run's labels are names; --label cls:text reads it as one")
        return text
    value = value_at(document, item.path)
    if kind in _LIST_OF and value is not None:
        return _list(value, kind)
    if isinstance(value, list):
        raise BadValue("it is a list, and the run's labels are single values: the first images decide which")
    return _text(value)


def _text(value: Json) -> str:
    """The text of a single label; empty for one that is missing."""
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        _refuse(value)
    text = as_text(value)
    if len(text) > MAX_LABEL_CHARACTERS:
        raise BadValue(f"it is longer than {MAX_LABEL_CHARACTERS} characters")
    return text


def _list(value: Json, kind: LabelKind) -> tuple[str, ...] | tuple[int, ...]:
    """Each label of a list once, in its order; none for an empty list: an image that has none of the labels."""
    if not isinstance(value, list):
        raise BadValue(f"{value!r:.40} is no list, and the run's labels are lists: the first images decide which")
    if len(value) > MAX_LABELS:
        raise BadValue(f"its list has {len(value)} labels, more than {MAX_LABELS}")
    for entry in value:
        if isinstance(entry, bool) or not isinstance(entry, str | int):
            raise BadValue(f"its list holds {entry!r:.40}, which is neither text nor an integer")
    numbers = [entry for entry in value if isinstance(entry, int)]
    texts = [entry for entry in value if isinstance(entry, str)]
    if numbers and texts:
        raise BadValue(f"its list holds texts and integers, such as {texts[0]!r:.40} and {numbers[0]}")
    if kind == "ints":
        if texts:
            raise BadValue(f"it is a list of texts, and the run's labels are lists of {_LIST_OF[kind]}")
        if not all(-(2**63) <= number < 2**63 for number in numbers):
            raise BadValue("its list holds an integer of more than 64 bits")
        return tuple(dict.fromkeys(numbers))
    if numbers:
        raise BadValue(f"it is a list of integers, and the run's labels are lists of {_LIST_OF[kind]}")
    names = [_text(text) for text in texts]
    if not all(names):
        raise BadValue("its list holds an empty name")
    return tuple(dict.fromkeys(names))


def class_number(data: bytes | None) -> int | None:
    """The content of a cls file, a decimal int64, behind a byte order mark where there is one; None for white space
    only. BadValue for anything else.
    """
    if data is None or len(data) > MAX_LABEL_CHARACTERS:
        raise BadValue(f"it is longer than {MAX_LABEL_CHARACTERS} bytes")
    text = data.removeprefix(BOM_UTF8).strip()
    if not text:
        return None
    if _INTEGER.fullmatch(text) is None or not -(2**63) <= int(text) < 2**63:
        raise BadValue(
            f"{text[:40].decode('utf-8', 'backslashreplace')!r} is not a 64-bit integer; names are read by --label"
            " cls:text, and labels elsewhere by --label txt or json:PATH"
        )
    return int(text)


def _refuse(value: Json) -> NoReturn:
    """Raise BadValue for a label that is not text or an integer."""
    kind = {bool: "a boolean", float: "a fraction", list: "a list", dict: "a json object"}[type(value)]
    raise BadValue(f"it is {kind}, not text or an integer")
