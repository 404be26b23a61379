"""What samples lack, in sentences: which file, what there is instead, which option mends it; also before a job."""

from __future__ import annotations

from typing import Final

from clipaudit.errors import ShardError
from clipaudit.schema import MISSING_LABEL, OK, Shard
from clipaudit.shards.field_values import MAX_JSON_BYTES, Origin
from clipaudit.shards.fields import Fields, Values, extract
from clipaudit.shards.image_names import IMAGE_EXTENSIONS
from clipaudit.shards.reader import Group, ShardReader

_IMAGE_NAMES: Final = ("img", "image")
_FOREIGN_NAMES: Final = ("heic", "heif", "jxl", "jp2")
"""Extensions of image formats that are not read."""
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_FIRST_SAMPLES: Final = 100
_FIRST_BYTES: Final = 16 * 2**20


def warn_of_first_samples(shard: Shard, fields: Fields) -> str | None:
    """One sentence when none of a shard's first samples has an image, or none a label that can be read; else None.

    Reads at most 16 MiB of the shard, and decodes nothing. A shard that cannot be read gives None: the job says so.
    """
    samples, images, labels, lack = 0, 0, 0, {"image": "", "label": ""}
    try:
        with ShardReader(shard, wants=fields.wants, complete=bool, max_member_bytes=MAX_JSON_BYTES) as reader:
            for group in reader:
                if group.status != OK or (group.foreign_kind is not None and not fields.images_in(group.extensions)):
                    continue
                samples += 1
                if fields.images_in(group.members):
                    images += 1
                else:
                    lack["image"] = lack["image"] or f"{group.key}: {missing_image(group, fields)}"
                data = {name: member.data for name, member in group.members.items()}
                values = extract(data, fields, Origin(key=group.key, shard=shard.url))
                if values.status == OK:
                    labels += 1
                else:
                    lack["label"] = lack["label"] or f"{group.key}: {missing_label(group, fields, values)}"
                if samples >= _FIRST_SAMPLES or reader.bytes_good >= _FIRST_BYTES or (images and labels):
                    break
    except ShardError:
        return None
    what = "image" if samples and not images else "label that can be read" if samples and not labels else ""
    if not what:
        return None
    has = "its first sample has" if samples == 1 else f"its first {samples} samples have"
    return f"{shard.url}: {has} no {what}: {lack[what.split()[0]]}"


def missing_image(group: Group, fields: Fields) -> str:
    """Why a sample has no image, in a sentence: what is looked for, what it has, and which option mends it."""
    wanted = ", ".join(fields.images) or "jpg, jpeg, png, webp, gif, bmp, tif, tiff or avif"
    has = group.extensions
    named = next((name for name in has if name.rpartition(".")[2] in (*IMAGE_EXTENSIONS, *_IMAGE_NAMES)), None)
    foreign = next((name for name in has if name.rpartition(".")[2] in _FOREIGN_NAMES), None)
    mended = "" if foreign is None else f"; {foreign} files are not read: convert them to JPEG, PNG or WebP"
    if named is not None:
        mended = f"; --image-key {named} reads it"
    return f"the sample has no image ({wanted}); it has {', '.join(has)}{mended}"


def missing_label(group: Group, fields: Fields, values: Values) -> str:
    """Why a sample's label is not there or cannot be read, in a sentence; of one that is not there also what the sample
    has, and which option may mend it.
    """
    source = (fields.label.extension or "") if fields.label is not None else ""
    problem = group.members[source].problem if source in group.members else ""
    if problem:  # says more than that there is nothing to read
        return f"{source}: {problem}"
    if values.status != MISSING_LABEL:
        return values.detail
    other = next((name for name in ("cls", "json", "txt") if name in group.extensions and name != source), None)
    reads = "json:NAME" if other == "json" else other
    mended = "" if other is None or not source else f"; --label {reads} reads another file"
    empty = fields.label is not None and not fields.label.in_json and source in group.members
    has = f"its {source} is empty" if empty else f"it has {', '.join(group.extensions)}"
    return f"{values.detail}; {has}{mended}"


def lacks_its_end(data: bytes) -> bool:
    """Whether a file is a JPEG without an end marker: cut off, so that `--allow-truncated-images` may read it."""
    return data.startswith(_JPEG_BEGIN) and _JPEG_END not in data[-1024:]  # some cameras write a little behind the end
