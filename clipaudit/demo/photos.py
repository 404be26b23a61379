"""Some of the birds as a folder of class folders: what `clipaudit pack` is shown on."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clipaudit.run.classes import load_classes

COUNT: Final = 800
"""Pictures in the folder: enough for a report that decides."""


def write_photos(shards: Sequence[Path], out: Path, count: int = COUNT) -> int:
    """Write pictures of the train split as `OUT/CLASS/KEY.jpg`, at most `count / 2` of each class; returns how many.

    `shards` are those of the birds, with `classnames.txt` beside them. The bytes are those of the shards.
    """
    names = load_classes(str(shards[0].parent / "classnames.txt")).names
    written = [0] * len(names)
    for path in shards:
        if min(written) >= count // 2:
            break
        with tarfile.open(path) as tar:
            for key, files in _samples(tar).items():
                label = int(files["cls"])
                if json.loads(files["json"])["split"] == "train" and written[label] < count // 2:
                    folder = out / names[label].replace(" ", "_")
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{key}.jpg").write_bytes(files["jpg"])
                    written[label] += 1
    return sum(written)


def _samples(tar: tarfile.TarFile) -> dict[str, dict[str, bytes]]:
    """The files of each sample by extension, by key."""
    samples: dict[str, dict[str, bytes]] = {}
    for member in tar:
        key, _, extension = member.name.partition(".")
        file = tar.extractfile(member)
        if extension in ("jpg", "cls", "json") and file is not None:
            samples.setdefault(key, {})[extension] = file.read()
    return samples
