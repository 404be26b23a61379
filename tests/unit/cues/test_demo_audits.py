"""The audit on the demo's worlds, whose truth is known: the birds' shortcut, planted cues, clean controls."""

from __future__ import annotations

import json
import shutil

import pytest

from clipaudit.cues import AuditOptions, Verdict, audit_cues
from clipaudit.cues.report.gate import FAIL_ON, judge
from clipaudit.demo.world import nouns
from clipaudit.demo.world.captions import GROUP_PLACES, PLACES, STYLE_PREFIXES, TINT_PHRASES
from clipaudit.demo.world.datasets import PLANTED
from clipaudit.run.reader import Run
from tests.make_audits import audited_world

QUICK = {"negative_audits": 0, "positive_trials": 0, "permutations": 0, "random_sets": 200}
TRAIN, TEST = {"where": ("split=train",)}, {"test_where": ("split=test",)}
WAYS = {
    group: (*GROUP_PLACES[group], *(way for place in nouns.BACKGROUND_GROUPS[group] for way in PLACES[place]))
    for group in ("water", "land")
}
"""What captions call a place on water, and one on land."""
SEEDS = 20


def audited(run, **options):
    return audit_cues(run, AuditOptions(**{**QUICK, **options}))


def names(text, ways):
    return any(way.removesuffix(" of") in text for way in ways)


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    # of 4000 images 111 are scored waterbirds on land; a verdict needs a hundred
    return audited_world(tmp_path_factory.mktemp("birds"), "birds", 4000, 0, caption="txt")


@pytest.fixture(scope="module")
def captioned(birds, tmp_path_factory):
    """The same run as `clipaudit audit` without --label leaves it: its table has no column of labels."""
    folder = tmp_path_factory.mktemp("captioned") / "run"
    shutil.copytree(birds.directory.url, folder)
    manifest = json.loads((folder / "run.json").read_text())
    manifest["table"]["label_kind"] = manifest["identity"]["label"] = None
    (folder / "run.json").write_text(json.dumps(manifest))
    return Run(str(folder))


def value_findings(result):
    """Of declared columns and of image properties."""
    return [finding for finding in result.findings if finding.kind == "value"]


def check_confirmed(result):
    """The place is one finding with a row for each class, the only column confirmed, for CLIP and for a model trained
    on the images, named in words for water and land."""
    assert result.verdict is Verdict.CONFIRMED
    # the places differ in colour and light, too, which is measured and may be confirmed beside them
    finding, *others = [finding for finding in result.findings if finding.verdict is Verdict.CONFIRMED]
    assert all(other.cue.attribute.startswith("image.") for other in others)
    verdicts = {part.answerer: part.verdict for part in finding.reliance}
    assert verdicts == {"clip": Verdict.CONFIRMED, "rehearsed": Verdict.CONFIRMED}
    assert finding.cue.attribute == "attributes.place"
    assert {row.class_name: row.has for row in finding.classes} == {
        "waterbird": finding.cue.value == "water",
        "landbird": finding.cue.value == "land",
    }
    assert names(finding.cue.words[1].text, WAYS[finding.cue.value])
    effect = finding.counterfactual
    assert effect.did.low > 0
    assert effect.net_did.low > 0
    assert effect.net_conflict_rise.low > 0
    assert effect.group_mean_change.value >= -0.01
    assert effect.p < 0.05
    worst = finding.groups.worst
    assert worst.without.value > worst.accuracy.value
    assert (worst.class_name, worst.value) in {("landbird", "water"), ("waterbird", "land")}


def check_candidates(result):
    # the places differ in colour and light, too, which is measured and may be confirmed, beside the words for them
    texts = [finding for finding in result.findings if finding.kind == "text"]
    assert {finding.verdict for finding in texts} == {Verdict.CANDIDATE}
    # of two ends of one axis the one that says more names it
    assert any(names(f.cue.name, (*WAYS["water"], *WAYS["land"])) for f in texts)
    assert all(finding.needs for finding in texts)
    assert all(finding.cue.attribute.startswith("image.") for finding in result.findings if finding not in texts)


def check_model_only(result):
    (finding,) = value_findings(result)
    assert finding.verdict is Verdict.MODEL_ONLY
    assert finding.cue.attribute == "attributes.place"
    assert not any(finding.verdict is Verdict.CONFIRMED for finding in result.findings)


@pytest.mark.full
def test_the_birds_shortcut_is_confirmed_with_attributes(birds):
    check_confirmed(audited(birds, attributes=("place",), **TRAIN, **TEST))


@pytest.mark.full
def test_class_labels_alone_make_the_birds_shortcut_a_candidate(birds):
    check_candidates(audited(birds, **TRAIN, **TEST))


@pytest.mark.full
def test_a_balanced_split_shows_a_shortcut_of_the_model_alone(birds):
    check_model_only(audited(birds, attributes=("place",), where=("split=test",)))


def check_words_of_water(result):
    check_only_observed(result)
    assert any(names(f.cue.name, (*WAYS["water"], *WAYS["land"])) for f in result.findings)


def check_only_observed(result):
    assert result.findings
    assert {finding.verdict for finding in result.findings} == {Verdict.OBSERVED}
    gate = judge(result, (), fail_on=tuple(FAIL_ON), require_evidence=False)
    assert (gate.outcome, gate.exit_code, gate.failing) == ("inconclusive", 0, ())
    assert judge(result, (), fail_on=("confirmed",), require_evidence=True).exit_code == 3


@pytest.mark.full
def test_captions_without_labels_show_the_birds_shortcut_and_nothing_fails(captioned):
    result = audited(captioned, attributes=("place",), **TRAIN, **TEST)
    assert result.settings.classes_from == "caption"
    check_only_observed(result)
    (found,) = [finding for finding in value_findings(result) if finding.cue.attribute == "attributes.place"]
    assert names(found.cue.words[1].text, WAYS[found.cue.value])
    # few captions name a class: that brightness follows from the place is not sure, and it stands for itself
    others = [finding for finding in value_findings(result) if finding is not found]
    assert all(finding.cue.attribute.startswith("image.") for finding in others)
    assert found.rank < min((finding.rank for finding in others), default=99)
    left_out = result.data.left_out
    assert result.data.rows + left_out.unnamed + left_out.ambiguous == 2000
    assert 0.8 * 2000 < left_out.unnamed < 0.9 * 2000, "most captions of this world say duck, or bird"
    assert result.trust.accuracy.low > 0.9, "where captions name a class they are right, and so is CLIP on these"


@pytest.mark.full
def test_captions_alone_name_the_cue_in_words(captioned):
    check_words_of_water(audited(captioned, **TRAIN))


@pytest.mark.full
def test_clips_own_answers_show_what_they_go_with(captioned):
    check_words_of_water(audited(captioned, classes_from="clip", **TRAIN))


def check_planted(result):
    """Every planted cue for its class, in words that captions have for it; nothing for clean classes."""
    ways = {
        "cat": STYLE_PREFIXES[PLANTED["cat"]["style"]],
        "car": (*PLACES[PLANTED["car"]["background"]], f"{PLANTED['car']['background']} background"),
        "guitar": TINT_PHRASES[PLANTED["guitar"]["tint"]],
    }
    texts = [finding for finding in result.findings if finding.kind == "text"]
    found = [(finding.class_name, finding.cue.name) for finding in texts]
    assert {name for name, _ in found} == set(ways)
    assert all(names(text, ways[name]) for name, text in found)
    assert {finding.verdict for finding in texts} == {Verdict.CANDIDATE}
    # a style, a place and a tint can be seen in the pictures' own properties, too
    pictures = [finding for finding in result.findings if finding.kind != "text"]
    assert all(finding.cue.attribute.startswith("image.") for finding in pictures)
    # a clean class may share a property with one that has a cue: with seed 1 books are small files as well as cats
    assert all(set(finding.class_name.split(", ")) & set(ways) for finding in pictures)
    ends = {(finding.class_name, finding.cue.value) for finding in pictures if finding.side == "has"}
    assert ends >= {("cat", "pale pictures"), ("car", "bright pictures")}, "without colour, and in snow"


@pytest.mark.full
def test_planted_cues_are_found_for_their_classes_in_the_right_words(tmp_path):
    check_planted(audited(audited_world(tmp_path, "planted", 2000, 5)))


@pytest.mark.full
@pytest.mark.parametrize(("world", "count"), [("things", 1500), ("nulls", 1000)])
def test_clean_worlds_are_clean(tmp_path, world, count):
    result = audited(audited_world(tmp_path, world, count, 5))
    assert result.findings == ()
    # a class of the many has fewer than the hundred images that a pass asks for, and of random labels any model guesses
    few = any(facts.tested and facts.independent < 100 for facts in result.classes)
    assert result.trust.near_chance == (world == "nulls")
    assert result.verdict is (Verdict.INCONCLUSIVE if few or result.trust.near_chance else None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_birds(tmp_path, seed):
    run = audited_world(tmp_path, "birds", 8000, seed)
    result = audited(run, attributes=("place",), random_sets=500, **TRAIN, **TEST)
    check_confirmed(result)
    finding = result.findings[0]
    effect, worst = finding.counterfactual, finding.groups.worst
    print(
        f"\nseed {seed}, {finding.cue.name}: gap {effect.gap_before.value:.3f}, net DiD {effect.net_did.value:.3f}"
        f" ({effect.net_did.low:.3f} to {effect.net_did.high:.3f}), p {effect.p:.3f}; worst group {worst.class_name} on"
        f" {worst.value} (n = {worst.n}) {worst.accuracy.value:.3f} -> {worst.without.value:.3f}"
    )
    check_candidates(audited(run, **TRAIN, **TEST))
    check_model_only(audited(run, attributes=("place",), where=("split=test",)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_planted(tmp_path, seed):
    check_planted(audited(audited_world(tmp_path, "planted", 3000, seed)))


@pytest.mark.slow
@pytest.mark.parametrize(("world", "count"), [("things", 3000), ("nulls", 2000)])
def test_clean_worlds(tmp_path, world, count):
    """No finding in at least 19 of 20 seeds."""
    found = {}
    for seed in range(1, SEEDS + 1):
        (tmp_path / str(seed)).mkdir()
        result = audited(audited_world(tmp_path / str(seed), world, count, seed))
        found |= {seed: [(f.class_name, f.cue.name) for f in result.findings]} if result.findings else {}
    print(f"\n{world}: findings in {len(found)} of {SEEDS} seeds: {found}")
    assert len(found) <= SEEDS - 19
