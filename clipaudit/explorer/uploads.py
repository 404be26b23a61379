"""Pictures that people drop on the page to ask with them: a few, in memory, by the hash of their bytes."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.retrieval.queries import MAX_IMAGE_BYTES
from clipaudit.shards.image_header import HeaderError, read_header

_PICTURES: Final = 8


class Uploads:
    """The latest pictures. For any number of threads."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, data: bytes) -> str:
        """Keep an image file's bytes; returns its name. UsageError when it is too large, or no image that is read."""
        if len(data) > MAX_IMAGE_BYTES:
            raise UsageError(f"the picture has {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}")
        try:
            read_header(data)
        except HeaderError as error:
            raise UsageError(f"the picture cannot be used: {error}") from error
        name = hashlib.sha256(data).hexdigest()[:16]
        with self._lock:
            self._pictures[name] = data
            self._pictures.move_to_end(name)
            if len(self._pictures) > _PICTURES:
                self._pictures.popitem(last=False)
        return name

    def data(self, name: str) -> bytes:
        """A picture's bytes; UsageError when it is not kept any more."""
        with self._lock:
            if name not in self._pictures:
                raise UsageError("the picture that was asked with is gone from the server's memory: drop it again")
            return self._pictures[name]
