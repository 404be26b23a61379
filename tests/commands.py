"""The command in tests: called in this process, or in one of its own where that is what is tested."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest

ROOT = Path(__file__).resolve().parent.parent


def call(folder: Path, *arguments: object, **environment: str) -> CompletedProcess[str]:
    """`clipaudit ARGUMENTS` in `folder`, by a call in this process: no interpreter starts and nothing is imported anew.

    Environment, directory and streams are set back; caches of the package's modules stay.
    """
    from clipaudit.__main__ import main

    words = ["clipaudit", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", words)
        for name, value in {"COLUMNS": "120", **environment}.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as end:
            code = end.code
    return CompletedProcess(words, int(code or 0), out.getvalue(), err.getvalue())


def spawn(folder: Path, *arguments: object, timeout: float = 300, **environment: str) -> CompletedProcess[str]:
    """`clipaudit ARGUMENTS` in `folder`, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "clipaudit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **environment},
        check=False,
    )


def write_demo(folder: Path) -> None:
    """`folder/demo-out`, as the README's first command makes it; for `shared("demo-out", write_demo)`.

    CLIPAUDIT_DEMO names the directory that this command has made already, as in CI.
    """
    if "CLIPAUDIT_DEMO" in os.environ:
        shutil.copytree(os.environ["CLIPAUDIT_DEMO"], folder / "demo-out")
        return
    done = call(folder, "demo", "demo-out")
    assert done.returncode == 0, done.stderr


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
