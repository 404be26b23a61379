"""Files that a browser keeps."""

from __future__ import annotations

from fastapi import Response


def download(text: str, name: str, media_type: str = "text/plain") -> Response:
    """A text as a file of a name."""
    disposition = f'attachment; filename="{name}"'
    return Response(text, media_type=f"{media_type}; charset=utf-8", headers={"content-disposition": disposition})
