"""What is expensive to build and only read: built once a test session, whatever the number of xdist workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


class Shared:
    """Directories below `root` by name: the first worker that asks for one builds it, under a lock, and all read it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._used: set[str] = set()
        root.mkdir(exist_ok=True)

    def __call__(self, name: str, build: Callable[[Path], object]) -> Path:
        """The directory `name`, filled by `build(directory)` if no worker has done so; failed builds begin again."""
        folder, built = self._root / name, self._root / f"{name}.json"
        with FileLock(self._root / f"{name}.lock"):
            if not built.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                build(folder)
                built.write_text(json.dumps(_state(folder)))
        self._used.add(name)
        return folder

    def changed(self) -> list[str]:
        """What tests wrote, removed or renamed in directories that this worker read: `NAME/PATH`."""
        differences = []
        for name in sorted(self._used):
            before, now = json.loads((self._root / f"{name}.json").read_text()), _state(self._root / name)
            paths = sorted(before.keys() | now.keys())
            differences += [f"{name}/{path}" for path in paths if before.get(path) != now.get(path)]
        return differences


def _state(folder: Path) -> dict[str, list[int]]:
    """Size and time of every file and directory, so that a file renamed away and back is noticed too."""
    facts = {str(path.relative_to(folder)): path.stat() for path in [folder, *folder.rglob("*")]}
    return {name: [fact.st_size, fact.st_mtime_ns] for name, fact in facts.items()}
