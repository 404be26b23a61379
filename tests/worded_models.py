"""Tiny CLIP directories whose text encoder can read: they bring merges of their own, as the demo model does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

MERGES = ["c a", "ca t</w>", "d o", "do g</w>"]


def write_worded_model(
    directory: Path, *, context: int = 16, embed_dim: int = 24, seed: int = 0, **vision: int
) -> Path:
    """An open_clip directory with seeded random weights; its tokenizer knows bytes and MERGES."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bpe.txt.gz").write_bytes(gzip.compress("\n".join(["#version: 0.2", *MERGES]).encode()))
    text = {"context_length": context, "vocab_size": 512 + len(MERGES) + 2, "width": 16, "heads": 2, "layers": 1}
    tower = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8, **vision}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(embed_dim=embed_dim, vision_cfg=tower, text_cfg=text)
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    text["tokenizer_kwargs"] = {"bpe_path": "bpe.txt.gz"}
    config = {"model_cfg": {"embed_dim": embed_dim, "vision_cfg": tower, "text_cfg": text}, "preprocess_cfg": {}}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    return directory
