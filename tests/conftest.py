"""Fixtures that several tiers use, and how tests are spread over workers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import call, spawn
from tests.shared import Shared

# No test may reach for a model hub, and none may wait for one.
os.environ["HF_HUB_OFFLINE"] = "1"
# Workers share the cores: threads beyond them would only wait for each other. Read when torch and numpy are imported.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


ON_RAY = ("tests/cluster/test_index_ray.py", "tests/cluster/test_ray.py")
"""Files whose tests share one local cluster (`ray_metrics`), so one worker runs them all."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Whole files to workers, as `--dist loadfile` does; those on Ray count as one file."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "tests on Ray" if file in ON_RAY else file

    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


_collected: set[str] = set()


def pytest_collection_finish(session):
    _collected.update(sys.modules)


@pytest.fixture(scope="session")
def collected_modules() -> set[str]:
    """Names of the modules that are loaded when all tests of the session have been collected and none has run."""
    return _collected


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id) -> Iterator[Shared]:
    """`shared(name, build)`: a directory that is built once for all workers, and that no test may change."""
    base = tmp_path_factory.getbasetemp()
    directories = Shared((base if worker_id == "master" else base.parent) / "shared")
    yield directories
    assert directories.changed() == [], "shared directories are read only: let the test copy what it changes"


@pytest.fixture(scope="session")
def tiny_model(shared) -> str:
    """An open_clip directory with a seeded random ViT: 4 layers x 2 heads of 16, 32 pixels, joint dimension 24."""
    return str(shared("tiny_model", _write_tiny_model))


def _write_tiny_model(directory: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**config)
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")


@pytest.fixture
def no_grad():
    """`torch.no_grad` around the test; torch is imported when the test runs."""
    import torch

    with torch.no_grad():
        yield


@pytest.fixture
def inference_mode():
    """`torch.inference_mode` around the test."""
    import torch

    with torch.inference_mode():
        yield


@pytest.fixture
def clipaudit(tmp_path):
    """`clipaudit(*arguments, **environment)`: the command in this process, in `tmp_path`; how it ended."""
    return lambda *arguments, **environment: call(tmp_path, *arguments, **environment)


@pytest.fixture
def spawned(tmp_path):
    """The same in a process of its own, for what only that can show: signals, exit codes, nothing left in memory."""
    return lambda *arguments, **keywords: spawn(tmp_path, *arguments, **keywords)
