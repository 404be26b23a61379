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


def condition(subject):
    """One line of what is seen now."""
    from pathlib import Path

    from clipaudit.cli import installation

    return next(each for each in installation.examine(Path()) if each.subject == subject)


def test_a_conda_environment_is_one(monkeypatch, tmp_path):
    (tmp_path / "vision" / "conda-meta").mkdir(parents=True)
    for name in ("prefix", "base_prefix"):  # conda's are the same
        monkeypatch.setattr(sys, name, str(tmp_path / "vision"))
    assert condition("python").state == "ok"
    assert condition("python").text.endswith("conda environment vision")


@pytest.mark.parametrize(
    ("cuda", "said", "remedy"),
    [(None, "built for CPUs, beside an NVIDIA card", "--force-reinstall torch"), ("13.0", "cannot use", "nvidia-smi")],
)
def test_a_card_that_torch_does_not_use_is_said(monkeypatch, tmp_path, cuda, said, remedy):
    import torch

    from clipaudit.cli import installation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(installation, "_NVIDIA", (tmp_path / "nothing",))
    assert condition("torch").text.endswith("no GPU")
    monkeypatch.setattr(installation, "_NVIDIA", (tmp_path / "nothing", tmp_path))
    assert (condition("torch").state, said in condition("torch").text) == ("note", True)
    assert remedy in condition("torch").remedy


def test_weights_are_told_by_their_files_and_a_missing_hub_client_is_a_problem(monkeypatch):
    def cached(name, *files):
        revisions = [SimpleNamespace(files=[SimpleNamespace(file_name=file) for file in files])]
        return SimpleNamespace(repo_id=name, size_on_disk=8e8, revisions=revisions)

    repositories = [
        cached("timm/ViT-B-16-SigLIP", "config.json"),
        cached("timm/PE-Core-B-16", "open_clip_model.safetensors"),
        cached("bert-base-uncased", "model.safetensors"),
    ]
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: SimpleNamespace(repos=repositories))
    assert condition("weights").text == "timm/PE-Core-B-16 (0.8 GB), timm/ViT-B-16-SigLIP (0.8 GB)"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert condition("weights").state == "problem"
    assert "pip install --force-reinstall huggingface_hub" in condition("weights").remedy


def test_the_hub_is_asked_for_where_downloads_go(monkeypatch):
    from clipaudit.cli import installation

    asked = []

    def connect(place, timeout):
        asked.append(place)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(installation.socket, "create_connection", connect)
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http", "https", "all", "no"):
        for spelling in (f"{name}_proxy", f"{name}_PROXY".upper()):
            monkeypatch.delenv(spelling, raising=False)
    settings = [
        {},
        {"HF_ENDPOINT": "http://mirror.example:8080"},
        {"HF_ENDPOINT": "https://mirror.example", "https_proxy": "http://user:secret@proxy.example:3128"},
        {"no_proxy": "mirror.example"},
    ]
    said = []
    for setting in settings:
        for name, value in setting.items():
            monkeypatch.setenv(name, value)
        said.append(condition("hub").text)
    mirror, proxy = ("mirror.example", 443), ("proxy.example", 3128)
    assert asked == [("huggingface.co", 443), ("mirror.example", 8080), proxy, mirror]
    assert said == [
        "huggingface.co can be reached",
        "mirror.example can be reached",
        "the proxy proxy.example:3128 to mirror.example can be reached",
        "mirror.example can be reached",
    ]
