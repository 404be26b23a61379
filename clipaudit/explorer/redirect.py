"""A file that leads a browser to an address which nobody else may see."""

from __future__ import annotations

import atexit
import html
import os
import tempfile
from pathlib import Path


def redirect_file(address: str) -> Path:
    """A page of this user's alone (mode 0600) that leads to an address; it is removed when the process ends."""
    handle, name = tempfile.mkstemp(prefix="clipaudit-", suffix=".html")  # created with mode 0600
    place = html.escape(address, quote=True)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={place}"><a href="{place}">clipaudit</a>\n'
        )
    path = Path(name)
    atexit.register(lambda: path.unlink(missing_ok=True))
    return path
