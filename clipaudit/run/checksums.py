"""Hashes of derived files, for `check`: `SHA256SUMS` beside them, or inside a single safetensors file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import safetensors
import safetensors.numpy

from clipaudit.errors import IntegrityError
from clipaudit.run.records import MALFORMED, StoredFile
from clipaudit.storage.local import open_regular

SUMS: Final = "SHA256SUMS"
"""Name of the file; it lists every other file of its directory, as `sha256sum` does."""
_READ_BYTES: Final = 4 * 2**20
_LINE: Final = re.compile(r"([0-9a-f]{64})  ([^/\\\x00-\x1f]+)")


def sums_text(hashes: Mapping[str, str]) -> bytes:
    """The content of `SHA256SUMS` for hex hashes by file name."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items())).encode()


def read_sums(data: bytes, where: str) -> dict[str, str]:
    """Hex hash by file name; IntegrityError naming `where` for anything but lines of a hash and a plain file name."""
    matches = [_LINE.fullmatch(line) for line in data.decode("utf-8", "replace").removesuffix("\n").split("\n")]
    hashes = {match[2]: match[1] for match in matches if match is not None}
    if None in matches or not data.endswith(b"\n") or {".", ".."} & hashes.keys():
        raise IntegrityError(f"{where} is damaged: it is no list of hashes and file names")
    return hashes


def write_sums(folder: Path, known: Mapping[str, StoredFile] | None = None) -> None:
    """Write `SHA256SUMS` over the files of a local directory; those in `known` are not read again. Raises OSError."""
    stored = known or {}
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    hashes = {name: stored[name].sha256 if name in stored else file_sha256(folder / name) for name in names}
    (folder / SUMS).write_bytes(sums_text(hashes))


def file_sha256(path: Path) -> str:
    """Hex sha256 of a local file; raises as `open_regular`."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sealed(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of arrays of any shape, whose metadata has the `sha256` of `metadata` and numbers too."""
    plain = dict(tensors)
    _, numbers = _parts(safetensors.numpy.save(plain, dict(metadata)))
    data: bytes = safetensors.numpy.save(plain, {**metadata, "sha256": _seal(metadata, numbers)})
    return data


def is_sealed(data: bytes) -> bool | None:
    """Whether a safetensors file is as `sealed` wrote it; None for one without a hash (of version 0.1)."""
    try:
        header, numbers = _parts(data)
        metadata = dict(header["__metadata__"])
        safetensors.numpy.load(data)
        sha256 = metadata.pop("sha256", None)
        return None if sha256 is None else sha256 == _seal(metadata, numbers)
    except (*MALFORMED, safetensors.SafetensorError):
        return False


def _parts(data: bytes) -> tuple[Any, bytes]:
    """(header, bytes of the numbers) of a safetensors file: eight bytes of length, JSON, numbers."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _seal(metadata: Mapping[str, str], numbers: bytes) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    digest.update(numbers)
    return digest.hexdigest()
