"""Values that only an answerer's own answers choose: scored on images that did not choose them (traps 17 and 27)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from clipaudit.cues.answerers.from_table import TableAnswerer
from clipaudit.cues.answerers.given import answers_alone
from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.findings import scored_examples
from clipaudit.cues.reliance.gap import measure_gap
from clipaudit.cues.reliance.images import CueColumn, RelianceOptions, ScoredImages, cue_cells
from clipaudit.cues.reliance.suspects import SUSPECT, suspected_cue
from tests.audit_examples import confirmed, sample
from tests.reliance_worlds import answerer_of, images, tied

BOTH = np.ones(2, np.bool_)
OPTIONS = RelianceOptions(draws=99)


def innocent(seed, n=400, coins=100):
    """A model that looks at the class alone, images, and the coins that its answers on one half choose."""
    rng = np.random.default_rng([41, seed])
    truth = rng.integers(0, 2, n)
    answerer = answerer_of(rng, truth, rng.integers(0, 2, n), core=0.7, reliance=0.0)
    scored = images(rng, truth)
    tossed = [rng.integers(0, 2, n) for _ in range(coins)]
    found = [suspected_cue(f"coin {number}", scored, answerer.logits, coin, BOTH) for number, coin in enumerate(tossed)]
    return answerer, scored, [cue for _, cue in filter(None, found)]


@pytest.fixture(scope="module")
def hanging():
    """800 images; the model looks at `place`, which goes with no class."""
    rng = np.random.default_rng(42)
    truth = rng.integers(0, 2, 800)
    place = tied(rng, truth, 0.5)
    return answerer_of(rng, truth, place), images(rng, truth), place


def test_a_value_that_answers_hang_on_is_found_and_believed(hanging):
    answerer, scored, place = hanging
    difference, cue = suspected_cue("place", scored, answerer.logits, place, BOTH)
    assert difference > SUSPECT
    assert cue.pointed.tolist() == [True, False]
    measured = reliance_of([answerer], [cue], scored, options=OPTIONS).findings[0][0]
    assert measured.relies_on_it
    assert measured.effect.visibility.low > 0.9, "what chose it still teaches what the heads see of it"


def test_the_images_that_chose_it_count_in_no_figure(hanging):
    """Its figures are those of the other half alone, whatever is answered on the half that chose it."""
    answerer, scored, place = hanging
    _, cue = suspected_cue("place", scored, answerer.logits, place, BOTH)
    rest = np.flatnonzero(~scored.discovery)
    alone = measure_gap(
        cue_cells(scored.take(rest), replace(cue.take(rest), scored=None)), answerer.logits[rest], OPTIONS
    )
    other = np.where(scored.discovery[:, None], answerer.logits[:, ::-1], answerer.logits)
    changed = TableAnswerer(name="clip", logits=other, parts=None)
    plain = TableAnswerer(name="clip", logits=answerer.logits, parts=None)
    as_it_is, turned = (reliance_of([each], [cue], scored, options=OPTIONS).findings[0][0] for each in (plain, changed))
    assert as_it_is.gap == alone
    assert turned.gap == alone
    assert turned.label_noise == as_it_is.label_noise
    assert turned.gap_p == as_it_is.gap_p
    assert alone.gap.n == len(rest)


def test_permutations_leave_what_chose_it_as_it_is(hanging):
    _, scored, place = hanging
    cue = replace(suspected_cue("place", scored, hanging[0].logits, place, BOTH)[1], having=np.arange(800))
    rows, places = np.arange(800), np.random.default_rng(0).permutation(800)
    drawn = cue.drawn(rows, places[None])[0]
    assert (drawn[scored.discovery] == rows[scored.discovery]).all()
    assert (drawn[~scored.discovery] == places[~scored.discovery]).all()
    assert (cue.moved(rows, places).having == drawn).all()


def test_coins_chosen_for_their_gap_have_none_where_it_is_measured():
    """Trap 17: on the images that chose them the gaps of the chosen coins are large, each of them by chance."""
    honest, cursed = [], []
    for seed in range(60):
        answerer, scored, cues = innocent(seed)
        for cue in cues:
            for gaps, each in ((honest, cue), (cursed, replace(cue, scored=None))):
                gaps.append(measure_gap(cue_cells(scored, each), answerer.logits, OPTIONS).gap.value)
    error = np.std(honest) / np.sqrt(len(honest))
    assert len(honest) > 30
    assert abs(np.mean(honest)) < 3 * error
    assert np.mean(cursed) > 5 * error


def test_no_coin_is_believed_because_answers_chose_it():
    believed = chosen = 0
    for seed in range(20):
        answerer, scored, cues = innocent(100 + seed, 300)
        measured = [row[0] for row in reliance_of([answerer], cues, scored, options=OPTIONS).findings]
        believed, chosen = believed + sum(part.believed for part in measured), chosen + len(cues)
    assert chosen > 10
    assert believed == 0


@pytest.mark.parametrize(("copies", "tried"), [(1, True), (5, False)])
def test_fifty_images_on_a_side_are_fifty_different_ones(copies, tried):
    """Trap 18: 80 images five times each are 80 images, about 40 on a side."""
    n, rng = 400 // copies, np.random.default_rng(3)
    truth, having = rng.integers(0, 2, n), rng.integers(0, 2, n)
    right = np.where((having == 1) == (truth == 1), rng.random(n) < 0.9, rng.random(n) < 0.3)
    rows = np.repeat(np.arange(n), copies)
    logits = answers_alone(np.where(right, truth, 1 - truth)[rows], 2).logits
    scored = ScoredImages(truth=truth[rows], classes=2, cluster=rows, discovery=np.ones(len(rows), np.bool_))
    found = suspected_cue("x", scored, logits, having[rows], BOTH)
    assert (found is not None) == tried
    assert found is None or found[1].pointed.tolist() == [False, True]


def test_pictures_of_such_a_value_are_of_the_images_that_did_not_choose_it(monkeypatch):
    n, rng = 400, np.random.default_rng(5)
    truth, having = rng.integers(0, 2, n), rng.integers(0, 2, n)
    scored = np.arange(n) % 2 == 1
    column = CueColumn(
        name="v", having=having, pointed=np.array([False, True]), tested=np.ones(2, np.bool_), scored=scored
    )
    monkeypatch.setattr(scored_examples, "cue_column", lambda *_: column)
    monkeypatch.setattr(scored_examples, "sample_ref", lambda facts, place, names: sample(place))
    context = SimpleNamespace(
        options=SimpleNamespace(seed=0), presence=None, names=SimpleNamespace(names=("landbird", "waterbird"))
    )
    answers = SimpleNamespace(facts=None, truth=truth)
    cue = SimpleNamespace(ends=("land", "water"))
    shown = scored_examples.with_examples(context, answers, {"clip": rng.random((n, 2))}, cue, confirmed())
    places = [image.index for cell in shown.relying.examples for image in cell.images]
    assert len(places) == 24
    assert scored[places].all()
