"""Remote stores: how they are opened, which errors they raise, and which requests are repeated after an error."""

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

# Base classes of the exceptions that remote file systems raise beside OSError; by name, since a library may be absent.
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
        "ConditionalRequestConflict",  # two conditional writes at the same time: one of them has to be repeated
    }
)
# s3fs turns SlowDown into EBUSY and InternalError into EREMOTEIO.
_NUMBERS: Final = frozenset(
    {errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EBUSY, errno.EREMOTEIO, errno.EAGAIN}
)
# By name: they are subclasses of the roots above, and no library has a base class for errors that are worth a retry.
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
_TRIES_REFUSED: Final = 3  # of a refused connection, which a wrong address explains better than a short outage
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_MAX_CAUSES: Final = 8  # that are followed from an error to its causes
_jitter = random.SystemRandom()  # not the random stream that a user may have seeded

_T = TypeVar("_T")


class RefusedError(PermissionError):
    """A host that must not be connected to. Libraries wrap it; its text is still the one that the user is told."""


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(file system, path on it) of a URL; the credentials that were taken out of the URL are put back.

    Raises UsageError for keys in the URL of a store that does not take them there, and fsspec's ValueError or
    ImportError for a URL of an unknown kind or one that needs another package.
    """
    if url.startswith(tuple(f"{kind}{HIDDEN}@" for kind in NO_USERS)):
        raise UsageError(
            f"{url}: put no keys into the URL of an object store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
            " AWS_PROFILE, or GOOGLE_APPLICATION_CREDENTIALS"
        )
    protocol = url.partition("://")[0] if "::" not in url else ""
    # A cached listing would not have what other workers and drivers have written since.
    options = {"use_listings_cache": False} if protocol in OBJECT_STORES else {}
    filesystem, path = fsspec.core.url_to_fs(private_url(url), **options)
    return filesystem, str(path)


def protocols_of(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    """All protocols of a file system, such as `("s3", "s3a")`."""
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def remote_errors() -> tuple[type[Exception], ...]:
    """The exceptions that the file systems whose libraries are imported raise for a failure."""
    loaded = ((sys.modules.get(module), name) for module, name in _ROOTS)
    return (OSError, asyncio.TimeoutError, *(getattr(module, name) for module, name in loaded if module is not None))


def transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later: after throttling, timeouts, broken connections, 5xx."""
    chain = list(_chain(error))
    return any(map(_transient, chain)) and not any(isinstance(cause, RefusedError) for cause in chain)


def taken(error: BaseException) -> bool:
    """Whether a store refused to create a file because one of that name exists (HTTP 412, Precondition Failed)."""
    return any(isinstance(cause, FileExistsError) or _status(cause) == 412 for cause in _chain(error))


def retried(call: Callable[[], _T], what: str) -> _T:
    """`call()`, repeated after a pause while its error is transient.

    The pause is drawn between 0 and a limit that doubles each time (full jitter), so that workers which a store refused
    together do not return together. `what` names the file for the message. `call` must give the same result however
    often it runs. Raises StoreUnavailable after 8 tries, with pauses of a minute and a half at most in all, and any
    other error at once.
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
            time.sleep(_jitter.uniform(0, min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**tries)))


def reason(error: BaseException) -> str:
    """An error's text on one line; the name of its class when it has none."""
    error = next((cause for cause in _chain(error) if isinstance(cause, RefusedError)), error)
    return " ".join(str(error).split()) or type(error).__name__


class PatientFile(io.RawIOBase):
    """A seekable remote file for reading, whose requests are repeated by `retried`; `what` names it in messages."""

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
        """Move to another offset, without a request; returns it."""
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, fewer only at the end, all when negative or None. Raises StoreUnavailable."""
        offset = self._file.tell()

        def once() -> bytes:
            self._file.seek(offset)  # a read that failed may have moved the file's position
            return self._file.read(-1 if size is None else size)

        return retried(once, self._what)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer, or what is left of the file into it; returns the number of bytes read."""
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
    """An error, its cause, the cause of that, and so on."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def _transient(error: BaseException) -> bool:
    """`transient` of one error without its causes."""
    name = type(error).__name__
    if name == "FileExpired":  # s3fs: the object was rewritten while it was read, and never becomes the old one again
        return False
    if isinstance(error, (TimeoutError, asyncio.TimeoutError, ConnectionError)):
        return True
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return _status(error) in _STATUSES or _code(error) in _CODES or name in _BROKEN_CONNECTIONS


def _refused(error: BaseException) -> bool:
    """Whether no connection could be made."""
    return any(
        isinstance(cause, ConnectionRefusedError)
        or type(cause).__name__ in ("EndpointConnectionError", "ClientConnectorError")
        for cause in _chain(error)
    )


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries; where it stands differs between libraries."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "code", None)
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdigit()) else None


def _code(error: BaseException) -> str:
    """The error code of S3 in an error of botocore, such as `SlowDown`; else empty."""
    response: Any = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
