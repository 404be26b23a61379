"""Margin D under a column that is wrong with a known rate: no verdict rests on what wrong values leave of it (S6c)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clipaudit.cues.answerers.given import GivenAnswerer
from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.findings.sentences import Words, sentence
from clipaudit.cues.findings.still_needed import reasons_of
from clipaudit.cues.reliance.gap import measure_gap
from clipaudit.cues.reliance.images import RelianceOptions, ScoredImages, cue_cells
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.statistics.known_error import KnownError
from tests.audit_examples import around, association
from tests.reliance_worlds import column, images, tied

OPTIONS = RelianceOptions(draws=99)
WORDS = Words(classes=("a",), others=("b",), side="has", cue="water")


def leaning(rng, truth, place, wrong=0.2, by=0.2):
    """(n, 2) logits of a model that errs anywhere, and leans to class 0 with the place without ever erring by it."""
    towards = np.where((rng.random(len(truth)) < wrong) == (truth == 0), -1.0, 1.0)
    lean = 3.0 * towards + by * (2 * place - 1) + 0.5 * rng.standard_normal(len(truth))
    return np.stack([lean, np.zeros(len(truth))], axis=1).astype(np.float32)


def said(rng, place, rate):
    """(n,) the place with a share of wrong values."""
    return np.where(rng.random(len(place)) < rate, 1 - place, place)


def gap_of(scored, cue, logits):
    return measure_gap(cue_cells(scored, cue), logits, OPTIONS)


def test_a_margin_that_a_wrong_column_hides_acquits_nobody():
    """Trap 6: the margin hangs on the place by D = .3, of which a column that is wrong for 25 % shows half."""
    rng = np.random.default_rng(31)
    truth = rng.integers(0, 2, 12_000)
    place = tied(rng, truth, 0.5)
    logits = leaning(rng, truth, place)
    scored, seen = images(rng, truth), column("place", said(rng, place, 0.25))
    known = replace(seen, error=KnownError(rate=0.25, images=4000))
    true = gap_of(scored, column("place", place), logits)
    assert true.margin_d.value > OPTIONS.delta
    assert abs(true.gap.value) < 0.02, "its errors hang on nothing"
    answerer = GivenAnswerer(name="given:x", logits=logits, path="", probabilities=None)
    as_it_is, corrected = (row[0] for row in reliance_of([answerer], [seen, known], scored, options=OPTIONS).findings)
    assert as_it_is.does_not_hang_on_it
    assert as_it_is.gap.corrected_margin_d is None
    assert corrected.gap.margin_d == as_it_is.gap.margin_d
    assert corrected.gap.corrected_margin_d.low < true.margin_d.value < corrected.gap.corrected_margin_d.high
    assert not corrected.does_not_hang_on_it
    assert any("the margin D may be larger" in reason for reason in reasons_of(corrected, WORDS))


def test_an_answerer_that_ignores_the_cue_is_acquitted_under_a_wrong_column_too():
    rng = np.random.default_rng(32)
    truth = rng.integers(0, 2, 12_000)
    place = tied(rng, truth, 0.5)
    cue = replace(column("place", said(rng, place, 0.2)), error=KnownError(rate=0.2, images=4000))
    answerer = GivenAnswerer(name="given:x", logits=leaning(rng, truth, place, by=0.0), path="", probabilities=None)
    measured = reliance_of([answerer], [cue], images(rng, truth), options=OPTIONS).findings[0][0]
    assert measured.does_not_hang_on_it
    margin = measured.gap.corrected_margin_d
    assert margin.high - margin.low > measured.gap.margin_d.high - measured.gap.margin_d.low


def test_at_the_ceiling_a_wrong_column_hides_no_margin():
    """Without errors the margin alone can say that the answers hang on the cue (trap 23)."""
    rng = np.random.default_rng(33)
    truth = rng.integers(0, 2, 6000)
    place = tied(rng, truth, 0.5)
    logits = leaning(rng, truth, place, wrong=0.0)
    seen = column("place", said(rng, place, 0.3))
    scored = images(rng, truth)
    as_it_is = gap_of(scored, seen, logits)
    assert as_it_is.state == "at the ceiling"
    assert not as_it_is.hangs_at_the_ceiling(OPTIONS)
    corrected = gap_of(scored, replace(seen, error=KnownError(rate=0.3, images=4000)), logits)
    assert corrected.hangs_at_the_ceiling(OPTIONS)


def test_what_cannot_be_corrected_acquits_nobody():
    """Fewer values differ from the class than are wrong: nobody can say which images conflict."""
    rng = np.random.default_rng(34)
    truth = rng.integers(0, 2, 6000)
    place = tied(rng, truth, 0.9)
    cue = replace(column("place", place), error=KnownError(rate=0.2, images=4000))
    answerer = GivenAnswerer(name="given:x", logits=leaning(rng, truth, place, by=0.0), path="", probabilities=None)
    measured = reliance_of([answerer], [cue], images(rng, truth), options=OPTIONS).findings[0][0]
    assert measured.gap.does_not_hang_on_it(OPTIONS)
    assert measured.gap.corrected_margin_d.value is None
    assert not measured.does_not_hang_on_it


def test_a_column_of_many_values_is_corrected_by_what_goes_to_each():
    """Wrong values spread over four others: one in five of those said to lack the place has it, and few the reverse."""
    rng = np.random.default_rng(35)
    truth = rng.integers(0, 2, 20_000)
    value = rng.integers(0, 5, 20_000)
    wrong = rng.random(20_000) < 0.2
    called = np.where(wrong, (value + rng.integers(1, 5, 20_000)) % 5, value)
    logits = leaning(rng, truth, (value == 0).astype(np.int64), by=0.5)
    scored = images(rng, truth)
    true = gap_of(scored, column("x", (value == 0).astype(np.int64)), logits).margin_d.value
    cue = replace(column("x", (called == 0).astype(np.int64)), error=KnownError(rate=0.2, images=10_000), values=5)
    found = gap_of(scored, cue, logits)
    assert found.margin_d.high < true - 0.05
    assert found.corrected_margin_d.value == pytest.approx(true, abs=0.04)


def test_copies_narrow_no_corrected_margin_and_sources_widen_it():
    """Traps 18 and 22."""
    rng = np.random.default_rng(36)
    truth = rng.integers(0, 2, 800)
    place = tied(rng, truth, 0.5)
    logits = leaning(rng, truth, place)
    cue = replace(column("place", said(rng, place, 0.1)), error=KnownError(rate=0.1, images=1000))
    scored, rows = images(rng, truth), np.repeat(np.arange(800), 5)
    once = gap_of(scored, cue, logits).corrected_margin_d
    copies = gap_of(scored.take(rows), cue.take(rows), logits[rows]).corrected_margin_d
    assert (copies.low, copies.high, copies.n) == pytest.approx((once.low, once.high, 800))
    source = np.arange(800) % 10
    # sources that move the margins of images with the place and of those without it by amounts of their own
    shifted = logits.copy()
    shifted[:, 0] += (0.8 * rng.standard_normal((10, 2)))[source, place]
    told = ScoredImages(truth=truth, classes=2, cluster=source, discovery=source % 2 == 0, sources=True)
    widths = []
    for each in (scored, told):
        found = gap_of(each, cue, shifted).corrected_margin_d
        widths.append(found.high - found.low)
    assert widths[1] > 1.5 * widths[0]


def test_a_corrected_margin_covers_the_true_one():
    covered = []
    for seed in range(60):
        rng = np.random.default_rng([37, seed])
        truth = rng.integers(0, 2, 1500)
        place = tied(rng, truth, 0.75)
        lean = 1.0 - 2.0 * truth + 0.74 * place + rng.standard_normal(1500)  # D = 2 Phi(.74 / sqrt 2) - 1 = .4
        logits = np.stack([lean, np.zeros(1500)], axis=1).astype(np.float32)
        error = KnownError(rate=rng.binomial(200, 0.2) / 200, images=200)
        found = gap_of(images(rng, truth), replace(column("x", said(rng, place, 0.2)), error=error), logits)
        margin = found.corrected_margin_d
        covered.append(margin.low <= 0.4 <= margin.high)
    assert sum(covered) >= 54  # P(fewer of 60 at 95 %) = 4 %


def test_the_sentence_of_an_acquittal_gives_the_corrected_margin():
    text = sentence(
        WORDS,
        Verdict.DATA_ONLY,
        association(),
        "label",
        "clip",
        margin_d=around(0.02, 0.03, 900),
        corrected_margin_d=around(0.04, 0.06, 900),
    )
    assert "margin D = 0.02" in text
    assert "corrected for the column's known error 0.04, 95 % interval -0.02 to 0.10" in text
