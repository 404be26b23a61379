"""From shards to the report: a class whose pictures are dark, and nothing else of it, is found as that."""

import json

import numpy as np
import pytest

from tests.commands import call
from tests.make_shards import write_shard

IMAGES, CLASSES = 360, ("bird", "boat", "chair")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Scenes of the demo, labelled by chance; those of the first class are darkened, nine in ten."""
    import io

    from PIL import Image

    from clipaudit.demo.world.datasets import samples

    folder = tmp_path_factory.mktemp("dark")
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(IMAGES) % len(CLASSES))
    members = {}
    for sample, label in zip(samples("nulls", count=IMAGES, seed=71), labels.tolist(), strict=True):
        pixels = (0.45 * sample.pixels).astype(np.uint8) if label == 0 and rng.random() < 0.9 else sample.pixels
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        members[sample.key] = {"jpg": buffer.getvalue(), "cls": label}
    write_shard(folder / "dark-0.tar", members)
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    arguments = ("--out", "run", "--model", "demo", "--label", "cls", "--engine", "local")
    assert call(folder, "audit", "dark-0.tar", *arguments).returncode == 0
    return folder / "run"


@pytest.mark.full
def test_dark_pictures_of_one_class_are_a_finding_of_the_report(run, tmp_path):
    answer = call(tmp_path, "report", run, "--out", "report", "--no-pictures", "--templates", "single")
    assert answer.returncode == 0, answer.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (finding,) = [f for f in report["audit"]["findings"] if (f["cue"]["attribute"] or "").startswith("image.")]
    assert (finding["cue"]["attribute"], finding["cue"]["value"]) == ("image.brightness", "dark pictures")
    assert finding["class_name"] == "bird"
    assert "dark pictures" in (tmp_path / "report" / "index.html").read_text()
    columns = {column["name"]: column for column in json.loads(call(tmp_path, "columns", "list", run, "--json").stdout)}
    assert columns["image.jpeg_quality"]["values"] == "90 to 90"
