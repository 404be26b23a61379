"""TextSpan on moments against the plain loop over images, the published picks, planted truth and its own algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.errors import UsageError
from clipaudit.heads.textspan import fold, rest_of, shared_texts, stability, textspan, textspans, variance_share
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.commands import ROOT
from tests.make_runs import make_run

ORACLE = ROOT / "tests/data/oracle/textspan.npz"
ORACLE_HEADS = ("L7H0", "L7H2", "L5H1")


def frame(rng, dh, D):
    """dh orthonormal rows of R^D."""
    return np.linalg.qr(rng.standard_normal((D, dh)))[0].T


def lively(rng, rows, dh):
    """Correlated coordinates with a mean."""
    return rng.standard_normal((rows, dh)) @ rng.standard_normal((dh, dh)) + 3 * rng.standard_normal(dh)


def covariance_of(values):
    return np.cov(values.T, bias=True).reshape(values.shape[1], values.shape[1])


def plain_loop(data, texts, steps, criterion):
    """The paper's Algorithm 1 as it stands: on all images, in the joint space."""
    data, texts = data - data.mean(axis=0), texts.copy()
    whole = (data**2).sum()
    chosen, cumulative = [], []
    for _ in range(steps):
        scores = (data @ texts.T).var(axis=0)
        if criterion == "explained":
            scores = scores / (texts**2).sum(axis=1).clip(1e-20)
            scores[(texts**2).sum(axis=1) < 1e-12] = -1
        chosen.append(int(scores.argmax()))
        q = texts[chosen[-1]] / np.linalg.norm(texts[chosen[-1]])
        data = data - np.outer(data @ q, q)
        texts = texts - np.outer(texts @ q, q)
        cumulative.append(1 - (data**2).sum() / whole)
    return chosen, cumulative


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    dh=st.integers(2, 12),
    count=st.integers(1, 40),
    criterion=st.sampled_from(["explained", "reference"]),
)
def test_equals_the_plain_loop_over_images_in_the_joint_space(seed, dh, count, criterion):
    rng = np.random.default_rng(seed)
    # in the last dimension all that is left of any text is parallel: a tie, which rounding decides in the plain loop
    D, steps = dh + int(rng.integers(0, 20)), min(dh - 1, count)
    Q, y = frame(rng, dh, D), lively(rng, 200, dh)
    texts = rng.standard_normal((count, D))
    found = textspan(covariance_of(y), fold(Q, texts), steps, criterion)
    # what of a text lies outside the head's row space is projected away beforehand, as in the paper
    chosen, cumulative = plain_loop(y @ Q, texts @ Q.T @ Q, steps, criterion)
    assert found.texts.tolist() == chosen
    assert np.allclose(found.cumulative, cumulative, atol=1e-9)


def float64_moments(outputs):
    """Moments of rows that are not rounded to float16 first."""
    spec = TableSpec(heads=("L00H00",), head_dim=outputs.shape[1], embed_dim=1)
    mean = outputs.mean(axis=0)
    return replace(
        Moments.empty(spec).select(["L00H00"], ()),
        count=len(outputs),
        head_mean=mean[None],
        head_scatter=((outputs - mean).T @ (outputs - mean))[None],
    )


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as arrays:
        return {name: arrays[name].astype(np.float64) for name in arrays.files}


@pytest.mark.parametrize("head", ORACLE_HEADS)
def test_published_picks_from_moments_merged_out_of_seven_pieces(oracle, head):
    outputs = oracle[f"outputs_{head}"]
    Q = np.linalg.svd(outputs, full_matrices=False)[2][:64]
    merged = merge(float64_moments(piece) for piece in np.array_split(outputs @ Q.T, 7))
    texts, total = fold(Q, oracle["text_vectors"]), float(outputs.var(axis=0).sum())
    found = textspan(merged.covariance("L00H00"), texts, 20, "reference", total_variance=total)
    assert found.texts.tolist() == oracle[f"picks_{head}_rank64"].tolist()
    assert np.abs(found.cumulative - oracle[f"explained_{head}_rank64"]).max() < 1e-9
    better = textspan(merged.covariance("L00H00"), texts, 20, "explained", total_variance=total)
    assert better.cumulative[-1] >= found.cumulative[-1]


@pytest.mark.parametrize("head", ORACLE_HEADS)
def test_rank_80_ranks_by_rounding_noise(oracle, head):
    """The outputs have rank 67: of 80 singular vectors the last 13 are what float32 left over, and the texts' parts
    along them decide. Noise below float32 rounding changes those picks, and none in the head's own 64 dimensions."""
    outputs = oracle[f"outputs_{head}"]
    noisy = outputs + 1e-9 * np.random.default_rng(0).standard_normal(outputs.shape)

    def picks(rows, rank):
        Q = np.linalg.svd(rows, full_matrices=False)[2][:rank]
        return textspan(covariance_of(rows @ Q.T), fold(Q, oracle["text_vectors"]), 20, "reference").texts.tolist()

    assert picks(outputs, 64) == picks(noisy, 64) == oracle[f"picks_{head}_rank64"].tolist()
    assert picks(outputs, 80) != picks(noisy, 80)


def test_planted_texts_are_found_in_order():
    rng = np.random.default_rng(0)
    texts = rng.standard_normal((300, 16))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    planted = [17, 250, 3]
    y = sum(sd * rng.standard_normal((5000, 1)) * texts[[t]] for sd, t in zip((5, 3, 1.5), planted, strict=True))
    found = textspan(covariance_of(y + 0.01 * rng.standard_normal(y.shape)), texts, 10)
    assert found.texts[:3].tolist() == planted
    assert found.cumulative[2] > 0.999


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), criterion=st.sampled_from(["explained", "reference"]))
def test_directions_are_orthonormal_and_explain_what_they_say(seed, criterion):
    rng = np.random.default_rng(seed)
    y = lively(rng, 100, 8)
    S, texts = covariance_of(y), rng.standard_normal((30, 8))
    found = textspan(S, texts, 6, criterion)
    assert np.allclose(found.directions @ found.directions.T, np.eye(6), atol=1e-12)
    for m in range(7):
        P = found.projector(m)
        assert np.allclose(P @ P, P, atol=1e-12)
        expected = found.cumulative[m - 1] if m else 0.0
        assert np.trace(P @ S @ P) / np.trace(S) == pytest.approx(expected, abs=1e-12)
        seen = found.reconstruct(y, y.mean(axis=0), m)
        assert seen.var(axis=0).sum() / y.var(axis=0).sum() == pytest.approx(expected, abs=1e-9)
    assert len(set(found.texts.tolist())) == 6
    # a direction points towards its text
    assert (np.einsum("md,md->m", found.directions, texts[found.texts]) > 0).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_choice_depends_on_neither_basis_nor_under_explained_text_length(seed):
    rng = np.random.default_rng(seed)
    S, texts = covariance_of(lively(rng, 100, 6)), rng.standard_normal((25, 6))
    turn, lengths = frame(rng, 6, 6), rng.uniform(0.1, 10, (25, 1))
    plain = textspan(S, texts, 5)
    assert textspan(turn @ S @ turn.T, texts @ turn.T, 5).texts.tolist() == plain.texts.tolist()
    assert textspan(S, texts * lengths, 5).texts.tolist() == plain.texts.tolist()
    assert textspan(1e-9 * S, texts, 5).texts.tolist() == plain.texts.tolist()
    reference = textspan(S, texts, 5, "reference")
    assert textspan(turn @ S @ turn.T, texts @ turn.T, 5, "reference").texts.tolist() == reference.texts.tolist()


def test_reference_prefers_longer_texts():
    texts = np.array([[1.0, 0.0], [0.0, 3.0]])
    S = np.diag([4.0, 1.0])
    assert textspan(S, texts, 2, "explained").texts.tolist() == [0, 1]
    assert textspan(S, texts, 2, "reference").texts.tolist() == [1, 0]


def test_rank_deficient_heads_end_at_their_rank():
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((3, 10))
    y = rng.standard_normal((50, 3)) @ mix
    texts = rng.standard_normal((200, 3)) @ mix
    found = textspan(covariance_of(y), texts, 10)
    assert len(found) == 3
    assert found.cumulative[-1] == pytest.approx(1, abs=1e-12)
    # a head that varies in 3 of the dimensions that texts reach: what nothing varies along is never chosen
    everywhere = textspan(np.diag([3.0, 2.0, 1.0, 0, 0, 0]), np.eye(6), 6)
    assert everywhere.texts.tolist() == [0, 1, 2]
    # float32 bases leave 1e-7 of a text outside the directions that a head writes
    noisy = (texts + 1e-7 * rng.standard_normal(texts.shape)).astype(np.float32)
    assert len(textspan(covariance_of(y + 1e-4 * rng.standard_normal(y.shape)), noisy, 10)) <= 4


def test_ties_copies_and_empty_texts():
    rng = np.random.default_rng(2)
    texts = rng.standard_normal((41, 7))
    texts[11] = 0
    repeated = np.concatenate([texts, texts, texts])
    S = covariance_of(lively(rng, 60, 7))
    for criterion in ("explained", "reference"):
        found = textspan(S, repeated, 7, criterion).texts
        assert found.tolist() == textspan(S, texts, 7, criterion).texts.tolist()
        assert found.max() < 41
        assert 11 not in found
    # equal up to rounding is equal
    assert textspan(np.eye(8), frame(rng, 8, 8), 8).texts.tolist() == list(range(8))
    assert textspan(np.eye(8), frame(rng, 8, 8), 8, "reference").texts.tolist() == list(range(8))


def test_texts_that_are_almost_the_same_give_orthonormal_directions_all_the_same():
    rng = np.random.default_rng(4)
    texts = rng.standard_normal(10) + 1e-5 * rng.standard_normal((40, 10))
    found = textspan(covariance_of(lively(rng, 60, 10)), texts, 8)
    assert len(found) == 8
    assert np.abs(found.directions @ found.directions.T - np.eye(8)).max() < 1e-13


@pytest.mark.parametrize(
    ("S", "texts"),
    [(np.eye(3), np.zeros((4, 3))), (np.zeros((3, 3)), np.eye(3)), (np.eye(3), np.empty((0, 3)))],
    ids=["no text reaches the head", "a head that never varies", "no texts"],
)
def test_nothing_to_say(S, texts):
    found = textspan(S, texts, 5)
    assert len(found) == 0
    assert found.directions.shape == (0, 3)
    assert (found.reconstruct(np.ones((2, 3)), np.zeros(3)) == 0).all()


def test_fewer_texts_than_steps_and_full_rank_reconstruction():
    rng = np.random.default_rng(3)
    y, texts = lively(rng, 50, 5), rng.standard_normal((9, 5))
    assert len(textspan(covariance_of(y), texts[:2], 60)) == 2
    full = textspan(covariance_of(y), texts, 60)
    assert len(full) == 5
    assert np.abs(full.reconstruct(y, y.mean(axis=0)) - y).max() < 1e-9
    assert (full.reconstruct(y, y.mean(axis=0), 0) == y.mean(axis=0)).all()


def test_arguments_that_make_no_sense():
    with pytest.raises(UsageError, match="criterion"):
        textspan(np.eye(2), np.eye(2), 1, "best")
    with pytest.raises(ValueError, match="do not go together"):
        textspan(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="finite"):
        textspan(np.full((2, 2), np.nan), np.eye(2))


# -- heads of a run ----------------------------------------------------------------------------------------------------


def test_every_head_of_a_run(tmp_path):
    run = Run(make_run(str(tmp_path / "run")))
    texts = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    moments, basis = run.moments(), run.basis()
    spans = textspans(moments, basis, texts, 3)
    assert tuple(spans) == run.head_labels
    for head, span in spans.items():
        rows = run.heads(head, dtype=np.float64).values @ basis.Q(head).astype(np.float64)
        projected = texts.astype(np.float64) @ basis.Q(head).T.astype(np.float64) @ basis.Q(head).astype(np.float64)
        chosen, cumulative = plain_loop(rows, projected, 3, "explained")
        assert span.texts.tolist() == chosen
        assert np.allclose(span.cumulative, cumulative, atol=1e-6)
        embedding = run.embedding(dtype=np.float64).values
        share = run.heads(head, dtype=np.float64).values.var(axis=0).sum() / embedding.var(axis=0).sum()
        assert variance_share(moments, head) == pytest.approx(share)
    with pytest.raises(UsageError, match="0 samples"):
        textspans(Moments.empty(run.spec), basis, texts)


def test_shared_texts_name_their_heads():
    eye = np.eye(4)
    spans = {
        "L00H00": textspan(np.diag([4.0, 3, 2, 1]), eye, 3),  # 0 1 2
        "L00H01": textspan(np.diag([1.0, 4, 3, 2]), eye, 3),  # 1 2 3
        "L01H00": textspan(np.diag([1.0, 2, 4, 3]), eye, 3),  # 2 3 1
    }
    assert shared_texts(spans) == {
        1: ("L00H00", "L00H01", "L01H00"),
        2: ("L00H00", "L00H01", "L01H00"),
        3: ("L00H01", "L01H00"),
    }
    assert shared_texts(spans, top=1) == {}


SPEC = TableSpec(heads=("L00H00", "L00H01"), head_dim=5, embed_dim=6)


def shard_moments(seed, rows, scale=1.0):
    rng = np.random.default_rng(seed)
    return moments_of(
        Moments.empty(SPEC), {n: scale * rng.standard_normal((rows, d)) + seed for n, d in SPEC.vectors.items()}
    )


def test_stability_is_that_of_merged_shards():
    parts = [shard_moments(seed, rows) for seed, rows in enumerate((30, 50, 20, 0, 40))]
    texts = np.random.default_rng(9).standard_normal((15, 5))
    found = stability(parts, "L00H01", texts, top=2, resamples=50, seed=4)
    rng, hits = np.random.default_rng(4), np.zeros(15)
    kept = [part for part in parts if part.count]
    for _ in range(50):
        times = rng.multinomial(len(kept), np.full(len(kept), 1 / len(kept)))
        together = merge(part for part, n in zip(kept, times, strict=True) for _ in range(n))
        hits[textspan(together.covariance("L00H01"), texts, 2).texts] += 1
    assert (found.frequency == hits / 50).all()
    assert found.span.texts.tolist() == textspan(merge(parts).covariance("L00H01"), texts, 2).texts.tolist()
    assert found.frequency.sum() == pytest.approx(2)


def test_shards_that_agree_are_stable_and_one_shard_is_not_enough():
    texts = np.random.default_rng(9).standard_normal((15, 5))
    same = shard_moments(1, 40)
    found = stability([same] * 4, "L00H00", texts, top=3, resamples=10)
    assert set(found.frequency.tolist()) == {0.0, 1.0}
    assert (found.frequency[found.span.texts] == 1).all()
    with pytest.raises(UsageError, match="at least two shards"):
        stability([same, Moments.empty(SPEC)], "L00H00", texts)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 12), steps=st.integers(0, 12))
@settings(deadline=None, max_examples=60)
def test_the_rest_is_the_main_direction_of_what_the_texts_leave(seed, size, steps):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(200, size)) @ rng.normal(size=(size, size))
    y -= y.mean(axis=0)
    covariance = y.T @ y / len(y)
    span = textspan(covariance, rng.normal(size=(40, size)), steps=min(steps, size))
    rest = rest_of(covariance, span)
    if len(span) == size:
        assert rest is None
        return
    left = y - y @ span.projector()  # of every image, what its texts do not say
    assert np.abs(span.directions @ rest.direction).max(initial=0) < 1e-6
    assert rest.left == pytest.approx(1 - span.explained.sum(), abs=1e-9)
    assert rest.explained == pytest.approx(((left @ rest.direction) ** 2).mean() / span.variance)
    others = rng.normal(size=(50, size)) @ (np.eye(size) - span.projector())
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert ((y @ others.T) ** 2).mean(axis=0).max() <= rest.explained * span.variance * (1 + 1e-6)


def test_a_head_that_never_varies_has_no_rest():
    span = textspan(np.zeros((3, 3)), np.eye(3), steps=2)
    assert rest_of(np.zeros((3, 3)), span) is None
