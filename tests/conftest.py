"""Fixtures that several tiers use: a tiny model directory and the real command in a subprocess."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# No test may reach for a model hub, and none may wait for one.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """An open_clip directory with a seeded random ViT: 4 layers x 2 heads of 16, 32 pixels, joint dimension 24."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    directory = tmp_path_factory.mktemp("tiny_model")
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
    return str(directory)


@pytest.fixture
def clipaudit(tmp_path):
    """Run the real command; returns the completed process with text output."""

    def run(*arguments: object, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "clipaudit", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **environment},
            check=False,
        )

    return run
