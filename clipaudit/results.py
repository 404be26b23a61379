"""Results of a run as files: JSON and figures, put in place all at once inside the run, or one by one elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from clipaudit.run import Run
from clipaudit.storage import Storage, storage_errors


def publish(run: Run, directory: str, files: Mapping[str, Any], out: str | None = None) -> str:
    """Write files (bytes as they are, text as UTF-8, all else as JSON) into a directory of the run; returns its place.

    An older directory of that name is replaced as a whole. With `out`, files go there instead, each replaced at once,
    and what else is there stays. UsageError when writing is not allowed, StorageFull when there is no space left.
    """
    contents = {name: _bytes(content) for name, content in files.items()}
    if out is not None:
        storage = Storage(out)
        storage.make_directories([""])
        for name, content in contents.items():
            storage.replace(name, content)
        return storage.url
    storage = run.directory.storage
    with storage_errors(storage.full(directory)), run.directory.publish(directory) as aside:
        for name, content in contents.items():
            storage.replace(storage.relative(f"{aside}/{name}"), content)
    return f"{run.directory.url}/{directory}"


def _bytes(content: object) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    return json.dumps(finite(content), indent=1, ensure_ascii=False, default=str).encode()


def finite(value: object) -> object:
    """JSON values with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
