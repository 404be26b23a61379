"""Shard patterns (braces, globs, any fsspec URL) to the ordered list of shards, with one listing per directory."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeVar

from fsspec import AbstractFileSystem

from clipaudit.errors import ShardNotFound, StoreUnavailable, UsageError
from clipaudit.redact import private_url, public_url
from clipaudit.schema import Shard
from clipaudit.storage.remote import open_filesystem, reason, retried
from clipaudit.storage.remote import remote_errors as remote_errors

_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_COMPRESSED: Final = (".gz", ".tgz", ".bz2", ".xz", ".zst")
_FEW: Final = 16  # up to here a stat each is cheaper than the listing of a large directory
_STAT_THREADS: Final = 32
_MOST_SHARDS: Final = 1_000_000
_INNERMOST_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
# Where file systems tell what changes with the content, the surest first.
_MARKS: Final = (
    "ETag", "etag", "md5Hash", "Content-MD5", "mtime", "LastModified", "Last-Modified", "last_modified", "created"
)  # fmt: skip
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stat:
    """What identifies the content of a file, as far as its file system says."""

    url: str
    size: int
    etag: str
    directory: bool = False


def expand(patterns: Sequence[str]) -> list[Shard]:
    """The shards that paths or URLs with braces and globs name: in the order given, each once, ids by position.

    A glob's matches are sorted. Local paths become absolute. URLs come without their credentials, which this process
    remembers; another one learns them by `learn_credentials`. Raises ShardNotFound when a pattern matches nothing or a
    named shard is missing, UsageError when a URL cannot be reached or is not a plain tar.
    """
    found: dict[str, Stat] = {}
    for pattern in learn_credentials(patterns):
        for entry in _matches(pattern):
            found.setdefault(entry.url, entry)
    if not found:
        raise UsageError("no shards were given: name at least one .tar file or pattern")
    return [Shard(id=i, url=entry.url, size=entry.size, etag=entry.etag) for i, entry in enumerate(found.values())]


def learn_credentials(patterns: Sequence[str]) -> list[str]:
    """The patterns without the credentials in them, which this process knows from now on.

    A pattern with a signed query is expanded first, because the query belongs to each of its files.
    """
    learnt = []
    for pattern in map(private_url, patterns):
        public = public_url(pattern)
        signed = public.partition("?")[2] != pattern.partition("?")[2]
        learnt += [public_url(text) for text in expand_braces(pattern)] if signed else [public]
    return learnt


def stat_shard(url: str) -> Stat | None:
    """Size and etag of one file as they are now; None when it does not exist. Raises UsageError when out of reach."""
    if is_local(url):
        return _local_stat(local_path(url))
    return _reach(url, lambda: _stat_on(*open_filesystem(url), url))


def stat_on(fs: AbstractFileSystem, path: str, url: str) -> Stat | None:
    """The same on a file system that is open already; `url` is what the file is called."""
    return _local_stat(path) if is_local(url) else _reach(url, lambda: _stat_on(fs, path, url))


def stat_open(file: IO[bytes], url: str) -> Stat:
    """Size and etag of an open local file, whatever has become of its name."""
    return _as_stat(url, os.fstat(file.fileno()))


def expand_braces(pattern: str) -> list[str]:
    """The texts that `{000000..000009}` and `{a,b}` stand for, in order; other braces stay as they are.

    Raises UsageError when they are more than a million.
    """
    texts, done = [pattern], False
    while not done:
        grown: list[str] = []
        done = True
        for text in texts:
            found = _choices(text)
            if found is None:
                grown.append(text)
                continue
            start, end, choices = found
            done = False
            if len(grown) + len(choices) > _MOST_SHARDS:
                raise UsageError(f"the pattern {pattern!r} names more than {_MOST_SHARDS} shards")
            grown += [text[:start] + choice + text[end:] for choice in choices]
        texts = grown
    return list(dict.fromkeys(texts))


def _choices(text: str) -> tuple[int, int, Sequence[str]] | None:
    """Start, end and choices of the first innermost braces that can be expanded."""
    for match in _INNERMOST_BRACES.finditer(text):
        limits = _RANGE.fullmatch(match[1])
        if limits:
            first, last, step = int(limits[1]), int(limits[2]), max(int(limits[3] or 1), 1)
            width = len(limits[1]) if limits[1].startswith("0") or limits[2].startswith("0") else 0
            width = max(width, len(limits[2])) if width else 0
            numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
            if len(numbers) > _MOST_SHARDS:
                raise UsageError(f"the pattern {text!r} names more than {_MOST_SHARDS} shards")
            return match.start(), match.end(), [f"{number:0{width}d}" for number in numbers]
        if "," in match[1]:
            return match.start(), match.end(), match[1].split(",")
    return None


def _matches(pattern: str) -> list[Stat]:
    """What one pattern names. The texts of one directory are looked up together."""
    if pattern.startswith("pipe:"):
        raise UsageError(f"{pattern!r}: commands are not run; give a path or a URL that fsspec knows")
    by_directory: dict[str, list[str]] = {}
    texts = expand_braces(pattern)
    for text in texts:
        by_directory.setdefault(_directory(text), []).append(text)
    found: dict[str, list[Stat]] = {}
    for directory, members in by_directory.items():
        found |= _look_up(directory, members)
    globs = [text for text in texts if _has_glob(text)]
    missing = [text for text in texts if not found[text] and not _has_glob(text)]
    if missing:
        others = f", nor do {len(missing) - 1} others of the {len(texts)} named" if len(missing) > 1 else ""
        raise ShardNotFound(f"shard {missing[0]} does not exist{others}")
    if globs and not any(found[text] for text in globs):
        raise ShardNotFound(f"no shard matches {pattern!r}")
    entries = [entry for text in texts for entry in found[text]]
    for entry in entries:
        if entry.url.lower().endswith(_COMPRESSED):
            raise UsageError(f"{entry.url} is compressed: unpack it to a plain .tar (offsets need one)")
    return entries


def _look_up(directory: str, texts: list[str]) -> dict[str, list[Stat]]:
    """Entries of each text, all of which lie in `directory`; an empty list for what is not there."""
    if any(character in directory for character in "*["):
        return {text: sorted(_deep_glob(text), key=lambda entry: entry.url) for text in texts}
    globs = any(_has_glob(text) for text in texts)
    listable = not directory.startswith(("http:", "https:"))  # a web page does not tell sizes
    if listable and (globs or len(texts) > _FEW):
        listing = dict(sorted(_listing(directory).items()))
        return {text: list(_pick(text, listing)) for text in texts}
    if globs:
        return {text: sorted(_deep_glob(text), key=lambda entry: entry.url) for text in texts}
    entries = zip(texts, _stat_all([text.rstrip("/") for text in texts]), strict=True)
    return {text: [] if entry is None else [_as_file(entry)] for text, entry in entries}


def _pick(text: str, listing: dict[str, Stat]) -> Iterator[Stat]:
    name = text.rstrip("/").rpartition("/")[2]
    if not _has_glob(text):
        if name in listing:
            yield _as_file(listing[name])
        return
    matches = re.compile(fnmatch.translate(name)).match
    hidden = name.startswith(".")
    for candidate, entry in listing.items():
        if matches(candidate) and not entry.directory and (hidden or not candidate.startswith(".")):
            yield entry


def _as_file(entry: Stat) -> Stat:
    if entry.directory:
        raise UsageError(f"{entry.url} is a directory: give {entry.url.rstrip('/')}/*.tar")
    return entry


def _directory(text: str) -> str:
    return text.rstrip("/").rpartition("/")[0] or ("/" if text.startswith("/") else ".")


def _has_glob(text: str) -> bool:
    # In a web address `?` begins the query.
    return any(character in text for character in ("*[" if text.startswith(("http:", "https:")) else "*?["))


def _listing(directory: str) -> dict[str, Stat]:
    """Name to entry of everything in a directory; empty when it does not exist."""
    if not is_local(directory):
        return _reach(directory, lambda: _remote_listing(directory)) or {}
    path = local_path(directory)
    try:
        with os.scandir(path) as entries:
            return {e.name: found for e in entries if (found := _local_stat(str(Path(path, e.name)), e)) is not None}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be listed: {error.strerror}") from None


def _deep_glob(text: str) -> list[Stat]:
    """Matches of a text with globs in its directories, or on a file system without listings."""
    if is_local(text):
        names = glob.glob(local_path(text), recursive=True)  # noqa: PTH207 - pathlib has no absolute patterns
    else:
        names = _reach(text, lambda: _remote_glob(text)) or []
    return [entry for entry in _stat_all(names) if entry is not None and not entry.directory]


def _stat_all(urls: Sequence[str]) -> list[Stat | None]:
    if len(urls) <= 1 or is_local(urls[0]):
        return [stat_shard(url) for url in urls]
    with ThreadPoolExecutor(_STAT_THREADS) as threads:
        return list(threads.map(stat_shard, urls))


def is_local(url: str) -> bool:
    """Whether a path or URL names a file of this machine."""
    return "::" not in url and ("://" not in url or url.startswith(("file://", "local://")))


def local_path(url: str) -> str:
    """The absolute path of a local file."""
    text = url.partition("://")[2] if "://" in url else url
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 - a string, with globs in it


def _local_stat(path: str, entry: os.DirEntry[str] | None = None) -> Stat | None:
    try:
        found = os.stat(path) if entry is None else entry.stat()  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return _as_stat(path, found)


def _as_stat(path: str, found: os.stat_result) -> Stat:
    return Stat(path, found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}", stat.S_ISDIR(found.st_mode))


def _stat_on(fs: AbstractFileSystem, path: str, url: str) -> Stat:
    fs.invalidate_cache(path.rpartition("/")[0])  # a file system may answer from an old listing
    return _from_info(url, fs.info(path))


def _remote_listing(directory: str) -> dict[str, Stat]:
    fs, path = open_filesystem(directory)
    fs.invalidate_cache(path)
    infos = {info["name"].rstrip("/").rpartition("/")[2]: info for info in fs.ls(path, detail=True)}
    return {name: _from_info(f"{directory}/{name}", info) for name, info in infos.items()}


def _remote_glob(text: str) -> list[str]:
    fs, path = open_filesystem(text)
    chain = text.rpartition("::")
    return [f"{chain[0]}{chain[1]}{fs.unstrip_protocol(name)}" for name in sorted(fs.glob(path))]


def _from_info(url: str, info: dict[str, Any]) -> Stat:
    """A file system's own dictionary as a Stat; the names of its entries differ from one to the next."""
    directory = info.get("type") == "directory"
    size = info.get("size")
    if size is None and not directory:
        raise UsageError(f"the server does not tell the size of {url}: copy it to a file system or an object store")
    mark = next((info[name] for name in _MARKS if info.get(name)), None)
    return Stat(url, int(size or 0), f"{size or 0:x}" if mark is None else _as_etag(mark), directory)


def _as_etag(mark: Any) -> str:  # noqa: ANN401
    # A listing and a stat of one file may give the same time as a number and as a date.
    if isinstance(mark, datetime):
        mark = mark.timestamp()
    return f"{mark:.6f}" if isinstance(mark, float) else str(mark).strip('"')


def _reach(url: str, call: Callable[[], _T]) -> _T | None:
    """`call()` on a remote file system, tried again while the store fails; None for what does not exist.

    UsageError for what cannot be reached.
    """
    try:
        return retried(call, url)
    except StoreUnavailable as error:
        raise UsageError(f"cannot reach {error}") from None
    except ImportError as error:
        protocol = url.partition("://")[0].rpartition("::")[2]
        extra = _EXTRAS.get(protocol)
        hint = f"pip install 'clipaudit[{extra}]'" if extra else str(error)
        raise UsageError(f"{url}: reading {protocol}:// needs another package: {hint}") from None
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from None
    except FileNotFoundError as error:
        # fsspec's HTTP file system reports a server that does not answer as a missing file, with the reason as cause.
        cause = error.__cause__
        if cause is None or getattr(cause, "status", None) in (404, 410):
            return None
        if type(cause).__module__.startswith("botocore"):  # no such key or bucket
            return None
        _unreachable(url, cause)
    except remote_errors() as error:
        _unreachable(url, error)


def _unreachable(url: str, error: BaseException) -> NoReturn:
    raise UsageError(f"cannot reach {url}: {reason(error)}") from None
