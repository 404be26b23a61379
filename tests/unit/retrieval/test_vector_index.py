"""FAISS behind the door: every kind against brute force, filters, files and their damage."""

import threading

import numpy as np
import pytest

from clipaudit.errors import IntegrityError
from clipaudit.retrieval.vector_index import INDEX, VECTORS, ExactNeighbours, Kind, VectorIndex, threads

KINDS = [
    Kind(name="flat"),
    Kind(name="hnsw", links=32),
    Kind(name="ivf-sq", lists=32),
    Kind(name="ivf-pq", lists=32, code_bytes=8),
]
ROWS, DIM = 3000, 16


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads that wait for each other take many times as long for work as small as this."""
    with threads(1):
        yield


def vectors(rows=ROWS, seed=0):
    """Rows of unequal length and variance, as a head's are."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, DIM)) * 0.03 / np.sqrt(np.arange(1, DIM + 1))).astype(np.float32)


def filled(kind, rows, directory):
    """An index with rows added in two pieces, saved and mapped."""
    index = VectorIndex.new(kind, DIM)
    index.train(rows)
    index.add(rows[:1000])
    index.add(rows[1000:])
    index.save(directory)
    if kind.name == "ivf-pq":
        rows.astype(np.float16).tofile(directory / VECTORS)
    return VectorIndex.load(directory, kind, DIM)


def brute(queries, rows, k, mask=None):
    products = queries @ rows.T
    if mask is not None:
        products[:, ~mask] = -np.inf
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, order, 1), order


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_with_full_effort_every_kind_finds_what_brute_force_finds(kind, tmp_path):
    rows = vectors()
    index = filled(kind, rows, tmp_path)
    queries = rows[:40]
    scores, found = index.search(queries, 10, 1024)
    expected, truth = brute(queries, rows, 10)
    assert len(index) == ROWS
    np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=1e-6)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
    assert recall >= (1.0 if kind.name == "flat" else 0.97)
    np.testing.assert_allclose(index.vectors(found[0]), rows[found[0]], atol=5e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("share", [0.002, 0.05, 0.5])
def test_a_mask_hides_rows_and_few_rows_are_found_as_surely_as_many(kind, share, tmp_path):
    rows = vectors()
    index = filled(kind, rows, tmp_path)
    mask = np.random.default_rng(1).random(ROWS) < share
    _, found = index.search(rows[:20], 5, 16, mask)
    _, truth = brute(rows[:20], rows, 5, mask)
    assert mask[found[found >= 0]].all()
    assert (found >= 0).sum() == 20 * min(5, mask.sum())
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]) >= 0.94 * min(
        5, mask.sum()
    )


def test_where_there_are_no_more_rows_the_rest_is_marked(tmp_path):
    rows = vectors()
    mask = np.zeros(ROWS, bool)
    mask[[5, 9]] = True
    for kind in KINDS:
        directory = tmp_path / kind.name
        directory.mkdir()
        _, found = filled(kind, rows, directory).search(rows[:1], 5, 8, mask)
        assert sorted(found[0].tolist()) == [-1, -1, -1, 5, 9]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_index_read_whole_takes_more_rows(kind, tmp_path):
    rows, more = vectors(), vectors(500, seed=7)
    filled(kind, rows, tmp_path)
    index = VectorIndex.load(tmp_path, kind, DIM, mapped=False)
    index.add(more)
    index.save(tmp_path)
    if kind.name == "ivf-pq":
        np.concatenate([rows, more]).astype(np.float16).tofile(tmp_path / VECTORS)
    again = VectorIndex.load(tmp_path, kind, DIM)
    both = np.concatenate([rows, more])
    _, found = again.search(more[:50], 1, 1024)
    _, truth = brute(more[:50], both, 1)
    assert (found == truth).mean() >= 0.96


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [0, 10, -20])
def test_a_cut_file_is_named(kind, size, tmp_path):
    filled(kind, vectors(), tmp_path)
    path = tmp_path / INDEX
    with path.open("r+b") as file:
        file.truncate(size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(IntegrityError, match=r"index\.faiss is damaged"):
        VectorIndex.load(tmp_path, kind, DIM).search(vectors()[:1], 1, 1024)


def test_an_index_of_other_vectors_is_refused(tmp_path):
    filled(KINDS[0], vectors(), tmp_path)
    with pytest.raises(IntegrityError, match="not an index of vectors of 17 numbers"):
        VectorIndex.load(tmp_path, KINDS[0], 17)


def test_effort_grows_until_the_target_is_met(tmp_path):
    rows = vectors()
    index = filled(Kind(name="ivf-sq", lists=32), rows, tmp_path)
    own = np.arange(0, ROWS, 30)
    exact = ExactNeighbours(rows[own], 11)
    for start in range(0, ROWS, 700):
        exact.add(rows[start : start + 700])
    truth = exact.finish(own)
    low, low_recall = index.tune(rows[own], truth, 0.5)
    high, high_recall = index.tune(rows[own], truth, 0.97)
    assert low < high <= 32
    assert 0.5 <= low_recall < high_recall
    assert high_recall >= 0.97


def test_exact_neighbours_do_not_depend_on_how_rows_come():
    rows, own = vectors(997), np.arange(0, 997, 50)
    found = []
    for size in (1, 3, 400, 997):
        exact = ExactNeighbours(rows[own], 11)
        for start in range(0, len(rows), size):
            exact.add(rows[start : start + size])
        found.append(exact.finish(own).rows)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    expected = brute(rows[own], rows, 11)[1]
    for known, numbers, number in zip(found[0], expected, own, strict=True):
        assert known.tolist() == [n for n in numbers if n != number][:10]


def test_of_images_that_are_there_twice_either_is_right():
    rows = np.repeat(vectors(300), 4, axis=0)
    index, own = VectorIndex.new(KINDS[0], DIM), np.arange(0, 1200, 100)
    index.add(rows)
    exact = ExactNeighbours(rows[own], 11)
    exact.add(rows)
    truth = exact.finish(own)
    assert index.tune(rows[own], truth, 0.99)[1] == 1.0
    scores, found = index.search(rows[own], 11)
    others = np.where(found >= 0, found ^ 1, found)  # the copies: right where they score alike
    assert truth.found_in(scores, others) == 1.0
    assert truth.found_in(scores - 1, (found + 7) % 1200) < 0.6


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_many_threads_get_the_same_answers_as_one(kind, tmp_path):
    rows = vectors()
    index = filled(kind, rows, tmp_path)
    alone = [index.search(rows[i : i + 1], 10, 16)[1] for i in range(60)]
    wrong = []

    def ask(part):
        with threads(1):
            found = {i: index.search(rows[i : i + 1], 10, 16)[1] for i in range(part, 60, 6)}
            wrong.extend(i for i, numbers in found.items() if not np.array_equal(numbers, alone[i]))

    workers = [threading.Thread(target=ask, args=(part,)) for part in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
