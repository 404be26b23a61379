"""Gate and waivers: who fails a build, who may excuse it, and until when."""

import json
from dataclasses import replace
from datetime import date
from xml.etree import ElementTree

import pytest

from clipaudit.cues.findings.sentences import Words, action
from clipaudit.cues.report.document import Report
from clipaudit.cues.report.first_screen import to_do
from clipaudit.cues.report.gate import FAIL_ON, judge, parse_fail_on
from clipaudit.cues.report.junit import junit_xml
from clipaudit.cues.report.waivers import Waiver, apply_waivers, load_waivers, unknown_waiver
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.result.panels import Dropped
from clipaudit.errors import UsageError
from tests.audit_examples import (
    around,
    candidate,
    confirmed,
    example_result,
    inconclusive,
    observed,
    reliance,
    unlabelled_result,
)

TODAY = date(2026, 11, 21)


def audit_of(*findings, **changes):
    return replace(example_result(), findings=findings, **changes)


def gate(audit, fail_on=("confirmed",), waivers=(), evidence=False):
    return judge(audit, waivers, fail_on=parse_fail_on(fail_on), require_evidence=evidence)


def waived(audit, finding=None, expires="2027-03-31", tmp_path=None):
    file = tmp_path / "waivers.yaml"
    file.write_text(
        f"waivers:\n- finding: '{finding or audit.findings[0].id}'\n  owner: jo\n  reason: all studio shots\n"
        f"  expires: {expires}\n"
    )
    return apply_waivers(load_waivers(file), audit, TODAY)


def outcome(*arguments, **options):
    found = gate(*arguments, **options)
    return found.outcome, found.exit_code


def test_a_confirmed_shortcut_fails():
    found = gate(audit_of(confirmed()))
    assert (found.outcome, found.exit_code, found.failing) == ("failed", 1, (confirmed().id,))
    assert found.sentence == "Gate failed: 1 finding of the kind confirmed."


ACTIONS = {"Add", "Collect", "Decide", "Do", "Give", "Keep", "Label", "Look", "Make", "Mend", "Run", "Use"}
"""First words of sentences that say what to do."""


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_to_do_about_a_finding_is_an_action(verdict):
    words = Words(classes=("waterbird",), cue="water", side="has", others=("landbird",), column="place")
    said = action(verdict, words, 40)
    assert said.split()[0] in ACTIONS
    assert "waterbird" in said or "place" in said or "collect.csv" in said or "water" in said


WITHOUT_FINDINGS = {
    "nothing": {},
    "the model guesses": {"trust": replace(example_result().trust, near_chance=True)},
    "a column that was dropped": {"dropped": (Dropped(what="attributes.place", head=None, reason="no value"),)},
    "few images": {"classes": tuple(replace(c, independent=40) for c in example_result().classes)},
    "shards": {"hygiene": replace(example_result().hygiene, failed_shards=2)},
    "few sources": {
        "verdict": Verdict.INCONCLUSIVE,
        "sentence": "The images come from 4 sources, and eight are needed.",
    },
}


@pytest.mark.parametrize("changes", WITHOUT_FINDINGS.values(), ids=WITHOUT_FINDINGS)
def test_what_to_do_without_a_finding_is_an_action_with_its_reason(changes):
    audit = audit_of(**{"verdict": None, **changes})
    judged = gate(audit)
    said = to_do(Report(audit=audit, gate=judged, waivers=(), files=(), command="clipaudit report"))
    assert said.split()[0] in ACTIONS
    assert len(judged.remedies) == len(judged.open_questions)
    assert all(remedy.split()[0] in ACTIONS for remedy in judged.remedies)
    assert judged.outcome == ("inconclusive" if changes else "passed")
    assert not judged.open_questions or judged.open_questions[0] in said


def test_nothing_found_passes_when_planted_cues_are_found():
    assert outcome(audit_of(), evidence=True) == ("passed", 0)


def test_a_candidate_is_not_known_to_be_fine():
    assert outcome(audit_of(candidate())) == ("inconclusive", 0)
    assert outcome(audit_of(candidate()), evidence=True) == ("inconclusive", 3)


def test_a_candidate_fails_where_that_is_asked_for():
    strong = replace(candidate(), association=replace(candidate().association, d=around(0.6, 0.02, 4795)))
    assert outcome(audit_of(strong), fail_on=("confirmed", "candidate")) == ("failed", 1)


def test_too_few_images_are_inconclusive():
    assert outcome(audit_of(inconclusive()), evidence=True) == ("inconclusive", 3)


def test_a_weak_tie_warns():
    weak = replace(confirmed(), association=replace(confirmed().association, d=around(0.3, 0.05, 4795)))
    found = gate(audit_of(weak))
    assert (found.outcome, found.exit_code) == ("inconclusive", 0)
    assert "the gate fails beyond 0.40" in found.warnings[0]
    assert found.sentence == f"Inconclusive: {found.warnings[0]}", "a confirmed shortcut is no pass"
    assert outcome(audit_of(weak), evidence=True) == ("inconclusive", 3)


def test_an_exit_code_of_missing_evidence_stands_in_junit_too():
    weak = replace(confirmed(), association=replace(confirmed().association, d=around(0.3, 0.05, 4795)))
    audit = audit_of(weak)
    judged = gate(audit, evidence=True)
    report = Report(audit=audit, gate=judged, waivers=(), files=(), command="clipaudit report")
    evidence = ElementTree.fromstring(junit_xml(report)).find("./testsuite/testcase[@name='evidence']/failure")
    assert evidence is not None
    assert evidence.get("message") == judged.warnings[0]


def test_one_of_five_bins_of_a_number_may_fail_by_the_tie_of_the_whole_number():
    """A fifth of the images cannot be tied beyond 0.4 to one of two classes, however strongly the number is."""
    weak = replace(confirmed(), association=replace(confirmed().association, d=around(0.32, 0.05, 4795)))
    table = replace(
        example_result().attributes[0], attribute=weak.cue.attribute, kind="number", d=around(0.8, 0.05, 4795)
    )
    assert outcome(audit_of(weak, attributes=(table,))) == ("failed", 1)
    assert outcome(audit_of(weak, attributes=(replace(table, d=around(0.42, 0.05, 4795)),))) == ("inconclusive", 0)


def test_a_tie_that_was_not_learned_is_no_pass():
    """A pass needs ties below delta: the next model may learn what this one did not."""
    found = gate(audit_of(replace(confirmed(), verdict=Verdict.DATA_ONLY)), evidence=True)
    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    assert found.sentence == "Inconclusive: 1 finding: a cue is tied to a class, though no answer hangs on it."


def test_a_negative_tie_counts_by_its_size():
    negative = replace(confirmed(), association=replace(confirmed().association, d=around(-0.6, 0.05, 4795)))
    assert outcome(audit_of(negative)) == ("failed", 1)


def test_a_small_cell_neither_fails_nor_passes():
    small = replace(confirmed(), reliance=(reliance(gap=around(0.4, 0.1, 40)),))
    found = gate(audit_of(small), evidence=True)
    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    assert "rest on 40 images; at least 100 are needed" in found.sentence


def test_a_model_shortcut_fails_without_a_tie_in_the_data():
    found = replace(confirmed(), verdict=Verdict.MODEL_ONLY,
                    association=replace(confirmed().association, d=around(0, 0.01, 4795)))  # fmt: skip
    assert outcome(audit_of(found), fail_on=("model-only",)) == ("failed", 1)
    assert outcome(audit_of(found)) == ("passed", 0)


@pytest.mark.parametrize(("sure", "measured", "expected"), [
    (False, True, "passed"),  # real classes differ in everything, a little
    (True, True, "inconclusive"),
    (False, False, "inconclusive"),  # a column that the user asked about
])  # fmt: skip
def test_a_property_that_nobody_declared_blocks_a_pass_only_if_its_tie_is_sure(sure, measured, expected):
    found = replace(
        inconclusive(),
        cue=replace(confirmed().cue, attribute="image.brightness", value="dark pictures"),
        association=replace(confirmed().association, above_delta=sure),
    )
    audit = audit_of(found)
    audit = replace(audit, data=replace(audit.data, image_properties=("image.brightness",) if measured else ()))
    assert gate(audit).outcome == expected


def test_an_invalid_audit_is_4_whatever_was_asked():
    trust = replace(example_result().trust, valid=False, problems=("Shuffled labels gave findings.",))
    for findings in ((), (confirmed(),)):
        found = gate(audit_of(*findings, trust=trust), fail_on=("never",))
        assert (found.outcome, found.exit_code) == ("invalid", 4)
        assert found.sentence == "The audit is not valid. Shuffled labels gave findings."


@pytest.mark.parametrize(
    "change",
    [
        {"trust": replace(example_result().trust, near_chance=True)},
        {"classes": ()},
        {"settings": replace(example_result().settings, classes_from="caption")},
        {"hygiene": replace(example_result().hygiene, failed_shards=1)},
        {"controls": replace(example_result().controls,
                             positive=(replace(example_result().controls.positive[1], detected=9),))},
        {"dropped": (Dropped(what="attributes.hat", head=None, reason="every image has the value 'no'"),)},
    ],
    ids=["guessing", "no classes", "no labels", "lost shard", "insensitive", "column of one value"],
)  # fmt: skip
def test_what_cannot_be_known_is_never_a_pass(change):
    assert outcome(audit_of(**change), evidence=True) == ("inconclusive", 3)


@pytest.mark.parametrize("source", ["caption", "clip"])
@pytest.mark.parametrize("findings", [(), (observed(),)], ids=["nothing", "observed"])
def test_what_is_only_observed_never_fails(source, findings):
    audit = unlabelled_result(source, *findings)
    assert outcome(audit, fail_on=tuple(FAIL_ON)) == ("inconclusive", 0)
    found = gate(audit, fail_on=tuple(FAIL_ON), evidence=True)
    assert (found.exit_code, found.failing, found.warnings) == (3, (), ())
    assert found.sentence == (
        "Inconclusive: Classes are what captions name, so nothing here is more than observed: only labels can decide."
        if source == "caption"
        else "Inconclusive: Classes are CLIP’s own answers, so nothing here is more than observed: only labels can"
        " decide."
    )


def test_never_sets_no_gate():
    found = gate(audit_of(confirmed()), fail_on=("never",))
    assert (found.exit_code, found.fail_on) == (0, ())


def test_an_active_waiver_excuses_a_finding(tmp_path):
    audit = audit_of(confirmed())
    found = gate(audit, waivers=waived(audit, tmp_path=tmp_path))
    assert (found.outcome, found.exit_code, found.waived) == ("passed", 0, (confirmed().id,))
    assert "1 finding waived" in found.sentence


def test_a_waiver_counts_on_its_last_day_and_not_after(tmp_path):
    audit = audit_of(confirmed())
    assert gate(audit, waivers=waived(audit, expires="2026-11-21", tmp_path=tmp_path)).exit_code == 0
    late = waived(audit, expires="2026-11-20", tmp_path=tmp_path)
    assert late[0].status == "expired"
    assert gate(audit, waivers=late).exit_code == 1


def test_a_waiver_of_an_unknown_finding_is_one_sentence(tmp_path):
    audit = audit_of(confirmed())
    applied = waived(audit, "feedbeef0000", tmp_path=tmp_path)
    assert gate(audit, waivers=applied).exit_code == 1
    assert unknown_waiver(applied, audit) == (
        f"--waivers: this audit has no finding 'feedbeef0000' (its findings: {confirmed().id}); remove or correct that"
        " waiver"
    )
    assert unknown_waiver(waived(audit, tmp_path=tmp_path), audit) is None


@pytest.mark.parametrize("suffix", ["toml", "json", "yaml"])
def test_waivers_in_every_format(tmp_path, suffix):
    file = tmp_path / f"waivers.{suffix}"
    entry = {"finding": "abc", "owner": "jo", "reason": "known", "expires": "2027-01-31"}
    file.write_text(
        "[[waivers]]\nfinding = 'abc'\nowner = 'jo'\nreason = 'known'\nexpires = 2027-01-31\n"
        if suffix == "toml"
        else json.dumps({"waivers": [entry]})
    )
    (waiver,) = load_waivers(file)
    assert (waiver.finding, waiver.expires) == ("abc", date(2027, 1, 31))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("waivers: [{finding: a, owner: b, reason: c}]", "waiver 1, expires: field required"),
        ("waivers: [{finding: a, owner: '', reason: c, expires: 2027-01-01}]", "waiver 1, owner: string should have"),
        (
            "waivers: [{finding: a, owner: b, reason: c, expires: soon}]",
            "waiver 1, expires: input should be a valid date",
        ),
        ("waivers: [{finding: a, owner: b, reason: c, expires: 2027-01-01, x: 1}]", "waiver 1, x: extra inputs"),
        ("waivers: 3", "must hold a list of waivers"),
        ("just text", "must hold a list of waivers"),
        ("", "must hold a list of waivers"),
        ("waivers: [", "is not valid yaml"),
        ("- {finding: a, owner: b, reason: c, expires: 2027-01-01}\n" * 2, "the finding a is waived twice"),
    ],
)
def test_malformed_waivers_are_one_sentence(tmp_path, text, message):
    file = tmp_path / "waivers.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as found:
        load_waivers(file)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_a_missing_waiver_file_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"--waivers .* cannot be read"):
        load_waivers(tmp_path / "none.yaml")


def test_fail_on_is_checked():
    assert parse_fail_on(("candidate", "confirmed", "confirmed")) == ("confirmed", "candidate")
    assert parse_fail_on(("never",)) == ()
    with pytest.raises(UsageError, match="--fail-on 'core' is not understood"):
        parse_fail_on(("core",))
    with pytest.raises(UsageError, match="stands alone"):
        parse_fail_on(("never", "confirmed"))


def test_a_finding_of_the_users_core_does_not_fail():
    found = replace(confirmed(), verdict=Verdict.NEEDED)
    assert outcome(audit_of(found), fail_on=("needed",)) == ("failed", 1)
    assert outcome(audit_of(replace(found, core=True)), fail_on=("needed",)) == ("passed", 0)


@pytest.mark.parametrize("verdict", [Verdict.FAILS_WHERE, Verdict.NEEDED, Verdict.TIED])
def test_what_somebody_has_to_look_at_is_no_pass_and_fails_when_asked(verdict):
    audit = audit_of(replace(confirmed(), verdict=verdict))
    word = verdict.name.lower().replace("_", "-")
    assert outcome(audit) == ("inconclusive", 0)
    assert outcome(audit, fail_on=(word,)) == ("failed", 1)


def test_few_independent_images_are_no_pass():
    classes = tuple(replace(facts, independent=99) for facts in example_result().classes)
    found = gate(replace(audit_of(), classes=classes), evidence=True)
    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    assert "Fewer than 100 independent images" in found.sentence


def test_a_class_that_could_not_be_tested_is_no_pass():
    untested = replace(example_result().classes[0], class_name="auk", n=4, independent=4, tested=False)
    empty = replace(untested, class_name="dodo", n=0, independent=0)
    audit = audit_of(classes=(*example_result().classes, empty))
    assert outcome(audit) == ("passed", 0)
    found = gate(replace(audit, classes=(*audit.classes, untested)), evidence=True)
    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    assert "Fewer than 100 independent images of auk" in found.sentence


def test_a_waiver_of_a_finding_that_was_merged_counts_and_warns():
    finding = confirmed()
    given = Waiver(finding=finding.former_ids[0], owner="Ada", reason="known", expires=date(2030, 1, 1))
    audit = audit_of(finding)
    applied = apply_waivers((given,), audit, date(2026, 1, 1))
    assert applied[0].status == "active"
    assert applied[0].matches == finding.id
    found = judge(audit, applied, fail_on=("confirmed",), require_evidence=False)
    assert found.waived == (finding.id,)
    assert any("name this one" in warning for warning in found.warnings)
