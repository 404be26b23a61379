"""The wall: which rows, in which order and groups, with which scores; and the lists and code that are the same."""

import shlex
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.testclient import TestClient

from clipaudit.errors import UsageError
from clipaudit.retrieval.retriever import Retriever
from tests.make_audits import audited
from tests.make_explorers import explorer_app


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="module")
def client(run, tmp_path_factory):
    app = explorer_app(run, tmp_path_factory.mktemp("tags"))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def rows(client, **parameters):
    answer = client.get("/api/v1/rows", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def keys(answer):
    return [row["key"] for row in answer["rows"]]


def test_rows_come_as_stored_in_pages(client, run):
    answer = rows(client, limit=5)
    assert (answer["total"], answer["matched"], len(answer["rows"])) == (24, 24, 5)
    assert keys(rows(client, offset=5, limit=3)) == run.table("key")["key"].to_pylist()[5:8]
    assert "groups" not in rows(client, offset=5)


def test_filters_order_and_groups(client, run):
    answer = rows(client, where="place = sea", sort="-label", limit=100)
    labels = [int(row["label"]) for row in answer["rows"]]
    assert labels == sorted(labels, reverse=True)
    assert answer["matched"] == run.table("place")["place"].to_pylist().count("sea")
    grouped = rows(client, group="place", limit=100)
    assert [group["start"] for group in grouped["groups"]] == list(
        np.cumsum([0, *(group["count"] for group in grouped["groups"])])[:-1]
    )
    values = [
        client.get(f"/api/v1/rows/{row['shard']}/{row['index']}").json()["columns"]["attributes.place"]
        for row in grouped["rows"]
    ]
    expected = [group["value"] for group in grouped["groups"] for _ in range(group["count"])]
    assert values == expected


@pytest.mark.parametrize(
    "asked",
    [
        {"text": "a cat"},
        {"text": "a cat=2", "minus": "a dog", "head": "L01H00"},
        {"key": "0/p0_0003", "head": ["L01H00=2", "L00H01"]},
    ],
)
def test_a_question_ranks_all_rows_as_the_index_does(client, run, asked):
    """The same scores as `clipaudit query`, of every row and without an index."""
    answer = rows(client, **asked, limit=30)
    text = {"a cat": 2.0} if asked.get("text") == "a cat=2" else asked.get("text", ())
    heads = {"L01H00": 2.0, "L00H01": 1.0} if isinstance(asked.get("head"), list) else asked.get("head", "embedding")
    hits = Retriever(run).search(text=text, minus=asked.get("minus", ()), key=asked.get("key", ()), heads=heads).hits
    scores = {(row["shard"], row["index"]): row["score"] for row in answer["rows"]}
    for hit in hits:
        assert scores[hit.row.shard_id, hit.row.index] == pytest.approx(hit.score, abs=2e-3)
    ranked = [row["score"] for row in answer["rows"]]
    assert ranked == sorted(ranked, reverse=True)
    turned = rows(client, **asked, sort="score", limit=30)["rows"]
    assert [row["score"] for row in turned] == ranked[::-1]


def test_a_picture_that_is_dropped_finds_itself(client):
    image = client.get("/api/v1/images/0/5")
    name = client.post("/api/v1/pictures", content=image.content, headers={"content-type": "image/jpeg"}).json()
    assert rows(client, image=name["image"], limit=1)["rows"][0]["key"] in ("p0_0005", "p1_0005")
    assert "drop it again" in client.get("/api/v1/rows", params={"image": "0" * 16}).json()["error"]


def test_the_view_as_code_is_a_command_that_can_be_parsed(client, run):
    code = rows(client, text="a cat; rm -rf /", where="place = 'sea side'", head="L01H00")["code"]
    words = shlex.split(code["command"])
    assert words[:3] == ["clipaudit", "query", run.directory.url]
    assert words[words.index("--text") + 1] == "a cat; rm -rf /"
    assert words[words.index("--where") + 1] == "place = 'sea side'"
    compile(code["python"], "python", "exec")
    assert "--format csv" in rows(client, where="label = 1")["code"]["command"]
    assert "alone" in rows(client, where="tags is null")["code"]["note"]


def test_the_wall_as_a_list_of_keys(client):
    text = client.get("/api/v1/export/keys.txt", params={"where": "place = sea", "sort": "-label"})
    listed = [line.split("/", 1)[1] for line in text.text.splitlines()]
    assert listed == keys(rows(client, where="place = sea", sort="-label", limit=500))
    assert "attachment" in text.headers["content-disposition"]


def test_columns_have_kinds_values_and_ranges(client, run):
    columns = {column["name"]: column for column in client.get("/api/v1/columns").json()}
    place = columns["attributes.place"]
    assert (place["short"], place["kind"]) == ("place", "text")
    assert sum(value["count"] for value in place["values"]) == 24 - place["missing"]
    assert columns["key"]["values"] == []
    assert columns["label"]["low"] == "0"
    assert columns["clip.right"]["page_only"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/rows?where=x%20%3D%201", 400, "not in the run"),
        ("/rows?where=label%20%3C", 400, "not understood"),
        ("/rows?sort=nothing", 400, "not in the run"),
        ("/rows?sort=score", 400, "no score"),
        ("/rows?group=nothing", 400, "not in the run"),
        ("/rows?head=L01H00", 400, "answer a question"),
        ("/rows?text=a&head=L09H09", 400, "stores no head"),
        ("/rows?key=0/nobody", 400, "not in the run"),
        ("/rows?limit=501", 422, "less than or equal to 500"),
        ("/rows?offset=-1", 422, "greater than or equal to 0"),
        ("/rows/0/999", 404, "no indexed sample"),
        ("/images/0/999", 404, "no indexed sample"),
        ("/thumbnails/0/0?size=100000", 422, "less than or equal to 512"),
        ("/columns/nothing", 404, "no column"),
        ("/heads/L09H09/strips?text=a", 400, "stores no head"),
        ("/heads/L01H00/strips?text=a&size=25", 422, "less than or equal to 24"),
        ("/rows/0/0/parts", 400, "a text or the label"),
        ("/rows/0/0/parts?text=a&against=1", 400, "compared with no class"),
    ],
)
def test_what_is_refused_and_why(client, path, status, words):
    answer = client.get(f"/api/v1{path}")
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_an_empty_view_says_what_there_is(client):
    assert "there is" in rows(client, where="place = moon")["why_empty"]


def test_a_group_by_every_key_and_a_sort_by_it(client):
    grouped = rows(client, group="key", sort="-key", limit=100)
    assert [group["count"] for group in grouped["groups"]] == [1] * 24
    assert keys(grouped) == sorted(keys(grouped))


def test_a_page_beyond_the_end_is_empty(client):
    assert rows(client, offset=10_000)["rows"] == []


def test_the_wall_goes_on_while_the_model_loads(run, tmp_path, monkeypatch):
    """One question that waits for the model holds up no rows and no pictures."""
    from clipaudit.retrieval.queries import QueryEncoder

    loading, go_on = threading.Event(), threading.Event()
    encode = QueryEncoder.text

    def slow(self, text):
        loading.set()
        assert go_on.wait(60)
        return encode(self, text)

    monkeypatch.setattr(QueryEncoder, "text", slow)
    app = explorer_app(run, tmp_path)
    with TestClient(app, base_url="http://127.0.0.1") as client, ThreadPoolExecutor(1) as other:
        answer = other.submit(client.get, "/api/v1/rows?text=a cat")
        assert loading.wait(60)
        assert client.get("/api/v1/rows", params={"where": "place = sea"}).status_code == 200
        assert client.get("/api/v1/thumbnails/0/1").status_code == 200
        assert not answer.done()
        go_on.set()
        assert answer.result(60).status_code == 200


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"where": "place = 'clip.right'"}, False),
        ({"where": "place = clip.right"}, False),
        ({"where": "clip.right = false"}, True),
        ({"where": "place = sea and `clip.right` = false"}, True),
        ({"sort": "-clip.predicted"}, True),
        ({"group": "clip.right"}, True),
    ],
)
def test_answers_are_computed_where_a_column_is_named_and_not_a_value(run, tmp_path, monkeypatch, asked, named):
    from clipaudit.explorer.workspace import Workspace

    def computed(self):
        raise UsageError("computed")

    monkeypatch.setattr(Workspace, "answers", computed)
    with TestClient(explorer_app(run, tmp_path), base_url="http://127.0.0.1") as page:
        answer = page.get("/api/v1/rows", params=asked)
        assert ("computed" in answer.text) is named, answer.text


@pytest.mark.parametrize("query", ["wher=place", "sort=label&sort=key", "limit=1&limit=2"])
def test_parameters_that_would_not_count_are_refused(client, query):
    answer = client.get(f"/api/v1/rows?{query}")
    assert answer.status_code == 422
    assert "parameter" in answer.json()["error"]


def test_pictures_are_no_part_of_what_caches_are_named_by():
    from clipaudit.explorer.wall import ViewRequest
    from clipaudit.retrieval.parts import QueryPart

    first, same, other = (ViewRequest(parts=(QueryPart(image=data),)) for data in (b"a" * 99, b"a" * 99, b"b" * 99))
    assert first.identity == same.identity != other.identity
    assert b"a" * 99 not in first.identity[3][0]
