"""What one client of the HTTP interface may cost the others: time limits, requests at once, origins, body sizes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipaudit.storage.text_file import RepeatedKeyError, parse_json

MAX_JSON_BYTES: Final = 64 * 1024
MAX_CONNECTIONS: Final = 256
HEAD_SECONDS: Final = 10.0
"""From a connection's begin, or its last answer, to the end of a request's headers."""
BODY_SECONDS: Final = 30.0
COMPUTING: Final = 4
"""Requests that may compute at the same time."""
WAITING: Final = 32
"""Requests that may wait for their turn to compute; more are answered 429."""
TURN_SECONDS: Final = 20.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_PRIVATE: Final = {
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; sandbox",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
"""Headers of every answer that has not its own."""


class PromptProtocol(H11Protocol):
    """HTTP/1.1 that closes connections which send no complete request head in time, however they trickle.

    When there are more than MAX_CONNECTIONS, the one that has waited longest without a request makes room for a new
    one: connections that send nothing shut nobody out.
    """

    _waiting_since: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connects."""
        super().connection_made(transport)
        self._waiting_since = time.monotonic()
        self.loop.call_later(HEAD_SECONDS, self._look)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def on_response_complete(self) -> None:
        """An answer is sent; the client may ask again."""
        self._waiting_since = time.monotonic()
        super().on_response_complete()

    @property
    def waits(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        left = HEAD_SECONDS - (time.monotonic() - self._waiting_since) if self.waits else HEAD_SECONDS
        if left <= 0:
            self.transport.close()
        else:
            self.loop.call_later(left, self._look)

    def _make_room(self) -> None:
        waiting = [other for other in self.connections if isinstance(other, PromptProtocol) and other.waits]
        oldest = min(waiting, key=lambda other: other._waiting_since)  # this connection waits too: never empty
        oldest.transport.close()
        self.connections.discard(oldest)


class Guard:
    """Middleware that refuses other sites' pages and other content types, and limits bodies in bytes and seconds.

    Requests that compute take turns: COMPUTING at a time, in the order of their arrival; when WAITING others wait, or
    a turn does not come within TURN_SECONDS, the answer is 429 or 503 with Retry-After.
    """

    def __init__(
        self,
        app: Application,
        image_paths: tuple[str, ...],
        max_image_bytes: int,
        computing: tuple[str, ...],
        ends: tuple[str, ...] = (),
    ) -> None:
        """computing: beginnings of the paths that compute, `ends` their ends; `image_paths` take an image, others take
        JSON.
        """
        self._app, self._computing, self._ends = app, computing, ends
        self._image_paths, self._max_image_bytes = image_paths, max_image_bytes
        self._turns = asyncio.Semaphore(COMPUTING)
        self._present = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def private(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = dict(message.get("headers", ()))
                missing = [(name, value) for name, value in _PRIVATE.items() if name not in own]
                message["headers"] = [*message.get("headers", ()), *missing]
            await send(message)

        image = scope["path"] in self._image_paths
        limit = self._max_image_bytes if image else MAX_JSON_BYTES
        try:
            headers = dict(scope["headers"])
            _refuse_other_sites(headers, page=scope["path"] == "/" and scope["method"] == "GET")
            if scope["method"] == "POST":
                _refuse_other_types(headers, "image/" if image else "application/json")
            announced = headers.get(b"content-length", b"0")
            if not announced.isdigit() or int(announced) > limit:
                raise _too_large(limit)
            if not (scope["path"].startswith(self._computing) or scope["path"].endswith(self._ends)):
                await self._app(scope, receive, private)
                return
            body = await _whole_body(receive, limit)  # before its turn: a slow sender holds up nobody
            if not image:
                _refuse_repeated_keys(body)
            await self._in_turn(scope, body, receive, private)
        except HTTPException as error:
            answer = JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
            await answer(scope, receive, private)

    async def _in_turn(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        # counted before the first await: requests that arrive in one step of the loop all find the turns free
        if self._present >= COMPUTING + WAITING:
            raise HTTPException(429, "too many requests wait already: ask again later", {"Retry-After": "1"})
        self._present += 1
        try:
            await self._when_free(scope, body, receive, send)
        finally:
            self._present -= 1

    async def _when_free(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        try:
            await asyncio.wait_for(self._turns.acquire(), TURN_SECONDS)
        except TimeoutError:
            raise HTTPException(503, "the server is busy: ask again later", {"Retry-After": "5"}) from None
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()  # the client's end
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self._app(scope, replay, send)
        finally:
            self._turns.release()


def _refuse_other_sites(headers: dict[bytes, bytes], *, page: bool) -> None:
    """A browser says which page asks: only pages of this server may, and a person who types the address.

    page: whether the explorer's page itself is asked, to which a link of another site may lead in a window of its own.
    """
    site = headers.get(b"sec-fetch-site", b"none").decode("latin-1")
    link = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    site = "none" if page and link else site
    origin, host = headers.get(b"origin"), headers.get(b"host", b"").decode("latin-1")
    foreign = origin is not None and urlsplit(origin.decode("latin-1")).netloc != host
    if site not in ("none", "same-origin") or foreign:
        raise HTTPException(403, "pages of other sites may not ask this server")


def _refuse_other_types(headers: dict[bytes, bytes], wanted: str) -> None:
    """A form or plain text needs no permission to be sent from another site, JSON and images do."""
    given = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()
    if given and not (given.startswith(wanted) or (wanted == "image/" and given == "application/octet-stream")):
        name = f"{wanted}*" if wanted.endswith("/") else wanted
        raise HTTPException(415, f"the body's content type is {given}: send {name}")


def _refuse_repeated_keys(body: bytes) -> None:
    """A key that stands twice in one object is refused, as a parameter of an address is; 422."""
    try:
        parse_json(body)
    except RepeatedKeyError as error:
        raise HTTPException(422, f"body: {error}, and it takes one value") from None
    except (ValueError, RecursionError):
        return  # the application answers what is no JSON


async def _whole_body(receive: Receive, limit: int) -> bytes:
    """The request's body, at most `limit` bytes within BODY_SECONDS."""
    body, deadline = bytearray(), time.monotonic() + BODY_SECONDS
    while True:
        try:
            message = await asyncio.wait_for(receive(), deadline - time.monotonic())
        except TimeoutError:
            close = {"Connection": "close"}
            raise HTTPException(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds", close) from None
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the request has more than {limit:,} bytes", {"Connection": "close"})
