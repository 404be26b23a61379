"""Who may write: a server that was started with --write, asked by a page that has the session's token."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

from fastapi import Header
from starlette.exceptions import HTTPException

TOKEN_HEADER: Final = "x-clipaudit-token"  # noqa: S105 - a name


class WriteGuard:
    """Lets requests write that carry the session's token."""

    def __init__(self, token: str, *, write: bool) -> None:
        """An empty token is nobody's: nothing may be written with it."""
        self._token, self._write = token, write

    def check(self, given: Annotated[str | None, Header(alias=TOKEN_HEADER)] = None) -> None:
        """403 when nothing may be written, or the request has not the token."""
        if not self._write:
            raise HTTPException(403, "the page is read-only: start it again with --write")
        if not self._token or given is None or not secrets.compare_digest(given.encode(), self._token.encode()):
            raise HTTPException(403, "this page may not write: open the address that `clipaudit explore` printed")
