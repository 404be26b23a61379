"""`clipaudit index`, `query`, `duplicates` and `serve` as a user runs them: exit codes, stdout, files, one sentence."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.head_index import HeadIndex
from clipaudit.run.reader import Run
from tests.commands import ROOT
from tests.make_audits import audited
from tests.make_runs import MEMORY
from tests.make_shards import huge_png_bytes, jpeg_bytes

HEAD = "L01H00"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 2 x 12 photos, indexed by the real command; every photo is in both shards."""
    folder = tmp_path_factory.mktemp("audited")
    audited(folder, index=False)
    return folder


@pytest.fixture
def run(folder, clipaudit):
    if not (folder / "run/indexes").exists():
        result = clipaudit("index", folder / "run", "--memory", MEMORY)
        assert result.returncode == 0, result.stderr
        assert "5 indexes of 24 images" in result.stderr
    return folder / "run"


def hits(result):
    assert result.returncode == 0, result.stderr
    panels = json.loads(result.stdout)["panels"]
    return [[(hit["row"]["shard_id"], hit["row"]["key"]) for hit in panel["hits"]] for panel in panels]


@pytest.mark.parametrize("metric", ["centred", "raw"])
def test_scores_are_products_of_contributions_that_the_model_gives_now(folder, tmp_path, metric):
    """In R^D, from the model and not from the run: c.c' and c.t of flat indexes to 1e-3, and the ten largest."""
    from clipaudit.retrieval.plan import IndexConfig, build_indexes
    from clipaudit.retrieval.queries import QueryEncoder

    names = [HEAD, "L00H01", EMBEDDING]
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("indexes"))
    build_indexes(IndexConfig(run=str(tmp_path / "run"), heads=tuple(names), metric=metric, kind="flat", memory=MEMORY))
    opened = Run(str(tmp_path / "run"))
    encoder = QueryEncoder(opened, "cpu")
    computed = [encoder.image(jpeg_bytes(48, 48, seed=i), names) for i in range(12)]
    text = encoder.text("a cat").astype(np.float64)
    for name in names:
        index = HeadIndex.open(opened, name)
        y = np.stack([found[name] for found in computed]).astype(np.float64)
        C = np.tile(
            y if name == EMBEDDING else y @ opened.basis().Q(name), (2, 1)
        )  # (24, D): each photo is there twice
        C = C if metric == "raw" else C - C.mean(axis=0)
        t = text if name == EMBEDDING else opened.basis().Q(name).T @ (opened.basis().Q(name) @ text)
        found, truth = index.search(y, 10), C[:12] @ C.T
        np.testing.assert_allclose(found.scores, np.take_along_axis(truth, found.numbers, 1), atol=1e-3)
        np.testing.assert_allclose(found.scores, -np.sort(-truth, axis=1)[:, :10], atol=1e-3)
        along = index.search_text(text, 10)
        np.testing.assert_allclose(along.scores[0], (C @ t)[along.numbers[0]], atol=1e-3)
        assert {n % 12 for n in along.numbers[0].tolist()} == set(np.argsort(-(C[:12] @ t))[:5].tolist())


def test_image_key_and_text_give_tables_json_and_a_page(run, clipaudit, tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpeg_bytes(48, 48, seed=4))
    by_image = hits(clipaudit("query", run, "--head", HEAD, "--image", "one.jpg", "-k", "4", "--json"))
    assert {key for _, key in by_image[0][:2]} == {"p0_0004", "p1_0004"}
    by_key = hits(clipaudit("query", run, "--head", HEAD, "--key", "s-0/p0_0004", "-k", "3", "--json"))
    assert by_key[0] == [found for found in by_image[0] if found != (0, "p0_0004")]
    page = tmp_path / "page.html"
    result = clipaudit(
        "query", run, "--head", f"{HEAD}=2,L00H01", "--text", "a cat", "-k", "5", "--where", "place = sea", "--compare",
        "--unique", "--html", page,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "by 2 x L01H00, L00H01" in result.stdout
    assert "by the whole embedding" in result.stdout
    html = page.read_text()
    assert html.count("data:image/jpeg") == 10
    assert "land" not in html.split("<main")[1]
    most = hits(clipaudit("query", run, "--head", HEAD, "--text", "a cat", "-k", "24", "--json"))
    least = hits(clipaudit("query", run, "--head", HEAD, "--text", "a cat", "--end", "min", "-k", "24", "--json"))
    assert [key[3:] for _, key in most[0]] == [key[3:] for _, key in least[0]][::-1]


def test_a_page_with_maps_shows_where_the_heads_look(run, clipaudit, tmp_path):
    page = tmp_path / "page.html"
    asked = ("--head", f"{HEAD}=2,L00H01", "--key", "0/p0_0004", "-k", "3", "--compare", "--html", page, "--maps")
    result = clipaudit("query", run, *asked)
    assert result.returncode == 0, result.stderr
    shown = re.findall(r'src="(data:image/jpeg;base64,[^"]*)" alt="([^"]*)"', page.read_text())
    assert [alt for _, alt in shown].count("where the query image has what is asked") == 2, "one in either list"
    maps, plain = ({uri for uri, alt in shown if alt.startswith("where") == mapped} for mapped in (True, False))
    assert len(shown) == 1 + 2 * (1 + 2 * 3)
    assert len(maps) >= 4, "every photo is in the run twice; each list draws its own"
    assert not maps & plain


def test_maps_need_the_runs_own_model(folder, run, clipaudit, tmp_path):
    (folder / "model").rename(folder / "elsewhere")
    try:
        result = clipaudit("query", run, "--head", HEAD, "--key", "0/p0_0004", "-k", "3", "--html", tmp_path / "page",
                           "--maps")  # fmt: skip
    finally:
        (folder / "elsewhere").rename(folder / "model")
    assert result.returncode == 2
    assert "--maps needs the run's own model: " in result.stderr
    assert str(folder / "model") in result.stderr.replace("\n", "")
    assert not (tmp_path / "page").exists()


def test_duplicates_within_and_between(run, clipaudit):
    found = json.loads(clipaudit("duplicates", run, "--json").stdout)
    assert (found["clusters"], found["members"], found["largest"]) == (12, [24], 2)
    result = clipaudit("duplicates", run, run)
    assert result.returncode == 0, result.stderr
    assert "24 (100.00 %) images" in result.stdout.replace("\n", " ")
    assert (run / "duplicates/with-run/duplicates.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("query", "RUN", "--head", "L09H09", "--text", "a"), "stores no head 'L09H09'"),
        (("query", "RUN", "--head", HEAD), "give one of --image, --key and --text"),
        (("query", "RUN", "--head", HEAD, "--text", "a", "-k", "100"), "more neighbours than the 24 vectors"),
        (("query", "RUN", "--head", HEAD, "--key", "0/nobody"), "is not in the run"),
        (("query", "RUN", "--head", HEAD, "--key", "nobody"), "SHARD/KEY"),
        (("query", "RUN", "--head", HEAD, "--image", "missing.jpg"), "cannot be read"),
        (("query", "RUN", "--head", HEAD, "--image", "bad.jpg"), "cannot be used: it is no image"),
        (("query", "RUN", "--head", HEAD, "--image", "bomb.png"), "more than the limit"),
        (("query", "RUN", "--head", HEAD, "--text", "a", "--where", "lable = 1"), "did you mean label"),
        (("query", "RUN", "--role", "colour", "--text", "a"), "no roles yet"),
        (("query", "RUN", "--head", HEAD, "--text", "a", "--end", "top"), "--end must be max or min"),
        (("query", "RUN", "--head", HEAD, "--key", "0/p0_0001", "--html", "no/such/dir/x.html"), "cannot be written"),
        (("query", "RUN", "--text", "a", "--maps"), "give --html FILE too"),
        (("query", "nowhere", "--text", "a"), "no run at nowhere"),
        (("index", "nowhere"), "no run at nowhere"),
        (("index", "RUN", "--head", "L7"), "stores no head 'L7'"),
        (("index", "RUN", "--kind", "tree"), "--kind"),
        (("index", "RUN", "--memory", "1MB"), "--memory leaves"),
        (("index", "RUN", "--memory", "much"), "--memory"),
        (("index", "RUN", "--engine", "spark"), "--engine must be ray or local"),
        (("duplicates", "RUN", "--similarity", "7"), "--similarity"),
        (("serve", "RUN"), "give --api"),
        (("serve", "RUN", "--api", "--port", "99999"), "--port"),
    ],
)
def test_mistakes_end_in_one_sentence(run, clipaudit, tmp_path, arguments, words):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "bomb.png").write_bytes(huge_png_bytes())
    result = clipaudit(*[run if part == "RUN" else part for part in arguments])
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("clipaudit: ")]
    assert len(lines) == 1, result.stderr
    assert words in lines[0]
    assert "Traceback" not in result.stderr


def test_a_cut_index_file_is_named(folder, clipaudit, tmp_path):
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", folder / "run", run], check=True)
    assert clipaudit("index", run, "--head", HEAD, "--memory", MEMORY).returncode == 0
    os.truncate(run / f"indexes/{HEAD}/index.faiss", 300)
    result = clipaudit("query", run, "--head", HEAD, "--key", "0/p0_0001", "-k", "3")
    assert result.returncode == 4
    assert "300 bytes where" in result.stderr
    assert "build the index again" in result.stderr


def test_the_server_answers_like_the_command_and_ends_on_a_signal(run, clipaudit):
    known = hits(clipaudit("query", run, "--head", HEAD, "--key", "0/p0_0003", "-k", "2", "--json"))
    process = subprocess.Popen(
        [sys.executable, "-m", "clipaudit", "serve", str(run), "--api", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())[0]
        for _ in range(600):
            try:
                health = json.load(urllib.request.urlopen(f"{url}/health", timeout=5))
                break
            except OSError:
                time.sleep(0.1)
        assert health["rows"] == 24
        asked = json.dumps({"heads": [{"head": HEAD}], "key": "0/p0_0003", "k": 2}).encode()
        request = urllib.request.Request(f"{url}/search", asked, {"content-type": "application/json"})
        found = [hit["row"] for hit in json.load(urllib.request.urlopen(request, timeout=300))[0]["hits"]]
        assert [(row["shard_id"], row["key"]) for row in found] == known[0]
        assert json.load(urllib.request.urlopen(f"{url}/openapi.json", timeout=300))["info"]["title"] == "clipaudit"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
        process.stderr.close()


def test_the_job_script_is_the_command(folder):
    result = subprocess.run(
        [sys.executable, str(Path(ROOT, "jobs/index.py")), "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    assert "clipaudit index" in result.stdout or "Build one search index" in result.stdout
