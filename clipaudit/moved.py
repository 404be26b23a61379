"""The import paths of version 0.1: they work for one release, warn, and name the new place.

One finder with a table instead of a file for each old module. Remove this module with the release after next.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

MOVED: Final[Mapping[str, Mapping[str, str]]] = {
    "clipaudit.audit": {
        "AuditOptions": "clipaudit.AuditOptions",
        "AuditResult": "clipaudit.AuditResult",
        "Verdict": "clipaudit.cues.Verdict",
        "audit": "clipaudit.audit_cues",
    },
    "clipaudit.decomposer": {
        "Decomposer": "clipaudit.Decomposer",
        "Decomposition": "clipaudit.Decomposition",
        "Readout": "clipaudit.model.Readout",
        "TokenValues": "clipaudit.model.TokenValues",
        "Tower": "clipaudit.Tower",
        "describe": "clipaudit.describe_tower",
        "resized": "clipaudit.model.resized",
        "token_map": "clipaudit.model.token_map",
        "token_scores": "clipaudit.model.token_scores",
    },
    "clipaudit.export": {"export": "clipaudit.export"},
    "clipaudit.report": {"save_report": "clipaudit.save_report"},
    "clipaudit.retrieval.head": {"HeadIndex": "clipaudit.HeadIndex"},
    "clipaudit.run": {
        "Basis": "clipaudit.Basis",
        "Coverage": "clipaudit.run.summary.Coverage",
        "Run": "clipaudit.Run",
        "Vectors": "clipaudit.run.vectors.Vectors",
        "write_basis": "clipaudit.run.basis.write_basis",
    },
}
"""Old module -> name -> where it is now. `clipaudit.run` is a package of its own and asks `moved_name` itself."""
_EXPORT: Final = "clipaudit.run.export"
"""`clipaudit.export` is the module of this name for whoever imports it as a module, and the function for all others."""


def moved_name(module: str, name: str) -> Any:  # noqa: ANN401 - any public object
    """The object that `module` had under `name` in version 0.1, with a DeprecationWarning in its user's line.

    AttributeError when there was none. For a module's `__getattr__`.
    """
    place = MOVED[module].get(name)
    if place is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} has moved: use {place}", DeprecationWarning, stacklevel=3)
    home, _, new_name = place.rpartition(".")
    # once `clipaudit.export` is imported as a module, the front door's name is that module
    return getattr(importlib.import_module(_EXPORT if place == "clipaudit.export" else home), new_name)


class _MovedModule(ModuleType):
    """A module of version 0.1."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return moved_name(self.__name__, name)

    def __call__(self, *values: Any, **options: Any) -> Any:  # noqa: ANN401
        """`clipaudit.export(...)` still works after `import clipaudit.export` has put the module in its place."""
        if self.__name__ != "clipaudit.export":
            raise TypeError(f"module {self.__name__!r} is not callable")
        return importlib.import_module(_EXPORT).export(*values, **options)


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of MOVED, after every finder of modules that are there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old module, None for any other."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module that looks its names up."""
        return _MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def install() -> None:
    """Make the old modules importable; once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
