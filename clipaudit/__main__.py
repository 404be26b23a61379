"""The command's entry: runs the command line and turns a user's mistake into one sentence and an exit code."""

import sys


def main() -> None:
    """Run `clipaudit`; ClipauditError ends as one sentence on stderr with its exit code, a bug keeps its traceback."""
    from clipaudit.cli import app
    from clipaudit.errors import ClipauditError

    try:
        app()
    except ClipauditError as error:
        print(f"clipaudit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
