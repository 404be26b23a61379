"""What if: groups without heads as `ablate` has them, the random band, the gap, samples, and arms it reproduces."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from clipaudit.explorer import head_logits as tables
from clipaudit.explorer.head_logits import HeadLogits, head_logits
from tests.commands import call
from tests.make_audits import audited_world
from tests.make_explorers import TOKEN, explorer_app

WRITES = {"x-clipaudit-token": TOKEN}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited_world(tmp_path_factory.mktemp("asked"), "birds", 400, 3, attributes=("place", "split"))


@pytest.fixture
def client(run, tmp_path):
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        yield client


def ask(client, **given):
    answer = client.get("/api/v1/what-if", params=given)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ablated(run, command):
    """What the command prints as JSON."""
    ended = call(".", *shlex.split(command)[1:], "--json", "--out", str(run.directory.url) + "-arm")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("along", [None, "a photo of water"])
def test_groups_are_those_of_ablate_to_the_digit(client, run, along):
    given = {"out": list(run.head_labels[-3:]), "by": "attributes.place", "where": "split = test"}
    answer = ask(client, **given, **({"along": along} if along else {}))
    expected = ablated(run, answer["code"]["command"])
    groups = {(group["class_name"], group["value"]): group for group in answer["groups"]}
    for side, name in (("base", "before"), ("ablated", "after")):
        assert answer["accuracy"][name] == expected[side]["accuracy"]["share"]
        assert answer["images"] == expected[side]["accuracy"]["total"]
        for group in expected[side]["groups"]:
            ours = groups[group["class"], group["value"]]
            assert (ours["images"], ours["accuracy"][name]) == (group["total"], group["share"])
    assert answer["accuracy"]["before"] != answer["accuracy"]["after"]
    assert (answer["sampled"], answer["code"]["note"]) == (False, None)


def test_a_group_shows_its_images(client):
    for group in ask(client, by="attributes.place")["groups"]:
        rows = client.get("/api/v1/rows", params={"where": " and ".join(group["where"])}).json()
        assert rows["matched"] == group["images"]


def test_the_gap_is_net_of_random_sets_of_as_many_heads_of_the_same_layers(client, run):
    heads = list(run.head_labels)
    head = next(name for name in heads if name.endswith("H03"))
    answer = ask(client, out=head, by="attributes.place")
    gap = answer["gap"]
    assert (answer["sets"], set(gap["classes"])) == (3, {"landbird", "waterbird"}), "the other heads of the layer"
    layer = [name for name in heads if name[:4] == head[:4] and name != head]
    alone = [ask(client, out=name, by="attributes.place")["gap"]["gap"] for name in layer]
    falls = [each["before"] - each["after"] for each in alone]
    own = gap["gap"]["before"] - gap["gap"]["after"]
    assert gap["net"] == pytest.approx(own - np.mean(falls), abs=1e-6)
    assert gap["net_low"] < gap["net"] < gap["net_high"]
    assert gap["p"] == (1 + sum(fall >= own - 1e-7 for fall in falls)) / 4
    assert gap["gap"]["low"] <= np.median([each["after"] for each in alone]) <= gap["gap"]["high"]


def test_nothing_taken_out_changes_nothing_and_has_no_band(client):
    answer = ask(client, by="attributes.place")
    assert all(group["accuracy"]["before"] == group["accuracy"]["after"] for group in answer["groups"])
    assert (answer["sets"], answer["gap"]["net"]) == (0, None)


def test_a_whole_layer_has_no_other_sets(client, run):
    answer = ask(client, out=[head for head in run.head_labels if head.startswith(run.head_labels[0][:3])])
    assert (answer["sets"], answer["accuracy"]["low"]) == (0, None)
    assert answer["gap"] is None, "classes alone have no gap"


def test_what_does_not_fit_into_memory_is_a_sample_that_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_BYTES", 4 * (len(run.head_labels) + 1) * 150)
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as client:
        answer = ask(client, by="attributes.place")
        assert (answer["images"], answer["sampled"]) == (150, True)
        assert ask(client, by="attributes.place")["accuracy"] == answer["accuracy"], "always the same sample"
        assert client.get("/api/v1/what-if/options").json()["most_images"] == 150


def test_an_arm_is_kept_and_its_command_gives_its_figures(client, run):
    arm = {
        "name": "no-water",
        "out": list(run.head_labels[-2:]),
        "along": "a photo of water",
        "by": "attributes.place",
        "where": ["split = test"],
    }
    kept = client.post("/api/v1/what-if/arms", json=arm, headers=WRITES)
    assert kept.status_code == 200, kept.text
    document = json.loads(Path(kept.json()["file"]).read_text())
    assert ablated(run, document["command"]) == document["result"]
    listed = client.get("/api/v1/what-if/arms").json()
    assert [(each["name"], each["where"]) for each in listed] == [("no-water", ["split = test"])]
    again = client.post("/api/v1/what-if/arms", json=arm, headers=WRITES)
    assert (again.status_code, "already" in again.json()["error"]) == (400, True)


def test_arms_need_the_token_a_name_and_heads(client, run, tmp_path):
    arm = {"name": "a", "out": [run.head_labels[0]]}
    assert client.post("/api/v1/what-if/arms", json=arm).status_code == 403
    for change in ({"name": "../up"}, {"out": []}, {"out": ["L99H00"]}, {"by": "tags"}):
        assert client.post("/api/v1/what-if/arms", json={**arm, **change}, headers=WRITES).status_code == 400
    with TestClient(explorer_app(run, tmp_path, write=False), base_url="http://127.0.0.1") as reading:
        answer = reading.post("/api/v1/what-if/arms", json=arm, headers=WRITES)
        assert (answer.status_code, "--write" in answer.json()["error"]) == (403, True)


def test_mistakes_end_as_one_sentence(client):
    for given, words in (
        ({"out": "L99H00"}, "stores no head 'L99H00'"),
        ({"by": "nothing"}, "is not in the run"),
        ({"by": "attributes.split", "where": "label = 99"}, "label"),
        ({"by": "key"}, "makes no groups"),
    ):
        answer = client.get("/api/v1/what-if", params=given)
        assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text
    assert client.get("/api/v1/what-if", params={"finding": "none"}).status_code == 404


def test_equal_classes_are_answered_as_argmax_does():
    """Two classes of one text tie in every image: the first of them is the answer."""
    rng = np.random.default_rng(1)
    classes = rng.standard_normal((3, 6)).astype(np.float32)
    classes[2] = classes[0]
    embedding = rng.standard_normal((500, 6)).astype(np.float16)
    truth = rng.integers(0, 3, 500)
    table: HeadLogits = head_logits(embedding, lambda name: embedding, classes, truth, np.arange(500), [])
    right = table.rights(np.zeros((1, 0), np.bool_))[0]
    answers = (embedding.astype(np.float32) @ classes.T).argmax(axis=1)
    assert (right == (answers == truth)).all()
    assert right[truth == 0].any()
    assert not right[truth == 2].any()
