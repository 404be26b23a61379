"""`clipaudit explain` and `clipaudit evaluate` as a user runs them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 130, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_explain(clipaudit, picture, tmp_path):
    done = clipaudit(
        "explain",
        picture,
        "--model",
        "demo",
        "--text",
        "fish",
        "--text",
        "snow",
        "--out",
        "o.png",
        "--json",
        "--tokens",
        "--side",
        96,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["grid"] == [12, 20]
    assert [score["token"] for score in found["tokens"][1]] == ["[start]", "snow", "[end]"]
    with Image.open(tmp_path / "o.png") as image:
        assert image.format == "PNG"
    for arguments, sentence in {
        ("explain", picture, "--text", "a"): "give --out FILE.png for a picture",
        ("explain", picture, "--text", "a", "--out", "o.jpg"): "pictures are written as .png",
        ("explain", picture, "--text", "a", "--out", "no/o.png"): "there is no directory",
        ("explain", picture, "--text", "a", "--out", "o.png", "--form", "x"): "--form must be paper or code",
        (
            "explain",
            picture,
            "--text",
            "a",
            "--out",
            "o.png",
            "--positions",
            "x",
        ): "--positions must be bicubic or bilinear",
        ("explain", picture, "--text", "a", "--json", "--positions", "bilinear"): "changes nothing at the model's own",
        ("explain", picture, "--text", "a", "--json", "--layers", "last"): "--layers 'last' is not understood",
        ("explain", picture, "--text", "a", "--json", "--form", "code"): "--form code belongs to --method surgery",
        ("evaluate", "segmentation", "x.tar", "--positions", "bilinear"): "changes nothing at the model's own size",
        ("evaluate", "segmentation", "x.tar", "--form", "code", "--methods", "values"): "surgery, and not to values",
    }.items():
        failed = clipaudit(*arguments)
        assert failed.returncode == 2
        assert sentence in failed.stderr
        assert failed.stderr.count("\n") == 1
    resnet = clipaudit("explain", picture, "--model", "RN50", "--pretrained", "random-seed-0", "--text", "a", "--json")
    assert resnet.returncode == 2
    assert "cannot be decomposed" in resnet.stderr


def test_evaluate(clipaudit, tmp_path):
    assert clipaudit("demo-data", "things", "things", "--count", 60).returncode == 0
    done = clipaudit(
        "evaluate", "segmentation", "things/things-*.tar", "--model", "demo", "--methods", "decomposition", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["images"] == 60
    assert found["methods"]["decomposition"]["AUC"]["low"] > 0.7
    table = clipaudit("evaluate", "points", "things/things-000000.tar", "--model", "demo", "--limit", 20)
    assert table.returncode == 0, table.stderr
    assert "20 images" in table.stdout
    failed = clipaudit("evaluate", "multilabel", "things/things-000000.tar", "--model", "demo")
    said, sentence = failed.stderr.splitlines()
    assert (failed.returncode, said) == (2, "loading demo ...")
    assert "has all that is needed: image, json:objects" in sentence
