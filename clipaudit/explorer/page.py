"""The page's files, which come with the package, and what a browser is told about them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from clipaudit.explorer.problems import NotThereError

STATIC: Final = Path(__file__).parent / "static"
_FILES: Final = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""No inline script or style, nothing of another host, no frame around the page."""


def add_page(router: APIRouter) -> None:
    """The page at `/`, and its files below `/assets`."""

    @router.get("/", include_in_schema=False)
    def index(http: HttpRequest) -> Response:
        """The page."""
        return _file("index.html", http)

    @router.get("/assets/{name}", include_in_schema=False)
    def asset(name: str, http: HttpRequest) -> Response:
        """One of the page's files."""
        if name not in _FILES:  # a name is never used as a path before it is known
            raise NotThereError("the page has no such file")
        return _file(name, http)


def _file(name: str, http: HttpRequest) -> Response:
    data = (STATIC / name).read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {"content-security-policy": _POLICY, "cache-control": "no-cache", "etag": tag}
    if http.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=_FILES[name], headers=headers)
