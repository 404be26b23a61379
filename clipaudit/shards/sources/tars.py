"""Tars with other names than WebDataset's to a catalogue: classes by files beside the image, its json, or folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.schema import CLASSNAMES
from clipaudit.shards.pack_writer import as_text
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.folders import SPLITS, is_hidden, is_image
from clipaudit.shards.sources.listed_images import SPLIT_COLUMN, text_of
from clipaudit.shards.sources.options import SourceOptions
from clipaudit.shards.sources.tables import Row, as_json
from clipaudit.shards.tar import EndedEarly, NotATar, TarMember, TarReader
from clipaudit.storage.text_file import read_if_there

BESIDE: Final = ("cls", "json", "txt")
"""Extensions of the files beside an image that are packed with it."""
LABEL: Final = "label"
"""In the json: the class of an image without `cls`, unless `--label` names another."""
_CAPTION: Final = "txt"
_MAX_TEXT_BYTES: Final = 16 * 2**20


def is_tar(name: str) -> bool:
    """Whether a file's name ends as that of a plain tar."""
    return name.lower().endswith(".tar")


def tar_files(source: str) -> list[str]:
    """The tars in a directory, or the tar itself; sorted."""
    path = Path(source)
    return [source] if path.is_file() else sorted(str(file) for file in path.iterdir() if is_tar(file.name))


def read_tars(source: str, catalogue: Catalogue, options: SourceOptions) -> None:
    """Add the images of plain tars, in the order of their names and members.

    Files of the image's name but for the extension, next to it, belong to it: `cls` (the class, a number or a name),
    `json` (columns) and `txt` (the caption, column `txt`). Without `cls` the class is the json's `label`, or the first
    folder, or the second below train, val, test and the like; `--label` names another value of the json, which then
    counts before `cls`. Classes that are numbers keep them, with the names in a `classnames.txt` beside the tars. The
    json stays as it is, and gets `path`, `split` and `label` where it lacks them. An image whose name goes on from the
    image's before it, such as the mask `1.seg.png` behind `1.jpg`, is left out and counted.

    Raises UsageError when a file is no plain tar, an option is for tables, no json has what `--label` names, or
    some classes are numbers out of files and others folders.
    """
    for option, value in (("--path", options.path), ("--images", options.images)):
        if value is not None:
            raise UsageError(f"{option} {value!r} is for tables, and {source} is a tar")
    catalogue.documents = True
    reader = _Tars(catalogue, options)
    for path in tar_files(source):
        reader.read(Path(path))
    reader.finish(source)


class _Tars:
    """Adds the images of one tar after another to a catalogue, and knows what their classes are."""

    def __init__(self, catalogue: Catalogue, options: SourceOptions) -> None:
        self._catalogue, self._options = catalogue, options
        self._numbered = self._foldered = ""  # the first image whose class is a number in a file, and a folder
        self._named = False  # whether the class of one is a name in a file
        self._asked = False  # whether a json has what --label names

    def read(self, file: Path) -> None:
        """Add the images of one tar; UsageError when it is none."""
        try:
            with file.open("rb") as stream:
                reader = TarReader(stream, file.stat().st_size, wants=_is_beside, max_member_bytes=_MAX_TEXT_BYTES)
                stem = None  # of the last image
                for members in _groups(reader):
                    if stem is not None and members[0].name.startswith(f"{stem}."):
                        for member in members:
                            self._catalogue.left_out.add("beside", member.name)
                        continue
                    stem = members[0].name.rpartition(".")[0] if any(is_image(m.name) for m in members) else None
                    self._add_group(str(file.resolve()), members)
        except (NotATar, EndedEarly, OSError) as error:
            raise UsageError(f"{file} cannot be read as a plain tar: {error}") from None
        if reader.truncated is not None:
            self._catalogue.notes.append(f"{file.name}: {reader.truncated}")

    def finish(self, source: str) -> None:
        """Number the classes as the tars do, or as the names beside them; UsageError where they are of two kinds."""
        catalogue, label = self._catalogue, self._options.label
        if label is not None and not self._asked and "no_label" in catalogue.left_out.counts:
            raise UsageError(
                f"--label {label!r}: no json in {source} has it, but {', '.join(catalogue.columns) or 'nothing'}"
            )
        directory = Path(source) if Path(source).is_dir() else Path(source).resolve().parent
        if self._numbered and not self._named:
            if self._foldered:
                raise UsageError(
                    f"the class of {self._numbered} is a number, and that of {self._foldered}, which has none, would be"
                    " its folder: give all images a cls, or name a value of their json with --label"
                )
            catalogue.keep_numbers(_names_beside(directory))
            return
        if self._named and self._foldered:
            catalogue.notes.append(
                "images without cls, and without label in their json, have their folder as class, such as"
                f" {self._foldered}"
            )
        if (names := _names_beside(directory)) is not None:
            catalogue.order_names(names)

    def _add_group(self, tar: str, members: list[TarMember]) -> None:
        catalogue = self._catalogue
        beside = {_extension(member.name): member for member in members if _is_beside(member.name)}
        images = [member for member in members if self._is_used(member)]
        document = self._document(beside, members[0].name)
        for member in images:
            name = member.name.removeprefix("./")
            folders = [part for part in name.split("/")[:-1] if part not in ("", ".", "..")]
            in_split = bool(folders) and folders[0].lower() in SPLITS
            split = text_of(document.get(SPLIT_COLUMN)) or (folders[0] if in_split else "")
            label = self._label(beside, document, name, folders[1 if in_split else 0 :])
            if self._options.split is not None and split != self._options.split:
                catalogue.left_out.add("other_split", name)
                catalogue.know(label)
                continue
            if label is None and self._options.label is not None:
                catalogue.left_out.add("no_label", name)
                continue
            catalogue.add(
                tar,
                name,
                member.nbytes,
                label=label,
                split=split,
                columns=_completed(document, as_text(name), split, label),
                offset=member.offset,
            )
        if not any(is_image(member.name) for member in members) and beside:
            catalogue.left_out.add("no_image", members[0].name)

    def _is_used(self, member: TarMember) -> bool:
        """Whether a member is an image that can be packed; counted when it is something else that is left out."""
        name = member.name.removeprefix("./")
        hidden = is_hidden(name.rpartition("/")[2])
        if hidden or not is_image(name):
            if not _is_beside(name):
                self._catalogue.left_out.add("hidden" if hidden else "not_an_image", name)
            return False
        if member.link is not None or member.sparse or member.special:
            self._catalogue.left_out.add("unreadable", name)
            return False
        return True

    def _label(self, beside: dict[str, TarMember], document: Row, name: str, folders: list[str]) -> str | None:
        """The class of an image: `--label` of its json, `cls`, the json's `label`, the folder; None without any."""
        label = self._options.label
        self._asked |= label is not None and label in document
        cls = (beside["cls"].data or b"").decode("utf-8", "replace").strip() if "cls" in beside else ""
        text = text_of(document.get(label)) if label is not None else cls or text_of(document.get(LABEL))
        if text:
            number = _number(text)
            if number is None:
                self._named = True
            else:
                self._numbered = self._numbered or name
            return text if number is None else str(number)
        if label is None and folders:
            self._foldered = self._foldered or name
            return folders[0]
        return None

    def _document(self, beside: dict[str, TarMember], name: str) -> Row:
        """The json of a group, and its text as `txt`; a json that cannot be read is counted."""
        document: Row = {}
        if "json" in beside:
            try:
                value = json.loads(beside["json"].data or b"")
                document = as_json(value)
            except (ValueError, RecursionError, AttributeError):
                self._catalogue.left_out.add("bad_json", name)
        text = beside["txt"].data if "txt" in beside else None
        if text is not None:
            document[_CAPTION] = text.decode("utf-8", "replace").strip()
            if self._catalogue.caption is None:
                self._catalogue.caption = _CAPTION
        for column in document:
            if column not in self._catalogue.columns:
                self._catalogue.columns.append(column)
        return document


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _is_beside(name: str) -> bool:
    return _extension(name) in BESIDE


def _number(text: str) -> int | None:
    """A class number as `audit --label cls` reads it; None for a name."""
    try:
        return int(text) if text.lstrip("+-").isdecimal() and text.isascii() else None
    except ValueError:
        return None


def _completed(document: Row, name: str, split: str, label: str | None) -> Row:
    """The json with `path`, `split` and `label`, where it has none of its own, and the member's name in any case."""
    added: Row = {"path": name} if "path" not in document else {"member": name}
    if split:
        added[SPLIT_COLUMN] = split
    if label is not None and _number(label) is None:
        added[LABEL] = label
    return {**added, **document}


def _groups(reader: TarReader) -> Iterator[list[TarMember]]:
    """Members next to each other that have one name but for the extension."""
    members: list[TarMember] = []
    for member in reader:
        if members and member.name.rpartition(".")[0] != members[0].name.rpartition(".")[0]:
            yield members
            members = []
        members.append(member)
    if members:
        yield members


def _names_beside(directory: Path) -> bytes | None:
    """The content of `classnames.txt` in a directory, or in that above, as `report` looks for it; None without one."""
    files = (read_if_there(str(place / CLASSNAMES)) for place in (directory, directory.parent))
    return next((data for data in files if data is not None), None)
