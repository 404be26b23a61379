"""Near-duplicates: planted ones are found, look-alikes are not, and clusters hang together."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipaudit.errors import IntegrityError, RunMismatch, UsageError
from clipaudit.retrieval.duplicates import DuplicatesConfig, clusters_of, find_duplicates, read_clusters
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.make_runs import grown, make_basis, make_manifest, make_samples, write_attempt

SPEC = TableSpec(heads=("L00H00",), head_dim=4, embed_dim=32, label_kind="int")


def make(url, embeddings, hashes, labels=None, shards=2, **changes):
    """A run whose embeddings and hashes are as given."""
    directory = RunDirectory(str(url))
    directory.create(make_manifest(SPEC, shards, **changes))
    write_basis(directory, make_basis(SPEC), {})
    for shard, places in zip(directory.open().shards, np.array_split(np.arange(len(embeddings)), shards), strict=True):
        samples = make_samples(len(places), label=lambda i, p=places: int((labels or {}).get(int(p[i]), 0)))
        for sample, place in zip(samples, places.tolist(), strict=True):
            sample.phash = None if hashes[place] is None else int(hashes[place])
        vectors = {"embedding": embeddings[places], "L00H00": np.zeros((len(places), 4), np.float32)}
        scalars = {name: np.ones(len(places), np.float32) for name in ("scale", "norm", "remainder")}
        assert directory.commit(write_attempt(directory, shard, SPEC, samples, vectors, scalars))
    return Run(directory)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def world(rows, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((rows, 32))), rng.integers(-(2**63), 2**63, rows).astype(object)


def flipped(value, bits):
    """The hash with its lowest bits turned over."""
    found = (value % 2**64) ^ (2**bits - 1)
    return found - 2**64 if found >= 2**63 else found


@pytest.fixture
def planted(tmp_path):
    """60 images; 40 copies 3, 41 copies 3 too, 50 copies 20; 51 only looks alike by embedding, 52 only by hash."""
    vectors, hashes = world(60)
    rng = np.random.default_rng(1)
    for copy, original in ((40, 3), (41, 3), (50, 20), (51, 21)):
        vectors[copy] = unit(vectors[original][None] + 0.01 * rng.standard_normal((1, 32)))[0]
    for copy, original in ((40, 3), (41, 3), (50, 20), (52, 22)):
        hashes[copy] = flipped(hashes[original], 4)
    return make(tmp_path / "run", vectors, hashes, labels={50: 1})


def test_planted_copies_are_found_and_look_alikes_are_not(planted):
    assert read_clusters(planted) is None
    found = find_duplicates(planted, None, DuplicatesConfig())
    table = pq.read_table(found.table).to_pylist()
    clusters = {}
    for row in table:
        clusters.setdefault(row["cluster"], []).append(row["shard_id"] * 30 + row["index"])
    assert sorted(clusters.values()) == [[3, 40, 41], [20, 50]]
    assert (found.clusters, found.members, found.largest, found.labels_differ) == (2, (5,), 3, 1)
    assert [row["keep"] for row in table] == [True, False, False, True, False]
    assert all(row["cosine"] > 0.95 and row["bits"] <= 10 for row in table)
    assert read_clusters(planted).num_rows == 5
    summary = json.loads(planted.directory.storage.read("duplicates/within/summary.json"))
    assert summary["clusters"] == 2


def test_the_table_is_read_while_it_holds(tmp_path):
    vectors, hashes = world(40)
    vectors[9], hashes[9] = vectors[2], hashes[2]
    run, other = make(tmp_path / "run", vectors, hashes), make(tmp_path / "other/run", vectors[:12], hashes[:12])
    for pair in (None, other):
        assert read_clusters(run, pair) is None
        find_duplicates(run, pair, DuplicatesConfig())
    assert [row["index"] + 20 * row["shard_id"] for row in read_clusters(run).to_pylist()] == [2, 9]
    assert read_clusters(run, other)["run"].to_pylist().count(1) == 12
    namesake = make(tmp_path / "elsewhere/run", vectors[:5], hashes[:5])
    assert read_clusters(run, namesake) is None
    directory = run.directory
    directory.storage.remove(directory.commit_path(1))
    assert read_clusters(Run(directory)) is None, "the run has fewer rows now"
    storage = directory.storage
    storage.replace("duplicates/within/duplicates.parquet", b"")
    with pytest.raises(IntegrityError, match="run `clipaudit duplicates"):
        read_clusters(run)


@pytest.mark.parametrize(
    ("options", "members"),
    [({"bits": 3}, 2), ({"similarity": 1.0}, 0), ({"bits": 64}, 7), ({"similarity": 0.05, "bits": 10}, 7)],
)
def test_both_limits_count(planted, options, members):
    """Copies 40 and 41 have the same hash, so that they stay together at 3 bits."""
    assert find_duplicates(planted, None, DuplicatesConfig(**options)).members == (members,)


def test_images_without_a_hash_are_no_copies(tmp_path):
    vectors, hashes = world(20)
    vectors[7] = vectors[3]
    hashes[7] = hashes[3] = None
    assert find_duplicates(make(tmp_path / "run", vectors, hashes), None, DuplicatesConfig()).clusters == 0


def test_leakage_between_two_runs(tmp_path):
    train, hashes = world(50)
    test, others = world(30, seed=9)
    for copy, original in ((4, 11), (5, 12), (29, 49)):
        test[copy], others[copy] = train[original], hashes[original]
    test[8], others[8] = test[9], others[9]  # copies within the test run alone are no leakage
    one = make(tmp_path / "train", train, hashes)
    two = make(tmp_path / "test", test, others, labels={5: 3})
    found = find_duplicates(one, two, DuplicatesConfig())
    assert found.members == (3, 3)
    assert found.images == (50, 30)
    assert found.labels_differ == 1
    assert found.table.endswith("duplicates/with-test/duplicates.parquet")
    table = pq.read_table(found.table).to_pylist()
    pairs = {
        (row["shard_id"] * 15 + row["index"]): row["copy_shard_id"] * 25 + int(row["copy_key"][-3:])
        for row in table
        if row["run"] == 1
    }
    assert pairs == {4: 11, 5: 12, 29: 49}


@pytest.mark.parametrize(("kind", "expected"), [(None, [3, None]), ("string", ["3", "a"])])
def test_runs_may_label_in_other_ways_or_not_at_all(tmp_path, kind, expected):
    vectors, hashes = world(20)
    one = make(tmp_path / "one", vectors, hashes, labels={4: 3}, shards=1)
    spec = replace(SPEC, label_kind=kind)
    directory = RunDirectory(str(tmp_path / "two"))
    directory.create(make_manifest(spec, 1))
    write_basis(directory, make_basis(spec), {})
    (sample,) = make_samples(1, label=lambda i: {None: None, "string": "a"}[kind])
    sample.phash = int(hashes[4])
    scalars = {name: np.ones(1, np.float32) for name in ("scale", "norm", "remainder")}
    rows = {"embedding": vectors[4:5], "L00H00": np.zeros((1, 4), np.float32)}
    directory.commit(write_attempt(directory, directory.open().shards[0], spec, [sample], rows, scalars))
    found = find_duplicates(one, Run(directory), DuplicatesConfig())
    assert pq.read_table(found.table)["label"].to_pylist() == expected
    assert found.labels_differ == (kind is not None)


def test_nothing_in_common(tmp_path):
    one, two = make(tmp_path / "a", *world(20)), make(tmp_path / "b", *world(20, seed=5))
    found = find_duplicates(one, two, DuplicatesConfig())
    assert (found.clusters, found.members) == (0, (0, 0))
    assert pq.read_table(found.table).num_rows == 0


def test_runs_of_other_models_are_not_compared(tmp_path):
    one = make(tmp_path / "a", *world(20))
    two = make(tmp_path / "b", *world(20), model={"fingerprint": "beef"})
    with pytest.raises(RunMismatch, match="different models"):
        find_duplicates(one, two, DuplicatesConfig())


@pytest.mark.parametrize("options", [{"similarity": 0}, {"similarity": 1.5}, {"bits": -1}, {"bits": 65}])
def test_limits_that_are_none(options):
    with pytest.raises(UsageError, match=r"--similarity|--bits"):
        DuplicatesConfig(**options)


@given(st.integers(1, 30).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
))  # fmt: skip
def test_clusters_are_the_connected_components(graph):
    size, edges = graph
    first, second = (np.array([edge[i] for edge in edges], np.int64) for i in (0, 1))
    known = list(range(size))
    for _ in range(size):
        for a, b in edges:
            known[a] = known[b] = min(known[a], known[b])
    assert clusters_of(first, second, size).tolist() == known


def test_a_long_chain_is_one_cluster():
    order = np.random.default_rng(0).permutation(20_000)
    assert (clusters_of(order[:-1], order[1:], 20_000) == 0).all()


def test_an_update_finds_what_a_whole_search_does(tmp_path):
    """A run of four shards, two of which were added later; copies lie within and across the steps."""
    vectors, hashes = world(80)
    rng = np.random.default_rng(2)
    # shards of 20: 5 and 25 early, 45 joins them, 61 joins two clusters into one, 70 and 71 are new alone
    pairs = ((25, 5, 0.01), (45, 5, 0.02), (33, 12, 0.01), (61, 12, 0.02), (71, 70, 0.01), (66, 25, 0.03))
    for copy, original, noise in pairs:
        vectors[copy] = unit(vectors[original][None] + noise * rng.standard_normal((1, 32)))[0]
        hashes[copy] = flipped(hashes[original], 3)
    whole = make(tmp_path / "whole", vectors, hashes, shards=4)
    run = make(tmp_path / "run", vectors, hashes, shards=4)
    records = {shard: run.directory.commit_path(shard) for shard in (2, 3)}
    kept = {path: run.directory.storage.read(path) for path in records.values()}
    for path in kept:
        run.directory.storage.remove(path)
    find_duplicates(Run(run.directory), None, DuplicatesConfig())
    for path, data in kept.items():
        run.directory.storage.replace(path, data)
    assert read_clusters(Run(run.directory)) is None, "the table is older than the run"
    updated = find_duplicates(Run(run.directory), None, DuplicatesConfig(), update=True)
    expected = find_duplicates(whole, None, DuplicatesConfig())
    assert (updated.clusters, updated.members, updated.largest) == (
        expected.clusters,
        expected.members,
        expected.largest,
    )
    tables = [pq.read_table(found.table).drop_columns(["cosine"]).to_pylist() for found in (updated, expected)]
    assert tables[0] == tables[1]
    assert read_clusters(Run(run.directory)) is not None
    again = find_duplicates(Run(run.directory), None, DuplicatesConfig(), update=True)
    assert pq.read_table(again.table).drop_columns(["cosine"]).to_pylist() == tables[1]


def test_an_update_of_what_cannot_be_added_to_is_refused(planted, tmp_path):
    with pytest.raises(UsageError, match="has no duplicates to update"):
        find_duplicates(planted, None, DuplicatesConfig(), update=True)
    find_duplicates(planted, None, DuplicatesConfig())
    with pytest.raises(UsageError, match=r"were found with --similarity 0.95 and --bits 10"):
        find_duplicates(planted, None, DuplicatesConfig(bits=8), update=True)
    with pytest.raises(UsageError, match="leave out the other run"):
        find_duplicates(planted, planted, DuplicatesConfig(), update=True)
    other = tmp_path / "with"
    find_duplicates(planted, planted, DuplicatesConfig(), out=str(other))
    with pytest.raises(UsageError, match="are not of its own shards"):
        find_duplicates(planted, None, DuplicatesConfig(), out=str(other), update=True)
    with pytest.raises(UsageError, match=r"empty has no duplicates to update"):
        find_duplicates(planted, None, DuplicatesConfig(), out=str(tmp_path / "empty"), update=True)


def test_an_update_adds_to_the_table_in_out(tmp_path):
    vectors, hashes = world(40)
    for copy, original in ((25, 5), (12, 3)):
        vectors[copy], hashes[copy] = vectors[original], hashes[original]
    run = make(tmp_path / "run", vectors, hashes, shards=2)
    path = run.directory.commit_path(1)
    record = run.directory.storage.read(path)
    run.directory.storage.remove(path)
    out = str(tmp_path / "table")
    assert find_duplicates(Run(run.directory), None, DuplicatesConfig(), out=out).clusters == 1
    run.directory.storage.replace(path, record)
    updated = find_duplicates(Run(run.directory), None, DuplicatesConfig(), out=out, update=True)
    assert (updated.clusters, updated.table) == (2, f"{out}/duplicates.parquet")
    assert not run.directory.storage.exists("duplicates"), "the run is left as it is"


def test_duplicates_of_an_earlier_state_are_its_own(tmp_path):
    vectors, hashes = world(40)
    run = grown(make(tmp_path / "run", vectors, hashes, shards=2).directory, (1, 1))
    other = make(tmp_path / "other", vectors, hashes, shards=2)
    first, whole = Run(f"{run.url}@0"), Run(run.url)
    for each in (first, whole):
        find_duplicates(each, None, DuplicatesConfig())
        find_duplicates(other, each, DuplicatesConfig())
    for each, images in ((first, 20), (whole, 40)):
        assert read_clusters(each) is not None
        between = read_clusters(other, each)
        assert (between["run"].to_numpy() == 1).sum() == images
