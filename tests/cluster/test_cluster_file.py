"""cluster.yaml as Ray's launcher runs it: set-up, head, worker and a job, in a home directory of the test's own."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from clipaudit.run.reader import Run
from tests.commands import ROOT, free_port
from tests.make_shards import write_photos
from tests.ray_processes import answers, end, processes_at_home

NOT_YET = "No available agent to submit job"
"""What the dashboard says while the nodes' agents are still starting."""
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())

# Stands in for `pip install uv` and for uv: no network, and an environment that leads to the one that runs the tests.
PYTHON3 = """#!{python}
import sys
from pathlib import Path
assert sys.argv[1:4] == ["-m", "pip", "install"] and sys.argv[-1] == "uv", sys.argv
tool = Path(sys.argv[sys.argv.index("--target") + 1], "bin", "uv")
tool.parent.mkdir(parents=True)
tool.write_text({uv!r})
tool.chmod(0o755)
"""
UV = """#!{python}
import sys
from pathlib import Path
assert sys.argv[1] == "venv" and sys.argv[sys.argv.index("--python") + 1] == "3.11", sys.argv
folder = Path(sys.argv[-1], "bin")
folder.mkdir(parents=True)
for name in ("python", "ray"):
    script = folder / name
    script.write_text(f"#!/bin/sh\\nexec {scripts}/{{name}} \\"$@\\"\\n")
    script.chmod(0o755)
"""


def launched(command, environment, **variables):
    """Run a command of cluster.yaml in the shell that Ray's launcher uses on every node."""
    result = subprocess.run(
        ["bash", "--login", "-c", "-i", f"source ~/.bashrc; export PYTHONWARNINGS=ignore && ({command})"],
        env={**environment, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
        start_new_session=True,
    )
    assert result.returncode == 0 or NOT_YET in result.stdout, f"{command}\n{result.stdout}"
    return result.stdout


@pytest.fixture(scope="module")
def machine():
    """(home directory, environment) of a node before its set-up: file mounts are there, the user's own token too."""
    home = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: Ray's sockets allow about 100 characters
    shims = home / "shims"
    shims.mkdir()
    uv = UV.format(python=sys.executable, scripts=Path(sys.executable).parent)
    (shims / "python3").write_text(PYTHON3.format(python=sys.executable, uv=uv))
    (shims / "python3").chmod((shims / "python3").stat().st_mode | stat.S_IEXEC)
    (home / ".bashrc").write_text(f"export PATH={shims}:$PATH\n")  # a login shell sets PATH anew
    pins = subprocess.run([sys.executable, ROOT / ".ci/constraints.py"], capture_output=True, text=True, check=True)
    mounted = {name: home / name.removeprefix("~/") for name in CLUSTER["file_mounts"]}
    assert set(mounted) == {"~/constraints.txt", "~/.ray/auth_token"}
    mounted["~/constraints.txt"].write_text(pins.stdout)  # of this environment: its versions may be newer
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VIRTUAL_ENV"))}
    environment |= {"HOME": str(home), "RAY_TMPDIR": f"{home}/t", "PIP_NO_INDEX": "1"}
    yield home, environment
    end([process for process in processes_at_home(home) if process.pid != os.getpid()])
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow  # loads a second installation's libraries: run by hand before a release, see CONTRIBUTING
def test_the_clusters_commands_start_a_head_and_a_worker_that_run_a_job(machine, tmp_path, tiny_model):
    home, environment = machine
    for command in CLUSTER["setup_commands"]:
        launched(command, environment)
    port, dashboard = free_port(), free_port()
    ours = {
        "--port=6379": f"--port={port}",
        "$RAY_HEAD_IP:6379": f"127.0.0.1:{port}",
        "--metrics-export-port=8080": "--metrics-export-port=0",
        "--dashboard-host=127.0.0.1": f"--dashboard-host=127.0.0.1 --dashboard-port={dashboard}",
        " --autoscaling-config=~/ray_bootstrap_config.yaml": "",  # would start machines
    }
    for part, resources in (("head", '{"CPU": 0}'), ("worker", '{"CPU": 2}')):
        for command in CLUSTER[f"{part}_start_ray_commands"]:
            if command == "ray stop":  # would end the Ray processes of everybody on this machine
                continue
            for theirs, here in ours.items():
                command = command.replace(theirs, here)
            launched(command, environment, RAY_OVERRIDE_RESOURCES=resources)
    token = home / ".ray/auth_token"
    assert stat.S_IMODE(token.stat().st_mode) & 0o077 == 0, "nobody else reads the token"
    address, deadline = f"http://127.0.0.1:{dashboard}", time.monotonic() + 180
    while not answers(address):
        assert time.monotonic() < deadline, "the dashboard does not answer"
        time.sleep(0.2)

    write_photos(tmp_path / "s-0.tar", 10)
    job = f"python jobs/audit.py '{tmp_path}/s-*.tar' --out {tmp_path}/run --model {tiny_model} --label cls"
    submit = f"cd {ROOT} && ray job submit --address {address} --working-dir . -- {job} --workers 1 --cpus-per-worker 2"
    while NOT_YET in (output := launched(submit, environment)):
        assert time.monotonic() < deadline, output
        time.sleep(1)
    assert "10 ok" in output
    assert len(Run(f"{tmp_path}/run")) == 10

    without = launched(f"RAY_AUTH_MODE=disabled ray job list --address {address} 2>&1 || true", environment)
    assert "auth" in without.lower(), "a client without the token is refused"


def test_what_the_set_up_installs_is_pinned_by_the_constraints():
    result = subprocess.run(
        [sys.executable, ROOT / ".ci/constraints.py", "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    assert "-c $HOME/constraints.txt" in " ".join(CLUSTER["setup_commands"])
    text = (ROOT / "constraints.txt").read_text()
    assert not [line for line in text.splitlines() if "/" in line.split("#")[0] or "+" in line.split("#")[0]], (
        "no paths, no builds of this machine's own"
    )
