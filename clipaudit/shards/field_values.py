"""Where a column's value comes from, and how it is read: json, text files, the member's name, the shard's name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

Source: TypeAlias = str
"""Extension of a file: `cls`, `txt`, `json`, or another that is read as text; or one of NAMES."""
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

FOLDER: Final = "path"
SHARD_NAME: Final = "shard"
NAMES: Final = (FOLDER, SHARD_NAME)
"""Sources that are no file of the sample: a folder of its key, and the name of its shard."""
MAX_LIST: Final = 1000
"""Texts in the list of one attribute."""
MAX_JSON_BYTES: Final = 16 * 2**20
MAX_TEXT_BYTES: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Field:
    """Where one column's value comes from."""

    column: str
    """Name of the column."""
    source: Source
    """Extension of the file that is read, `path` or `shard`."""
    path: tuple[str, ...] = ()
    """Keys, and positions in lists, within the json; for `path` the number of the folder."""
    text: bool = False
    """Read as text, whatever the extension: `cls:text`."""

    @property
    def extension(self) -> str | None:
        """The file that is read; None for what is in a name."""
        return None if self.source in NAMES and not self.text else self.source

    @property
    def in_cls(self) -> bool:
        """Whether the value is in the file `cls`, a number or a name."""
        return self.source == "cls" and not self.text

    @property
    def in_json(self) -> bool:
        """Whether the value is in the json."""
        return self.source == "json" and not self.text

    @property
    def spec(self) -> str:
        """The specification as it is written on the command line."""
        return ":".join(filter(None, (self.source, ".".join(self.path), "text" if self.text else "")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a sample is."""

    key: str = ""
    """Path of its files up to the first dot of the file name."""
    shard: str = ""
    """URL of its shard."""


NOWHERE: Final = Origin()
"""For fields that are in files alone."""


class BadValue(ValueError):
    """A value that cannot be stored as text; the message says why."""


def document_of(data: bytes | None) -> Json:
    """The object in a json file; BadValue when it is too long, no json or no object."""
    if data is None or len(data) > MAX_JSON_BYTES:
        raise BadValue(f"the json is longer than {MAX_JSON_BYTES} bytes")
    try:
        document: Json = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise BadValue("the json is nested too deeply") from None
    except ValueError as error:
        raise BadValue(f"the json cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise BadValue("the json is not an object")
    return document


def value_at(value: Json, path: tuple[str, ...]) -> Json:
    """The value at `path` within a json value; None when a part of the path does not exist."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def kind_of(value: Json) -> str:
    """What a value that can be stored is; whole floats up to 2^53 are integers, as they are stored."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer" if abs(value) <= 2**53 else "long" if -(2**63) <= value < 2**63 else "text"
        case float():
            return "integer" if value.is_integer() and abs(value) < 2**53 else "number"
        case _:
            return "text"


def as_text(value: Json) -> str:
    """Text of a scalar: `true`, `-3`, `0.5`, whole floats without a fraction; empty for null."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return _digits(value)
        case float():
            if not math.isfinite(value):
                raise BadValue(f"{value} is not a finite number")
            # Below 2^53 every whole float is that integer exactly.
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
        case str():
            return storable(value)
        case _:
            raise BadValue(f"it is a {'list' if isinstance(value, list) else 'json object'}, not a single value")


def attribute_value(value: Json) -> tuple[str, str]:
    """(text, kind) of an attribute: a list of texts as a json array, of the kind `texts`; an empty text for null.

    Raises BadValue for an object, a list of other things than texts, a number that is not finite and a text that UTF-8
    cannot encode.
    """
    if not isinstance(value, list):
        return as_text(value), kind_of(value)
    if len(value) > MAX_LIST:
        raise BadValue(f"it is a list of more than {MAX_LIST} texts")
    texts = [storable(item) for item in value if isinstance(item, str)]
    if len(texts) < len(value):
        raise BadValue("it is a list of other things than texts")
    return json.dumps(texts, ensure_ascii=False), "texts"


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to convert integers of more than 4300 digits
        raise BadValue("the number is too long") from None


def storable(text: str) -> str:
    """The stripped text; bad when it has a lone surrogate (json `\\ud800`), which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadValue("the text holds half a surrogate pair") from None
    return text.strip()


def text_of_name(item: Field, origin: Origin) -> str | None:
    """The folder or the shard's name that a field of NAMES asks for; None where the key has no such folder.

    Folders are counted from 0, from the end with -1. The shard's name is its file's, without `.tar` or what follows
    its last dot.
    """
    if item.source == SHARD_NAME:
        name = origin.shard.partition("?")[0].rstrip("/").rpartition("/")[2]
        stem, _, suffix = name.rpartition(".")
        return storable(stem if stem and not suffix.isdecimal() else name)
    number, folders = int(item.path[0]), folders_of(origin.key)
    return storable(folders[number]) if -len(folders) <= number < len(folders) else None


def folders_of(key: str) -> list[str]:
    """The folders in a key, from the front."""
    return [folder for folder in key.split("/")[:-1] if folder not in ("", ".")]


def read_text(members: Mapping[str, bytes | None], extension: str = "txt") -> str | None:
    """The content of a text file; None when the sample has none."""
    if extension not in members:
        return None
    data = members[extension]
    if data is None or len(data) > MAX_TEXT_BYTES:
        raise BadValue(f"the {extension} is longer than {MAX_TEXT_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadValue(f"the {extension} is not UTF-8: {error.reason} at byte {error.start}") from None
