"""What the fuzz tests share: bytes and JSON damaged by hypothesis, and a guard against cases that hang."""

from __future__ import annotations

import contextlib
import copy
import os
import resource
import signal
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

HANGS_SECONDS = 10
ROOM_BYTES = 32 * 2**20
GROWTH_BYTES = 512 * 2**20

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf")])
    | st.text(max_size=8)
    | st.sampled_from(["../../etc/passwd", "/etc/passwd", "\0", "\ud800", "a" * 5000, "L00H00", "s3://x/y", "123"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)

_pieces = st.binary(max_size=24) | st.sampled_from(
    [b"\0" * 512, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 10 + b"\xff", b"7" * 11, b"PAR1", b"{" * 3000]
)
_edits = st.tuples(
    st.sampled_from(["put", "insert", "remove", "flip", "cut", "double"]), st.floats(0, 1), st.integers(1, 600), _pieces
)
damages = st.lists(_edits, min_size=1, max_size=4)
"""Edits of a file's bytes; places are shares of its length, so that one example fits any file."""


def damaged(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """A file after some edits of its bytes."""
    found = bytearray(data)
    for kind, share, count, piece in edits:
        at = int(share * len(found))
        match kind:
            case "put":
                found[at : at + len(piece)] = piece
            case "insert":
                found[at:at] = piece
            case "remove":
                del found[at : at + count]
            case "flip" if at < len(found):
                found[at] ^= 1 << count % 8
            case "cut":
                del found[at:]
            case "double":
                found[at:at] = found[at : at + count]
    return bytes(found)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every node of a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with another node at `path`."""
    if not path:
        return new
    found = copy.deepcopy(value)
    node = found
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = new
    return found


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Fail a case that computes for longer than any could; waiting on a busy machine does not count."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"a case took more than {HANGS_SECONDS} s")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, HANGS_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def small() -> Iterator[None]:
    """Fail a case that allocates far more than its few KiB of input, in Python or numpy."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < ROOM_BYTES
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail a case that asks for far more memory than there is input, whoever asks; `small` for very many cases.

    The process's address space may grow by GROWTH_BYTES only: what any library allocates beyond ends in MemoryError.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GROWTH_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder for very many small writes."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="clipaudit-fuzz-", dir=place) as folder:
        yield Path(folder)
