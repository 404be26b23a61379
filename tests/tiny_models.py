"""Small towers with the structure of registered open_clip configurations, and lively random weights."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from unittest import mock

import open_clip
import timm
import torch
from open_clip.model import _build_vision_tower
from timm.models.vitamin import VitCfg
from torch import nn

_real_create = timm.create_model


def full_size_on_meta(name: str) -> nn.Module:
    """The configuration's own image tower, without memory: only its structure is there."""
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        return _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))


def tiny(name: str, seed: int = 0, *, layers: int = 3, **changes: Any) -> nn.Module:
    """The configuration's image tower with few layers, two heads of the same width, and a small image."""
    config = open_clip.get_model_config(name)
    vision = dict(config["vision_cfg"]) | changes
    torch.manual_seed(seed)
    if "timm_model_name" in vision:
        with mock.patch.object(timm, "create_model", partial(_create_small, layers)):
            visual = _build_vision_tower(144, vision, config.get("quick_gelu", False))
    else:
        head_width = vision.get("head_width", 64)
        vision |= {
            "layers": layers,
            "width": 2 * head_width,
            "head_width": head_width,
            "image_size": 3 * vision["patch_size"],
        }
        visual = _build_vision_tower(144, vision, config.get("quick_gelu", False))
    return enliven(visual, seed)


def _create_small(layers: int, name: str, **kwargs: Any) -> nn.Module:
    patch = int(match[1]) if (match := re.search(r"patch(\d+)", name)) else 16
    small: dict[str, Any] = {"depth": layers, "num_heads": 2, "embed_dim": 128, "img_size": 4 * patch}
    if name.startswith("vitamin"):
        small["embed_cfg"] = VitCfg(embed_dim=(16, 32, 128), depths=(1, 1, 1), stem_width=16, head_type="1d")
    if name == "vit_base_mci_224":  # its convolutional stem has a fixed width
        small |= {"embed_dim": 768, "num_heads": 12}
    if name.startswith("eva02") and "enormous" not in name:
        small["ref_feat_shape"] = (4, 4)
    return _real_create(name, **kwargs, **small)


@torch.no_grad()
def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights under which every part counts: attention far from uniform, no bias zero, no gain one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if parameter.ndim >= 2 and "pos_embed" not in name and "token" not in name:
            fan_in = parameter[0].numel() if parameter.ndim > 2 or not name.endswith("proj") else len(parameter)
            parameter.copy_(noise * 1.5 * fan_in**-0.5)
        elif name.endswith("weight"):
            parameter.copy_(1 + 0.3 * noise)
        elif "gamma" in name:
            parameter.copy_(0.6 + 0.2 * noise)
        else:
            parameter.copy_(0.5 * noise)
    return model.eval()


def images_for(visual: nn.Module, count: int = 3, seed: int = 1) -> torch.Tensor:
    """Random normalised images of the tower's size."""
    from clipaudit.model import describe_tower

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *describe_tower(visual).image_size, generator=generator)


@torch.inference_mode()
def plain_embedding(visual: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Unit embeddings by the untouched tower."""
    features = visual(images)
    features = features[0] if isinstance(features, tuple) else features
    return nn.functional.normalize(features, dim=-1)
