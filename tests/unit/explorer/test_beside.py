"""One question by two heads: both orders with ranks, and the images that they place furthest apart."""

import numpy as np
import pytest
from starlette.testclient import TestClient

from clipaudit.explorer.beside_routes import rank_correlation
from tests.make_audits import audited
from tests.make_explorers import explorer_app


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("beside"), index=False)


@pytest.fixture
def client(run, tmp_path):
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        yield client


def test_both_orders_are_those_of_the_wall_with_ranks_in_each(client, run):
    a, b = run.head_labels[0], run.head_labels[-1]
    answer = client.get("/api/v1/beside", params={"text": "a cat", "head": a, "other": b, "size": 24}).json()
    walls = [
        [row["key"] for row in client.get("/api/v1/rows", params={"text": "a cat", "head": head}).json()["rows"]]
        for head in (a, b)
    ]
    for place, name in enumerate(("first", "second")):
        assert [row["key"] for row in answer[name]] == walls[place]
        assert [row["ranks"][place] for row in answer[name]] == list(range(1, 25))
        assert all(row["ranks"][1 - place] == 1 + walls[1 - place].index(row["key"]) for row in answer[name])
    gaps = [row["ranks"][1] - row["ranks"][0] for row in answer["first_alone"]]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] == max(walls[1].index(key) - walls[0].index(key) for key in walls[0])
    assert all(row["ranks"][1] < row["ranks"][0] for row in answer["second_alone"])
    assert -1 <= answer["correlation"] <= 1
    for head, code in zip((a, b), answer["codes"], strict=True):
        assert f"--head {head}" in code["command"]


def test_only_what_passes_the_filter_is_ranked(client, run):
    given = {"text": "a cat", "other": run.head_labels[0], "where": "label = 1"}
    answer = client.get("/api/v1/beside", params=given).json()
    assert answer["matched"] == client.get("/api/v1/rows", params={"where": "label = 1"}).json()["matched"]
    assert {row["label"] for row in answer["first"]} == {"1"}


def test_the_same_order_twice_sets_nothing_apart(client, run):
    head = run.head_labels[0]
    answer = client.get("/api/v1/beside", params={"text": "a cat", "head": head, "other": head}).json()
    assert (answer["correlation"], answer["first_alone"], answer["second_alone"]) == (1.0, [], [])


def test_spearmans_correlation():
    rng = np.random.default_rng(2)
    ranks = np.stack([rng.permutation(50) + 1, rng.permutation(50) + 1])
    assert rank_correlation(ranks) == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert rank_correlation(ranks[:, :1]) is None


def test_mistakes_end_as_one_sentence(client):
    assert client.get("/api/v1/beside", params={"other": "L00H00"}).status_code == 400
    assert client.get("/api/v1/beside", params={"text": "a", "other": "L77H00"}).status_code == 400
    assert client.get("/api/v1/beside", params={"text": "a"}).status_code == 422
