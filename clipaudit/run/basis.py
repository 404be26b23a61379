"""The run's `basis.safetensors`: where every stored head's coordinates point in the joint space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from clipaudit.arrays import ArrayHolder, Floats
from clipaudit.errors import IntegrityError, RunMismatch, RunNotFound, UsageError
from clipaudit.run.directory import BASIS, RunDirectory
from clipaudit.run.records import MALFORMED
from clipaudit.schema import Several

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

_TOLERANCE = 1e-4
"""Largest difference between the bases that two machines compute, relative to the largest number of the array."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Basis(ArrayHolder):
    """Q and T of every stored head, the readout and the constant components (docs/method.md 1).

    >>> run = Run("demo-out/birds-run")
    >>> contributions = run.heads("L05H00").values @ run.basis().Q("L05H00")  # (images, 128), parts of the embedding
    >>> text = TextPool.of("a photo of water").vectors(run)[0]
    >>> np.allclose(contributions @ text, run.heads("L05H00").values @ (run.basis().Q("L05H00") @ text), atol=1e-3)
    True
    """

    heads: tuple[str, ...]
    """Stored heads, in the order of Q and T."""
    tensors: Arrays
    """Every array by name, float32: `Q` and `T` with leading axes (layers, heads), of length 1 where all heads share
    one, and what else the decomposer saved."""
    metadata: dict[str, str]

    @overload
    def Q(self, head: str) -> Floats: ...
    @overload
    def Q(self, head: Several) -> dict[str, Floats]: ...
    def Q(self, head: str | Several) -> Floats | dict[str, Floats]:  # noqa: N802 - the mathematics' own name
        """(dh, D): a head's orthonormal basis; its contribution is `y @ Q`. Several heads give a dict by name.

        UsageError when a head is not stored.
        """
        return self._of("Q", head) if isinstance(head, str) else {name: self._of("Q", name) for name in head}

    @overload
    def T(self, head: str) -> Floats: ...
    @overload
    def T(self, head: Several) -> dict[str, Floats]: ...
    def T(self, head: str | Several) -> Floats | dict[str, Floats]:  # noqa: N802
        """(dh, dh): from the scaled attention output u to coordinates, `y = s u T`; names and errors as for `Q`."""
        return self._of("T", head) if isinstance(head, str) else {name: self._of("T", name) for name in head}

    def _of(self, name: str, head: str) -> Floats:
        if head not in self.heads:
            raise UsageError(f"the run stores no head {head!r}: it stores {self.heads[0]} to {self.heads[-1]}")
        array = self.tensors[name]
        matrices: Floats = array.reshape(-1, *array.shape[-2:])  # (layers * heads or 1, rows, columns)
        matrix: Floats = matrices[0 if len(matrices) == 1 else self.heads.index(head)]
        return matrix


def write_basis(run_dir: RunDirectory, tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> bool:
    """Write the run's basis, once; False when the run has it already.

    tensors: `Q` (..., dh, D) and `T` (..., dh, dh) with the stored heads in column order, and any others.

    Raises RunMismatch when the run has another basis, because rows computed with different bases cannot stand in one
    table; StorageFull when there is no space left.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = safetensors.numpy.save(arrays, {"clipaudit": json.dumps(dict(metadata))})
    if run_dir.storage.create(BASIS, data):
        return True
    stored, _ = _load(run_dir)
    _refuse_difference(run_dir, stored, arrays)
    return False


def read_basis(run_dir: RunDirectory, heads: tuple[str, ...]) -> Basis:
    """The run's basis; RunNotFound when none has been written yet, IntegrityError when it is damaged."""
    tensors, metadata = _load(run_dir)
    for name in ("Q", "T"):
        array = tensors.get(name)
        if array is None or array.ndim < 2 or int(np.prod(array.shape[:-2])) not in (1, len(heads)):
            full = run_dir.storage.full(BASIS)
            raise IntegrityError(f"{full} is damaged: {name} is not there for {len(heads)} heads")
    return Basis(heads=heads, tensors=tensors, metadata=metadata)


def _load(run_dir: RunDirectory) -> tuple[Arrays, dict[str, str]]:
    full = run_dir.storage.full(BASIS)
    try:
        data = run_dir.storage.read(BASIS)
    except FileNotFoundError as error:
        raise RunNotFound(f"the run at {run_dir.url} has no {BASIS} yet: no worker has begun") from error
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return safetensors.numpy.load(data), json.loads(header["__metadata__"]["clipaudit"])
    except (*MALFORMED, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{full} is damaged: {error}") from error


def _refuse_difference(run_dir: RunDirectory, stored: Arrays, asked: Arrays) -> None:
    """Raise RunMismatch when two bases differ by more than rounding."""
    full = run_dir.storage.full(BASIS)
    if {n: a.shape for n, a in stored.items()} != {n: a.shape for n, a in asked.items()}:
        raise RunMismatch(f"{full} is of another tower or other layers than this worker's: give another --out")
    for name, array in stored.items():
        if not array.size:
            continue
        difference = float(np.abs(array.astype(np.float64) - asked[name]).max())
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(array).max())):
            raise RunMismatch(
                f"{full} differs from this worker's basis ({name} by {difference:.1e}): the worker has other weights,"
                " or computes in another way, so that its rows cannot join this run"
            )
