"""Field specifications such as `cls` or `place=json:attrs.place`, and their values in one sample's files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, NoReturn, TypeAlias

from clipaudit.config import FieldsConfig
from clipaudit.errors import UsageError
from clipaudit.schema import BAD_LABEL, BAD_METADATA, MISSING_LABEL, OK, Label, LabelKind
from clipaudit.shards.image_header import IMAGE_EXTENSIONS, USUAL_EXTENSIONS

Source: TypeAlias = str
"""Extension of a file: `cls`, `txt`, `json`, or another that is read as text."""
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

CAPTION: Final = "--caption"  # counts of captions have this name, which no attribute can have
MAX_JSON_BYTES: Final = 16 * 2**20
MAX_TEXT_BYTES: Final = 2**20
MAX_LABEL_CHARACTERS: Final = 1024
_NAMES: Final = 8
_NAME_CHARACTERS: Final = 40
"""Of the names in a json that a sentence lists, and of each name."""
_EXTENSION: Final = re.compile(r"\w[\w.-]*")
_COLUMN: Final = re.compile(r"[^\W\d][\w-]*")
_INTEGER: Final = re.compile(rb"[+-]?[0-9]{1,19}")


@dataclass(frozen=True, kw_only=True)
class Field:
    """Where one column's value comes from."""

    column: str
    """Name of the column."""
    source: Source
    """Extension of the file that is read."""
    path: tuple[str, ...] = ()
    """Keys, and positions in lists, within the json."""
    text: bool = False
    """Read as text, whatever the extension: `cls:text`."""

    @property
    def spec(self) -> str:
        """The specification as it is written on the command line."""
        return ":".join(filter(None, (self.source, ".".join(self.path), "text" if self.text else "")))


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The parsed and checked FieldsConfig."""

    label: Field | None = None
    attributes: tuple[Field, ...] = ()
    caption: Field | None = None
    images: tuple[str, ...] = ()
    """Extensions of the image, lower-case, `*` and `?` allowed; empty for `IMAGE_EXTENSIONS`."""

    def is_image(self, extension: str) -> bool:
        """Whether a file of this lower-case extension may be the sample's image."""
        if not self.images:
            return extension in IMAGE_EXTENSIONS
        return extension in self.images or any(fnmatchcase(extension, pattern) for pattern in self.images)

    def images_in(self, extensions: Iterable[str]) -> list[str]:
        """The extensions of files that may be the image: the one that is taken, then the others.

        The first in the tar is taken, so that a tar that is cut behind it gives the same image; one of a usual format,
        unless the user named the extensions.
        """
        images = [extension for extension in extensions if self.is_image(extension)]
        return images if self.images else sorted(images, key=lambda name: name not in USUAL_EXTENSIONS)

    @property
    def label_kind(self) -> LabelKind | None:
        """Type of the label column: `int` for `cls`, `string` for other sources, None without a label."""
        if self.label is None:
            return None
        return "int" if self.label.source == "cls" and not self.label.text else "string"

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the attribute columns, in the order given."""
        return tuple(attribute.column for attribute in self.attributes)

    @property
    def extensions(self) -> frozenset[str]:
        """Extensions of the files that must be read."""
        return frozenset(item.source for item in (self.label, *self.attributes, self.caption) if item is not None)

    def wants(self, extension: str) -> bool:
        """Whether a file of this lower-case extension is read."""
        return extension in self.extensions or self.is_image(extension)


@dataclass(kw_only=True, slots=True)
class Values:
    """One sample's fields; `status` is `ok`, `missing_label`, `bad_label`, or `bad_metadata`: the label is in it."""

    status: str = OK
    detail: str = ""
    label: Label = None
    caption: str | None = None
    attributes: dict[str, str | None] = field(default_factory=dict)
    """Text of every declared column; None for a value that is missing or bad."""
    missing: list[str] = field(default_factory=list)
    """Columns (and `--caption`) without a value."""
    kinds: dict[str, str] = field(default_factory=dict)
    """What each attribute's value is in the json: `integer`, `long` (beyond 2^53), `number`, `boolean` or `text`."""
    bad: list[str] = field(default_factory=list)
    """Columns (and `--caption`) whose value is not text, number or boolean."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """What is to be counted although it costs no image: kind (`bad_metadata`, ...) and detail."""


class _BadValue(ValueError):
    """A value that cannot be stored as text; the message says why."""


def parse_fields(config: FieldsConfig) -> Fields:
    """Parse and check the specifications. Raises UsageError naming --label, --attributes or --caption."""
    label = None if config.label is None else _parse(config.label, "--label", ("cls", "txt", "json"), "label")
    caption = None if config.caption is None else _parse(config.caption, "--caption", ("txt", "json"), "caption")
    attributes: dict[str, Field] = {}
    for spec in config.attributes:
        item = _parse_attribute(spec)
        if item.column in attributes:
            raise UsageError(
                f"--attributes: {attributes[item.column].spec!r} and {item.spec!r} both name the column "
                f"{item.column!r}; rename one, NAME={item.spec}"
            )
        attributes[item.column] = item
    return Fields(label=label, attributes=tuple(attributes.values()), caption=caption, images=_images(config.image))


def _images(names: Iterable[str]) -> tuple[str, ...]:
    images = tuple(name.strip().lower().removeprefix(".") for name in names)
    wrong = next((name for name in images if not name or "/" in name), None)
    if wrong is not None:
        raise UsageError(f"--image-key {wrong!r} is no extension: give what follows the first dot, such as input.jpg")
    return images


def extract(members: Mapping[str, bytes | None], fields: Fields) -> Values:
    """The declared fields of one sample; raises nothing, whatever the files hold.

    `members` maps lower-case extensions to the files' bytes, None for a file that was too long to be read. Where a json
    object repeats a key, the last one counts, as in Python. NaN and infinities in a json are bad values.
    """
    values = Values(attributes=dict.fromkeys(fields.attribute_names))
    document: Json = None
    if "json" in fields.extensions and "json" in members:
        try:
            document = _document(members["json"])
        except _BadValue as error:
            return _without_json(members, fields, str(error))
    for item in fields.attributes:
        value = _find(document, item.path)
        values.attributes[item.column] = _counted(value, item.column, values)
        if values.attributes[item.column] is not None:
            values.kinds[item.column] = _kind(value)
    if fields.caption is not None:
        values.caption = _counted(_caption(fields.caption, members, document, values), CAPTION, values)
    if fields.label is not None and values.status == OK:
        _take_label(fields.label, members, document, values)
    return values


def _without_json(members: Mapping[str, bytes | None], fields: Fields, reason: str) -> Values:
    """The fields of a sample whose json cannot be read: that costs the image nothing, unless the label is in it."""
    values = Values(attributes=dict.fromkeys(fields.attribute_names), bad=list(fields.attribute_names))
    values.notes.append((BAD_METADATA, reason))
    if fields.caption is not None:
        if fields.caption.source == "json":
            values.bad.append(CAPTION)
        else:
            values.caption = _counted(_caption(fields.caption, members, None, values), CAPTION, values)
    if fields.label is not None and fields.label.source == "json" and not fields.label.text:
        values.status, values.detail = BAD_METADATA, f"label {fields.label.spec}: {reason}"
        values.notes = []
    elif fields.label is not None:
        _take_label(fields.label, members, None, values)
    return values


def _parse_attribute(spec: str) -> Field:
    name, equals, rest = spec.partition("=")
    item = _parse(rest if equals else spec, "--attributes", ("json",), None)
    column = name.strip() if equals else item.path[-1]
    if _COLUMN.fullmatch(column) is None:
        wanted = "letters, digits, _ and -, beginning with a letter"
        raise UsageError(
            f"--attributes {spec!r}: {column!r} is not a column name ({wanted}); give one, NAME={item.spec}"
        )
    return Field(column=column, source=item.source, path=item.path)


def _parse(spec: str, option: str, allowed: tuple[Source, ...], column: str | None) -> Field:
    source, colon, path = spec.strip().partition(":")
    if option == "--label" and path == "text" and _EXTENSION.fullmatch(source):
        return Field(column=column or source, source=source.lower(), text=True)
    for candidate in allowed:
        if source != candidate:
            continue
        if candidate != "json" and not colon:
            return Field(column=column or source, source=candidate)
        parts = tuple(path.split("."))
        if candidate == "json" and all(parts):
            return Field(column=column or parts[-1], source=candidate, path=parts)
    choices = [("json:PATH (such as json:attrs.place)" if name == "json" else name) for name in allowed]
    listed = choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    if option == "--label":
        listed += "; cls:text for names in .cls files, and likewise EXTENSION:text for any other"
    if option == "--attributes":
        listed += ", with NAME= before it to name the column"
    raise UsageError(f"{option} {spec!r} is not understood: use {listed}")


def _document(data: bytes | None) -> Json:
    if data is None or len(data) > MAX_JSON_BYTES:
        raise _BadValue(f"the json is longer than {MAX_JSON_BYTES} bytes")
    try:
        document: Json = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise _BadValue("the json is nested too deeply") from None
    except ValueError as error:
        raise _BadValue(f"the json cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise _BadValue("the json is not an object")
    return document


def _find(value: Json, path: tuple[str, ...]) -> Json:
    """The value at `path` within a json value; None when a part of the path does not exist."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _counted(value: Json, column: str, values: Values) -> str | None:
    """The value as the column's text; None, and counted in `values`, when it is missing or bad."""
    try:
        text = _as_text(value)
    except _BadValue:
        values.bad.append(column)
        return None
    if not text:
        values.missing.append(column)
        return None
    return text


def _kind(value: Json) -> str:
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


def _as_text(value: Json) -> str:
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
                raise _BadValue(f"{value} is not a finite number")
            # Below 2^53 every whole float is that integer exactly.
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
        case str():
            return _storable(value)
        case _:
            raise _BadValue(f"it is a {'list' if isinstance(value, list) else 'json object'}, not a single value")


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to convert integers of more than 4300 digits
        raise _BadValue("the number is too long") from None


def _storable(text: str) -> str:
    """The stripped text; bad when it has a lone surrogate (json `\\ud800`), which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _BadValue("the text holds half a surrogate pair") from None
    return text.strip()


def _read_text(members: Mapping[str, bytes | None], extension: str = "txt") -> str | None:
    """The content of a text file; None when the sample has none."""
    if extension not in members:
        return None
    data = members[extension]
    if data is None or len(data) > MAX_TEXT_BYTES:
        raise _BadValue(f"the {extension} is longer than {MAX_TEXT_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _BadValue(f"the {extension} is not UTF-8: {error.reason} at byte {error.start}") from None


def _caption(item: Field, members: Mapping[str, bytes | None], document: Json, values: Values) -> Json:
    if item.source == "json":
        return _find(document, item.path)
    try:
        return _read_text(members)
    except _BadValue as error:
        values.notes.append((BAD_METADATA, str(error)))
        return None


def _take_label(item: Field, members: Mapping[str, bytes | None], document: Json, values: Values) -> None:
    try:
        label = _label(item, members, document)
    except _BadValue as error:
        values.status, values.detail = BAD_LABEL, f"label {item.spec}: {error}"
        return
    if label is None or label == "":
        values.status, values.detail = MISSING_LABEL, f"the sample has no label {item.spec}{_keys(item, document)}"
    else:
        values.label = label


def _keys(item: Field, document: Json) -> str:
    """The first names in a json that lacks the label."""
    if item.source != "json" or not isinstance(document, dict) or not document:
        return ""
    names = [name[:_NAME_CHARACTERS].encode(errors="replace").decode() for name in list(document)[:_NAMES]]
    more = f" and {len(document) - _NAMES} more" if len(document) > _NAMES else ""
    return f"; its json has {', '.join(names)}{more}"


def _label(item: Field, members: Mapping[str, bytes | None], document: Json) -> Label:
    if item.source == "cls" and not item.text:
        return _class_number(members["cls"]) if "cls" in members else None
    value = _find(document, item.path) if item.source == "json" and not item.text else _read_text(members, item.source)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        _refuse(value)
    text = _as_text(value)
    if len(text) > MAX_LABEL_CHARACTERS:
        raise _BadValue(f"it is longer than {MAX_LABEL_CHARACTERS} characters")
    return text


def _class_number(data: bytes | None) -> int | None:
    """The content of a cls file, a decimal int64; None for white space only."""
    if data is None or len(data) > MAX_LABEL_CHARACTERS:
        raise _BadValue(f"it is longer than {MAX_LABEL_CHARACTERS} bytes")
    text = data.strip()
    if not text:
        return None
    if _INTEGER.fullmatch(text) is None or not -(2**63) <= int(text) < 2**63:
        raise _BadValue(
            f"{text[:40].decode('utf-8', 'backslashreplace')!r} is not a 64-bit integer; names are read by --label"
            " cls:text, and labels elsewhere by --label txt or json:PATH"
        )
    return int(text)


def _refuse(value: Json) -> NoReturn:
    """Raise _BadValue for a label that is not text or an integer."""
    kind = {bool: "a boolean", float: "a fraction", list: "a list", dict: "a json object"}[type(value)]
    raise _BadValue(f"it is {kind}, not text or an integer")
