"""Questions to indexes: sums over heads against brute force, ends, filters, copies, roles."""

import json
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipaudit.cli.console.query import print_answer
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.retrieval import retriever as module
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.plan import IndexConfig, build_indexes
from clipaudit.retrieval.queries import QueryEncoder, parse_key, stored_coordinates
from clipaudit.retrieval.request import Request, answers, parse_weights
from clipaudit.retrieval.retriever import Answer, Hit, Question, Retriever, hash_distance
from clipaudit.run.reader import Run
from clipaudit.run.row import Row
from clipaudit.schema import TableSpec
from tests.make_runs import MEMORY, make_run

HEADS = ("L00H00", "L00H01", "L01H00")
SPEC = TableSpec(heads=HEADS, head_dim=8, embed_dim=24, label_kind="int", attributes=("place",))


@pytest.fixture(scope="module", params=["flat", "ivf4"])
def run(request, tmp_path_factory):
    directory = make_run(str(tmp_path_factory.mktemp("runs") / "run"), SPEC, shards=3, rows=130)
    build_indexes(IndexConfig(run=directory.url, memory=MEMORY, kind=request.param, metric="centred"))
    return Run(directory)


def centred(run, name):
    values = run.vectors(name, ()).values.astype(np.float64)
    return values - values.mean(axis=0)


def asked(run, number, names):
    return {name: run.vectors(name, ()).values[number] for name in names}


def numbers(run, answer):
    table = run.heads(HEADS[0])
    known = {key: n for n, key in enumerate(zip(table.shard_id.tolist(), table.index.tolist(), strict=True))}
    return [known[hit.row.shard_id, hit.row.index] for hit in answer.hits]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 380),
    weights=st.dictionaries(st.sampled_from(HEADS), st.sampled_from([-2.0, -0.5, 0.3, 1.0, 5.0]), min_size=2),
    k=st.integers(1, 30),
    end=st.sampled_from(["max", "min"]),
    first=st.sampled_from([4, 16, 256]),
)
def test_sums_over_heads_are_those_of_brute_force(run, number, weights, k, end, first):
    truth = sum(w * (centred(run, name) @ centred(run, name)[number]) for name, w in weights.items())
    before, module._FIRST_CANDIDATES = module._FIRST_CANDIDATES, first  # few candidates: the bound has to do its work
    try:
        question = Question(queries=asked(run, number, weights), weights=weights, k=k, end=end)
        answer = Retriever(run).answer(question)
    finally:
        module._FIRST_CANDIDATES = before
    order = np.argsort(truth if end == "min" else -truth, kind="stable")[:k]
    scores = [hit.score for hit in answer.hits]
    # the ivf index finds its lists by their centres, so that it may miss a row now and then
    np.testing.assert_allclose(scores, truth[order], atol=3e-3)
    shared = len(set(numbers(run, answer)) & set(order.tolist()))
    assert shared >= 0.85 * k - 1
    for hit in answer.hits:
        assert sum(hit.parts.values()) == pytest.approx(hit.score, abs=1e-5)


@pytest.mark.parametrize("end", ["max", "min"])
@pytest.mark.parametrize("name", [HEADS[1], EMBEDDING])
def test_one_head_both_ends_with_a_filter(run, name, end):
    truth = centred(run, name) @ centred(run, name)[9]
    places = np.array([row["place"] for row in run.heads(HEADS[0], ["attributes"])["attributes"]])
    labels = run.labels()
    allowed = (labels == 1) & (places == "water")
    question = Question(queries=asked(run, 9, [name]), k=8, end=end, where="label = 1 and place = 'water'")
    found = numbers(run, Retriever(run).answer(question))
    order = np.argsort(truth if end == "min" else -truth, kind="stable")
    assert found == [n for n in order.tolist() if allowed[n]][:8]


def test_fewer_than_asked_are_told(run):
    question = Question(queries=asked(run, 0, HEADS[:1]), k=50, where="key like '%0005' and label = 2")
    answer = Retriever(run).answer(question)
    assert [hit.row.index for hit in answer.hits] == [5, 5, 5]
    assert answer.notes == ("3 of 50 images: the filter lets no more through",)
    none = Retriever(run).answer(Question(queries=asked(run, 0, HEADS[:2]), k=5, where="label = 77"))
    assert none.hits == ()
    assert none.notes[-1] == "no image has label = 77: there is 2, 0, 1"


def test_several_filters_must_all_hold(run):
    retriever = Retriever(run)
    query = asked(run, 3, HEADS[:1])
    both = retriever.answer(Question(queries=query, k=9, where=("label = 1 or label = 2", "place = water")))
    joined = retriever.answer(Question(queries=query, k=9, where="(label = 1 or label = 2) and place = water"))
    assert [hit.row.key for hit in both.hits] == [hit.row.key for hit in joined.hits] != []
    assert {hit.row.attributes["place"] for hit in both.hits} == {"water"}
    index = retriever.index(HEADS[0])
    assert (index.search(query[HEADS[0]], 5, where=["label = 1"]).numbers
            == index.search(query[HEADS[0]], 5, where="label = 1").numbers).all()  # fmt: skip


def test_the_query_itself_is_left_out(run):
    table = run.heads(HEADS[0])
    key = (int(table.shard_id[200]), table["key"][200])
    with_it = Retriever(run).answer(Question(queries=asked(run, 200, HEADS[:1]), k=5))
    without = Retriever(run).answer(Question(queries=asked(run, 200, HEADS[:1]), k=5, leave_out=key))
    assert 200 not in numbers(run, without)
    assert len(without.hits) == 5
    rest = [n for n in numbers(run, with_it) if n != 200]
    assert numbers(run, without)[: len(rest)] == rest


def test_copies_of_better_images_are_left_out(run):
    """Shards of make_run repeat their hashes: every image is in all three."""
    many = Retriever(run).answer(Question(queries=asked(run, 3, HEADS[:1]), k=30))
    few = Retriever(run).answer(Question(queries=asked(run, 3, HEADS[:1]), k=30, unique=True))
    hashes = [hit.row.phash for hit in few.hits]
    assert len(hashes) == 30
    assert all(hash_distance(a, b) > module.COPY_BITS for i, a in enumerate(hashes) for b in hashes[:i])
    expected, seen = [], []
    everything = Retriever(run).answer(Question(queries=asked(run, 3, HEADS[:1]), k=300))
    for number, hit in zip(numbers(run, everything), everything.hits, strict=True):
        if all(hash_distance(hit.row.phash, other) > module.COPY_BITS for other in seen):
            expected.append(number)
            seen.append(hit.row.phash)
    shared = len(set(numbers(run, few)) & set(expected[:30]))
    assert shared >= 28
    assert any("copies" in note for note in few.notes) or len({h.row.phash for h in many.hits}) == 30


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_hash_distance_counts_bits_of_unsigned_numbers(a, b):
    assert hash_distance(a, b) == bin((a % 2**64) ^ (b % 2**64)).count("1")


def test_mistakes_are_told_in_one_sentence(run):
    retriever = Retriever(run)
    some = asked(run, 0, HEADS[:1])
    cases = [
        (lambda: retriever.answer(Question(queries={})), "no head is asked"),
        (lambda: retriever.answer(Question(queries=some, k=0)), "at least 1"),
        (lambda: retriever.answer(Question(queries=some, k=10**6)), "more neighbours than the 381 vectors"),
        (lambda: retriever.answer(Question(queries={HEADS[0]: np.zeros(3)})), "has 8 numbers"),
        (lambda: retriever.answer(Question(queries=some, where="x =")), "not in the run"),
        (lambda: retriever.heads_of_role("colour"), "have no roles yet: run `clipaudit heads"),
        (lambda: parse_key(run, "nothing"), "SHARD/KEY"),
        (lambda: parse_key(run, "99/x"), "no such shard"),
        (lambda: stored_coordinates(run, 1, "nobody", HEADS), "is not in the run"),
        (lambda: stored_coordinates(run, 1, "train/00000000000007", HEADS), "is undecodable"),
        (lambda: stored_coordinates(run, 9, "x", HEADS), "not committed"),
        (lambda: Request(), "give one of --image, --key and --text"),
        (lambda: Request(text="a", key=(0, "x")), "not key and text"),
        (lambda: Request(text="a", role="colour", weights={"L00H00": 1}), "not both"),
        (lambda: QueryEncoder(run).text("  "), "empty"),
        (lambda: QueryEncoder(run).text("x" * 5000), "5000 characters"),
        (lambda: QueryEncoder(run).image(b"x" * (33 * 2**20), HEADS), "more than"),
        (lambda: parse_weights(["L00H00=much"]), "twice the weight"),
        (lambda: parse_weights(["L00H00=0"]), "twice the weight"),
        (lambda: parse_weights(["L00H00=nan"]), "twice the weight"),
        (lambda: parse_weights(["L00H00", "L00H00=2"]), "given twice"),
    ]
    for call, words in cases:
        with pytest.raises(UsageError) as caught:
            call()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_keys_name_shards_by_number_or_by_file(run):
    assert parse_key(run, "2/train/0001") == (2, "train/0001")
    assert parse_key(run, "train-000001/a/b") == (1, "a/b")
    assert parse_key(run, "train-000001.tar/a") == (1, "a")


def test_roles_come_from_the_description_of_the_heads(run):
    storage = run.directory.storage
    colour, shape = ("colour", "context-like"), ("shape", "core-like")
    roles = [("L00H00", *colour), ("L00H01", *shape), ("L01H00", *colour)]
    heads = [{"head": h, "role": {"label": label, "kind": kind}} for h, label, kind in roles]
    storage.make_directories(["heads/all"])
    storage.replace("heads/all/heads.json", json.dumps({"heads": heads}).encode())
    try:
        retriever = Retriever(run)
        assert retriever.heads_of_role("colour") == ["L00H00", "L01H00"]
        assert retriever.heads_of_role("core-like") == ["L00H01"]
        with pytest.raises(UsageError, match="the roles are colour, context-like, core-like, shape"):
            retriever.heads_of_role("texture")
        asking = Request(role="colour", key=(0, "train/00000000000001"), k=4, compare=True)
        panels = answers(retriever, QueryEncoder(run), asking)
        assert [panel.title for panel in panels] == ["by the role colour", "by the whole embedding"]
        assert list(panels[0].answer.hits[0].parts) == ["L00H00", "L01H00"]
        storage.replace("heads/all/heads.json", b'{"heads": [{}]}')
        with pytest.raises(IntegrityError, match="damaged"):
            retriever.heads_of_role("colour")
        no_roles = [{"head": "L00H00", "role": None}]
        storage.replace("heads/all/heads.json", json.dumps({"heads": no_roles}).encode())
        with pytest.raises(UsageError, match="none: no head has one"):
            retriever.heads_of_role("colour")
    finally:
        storage.remove_tree("heads")


def test_indexes_that_cover_other_shards_are_not_added_up(tmp_path):
    directory = make_run(str(tmp_path / "run"), SPEC, shards=2, rows=40)
    record = directory.storage.read(directory.commit_path(1))
    directory.storage.remove(directory.commit_path(1))
    build_indexes(IndexConfig(run=directory.url, heads=HEADS[:1], memory=MEMORY))
    directory.storage.create(directory.commit_path(1), record)
    build_indexes(IndexConfig(run=directory.url, heads=HEADS[1:], memory=MEMORY))
    run = Run(directory)
    with pytest.raises(UsageError, match="do not cover the same shards"):
        Retriever(run, stale=True).answer(Question(queries=asked(run, 0, HEADS[:2]), k=3))
    answer = Retriever(run, stale=True).answer(Question(queries=asked(run, 0, HEADS[:1]), k=3))
    assert "covers 1 of 2" in answer.notes[0]


def test_many_threads_ask_at_once(run):
    retriever = Retriever(run)
    questions = [
        Question(queries=asked(run, n, HEADS[: 1 + n % 3]), k=7, where="label = 1" if n % 2 else ()) for n in range(24)
    ]
    alone = [numbers(run, Retriever(run).answer(question)) for question in questions]
    found = [None] * len(questions)

    def work(part):
        for n in range(part, len(questions), 6):
            found[n] = numbers(run, retriever.answer(questions[n]))

    workers = [threading.Thread(target=work, args=(part,)) for part in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == alone


def test_a_piped_table_has_one_line_for_each_hit(capsys):
    places = {"place": "by the water " * 9, "time": "late in the evening " * 9}
    rows = [Row(shard_id=n, index=n, key=f"folder/{n:060d}", label=n, attributes=places) for n in range(3)]
    hits = tuple(Hit(rank=n + 1, score=0.5, row=row) for n, row in enumerate(rows))
    print_answer("like [it]: " + "by L00H00, " * 20, Answer(hits=hits, notes=("one thing",)))
    out, err = capsys.readouterr()
    title, names, *lines = out.splitlines()
    assert title.startswith("like [it]: by L00H00")
    assert names.split() == ["score", "sample", "label", "place", "time"]
    assert [line.split()[2] for line in lines] == [f"{row.shard_id}/{row.key}" for row in rows]
    assert err == "note one thing\n"
