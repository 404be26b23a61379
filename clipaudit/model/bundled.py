"""The demo model as an open_clip directory: its configuration, how it is written, and how it is unpacked for use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipaudit.errors import UsageError

PACKAGED = Path(__file__).parents[1] / "demo" / "model"
"""The model that clipaudit ships."""
CONFIG, WEIGHTS, BPE = "open_clip_config.json", "open_clip_model.safetensors", "bpe.txt.gz"
FILES = (CONFIG, WEIGHTS, BPE)
IMAGE_SIZE = 64
CONTEXT_LENGTH = 32
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's, because open_clip falls back to them wherever a model is loaded without its `preprocess_cfg`."""


def model_config(vocab_size: int, bpe_path: str = BPE) -> dict[str, Any]:
    """open_clip's `model_cfg`: a ViT of 6 layers x 4 heads of 32 on 8 x 8 patches, and a text tower of 2 layers."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 8, "width": 128, "head_width": 32, "layers": 6},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "width": 128,
            "heads": 4,
            "layers": 2,
            "tokenizer_kwargs": {"bpe_path": bpe_path},
        },
    }


def preprocess_config() -> dict[str, Any]:
    """open_clip's `preprocess_cfg`: shorter side to 64 pixels, bicubic, centre crop, OpenAI's mean and std."""
    return {
        "size": IMAGE_SIZE,
        "mode": "RGB",
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }


def write_directory(target: Path, weights: Mapping[str, Any], bpe: Path, vocab_size: int) -> None:
    """Write an open_clip directory: float16 `weights` (a state dict of `open_clip.CLIP`), configuration and BPE file.

    `bpe_path` stays relative, so the directory can be moved; `unpack` makes it loadable.
    """
    import torch
    from safetensors.torch import save_file

    target.mkdir(parents=True, exist_ok=True)
    halves = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in weights.items()}
    save_file(halves, target / WEIGHTS, metadata={"format": "pt"})
    (target / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner can read
    if bpe.resolve() != (target / BPE).resolve():
        shutil.copyfile(bpe, target / BPE)
    _write_config(target, {"model_cfg": model_config(vocab_size), "preprocess_cfg": preprocess_config()})


def unpack(source: Path = PACKAGED, target: Path | None = None) -> Path:
    """Copy an open_clip directory to where its BPE file has a known absolute path, and return that directory.

    open_clip reads `bpe_path` relative to the working directory, hence the copy. `target` defaults to a directory of
    the user's cache named after the contents. A copy found there is verified byte by byte and replaced if it differs;
    any number of processes may do this at once. Raises UsageError where nothing can be written.
    """
    contents = {name: (source / name).read_bytes() for name in FILES}
    folder = target or cache_directory() / f"demo-{_digest(contents)}"
    folder = folder.expanduser().absolute()
    config = json.loads(contents[CONFIG])
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["bpe_path"] = str(folder / BPE)
    contents[CONFIG] = _config_bytes(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The configuration comes last: a directory that has it is complete.
        for name in (WEIGHTS, BPE, CONFIG):
            _ensure(folder / name, contents[name])
    except OSError as error:
        raise UsageError(
            f"the demo model cannot be unpacked into {folder}: {error.strerror or error}; "
            "set CLIPAUDIT_CACHE to a directory that can be written"
        ) from error
    return folder


def cache_directory() -> Path:
    """Where unpacked models live: `CLIPAUDIT_CACHE`, or `clipaudit` in the platform's cache directory."""
    if override := os.environ.get("CLIPAUDIT_CACHE"):
        return Path(override)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "clipaudit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "clipaudit" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipaudit"


def _digest(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(hashlib.sha256(contents[name]).digest())
    return digest.hexdigest()[:12]


def _ensure(path: Path, data: bytes) -> None:
    """Make `path` hold `data`; readers see the old file or the whole new one."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:  # also KeyboardInterrupt: no temporary file is left in the user's cache
        temporary.unlink(missing_ok=True)
        raise


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / CONFIG).write_bytes(_config_bytes(config))


def _config_bytes(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, indent=2) + "\n").encode()
