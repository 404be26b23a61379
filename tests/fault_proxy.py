"""A small HTTP proxy on loopback that loses, delays and refuses requests on their way to an S3 server.

with FaultProxy(("127.0.0.1", moto_port)) as proxy:
    proxy.faults = Faults(seed=0, share=0.2)
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field

_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
_ANSWERS = {
    "throttled": (503, "SlowDown", "Please reduce your request rate."),
    "too_many": (429, "TooManyRequests", "Slow down."),
    "internal": (500, "InternalError", "We encountered an internal error."),
    "conflict": (409, "ConditionalRequestConflict", "A conflicting operation occurred."),
    "forbidden": (403, "AccessDenied", "Access Denied"),
}
KINDS = ("throttled", "too_many", "internal", "conflict", "reset", "lost_answer", "short_answer", "slow")


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def conditional(self) -> bool:
        return self.headers.get("if-none-match") == "*"


@dataclass
class Faults:
    """Which requests go wrong, and how: a seeded share of them, of some kinds."""

    seed: int = 0
    share: float = 0.0
    kinds: tuple[str, ...] = KINDS
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def choose(self, request: Request) -> str | None:
        if self._random.random() >= self.share:
            return None
        kinds = [kind for kind in self.kinds if kind != "conflict" or request.conditional]
        if request.method == "HEAD":
            kinds = [kind for kind in kinds if kind != "short_answer"]
        if not kinds:
            return None
        kind = self._random.choice(kinds)
        self.done[kind] += 1
        return kind


class FaultProxy:
    """Listens on `port`; each request goes to `upstream` by a connection of its own.

    Conditional writes of one key pass one at a time, as an object store orders them (moto checks first and writes
    later). `conditional` tells what the store makes of `If-None-Match`: `honour`, `ignore` or `reject`.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.faults = Faults()
        self.conditional = "honour"
        self.seen: list[Request] = []
        self.port = 0
        self._ready = threading.Event()

    def __enter__(self) -> FaultProxy:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await self._read(reader, writer)) is not None:
                self.seen.append(request)
                if not await self._answer(request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the proxy is being stopped
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        line = await reader.readline()
        if not line:
            return None
        method, target, _ = line.decode("latin-1").split()
        headers = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if headers.pop("expect", None):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            del headers["transfer-encoding"]
            while size := int((await reader.readline()).split(b";")[0], 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
            headers["content-length"] = str(len(body))
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        return Request(method, target, headers, body)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is over."""
        fault = self.faults.choose(request)
        if fault == "reset":
            return _reset(writer)
        if fault in _ANSWERS:
            return await _reply(writer, *_ANSWERS[fault])
        if request.conditional and self.conditional == "reject":
            return await _reply(writer, 501, "NotImplemented", "A header you provided implies functionality ...")
        if fault == "slow":
            await asyncio.sleep(0.3)
        async with self._locks[request.target if request.conditional else f"{id(request)}"]:
            answer = await self._forward(request)
        if fault == "lost_answer":
            return _reset(writer)
        if fault == "short_answer":
            head, _, body = answer.partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n" + body[: len(body) // 2])
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return True

    async def _forward(self, request: Request) -> bytes:
        """The upstream's whole answer to a request."""
        headers = {**request.headers, "connection": "close"}
        if self.conditional == "ignore":
            headers.pop("if-none-match", None)
        if headers.get("authorization", "").startswith("Basic "):
            del headers["authorization"]  # moto knows only AWS's
        lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + request.body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        return answer.replace(b"\r\nConnection: close", b"", 1)


async def _reply(writer: asyncio.StreamWriter, status: int, code: str, message: str) -> bool:
    body = _ERROR.format(code, message).encode()
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return True


def _reset(writer: asyncio.StreamWriter) -> bool:
    """End a connection with RST, as a router that has lost it does."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
