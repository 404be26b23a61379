"""Cuts the project's oracle down to what tests/contract/test_oracle.py needs: python make.py ORACLE_DIRECTORY."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.plain_towers import plain_forward

LAYERS = (6, 7)
IMAGES = 2

oracle, here = Path(sys.argv[1]), Path(__file__).parent
config = json.loads((oracle / "model/open_clip_config.json").read_text())["model_cfg"]
weights = load_file(oracle / "model/open_clip_model.safetensors")
model = open_clip.CLIP(**config).eval()
model.load_state_dict(weights)
data = np.load(oracle / "decomposition.npz")

streams: list[torch.Tensor] = []
model.visual.transformer.resblocks[LAYERS[0]].register_forward_pre_hook(lambda _, args: streams.append(args[0]))
with torch.inference_mode():
    model.visual(torch.from_numpy(data["images"][:IMAGES]))

kept = {name: weights[f"visual.{name}"] for name in ("ln_post.weight", "ln_post.bias", "proj")}
for new, old in enumerate(LAYERS):
    prefix = f"visual.transformer.resblocks.{old}."
    kept |= {
        f"transformer.resblocks.{new}.{name.removeprefix(prefix)}": value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
save_file({name: value.contiguous() for name, value in kept.items()}, here / "last_blocks.safetensors")
layers = list(LAYERS)
np.savez_compressed(
    here / "decomposition.npz",
    streams=streams[0].numpy(),
    image_features=data["image_features"][:IMAGES],
    attentions=data["attentions"][:IMAGES, layers],
    mlps=data["mlps"][:IMAGES, [layer + 1 for layer in layers]],
)
shutil.copyfile(oracle / "textspan.npz", here / "textspan.npz")

# CLIP Surgery: the published outputs, and how far its second path has gone ahead of the first where block 6 begins.
surgery = np.load(oracle / "surgery.npz")
with torch.inference_mode():
    trace = plain_forward(model.visual, torch.from_numpy(data["images"][:IMAGES]), second_from=2, stop=LAYERS[0])
by_image = ("patch_features", "similarity_code", "single_text", "similarity_maps")
np.savez_compressed(
    here / "surgery.npz",
    ahead=(trace.second - streams[0]).numpy(),
    **{name: surgery[name][:IMAGES] if name in by_image else surgery[name] for name in surgery.files},
)
