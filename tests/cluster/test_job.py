"""`ray job submit` as docs/cluster.md writes it, against a cluster with token authentication."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from clipaudit.run.reader import Run
from tests.commands import ROOT, free_port
from tests.make_shards import write_photos
from tests.ray_processes import answers, end

RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def head():
    """(dashboard address, environment) of a Ray head of this module's own, with its own home, token and ports."""
    home = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: Ray's sockets allow about 100 characters
    environment = {**os.environ, "HOME": home, "RAY_TMPDIR": f"{home}/t", "RAY_AUTH_MODE": "token"}
    environment["PYTHONWARNINGS"] = "ignore"
    environment.pop("RAY_ADDRESS", None)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # for `python`
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    port, dashboard = free_port(), free_port()
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=2",
        "--disable-usage-stats",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        # the agent takes jobs; at its usual port it would meet that of another Ray on this machine
        f"--dashboard-agent-listen-port={free_port()}",
        f"--dashboard-agent-grpc-port={free_port()}",
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 180
    while not answers(address):
        if process.poll() is not None:  # Ray gives its node half a minute; a busy machine may need longer
            output = process.stdout.read()
            process.stdout.close()
            assert b"timed out during startup" in output, output
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert time.monotonic() < deadline, "the dashboard does not answer"
        time.sleep(0.2)
    yield address, environment
    end([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)])
    process.wait(timeout=120)
    process.stdout.close()
    shutil.rmtree(home, ignore_errors=True)


def submit(head, *arguments, **changes):
    address, environment = head
    command = [
        RAY,
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        ".",
        "--",
        "python",
        "jobs/audit.py",
        *arguments,
    ]
    deadline = time.monotonic() + 180
    while True:
        result = subprocess.run(
            command, env={**environment, **changes}, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        # the dashboard answers some seconds before the node's agent, which takes jobs, has registered
        if "No available agent" not in result.stderr or time.monotonic() > deadline:
            return result
        time.sleep(1)


@pytest.mark.full
def test_a_submitted_job_does_the_work(head, tmp_path, tiny_model):
    write_photos(tmp_path / "s-0.tar", 10)
    result = submit(
        head, f"{tmp_path}/s-*.tar", "--out", str(tmp_path / "run"), "--model", tiny_model, "--label", "cls"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "10 ok" in result.stdout
    assert len(Run(str(tmp_path / "run"))) == 10


@pytest.mark.full
def test_a_failed_jobs_log_has_the_sentence(head, tmp_path, tiny_model):
    result = submit(head, f"{tmp_path}/nothing-*.tar", "--out", str(tmp_path / "run"), "--model", tiny_model)
    assert result.returncode == 1, "Ray's own exit code for any failed job"
    assert "nothing-*.tar" in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.full
def test_a_client_without_the_token_is_refused(head, tmp_path, tiny_model):
    result = submit(head, "x.tar", "--out", str(tmp_path / "run"), RAY_AUTH_MODE="disabled")
    assert result.returncode != 0
    assert "auth" in (result.stdout + result.stderr).lower()
