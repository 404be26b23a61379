"""Indexes of runs: what is built, what its card says, how it is extended, and what is refused."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from clipaudit.errors import IntegrityError, RunMismatch, UsageError
from clipaudit.retrieval import build as building
from clipaudit.retrieval.card import CARD, EMBEDDING, indexed, read_card
from clipaudit.retrieval.head_index import HeadIndex
from clipaudit.retrieval.plan import IndexConfig, build_here, build_indexes, plan
from clipaudit.retrieval.vector_index import ExactNeighbours
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.make_runs import MEMORY, make_manifest, make_run, make_samples, make_vectors, write_attempt

SPEC = TableSpec(
    heads=("L00H00", "L00H01", "L01H00"), head_dim=8, embed_dim=24, label_kind="int", attributes=("place",)
)
HEAD = "L00H01"


@pytest.fixture
def run(tmp_path):
    return Run(make_run(str(tmp_path / "run"), SPEC, shards=3, rows=120))


def index_all(run, **options):
    return build_indexes(IndexConfig(run=run.directory.url, memory=MEMORY, **options))


def reopened(run):
    return Run(run.directory.url)


def expanded(run, head):
    """(n, D) contributions y Q of a head, float64, and Q."""
    Q = run.basis().Q(head).astype(np.float64)
    return run.heads(head).values.astype(np.float64) @ Q, Q


@pytest.mark.parametrize("metric", ["centred", "raw", "cosine"])
def test_scores_are_products_of_contributions_in_the_joint_space(run, metric):
    index_all(run, heads=(HEAD,), metric=metric)
    index = HeadIndex.open(run, HEAD)
    C, _ = expanded(run, HEAD)
    if metric != "raw":
        C = C - C.mean(axis=0)
    if metric == "cosine":
        C /= np.linalg.norm(C, axis=1, keepdims=True)
    queries = run.heads(HEAD).values[:20]
    found = index.search(queries, 10)
    truth = C[:20] @ C.T
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, found.numbers, 1), atol=1e-3)
    np.testing.assert_array_equal(found.numbers, np.argsort(-truth, axis=1, kind="stable")[:, :10])


@pytest.mark.parametrize("lowest", [False, True])
def test_text_scores_are_products_with_the_text_in_the_joint_space(run, lowest):
    index_all(run, heads=(HEAD, EMBEDDING), metric="centred")
    text = np.random.default_rng(3).standard_normal(24)
    text /= np.linalg.norm(text)
    for name in (HEAD, EMBEDDING):
        C = expanded(run, HEAD)[0] if name == HEAD else run.embedding().values.astype(np.float64)
        truth = (C - C.mean(axis=0)) @ text
        found = HeadIndex.open(run, name).search_text(text, 10, lowest=lowest)
        order = np.argsort(truth if lowest else -truth, kind="stable")[:10]
        np.testing.assert_array_equal(found.numbers[0], order)
        np.testing.assert_allclose(found.scores[0], truth[order], atol=1e-3)


def test_rows_are_the_runs_ok_rows_in_order(run):
    index_all(run, heads=(HEAD,))
    index, table = HeadIndex.open(run, HEAD), run.table().to_pylist()
    expected = [row for row in table if row["status"] == "ok"]
    rows = index.rows(np.arange(len(index)))
    assert len(rows) == len(expected) == len(run)
    for row, known in zip(rows, expected, strict=True):
        for name in ("shard_id", "index", "key", "label", "attributes", "width", "phash", "offset", "nbytes"):
            assert getattr(row, name) == known[name]
    assert index.row_map.number(2, expected[-1]["key"]) == len(index) - 1
    assert index.row_map.at(1, 5).key == "train/00000000000005"
    assert index.row_map.at(1, 7) is None, "that row is not ok"


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf8", "ivf8-pq4"])
def test_the_card_says_what_there_is(run, kind):
    (card,) = index_all(run, heads=(HEAD,), kind=kind)
    assert card == read_card(run.directory, HEAD)
    assert (card.rows, card.dim, card.metric, card.fingerprint) == (len(run), 8, "cosine", run.manifest.fingerprint)
    assert card.recall_at_10 >= (1.0 if kind == "flat" else 0.95)
    place = Path(run.directory.storage.full(f"indexes/{HEAD}"))
    size = sum((place / name).stat().st_size for name in card.files)
    assert card.bytes_per_vector == pytest.approx(size / len(run))
    assert card.latency_ms_p50 > 0
    np.testing.assert_allclose(card.mean, run.moments([HEAD]).mean(HEAD), atol=1e-6)
    assert "pickle" not in json.loads(card.to_json()), "plain JSON"


def test_recall_is_measured_on_queries_that_training_does_not_see(run, monkeypatch):
    seen = {}
    real = ExactNeighbours.__init__
    monkeypatch.setattr(ExactNeighbours, "__init__", lambda self, q, k: (seen.update(queries=q), real(self, q, k))[1])
    monkeypatch.setattr(building, "_QUERIES", 40)
    monkeypatch.setattr(building, "training_rows", lambda kind, rows, dim, memory: 200)
    train = building.VectorIndex.train
    monkeypatch.setattr(
        building.VectorIndex, "train", lambda self, sample: (seen.update(sample=sample), train(self, sample))[1]
    )
    index_all(run, heads=(HEAD,), kind="ivf4")
    rows = {row.tobytes() for row in seen["sample"]}
    assert len(seen["queries"]) == 40
    assert len(seen["sample"]) == 200
    assert not rows & {row.tobytes() for row in seen["queries"]}


def test_the_training_sample_comes_from_all_shards(tmp_path, monkeypatch):
    run = Run(make_run(str(tmp_path / "run"), SPEC, shards=8, rows=60, failures=()))
    values = run.heads(HEAD)
    rows = zip(values.values.astype(np.float32), values.shard_id, strict=True)
    shard_of = {row.tobytes(): shard for row, shard in rows}
    sampled = []
    train = building.VectorIndex.train
    monkeypatch.setattr(building, "training_rows", lambda kind, rows, dim, memory: 160)
    monkeypatch.setattr(
        building.VectorIndex, "train", lambda self, sample: (sampled.append(sample), train(self, sample))[1]
    )
    index_all(run, heads=(HEAD,), kind="ivf4", metric="raw")
    counts = np.bincount([shard_of[row.tobytes()] for row in sampled[0]], minlength=8)
    assert counts.sum() == 160
    assert counts.min() >= 8, "a third of each shard, give or take"


# -- growing ----------------------------------------------------------------------------------------------------------


def commit_shard(run, number, rows=150):
    shard = run.manifest.shards[number]
    samples = make_samples(rows)
    record = write_attempt(run.directory, shard, SPEC, samples, *make_vectors(SPEC, rows, number))
    assert run.directory.commit(record)


@pytest.fixture
def growing(tmp_path):
    """A run of four shards of which two are committed."""
    directory = make_run(str(tmp_path / "run"), SPEC, shards=4, rows=150, failures=())
    for number in (2, 3):
        directory.storage.remove(directory.commit_path(number))
    assert len(Run(directory).manifest.shards) == make_manifest(SPEC, 4).shards[-1].id + 1
    return Run(directory)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf4", "ivf4-pq4"])
def test_an_index_of_a_grown_run_is_extended(growing, kind):
    (before,) = index_all(growing, heads=(HEAD,), kind=kind)
    commit_shard(growing, 2)
    run = reopened(growing)
    with pytest.raises(UsageError, match=r"older than the run: it covers 2 of 3 .* --update"):
        HeadIndex.open(run, HEAD)
    stale = HeadIndex.open(run, HEAD, stale=True)
    assert "2 of 3" in stale.stale
    assert len(stale) == 300
    (after,) = index_all(run, update=True)
    assert (after.rows, after.updates, after.kind) == (450, 1, before.kind)
    assert after.mean == before.mean
    assert after.segments[:1] == before.segments
    index = HeadIndex.open(run, HEAD)
    values = run.heads(HEAD)
    found = index.search(values.values[400:410], 1)
    assert {row.shard_id for row in index.rows(found.numbers[:, 0])} <= {0, 1, 2}
    best = (index.space.images(values.values) @ index.space.images(values.values[400:410]).T).max(axis=0)
    assert np.isclose(found.scores[:, 0], best, rtol=5e-3).sum() >= (8 if kind == "hnsw" else 10)
    assert after.recall_at_10 >= 0.95


def test_an_update_of_what_is_whole_does_nothing(growing):
    index_all(growing, heads=(HEAD,))
    assert plan(IndexConfig(run=growing.directory.url, update=True)) == []


def test_shards_that_come_late_keep_the_order_of_their_coming(growing):
    index_all(growing, heads=(HEAD,))
    commit_shard(growing, 3)
    index_all(reopened(growing), update=True)
    commit_shard(growing, 2)
    index_all(reopened(growing), update=True)
    index = HeadIndex.open(reopened(growing), HEAD)
    shards = [row.shard_id for row in index.rows(np.arange(len(index)))]
    assert shards == [0] * 150 + [1] * 150 + [3] * 150 + [2] * 150
    key = index.row_map.rows([490])[0].key
    assert index.row_map.number(2, key) == 490
    np.testing.assert_array_equal(index.coordinates(2, key), reopened(growing).heads(HEAD, shards=[2]).values[40])


def test_the_same_rows_are_described_once(run):
    index_all(run)
    assert len(run.directory.storage.names("indexes/_rows")) == 1
    assert len(indexed(run.directory)) == 4


# -- what is refused --------------------------------------------------------------------------------------------------


def test_mistakes_are_told_in_one_sentence(run):
    index_all(run, heads=(HEAD,))
    index = HeadIndex.open(run, HEAD)
    some = run.heads(HEAD).values[0]
    cases = [
        (lambda: index_all(run, heads=("L09H09",)), "stores no head 'L09H09'"),
        (lambda: HeadIndex.open(run, "L09H09"), "stores no head 'L09H09'"),
        (lambda: HeadIndex.open(run, "L00H00"), r"no index of L00H00: build it with `clipaudit index"),
        (lambda: HeadIndex.open(run, "../../etc"), "stores no head"),
        (lambda: index.search(some, 1000), "more neighbours than the 351 vectors"),
        (lambda: index.search(some, 0), "at least 1"),
        (lambda: index.search(np.zeros(5)), "have 8 numbers"),
        (lambda: index.search(some, where="lable = 3"), "did you mean label"),
        (lambda: index.row_map.number(0, "nobody"), "no indexed sample with the key 'nobody'"),
        (lambda: index.row_map.number(77, "x"), "shard 77"),
        (lambda: index_all(run, kind="tree"), "--kind"),
        (lambda: index_all(run, update=True, kind="flat"), "--update keeps"),
        (lambda: IndexConfig(run="x", metric="l2"), "--metric"),
        (lambda: build_indexes(IndexConfig(run=run.directory.url, memory=10**6)), "--memory"),
    ]
    for call, words in cases:
        with pytest.raises(UsageError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_run_without_images_or_without_an_index(tmp_path):
    empty = make_run(str(tmp_path / "empty"), SPEC, shards=1, rows=3, failures=(0, 1, 2))
    with pytest.raises(UsageError, match="no images to index"):
        index_all(Run(empty))
    with pytest.raises(UsageError, match="no index to update"):
        index_all(Run(make_run(str(tmp_path / "other"), SPEC, shards=1)), update=True)


def test_damage_is_found_when_an_index_is_opened(run):
    index_all(run, heads=(HEAD,), kind="ivf4-pq4")
    full = run.directory.storage.full
    segment = run.directory.storage.names("indexes/_rows")[0]
    rows = [f"_rows/{segment}/{name}" for name in ("rows.arrow", "segment.json")]
    for name in (f"{HEAD}/index.faiss", f"{HEAD}/vectors.f16", f"{HEAD}/{CARD}", *rows):
        path = Path(full(f"indexes/{name}"))
        data = path.read_bytes()
        for changed in (data[:-7], data[: len(data) // 2] + b"\x00\xff{" + data[len(data) // 2 + 3 :], b""):
            path.write_bytes(changed)
            with pytest.raises((IntegrityError, RunMismatch), match=r"again|damaged"):
                HeadIndex.open(run, HEAD)
        path.unlink()
        with pytest.raises((IntegrityError, UsageError), match=r"again|build it"):
            HeadIndex.open(run, HEAD)
        path.write_bytes(data)
    HeadIndex.open(run, HEAD)


def test_an_index_of_another_run_is_refused(run, tmp_path):
    index_all(run, heads=(HEAD,))
    other = Run(make_run(str(tmp_path / "other"), SPEC, shards=3, rows=120, failures=(1,)))
    other.directory.storage.fs.cp(
        run.directory.storage.full("indexes"), other.directory.storage.full("indexes"), recursive=True
    )
    with pytest.raises(RunMismatch, match="no longer has"):
        HeadIndex.open(other, HEAD)


def _build_slowly(url, started):
    real = building.VectorIndex.add

    def add(self, rows):
        started.set()
        time.sleep(60)
        real(self, rows)

    building.VectorIndex.add = add
    build_indexes(IndexConfig(run=url, heads=(HEAD,), memory=MEMORY, kind="flat"))


def test_a_killed_build_leaves_nothing_half_published(run):
    (old,) = index_all(run, heads=(HEAD,), kind="ivf4")
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_build_slowly, args=(run.directory.url, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert read_card(run.directory, HEAD) == old
    HeadIndex.open(run, HEAD).search(run.heads(HEAD).values[0], 3)
    assert indexed(run.directory) == (HEAD,)
    index_all(run, heads=(HEAD,))


def test_a_full_disk_leaves_the_old_index(run, monkeypatch):
    (old,) = index_all(run, heads=(HEAD,))

    def no_space(self, directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building.VectorIndex, "save", no_space)
    with pytest.raises(Exception, match="no space left"):
        index_all(run, heads=(HEAD,), kind="ivf4")
    assert read_card(run.directory, HEAD) == old
    assert list(Path(run.directory.storage.full("indexes")).glob(".*.tmp")) == []


def test_a_run_on_another_file_system_is_indexed_and_searched():
    run = Run(make_run("memory://bucket/run-for-indexes", SPEC, shards=2, rows=160))
    index_all(run, kind="ivf4-pq4")
    index = HeadIndex.open(run, HEAD)
    found = index.search(run.heads(HEAD).values[:3], 1)
    assert index.rows(found.numbers[:, 0])[0].key.startswith("train/")


def test_builders_may_be_given(run):
    tasks = plan(IndexConfig(run=run.directory.url, heads=(HEAD,), memory=MEMORY))
    assert [card.name for card in build_here(tasks)] == [HEAD]
