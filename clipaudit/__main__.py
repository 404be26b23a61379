"""The command's entry: runs the command line and turns a user's mistake into one sentence and an exit code."""

import sys
import traceback


def main() -> None:
    """Run `clipaudit`; ClipauditError ends as one sentence on stderr with its exit code, a bug keeps its traceback."""
    from clipaudit.cli.app import app
    from clipaudit.errors import ClipauditError
    from clipaudit.redact import redact

    try:
        app()
    except ClipauditError as error:
        print(f"clipaudit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("clipaudit: stopped; the same command goes on from the last committed shard", file=sys.stderr)
        sys.exit(4)
    except Exception:  # noqa: BLE001 - a bug: its traceback and exit code 5, which scripts can tell from 1 (gate failed)
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(ClipauditError.exit_code)


if __name__ == "__main__":
    main()
