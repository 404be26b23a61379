"""The recipes of docs/training.md, as they stand there, on the demo's shards: what training code draws is balanced."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.commands import call
from tests.doc_blocks import Block, blocks

PAGE = "docs/training.md"
OPTIONAL = ("lightning", "keras")
"""Modules of the extra `docs`, each of one recipe."""
CHECK = """
import collections, json
of_subset = [s for s in samples if place(s) in balanced]
groups = collections.Counter((s["cls"], s["json"]["place"]) for s in of_subset)
print(json.dumps({
    "all": labels.float().mean().item(), "streamed": streamed, "drawn": drawn, "images": len(samples),
    "balanced": len(balanced), "groups": sorted(groups.values()),
}))
"""


def needs(block: Block) -> str | None:
    """The optional module that a recipe imports."""
    return next((name for name in OPTIONAL if f"\nimport {name}\n" in f"\n{block.code}"), None)


def recipes() -> list[Block]:
    return [block for block in blocks(PAGE) if block.language == "python"]


def test_every_recipe_is_on_the_page():
    assert [needs(block) for block in recipes()].count(None) == 4
    assert {needs(block) for block in recipes()} == {None, *OPTIONAL}
    text = "".join(block.code for block in recipes())
    assert "WeightedRandomSampler" in text
    assert "import clipaudit" not in text, "no code of ours is needed"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """`page(more, last)`: what the page's blocks print as one script, those of one optional module among them."""
    folder = tmp_path_factory.mktemp("training")
    shards = ["demo-data", "birds", "demo-out/birds", "--count", "1000", "--seed", "5", "--shard-size", "300"]
    job = ["audit", "demo-out/birds/*.tar", "--out", "run", "--model", "demo", "--device", "cpu", "--engine", "local"]
    fields = ["--label", "cls", "--attributes", "json:place,json:split"]
    report = ["report", "run", "--attribute", "place", "--split", "split", "--out", "demo-out/report"]
    for command in (shards, [*job, *fields], [*report, "--no-heat", "--no-pictures", "--fail-on", "never"]):
        done = call(folder, *command)
        assert done.returncode == 0, done.stderr

    def run(more: str | None = None, last: str = "") -> str:
        script = folder / "page.py"
        script.write_text("\n".join([*(b.code for b in recipes() if needs(b) in (None, more)), last]))
        ended = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout

    return run


@pytest.mark.full
def test_what_is_drawn_is_balanced(page):
    said = json.loads(page(last=CHECK).splitlines()[-1])
    # of the 500 training images 77 % are landbirds; both classes have two groups of equal weight
    assert said["images"] == 500
    assert said["all"] < 0.3
    for drawn in (said["streamed"], said["drawn"]):
        assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.1)
        assert len(drawn) == pytest.approx(500, rel=0.2)
    assert said["groups"] == [said["balanced"] // 4] * 4


@pytest.mark.full
@pytest.mark.parametrize(("module", "prints"), [("lightning", "8 steps"), ("keras", "loss 0.")])
def test_a_recipe_of_another_library_runs(page, module, prints):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install -e '.[docs]'")
    assert prints in page(module)
