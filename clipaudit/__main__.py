"""The command's entry: runs the command line and turns a user's mistake into one sentence and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run `clipaudit`; ClipauditError ends as one sentence on stderr with its exit code, a bug keeps its traceback."""
    from clipaudit.errors import Note

    try:
        _check_directory()
        from clipaudit.cli.app import app
        from clipaudit.cli.streams import flush_streams, guard_streams

        guard_streams()
        with warnings.catch_warnings():
            warnings.simplefilter("always", Note)
            warnings.showwarning = _shown(Note, warnings.showwarning)
            try:
                app()
            finally:
                flush_streams()
    except KeyboardInterrupt:
        print("clipaudit: stopped", file=sys.stderr)
        sys.exit(4)
    except Exception as error:  # noqa: BLE001 - also a bug ends with a code of ours
        _end(error)


def _end(error: Exception) -> NoReturn:
    """End the command: one sentence for what a user can mend, and for a bug its traceback and exit code 5.

    Scripts can tell that from 1, a failed gate. To be called while the exception is handled.
    """
    from clipaudit.errors import ClipauditError
    from clipaudit.pages.text import one_line
    from clipaudit.redact import redact

    if isinstance(error, OSError):
        from clipaudit.storage.faults import of_the_system

        error = of_the_system(error) or error
    if isinstance(error, ClipauditError):
        print(f"clipaudit: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(redact(traceback.format_exc()), end="", file=sys.stderr)
    sys.exit(ClipauditError.exit_code)


def _shown(category: type[Warning], others: Callable[..., None]) -> Callable[..., None]:
    """What shows warnings: those of a category as one line on stderr, each once; the rest by `others`."""
    from clipaudit.pages.text import one_line

    told: set[str] = set()

    def show(message: Warning | str, kind: type[Warning], *place: object, **more: object) -> None:
        if not issubclass(kind, category):
            others(message, kind, *place, **more)
        elif str(message) not in told:
            told.add(str(message))
            print(f"clipaudit: note: {one_line(str(message))}", file=sys.stderr)

    return show


def _check_directory() -> None:
    """UsageError when the working directory has been deleted: no relative path means anything then."""
    from clipaudit.errors import UsageError

    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the working directory cannot be used ({error.strerror}): it was deleted or may not be read; change to"
            " another"
        ) from error


if __name__ == "__main__":
    main()
