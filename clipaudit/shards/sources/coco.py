"""A COCO json to a catalogue: each image with the names of its objects and their boxes."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypedDict

from clipaudit.errors import UsageError
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.options import SourceOptions
from clipaudit.shards.sources.paths import ListedFile, look_up

_COLUMNS: Final = ("objects", "boxes", "width", "height", "image_id")
_LOOKED_AT: Final = 20  # images by which the directory is found

Json = dict[str, Any]


class Box(TypedDict):
    """One annotation."""

    object: str
    """Name of the category."""
    box: list[float] | None
    """x, y, width and height in pixels."""


def coco_document(path: str) -> Json:
    """The content of a COCO json. Raises UsageError when the file is none."""
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no json: {str(error)[:120]}") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(_is_list_of_objects(document.get(part)) for part in parts):
        raise UsageError(f"{path} is no COCO json: it needs the lists `images`, `annotations` and `categories`")
    return document


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def coco_root(path: str, document: Json, options: SourceOptions) -> str:
    """The real path of the directory with the images: `--images`, else beside the json the one that has them.

    `annotations/instances_val2017.json` goes with `val2017` or `images` beside `annotations`. Raises UsageError when
    `--images` is no directory.
    """
    if options.images is not None:
        if not Path(options.images).is_dir():
            raise UsageError(f"--images {options.images} is no directory")
        return os.path.realpath(options.images)
    folder = Path(path).resolve().parent
    stem = Path(path).stem.rpartition("_")[2]
    places = [folder, folder / "images", folder / stem]
    if folder.name == "annotations":
        places += [folder.parent / "images" / stem, folder.parent / stem, folder.parent / "images", folder.parent]
    names = [str(image.get("file_name", "")) for image in islice(document["images"], _LOOKED_AT)]
    counts = [sum(isinstance(look_up(name, str(place)), ListedFile) for name in names) for place in places]
    return str(places[counts.index(max(counts))])


def read_coco(path: str, document: Json, catalogue: Catalogue, options: SourceOptions) -> None:
    """Add the images of a COCO json in the order of its list.

    The json of a sample has `objects` (names of its categories, each once, sorted) and `boxes` (`object` and `box`, x,
    y, width and height in pixels, of every annotation). Where every image has exactly one category that is its class.
    Images without file, and annotations of unknown images or categories, are left out and counted. Raises UsageError
    when a category number has two names, an image number comes twice, or no file is there.
    """
    for option, value in (("--path", options.path), ("--label", options.label), ("--split", options.split)):
        if value is not None:
            raise UsageError(f"{option} {value!r} is for tables and folders, and {path} is a COCO json")
    names = _category_names(path, document, catalogue)
    boxes = _boxes(path, document, names, catalogue)
    single = all(len({box["object"] for box in group}) == 1 for group in boxes.values())
    if not single:
        catalogue.notes.append(
            "images have no, or several, categories: they are in the json as `objects`, without cls; `audit --label"
            " json:objects` reads them"
        )
    catalogue.columns = list(_COLUMNS)
    seen: set[tuple[str, str]] = set()  # the json is in memory whole, too
    for image in document["images"]:
        name = str(image.get("file_name") or "")
        file = look_up(name, catalogue.root) if name else "no_path"
        if isinstance(file, str):
            catalogue.left_out.add(file, name or f"image {image.get('id')}")
            continue
        if (file.folder, file.name) in seen:
            catalogue.left_out.add("repeated_path", name)
            continue
        seen.add((file.folder, file.name))
        group = boxes[image["id"]]
        objects = sorted({box["object"] for box in group})
        sizes = {key: image[key] for key in ("width", "height") if isinstance(image.get(key), int)}
        columns = {"objects": objects, "boxes": group, **sizes, "image_id": image["id"]}
        label = objects[0] if single else None
        catalogue.add(file.folder, file.name, file.size, stamp=file.stamp, label=label, columns=columns)
    missing = catalogue.left_out.examples.get("missing_file")
    if not len(catalogue) and missing:
        raise UsageError(
            f"{path}: none of its images is below {catalogue.root}, such as {missing[0]}: give their directory with"
            " --images"
        )


def _category_names(path: str, document: Json, catalogue: Catalogue) -> dict[object, str]:
    """Category number to name; a category that is listed again counts once."""
    names: dict[object, str] = {}
    for category in document["categories"]:
        number, name = _number(category.get("id"), path), str(category.get("name", "")).strip()
        if not name:
            raise UsageError(f"{path}: category {number} has no name")
        if names.setdefault(number, name) != name:
            raise UsageError(f"{path}: category {number} has two names, {names[number]!r} and {name!r}")
    repeated = len(names) - len(set(names.values()))
    if repeated:
        catalogue.notes.append(f"{repeated} categories have the name of another: they count as one class")
    return names


def _boxes(path: str, document: Json, names: dict[object, str], catalogue: Catalogue) -> dict[object, list[Box]]:
    """Image number to its annotations as they are written, in the order of the list."""
    boxes: dict[object, list[Box]] = {}
    for image in document["images"]:
        number = _number(image.get("id"), path)
        if number in boxes:
            raise UsageError(f"{path}: two images have the number {number}")
        boxes[number] = []
    for annotation in document["annotations"]:
        number, category = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(number, int | str) or number not in boxes:
            catalogue.left_out.add("unknown_image", f"image {number}")
        elif not isinstance(category, int | str) or category not in names:
            catalogue.left_out.add("unknown_category", f"category {category}")
        else:
            boxes[number].append({"object": names[category], "box": annotation.get("bbox")})
    return boxes


def _number(value: object, path: str) -> int | str:
    if not isinstance(value, int | str):
        raise UsageError(f"{path}: an image or a category has no `id`")
    return value
