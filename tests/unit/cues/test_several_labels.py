"""Audits of images with several labels: each label against the images without it, and labels that go together."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from clipaudit.cues import AuditOptions, Verdict, audit_cues
from clipaudit.cues.presence import MAX_LABELS
from clipaudit.cues.report.gate import FAIL_ON, judge
from clipaudit.cues.report.save import save_report
from clipaudit.cues.result.result import json_schema
from clipaudit.errors import UsageError
from tests.audit_worlds import WIDTH, Texts, cue_world, text_pool, unit, write_world

QUICK = {"negative_audits": 4, "positive_trials": 4, "random_sets": 200, "templates": "single"}


def with_labels(world, **shares):
    """The world with lists of labels: `name=(share with water, share without)`, and 5 % of lists empty."""
    rng = np.random.default_rng(7)
    wet = np.array([place == "water" for place in world.attributes["place"]])
    has = {name: rng.random(len(wet)) < np.where(wet, *share) for name, share in shares.items()}
    empty = rng.random(len(wet)) < 0.05
    lists = [tuple(name for name in has if has[name][n]) if not empty[n] else () for n in range(len(wet))]
    names = tuple(sorted(has))
    return replace(world, lists=lists, names=names, classes=unit(rng.standard_normal((len(names), WIDTH))))


def audited(world, path, **options):
    run = write_world(world, path / "run", shards=12, label_kind="strings")
    return audit_cues(run, AuditOptions(**{**QUICK, **options}), texts=Texts(world), pool=text_pool())


def said(result):
    """(images, cue) of each finding."""
    return {(finding.class_name, finding.cue.value or finding.cue.name) for finding in result.findings}


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    """Boats where there is water, coins anywhere, with the column `place`."""
    world = with_labels(cue_world(1500, 0), boat=(0.9, 0.1), coin=(0.3, 0.3))
    return audited(world, tmp_path_factory.mktemp("harbour"), attributes=("place",))


def test_a_column_that_goes_with_a_label_is_tied_and_nothing_more(harbour):
    assert said(harbour) == {("images with `boat`", "water")}
    (finding,) = harbour.findings
    assert finding.verdict is Verdict.TIED
    assert finding.sentence.startswith("Images with `boat` go with 'water' (D = 0.")
    assert finding.sentence.endswith("what a model makes of it is not measured where images have several labels.")
    assert (finding.reliance, finding.groups) == ((), None)
    assert [row.class_name for row in finding.classes] == ["images with `boat`", "images without `boat`"]
    assert all(ref.predicted is None for ref in finding.gallery.aligned)


def test_what_was_compared_is_said(harbour):
    assert harbour.settings.several_labels
    assert {(facts.class_name, facts.tested, facts.accuracy) for facts in harbour.classes} == {
        ("boat", True, None),
        ("coin", True, None),
    }
    assert harbour.data.attributes == ("attributes.place",)
    assert harbour.settings.attributes == ("place",)
    assert harbour.trust.limits[0].startswith("Images have several labels: each is compared with the images without it")
    assert (harbour.data.counterfactual, harbour.groups, harbour.predictability) == (None, (), ())
    assert {"weights", "balanced"}.isdisjoint(harbour.rows)
    assert set(harbour.rows["groups"]["class"].to_pylist()) == {"boat", "coin", "boat, coin", "none"}
    jsonschema.validate(harbour.to_json(), json_schema())


def test_the_gate_does_not_pass_what_is_not_measured(harbour):
    gate = judge(harbour, (), fail_on=("confirmed",), require_evidence=True)
    assert (gate.outcome, gate.exit_code) == ("inconclusive", 3)
    assert any("another label, goes with a label" in question for question in gate.open_questions)
    failed = judge(harbour, (), fail_on=tuple(FAIL_ON), require_evidence=False)
    assert (failed.outcome, failed.failing) == ("failed", (harbour.findings[0].id,))


def test_the_page_speaks_of_images_with_a_label(harbour, tmp_path):
    save_report(harbour, tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "images with `boat`" in page
    assert "2 labels</span>" in page
    assert "2 of 2 were each compared with the images without it" in page
    for phrase in ("CLIP right", "says images with", "Class by class", "Other classes"):
        assert phrase not in page
    assert "images with \\`boat\\`" in (tmp_path / "report/summary.md").read_text(encoding="utf-8")
    assert "clipaudit.images with `boat`" in (tmp_path / "report/junit.xml").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report/report.json").read_text())["audit"]["settings"]["several_labels"]


def test_the_explorers_filters_ask_for_the_labels(harbour, tmp_path):
    from clipaudit.explorer.finding_cards import finding_cards
    from clipaudit.explorer.report_file import ReportFile
    from clipaudit.run.reader import Run
    from clipaudit.run.rows import chosen_rows
    from clipaudit.storage.directory import Storage

    save_report(harbour, tmp_path / "report")
    document = json.loads((tmp_path / "report/report.json").read_text())
    run = Run(harbour.run)
    (card,) = finding_cards(run, ReportFile(storage=Storage(str(tmp_path / "report")), document=document))
    assert card["class_filter"] == "label = boat"
    filters = {tuple(cell["where"]) for row in card["cells"]["rows"] for cell in row}
    assert filters == {
        (f"label {sign} boat", f"place = {place}") for sign in ("=", "!=") for place in ("land", "water")
    }
    assert all(chosen_rows(run, list(each)).where for each in filters)


def test_without_a_column_the_text_is_a_candidate(tmp_path):
    world = with_labels(cue_world(1500, 1), boat=(0.95, 0.05), coin=(0.3, 0.3))
    result = audited(world, tmp_path)
    assert said(result) == {("images with `boat`", "the cue")}
    (finding,) = result.findings
    assert finding.verdict is Verdict.CANDIDATE
    assert "part of what the label means or a shortcut" in finding.sentence


def test_two_labels_that_go_together_are_said_once(tmp_path):
    world = with_labels(cue_world(1500, 2), ball=(0.4, 0.4), coin=(0.3, 0.3))
    rng = np.random.default_rng(3)
    lists = [(*labels, "dog") if ("ball" in labels) == (rng.random() < 0.85) else labels for labels in world.lists]
    world = replace(world, lists=lists, names=("ball", "coin", "dog"), classes=unit(rng.standard_normal((3, WIDTH))))
    result = audited(world, tmp_path)
    (finding,) = result.findings
    assert finding.class_name in ("images with `ball`", "images with `dog`")
    assert finding.cue.value in ("ball", "dog")
    assert "two labels that go together, so that a model may learn one from the other" in finding.sentence
    assert finding.action.startswith("Add images that have one of the two labels without the other")
    (tmp_path / "core").mkdir()
    quick = {"negative_audits": 0, "positive_trials": 0}
    (allowed,) = audited(world, tmp_path / "core", core=("ball", "dog"), **quick).findings
    assert allowed.core, "a label may be part of what another one means, by the user's word"


def test_a_cue_that_is_another_label_is_said_as_such(tmp_path):
    world = with_labels(cue_world(2000, 4), lake=(1.0, 0.0), coin=(0.3, 0.3))
    rng = np.random.default_rng(5)
    lists = [(*labels, "swan") if ("lake" in labels) == (rng.random() < 0.9) else labels for labels in world.lists]
    world = replace(world, lists=lists, names=("coin", "lake", "swan"), classes=unit(rng.standard_normal((3, WIDTH))))
    result = audited(world, tmp_path)
    of_swan = [finding for finding in result.findings if "swan" in (finding.class_name + (finding.cue.value or ""))]
    assert not [finding for finding in of_swan if finding.kind == "text"], "the text is the other label"
    assert [finding.cue.value for finding in of_swan]


@pytest.mark.parametrize(
    ("seeds", "fewest"), [pytest.param(1, 1, id="one"), pytest.param(5, 4, id="five", marks=pytest.mark.slow)]
)
def test_labels_that_nothing_goes_with_give_no_finding(tmp_path, seeds, fewest):
    quiet = 0
    for seed in range(seeds):
        world = with_labels(cue_world(600, 20 + seed), cup=(0.4, 0.4), fork=(0.2, 0.2), knife=(0.6, 0.6))
        (tmp_path / str(seed)).mkdir()
        result = audited(world, tmp_path / str(seed), attributes=("place",), negative_audits=0, positive_trials=0)
        quiet += not result.findings
        assert result.sentence.startswith("No shortcut cue was found for any of the 3 labels") or result.findings
    assert quiet >= fewest


def test_the_same_seed_gives_the_same_result(tmp_path):
    world = with_labels(cue_world(500, 6), boat=(0.9, 0.1), coin=(0.3, 0.3))
    first, second = (audited(world, path, attributes=("place",)) for path in (tmp_path / "a", tmp_path / "b"))
    assert [finding.association for finding in first.findings] == [
        replace(finding.association, rows=finding.association.rows.replace("/b/", "/a/")) for finding in second.findings
    ]


def test_too_few_images_of_every_label_is_no_pass(tmp_path):
    world = with_labels(cue_world(60, 8), boat=(0.05, 0.05), coin=(1.0, 1.0))
    result = audited(world, tmp_path)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.sentence.startswith("Inconclusive: no label has 10 independent images with it and 10 without it")
    gate = judge(result, (), fail_on=("confirmed",), require_evidence=True)
    assert gate.open_questions[0] == "No label has enough images with it and without it."


def test_ten_thousand_labels_are_bounded(tmp_path):
    world = cue_world(400, 9)
    rng = np.random.default_rng(0)
    lists = [
        (*(f"word {n}" for n in range(25 * row, 25 * row + 25)), "boat" if rng.random() < 0.5 else "car")
        for row in range(400)
    ]
    names = tuple(sorted({label for labels in lists for label in labels}))
    world = replace(world, lists=lists, names=names, classes=unit(rng.standard_normal((len(names), WIDTH))))
    result = audited(world, tmp_path, negative_audits=0, positive_trials=0)
    assert len(result.classes) == 10_002
    assert [facts.class_name for facts in result.classes if facts.tested] == ["boat", "car"]
    assert sum(facts.tested for facts in result.classes) <= MAX_LABELS
    assert not result.findings, "both are drawn by chance"
    assert "10000 labels were not tested" in result.sentence


def test_what_is_not_measured_is_refused(tmp_path):
    world = with_labels(cue_world(200, 10), boat=(0.9, 0.1), coin=(0.3, 0.3))
    with pytest.raises(
        UsageError, match="--test-where and --predictions are for answers that are scored, which is not"
    ):
        audited(world, tmp_path, test_where=("split = test",))


def test_a_class_file_with_fewer_names_says_which_are_missing(tmp_path):
    world = with_labels(cue_world(200, 11), boat=(0.9, 0.1), coin=(0.3, 0.3))
    (tmp_path / "classes.txt").write_text("boat\tboat\ncar\tcar\n")
    with pytest.raises(UsageError, match=r"the run's label 'coin' has no name in .*classes.txt, which has 2 classes"):
        audited(world, tmp_path, classes=str(tmp_path / "classes.txt"))
