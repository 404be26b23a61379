"""Images read again from the shards that a stored run names. The run may come from a stranger: not every URL is opened.

A local file must be a regular one. Object stores are opened with the user's own keys. A web server must have a public
address. That is checked for each connection, so that neither a redirect nor a name that resolves to another address the
second time can lead into a private network or to a cloud's metadata service. `CLIPAUDIT_SHARD_HOSTS` lists hosts,
addresses or networks that are allowed nevertheless. URLs of any other kind are refused.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import fsspec

from clipaudit.errors import ShardChanged, ShardUnreadable, UsageError
from clipaudit.redact import private_url
from clipaudit.schema import Shard
from clipaudit.shards.listing import is_local, local_path, stat_on
from clipaudit.storage.remote import RefusedError, open_filesystem, reason, remote_errors, retried

ALLOWED: Final = "CLIPAUDIT_SHARD_HOSTS"
MAX_BYTES: Final = 256 * 2**20
"""Largest number of bytes that `read_piece` reads."""
_HASHED_BYTES: Final = 8 * 2**20
_TRUSTED: Final = ("s3", "s3a", "gs", "gcs", "memory")
_WEB: Final = ("http", "https")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # a public prefix with an IPv4 address inside

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_shard(shard: Shard) -> None:
    """Compare the size and etag of a shard that a stored run names with the recorded ones, by one stat.

    Raises ShardUnreadable when it does not exist, cannot be reached or must not be opened, and ShardChanged when its
    size or etag differs.
    """
    filesystem, path = _open_filesystem(shard.url)
    try:
        now = stat_on(filesystem, path, shard.url)
    except UsageError as error:
        raise ShardUnreadable(str(error)) from error
    if now is None:
        raise ShardUnreadable("the shard is not there any more")
    if (now.size, now.etag) != (shard.size, shard.etag):
        raise ShardChanged("the shard has changed since the audit")


def has_content(shard: Shard, sha256: str) -> bool:
    """Whether a shard that a stored run names has the recorded size and hash (hex sha256); reads all of it.

    Raises as `check_shard`, but not ShardChanged.
    """
    filesystem, path = _open_filesystem(shard.url)
    now = stat_on(filesystem, path, shard.url)
    if not sha256 or now is None or now.size != shard.size:
        return False
    digest = hashlib.sha256()
    for offset in range(0, shard.size, _HASHED_BYTES):
        digest.update(read_piece(shard.url, offset, min(_HASHED_BYTES, shard.size - offset)))
    return digest.hexdigest() == sha256


def read_piece(url: str, offset: int, nbytes: int) -> bytes:
    """`nbytes` bytes of a shard from `offset` on, by one request; fewer where the shard ends.

    Raises ShardUnreadable for a negative offset or more than MAX_BYTES, and when the shard cannot or must not be read.
    """
    if offset < 0 or not 0 < nbytes <= MAX_BYTES:
        raise ShardUnreadable(f"{nbytes} bytes at {offset} of {url} cannot be an image")
    filesystem, path = _open_filesystem(url)
    options: dict[str, Any] = {} if is_local(url) else {"cache_type": "none"}

    def once() -> bytes:
        with filesystem.open(path, "rb", **options) as file:
            file.seek(offset)
            return bytes(file.read(nbytes))

    # ValueError: the server does not serve ranges of a file.
    faults: tuple[type[Exception], ...] = (ValueError, *remote_errors())
    try:
        return retried(once, url)
    except faults as error:
        raise ShardUnreadable(f"{url} cannot be read: {reason(error)}") from error


def _open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL that a stored run names, and the path on it.

    Raises ShardUnreadable when the URL must not be opened.
    """
    if is_local(url):
        path = local_path(url)
        try:
            regular = stat.S_ISREG(Path(path).stat().st_mode)
        except OSError:
            regular = True  # it does not exist, or cannot be reached: reading it gives that error
        if not regular:
            raise ShardUnreadable(f"{path} is not a regular file")
        return fsspec.filesystem("file"), path
    kind = url.partition("://")[0].lower()
    if "::" not in url and kind in _TRUSTED:
        return open_filesystem(url)
    if "::" in url or kind not in _WEB:
        raise ShardUnreadable(
            f"{url} is named by the run and is not opened: only local files, s3, gs and web addresses are"
        )
    host = urlsplit(url).hostname or ""
    # An address is checked at once, a name's addresses when the connection is made.
    if re.fullmatch(r"[\d.]+|.*:.*", host) and not _may_connect(host):
        raise ShardUnreadable(_refusal(host))
    return fsspec.filesystem(kind, get_client=_guarded_client), private_url(url)


async def _guarded_client(**options: Any) -> Any:  # noqa: ANN401 - aiohttp's types, which may not be installed
    """An HTTP session that connects to allowed addresses only."""
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_guarded_socket), **options)


def _guarded_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for one entry of `getaddrinfo` that is about to be connected to. Raises RefusedError."""
    family, kind, protocol, _, (host, *_) = address
    if not _may_connect(str(host)):
        raise RefusedError(_refusal(str(host)))
    return socket.socket(family, kind, protocol)


def _refusal(host: str) -> str:
    return (
        f"{host} is not a public address, and the run names it as the host of its shards: to allow it, set"
        f" {ALLOWED}={host}"
    )


def _may_connect(host: str) -> bool:
    """Whether an address and all that are embedded in it are public, or the user has allowed it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    public = all(part.is_global and not part.is_multicast for part in _with_embedded(address))
    return public or _is_allowed(address)


def _with_embedded(address: Address) -> Iterator[Address]:
    """An address and the IPv4 addresses embedded in it, which a tunnel or a translator may connect to instead."""
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        embedded = (address.ipv4_mapped, address.sixtofour, *(address.teredo or ()))
        yield from (part for part in embedded if part is not None)
        if address in _NAT64:
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _is_allowed(address: Address) -> bool:
    """Whether the user has listed an address, a network around it, or a host that has it."""
    for entry in filter(None, (part.strip() for part in os.environ.get(ALLOWED, "").split(","))):
        try:
            if address in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            try:
                addresses = {str(info[4][0]) for info in socket.getaddrinfo(entry, None)}
            except OSError:
                continue
            if str(address) in addresses:
                return True
    return False
