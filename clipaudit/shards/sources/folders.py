"""Folders to a catalogue: `SOURCE/cat/1.jpg`, `SOURCE/train/cat/1.jpg` with splits, or one without classes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.shards.image_names import IMAGE_EXTENSIONS
from clipaudit.shards.pack_writer import inside
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.options import SourceOptions

SPLITS: Final = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})
"""Names of top folders, in lower case, that are splits where all top folders have such a name."""


def is_image(name: str) -> bool:
    """Whether a file's name ends as that of an image that `audit` reads."""
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that systems leave behind, such as `.DS_Store` and `__MACOSX`."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def read_folders(source: str, catalogue: Catalogue, options: SourceOptions) -> None:
    """Add the images of a directory, in sorted order.

    The class is the first folder; where all top folders are called train, val, test and the like, the first is the
    split and the second the class. Images beside class folders, links to folders, and links out of the source are left
    out and counted. Raises UsageError when the directory cannot be read, or an option is for tables.
    """
    for name, value in (("--path", options.path), ("--label", options.label), ("--caption", options.caption)):
        if value is not None:
            raise UsageError(f"{name} {value!r} names a column, and {source} is a directory without a table")
    tops = [name for name, directory in _top_names(catalogue.root) if directory]
    split_depth = 1 if tops and all(name.lower() in SPLITS for name in tops) else 0
    flat = not tops
    called_so = [name for name in tops if name.lower() in SPLITS]
    if called_so and not split_depth:
        other = next(name for name in tops if name.lower() not in SPLITS)
        catalogue.notes.append(f"{', '.join(called_so[:3])}: taken for classes and no splits, since {other} is none")
    for folder, name, size, stamp in _walk(catalogue):
        parts = folder.split("/") if folder else []
        split = parts[0] if split_depth and parts else ""
        if options.split is not None and split != options.split:
            catalogue.left_out.add("other_split", f"{folder}/{name}")
            catalogue.know(parts[split_depth] if len(parts) > split_depth > 0 else None)
        elif flat:
            catalogue.add(folder, name, size, stamp=stamp)
        elif len(parts) <= split_depth:
            catalogue.left_out.add("no_class", f"{folder}/{name}" if folder else name)
        else:
            catalogue.add(folder, name, size, label=parts[split_depth], split=split, stamp=stamp)
    if flat:
        catalogue.notes.append("the images lie in one folder without classes: no labels are written")


def _top_names(root: str) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a directory) of what lies in the root."""
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    yield entry.name, entry.is_dir(follow_symlinks=False)
    except OSError as error:
        raise UsageError(f"{root} cannot be read: {error.strerror}") from error


def _walk(catalogue: Catalogue) -> Iterator[tuple[str, str, int, int]]:
    """(folder below the root, name, bytes, time of change) of every image, folders and files in sorted order.

    Links to folders are not followed, so that loops of links end.
    """
    pending, links = [""], 0
    while pending:
        folder = pending.pop()
        below = []
        path = f"{catalogue.root}/{folder}" if folder else catalogue.root
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            catalogue.left_out.add("unreadable", folder)
            continue
        try:
            for name in sorted(os.listdir(descriptor)):  # noqa: PTH208 - of an open directory
                relative = f"{folder}/{name}" if folder else name
                if is_hidden(name):
                    catalogue.left_out.add("hidden", relative)
                    continue
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    below.append(relative)
                    continue
                if stat.S_ISLNK(status.st_mode):
                    target = _link_target(f"{path}/{name}", relative, catalogue)
                    if target is None:
                        continue
                    status = target
                    links += is_image(name)
                if not is_image(name) or not stat.S_ISREG(status.st_mode):
                    catalogue.left_out.add("not_an_image", relative)
                else:
                    yield folder, name, status.st_size, status.st_mtime_ns
        finally:
            os.close(descriptor)
        pending += reversed(below)
    if links:
        catalogue.notes.append(
            f"{links:,} images are links to files of the source, each packed like an image of its own"
        )


def _link_target(path: str, relative: str, catalogue: Catalogue) -> os.stat_result | None:
    """Status of the file that a link leads to; None, counted, when it leads elsewhere or to a folder."""
    try:
        if os.path.isdir(path):  # noqa: PTH112 - a call a link
            catalogue.left_out.add("folder_link", relative)
            return None
        return os.stat(inside(path, catalogue.root))  # noqa: PTH116
    except OSError:
        reason = "outside" if os.path.exists(path) else "missing_file"  # noqa: PTH110
        catalogue.left_out.add(reason, relative)
        return None
