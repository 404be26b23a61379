"""Drift of a head's mean and spread: calibrated without one, found with the right text with one; two runs together."""

import json

import numpy as np
import pytest

from clipaudit.errors import RunMismatch, UsageError
from clipaudit.heads.comparison import compare, comparison_json
from clipaudit.heads.drift import HeadSample, drift, mean_test, spread_test
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows
from clipaudit.statistics import benjamini_hochberg
from tests.make_runs import SPEC, make_manifest, make_run
from tests.make_texts import HashedTexts, make_pool

DIM = 6


def sample(values) -> HeadSample:
    return HeadSample(count=len(values), mean=values.mean(axis=0), covariance=np.cov(values.T, bias=True))


def draw(rng, rows, scale=1.0, shift=0.0):
    mixing = np.random.default_rng(99).standard_normal((DIM, DIM))
    return sample(scale * rng.standard_normal((rows, DIM)) @ mixing + shift)


def test_without_drift_discoveries_are_as_rare_as_promised():
    rng = np.random.default_rng(0)
    # unequal sizes and unequal covariances, which a pooled test would get wrong
    tests = [[mean_test(draw(rng, 60), draw(rng, 200, scale=3.0)) for _ in range(10)] for _ in range(200)]
    p = np.array([[test.p for test in row] for row in tests])
    assert 0.035 < (p < 0.05).mean() < 0.065
    assert np.mean([(benjamini_hochberg(row) <= 0.05).any() for row in p]) < 0.09
    spread = np.array([spread_test(draw(rng, 100), draw(rng, 300))[1] for _ in range(1000)])
    assert 0.03 < (spread < 0.05).mean() < 0.075


def test_intervals_hold_for_the_text_that_was_picked():
    rng, texts = np.random.default_rng(1), np.random.default_rng(2).standard_normal((100, DIM))
    found = [drift(draw(rng, 80), draw(rng, 120), texts).effect for _ in range(200)]
    assert np.mean([effect.low <= 0 <= effect.high for effect in found]) >= 0.92


def test_a_planted_shift_is_found_with_its_text():
    rng, texts = np.random.default_rng(3), np.random.default_rng(4).standard_normal((50, DIM))
    values = rng.standard_normal((500, DIM))
    centred = texts[7] - texts.mean(axis=0)
    moved = rng.standard_normal((400, DIM)) + centred / np.linalg.norm(centred)
    found = drift(sample(values), sample(2 * (moved - moved.mean(axis=0)) + moved.mean(axis=0)), texts)
    assert found.text == 7
    assert found.towards(3)[0] == 7
    assert found.test.p < 1e-10
    assert found.effect.low < (1 / np.sqrt(2.5)) < found.effect.high  # one of a standard deviation of sqrt((1 + 4) / 2)
    assert found.spread.low < 4 < found.spread.high
    back = drift(sample(moved), sample(values), texts)
    assert back.away(3)[0] == 7
    assert back.effect.value < 0
    assert set(back.towards(50)).isdisjoint(back.away(50))


def test_a_head_that_never_varies_and_too_few_rows():
    still = HeadSample(count=20, mean=np.ones(DIM), covariance=np.zeros((DIM, DIM)))
    texts = np.eye(DIM)
    found = drift(still, still, texts)
    assert found.test.p == 1
    assert found.spread_p == 1
    assert found.effect.value == 0
    assert mean_test(still, HeadSample(count=20, mean=np.zeros(DIM), covariance=still.covariance)).p == 0
    with pytest.raises(UsageError, match="needs at least 8 rows to compare, not 7"):
        drift(draw(np.random.default_rng(0), 7), still, texts)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(make_run(str(tmp_path_factory.mktemp("drift") / "run"), shards=3))


class NoModel:
    """In place of a run's texts: a mistake must be told before a model is loaded."""

    def vectors(self, texts):
        raise AssertionError("texts are encoded")


def test_too_few_rows_are_told_before_a_model_is_loaded(tmp_path):
    run = Run(make_run(str(tmp_path / "run"), shards=1, rows=5))
    with pytest.raises(UsageError, match="a head of 4 dimensions needs at least 6 rows to compare, not"):
        compare(run, run, make_pool(), NoModel())


def compared(before, after, **options):
    return compare(before, after, make_pool(), HashedTexts(SPEC.embed_dim), **options)


def test_a_run_against_itself_does_not_move(run):
    done = []
    found = compared(run, run, on_head=lambda *step: done.append(step))
    assert done == [(n, 4) for n in (1, 2, 3, 4)]
    assert {one.q for one in found.heads} == {1.0}
    plain = json.loads(json.dumps(comparison_json(found), allow_nan=False))
    assert plain["before"] == plain["after"]
    assert [head["moved"] for head in plain["heads"]] == [False] * 4
    assert all(head["spread"]["value"] == pytest.approx(1) for head in plain["heads"])


def test_too_few_rows_are_told_before_thousands_of_texts_are_encoded(run, tmp_path):
    class NoTexts:
        def vectors(self, texts):
            raise AssertionError("the texts are encoded")

    small = Run(make_run(str(tmp_path / "run"), shards=1, rows=5, failures=()))
    with pytest.raises(UsageError, match="a head of 4 dimensions needs at least 6 rows to compare, not 5"):
        compare(run, small, make_pool(), NoTexts())


def test_rows_of_one_run_against_others(run):
    land, water = (Rows(where=(f"place = {place}",)) for place in ("land", "water"))
    found = compared(run, run, rows=(land, water))
    assert sum(found.rows) < len(run)
    assert "land" in found.name


def test_other_models_are_refused(run, tmp_path):
    directory = RunDirectory(str(tmp_path / "other"))
    directory.create(make_manifest(model={"fingerprint": "f00d", "name": "ViT-B-32"}))
    with pytest.raises(RunMismatch, match="different models"):
        compared(run, Run(directory))
