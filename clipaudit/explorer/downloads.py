"""Files that a browser keeps."""

from __future__ import annotations

from fastapi import Response


def download(content: str | bytes, name: str, media_type: str = "text/plain") -> Response:
    """A text, or bytes, as a file of a name."""
    disposition = f'attachment; filename="{name}"'
    media_type = f"{media_type}; charset=utf-8" if isinstance(content, str) else media_type
    return Response(content, media_type=media_type, headers={"content-disposition": disposition})
