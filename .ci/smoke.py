"""Run every command once on a small generated data set, with the Python that runs this file: `.ci/matrix` uses it.

Checks that a set of installed versions works at all: imports, help, the job on both engines, what is made from a run,
and the server. Exit code 1 names the command that failed.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLIPAUDIT = [sys.executable, "-m", "clipaudit"]
AUDIT = ("--model", "demo", "--label", "cls", "--attributes", "json:place,json:split")
COMMANDS = (
    ("--help",),
    ("audit", "--help"),
    ("demo-data", "birds", "data", "--count", "400", "--shard-size", "200"),
    ("audit", "data/*.tar", "--out", "run", "--engine", "local", *AUDIT),
    ("audit", "data/*.tar", "--out", "run-ray", "--workers", "1", *AUDIT),
    ("status", "run"),
    ("check", "run", "--model"),
    ("index", "run", "--engine", "local", "--heads", "embedding,L05H00"),
    ("query", "run", "--key", "0/00000000", "-k", "3", "--where", "place = 'water'", "--html", "sheet.html"),
    ("duplicates", "run"),
    ("heads", "run", "--html", "heads.html"),
    ("ablate", "run", "--head", "L05H00", "--classes", "data/classnames.txt"),
    ("compare", "run", "run-ray"),
    ("export", "run", "--out", "table"),
    ("report", "run", "--classes", "data/classnames.txt", "--attribute", "place", "--out", "report"),
)


def run(command: tuple[str, ...], folder: Path, codes: tuple[int, ...] = (0,)) -> None:
    """One command; its output is shown when it fails."""
    started = time.monotonic()
    done = subprocess.run([*CLIPAUDIT, *command], cwd=folder, capture_output=True, text=True, check=False, timeout=1800)
    print(f"{time.monotonic() - started:6.1f} s  {' '.join(command)}", flush=True)
    if done.returncode not in codes:
        sys.exit(f"clipaudit {' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")


def first_key(folder: Path) -> str:
    """SHARD/KEY of a sample of the run."""
    import pyarrow.parquet as pq

    table = pq.read_table(next((folder / "run/projections").glob("000000-*.parquet")), columns=["key"])
    return f"0/{table['key'][0].as_py()}"


def serve(folder: Path, key: str) -> None:
    """The server answers a search."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([*CLIPAUDIT, "serve", "run", "--api", "--port", str(port)], cwd=folder)
    try:
        body = json.dumps({"key": key, "k": 2}).encode()
        deadline = time.monotonic() + 300
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", "/search", body, {"content-type": "application/json"})
                hits = json.loads(connection.getresponse().read())[0]["hits"]
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("clipaudit serve does not answer")
                time.sleep(0.5)
        assert len(hits) == 2, hits
    finally:
        process.terminate()
        process.wait(30)
    print("          serve --api", flush=True)


def main() -> None:
    """All commands in a directory of their own."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    with tempfile.TemporaryDirectory(prefix="smoke", dir="/tmp") as name:
        folder = Path(name)
        for command in COMMANDS:
            if command[0] == "query":
                command = tuple(first_key(folder) if word == "0/00000000" else word for word in command)
            run(command, folder, (0, 1, 3) if command[0] == "report" else (0,))
        serve(folder, first_key(folder))
    print("all commands run")


if __name__ == "__main__":
    main()
