"""`clipaudit compare` and `clipaudit heads --html` as a user runs them."""

import json

import pytest

from tests.commands import call
from tests.make_shards import write_photos
from tests.make_texts import make_pool, write_pool
from tests.worded_models import write_worded_model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with a pool and the runs `a` and `b` of one model, and `c` of another."""
    directory = tmp_path_factory.mktemp("compared")
    for number, name in enumerate(("model", "other")):
        write_worded_model(directory / name, context=32, layers=2, image_size=32, seed=number)
    for name in ("a", "b", "c"):
        write_photos(directory / f"{name}.tar", 40, prefix=name)
        model = directory / ("other" if name == "c" else "model")
        options = ["--model", model, "--out", directory / name, "--engine", "local", "--layers", "1"]
        done = call(directory, "audit", directory / f"{name}.tar", *options)
        assert done.returncode == 0, done.stderr
    write_pool(directory / "pool.tsv", make_pool(40))
    return directory


def files(directory):
    return {(str(path), path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()}


def test_two_runs_are_compared_in_words(clipaudit, runs):
    texts = ["--texts", runs / "pool.tsv"]
    before = files(runs / "a") | files(runs / "b")
    shown = clipaudit("compare", runs / "a", runs / "b", *texts)
    assert files(runs / "a") | files(runs / "b") == before, "neither run is written into"
    assert shown.returncode == 0, shown.stderr
    assert "of 2 heads moved, 40 rows against 40" in " ".join(shown.stdout.split())
    again = clipaudit("compare", runs / "a", runs / "b", *texts, "--json", "--out", runs / "out")
    assert json.loads(again.stdout) == json.loads((runs / "out/compare.json").read_text())
    refused = clipaudit("compare", runs / "a", runs / "c", *texts)
    assert refused.returncode == 2
    assert "are of different models" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_page_of_heads(clipaudit, runs):
    page = runs / "heads.html"
    done = clipaudit("heads", runs / "a", "--texts", runs / "pool.tsv", "--steps", "4", "--no-roles", "--html", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2, "one sheet of pictures for each of the two heads"
    assert "pictures are missing" not in text
    refused = clipaudit("heads", runs / "a", "--texts", runs / "pool.tsv", "--html", f"{runs}/")
    assert refused.returncode == 2
    assert "--html names a file to write" in refused.stderr
