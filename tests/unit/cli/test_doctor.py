"""`clipaudit doctor`: what it sees, and what it says when something is broken."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_line_a_subject_and_exit_code_0_here(clipaudit):
    result = clipaudit("doctor")

    assert result.returncode == 0, result.stderr
    subjects = [line.split()[1] for line in result.stdout.splitlines() if line.startswith(("ok", "note", "problem"))]
    assert subjects == [
        *("clipaudit", "python", "cores", "memory", "disk", "temporary", "torch"),
        *("packages", "ray", "weights", "hub", "extras"),
    ]
    assert "All that clipaudit needs is there." in result.stdout


def test_every_note_and_problem_says_what_to_do(clipaudit):
    document = json.loads(clipaudit("doctor", "--json").stdout)

    assert document["problems"] == 0
    for condition in document["conditions"]:
        assert bool(condition["remedy"]) == (condition["state"] != "ok"), condition


def test_a_torchvision_of_another_build_is_a_problem_with_the_command_that_mends_it(clipaudit, monkeypatch):
    class Mismatched:
        """What `import torchvision` does beside a torch of another build."""

        def find_spec(self, name, path=None, target=None):
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(sys, "meta_path", [Mismatched(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)

    result = clipaudit("doctor")

    assert result.returncode == 2
    assert "operator torchvision::nms does not exist" in result.stdout
    assert "pip install --force-reinstall torch torchvision" in result.stdout
    assert "1 problem: see above" in result.stdout


def test_a_package_that_does_not_load_is_named(clipaudit, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # an ImportError for whoever imports it

    result = clipaudit("doctor")

    assert result.returncode == 2
    assert "problem  packages" in result.stdout
    assert "pip install --force-reinstall faiss-cpu" in result.stdout


def test_a_token_file_without_token_mode_is_said(clipaudit, monkeypatch, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret-token")

    result = clipaudit("doctor", HOME=str(tmp_path), RAY_AUTH_MODE="")

    assert "export RAY_AUTH_MODE=token" in result.stdout
    assert "secret-token" not in result.stdout


def test_a_full_disk_and_a_containers_quota_are_seen(clipaudit, monkeypatch, tmp_path):
    from clipaudit.cli import installation

    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    monkeypatch.setattr(installation, "_CGROUP_CPUS", quota)
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda place: SimpleNamespace(free=1e9))

    conditions = {condition.subject: condition for condition in installation.examine(tmp_path)}

    assert conditions["cores"].text.startswith("0.5 CPU cores")
    assert conditions["disk"].state == "note"
    assert conditions["temporary"].remedy == "set TMPDIR to a directory with more room"
