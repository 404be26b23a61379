"""Which kind of index: by the number of vectors and the free memory, or as the user spells it."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import sys
from pathlib import Path
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.retrieval.vector_index import Kind

_FLAT_NUMBERS: Final = 4_000_000
"""Up to so many numbers an exact search takes less than 0.5 ms."""
_GRAPH_ROWS: Final = 150_000
"""Up to so many rows a graph is built in about the time that lists take, and answers faster."""
_GRAPH_SHARE: Final = 0.25
"""Of the memory that a graph may take: it is several times larger than lists."""
_MAX_LISTS: Final = 16_384
_MIN_LISTS: Final = 16
_LINKS: Final = 32
_CODES: Final = 256
_GROWTH: Final = 1.6
"""Memory of inverted lists while they grow, relative to what they hold."""
_FIXED_BYTES: Final = 96 * 2**20
"""Of faiss, a row group of Parquet, and batches in flight."""
_SAMPLE_COPIES: Final = 2
"""faiss copies the training sample."""
_KIND = re.compile(r"(flat)|hnsw(\d*)|ivf(\d*)(-sq)?|ivf(\d*)-pq(\d*)")
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def choose_kind(spec: str, rows: int, dim: int, memory: int) -> Kind:
    """The kind that a `--kind` value means for `rows` vectors of `dim` numbers in `memory` free bytes.

    `auto`: exact as long as that is quick; a graph for some 10,000 to 150,000; inverted lists of float16 residuals; of
    product codes when those do not fit. UsageError when the kind is not known or does not fit.
    """
    if spec == "auto":
        fitting = [kind for kind in _candidates(rows, dim, memory) if build_bytes(kind, rows, dim) <= memory]
        if fitting:
            return fitting[0]
        kind = _pq(rows, dim)
    else:
        kind = parse_kind(spec, rows, dim)
    needed = build_bytes(kind, rows, dim)
    if needed > memory:
        raise UsageError(
            f"an index of {rows:,} vectors of {dim} numbers as {kind.name} takes about {spelled_bytes(needed)} to"
            f" build, and --memory leaves {spelled_bytes(max(memory, 0))}: give more"
            + ("" if kind.name == "ivf-pq" else ", or --kind auto")
        )
    return kind


def parse_kind(spec: str, rows: int, dim: int) -> Kind:
    """`flat`, `hnsw`, `hnsw64`, `ivf`, `ivf4096`, `ivf-pq`, `ivf4096-pq16`; UsageError naming --kind otherwise."""
    match = _KIND.fullmatch(spec.strip().lower())
    if match is None:
        raise UsageError(f"--kind {spec!r} is not known: use auto, flat, hnsw, ivf or ivf-pq (or hnsw64, ivf4096-pq32)")
    if match[1]:
        return Kind(name="flat")
    if match[2] is not None:
        links = int(match[2] or _LINKS)
        if not 2 <= links <= 512:
            raise UsageError(f"--kind {spec}: a graph has 2 to 512 links a vector")
        return Kind(name="hnsw", links=links)
    lists = int(match[3] or match[5] or number_of_lists(rows))
    if not 1 <= lists <= max(rows, 1):
        raise UsageError(f"--kind {spec}: {lists:,} lists for {rows:,} vectors: give 1 to {max(rows, 1):,}")
    if match[5] is None:
        return Kind(name="ivf-sq", lists=lists)
    if rows < _CODES:
        raise UsageError(f"--kind {spec}: {rows:,} vectors are fewer than the {_CODES} that product codes need")
    code_bytes = int(match[6] or _pq(rows, dim).code_bytes)
    if code_bytes < 1 or dim % code_bytes:
        raise UsageError(f"--kind {spec}: {code_bytes} code bytes do not divide the {dim} numbers of a vector")
    return Kind(name="ivf-pq", lists=lists, code_bytes=code_bytes)


def number_of_lists(rows: int) -> int:
    """About 4 sqrt(rows), a power of two, with at least 32 rows for each list to learn from."""
    wanted = 2 ** round(math.log2(max(4 * math.sqrt(max(rows, 1)), _MIN_LISTS)))
    return int(max(1, min(wanted, _MAX_LISTS, max(rows, 1) // 32)))


def build_bytes(kind: Kind, rows: int, dim: int) -> int:
    """About the most bytes that building takes, beside what the process has already."""
    held = kind.bytes_per_vector(dim) * rows * (_GROWTH if kind.lists else 1.0)
    lists = kind.lists * (4 * dim + 64)
    sample = _SAMPLE_COPIES * 4 * dim * min(rows, kind.training_rows)
    # the sample is gone before the lists fill
    return int(max(held + lists, sample + lists) + _FIXED_BYTES)


def _candidates(rows: int, dim: int, memory: int) -> list[Kind]:
    kinds = []
    if rows * dim <= _FLAT_NUMBERS or rows < 64:
        kinds.append(Kind(name="flat"))
    graph = Kind(name="hnsw", links=_LINKS)
    if rows <= _GRAPH_ROWS and build_bytes(graph, rows, dim) <= _GRAPH_SHARE * memory:
        kinds.append(graph)
    return [*kinds, Kind(name="ivf-sq", lists=number_of_lists(rows)), _pq(rows, dim)]


def _pq(rows: int, dim: int) -> Kind:
    """Product codes of half a byte a number, as far as that divides."""
    divisors = [size for size in range(1, dim + 1) if dim % size == 0]
    return Kind(
        name="ivf-pq",
        lists=number_of_lists(rows),
        code_bytes=min(divisors, key=lambda size: (abs(size - dim / 2), size)),
    )


def training_rows(kind: Kind, rows: int, dim: int, memory: int) -> int:
    """How many vectors the training sample has: as many as the kind needs and `memory` bytes hold."""
    affordable = int((memory - _FIXED_BYTES) // (_SAMPLE_COPIES * 4 * dim))
    return min(rows, kind.training_rows, max(affordable, 2 * kind.lists))


def parse_memory(text: str | None, share: float = 0.5) -> int:
    """`4GB`, `500M` or a number of bytes as bytes; by default `share` of this machine's (or container's) memory.

    UsageError naming --memory for anything else.
    """
    if text is None:
        return int(share * machine_bytes())
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or (match[3] and not match[2]) or float(match[1]) <= 0:
        raise UsageError(f"--memory {text!r} is not a size: write 4GB, 500MB or a number of bytes")
    unit = _UNITS[match[2]]
    return int(float(match[1]) * (unit if not match[3] else 1024 ** round(math.log(unit, 1000))))


def machine_bytes() -> int:
    """Bytes of memory of this machine, or of the container that this process is in."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            size = min(size, int(Path("/sys/fs/cgroup", name).read_text()))
    return size


def resident_bytes() -> int:
    """Resident bytes of this process, mapped files included; 0 where the operating system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def peak_bytes() -> int:
    """The most bytes that this process ever had resident; 0 where the operating system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # not getrusage's ru_maxrss: Linux starts that at what the parent process had
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def spelled_bytes(number: float) -> str:
    """Bytes in units of 1000."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
