"""A tower for images of another size: shared weights, position embeddings interpolated, the model untouched."""

from __future__ import annotations

import copy
from typing import Literal, TypeAlias, get_args

import timm.models.eva as timm_eva
import timm.models.vision_transformer as timm_vit
import torch
import torch.nn.functional as F
from open_clip import transformer as oc
from open_clip.timm_model import TimmModel
from timm.layers import PatchEmbed, resample_abs_pos_embed
from torch import Tensor, nn

from clipaudit.errors import UnsupportedTower, UsageError
from clipaudit.model.towers import describe_tower

Positions: TypeAlias = Literal["bicubic", "bilinear"]
"""How position embeddings are resized: `bicubic` with antialiasing, as open_clip and timm do it when they load weights
of another size, or `bilinear` without, as the published code of CLIP Surgery does it."""
DEFAULT_POSITIONS: Positions = "bicubic"
_ATTRIBUTE = "clipaudit_positions"


def with_positions(model: nn.Module, positions: Positions) -> nn.Module:
    """The image tower of a model as a view whose position embeddings are resized so, for `Decomposer`, `Surgery` and
    `localiser`. It shares every weight and gives the same embeddings at the model's own image size.

    Args:
        model: an open_clip model or its image tower.
        positions: see `Positions`.

    Raises UsageError for another word, and UnsupportedTower as `describe_tower`.

    >>> surgery = Surgery(with_positions(load_model("demo").model, "bilinear"))
    """
    if positions not in get_args(Positions):
        raise UsageError(f"--positions must be bicubic or bilinear, not {positions!r}")
    visual = describe_tower(model).visual
    if positions == getattr(visual, _ATTRIBUTE, DEFAULT_POSITIONS):
        return visual
    view = _shallow(visual)
    setattr(view, _ATTRIBUTE, positions)
    return view


def resized(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """An image tower that takes images of `size`, for `Decomposer`, `describe_tower` and a forward pass.

    The result shares every weight with the model except the position embeddings. These are always interpolated from the
    model's own (bicubic with antialiasing, unless `with_positions` says otherwise), never from those of another size.
    The model itself is unchanged.

    Args:
        model: an open_clip model or its image tower, one that `describe_tower` takes.
        size: height and width in pixels, each a multiple of the patch side.

    Raises:
        UnsupportedTower: the tower has positions or patches that are bound to one size.
        UsageError: the size is not a multiple of the patch side.
    """
    tower = describe_tower(model)
    if size == tower.image_size:
        return tower.visual
    patch = patch_side(tower.image_size, tower.grid)
    if min(size) < 1 or size[0] % patch[0] or size[1] % patch[1]:
        raise UsageError(
            f"images of {size[0]} x {size[1]} pixels cannot be cut into patches of {patch[0]} x {patch[1]}"
        )
    visual, positions = tower.visual, getattr(tower.visual, _ATTRIBUTE, DEFAULT_POSITIONS)
    if isinstance(visual, TimmModel):
        return _resized_timm(visual, size, positions)
    return _resized_open_clip(visual, size, patch, positions)


def patch_side(image_size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    return image_size[0] // grid[0], image_size[1] // grid[1]


def _resized_open_clip(
    visual: nn.Module, size: tuple[int, int], patch: tuple[int, int], positions: Positions
) -> nn.Module:
    assert isinstance(visual, oc.VisionTransformer)
    view = _shallow(visual)
    grid = (size[0] // patch[0], size[1] // patch[1])
    table = visual.positional_embedding  # (1 + rows * columns, width)
    resized_table = _interpolated(table, visual.grid_size, grid, positions)
    view.positional_embedding = nn.Parameter(resized_table, requires_grad=False)
    view.image_size, view.grid_size = size, grid  # type: ignore[assignment]
    return view


def _interpolated(table: Tensor, old: tuple[int, int], new: tuple[int, int], positions: Positions) -> Tensor:
    """(1 + old cells, width) -> (1 + new cells, width); the class token's row stays."""
    # (rows * columns, width) -> (1, width, rows, columns)
    cells = table[1:].detach().float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    antialias = positions == "bicubic"  # the published code of CLIP Surgery asks for none
    cells = F.interpolate(cells, size=new, mode=positions, antialias=antialias, align_corners=False)
    rows = cells.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1).to(table.dtype)
    return torch.cat([table[:1].detach(), rows])


def _resized_timm(visual: TimmModel, size: tuple[int, int], positions: Positions) -> nn.Module:
    trunk = visual.trunk
    pool = getattr(trunk, "attn_pool", None)
    if type(trunk) not in (timm_vit.VisionTransformer, timm_eva.Eva) or type(trunk.patch_embed) is not PatchEmbed:
        raise UnsupportedTower(f"this image tower takes images of one size only: {type(trunk).__name__} is bound to it")
    if getattr(pool, "pos_embed", None) is not None:
        raise UnsupportedTower("this image tower takes images of one size only: its attention pool has positions")
    view, small = _shallow(visual), _shallow(trunk)
    small.patch_embed = _shallow(trunk.patch_embed)
    if getattr(trunk, "rope", None) is not None:
        small.rope = copy.deepcopy(trunk.rope)
    small.set_input_size(img_size=size)  # type: ignore[operator]
    table = getattr(trunk, "pos_embed", None)
    if positions == "bilinear" and table is not None:
        prefix = 0 if getattr(trunk, "no_embed_class", False) else trunk.num_prefix_tokens
        grid = describe_tower(visual).grid
        patch = patch_side(tuple(trunk.patch_embed.img_size), grid)
        rows = resample_abs_pos_embed(
            table.detach(),
            new_size=[size[0] // patch[0], size[1] // patch[1]],
            old_size=list(grid),
            num_prefix_tokens=prefix,
            interpolation="bilinear",
            antialias=False,
        )
        small.pos_embed = nn.Parameter(rows, requires_grad=False)
    view.trunk, view.image_size = small, size  # type: ignore[assignment]
    return view


def _shallow(module: nn.Module) -> nn.Module:
    """A copy of a module that shares parameters and children, and in which they can be replaced one by one."""
    view = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        setattr(view, name, dict(getattr(module, name)))
    return view
