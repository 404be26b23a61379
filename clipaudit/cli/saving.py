"""Where commands save what they have printed: into the run, or into `--out`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.run.reader import Run


def save(run: Run, directory: str, files: Mapping[str, Any], out: str | None, *, quiet: bool) -> None:
    """Write files as `run.derived.publish` does, and print where; `quiet`: on stderr, for stdout holds JSON.

    To be called when the result is printed: a run that cannot be written to costs the files, not the result. Raises
    UsageError, which then names `--out`, and StorageFull.
    """
    from rich.console import Console
    from rich.markup import escape

    from clipaudit.run.derived import publish

    try:
        folder = publish(run, directory, files, out)
    except UsageError as error:
        hint = "" if out is not None else ": the result is not saved; give another directory with --out"
        raise UsageError(f"{error}{hint}") from error
    Console(highlight=False, stderr=quiet).print(f"[dim]written to {escape(folder)}[/dim]", soft_wrap=True)
