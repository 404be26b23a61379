"""Traps that others fell into (docs/method.md 9), each a regression test; 1 to 10 fail for the wrong method.

Traps 11, 19, 22 to 26 and 29 are tested on plain arrays in tests/unit/cues/test_reliance.py and its statistics'; the
table is in docs/method.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from clipaudit.cues import AuditOptions, audit_cues
from clipaudit.cues.findings import by_text
from clipaudit.cues.findings.verdicts import verdicts
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.directions import class_subspace
from clipaudit.cues.reliance.images import CueColumn, ScoredImages, cue_cells
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.statistics import groups, screen
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import attribute_screen, omnibus
from clipaudit.cues.statistics.cuts import honest
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.groups import conflict_of, describe_groups, grouping
from clipaudit.cues.statistics.intervals import Paired, accuracy
from clipaudit.cues.statistics.pseudo import MIN_PURITY, CorrectedChange, corrected_change, purity
from clipaudit.cues.statistics.strength import binned, strengths
from tests import audit_arrays
from tests.audit_arrays import average_change, rates_from_truth, screen_codes
from tests.audit_examples import Rules, association, case
from tests.audit_worlds import Texts, cue_world, text_pool, write_world
from tests.cue_pictures import NAMED, run_of_pictures

CLASSES, VALUES = ("landbird", "waterbird"), ("land", "water")


@pytest.mark.parametrize("first", [0.5, 0.75, 0.9, 0.98])
def test_trap_1_imbalance_makes_no_finding(first):
    rng = np.random.default_rng(int(100 * first))
    for _ in range(10):
        truth = rng.permutation((np.arange(1000) >= 1000 * first).astype(int))
        found = screen_codes([binned(rng.normal(size=1000)) for _ in range(50)], Design(truth, 2))
        assert not found.flagged(0.05, 0.2).any()


def test_trap_2_strength_does_not_vanish_with_prevalence():
    """A cue with AUC 0.75 has D = 0.5 at every prevalence."""
    rng = np.random.default_rng(2)
    shift = np.sqrt(2) * norm.ppf(0.75)
    for share in (0.5, 0.1, 0.02):
        truth = (rng.random(40_000) < share).astype(int)
        found = strengths(binned(rng.normal(size=40_000) + shift * truth), Design(truth, 2))
        assert found.d[1] == pytest.approx(0.5, abs=0.05)
        assert found.low[1] > 0.4


def test_trap_3_many_tests_on_noise_raise_no_alarm():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 1000)
    found = screen_codes([binned(rng.normal(size=1000)) for _ in range(960)], Design(truth, 2))
    assert 25 <= (found.p < 0.05).sum() <= 75  # about 48 raw alarms
    assert (found.q <= 0.05).sum() == 0
    assert not found.flagged(0.05, 0.2).any()


def test_trap_4_the_class_is_projected_out_and_never_conditioned_on():
    """Conditioning on the class score makes a cue that is independent of the label look associated: a collider."""
    rng = np.random.default_rng(4)
    n = 20_000
    truth, cue = rng.integers(0, 2, n), rng.normal(size=n)
    score = (2 * truth - 1) + cue + 0.5 * rng.normal(size=n)  # the model's class score uses the cue
    residual_label = truth - np.polyval(np.polyfit(score, truth, 1), score)
    residual_cue = cue - np.polyval(np.polyfit(score, cue, 1), score)
    assert np.corrcoef(residual_label, residual_cue)[0, 1] < -0.35
    assert abs(strengths(binned(cue), Design(truth, 2)).d[1]) < 0.03
    classes = np.array([[1.0, 0.5, 0], [-1.0, 0.5, 0]])
    subspace = class_subspace(classes)
    u = np.array([0.6, 0.0, 0.8])
    free = u - subspace.T @ (subspace @ u)
    assert np.allclose(free, [0, 0, 0.8])


def simulated(seed=5, n=40_000):
    """Linear margins: core pushes to the truth, cue pushes to its side; returns truth, place, right answers with all,
    without the cue's head and without the core's head, and the core head's own projection."""
    rng = np.random.default_rng(seed)
    truth, place = rng.integers(0, 2, n), rng.integers(0, 2, n)
    core = 1.0 * (2 * truth - 1) + 0.8 * rng.normal(size=n)
    cue = 0.9 * (2 * place - 1) + 0.3 * rng.normal(size=n)
    rest = 0.5 * (2 * truth - 1) + 0.6 * rng.normal(size=n)

    def right(margin):
        return (margin > 0) == (truth == 1)

    return truth, place, right(core + cue + rest), right(core + rest), right(cue + rest), core


def test_trap_5_groups_from_the_ablated_head_are_circular():
    truth, place, before, _, without_core, core = simulated()
    own = (core > 0).astype(int)

    def change(codes):
        found = grouping(truth, CLASSES, "", VALUES, codes)
        sizes, right, after = found.sizes(), found.right(before), found.right(without_core)
        worst = int((right / sizes).argmin())
        return (after[worst] - right[worst]) / sizes[worst]

    assert change(place) < -0.1  # the truth: ablating the core head hurts the worst group
    assert change(own) > change(place) + 0.1  # its own projection would hide that
    # what the audit does instead: groups by labels; a core head's removal hurts conflicting and aligned images alike
    images = ScoredImages(
        truth=truth, classes=2, cluster=np.arange(len(truth)), discovery=np.arange(len(truth)) % 2 == 0
    )
    column = CueColumn(name="place=water", having=place, pointed=np.array([False, True]), tested=np.ones(2, np.bool_))
    cells = cue_cells(images, column)
    change = without_core.astype(float) - before
    did = cells.cells.combine(change, -cells.difference(cells.shares)).estimate()
    rise = cells.cells.combine(change, cells.part(cells.shares, 1)).estimate()
    assert rise.high < 0
    assert did.high < 0


@pytest.mark.full
def test_trap_5_a_pseudo_attribute_does_not_see_the_heads_that_are_ablated(tmp_path, monkeypatch):
    seen, chosen = [], []
    without, choose = Answers.embedding_without, by_text.choose_heads
    monkeypatch.setattr(
        Answers, "embedding_without", lambda self, heads: seen.append(set(heads)) or without(self, heads)
    )
    monkeypatch.setattr(by_text, "choose_heads", lambda *given: chosen.append(set(choose(*given))) or choose(*given))
    world = cue_world(3000, 0, reliance=0.5)
    run = write_world(world, tmp_path / "run")
    (tmp_path / "classes.txt").write_text("landbird\nwaterbird\n")
    options = AuditOptions(
        classes=str(tmp_path / "classes.txt"), templates="single", permutations=0, negative_audits=0, positive_trials=0
    )
    audit_cues(run, options, texts=Texts(world), pool=text_pool())
    assert any(chosen)
    assert all(any(heads <= taken for taken in seen) for heads in chosen)


def test_trap_6_pseudo_attribute_errors_flip_the_effect_and_the_correction_restores_it():
    rng = np.random.default_rng(6)
    n = 40_000
    truth = rng.integers(0, 2, n)
    place = np.where(rng.random(n) < 0.95, truth, 1 - truth)
    said = np.where(rng.random(n) < 0.1, 1 - place, place)
    conflict = place != truth
    change = np.where(conflict, rng.choice([0, 1], n, p=[0.8, 0.2]), rng.choice([-1, 0], n, p=[0.1, 0.9]))
    found = grouping(truth, CLASSES, "place", VALUES, said)
    sides = conflict_of(found, 1, 1)
    raw = Paired(change=change, group=found.group, cluster=np.arange(n)).mean(sides.groups, sides.weights)
    rates = rates_from_truth(said, place)
    assert purity(found.sizes().reshape(2, 2), rates, 1, 1) == pytest.approx(0.32, abs=0.03)
    assert purity(found.sizes().reshape(2, 2), rates, 1, 1) < MIN_PURITY
    assert raw.value < 0.03
    corrected = corrected_change(change, found, 1, 1, rates).conflict
    assert corrected.low <= 0.2 <= corrected.high
    assert corrected.value == pytest.approx(0.2, abs=0.03)


def test_trap_7_labels_alone_are_never_more_than_a_candidate():
    for rules in (Rules(relies_on_it=True, fails_where=True), Rules(does_not_hang_on_it=True), Rules(needed=True)):
        assert verdicts(case(kind="text", reliance=(rules,))) == (Verdict.CANDIDATE,)


def test_trap_8_association_and_reliance_are_two_things():
    absent = association(0.0, above_delta=False, within_delta=True)
    four = {
        (goes, relies): verdicts(case(association=goes_with, reliance=(rules,)))[0]
        for goes, goes_with in ((True, association()), (False, absent))
        for relies, rules in ((True, Rules(relies_on_it=True)), (False, Rules(does_not_hang_on_it=True)))
    }
    assert four[True, True] is Verdict.CONFIRMED
    assert four[True, False] is Verdict.DATA_ONLY
    assert four[False, True] is Verdict.MODEL_ONLY
    assert four[False, False] is Verdict.INCONCLUSIVE


def test_trap_9_the_worst_groups_interval_covers_where_a_bootstrap_does_not():
    rng = np.random.default_rng(9)
    sizes, truth = np.array([200, 200, 200, 200]), 0.8
    group = np.repeat(np.arange(4), sizes)
    found = grouping(group // 2, CLASSES, "place", VALUES, group % 2)
    covered = bootstrap = 0
    for seed in range(200):
        good = rng.random(800) < truth
        worst = describe_groups(found, good, "", n_min=30, seed=seed).worst
        covered += worst.accuracy.low <= truth <= worst.accuracy.high
        drawn = rng.binomial(sizes, found.right(good) / sizes, (200, 4)) / sizes
        low, high = np.quantile(drawn.min(axis=1), (0.025, 0.975))
        bootstrap += low <= truth <= high
    assert bootstrap / 200 < 0.75
    assert covered / 200 > 0.93


def test_trap_10_the_average_of_skewed_data_moves_the_wrong_way():
    rng = np.random.default_rng(10)
    truth, place, before, after, _, _ = simulated(10)
    kept = (place == truth) | (rng.random(len(truth)) < 0.05 / 0.95)
    found = grouping(truth[kept], CLASSES, "place", VALUES, place[kept])
    change = (after.astype(int) - before)[kept]
    paired = Paired(change=change, group=found.group, cluster=np.arange(len(change)))
    conflict = conflict_of(found, 1, 1)
    assert average_change(change, np.arange(len(change))).high < 0
    assert paired.mean(conflict.groups, conflict.weights).low > 0.1
    assert paired.mean(range(4)).low > 0.05


def shared_cue(classes, having, n, seed, share=0.95):
    """Scores of a cue that the first classes have in `share` of their images and the others in the rest."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    cue = np.where(truth < having, rng.random(n) < share, rng.random(n) < 1 - share)
    return truth, 2.0 * cue + 0.5 * rng.normal(size=n)


@pytest.mark.parametrize(("classes", "having"), [(3, 2), (5, 3), (10, 6)])
def test_trap_14_a_cue_that_most_classes_share_is_found_and_those_that_lack_it_are_named(classes, having):
    for seed in range(5):
        truth, scores = shared_cue(classes, having, 200 * classes, 140 + seed)
        noise = np.random.default_rng(seed).normal(size=(len(truth), 20))
        found = screen_codes([binned(scores), *(binned(column) for column in noise.T)], Design(truth, classes))
        flagged = found.flagged(0.05, 0.2)
        assert set(np.flatnonzero(flagged[0])) == set(range(having, classes))
        assert set(np.flatnonzero(found.cuts[0].upper)) == set(range(having))
        assert not flagged[1:].any()


def test_trap_15_a_column_of_many_values_is_tested_as_a_whole():
    rng = np.random.default_rng(15)
    truth = np.repeat(np.arange(8), 400)
    place = np.where(truth == 0, rng.integers(0, 12, 3200), rng.integers(0, 24, 3200))
    column = Attribute(column="place", values=tuple(f"v{n:02d}" for n in range(24)), codes=place)
    found = attribute_screen(column, Design(truth, 8))
    dealt = [rng.permutation(truth) for _ in range(99)]
    assert not found.screen.passed(0.05, 0.2)[:-1].any(), "no single value"
    assert found.screen.passed(0.05, 0.2)[-1]
    assert omnibus(found, np.arange(3200), Design(truth, 8), dealt, 0.05).tied
    coin = attribute_screen(
        Attribute(column="coin", values=("a", "b"), codes=rng.integers(0, 2, 3200)), Design(truth, 8)
    )
    assert not omnibus(coin, np.arange(3200), Design(truth, 8), dealt, 0.05).tied


def test_trap_17_the_best_of_many_directions_is_read_from_other_images():
    rng, shift = np.random.default_rng(17), np.sqrt(2) * norm.ppf(0.65)
    covered = []
    for _ in range(60):
        truth = np.repeat([0, 1], 50)
        scores = rng.normal(size=(100, 20)) + shift * (truth == 1)[:, None]  # D = .3 along all
        found = screen_codes([binned(column) for column in scores.T], Design(truth, 2))
        best = int(np.argmax([cut.low for cut in found.cuts]))
        low, high = found.limits[best] * (1 if found.cuts[best].upper[1] else -1)
        covered.append(min(low, high) <= 0.3 <= max(low, high))
    assert np.mean(covered) >= 0.88


def test_trap_18_copies_are_one_image():
    rng = np.random.default_rng(18)
    truth, cluster = np.repeat([0, 1], 100), np.repeat(np.arange(40), 5)
    scores = np.repeat(rng.normal(size=40), 5) + 0.8 * truth
    once = Design(truth[::5], 2, None, None, Design(truth, 2, cluster).halves[::5])
    alone = screen_codes([binned(scores[::5])], once)
    copied = screen_codes([binned(scores)], Design(truth, 2, cluster))
    assert copied.cuts[0].d == pytest.approx(alone.cuts[0].d)
    assert copied.cuts[0].error >= 0.9 * alone.cuts[0].error
    right = np.repeat(rng.random(40) < 0.7, 5)
    copies = describe_groups(
        grouping(truth, CLASSES, "place", VALUES, truth), right, "", n_min=30, seed=0, cluster=cluster
    )
    assert [group.independent for group in copies.groups] == [20, 20]
    assert {group.size for group in copies.groups} == {"greyed"}
    assert copies.worst is None


@pytest.mark.full
@pytest.mark.parametrize(("cue", "named"), [("ocean", True), ("border", False), ("watermark", False)])
def test_trap_20_where_no_text_fits_the_report_says_so(cue, named, tmp_path):
    """A red border is not "a photo of two objects"."""
    run = run_of_pictures(tmp_path, cue, 600, seed=31)
    result = audit_cues(run, AuditOptions(attributes=("cue",), negative_audits=0, positive_trials=0, permutations=0))
    finding = next(finding for finding in result.findings if finding.cue.attribute is not None)
    assert finding.no_good_word is not named
    assert finding.gallery.aligned
    assert any(word in finding.cue.name for word in NAMED["ocean"][1]) is named


@pytest.mark.full
def test_trap_20_a_picture_property_has_no_word_of_other_classes_pictures(tmp_path):
    """Sharp pictures are sketches in other classes, and in this one they carry a watermark."""
    run = run_of_pictures(tmp_path, "watermark", 600, seed=9100)
    result = audit_cues(run, AuditOptions(negative_audits=0, positive_trials=0, permutations=0))
    sharp = next(finding for finding in result.findings if finding.cue.value == "sharp pictures")
    assert sharp.class_name == "apple"
    assert sharp.no_good_word
    assert sharp.cue.name == "sharp pictures"
    assert sharp.gallery.aligned


@pytest.mark.full
@pytest.mark.slow
def test_class_labels_alone_name_what_sets_exactly_their_classes_apart(tmp_path):
    """ "A scene in blue light" passes for another parting of the classes, and goes with what is right here."""
    run = run_of_pictures(tmp_path, "black and white", 1200, seed=500)
    result = audit_cues(run, AuditOptions(negative_audits=0, positive_trials=0))
    cues = [finding for finding in result.findings if finding.class_name == "apple"]
    assert any(word in cues[0].cue.name for word in NAMED["black and white"][1])
    assert not cues[0].no_good_word


def test_trap_21_what_to_collect_is_one_number_everywhere(tmp_path):
    world = cue_world(1500, 21, test_aligned=0.5)
    run = write_world(world, tmp_path / "run")
    (tmp_path / "classes.txt").write_text("landbird\nwaterbird\n")
    options = AuditOptions(
        classes=str(tmp_path / "classes.txt"),
        templates="single",
        permutations=0,
        negative_audits=0,
        positive_trials=0,
        attributes=("place",),
        where=("split=train",),
        test_where=("split=test",),
    )
    result = audit_cues(run, options, texts=Texts(world), pool=text_pool())
    finding = next(finding for finding in result.findings if finding.kind == "value")
    rows = [row for row in result.rows["collect"].to_pylist() if row["finding"] == finding.id]
    total = sum(row["collect"] for row in rows)
    assert total == sum(row.collect for row in finding.classes) > 0
    assert f"{total:,} images" in finding.action
    having = {row.class_name: row.with_cue + (row.collect if not row.has else 0) for row in finding.classes}
    lacking = {row.class_name: row.without_cue + (row.collect if row.has else 0) for row in finding.classes}
    shares = [having[name] / (having[name] + lacking[name]) for name in having]
    assert np.ptp(shares) < 0.02, "then the cue goes with no class"


def test_trap_28_real_classes_differ_and_that_is_no_candidate(tmp_path):
    """Directions along which classes differ and no context text stands for: listed, no candidates, no obstacle."""
    world = cue_world(1200, 28, aligned=0.5, core=1.0)
    run = write_world(world, tmp_path / "run")
    (tmp_path / "classes.txt").write_text("landbird\nwaterbird\n")
    things = text_pool()
    things = replace(things, kinds=("core-like",) * len(things.texts))
    options = AuditOptions(
        classes=str(tmp_path / "classes.txt"), templates="single", negative_audits=2, positive_trials=2
    )
    result = audit_cues(run, options, texts=Texts(world), pool=things)
    assert result.findings == ()
    assert result.differences
    assert result.verdict is None


# -- the traps themselves: each test above fails when the method is the wrong one --------------------------------------


REAL = {"strengths": strengths, "honest": honest, "verdict": verdicts}


def majority(codes, design, bins=1024):
    """Trap 1: how often always answering the largest class is right, against even odds."""
    found = REAL["honest"](codes, design, bins)
    d = 2 * design.counts.max() / len(design.truth) - 1
    error = 1 / np.sqrt(len(design.truth))
    cut = replace(found.cut, d=d, error=error, z=d / error)
    return replace(found, d=np.array([-d, d]), error=np.full(2, error), cut=cut)


def weighted_by_prevalence(codes, design, bins=1024):
    """Trap 2: a score that weighs by class size."""
    found = REAL["strengths"](codes, design, bins)
    return replace(found, d=found.d * 2 * design.counts.min() / len(design.truth))


class ByImage(Paired):
    """Trap 10: every image counts equally."""

    def mean(self, groups, weights=None, level=0.95):
        inside = np.isin(self.group, list(groups))
        return average_change(self.change[inside], self.cluster[inside])


def raw(p):
    """Trap 3."""
    return p


def by_labels(case):
    """Trap 7: class labels taken for attributes."""
    return REAL["verdict"](replace(case, kind="value"))


def by_reliance(case):
    """Trap 8: what is relied on must be in the data."""
    return REAL["verdict"](replace(case, association=association()))


def uncorrected(change, found, k, value, rates, seed=0):
    """Trap 6."""
    sides = conflict_of(found, k, value)
    mean = Paired(change=change, group=found.group, cluster=np.arange(len(change))).mean
    return CorrectedChange(conflict=mean(sides.groups, sides.weights), group_mean=mean(range(4)))


WRONG = {
    1: (audit_arrays, "honest", majority),
    2: (None, "strengths", weighted_by_prevalence),
    3: (screen, "benjamini_hochberg", raw),
    4: (None, "class_subspace", lambda classes: np.empty((0, classes.shape[1]))),
    6: (None, "corrected_change", uncorrected),
    7: (None, "verdicts", by_labels),
    8: (None, "verdicts", by_reliance),
    9: (groups, "accuracy", lambda right, total, groups=1: accuracy(right, total)),
    10: (None, "Paired", ByImage),
}


@pytest.mark.parametrize("number", WRONG)
def test_a_trap_is_noticed(number, monkeypatch):
    where, name, wrong = WRONG[number]
    trap = next(test for title, test in globals().items() if title.startswith(f"test_trap_{number}_"))
    if where is None:
        monkeypatch.setitem(globals(), name, wrong)
    else:
        monkeypatch.setattr(where, name, wrong)
    arguments = (0.9,) if number == 1 else ()
    with pytest.raises(AssertionError):
        trap(*arguments)
