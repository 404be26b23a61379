"""Tars with other names than WebDataset's to a catalogue: classes by folders, or by files beside the image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.folders import SPLITS, is_hidden, is_image
from clipaudit.shards.sources.options import SourceOptions
from clipaudit.shards.sources.tables import Row, as_json
from clipaudit.shards.tar import EndedEarly, NotATar, TarMember, TarReader

_BESIDE: Final = ("cls", "json", "txt")
_MAX_TEXT_BYTES: Final = 2**20


def tar_files(source: str) -> list[str]:
    """The tars in a directory, or the tar itself; sorted."""
    path = Path(source)
    return [source] if path.is_file() else sorted(map(str, path.glob("*.tar")))


def read_tars(source: str, catalogue: Catalogue, options: SourceOptions) -> None:
    """Add the images of plain tars, in the order of their names and members.

    Files of the image's name but for the extension, next to it, belong to it: `cls` (the class, a number or a name),
    `json` (columns) and `txt` (the column `txt`). Without `cls` the class is the first folder, or the second below
    train, val, test and the like. An image whose name goes on from the image's before it, such as the mask `1.seg.png`
    behind `1.jpg`, is left out and counted. Raises UsageError when a file is no plain tar, or an option is for tables.
    """
    for option, value in (("--path", options.path), ("--images", options.images)):
        if value is not None:
            raise UsageError(f"{option} {value!r} is for tables, and {source} is a tar")
    for path in tar_files(source):
        file = Path(path)
        try:
            with file.open("rb") as stream:
                reader = TarReader(stream, file.stat().st_size, wants=_is_beside, max_member_bytes=_MAX_TEXT_BYTES)
                stem = None  # of the last image
                for members in _groups(reader):
                    if stem is not None and members[0].name.startswith(f"{stem}."):
                        for member in members:
                            catalogue.left_out.add("beside", member.name)
                        continue
                    stem = members[0].name.rpartition(".")[0] if any(is_image(m.name) for m in members) else None
                    _add_group(str(file.resolve()), members, catalogue, options)
        except (NotATar, EndedEarly, OSError) as error:
            raise UsageError(f"{path} cannot be read as a plain tar: {error}") from None
        if reader.truncated is not None:
            catalogue.notes.append(f"{file.name}: {reader.truncated}")


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _is_beside(name: str) -> bool:
    return _extension(name) in _BESIDE


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


def _add_group(tar: str, members: list[TarMember], catalogue: Catalogue, options: SourceOptions) -> None:
    beside = {_extension(member.name): member.data for member in members if member.data is not None}
    columns = _columns(beside, members[0].name, catalogue)
    label = (beside.get("cls") or b"").decode("utf-8", "replace").strip()
    images = 0
    for member in members:
        name = member.name.removeprefix("./")
        if is_hidden(name.rpartition("/")[2]) or not is_image(name):
            if not _is_beside(name):
                catalogue.left_out.add("hidden" if is_hidden(name.rpartition("/")[2]) else "not_an_image", name)
            continue
        images += 1
        if member.link is not None or member.sparse or member.special:
            catalogue.left_out.add("unreadable", name)
            continue
        folders = [part for part in name.split("/")[:-1] if part not in ("", ".", "..")]
        in_split = bool(folders) and folders[0].lower() in SPLITS
        split = str(columns.get("split") or (folders[0] if in_split else ""))
        if options.split is not None and split != options.split:
            catalogue.left_out.add("other_split", name)
            continue
        place = folders[1 if in_split else 0 :]
        catalogue.add(
            tar,
            name,
            member.nbytes,
            label=label or (place[0] if place else None),
            split=split,
            columns={key: value for key, value in columns.items() if key not in ("path", "split", "label")} or None,
            offset=member.offset,
        )
    if not images and beside:
        catalogue.left_out.add("no_image", members[0].name)


def _columns(beside: dict[str, bytes], name: str, catalogue: Catalogue) -> Row:
    """The columns of a group: its json, and its text as `txt`; a json that cannot be read is counted."""
    columns: Row = {}
    if "json" in beside:
        try:
            document = json.loads(beside["json"])
        except (ValueError, RecursionError):
            catalogue.left_out.add("bad_json", name)
        else:
            columns = as_json(document) if isinstance(document, dict) else {}
    if "txt" in beside:
        columns["txt"] = beside["txt"].decode("utf-8", "replace").strip()
    for column in columns:
        if column not in catalogue.columns:
            catalogue.columns.append(column)
    return columns
