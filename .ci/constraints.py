"""Write `constraints.txt`: the versions that the tests ran with, of everything that clipaudit needs at run time.

python .ci/constraints.py            print the pins of the present environment
python .ci/constraints.py --check    exit 1 unless constraints.txt pins every dependency within pyproject's bounds
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("s3", "fast")
HEAD = """\
# The versions that the tests ran with (CPython {python}, {platform}): python .ci/constraints.py > constraints.txt
# For images and clusters, whose machines must agree: pip install -c constraints.txt .
"""


def direct() -> list[Requirement]:
    """What pyproject.toml asks for, the extras of clusters and images included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS)]
    return [Requirement(text) for group in groups for text in group]


def closure(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Name to installed version, of these requirements and all that they need here; local version parts left off."""
    pins: dict[str, str] = {}
    waiting = [(requirement, extra) for requirement in requirements for extra in ("", *requirement.extras)]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add((name, extra))
        installed = distribution(name)
        pins[name] = Version(installed.version).public
        for text in installed.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                needed.marker = None  # evaluated here, with the extra that asks for it
                waiting += [(needed, further) for further in ("", *needed.extras)]
    return pins


def problems(text: str) -> list[str]:
    """Dependencies that the file does not pin, or pins outside pyproject's bounds."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
    lines = []
    for requirement in direct():
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            lines.append(f"constraints.txt does not pin {requirement.name}")
        elif pin not in requirement.specifier:
            lines.append(f"constraints.txt pins {requirement.name} {pin}, pyproject.toml wants {requirement.specifier}")
    return lines


def main() -> int:
    """Print the pins or the problems; the exit code."""
    if sys.argv[1:] == ["--check"]:
        lines = problems((ROOT / "constraints.txt").read_text())
        print("\n".join(lines) or "constraints.txt: every dependency is pinned within its bounds")
        return int(bool(lines))
    try:
        pins = closure(direct())
    except PackageNotFoundError as error:
        print(f"{error.name} is not installed here: run this where the tests ran", file=sys.stderr)
        return 1
    print(HEAD.format(python=".".join(map(str, sys.version_info[:2])), platform=sys.platform), end="")
    print("\n".join(f"{name}=={version}" for name, version in sorted(pins.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
