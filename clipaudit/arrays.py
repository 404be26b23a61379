"""Names for arrays in type annotations: what the elements are; shapes stand in the docstrings."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Bools: TypeAlias = npt.NDArray[np.bool_]
Uint8s: TypeAlias = npt.NDArray[np.uint8]
"""Pixels of images and masks."""
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""Of any precision."""
Float16s: TypeAlias = npt.NDArray[np.float16]
Float32s: TypeAlias = npt.NDArray[np.float32]
Float64s: TypeAlias = npt.NDArray[np.float64]
