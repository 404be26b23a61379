"""The map: points and colours in one answer, regions as filters everywhere, other methods, what sets a region apart."""

import json
import sys
import types

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from clipaudit.errors import UsageError
from clipaudit.explorer import layouts
from clipaudit.explorer.apart import TextScores, apart
from clipaudit.explorer.layouts import SIDE, Layout, Region, quantised
from tests.make_audits import audited_world
from tests.make_explorers import TOKEN, explorer_app

WRITES = {"x-clipaudit-token": TOKEN}
ALL = f"embedding:pca:0,0;0,{SIDE};{SIDE},{SIDE};{SIDE},0"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited_world(tmp_path_factory.mktemp("mapped"), "birds", 300, 5, attributes=("place", "split"))


@pytest.fixture
def client(run, tmp_path):
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        yield client


def points(client, **given):
    """(header, points (m, 2), colours (m,), numbers or None) as a browser reads them."""
    answer = client.get("/api/v1/map/points", params=given)
    assert answer.status_code == 200, answer.text
    data = answer.content
    assert data[:4] == b"CMAP"
    size = int.from_bytes(data[4:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    m = header["points"]
    assert (8 + size) % 4 == 0
    xy, colours = np.frombuffer(rest[: 4 * m], "<u2").reshape(m, 2), np.frombuffer(rest[4 * m : 5 * m], np.uint8)
    tail = rest[5 * m + -m % 4 :] if len(rest) > 5 * m else b""
    return header, xy, colours, np.frombuffer(tail, "<u4") if tail else None


@pytest.mark.parametrize("space", ["embedding", "L05H03"])
def test_the_first_map_is_the_two_principal_components(client, run, space):
    header, xy, _, numbers = points(client, space=space)
    values = run.vectors(space, (), dtype=np.float64).values
    centred = values - values.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    for axis in (0, 1):
        r = np.corrcoef(u[:, axis], xy[:, axis])[0, 1]
        assert abs(r) > 0.99
        assert header["shares"][axis] == pytest.approx(s[axis] ** 2 / (s**2).sum(), rel=1e-3)
    assert (numbers, header["sampled"], header["points"]) == (None, False, 300)


def test_colours_are_values_numbers_and_what_the_filter_leaves_out(client):
    header, _, colours, _ = points(client, colour="place", where="split = train")
    rows = client.get("/api/v1/rows", params={"limit": 300}).json()["rows"]
    places = [client.get(f"/api/v1/rows/{row['shard']}/{row['index']}").json()["columns"] for row in rows[:20]]
    assert header["names"] == ["land", "water"]
    for columns, colour in zip(places, colours.tolist(), strict=False):
        expected = 255 if columns["attributes.split"] != "train" else 1 + (columns["attributes.place"] == "water")
        assert colour == expected
    header, _, colours, _ = points(client, colour="image.brightness")
    assert (header["kind"], colours.min() >= 1, colours.max()) == ("numbers", True, 64)
    assert float(header["low"]) < float(header["high"])
    assert points(client, colour="clip.right")[0]["names"] == ["false", "true"]
    assert points(client, colour="label")[0]["names"] == ["landbird", "waterbird"]


def test_a_points_row_is_its_image(client):
    first = client.get("/api/v1/rows", params={"limit": 3}).json()["rows"][2]
    row = client.get("/api/v1/map/rows/2").json()
    assert (row["shard"], row["index"], row["key"]) == (first["shard"], first["index"], first["key"])
    assert client.get("/api/v1/map/rows/300").status_code == 404


def test_a_region_is_a_filter_of_wall_tags_and_lists(client):
    _, xy, _, _ = points(client)
    half = f"embedding:pca:0,0;30000,0;30000,{SIDE};0,{SIDE}"
    left = int((xy[:, 0] < 30000).sum())
    assert 0 < left < 300
    answer = client.get("/api/v1/rows", params={"inside": half}).json()
    assert (answer["matched"], client.get("/api/v1/rows", params={"inside": ALL}).json()["matched"]) == (left, 300)
    assert "this page's" in answer["code"]["note"]
    both = client.get("/api/v1/rows", params={"inside": half, "where": "place = water"}).json()["matched"]
    assert 0 < both < left
    keys = client.get("/api/v1/export/keys.txt", params={"inside": half}).text
    assert len(keys.splitlines()) == left
    tag = {"tag": "left", "where": [], "inside": half}
    assert client.post("/api/v1/tags", json=tag, headers=WRITES).json()["counts"] == {"left": left}


def test_polygons_follow_the_even_odd_rule():
    rng = np.random.default_rng(3)
    layout = Layout(numbers=None, points=rng.integers(0, 1000, (5000, 2)).astype(np.uint16), shares=None)
    for _ in range(20):
        corners = rng.integers(0, 1000, (rng.integers(3, 9), 2))
        x, y = layout.points.astype(np.float64).T
        odd = np.zeros(5000, bool)
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            crosses = (y1 > y) != (y2 > y)
            with np.errstate(divide="ignore", invalid="ignore"):
                odd ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        inside = layout.inside(corners, 5000)
        # points exactly at a corner's height may fall on either side
        edge = np.isin(y, corners[:, 1])
        assert (inside == odd)[~edge].all()


def test_far_points_do_not_leave_the_others_one_dot():
    plane = np.concatenate([np.random.default_rng(0).standard_normal((5000, 2)), [[1e6, 1e6]]])
    scaled = quantised(plane)
    assert np.ptp(scaled[:-1, 0].astype(int)) > SIDE / 2
    assert scaled[-1].tolist() == [SIDE, SIDE]


class FakeUmap:
    """In place of the package: the first two numbers of each vector."""

    calls = 0

    def __init__(self, **options):
        assert options["n_components"] == 2

    def fit_transform(self, values):
        type(self).calls += 1
        return values[:, :2]


def test_other_methods_are_of_a_sample_and_kept_in_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=FakeUmap))
    monkeypatch.setattr(layouts, "SAMPLE", 100)
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        header, xy, _, numbers = points(client, method="umap", space="L05H03")
        assert (header["sampled"], len(xy), len(numbers), FakeUmap.calls) == (True, 100, 100, 1)
        whole = ALL.replace("embedding:pca", "L05H03:umap")
        assert client.get("/api/v1/rows", params={"inside": whole}).json()["matched"] == 100, "those with a point"
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        again = points(client, method="umap", space="L05H03")
        assert (again[1] == xy).all()
        assert FakeUmap.calls == 1, "read from the run"


def test_a_method_that_is_not_installed_names_the_extra(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "pacmap", None)
    answer = client.get("/api/v1/map/points", params={"method": "pacmap"})
    assert (answer.status_code, "pip install 'clipaudit[map]'" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    "region",
    ["", "x", "embedding:pca:1,2;3,4", "embedding:pca:1,2;3,4;70000,1", f"embedding:pca:{'1,1;' * 500}1,1"],
)
def test_what_is_no_region_is_told(region):
    with pytest.raises(UsageError, match="region"):
        Region.parse(region)


def test_requests_that_are_not_understood(client):
    for given in ({"space": "L99H00"}, {"method": "tsne"}, {"colour": "nothing"}):
        assert client.get("/api/v1/map/points", params=given).status_code == 400
    assert client.get("/api/v1/map/apart").status_code == 400
    assert client.get("/api/v1/rows", params={"inside": "L99H00:pca:1,1;2,2;3,1"}).status_code == 400


# -- what sets a region apart --


def test_what_sets_images_apart_is_said_of_texts_columns_and_properties(client):
    """The left half of the embedding's map of birds: what is on the water, or what is not."""
    half = f"embedding:pca:0,0;32000,0;32000,{SIDE};0,{SIDE}"
    answer = client.get("/api/v1/map/apart", params={"inside": half}).json()
    assert answer["inside"] + answer["others"] == 300
    kinds = {each["kind"] for each in answer["differences"]}
    assert {"value", "text"} <= kinds
    assert all(each["q"] <= 0.05 for each in answer["differences"])
    place = next(each for each in answer["differences"] if each["name"] == "attributes.place")
    rows = {
        value: client.get("/api/v1/rows", params={"inside": half, "where": f"place = {value}"}).json()["matched"]
        for value in ("land", "water")
    }
    assert place["inside"] == pytest.approx(rows[place["value"]] / answer["inside"])
    assert place["effect"] == pytest.approx(place["inside"] - place["others"])


def noise(n, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((60, 16)).astype(np.float32)
    values = rng.standard_normal((n, 16)).astype(np.float16)
    texts = TextScores(
        texts=tuple(f"text {k}" for k in range(60)),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        folded=vectors.astype(np.float64),
        values=values,
        deviation=np.linalg.norm(vectors, axis=1).astype(np.float64),
    )
    columns = [(f"number {k}", pa.array(rng.standard_normal(n))) for k in range(10)]
    columns += [(f"kind {k}", pa.array(rng.integers(0, 4, n).astype(str).tolist())) for k in range(10)]
    return rng, texts, columns


def test_nothing_sets_random_images_apart():
    """Seeds 100 to 219, not used elsewhere: any false discovery in at most one of ten draws (the rate is .05)."""
    false = 0
    for seed in range(100, 220):
        rng, texts, columns = noise(400, seed)
        inside = rng.random(400) < 0.3
        false += bool(apart(inside, ~inside, columns, texts).differences)
    assert false <= 12


def test_planted_differences_are_found_with_their_sizes():
    rng, texts, columns = noise(2000, 7)
    inside = rng.random(2000) < 0.2
    shifted = np.where(inside, 0.8, 0.0) + rng.standard_normal(2000)
    water = rng.random(2000) < np.where(inside, 0.9, 0.3)
    texts.values[inside] += (0.8 * texts.vectors[5]).astype(np.float16)
    columns += [("light", pa.array(shifted)), ("place", pa.array(np.where(water, "water", "land").tolist()))]
    columns += [("key", pa.array([f"k{number}" for number in range(2000)]))]
    result = apart(inside, ~inside, columns, texts)
    by_name = {each.name: each for each in result.differences}
    assert by_name["place"].value == "water"
    assert by_name["place"].effect == pytest.approx(0.6, abs=0.06)
    assert by_name["light"].effect == pytest.approx(0.43, abs=0.08)  # 2 Phi(.8 / sqrt 2) - 1
    assert by_name["text 5"].effect > 0.6
    assert "key" not in by_name


def test_too_few_images_are_not_compared():
    _, texts, columns = noise(100, 8)
    inside = np.arange(100) < 4
    assert apart(inside, ~inside, columns, texts).tested == 0
