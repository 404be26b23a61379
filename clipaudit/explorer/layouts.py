"""Images as points in the plane, by one head or the whole embedding, and which of them lie in a region."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import scipy.linalg

from clipaudit.arrays import Bools, Float32s, Float64s, Floats, Ints
from clipaudit.errors import UsageError
from clipaudit.explorer.run_scores import RunScores
from clipaudit.retrieval.card import EMBEDDING, check_columns
from clipaudit.run.reader import Run

Points: TypeAlias = npt.NDArray[np.uint16]

METHODS: Final = ("pca", "umap", "pacmap")
SIDE: Final = 65_535
"""Points lie in 0..SIDE of both axes."""
MAX_CORNERS: Final = 400
SAMPLE: Final = 20_000
"""Images that a slow method, or the covariance of the embedding, is computed from."""
MAPS: Final = "explorer/maps"
_EDGE: Final = 0.0005
"""Share of the images beyond each side, which are drawn on it: a few far ones would leave the others one dot."""
_LAYOUTS: Final = 8
_BLOCK: Final = 4096
"""Rows that are turned to float32 at once: they stay in a processor's cache."""
_REGION: Final = re.compile(r"([\w]+):([a-z]+):((?:\d{1,5},\d{1,5};){2,}\d{1,5},\d{1,5})")


@dataclass(frozen=True, eq=False, kw_only=True)
class Layout:
    """Points of some of a run's rows."""

    numbers: Ints | None
    """(m,) rows that have a point, ascending; None for all."""
    points: Points
    """(m, 2) x from left to right, y from bottom to top."""
    shares: tuple[float, float] | None
    """Of the variance along x and y, where axes mean that."""

    @cached_property
    def by_height(self) -> tuple[Ints, Ints]:
        """(m,) each: places in the order of their y, and those y."""
        y = self.points[:, 1].astype(np.int64)
        order = np.argsort(y, kind="stable")
        return order, y[order]

    def inside(self, corners: Ints, rows: int) -> Bools:
        """(rows,) which rows lie in a polygon with corners (k, 2), by the even-odd rule."""
        order, heights = self.by_height
        x = self.points[:, 0].astype(np.float64)
        odd = np.zeros(len(order), np.bool_)
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if y1 == y2:
                continue
            # an edge concerns the points between its ends' heights alone: a slice in their order
            low, high = np.searchsorted(heights, sorted((y1, y2)))
            places = order[low:high]
            crossing = x1 + (heights[low:high] - y1) * ((x2 - x1) / (y2 - y1))
            odd[places] ^= x[places] < crossing
        if self.numbers is None:
            return odd
        mask = np.zeros(rows, np.bool_)
        mask[self.numbers] = odd
        return mask


@dataclass(frozen=True, kw_only=True)
class Region:
    """A polygon on a map, as the page's address holds it: `SPACE:METHOD:x,y;x,y;x,y`."""

    space: str
    method: str
    corners: tuple[tuple[int, int], ...]

    @staticmethod
    def parse(text: str) -> Region:
        """UsageError for what is no region."""
        match = _REGION.fullmatch(text)
        if match is None:
            raise UsageError("a region of the map is SPACE:METHOD:x,y;x,y;x,y with at least three corners")
        corners = tuple((int(x), int(y)) for x, y in (pair.split(",") for pair in match[3].split(";")))
        if len(corners) > MAX_CORNERS or max(max(pair) for pair in corners) > SIDE:
            raise UsageError(f"a region has at most {MAX_CORNERS} corners, each within 0..{SIDE}")
        return Region(space=match[1], method=match[2], corners=corners)


class Layouts:
    """Maps of a run; the latest few stay in memory. For any number of threads."""

    def __init__(self, run: Run, scores: RunScores, *, keep: bool) -> None:
        """keep: whether what takes minutes is stored in the run."""
        self._run, self._scores, self._keep = run, scores, keep
        self._lock = threading.RLock()
        self._layouts: OrderedDict[tuple[str, str], Layout] = OrderedDict()

    def layout(self, space: str, method: str) -> Layout:
        """The map of `embedding` or a head; UsageError for another space or method, or one that is not installed."""
        if method not in METHODS:
            raise UsageError(f"a map is made by {', '.join(METHODS)}, not {method[:20]!r}")
        check_columns(self._run, [space])
        with self._lock:
            if (space, method) not in self._layouts:
                made = self._pca(space) if method == "pca" else self._stored(space, method)
                self._layouts[space, method] = made
                if len(self._layouts) > _LAYOUTS:
                    self._layouts.popitem(last=False)
            self._layouts.move_to_end((space, method))
            return self._layouts[space, method]

    def inside(self, text: str) -> Bools:
        """(n,) rows that lie in a region; those without a point do not. UsageError as in `Region.parse`."""
        region = Region.parse(text)
        layout = self.layout(region.space, region.method)
        return layout.inside(np.array(region.corners, np.int64), len(self._run))

    # -- principal components ----------------------------------------------------------------------------------------

    def _pca(self, space: str) -> Layout:
        if len(self._run) < 2:
            raise UsageError("a map needs at least two images")
        mean, covariance = self.spread(space)
        length = len(covariance)
        sizes, axes = scipy.linalg.eigh(covariance, subset_by_index=[max(length - 2, 0), length - 1])
        # the sign of an axis is free: its largest entry is positive, so that a map looks the same every time
        axes = axes[:, ::-1] if length > 1 else np.repeat(axes, 2, axis=1)
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
        projector = axes.astype(np.float32)
        plane = np.concatenate([_projected(values, projector) for values in self._shards(space)])
        total = max(float(np.trace(covariance)), 1e-300)
        shares = (float(sizes[-1]) / total, float(sizes[0] if length > 1 else 0.0) / total)
        return Layout(numbers=None, points=quantised(plane - (mean @ axes).astype(np.float32)), shares=shares)

    def spread(self, space: str) -> tuple[Float64s, Float64s]:
        """(length,) mean and (length, length) covariance of a column: a head's from the stored moments, the
        embedding's, of which those hold the variances alone, from at most SAMPLE rows."""
        moments = self._scores.moments
        if space != EMBEDDING:
            return moments.mean(space), moments.covariance(space)
        return moments.mean(space), self._embedding_covariance

    @cached_property
    def _embedding_covariance(self) -> Float64s:
        numbers, start, rows = sample_of(len(self._run)), 0, []
        for values in self._shards(EMBEDDING):
            low, high = np.searchsorted(numbers, (start, start + len(values)))
            rows.append(values[numbers[low:high] - start].astype(np.float32))
            start += len(values)
        # float16 is what is stored: products of float32 lose nothing that counts, in a third of the time
        centred = np.concatenate(rows)
        centred -= centred.mean(axis=0, dtype=np.float64).astype(np.float32)
        covariance: Float64s = (centred.T @ centred).astype(np.float64) / len(centred)
        return covariance

    def _shards(self, space: str) -> Iterator[npt.NDArray[Any]]:
        """A column's rows shard by shard: memory that is used again costs a fifth of new memory for all rows."""
        for shard in self._run.records:
            yield self._run.vectors(space, (), shards=[shard]).values

    # -- methods of others -------------------------------------------------------------------------------------------

    def _stored(self, space: str, method: str) -> Layout:
        """A map of a sample, read from the run where it was kept."""
        values = self._scores.vectors(space)
        numbers = sample_of(len(values))
        # a run that has grown is another sample
        rows = hashlib.sha256(json.dumps([len(values), *self._run.records]).encode()).hexdigest()[:16]
        path, storage = f"{MAPS}/{space}-{method}-{rows}.safetensors", self._run.directory.storage
        try:
            points = safetensors.numpy.load(storage.read(path))["points"]
            if points.shape == (len(numbers), 2) and points.dtype == np.uint16:
                return Layout(numbers=numbers, points=points, shares=None)
        except (FileNotFoundError, NotADirectoryError, KeyError, ValueError, safetensors.SafetensorError):
            pass  # never made, or damaged: it is made anew
        points = quantised(_embedded(method, values[numbers].astype(np.float32)))
        if self._keep:
            storage.make_directories([MAPS])
            storage.replace(path, safetensors.numpy.save({"points": points}))
        return Layout(numbers=numbers, points=points, shares=None)


def _projected(values: npt.NDArray[Any], projector: Float32s) -> Float32s:
    """(n, length) float16 to (n, 2); blocks on all cores, since turning a million rows to float32 takes a second."""
    plane = np.empty((len(values), projector.shape[1]), np.float32)
    axes = np.ascontiguousarray(projector.T)

    def project(start: int) -> None:
        rows = values[start : start + _BLOCK].astype(np.float32)
        # row by row: a matrix product would start threads of its own for every small block, which takes thrice the time
        for column, axis in enumerate(axes):
            np.vecdot(rows, axis, out=plane[start : start + _BLOCK, column])

    with ThreadPoolExecutor() as pool:
        list(pool.map(project, range(0, len(values), _BLOCK)))
    return plane


def sample_of(rows: int) -> Ints:
    """(m,) at most SAMPLE numbers of rows, always the same ones."""
    if rows <= SAMPLE:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False))


def quantised(plane: Floats) -> Points:
    """(m, 2) of any scale to whole numbers 0..SIDE, each axis by its own range."""
    low, high = np.quantile(plane, [_EDGE, 1 - _EDGE], axis=0)
    margin = 0.02 * np.maximum(high - low, 1e-12)
    scaled = (plane - (low - margin)) / (high - low + 2 * margin)
    points: Points = np.rint(np.clip(scaled, 0.0, 1.0) * SIDE).astype(np.uint16)
    return points


def _embedded(method: str, values: Floats) -> Floats:
    """(m, 2) by a package of others; UsageError where it is not installed or there are too few images."""
    if len(values) < 10:
        raise UsageError(f"{method} needs at least ten images")
    name = {"umap": "umap", "pacmap": "pacmap"}[method]
    try:
        package: Any = import_module(name)
    except ImportError as error:
        raise UsageError(f"{method} is not installed: pip install 'clipaudit[map]'") from error
    if method == "umap":
        reducer = package.UMAP(n_components=2, n_neighbors=min(15, len(values) - 1), random_state=0)
    else:
        reducer = package.PaCMAP(n_components=2, n_neighbors=None, random_state=0)
    plane: Floats = np.asarray(reducer.fit_transform(values), np.float32)
    return plane
