"""Build the wheel and look into it: it has every file of the package that git tracks, and no other.

`.ci/matrix wheel` installs it without the checkout; this needs seconds and runs in CI. Exit code 1 names what differs.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "clipaudit/py.typed",
    "clipaudit/explorer/static/",  # the page that explorer/web builds
    "clipaudit/cues/report/templates/",
    "clipaudit/demo/model/open_clip_model.safetensors",
)
"""Parts of the package that must not be missing, whatever git tracks: beginnings of names."""


def tracked(left_out: list[str]) -> set[str]:
    """Files of the package that git knows, without the folders that pyproject.toml leaves out of wheels."""
    command = [shutil.which("git") or "git", "ls-files", "clipaudit"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if not name.startswith(tuple(f"{each}/" for each in left_out))}


def built(folder: Path) -> set[str]:
    """Names in the wheel, without those of its metadata."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def main() -> int:
    """Print what differs; the exit code."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    with tempfile.TemporaryDirectory() as folder:
        there = built(Path(folder))
    wanted = tracked(settings["exclude"])
    problems = [f"the wheel lacks {name}" for name in sorted(wanted - there)]
    problems += [f"the wheel has {name}, which git does not track" for name in sorted(there - wanted)]
    problems += [f"the wheel has nothing below {name}" for name in NEEDED if not any(n.startswith(name) for n in there)]
    print("\n".join(problems) or f"wheel: {len(there)} files, as git has them")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
