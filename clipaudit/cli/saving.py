"""Where commands save what they have printed: into the run, or into `--out`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipaudit.cli.terminal import tell
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.run.reader import Run


def save(run: Run, directory: str, files: Mapping[str, Any], out: str | None) -> None:
    """Write files as `run.derived.publish` does, and tell where.

    To be called when the result is printed: a run that cannot be written to costs the files, not the result. Raises
    UsageError, which then names `--out`, and StorageFull.
    """
    from clipaudit.run.derived import publish

    try:
        folder = publish(run, directory, files, out)
    except UsageError as error:
        hint = "" if out is not None else ": the result is not saved; give another directory with --out"
        raise UsageError(f"{error}{hint}") from error
    tell(f"written to {folder}")
