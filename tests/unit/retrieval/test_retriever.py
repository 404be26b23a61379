"""Questions to indexes: sums over heads against brute force, ends, filters, copies, roles."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipaudit.cli.console.query import print_answer
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.retrieval import retriever as module
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.head_index import HeadIndex
from clipaudit.retrieval.parts import QueryPart, in_words, parse_images, parse_keys, parse_minus, parse_texts, parts_of
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


def test_attributes_that_hold_numbers_are_filtered_as_numbers(tmp_path):
    lights = {"failures": (), "attributes": lambda i: {"light": str(5 * i), "dark": str(i < 10).lower()}}
    spec = replace(SPEC, attributes=("light", "dark"))
    run = Run(make_run(str(tmp_path / "run"), spec, shards=1, rows=40, **lights))
    build_indexes(IndexConfig(run=run.directory.url, memory=MEMORY, heads=HEADS[:1]))
    index = HeadIndex.open(run, HEADS[0])
    assert np.flatnonzero(index.mask("light < 9")).tolist() == [0, 1]
    assert np.flatnonzero(index.mask(["light < 100", "dark = FALSE"])).tolist() == list(range(10, 20))
    with pytest.raises(UsageError, match="light holds numbers from 0 to 195, and 'dim' is no such value"):
        index.mask("light = dim")
    none = Retriever(run).answer(Question(queries=asked(run, 3, HEADS[:1]), k=3, where="light > 500"))
    assert none.notes[-1] == "no image has attributes.light > 500: attributes.light is 0 to 195"


def test_the_query_itself_is_left_out(run):
    table = run.heads(HEADS[0])
    key = (int(table.shard_id[200]), table["key"][200])
    with_it = Retriever(run).answer(Question(queries=asked(run, 200, HEADS[:1]), k=5))
    without = Retriever(run).answer(Question(queries=asked(run, 200, HEADS[:1]), k=5, leave_out=(key,)))
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
        (lambda: retriever.answer(Question(queries={HEADS[0]: np.full(8, np.nan)})), "numbers that are not finite"),
        (lambda: retriever.index(HEADS[0]).search(np.full(8, np.inf)), "numbers that are not finite"),
        (lambda: retriever.index(HEADS[0]).search_text(np.full(24, np.nan)), "numbers that are not finite"),
        (lambda: retriever.search(key="0/a", heads={HEADS[0]: 1e-300}), "the weight 1e-300 of L00H00"),
        (lambda: retriever.search(key="0/a", heads={HEADS[0]: np.nan}), "the weight nan of L00H00"),
        (lambda: retriever.search(text={"a dog": 0.0}), "the weight 0 of “a dog”"),
        (lambda: retriever.search(text=[f"text {n}" for n in range(17)]), "more than the 16 of one query"),
        (lambda: retriever.search(), "give one of --image, --key and --text"),
        (lambda: retriever.search(text="a dog", where="colour = red"), "is not in the run"),
        (lambda: retriever.search(text="a dog", k=1000), "more neighbours than the 381 vectors"),
        (lambda: retriever.search(text="a dog", heads="L09H09"), "stores no head 'L09H09'"),
        (lambda: parse_weights(["L00H00=1e-9"]), "give one from 1e-06 to 1e+06"),
        (lambda: parse_minus(["fog=-1"]), "is subtracted, so give one above 0"),
        (lambda: parse_texts("--text", ["a", "a=2"]), "--text 'a' is given twice"),
        (lambda: retriever.answer(Question(queries=some, where="x =")), "not in the run"),
        (lambda: retriever.heads_of_role("colour"), "have no roles yet: run `clipaudit heads"),
        (lambda: parse_key(run, "nothing"), "SHARD/KEY"),
        (lambda: parse_key(run, "99/x"), "no such shard"),
        (lambda: stored_coordinates(run, 1, "nobody", HEADS), "is not in the run"),
        (lambda: stored_coordinates(run, 1, "train/00000000000007", HEADS), "is undecodable"),
        (lambda: stored_coordinates(run, 9, "x", HEADS), "not committed"),
        (lambda: Request(), "give one of --image, --key and --text"),
        (lambda: QueryPart(text="a", key=(0, "x")), "one text, one sample or one image"),
        (lambda: Request(parts=(QueryPart(text="a"),), role="colour", weights={"L00H00": 1}), "not both"),
        (lambda: QueryEncoder(run).text("  "), "empty"),
        (lambda: QueryEncoder(run).text("x" * 5000), "5000 characters"),
        (lambda: QueryEncoder(run).image(b"x" * (33 * 2**20), HEADS), "more than"),
        (lambda: QueryEncoder(run).image(b"text", HEADS), "it is no image of a format that is read"),
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


def test_options_have_weights():
    given = ["a dog", "a lake=0.5", "fog = -2", "-rain", "x = y", "- a list"]
    weights = {"a dog": 1, "a lake": 0.5, "fog": -2, "rain": -1, "x = y": 1, "- a list": 1}
    assert parse_texts("--text", given) == weights
    assert parse_minus(["fog", "rain=3"]) == {"fog": 1, "rain": 3}


def test_what_exists_is_no_weight(run, tmp_path):
    (tmp_path / "photo=2").write_bytes(b"")
    weights = {f"{tmp_path}/photo=2": 1, f"{tmp_path}/other": 2}
    assert parse_images([f"{tmp_path}/photo=2", f"{tmp_path}/other=2"]) == weights
    assert parse_keys(run, ["0/train/00000000000001=2", "1/x"]) == {"0/train/00000000000001": 2, "1/x": 1}


def test_a_query_of_several_parts_is_said_in_words():
    parts = [QueryPart(text="a dog"), QueryPart(key=(0, "x/y"), weight=2), QueryPart(text="fog", weight=-0.5)]
    assert in_words(parts) == "“a dog” + 2 x 0/x/y - 0.5 x “fog”"
    assert Request(parts=tuple(parts)).words() == "like “a dog” + 2 x 0/x/y - 0.5 x “fog”"
    assert Request(parts=(QueryPart(text="a dog", weight=-1),)).words() == "most along minus “a dog”"


@pytest.mark.parametrize("end", ["max", "min"])
def test_parts_add_up_as_their_scores_do(run, end):
    weights = (1.0, -0.5, 2.0)
    stored = run.vectors(HEADS[0], ()).values.astype(np.float32)
    vectors = np.stack([stored[5], stored[77], np.random.default_rng(3).normal(size=8)])
    images = vectors[:2] - stored.astype(np.float64).mean(axis=0)
    scores = centred(run, HEADS[0]) @ (np.array(weights) @ np.vstack([images, vectors[2:]]))
    question = Question(queries={HEADS[0]: vectors}, text=(False, False, True), part_weights=weights, k=12, end=end)
    answer = Retriever(run).answer(question)
    best = np.argsort(scores if end == "min" else -scores)
    assert len(set(numbers(run, answer)) & set(best[:14].tolist())) >= 11
    for number, hit in zip(numbers(run, answer), answer.hits, strict=True):
        assert hit.score == pytest.approx(scores[number], rel=2e-3, abs=2e-3)


def test_parts_that_cancel_out_are_refused(run):
    vector = run.vectors(HEADS[0], ()).values[5]
    question = Question(queries={HEADS[0]: np.stack([vector, vector])}, part_weights=(1.0, -1.0))
    with pytest.raises(UsageError, match="cancel out"):
        Retriever(run).answer(question)


def test_samples_that_are_the_query_are_left_out(run):
    table = run.heads(HEADS[0])
    samples = [(int(table.shard_id[n]), str(table["key"][n])) for n in (3, 200)]
    keys = [f"{shard}/{key}" for shard, key in samples]
    answer = Retriever(run).search(key=keys, heads=HEADS[0])
    assert len(answer.hits) == 20
    assert {(hit.row.shard_id, hit.row.key) for hit in answer.hits}.isdisjoint(samples)
    alone, weighted = (Retriever(run).search(key=key, heads=HEADS[0]) for key in (keys[0], {keys[0]: 3.0}))
    assert [hit.row.key for hit in alone.hits] == [hit.row.key for hit in weighted.hits]
    assert parts_of(run, key={keys[0]: 3.0})[0].weight == 3


def test_the_default_number_of_images_is_what_there_is(tmp_path):
    directory = make_run(str(tmp_path / "run"), SPEC, shards=1, rows=6)
    build_indexes(IndexConfig(run=directory.url, heads=HEADS[:1], memory=MEMORY))
    run = Run(directory)
    key = run.heads(HEADS[0])["key"][0]
    answer = Retriever(run).search(key=f"0/{key}", heads=HEADS[0])
    assert len(answer.hits) == len(run) - 1
    assert answer.notes == ()


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
        sample = QueryPart(key=(0, "train/00000000000001"))
        asking = Request(role="colour", parts=(sample,), k=4, compare=True)
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
