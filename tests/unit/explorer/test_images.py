"""One image on the page: where texts are in it, its near duplicates, and weights without what is tagged."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.explorer import image_heat
from clipaudit.run.reader import Run
from clipaudit.run.rows import chosen_rows
from tests.audit_worlds import noise_world, write_world
from tests.make_audits import audited
from tests.make_explorers import TOKEN, damage_report, explorer_app, write_example_report
from tests.make_runs import MEMORY

WRITES = {"x-clipaudit-token": TOKEN}
TEXTS, HEADS = ["a cat", "water"], ["embedding", "L01H00", "L00H01"]
HEAT = "/api/v1/rows/0/3/heat"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("images"), index=False)


@pytest.fixture(scope="module")
def client(run, tmp_path_factory):
    with TestClient(explorer_app(run, tmp_path_factory.mktemp("tags")), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="module")
def shown(client):
    return client.get(HEAT, params={"text": TEXTS, "head": HEADS}).json()


def plain_maps(run, key: str):
    """Decomposed by `localize` alone: (heads, texts, rows, columns) and (heads, texts) of all heads, and the texts."""
    import torch

    from clipaudit.config import ModelConfig
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.localize import TokenDecomposition
    from clipaudit.localize.frames import PictureReader
    from clipaudit.model import describe_tower
    from clipaudit.model.loading import Normaliser, load_model
    from tests.make_shards import jpeg_bytes

    loaded = load_model(ModelConfig.of_run(run.manifest.identity, device="cpu"))
    reader = PictureReader(loaded.transform, describe_tower(loaded.model))
    picture = reader.read(jpeg_bytes(48, 48, seed=int(key[-4:])), key)
    pixels = Normaliser(reader.mean, reader.std, loaded.device)([picture.seen])
    texts = torch.from_numpy(np.stack([RunTexts(run, "cpu", keep=False).vectors([text])[0] for text in TEXTS]))
    decomposition = TokenDecomposition(loaded.model)
    found, whole = decomposition.by_head(pixels, texts), decomposition(pixels, texts)
    return found, whole, list(decomposition.labels)


def test_maps_are_those_of_localize_and_patches_and_class_token_sum_to_what_heads_add(run, shown):
    found, whole, labels = plain_maps(run, "p0_0003")
    assert [(each["head"], each["text"]) for each in shown["maps"]] == [(h, t) for h in HEADS for t in TEXTS]
    for each in shown["maps"]:
        text = TEXTS.index(each["text"])
        if each["head"] == "embedding":
            patches, adds = whole.patches[0, text].numpy(), float(whole.heads[0, text])
        else:
            place = labels.index(each["head"])
            patches, adds = found.patches[0, place, text].numpy(), float(found.heads[0, place, text])
        np.testing.assert_allclose(each["scores"], patches, rtol=1e-5, atol=1e-7)
        assert each["adds"] == pytest.approx(adds, abs=1e-6)
        assert each["patches_add"] == pytest.approx(np.sum(each["scores"]), abs=1e-6)
    assert [each["cosine"] for each in shown["texts"]] == pytest.approx(found.products[0].tolist(), abs=1e-6)


def test_what_a_head_adds_is_the_bar_of_it(client, shown):
    bars = client.get("/api/v1/rows/0/3/parts", params={"text": TEXTS[0], "average": False}).json()
    by_head = {each["head"]: each["adds"] for each in shown["maps"] if each["text"] == TEXTS[0]}
    values = {part["name"]: part["value"] for part in bars["parts"]}
    for head in HEADS[1:]:
        assert by_head[head] == pytest.approx(values[head], abs=2e-3), "the run stores float16"
    assert shown["texts"][0]["cosine"] == pytest.approx(bars["score"], abs=2e-3)


def test_one_scale_is_for_all_maps_and_has_zero_in_it(shown):
    every = np.array([each["scores"] for each in shown["maps"]])
    assert shown["scale"]["low"] == pytest.approx(min(every.min(), 0), rel=1e-5)
    assert shown["scale"]["high"] == pytest.approx(max(every.max(), 0), rel=1e-5)
    assert shown["grid"] == list(every.shape[1:])
    assert all(color.startswith("#") and len(color) == 7 for color in shown["colours"])


def test_a_text_that_is_not_seen_is_said_and_stretches_no_scale(client, monkeypatch):
    cosines = {each["text"]: each["cosine"] for each in client.get(HEAT, params={"text": TEXTS}).json()["texts"]}
    low, high = sorted(TEXTS, key=cosines.get)
    between = (cosines[low] + cosines[high]) / 2
    monkeypatch.setattr(image_heat.ImageHeat, "_unrelated", lambda self, number: between)
    # another order of texts: answers are kept
    answer = client.get(HEAT, params={"text": [low, high], "head": "L01H00"}).json()
    assert [each["seen"] for each in answer["texts"]] == [False, True]
    seen = np.array(next(each["scores"] for each in answer["maps"] if each["text"] == high))
    assert answer["scale"] == pytest.approx({"low": min(seen.min(), 0), "high": max(seen.max(), 0)}, rel=1e-5)
    assert answer["unrelated_cosine"] == between


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 422, "text"),
        ({"text": ["a", "b", "c", "d", "e"]}, 422, "at most 4"),
        ({"text": "a", "head": [f"L0{n}H00" for n in range(7)]}, 422, "at most 6"),
        ({"text": ["a", "a"]}, 400, "given twice"),
        ({"text": "a", "head": ["L01H00", "L01H00"]}, 400, "given twice"),
        ({"text": "a", "head": "L77H00"}, 400, "stores no head"),
        ({"text": " "}, 400, "empty"),
        ({"text": "a cat " * 40}, 400, "longer than"),
    ],
)
def test_what_cannot_be_asked(client, asked, status, words):
    answer = client.get(HEAT, params=asked)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_a_place_without_an_image_is_not_there(client):
    for path in ("heat?text=a", "duplicates"):
        answer = client.get(f"/api/v1/rows/0/999/{path}")
        assert (answer.status_code, "no indexed sample" in answer.text) == (404, True)


def test_what_is_missing_is_one_sentence_with_the_command_that_helps(tmp_path, monkeypatch):
    run = audited(tmp_path, shards=1, index=False)
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:

        def told(status: int) -> str:
            answer = client.get(HEAT, params={"text": "a cat"})
            assert answer.status_code == status, answer.text
            return str(answer.json()["error"])

        monkeypatch.setattr("clipaudit.run.thumbnails.Thumbnails.data", lambda self, row: b"no image")
        assert "compares shards and run" in told(404)
        monkeypatch.undo()
        shutil.move(tmp_path / "s-0.tar", tmp_path / "elsewhere.tar")
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        assert f"--out {run.directory.url} --moved FROM=TO" in told(404)
        assert client.get("/api/v1/rows/0/3/duplicates").status_code == 200, "needs no picture"
        shutil.move(tmp_path / "elsewhere.tar", tmp_path / "s-0.tar")
    shutil.rmtree(tmp_path / "model")
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        assert f"clipaudit check {run.directory.url} --model" in told(400)


# -- near duplicates ---------------------------------------------------------------------------------------------------


def planted(path) -> Run:
    """200 images of noise; 3 to 5 are copies of image 2, image 10 of 9 has another label, 20 and 21 are flat alike."""
    from dataclasses import replace

    rng = np.random.default_rng(3)
    world = noise_world(200, np.arange(200) % 2, 3, 2)
    hashes = rng.integers(0, 2**64, 200, dtype=np.uint64)
    coordinates = world.coordinates.copy()
    # a chain: each differs from the last in six bits, so that the ends differ in more than seven
    for place in (3, 4, 5):
        hashes[place] = hashes[place - 1] ^ np.uint64(0b111111 << 8 * (place - 3))
        coordinates[place] = coordinates[2] + 0.02 * rng.standard_normal(coordinates.shape[1])
    hashes[10] = hashes[9]
    hashes[12] = hashes[11] ^ np.uint64(1)  # of another picture: only the hash is like it
    hashes[20] = hashes[21] = np.uint64(0)
    return write_world(replace(world, coordinates=coordinates, phash=hashes.view(np.int64)), path)


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    run = planted(folder / "run")
    with TestClient(explorer_app(run, folder), base_url="http://127.0.0.1") as client:
        yield client, run


def near(client, number: int) -> dict:
    return client.get(f"/api/v1/rows/{number // 50}/{number % 50}/duplicates").json()


def numbers_of(answer: dict) -> list[int]:
    return [50 * each["shard"] + each["index"] for each in answer["images"]]


def test_planted_copies_are_found_and_they_alone(copies):
    client, _ = copies
    answer = near(client, 2)
    assert (numbers_of(answer), answer["total"]) == ([3, 4, 5], 3), "the last through the others"
    assert [each["bits"] for each in answer["images"]] == [6, 12, 18]
    assert all(each["cosine"] > 0.95 for each in answer["images"])
    assert "at most 7 of 64 bits" in answer["rule"]
    other = near(client, 9)
    assert [(each["bits"], each["other_label"]) for each in other["images"]] == [(0, True)]
    assert numbers_of(near(client, 11)) == []
    assert "too flat" in near(client, 20)["rule"]


def test_they_are_the_clusters_of_an_audit(copies):
    client, run = copies
    cluster = image_facts(run, chosen_rows(run, ()), {0: 0, 1: 1}).cluster
    for number in range(200):
        expected = np.flatnonzero(cluster == cluster[number])
        assert sorted(numbers_of(near(client, number))) == [each for each in expected.tolist() if each != number]


def test_those_of_the_runs_table_count_where_there_is_one(run, tmp_path):
    from clipaudit.retrieval.duplicates import DuplicatesConfig, find_duplicates

    shutil.copytree(run.directory.url, tmp_path / "run")
    own = Run(str(tmp_path / "run"))
    find_duplicates(own, None, DuplicatesConfig(memory=MEMORY))
    with TestClient(explorer_app(own, tmp_path), base_url="http://127.0.0.1") as client:
        answer = client.get("/api/v1/rows/0/3/duplicates").json()
    assert [(each["key"], each["bits"]) for each in answer["images"]] == [("p1_0003", 0)]
    assert "clipaudit duplicates" in answer["rule"]


# -- weights -----------------------------------------------------------------------------------------------------------


def weighted(run, folder):
    """A report of the run with weights for the first shard's images; they are (12,) 1 to 12."""
    out = write_example_report(run, folder / "report")
    rows = run.table(["shard_id", "index", "key", "place"]).slice(0, 12)
    weights = pa.array(np.arange(1.0, 13.0))
    table = pa.table({name: rows[name] for name in ("shard_id", "index", "key")})
    table = table.append_column("attributes.place", rows["place"]).append_column("weight", weights)
    table = table.append_column("weight.place", weights).replace_schema_metadata({"effective_n": "9.4", "cap": "50"})
    pq.write_table(table, out / "weights.parquet")
    return out, table


def test_what_is_tagged_weighs_nothing(run, tmp_path):
    out, table = weighted(run, tmp_path)
    with TestClient(explorer_app(run, tmp_path, report=str(out)), base_url="http://127.0.0.1") as client:
        images = [{"shard": 0, "index": 3}, {"shard": 0, "index": 11}]
        client.post("/api/v1/tags", json={"tag": "wrong", "images": images}, headers=WRITES)
        client.post("/api/v1/tags", json={"tag": "odd", "images": [{"shard": 0, "index": 0}]}, headers=WRITES)
        assert client.get("/api/v1/tags").json()["weights_missing"] is None
        answer = client.get("/api/v1/export/weights.parquet")
        one = pq.read_table(io.BytesIO(client.get("/api/v1/export/weights.parquet?tag=wrong").content))
    assert 'filename="weights.parquet"' in answer.headers["content-disposition"]
    found = pq.read_table(io.BytesIO(answer.content))
    assert found.schema.equals(table.schema)
    expected = [0, 2, 3, 0, 5, 6, 7, 8, 9, 10, 11, 0]
    assert (found["weight"].to_pylist(), found["weight.place"].to_pylist()) == (expected, expected)
    for name in ("shard_id", "index", "key", "attributes.place"):
        assert found[name].equals(table[name])
    assert one["weight"].to_pylist() == [1, 2, 3, 0, *range(5, 12), 0]
    effective = np.sum(expected) ** 2 / np.sum(np.square(expected))
    assert found.schema.metadata == {b"effective_n": f"{effective:.1f}".encode(), b"cap": b"50"}


def test_without_weights_a_sentence_says_what_makes_them(run, tmp_path):
    out = write_example_report(run, tmp_path / "report")
    damage_report(out, lambda document: document.update(files=[]))
    for report, words in ((None, "there is none yet"), (str(out), "one label an image")):
        with TestClient(explorer_app(run, tmp_path, report=report), base_url="http://127.0.0.1") as client:
            sentence = client.get("/api/v1/tags").json()["weights_missing"]
            answer = client.get("/api/v1/export/weights.parquet")
        assert words in sentence
        assert f"clipaudit report {run.directory.url}" in sentence
        assert (answer.status_code, answer.json()["error"]) == (404, sentence)
