"""What if and map without labels, with several an image, and with ten thousand classes; runs without a model."""

import pytest
from starlette.testclient import TestClient

from clipaudit.explorer import head_logits as tables
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.make_explorers import explorer_app
from tests.make_runs import SPEC, make_run
from tests.make_texts import HashedTexts

CLASSES = 10_000


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Makes the page over a run whose texts have vectors from their names."""
    for module in ("workspace", "what_if", "map_routes"):
        monkeypatch.setattr(f"clipaudit.explorer.{module}.RunTexts", lambda *_, **__: HashedTexts(SPEC.embed_dim))
    clients = []

    def opened(spec=SPEC, **options):
        directory = make_run(str(tmp_path / "run"), spec, **options)
        client = TestClient(explorer_app(Run(directory), tmp_path), base_url="http://127.0.0.1")
        clients.append(client.__enter__())
        return client

    yield opened
    for client in clients:
        client.__exit__(None, None, None)


def test_without_labels_the_screen_says_so_and_the_map_goes_on(opened):
    client = opened(TableSpec(heads=SPEC.heads, head_dim=4, embed_dim=8), label=lambda _: None)
    options = client.get("/api/v1/what-if/options").json()
    assert ("no labels" in options["missing"], "--label cls" in options["command"]) == (True, True)
    answer = client.get("/api/v1/what-if")
    assert (answer.status_code, "no labels" in answer.json()["error"]) == (400, True)
    assert client.get("/api/v1/run").json()["labels"] is False
    assert client.get("/api/v1/map/points", params={"colour": "width"}).status_code == 200


def test_several_labels_an_image_are_told(opened):
    spec = TableSpec(heads=SPEC.heads, head_dim=4, embed_dim=8, label_kind="strings")
    client = opened(spec, label=lambda index: ("cat", "dog") if index % 2 else ("cat",))
    options = client.get("/api/v1/what-if/options").json()
    assert ("several labels" in options["missing"], "clipaudit ablate" in options["command"]) == (True, True)
    assert client.get("/api/v1/map/points", params={"colour": "label"}).status_code == 200


def test_labels_without_names_are_told(opened):
    options = opened().get("/api/v1/what-if/options").json()
    assert ("classnames.txt" in options["missing"], "--classes FILE" in options["command"]) == (True, True)


def test_ten_thousand_classes_are_a_sample_and_the_groups_that_change_most(opened, monkeypatch):
    monkeypatch.setattr(tables, "MAX_BYTES", 2**26)
    spec = TableSpec(heads=SPEC.heads, head_dim=4, embed_dim=8, label_kind="string", attributes=("place",))
    client = opened(spec, shards=1, rows=CLASSES, failures=(), label=lambda index: f"class {index}")
    options = client.get("/api/v1/what-if/options").json()
    assert options["classes"] == CLASSES
    assert 0 < options["most_images"] < CLASSES
    answer = client.get("/api/v1/what-if", params={"out": "L00H00", "by": "attributes.place"}).json()
    assert (answer["images"], answer["sampled"]) == (options["most_images"], True)
    assert len(answer["groups"]) == 60
    assert answer["more_groups"] > 100
    header = client.get("/api/v1/map/points", params={"colour": "label"})
    assert header.status_code == 200
    assert b'"other": 9991' in header.content[:2000]


def test_bars_of_two_classes_encode_two_classes(opened, monkeypatch):
    """With ten thousand classes all prompts take minutes: an image's screen needs the names, and two vectors."""
    encoded = []
    real = HashedTexts.classes
    monkeypatch.setattr(
        HashedTexts, "classes", lambda self, names, given: encoded.append(names) or real(self, names, given)
    )
    spec = TableSpec(heads=SPEC.heads, head_dim=4, embed_dim=8, label_kind="string")
    client = opened(spec, shards=1, rows=500, failures=(), label=lambda index: f"class {index}")
    listed = client.get("/api/v1/classes").json()
    assert (len(listed), encoded) == (500, [])
    asked = {"label": "class 7", "against": "class 9"}
    answers = [client.get(f"/api/v1/rows/0/{index}/parts", params=asked) for index in (0, 1)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert encoded == [["class 7"], ["class 9"]]
    client.get("/api/v1/rows", params={"where": "clip.right = true"})
    assert len(encoded[-1]) == 500
    assert client.get("/api/v1/rows/0/0/parts", params=asked).json() == answers[0].json()
