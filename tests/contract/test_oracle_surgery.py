"""The published CLIP Surgery's outputs are ours (tests/data/oracle/README.md says whence)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.contract.test_oracle import last_blocks  # noqa: F401 - a fixture


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, PatchFeatures, Surgery, enlarged, feature_surgery, min_max, points, similarities
    global single_text, text_weights, _value_path, project, describe_tower

    import torch

    from clipaudit.localize import (
        PatchFeatures,
        Surgery,
        enlarged,
        feature_surgery,
        min_max,
        points,
        similarities,
        single_text,
        text_weights,
    )
    from clipaudit.localize.surgery import _value_path, project
    from clipaudit.model import describe_tower


DATA = Path(__file__).parent.parent / "data" / "oracle"
FEATURES, CODE, MAPS = 1e-5, 1e-6, 2e-3


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    with np.load(DATA / "surgery.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def check_similarities(published: dict[str, torch.Tensor], features: torch.Tensor) -> dict[str, float]:
    """Largest differences of everything that follows from (B, 65, D) features."""
    split = PatchFeatures(whole=features[:, 0], patches=features[:, 1:], grid=(8, 8))
    K, whole = similarities(split, published["text_vectors"])
    rows = torch.cat([whole[:, None], K], dim=1)  # the published rows begin with the class token
    code = feature_surgery(rows, text_weights(whole), "code")
    maps = code[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
    shown = enlarged(min_max(maps), (64, 64)).permute(0, 2, 3, 1)
    for image in range(2):
        found = points(maps[image, 0], (64, 64), threshold=0.8)
        assert np.array_equal(found.xy, published[f"points{image}"].numpy())
        assert np.array_equal(found.labels, published[f"point_labels{image}"].numpy())
    return {
        "code": (code - published["similarity_code"]).abs().max().item(),
        "single": (single_text(rows[..., :1], rows[..., 9:]) - published["single_text"]).abs().max().item(),
        "maps": (shown - published["similarity_maps"].float()).abs().max().item(),
    }


def test_feature_surgery_maps_and_points_are_the_published(published):
    errors = check_similarities(published, published["patch_features"])
    assert errors["code"] <= CODE
    assert errors["single"] <= CODE
    assert errors["maps"] <= MAPS
    assert published["similarity_code"].abs().max() > 1000 * CODE


@pytest.mark.parametrize("image", [0, 1])
def test_the_second_path_is_the_published(published, last_blocks, image):  # noqa: F811
    with np.load(DATA / "decomposition.npz") as arrays:
        stream = torch.from_numpy(arrays["streams"][image])
    tower = describe_tower(last_blocks.starting_from(stream))
    with torch.inference_mode():
        whole, rows = _value_path(tower, torch.zeros(1, 3, 64, 64), blocks=2)
        patches = project(tower, (rows + published["ahead"][image])[:, 1:])
    expected = published["patch_features"][image]
    assert (whole[0] - expected[0]).abs().max() <= FEATURES
    assert (patches[0] - expected[1:]).abs().max() <= FEATURES
    assert published["ahead"].abs().max() > 1000 * FEATURES


@pytest.mark.skipif("CLIPAUDIT_ORACLE" not in os.environ, reason="CLIPAUDIT_ORACLE names no full oracle directory")
def test_full_oracle():
    from tests.published import full_oracle

    oracle, model = full_oracle()
    with np.load(oracle / "surgery.npz") as arrays:
        published = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    with np.load(oracle / "decomposition.npz") as arrays:
        images = torch.from_numpy(arrays["images"])
    surgery = Surgery(model)
    out = surgery(images)
    features = torch.cat([out.whole[:, None], out.patches], dim=1)
    errors = check_similarities(published, features)
    errors["features"] = (features - published["patch_features"]).abs().max().item()
    singles = [surgery(image[None]) for image in images]
    errors["batch"] = (out.patches - torch.cat([single.patches for single in singles])).abs().max().item()
    with torch.inference_mode():
        errors["class token"] = (out.whole - model.encode_image(images)).abs().max().item()
    print(f"largest differences: {errors}")
    limits = {"code": CODE, "single": CODE, "maps": MAPS}
    assert all(error <= limits.get(name, FEATURES) for name, error in errors.items())
