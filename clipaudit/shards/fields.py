"""Field specifications such as `cls` or `place=json:attrs.place`, and their values in one sample's files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Final

from clipaudit.config import FieldsConfig
from clipaudit.errors import UsageError
from clipaudit.schema import BAD_METADATA, OK, LabelKind, SampleLabel
from clipaudit.shards.field_values import (
    FOLDER,
    NAMES,
    NOWHERE,
    SHARD_NAME,
    BadValue,
    Field,
    Json,
    Origin,
    Source,
    as_text,
    attribute_value,
    document_of,
    read_text,
    text_of_name,
    value_at,
)
from clipaudit.shards.image_names import IMAGE_EXTENSIONS, USUAL_EXTENSIONS
from clipaudit.shards.labels import take_label

CAPTION: Final = "--caption"  # counts of captions have this name, which no attribute can have
_EXTENSION: Final = re.compile(r"\w[\w.-]*")
_COLUMN: Final = re.compile(r"[^\W\d][\w-]*")
_FOLDER_NUMBER: Final = re.compile(r"-?[0-9]{1,3}")
_SOURCES: Final = {
    "json": "json:PATH (such as json:attrs.place)",
    FOLDER: "path:N (folder N of the member's name, 0 the first, -1 the last)",
    SHARD_NAME: "shard (its name without .tar)",
}


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The parsed and checked FieldsConfig."""

    label: Field | None = None
    attributes: tuple[Field, ...] = ()
    caption: Field | None = None
    images: tuple[str, ...] = ()
    """Extensions of the image, lower-case, `*` and `?` allowed; empty for `IMAGE_EXTENSIONS`."""
    kind: LabelKind | None = None
    """Type of the labels where the first images decided it, see `clipaudit.shards.label_kind`; None: by the source."""

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
        """Type of the label column: `kind`, else `int` for `cls` and `string` for others; None without a label."""
        if self.label is None or self.kind is not None:
            return self.kind
        return "int" if self.label.source == "cls" and not self.label.text else "string"

    @property
    def kind_is_open(self) -> bool:
        """Whether the source alone does not tell the type: numbers or names in `cls`, one label or lists in a json."""
        return self.kind is None and self.label is not None and self.label.in_json | self.label.in_cls

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the attribute columns, in the order given."""
        return tuple(attribute.column for attribute in self.attributes)

    @property
    def extensions(self) -> frozenset[str]:
        """Extensions of the files that must be read."""
        items = [item for item in (self.label, *self.attributes, self.caption) if item is not None]
        return frozenset(item.extension for item in items if item.extension is not None)

    def wants(self, extension: str) -> bool:
        """Whether a file of this lower-case extension is read."""
        return extension in self.extensions or self.is_image(extension)


@dataclass(kw_only=True, slots=True)
class Values:
    """One sample's fields; `status` is `ok`, `missing_label`, `bad_label`, or `bad_metadata`: the label is in it."""

    status: str = OK
    detail: str = ""
    label: SampleLabel = None
    caption: str | None = None
    attributes: dict[str, str | None] = field(default_factory=dict)
    """Text of every declared column; None for a value that is missing or bad."""
    missing: list[str] = field(default_factory=list)
    """Columns (and `--caption`) without a value."""
    kinds: dict[str, str] = field(default_factory=dict)
    """What each attribute's value is in the json: `integer`, `long` (beyond 2^53), `number`, `boolean`, `text` or
    `texts` (a list of texts)."""
    bad: list[str] = field(default_factory=list)
    """Columns (and `--caption`) whose value is no text, number, boolean or list of texts."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """What is to be counted although it costs no image: kind (`bad_metadata`, ...) and detail."""


def parse_fields(config: FieldsConfig) -> Fields:
    """Parse and check the specifications. Raises UsageError naming --label, --attributes or --caption."""
    sources = ("cls", "txt", "json", *NAMES)
    label = None if config.label is None else _parse(config.label, "--label", sources, "label")
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


def extract(members: Mapping[str, bytes | None], fields: Fields, origin: Origin = NOWHERE) -> Values:
    """The declared fields of one sample; raises nothing, whatever the files hold.

    `members` maps lower-case extensions to the files' bytes, None for a file that was too long to be read; `origin` is
    needed for `path:N` and `shard`. Where a json object repeats a key, the last one counts, as in Python. NaN and
    infinities in a json are bad values.
    """
    values = Values(attributes=dict.fromkeys(fields.attribute_names))
    document: Json = None
    fault = ""
    if "json" in fields.extensions and "json" in members:
        try:
            document = document_of(members["json"])
        except BadValue as error:  # costs the image nothing, unless the label is in it
            fault = str(error)
            values.notes.append((BAD_METADATA, fault))
    for item in fields.attributes:
        _take_attribute(item, members, document, origin, values, fault)
    if fields.caption is not None:
        if fields.caption.in_json and fault:
            values.bad.append(CAPTION)
        else:
            values.caption = _counted(_caption(fields.caption, members, document, values), CAPTION, values)
    if fields.label is not None and fields.label.in_json and fault:
        values.status, values.detail = BAD_METADATA, f"label {fields.label.spec}: {fault}"
        values.notes = []
    elif fields.label is not None and fields.label_kind is not None:
        taken = take_label(fields.label, fields.label_kind, members, document, origin)
        values.label, values.status, values.detail = taken.label, taken.status, taken.detail
    return values


def _take_attribute(
    item: Field, members: Mapping[str, bytes | None], document: Json, origin: Origin, values: Values, fault: str
) -> None:
    """One column's text and kind; `fault` is why the json cannot be read."""
    if item.in_json and fault:
        values.bad.append(item.column)
        return
    try:
        value: Json = (
            value_at(document, item.path)
            if item.in_json
            else text_of_name(item, origin)
            if item.extension is None
            else read_text(members, item.extension)
        )
        text, kind = attribute_value(value)
    except BadValue:
        values.bad.append(item.column)
        return
    if text:
        values.attributes[item.column], values.kinds[item.column] = text, kind
    else:
        values.missing.append(item.column)


def _parse_attribute(spec: str) -> Field:
    name, equals, rest = spec.partition("=")
    item = _parse(rest if equals else spec, "--attributes", ("json", *NAMES), None)
    column = name.strip() if equals else item.column
    if _COLUMN.fullmatch(column) is None:
        wanted = "letters, digits, _ and -, beginning with a letter"
        raise UsageError(
            f"--attributes {spec!r}: {column!r} is not a column name ({wanted}); give one, NAME={item.spec}"
        )
    return replace(item, column=column)


def _parse(spec: str, option: str, allowed: tuple[Source, ...], column: str | None) -> Field:
    """A specification without `NAME=`; its column is `column`, else the last part of its path, or its source."""
    source, colon, path = spec.strip().partition(":")
    if option != "--caption" and path == "text" and _EXTENSION.fullmatch(source):
        return Field(column=column or source, source=source.lower(), text=True)
    if source in allowed and source not in ("json", FOLDER) and not colon:
        return Field(column=column or source, source=source)
    parts = tuple(path.split("."))
    if source == "json" and source in allowed and all(parts):
        return Field(column=column or parts[-1], source=source, path=parts)
    if source == FOLDER and source in allowed and _FOLDER_NUMBER.fullmatch(path):
        return Field(column=column or path, source=source, path=(path,))
    raise UsageError(f"{option} {spec!r} is not understood: use {_choices(option, allowed)}")


def _choices(option: str, allowed: Sequence[Source]) -> str:
    files = [_SOURCES.get(source, source) for source in allowed if source not in NAMES]
    choices = files[0] if len(files) == 1 else f"{', '.join(files[:-1])} or {files[-1]}"
    if FOLDER in allowed:
        choices += f"; {_SOURCES[FOLDER]}; {_SOURCES[SHARD_NAME]}; EXTENSION:text, such as cls:text, for a file as text"
    return choices + (", with NAME= before it to name the column" if option == "--attributes" else "")


def _counted(value: Json, column: str, values: Values) -> str | None:
    """The value as the column's text; None, and counted in `values`, when it is missing or bad."""
    try:
        text = as_text(value)
    except BadValue:
        values.bad.append(column)
        return None
    if not text:
        values.missing.append(column)
        return None
    return text


def _caption(item: Field, members: Mapping[str, bytes | None], document: Json, values: Values) -> Json:
    if item.in_json:
        return value_at(document, item.path)
    try:
        return read_text(members)
    except BadValue as error:
        values.notes.append((BAD_METADATA, str(error)))
        return None
