"""The manifest and the container recipe of docs/: valid for KubeRay, and commands that this version understands."""

import copy
import json
import shlex
import subprocess
import sys

import jsonschema
import pytest
import yaml

from clipaudit import __version__
from tests.commands import ROOT

SCHEMA = json.loads((ROOT / "tests/data/kuberay/rayjob.schema.json").read_text())
MANIFEST = yaml.safe_load((ROOT / "docs/rayjob.yaml").read_text())


def problems(manifest):
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(manifest)]


def test_the_manifest_is_valid_under_kuberays_published_schema():
    assert problems(MANIFEST) == []


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ((), "backofLimit", 3),
        ((), "backoffLimit", "three"),
        (("rayClusterSpec", "authOptions"), "mode", "on"),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0), "img", "x"),
        (("rayClusterSpec", "workerGroupSpecs", 0), "minReplicas", None),
        (("rayClusterSpec", "workerGroupSpecs", 0, "rayStartParams"), "num-cpus", 8),
    ],
)
def test_the_schema_notices_mistakes(where, key, value):
    manifest = copy.deepcopy(MANIFEST)
    part = manifest["spec"]
    for name in where:
        part = part[name]
    part[key] = value
    assert problems(manifest)


def test_the_entrypoint_is_a_command_of_this_version():
    words = shlex.split(MANIFEST["spec"]["entrypoint"])
    assert words[:2] == ["clipaudit", "audit"]
    # every option is understood up to the listing of a bucket, which is not there
    listing = [word.replace("s3://", "memory://") for word in words]
    result = subprocess.run(
        [sys.executable, "-m", *listing], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    assert result.returncode == 2
    assert "does not exist" in result.stderr, result.stderr


def test_retries_resume_and_nothing_is_shared_without_a_token():
    spec = MANIFEST["spec"]
    assert spec["backoffLimit"] >= 1
    assert "--out s3://" in spec["entrypoint"], "a retry has a new cluster: only a store outlives the first one"
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_head_workers_and_recipe_agree_on_image_and_ray():
    cluster = MANIFEST["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {c["image"] for group in groups for c in group["template"]["spec"]["containers"]}
    assert len(images) == 1
    recipe = (ROOT / "docs/Dockerfile").read_text()
    assert f"ray[default]=={cluster['rayVersion']}" in recipe
    assert images.pop().rpartition(":")[2] == __version__


def test_the_recipe_copies_what_the_build_needs():
    copied = {
        word
        for line in (ROOT / "docs/Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
        for word in line.split()[1:-1]
    }
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "clipaudit", "constraints.txt"}
    assert all((ROOT / name).exists() for name in copied)
