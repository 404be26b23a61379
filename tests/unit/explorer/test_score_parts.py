"""An image's score in parts: heads and stored components sum to it, whatever it is asked for."""

import threading
import time

import numpy as np
import pytest

from clipaudit.errors import UsageError
from clipaudit.explorer import run_scores
from clipaudit.explorer.run_scores import RunScores
from clipaudit.retrieval.parts import QueryPart
from clipaudit.retrieval.queries import QueryEncoder
from tests.make_audits import audited


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("parts"), index=False)


@pytest.fixture(scope="module")
def scores(run):
    return RunScores(run, QueryEncoder(run, "cpu", keep=False))


@pytest.mark.parametrize("centred", [True, False])
def test_the_parts_sum_to_the_score_and_each_is_what_its_head_adds(run, scores, centred):
    direction = np.random.default_rng(0).standard_normal(run.spec.embed_dim)
    result = scores.parts_of(7, direction, centred=centred)
    embedding = run.embedding(()).values[7].astype(np.float64)
    mean = run.moments().mean("embedding") if centred else 0.0
    assert result.score == pytest.approx(float((embedding - mean) @ direction))
    assert sum(part.value for part in result.parts) == pytest.approx(result.score, abs=1e-12)
    assert [part.name for part in result.parts] == [*run.head_labels, "rest"]
    head = run.heads("L01H00", ()).values[7].astype(np.float64) - (run.moments().mean("L01H00") if centred else 0.0)
    expected = float(head @ (run.basis().Q("L01H00") @ direction))
    assert {part.name: part.value for part in result.parts}["L01H00"] == pytest.approx(expected)


def test_a_direction_of_another_length_is_refused(run, scores):
    with pytest.raises(UsageError, match="a direction has"):
        scores.parts_of(0, np.zeros(3), centred=True)


def test_who_scores_and_who_asks_for_moments_do_not_wait_for_each_other(run, monkeypatch):
    """Both for the first time, as an image's screen does: heads in one request, neighbours in another."""
    fresh = RunScores(run, QueryEncoder(run, "cpu", keep=False))
    scoring, real = threading.Event(), run_scores.part_vectors

    def slow(*given):
        scoring.set()
        time.sleep(0.5)
        return real(*given)

    monkeypatch.setattr(run_scores, "part_vectors", slow)
    part = QueryPart(key=(0, "p0_0003"))
    first = threading.Thread(target=lambda: fresh.scores([part], {}), daemon=True)
    first.start()
    assert scoring.wait(30)
    second = threading.Thread(target=lambda: fresh.moments, daemon=True)
    second.start()
    for thread in (first, second):
        thread.join(300)
        assert not thread.is_alive()
