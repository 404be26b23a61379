"""Shard patterns (braces, globs, any fsspec URL) to the ordered list of shards, with one listing per directory."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import shlex
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
from clipaudit.shards.braces import MAX_SHARDS, balanced, expand_braces
from clipaudit.storage.remote import open_filesystem, reason, remote_errors, retried

_PACKAGES: Final = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_COMPRESSED: Final = (".gz", ".tgz", ".bz2", ".xz", ".zst")
_TABLES: Final = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")
_IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_MAKE_SHARDS: Final = (
    "make shards first: `clipaudit pack {} SHARDS`, or tars of images with one label file beside each (photo1.jpg,"
    " photo1.cls)"
)
# File systems of fsspec that wrap another one: with these, `::` is a chain.
_CHAINED: Final = ("simplecache", "filecache", "blockcache", "cached", "zip", "tar", "libarchive", "dir", "reference")
_MAX_SINGLE_STATS: Final = 16  # for so many names a stat each is cheaper than listing a large directory
_STAT_THREADS: Final = 32
# Entries of fsspec's file information that change with the content, the most reliable first.
_ETAG_KEYS: Final = (
    "ETag", "etag", "md5Hash", "Content-MD5", "mtime", "LastModified", "Last-Modified", "last_modified", "created"
)  # fmt: skip
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stat:
    """What a file system says of a file's content."""

    url: str
    """Absolute path of a local file, else a URL without credentials."""
    size: int
    """Bytes."""
    etag: str
    """Changes with the content: the store's ETag or checksum, else the modification time with the size."""
    directory: bool = False


def expand(patterns: Sequence[str]) -> list[Shard]:
    """The shards that paths or URLs with braces and globs name: in the order given, each once, ids by position.

    A path that exists is taken as it is, whatever globs it holds; a glob's matches are sorted. Sources may be joined
    by `::`, as webdataset joins them. Local paths become absolute, and a shard that is reached by several links counts
    once. URLs come without their credentials, which this process
    remembers; another process learns them by `learn_credentials`. Raises ShardNotFound when a pattern matches nothing
    or a named shard does not exist, and UsageError when a URL cannot be reached, a file is compressed, a pattern is not
    understood, or there are no shards or more than `braces.MAX_SHARDS`.
    """
    entries: dict[str, Stat] = {}
    folders: dict[str, str] = {}
    for pattern in (part for joined in learn_credentials(patterns) for part in split_sources(joined)):
        for entry in _matches(pattern):
            entries.setdefault(_true_name(entry.url, folders), entry)
        if len(entries) > MAX_SHARDS:
            raise UsageError(
                f"the patterns up to {pattern!r} name {len(entries):,} shards, and one job takes at most {MAX_SHARDS:,}"
            )
    if not entries:
        raise UsageError("no shards were given: name at least one .tar file or pattern")
    return [Shard(id=i, url=entry.url, size=entry.size, etag=entry.etag) for i, entry in enumerate(entries.values())]


def learn_credentials(patterns: Sequence[str]) -> list[str]:
    """The patterns without the credentials in them; this process remembers those from now on.

    A pattern with a signed query is expanded, because the query belongs to each of its files. Raises UsageError as
    `expand_braces`.
    """
    public_patterns = []
    for pattern in map(private_url, patterns):
        public = public_url(pattern)
        signed = public.partition("?")[2] != pattern.partition("?")[2]
        public_patterns += [public_url(text) for text in expand_braces(pattern)] if signed else [public]
    return public_patterns


def split_sources(pattern: str) -> list[str]:
    """The sources that `::` joins, as in webdataset and open_clip: `a.tar::b.tar`.

    fsspec's chains (`simplecache::s3://...`, `zip://...::...`), which begin with a cache or an archive, stay whole.
    """
    first = pattern.partition("::")[0].partition("://")[0]
    return [pattern] if first in _CHAINED else [part for part in pattern.split("::") if part]


def _true_name(url: str, folders: dict[str, str]) -> str:
    """The path of a local file without links, else the URL. `folders` remembers those of directories."""
    if not is_local(url):
        return url
    if os.path.islink(url):  # noqa: PTH114 - one call a shard, of which there may be a million
        return os.path.realpath(url)
    folder, _, name = url.rpartition("/")
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return f"{folders[folder]}/{name}"


def stat_shard(url: str) -> Stat | None:
    """Size and etag of one file as they are now; None when it does not exist.

    Raises UsageError when it cannot be reached.
    """
    if is_local(url):
        return _local_stat(local_path(url))
    return _reach(url, lambda: _stat_on(*open_filesystem(url), url))


def stat_on(fs: AbstractFileSystem, path: str, url: str) -> Stat | None:
    """`stat_shard(url)` on a file system that is open already, where the file is at `path`."""
    return _local_stat(path) if is_local(url) else _reach(url, lambda: _stat_on(fs, path, url))


def stat_open(file: IO[bytes], url: str) -> Stat:
    """Size and etag of an open local file, also when another file has its name by now."""
    return _as_stat(url, os.fstat(file.fileno()))


def _matches(pattern: str) -> list[Stat]:
    """The files that one pattern names. The texts of one directory are looked up together."""
    if pattern.startswith("pipe:"):
        raise UsageError(f"{pattern!r}: commands are not run; give a path or a URL that fsspec knows")
    if pattern.startswith("@") and not _stands_for_itself(pattern):
        raise UsageError(f"{pattern!r}: lists of shards are not read from files; give $(cat {pattern[1:]})")
    by_directory: dict[str, list[str]] = {}
    # Braces and globs that stand in the name of a file or a directory are no pattern.
    texts = [pattern] if _stands_for_itself(pattern) else expand_braces(pattern)
    for text in texts:
        by_directory.setdefault(_directory(text), []).append(text)
    by_text: dict[str, list[Stat]] = {}
    for directory, members in by_directory.items():
        by_text |= _look_up(directory, members)
    globs = [text for text in texts if _is_glob(text)]
    missing = [text for text in texts if not by_text[text] and text not in globs]
    hint = "" if balanced(pattern) else "; its braces are not balanced, so they are not expanded"
    if missing:
        others = f", nor do {len(missing) - 1} others of the {len(texts)} named" if len(missing) > 1 else ""
        hint = hint or ("; separate shards by spaces, not by commas" if ".tar," in missing[0] else "")
        raise ShardNotFound(f"shard {missing[0]} does not exist{others}{hint}")
    if globs and not any(by_text[text] for text in globs):
        raise ShardNotFound(f"no shard matches {pattern!r}{hint}")
    entries = [entry for text in texts for entry in by_text[text]]
    for entry in entries:
        _refuse_other_kinds(entry.url)
    return entries


def _look_up(directory: str, texts: list[str]) -> dict[str, list[Stat]]:
    """The files of each text, all of which lie in `directory`; an empty list for a text that names none."""
    if any(character in directory for character in "*[") and not _stands_for_itself(directory):
        return {text: sorted(_deep_glob(text), key=lambda entry: entry.url) for text in texts}
    globs = any(_is_glob(text) for text in texts)
    listable = not directory.startswith(("http:", "https:"))  # a web server lists no sizes
    if listable and (globs or len(texts) > _MAX_SINGLE_STATS):
        listing = dict(sorted(_listing(directory).items()))
        return {text: list(_pick(text, listing)) for text in texts}
    if globs:
        return {text: sorted(_deep_glob(text), key=lambda entry: entry.url) for text in texts}
    entries = zip(texts, stat_all([text.rstrip("/") for text in texts]), strict=True)
    return {text: [] if entry is None else [_as_file(entry)] for text, entry in entries}


def _pick(text: str, listing: dict[str, Stat]) -> Iterator[Stat]:
    """The files of a directory's listing (by name) that a path or a glob in its last part names."""
    name = text.rstrip("/").rpartition("/")[2]
    if name in listing or not _is_glob(text):
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
        folder = entry.url.rstrip("/")
        if is_local(folder) and not any(Path(folder).glob("*.tar")):
            below = next((path for path in Path(folder).glob("*/*.tar")), None)
            if below is not None:
                raise UsageError(f"{folder} is a directory: give {folder}/*/*.tar")
            raise UsageError(f"{folder} is a directory without .tar files: {_MAKE_SHARDS.format(shlex.quote(folder))}")
        raise UsageError(f"{folder} is a directory: give {folder}/*.tar")
    return entry


def _refuse_other_kinds(url: str) -> None:
    """Raise UsageError for files that are no plain tar, by their names."""
    name = url.lower()
    if name.endswith(_COMPRESSED):
        raise UsageError(f"{url} is compressed: unpack it to a plain .tar (offsets need one)")
    if name.endswith(_TABLES):
        raise UsageError(f"{url} is a table, not a tar of images: {_MAKE_SHARDS.format(shlex.quote(url))}")
    if name.endswith(".txt"):
        raise UsageError(f"{url} is a text file, not a tar of images; where it lists shards, give $(cat {url})")
    if name.endswith(_IMAGES):
        raise UsageError(f"{url} is an image, not a tar of images: {_MAKE_SHARDS.format('DIRECTORY')}")


def _stands_for_itself(text: str) -> bool:
    """Whether a local file or directory has exactly this name."""
    return is_local(text) and os.path.lexists(local_path(text))


def _directory(text: str) -> str:
    return text.rstrip("/").rpartition("/")[0] or ("/" if text.startswith("/") else ".")


def _is_glob(text: str) -> bool:
    """Whether a text has globs that are not just characters of a name that exists."""
    if not _has_glob(text) or _stands_for_itself(text):
        return False
    directory = _directory(text)
    return not _stands_for_itself(directory) or _has_glob(text.rpartition("/")[2])


def _has_glob(text: str) -> bool:
    # In a web address `?` starts the query.
    return any(character in text for character in ("*[" if text.startswith(("http:", "https:")) else "*?["))


def _listing(directory: str) -> dict[str, Stat]:
    """Name to entry of everything in a directory; empty when it does not exist."""
    if not is_local(directory):
        return _reach(directory, lambda: _remote_listing(directory)) or {}
    path = local_path(directory)
    try:
        with os.scandir(path) as entries:
            stats = {entry.name: _local_stat(str(Path(path, entry.name)), entry) for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be listed: {error.strerror}") from None
    return {name: state for name, state in stats.items() if state is not None}


def _deep_glob(text: str) -> list[Stat]:
    """Matches of a text with globs in its directories, or on a file system without listings."""
    if is_local(text):
        names = glob.glob(_literal_where_it_exists(local_path(text)), recursive=True)  # noqa: PTH207 - pathlib has no absolute patterns
    else:
        names = _reach(text, lambda: _remote_glob(text)) or []
    return [entry for entry in stat_all(names) if entry is not None and not entry.directory]


def _literal_where_it_exists(path: str) -> str:
    """A local glob whose first directories, as far as they exist by these very names, stand for themselves."""
    parts = path.split("/")
    known = 1
    while known < len(parts) and os.path.lexists("/".join(parts[: known + 1])):
        known += 1
    return "/".join([*map(glob.escape, parts[:known]), *parts[known:]])


def stat_all(urls: Sequence[str]) -> list[Stat | None]:
    """`stat_shard` of each URL; remote ones, which are of one file system, in parallel."""
    if len(urls) <= 1 or is_local(urls[0]):
        return [stat_shard(url) for url in urls]
    with ThreadPoolExecutor(_STAT_THREADS) as threads:
        return list(threads.map(stat_shard, urls))


def is_local(url: str) -> bool:
    """Whether a path or URL names a file of this machine."""
    return "::" not in url and ("://" not in url or url.startswith(("file://", "local://")))


def local_path(url: str) -> str:
    """The absolute path of a local file."""
    path = url.partition("://")[2] if "://" in url else url
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - a string, which may hold globs


def _local_stat(path: str, entry: os.DirEntry[str] | None = None) -> Stat | None:
    try:
        status = os.stat(path) if entry is None else entry.stat()  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return _as_stat(path, status)


def _as_stat(path: str, status: os.stat_result) -> Stat:
    return Stat(path, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}", stat.S_ISDIR(status.st_mode))


def _stat_on(fs: AbstractFileSystem, path: str, url: str) -> Stat:
    fs.invalidate_cache(path.rpartition("/")[0])  # else fsspec may answer from an older listing
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
    """fsspec's file information as a Stat; its keys differ between file systems. Raises UsageError without a size."""
    directory = info.get("type") == "directory"
    size = info.get("size")
    if size is None and not directory:
        raise UsageError(f"the server does not tell the size of {url}: copy it to a file system or an object store")
    value = next((info[key] for key in _ETAG_KEYS if info.get(key)), None)
    return Stat(url, int(size or 0), f"{size or 0:x}" if value is None else _as_etag(value), directory)


def _as_etag(value: Any) -> str:  # noqa: ANN401 - whatever the file system stores under one of _ETAG_KEYS
    # A listing may give the modification time as a date, and a stat of the same file as a number of seconds.
    if isinstance(value, datetime):
        value = value.timestamp()
    return f"{value:.6f}" if isinstance(value, float) else str(value).strip('"')


def _reach(url: str, call: Callable[[], _T]) -> _T | None:
    """`call()` on a remote file system, repeated while the store fails; None for a file that does not exist.

    Raises UsageError when the file system cannot be reached, or needs a package that is not installed.
    """
    try:
        return retried(call, url)
    except StoreUnavailable as error:
        raise UsageError(f"cannot reach {error}") from None
    except ImportError as error:
        protocol = url.partition("://")[0].rpartition("::")[2]
        package = _PACKAGES.get(protocol)
        hint = f"pip install {package}" if package else str(error)
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
