"""Cheap check of pyproject.toml's lower bounds: what the code uses, and the version in which each library got it.

`.ci/matrix` installs the lowest versions and runs them, before a release; this needs a second and runs in CI. It fails
when a bound is below the version of a feature that is used, or when a feature is no longer where it was.
"""

import importlib
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
USED = (
    ("faiss-cpu", "1.11", "faiss", "IO_FLAG_MMAP_IFC"),
    ("numpy", "2.0", "numpy", "bitwise_count"),
    ("ray", "2.52", "ray._private.authentication.authentication_token_setup", "ensure_token_if_auth_enabled"),
    ("typer", "0.16", "typer", "Typer"),  # before, its help does not know Click 8.2
    ("scipy", "1.13", "scipy.special", "softmax"),  # before, built for NumPy 1
    ("torch", "2.4", "torch.serialization", "load"),
    ("pydantic", "2.7", "pydantic", "TypeAdapter"),
)
"""Distribution, version of the feature, module, attribute."""


def lowest() -> dict[str, Version]:
    """Name of each dependency to its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {}
    for text in project["dependencies"]:
        requirement = Requirement(text)
        versions = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==")]
        bounds[requirement.name] = max(versions, default=Version("0"))
    return bounds


def main() -> int:
    """Print what is wrong; the exit code."""
    bounds, problems = lowest(), []
    problems += [f"{name} has no lower bound" for name, version in bounds.items() if version == Version("0")]
    for name, since, module, attribute in USED:
        if bounds[name] < Version(since):
            problems.append(f"{name}>={bounds[name]} is too low: {module}.{attribute} needs {since}")
        if not hasattr(importlib.import_module(module), attribute):
            problems.append(f"{module}.{attribute} is not there any more")
    print("\n".join(problems) or f"bounds: {len(bounds)} dependencies, {len(USED)} features")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
