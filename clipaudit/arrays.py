"""Names for arrays in type annotations (shapes stand in docstrings), and how objects that hold arrays print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, ClassVar, Final, TypeAlias

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

_ITEMS: Final = 8
"""Longer tuples, lists and mappings print as their length and ends."""


class ArrayHolder:
    """A dataclass with arrays, printed with their dtypes and shapes instead of their numbers.

    The decorator needs `repr=False`, because `dataclass` otherwise writes a `__repr__` that prints every number.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __repr__(self) -> str:
        values = [f"{field.name}={brief(getattr(self, field.name))}" for field in fields(self) if field.repr]
        return f"{type(self).__qualname__}({', '.join(values)})"


def brief(value: object) -> str:
    """A value for a repr: `<float32 (4000, 64)>` for an array or tensor, `<Table 4000 x 7>` for an Arrow table; of a
    long tuple, list or mapping the ends and the length; everything else as `repr` gives it."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None and len(shape):
        return f"<{str(dtype).removeprefix('torch.')} {tuple(shape)}>"
    if type(value).__module__.partition(".")[0] == "pyarrow":
        width = getattr(value, "num_columns", None)
        return f"<{type(value).__name__} {len(value)}{'' if width is None else f' x {width}'}>"  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        if len(value) <= _ITEMS:
            return f"{{{', '.join(f'{key!r}: {brief(item)}' for key, item in value.items())}}}"
        first, *_, last = value
        return f"<{len(value)} by name: {first!r} to {last!r}>"
    if isinstance(value, (tuple, list)):
        opening, closing = "()" if isinstance(value, tuple) else "[]"
        items = [brief(item) for item in _ends(value)]
        if len(value) > _ITEMS:
            return f"<{len(value)} items: {items[0]} to {items[1]}>"
        return f"{opening}{', '.join(items)}{',' if isinstance(value, tuple) and len(items) == 1 else ''}{closing}"
    return repr(value)


def _ends(values: Sequence[object]) -> Sequence[object]:
    return values if len(values) <= _ITEMS else (values[0], values[-1])
