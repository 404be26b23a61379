"""Reliance: believed for what the model hangs on, and for nothing else (traps 11, 12, 19, 22 to 26 and 29)."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from clipaudit.cues.answerers.given import answers_alone
from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.findings.sentences import Words
from clipaudit.cues.findings.still_needed import images_against, images_short_of, reasons_of
from clipaudit.cues.reliance import rules
from clipaudit.cues.reliance.images import OtherColumn, RelianceOptions
from clipaudit.cues.reliance.training_effect import RetrainedAnswers
from tests.reliance_worlds import CUE_HEADS, DIM, HEADS, LABELS, answerer_of, column, copied, images, tied

CUE_LABELS = {LABELS[head] for head in CUE_HEADS}


def report_of(rng, answerer, cues, truth, count=2, **options):
    return reliance_of([answerer], cues, images(rng, truth, count), options=RelianceOptions(**options))


@pytest.fixture(scope="module")
def confounded():
    """800 images; the model looks at `place`; three ghosts are drawn from the label alone."""
    rng = np.random.default_rng(11)
    classes = rng.integers(0, 2, 800)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place)
    cues = [
        column("place", place),
        *(column(f"ghost {share}", tied(rng, classes, share)) for share in (0.9, 0.75, 0.5)),
    ]
    return report_of(rng, answerer, cues, classes)


def test_a_cue_that_the_model_hangs_on_is_believed_and_its_heads_are_found(confounded):
    place = confounded.findings[0][0]
    assert place.relies_on_it
    assert place.fails_where
    assert not place.does_not_hang_on_it
    assert all(set(heads) >= CUE_LABELS for heads in place.effect.heads)
    assert place.effect.visibility.low > 0.9
    assert place.effect_p < 0.05
    assert place.effect.gap_after.value < place.effect.gap_before.value / 2
    assert place.effect.did.value == pytest.approx(place.effect.gap_before.value - place.effect.gap_after.value)
    assert place.effect.doses[0].gap == place.gap.gap
    assert place.effect.doses[-1].gap == place.effect.gap_after


def test_the_headline_is_never_more_than_the_effect(confounded):
    """A control that goes the other way would make the effect larger than it is (trap 19)."""
    effect = confounded.findings[0][0].effect
    assert effect.net_did.value <= effect.did.value + 1e-12
    assert effect.net_conflict_rise.value <= effect.conflict_rise.value + 1e-12


def test_ghost_columns_are_not_believed(confounded):
    """Trap 11: heads of another cue raise their conflict groups, and aligned ones as much."""
    for row in confounded.findings[1:]:
        assert not row[0].relies_on_it
        assert not row[0].fails_where
        assert not row[0].needed


def test_placebos_are_rarely_believed(confounded):
    assert confounded.placebo.draws == 199
    assert confounded.placebo.rate <= 0.05
    assert confounded.placebo.rate_of_any <= 0.05


def test_placebos_of_a_trained_answerer_are_held_against_draws_of_its_own():
    """Training again with the column's weights mends half of all errors: of the true column, and of permuted ones."""
    rng = np.random.default_rng(25)
    classes = rng.integers(0, 2, 600)
    place = tied(rng, classes, 0.5)
    conflicting = (place == 1) != (classes == 0)
    right = np.where(conflicting, rng.random(600) < 0.5, rng.random(600) < 0.95)
    answerer = answers_alone(np.where(right, classes, 1 - classes), 2, "rehearsed")
    after = right | (rng.random(600) < 0.9)
    drawn = np.stack([after, *(right ^ (rng.random(600) < 0.02) for _ in range(60))])
    retrained = RetrainedAnswers(
        before=right,
        after=after,
        drawn_before=right,
        drawn=drawn,
        training_rows=600,
        seen=place + rng.normal(size=600),
        taught_by=np.zeros(600, np.int64),
    )
    report = reliance_of(
        [answerer], [column("place", place)], images(rng, classes), retrained={"rehearsed": [retrained]}
    )
    assert report.findings[0][0].relies_on_it
    assert report.placebo.draws == 199
    assert report.placebo.rate <= 0.05
    assert set(report.placebo.believed_by) == {"rehearsed"}


def test_the_same_seed_gives_the_same_numbers():
    def once():
        rng = np.random.default_rng(3)
        classes = rng.integers(0, 2, 200)
        place = tied(rng, classes, 0.5)
        return report_of(rng, answerer_of(rng, classes, place), [column("place", place)], classes).findings[0][0]

    assert once() == once()


@pytest.mark.parametrize("side", ["hard", "easy"])
def test_difficulty_is_no_cue_of_a_biased_model(side):
    """Trap 25: a model that prefers class 0 answers it for hard images, whatever their class."""
    rng = np.random.default_rng(5)
    classes = rng.integers(0, 2, 1500)
    having = tied(rng, classes, 0.75)
    hard = having if side == "hard" else 1 - having
    answerer = answerer_of(rng, classes, rng.integers(0, 2, 1500), reliance=0.0, bias=1.2, hardness=0.8 * hard)
    reliance = report_of(rng, answerer, [column(side, having)], classes).findings[0][0]
    assert not reliance.gap.both_sides
    assert not reliance.relies_on_it
    assert not reliance.fails_where
    assert not reliance.needed


def test_wrong_labels_are_no_reliance():
    """Trap 24: they lie among the conflicting images, and make a gap where nothing hangs on anything."""
    rng = np.random.default_rng(6)
    true_class = rng.integers(0, 2, 3000)
    labels = np.where(rng.random(3000) < 0.03, 1 - true_class, true_class)
    place = tied(rng, true_class, 0.9)
    answerer = answerer_of(rng, true_class, place, reliance=0.0, core=2.0)
    reliance = report_of(rng, answerer, [column("place", place)], labels).findings[0][0]
    assert reliance.gap.above_margin(reliance.options)
    assert reliance.gap.both_sides
    assert reliance.label_noise.rate == pytest.approx(0.03, abs=0.012)
    assert not reliance.label_noise.counts
    assert not reliance.fails_where
    assert not reliance.relies_on_it
    vouched = report_of(rng, answerer, [column("place", place)], labels, clean_labels=True).findings[0][0]
    assert vouched.fails_where


def test_a_model_at_chance_is_never_acquitted():
    """Trap 23: it has no gap, however much its margin hangs on the cue."""
    rng = np.random.default_rng(7)
    classes = rng.integers(0, 2, 4000)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place, core=0.0, reliance=0.2, bias=20.0)
    reliance = report_of(rng, answerer, [column("place", place)], classes).findings[0][0]
    assert abs(reliance.gap.gap.value) < 0.01
    assert reliance.gap.state == "at chance"
    assert not reliance.does_not_hang_on_it
    assert not reliance.relies_on_it


def test_a_model_without_errors_is_never_acquitted_and_said_to_hang_on_the_cue():
    rng = np.random.default_rng(8)
    classes = rng.integers(0, 2, 2000)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place, core=4.0, noise=0.7, reliance=0.5)
    reliance = report_of(rng, answerer, [column("place", place)], classes).findings[0][0]
    assert reliance.gap.state == "at the ceiling"
    assert reliance.gap.hangs_at_the_ceiling(reliance.options)
    assert reliance.hangs_on_it
    assert not reliance.fails_where
    assert not reliance.does_not_hang_on_it


def test_an_able_model_that_ignores_the_cue_is_acquitted():
    rng = np.random.default_rng(9)
    classes = rng.integers(0, 2, 8000)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place, reliance=0.0)
    reliance = report_of(rng, answerer, [column("place", place)], classes, placebo_rows=1000).findings[0][0]
    assert reliance.does_not_hang_on_it
    assert not reliance.relies_on_it


def test_what_a_coarse_column_leaves_of_a_property_must_count_by_itself():
    """The model hangs on the water; `place` records it with 3 % errors, brightness follows the water in 75 %."""
    rng = np.random.default_rng(11)
    classes = rng.integers(0, 2, 8000)
    water = tied(rng, classes, 0.75)
    place = np.where(rng.random(8000) < 0.03, 1 - water, water)
    bright = np.where(rng.random(8000) < 0.25, 1 - water, water)
    others = [OtherColumn(name="place", codes=place, aligned=np.array([[False, True], [True, False]]))]
    declared = column("bright", bright)
    answerer, scored = answerer_of(rng, classes, water), images(rng, classes)
    of_declared, of_measured = (
        reliance_of([answerer], [cue], scored, columns=others).findings[0][0]
        for cue in (declared, replace(declared, measured=True))
    )
    assert 0 < of_declared.adjusted[0].gap.low < 0.05, "a little is left, surely"
    assert of_declared.explained_by == ()
    assert of_measured.explained_by == ("place",)
    assert not of_measured.relies_on_it
    assert not of_measured.fails_where


def test_a_follower_is_explained_by_the_column_that_it_follows():
    rng = np.random.default_rng(10)
    classes = rng.integers(0, 2, 1600)
    place = tied(rng, classes, 0.75)
    follower = np.where(rng.random(1600) < 0.2, 1 - place, place)
    answerer = answerer_of(rng, classes, place)
    aligned = np.array([[False, True], [True, False]])
    others = [
        OtherColumn(name="place", codes=place, aligned=aligned, of=("place=1",)),
        OtherColumn(name="follower", codes=follower, aligned=aligned, of=("follower=1",)),
        OtherColumn(name="copy", codes=place, aligned=aligned),
    ]
    cues = [column("place=1", place), column("follower=1", follower)]
    report = reliance_of([answerer], cues, images(rng, classes), columns=others)
    of_place, of_follower = (row[0] for row in report.findings)
    assert of_place.relies_on_it
    assert of_place.explained_by == ()
    assert of_place.inseparable_from == ("copy",)
    assert of_follower.explained_by == ("place", "copy")
    assert not of_follower.relies_on_it
    assert not of_follower.fails_where


def test_a_twin_that_is_tied_as_strongly_and_drawn_apart_explains_nothing():
    """The model hangs on the place and on its twin, each drawn from the class alone: neither stands for the other."""
    rng = np.random.default_rng(13)
    classes = rng.integers(0, 2, 4000)
    place, twin = tied(rng, classes, 0.75), tied(rng, classes, 0.75)
    misled = (place != (classes == 0)).astype(float) + (twin != (classes == 0))
    answers = np.where(rng.random(4000) < 0.05 + 0.25 * misled, 1 - classes, classes)
    aligned = np.array([[False, True], [True, False]])
    others = [
        OtherColumn(name="place", codes=place, aligned=aligned, of=("place=1",)),
        OtherColumn(name="twin", codes=twin, aligned=aligned, of=("twin=1",)),
    ]
    cues = [column("place=1", place), column("twin=1", twin)]
    report = reliance_of([answers_alone(answers, 2)], cues, images(rng, classes), columns=others)
    for (reliance,) in report.findings:
        assert reliance.explained_by == ()
        assert reliance.inseparable_from == ()
        assert reliance.gap.gap.low > 0.05


def test_a_watched_model_can_fail_where_and_no_more():
    rng = np.random.default_rng(12)
    classes = rng.integers(0, 2, 800)
    place = tied(rng, classes, 0.5)
    answers = np.where(rng.random(800) < 0.4, 1 - place, classes)  # class 0 has the place
    report = report_of(rng, answers_alone(answers, 2), [column("place", place)], classes)
    reliance = report.findings[0][0]
    assert reliance.effect is None
    assert reliance.fails_where
    assert not reliance.relies_on_it


def test_a_model_that_answers_by_the_cue_alone_is_at_chance_and_believed():
    """Its group mean is 50 %, its gap is not 0: that it cannot tell the classes acquits nobody."""
    rng = np.random.default_rng(19)
    classes = rng.integers(0, 2, 600)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place, core=0.3, reliance=1.2)
    reliance = report_of(rng, answerer, [column("place", place)], classes).findings[0][0]
    assert reliance.gap.state == "at chance"
    assert reliance.relies_on_it


def test_no_answer_is_no_right_answer():
    """And no wrong one: without any answer nothing is measured."""
    rng = np.random.default_rng(13)
    classes = rng.integers(0, 2, 200)
    report = report_of(rng, answers_alone(np.full(200, -1), 2), [column("x", tied(rng, classes, 0.5))], classes)
    reliance = report.findings[0][0]
    assert reliance.gap.group_mean.value is None
    assert reliance.gap.state == "too few"
    assert not reliance.believed
    assert not reliance.does_not_hang_on_it


def test_images_without_an_answer_are_left_out_of_everything():
    """Half of the conflicting images have none; counted as wrong, or as answers of class 0, they made a gap of .4."""
    rng = np.random.default_rng(23)
    classes = rng.integers(0, 2, 1200)
    place = tied(rng, classes, 0.5)
    answers = np.where(rng.random(1200) < 0.2, 1 - classes, classes)
    conflicting = (place == 1) != (classes == 0)
    missing = conflicting & (rng.random(1200) < 0.5)
    scored, cue = images(rng, classes), column("place", place)
    options = RelianceOptions(draws=99)
    all_answered = answers_alone(answers, 2)
    part = answers_alone(np.where(missing, -1, answers), 2)
    both = reliance_of([all_answered, part], [cue], scored, options=options)
    of_part = both.findings[0][1]
    rest = np.flatnonzero(~missing)
    alone = reliance_of(
        [answers_alone(answers[rest], 2)], [cue.take(rest)], scored.take(rest), options=options
    ).findings[0][0]
    assert of_part.gap == alone.gap
    assert of_part.label_noise == alone.label_noise
    assert abs(of_part.gap.gap.value) < 0.1
    assert not of_part.believed
    # answered images keep their values among themselves in every permutation
    assert of_part.gap_p == pytest.approx(alone.gap_p, abs=0.15)


@pytest.mark.parametrize("rule", ["relies_on_it", "fails_where", "needed"])
def test_every_verdict_of_reliance_counts_as_a_placebo(monkeypatch, rule):
    """Also of a model without errors, whose verdict rests on the margin."""
    rng = np.random.default_rng(24)
    classes = rng.integers(0, 2, 400)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place, core=6.0)
    wide = {"alpha": 0.5, "draws": 99}
    plain = report_of(np.random.default_rng(1), answerer, [column("x", place)], classes, **wide)
    assert plain.findings[0][0].gap.state == "at the ceiling"
    monkeypatch.setattr(rules.MeasuredReliance, rule, property(lambda measured: measured.gap.both_sides))
    counted = report_of(np.random.default_rng(1), answerer, [column("x", place)], classes, **wide)
    assert counted.placebo.believed > plain.placebo.believed
    assert counted.placebo.believed <= 99


def test_copies_narrow_nothing():
    """Trap 18: the same images five times give the same intervals."""
    rng = np.random.default_rng(14)
    classes = rng.integers(0, 2, 160)
    place = tied(rng, classes, 0.5)
    answerer, once = answerer_of(rng, classes, place), images(rng, classes)
    rows = np.repeat(np.arange(160), 5)
    plain = reliance_of([answerer], [column("place", place)], once).findings[0][0]
    copies = reliance_of([copied(answerer, rows)], [column("place", place[rows])], once.take(rows)).findings[0][0]
    assert copies.gap.gap.value == pytest.approx(plain.gap.gap.value)
    assert copies.gap.gap.high - copies.gap.gap.low >= plain.gap.gap.high - plain.gap.gap.low - 1e-9
    width = plain.effect.did.high - plain.effect.did.low
    assert copies.effect.did.high - copies.effect.did.low == pytest.approx(width, rel=1e-6)
    assert copies.gap.margin_d.low == pytest.approx(plain.gap.margin_d.low, rel=1e-6)
    assert all(cell.n_effective <= 160 for cell in copies.gap.cells)
    # what a gate and a reader take for the number of images
    assert copies.gap.gap.n == plain.gap.gap.n == 160
    assert [cell.accuracy.n for cell in copies.gap.cells] == [cell.accuracy.n for cell in plain.gap.cells]
    assert copies.effect.net_did.n == plain.effect.net_did.n == 160
    assert copies.gap.margin_d.n == plain.gap.margin_d.n


def test_few_sources_decide_nothing():
    """Trap 22."""
    rng = np.random.default_rng(15)
    classes = rng.integers(0, 2, 700)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place)
    for sources, decided in ((7, False), (20, True)):
        scored = images(rng, classes, cluster=np.arange(700) % sources, sources=True)
        reliance = reliance_of([answerer], [column("place", place)], scored).findings[0][0]
        assert reliance.relies_on_it == decided
        assert (reliance.gap.state == "too few") == (not decided)


def test_a_class_with_too_few_images_is_left_out():
    rng = np.random.default_rng(16)
    classes = np.concatenate([rng.integers(0, 2, 400), np.full(6, 2)])
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place, count=3)
    reliance = report_of(rng, answerer, [column("place", place, 3)], classes, 3).findings[0][0]
    assert {cell.k for cell in reliance.gap.cells} == {0, 1}


@pytest.mark.parametrize("having", ["all", "none", "unknown", "one side"])
def test_columns_that_compare_nothing_decide_nothing(having):
    rng = np.random.default_rng(17)
    classes = rng.integers(0, 2, 120)
    codes = {
        "all": np.ones(120, np.int64),
        "none": np.zeros(120, np.int64),
        "unknown": np.full(120, -1),
        "one side": np.where(classes == 0, rng.integers(0, 2, 120), 0),
    }[having]
    answerer = answerer_of(rng, classes, rng.integers(0, 2, 120))
    reliance = report_of(rng, answerer, [column("x", codes)], classes).findings[0][0]
    assert reliance.gap.state == "too few"
    assert not reliance.relies_on_it
    assert not reliance.fails_where
    assert not reliance.needed
    assert not reliance.does_not_hang_on_it


def test_a_text_is_taken_out_of_all_heads():
    """The third arm, which decides nothing: the cue's text, as every head sees it."""
    rng = np.random.default_rng(20)
    classes = rng.integers(0, 2, 400)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place, noise=0.6)
    text = np.zeros((HEADS, DIM), np.float32)
    text[list(CUE_HEADS), 0] = 1 / np.sqrt(2)
    arms = {}
    for name, vector in (("cue", text.ravel()), ("other", np.roll(text, 1, axis=1).ravel())):
        cue = replace(column("place", place), text=vector)
        effect = report_of(rng, answerer, [cue], classes).findings[0][0].effect
        arms[name] = {arm.name: arm for arm in effect.arms}
    assert arms["cue"]["text in all heads"].did.low > 0.3
    assert abs(arms["other"]["text in all heads"].did.value) < 0.1
    assert arms["cue"]["direction only"].net_did.low > 0.2


def test_no_cue_and_no_answerer_is_an_empty_report():
    rng = np.random.default_rng(18)
    classes = rng.integers(0, 2, 20)
    assert reliance_of([], [], images(rng, classes)).findings == ()


# -- what is still needed ----------------------------------------------------------------------------------------------


def test_images_against_the_cue_are_asked_for_where_only_they_are_too_few(confounded):
    assert images_against(confounded.findings[0][0]) is None  # nothing is missing
    rng = np.random.default_rng([4, 91])
    classes = np.repeat([0, 1], 100)
    place = tied(rng, classes, 0.9)
    unsure = report_of(rng, answerer_of(rng, classes, place), [column("place", place)], classes).findings[0][0]
    assert unsure.hangs_on_it
    assert not unsure.relies_on_it
    rise = unsure.effect.net_conflict_rise
    assert rise.low < 0 < rise.value
    # intervals narrow with the root of n, which counts images against the cue alone
    half = (rise.high - rise.low) / 2
    assert rise.n < 40
    assert images_against(unsure) == math.ceil(rise.n * ((half / rise.value) ** 2 - 1))


@pytest.mark.parametrize("side", ["has", "lacks"])
def test_a_cue_that_moves_one_side_alone_is_told_with_the_classes_of_the_other(side):
    """A gap without a verdict: whoever reads it asks why."""
    rng = np.random.default_rng(5)
    classes = rng.integers(0, 2, 1500)
    having = tied(rng, classes, 0.75)
    answerer = answerer_of(rng, classes, rng.integers(0, 2, 1500), reliance=0.0, bias=1.2, hardness=0.8 * having)
    measured = report_of(rng, answerer, [column("x", having)], classes).findings[0][0]
    assert measured.gap.above_margin(measured.options)
    assert measured.gap.have.p > 0.5 > measured.gap.lack.p
    own, other = ("cats", "dogs") if side == "has" else ("dogs", "cats")
    words = Words(classes=(own,), cue="x", side=side, others=(other,))
    (reason,) = (text for text in reasons_of(measured, words) if "both sides" in text)
    assert f"on images of cats it does not (margin D {measured.gap.have.d.value:.2f}" in reason


def test_a_gap_that_may_be_below_the_margin_asks_for_the_images_that_would_tell():
    rng = np.random.default_rng([4, 92])
    classes = np.repeat([0, 1], 150)
    place = tied(rng, classes, 0.5)
    answerer = answerer_of(rng, classes, place, reliance=0.15, core=1.2)
    measured = report_of(rng, answerer, [column("place", place)], classes).findings[0][0]
    gap, margin = measured.gap.gap, measured.options.margin
    assert gap.low < margin < gap.value
    words = Words(classes=("cats",), cue="snow", side="has", others=("dogs",))
    (need,) = images_short_of(measured, words)
    # intervals narrow with the root of n
    assert need.images == math.ceil(gap.n * (((gap.high - gap.low) / 2 / (gap.value - margin)) ** 2 - 1))
    assert "the gap may be below 5 points" in need.what
    explained = replace(measured, adjusted=(SimpleNamespace(column="x", explains=True, inseparable=False),))
    assert images_short_of(explained, words) == ()
