"""Who may write: a page with --write, and a request with the session's token."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

from fastapi import Header
from starlette.exceptions import HTTPException

TOKEN_HEADER: Final = "x-clipaudit-token"  # noqa: S105 - a name


class WriteAccess:
    """A dependency of routes that write; 403 when nothing may be written, or the request has not the token.

    An empty token is nobody's: with it nothing is written.
    """

    def __init__(self, write: bool, token: str) -> None:
        self._write, self._token = write, token

    def __call__(self, given: Annotated[str | None, Header(alias=TOKEN_HEADER)] = None) -> None:
        """Let a request that may write pass."""
        if not self._write:
            raise HTTPException(403, "the page is read-only: start it again with --write to change anything")
        if not self._token or given is None or not secrets.compare_digest(given.encode(), self._token.encode()):
            raise HTTPException(403, "this page may not write: open the address that `clipaudit explore` printed")
