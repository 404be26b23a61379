"""What all remote stores share: how they are opened, the errors that they report, and what is tried again."""

from __future__ import annotations

import asyncio
import errno
import io
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import fsspec

from clipaudit.errors import StoreUnavailable, UsageError
from clipaudit.redact import HIDDEN, NO_USERS, private_url

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LOCAL_PROTOCOLS: Final = frozenset({"file", "local"})
OBJECT_STORES: Final = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2"})
"""Stores without directories: every name is a key."""

# Roots of the exceptions that remote file systems raise beside OSError; named, because they may not be installed.
_ROOTS: Final = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
    ("requests.exceptions", "RequestException"),
    ("azure.core.exceptions", "AzureError"),
)
_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_CODES: Final = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "InternalError",
        "ServiceUnavailable",
        "IncompleteBody",
        "BadDigest",
        "XAmzContentSHA256Mismatch",
        "NoSuchUpload",  # the upload is begun anew
        "OperationAborted",
        "ConditionalRequestConflict",  # two conditional writes at once: one of them has to ask again
    }
)
# EBUSY and EREMOTEIO are what s3fs makes of SlowDown and InternalError.
_NUMBERS: Final = frozenset(
    {errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EBUSY, errno.EREMOTEIO, errno.EAGAIN}
)
# By name: they are subclasses of the roots above, and no library's own base class means "try again".
_BROKEN_CONNECTIONS: Final = frozenset(
    {
        *("ClientConnectorError", "ClientOSError", "ClientPayloadError", "ClientConnectionResetError"),  # aiohttp
        *("ServerDisconnectedError", "ServerTimeoutError", "ConnectionTimeoutError", "SocketTimeoutError"),
        *("ConnectionClosedError", "ConnectTimeoutError", "EndpointConnectionError", "HTTPClientError"),  # botocore
        *("IncompleteReadError", "ReadTimeoutError", "ResponseParserError", "ResponseStreamingError"),
        *("ChecksumError", "ChunkedEncodingError", "ProxyError", "RefreshError", "TransportError"),  # gcsfs, requests
        *("FSTimeoutError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout"),
    }
)
_TRIES: Final = 8
_TRIES_REFUSED: Final = 3  # nobody listens: more likely a wrong address than a store that is coming back
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0  # seconds
_jitter = random.SystemRandom()  # never a stream that a user has seeded

_T = TypeVar("_T")


class RefusedError(PermissionError):
    """A place that must not be asked; however deep a library wraps it, its text is what the user is told."""


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL (credentials that were taken out of it put back) and the path on it.

    Raises UsageError for a URL of an unknown kind, and for keys in the URL of a store that does not take them there.
    """
    if url.startswith(tuple(f"{kind}{HIDDEN}@" for kind in NO_USERS)):
        raise UsageError(
            f"{url}: put no keys into the URL of an object store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
            " AWS_PROFILE, or GOOGLE_APPLICATION_CREDENTIALS"
        )
    protocol = url.partition("://")[0] if "::" not in url else ""
    # A listing that this process remembers says nothing about what other workers and drivers have written since.
    options = {"use_listings_cache": False} if protocol in OBJECT_STORES else {}
    filesystem, path = fsspec.core.url_to_fs(private_url(url), **options)
    return filesystem, str(path)


def protocols_of(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    """The names under which a file system is known."""
    found = filesystem.protocol
    return (found,) if isinstance(found, str) else tuple(found)


def remote_errors() -> tuple[type[Exception], ...]:
    """The exceptions by which the file systems that are loaded report a failure."""
    loaded = ((sys.modules.get(module), name) for module, name in _ROOTS)
    return (OSError, asyncio.TimeoutError, *(getattr(module, name) for module, name in loaded if module is not None))


def transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later: throttling, timeouts, broken connections, 5xx."""
    found = list(_chain(error))
    return any(map(_transient, found)) and not any(isinstance(one, RefusedError) for one in found)


def taken(error: BaseException) -> bool:
    """Whether a store refused to create a file because there is one of that name."""
    return any(isinstance(found, FileExistsError) or _status(found) == 412 for found in _chain(error))


def retried(call: Callable[[], _T], what: str) -> _T:
    """`call()`, tried again after a pause with full jitter (so that workers do not return in step) while it may help.

    `what` names the file for the message. Raises StoreUnavailable when the store has not come back after some two
    minutes; any other error at once and as it is. `call` must give the same result however often it runs.
    """
    tries = 0
    while True:
        try:
            return call()
        except remote_errors() as error:
            tries += 1
            if not transient(error):
                raise
            if tries >= (_TRIES_REFUSED if _refused(error) else _TRIES):
                raise StoreUnavailable(
                    f"{what}: the store failed {tries} times; the last time: {reason(error)}"
                ) from error
            time.sleep(_jitter.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tries)))


def reason(error: BaseException) -> str:
    """An error's text on one line; its kind when it has none."""
    error = next((found for found in _chain(error) if isinstance(found, RefusedError)), error)
    return " ".join(str(error).split()) or type(error).__name__


class PatientFile(io.RawIOBase):
    """A remote file for reading from any place, whose requests are tried again when the store fails for a while."""

    def __init__(self, file: IO[bytes], what: str) -> None:
        self._file, self._what = file, what

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Offset of the next read in bytes."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to another offset; nothing is fetched by that."""
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes; fewer only at the end. Raises StoreUnavailable."""
        place = self._file.tell()

        def once() -> bytes:
            self._file.seek(place)
            return self._file.read(-1 if size is None else size)

        return retried(once, self._what)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer as far as the file reaches; returns the bytes read."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if not self.closed:
            self._file.close()
        super().close()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that caused it."""
    found: BaseException | None = error
    for _ in range(8):
        if found is None:
            return
        yield found
        found = found.__cause__


def _transient(error: BaseException) -> bool:
    name = type(error).__name__
    if name == "FileExpired":  # s3fs: the object was rewritten while it was read
        return False
    if isinstance(error, (TimeoutError, asyncio.TimeoutError, ConnectionError)):
        return True
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return _status(error) in _STATUSES or _code(error) in _CODES or name in _BROKEN_CONNECTIONS


def _refused(error: BaseException) -> bool:
    return any(
        isinstance(found, ConnectionRefusedError)
        or type(found).__name__ in ("EndpointConnectionError", "ClientConnectorError")
        for found in _chain(error)
    )


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, however its library says so."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "code", None)
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdigit()) else None


def _code(error: BaseException) -> str:
    response: Any = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
