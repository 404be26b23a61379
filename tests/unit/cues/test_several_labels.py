"""Audits of images with several labels: each label against the images without it, and labels that go together."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from clipaudit.cues import AuditOptions, Verdict, audit_cues
from clipaudit.cues.presence import MAX_LABELS
from clipaudit.cues.rehearse_run import rehearse_run
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


def visible_boats(n, seed):
    """A split world whose images show whether there is a boat, which in training goes with water in 95 %; coins are
    anywhere, and not to be seen. A column `ghost` goes with boats in 90 %, and no image shows it."""
    world = cue_world(n, seed, core=0.5, spread=1.2, test_aligned=0.5)
    rng = np.random.default_rng([14, seed])
    lists = [
        ("boat", *coin) if boat else coin for boat in world.labels for coin in [("coin",) if rng.random() < 0.3 else ()]
    ]
    half = np.arange(n) < n // 2
    ghost = np.where(rng.random(n) < np.where(half, 0.9, 0.5), world.labels, 1 - world.labels)
    attributes = {**world.attributes, "ghost": [("absent", "present")[value] for value in ghost]}
    classes = unit(rng.standard_normal((2, WIDTH)))
    return replace(world, lists=lists, names=("boat", "coin"), classes=classes, attributes=attributes)


def audited(world, path, **options):
    run = write_world(world, path / "run", shards=12, label_kind="strings")
    return audit_cues(run, AuditOptions(**{**QUICK, **options}), texts=Texts(world), pool=text_pool())


def said(result):
    """(images, cue) of each finding."""
    return {(finding.class_name, finding.cue.value or finding.cue.name) for finding in result.findings}


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    """Boats where there is water, coins anywhere, with the column `place`; nothing is trained."""
    world = with_labels(cue_world(1500, 0), boat=(0.9, 0.1), coin=(0.3, 0.3))
    return audited(world, tmp_path_factory.mktemp("harbour"), attributes=("place",), rehearse=False)


@pytest.fixture(scope="module")
def boats(tmp_path_factory):
    """A model of boats is trained on one half and scored on the other."""
    return audited(visible_boats(2000, 0), tmp_path_factory.mktemp("boats"), attributes=("place", "ghost"),
                   split="split")  # fmt: skip


def test_a_column_that_goes_with_a_label_is_tied_and_nothing_more(harbour):
    assert said(harbour) == {("images with `boat`", "water")}
    (finding,) = harbour.findings
    assert finding.verdict is Verdict.TIED
    assert finding.sentence.startswith("Images with `boat` go with 'water' (D = 0.")
    assert finding.sentence.endswith("what a model makes of it is not measured: it was left out (--no-rehearse).")
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
    with pytest.raises(UsageError, match="--predictions is for one answer an image, which is not right or wrong"):
        audited(world, tmp_path, predictions=("mine=answers.csv",))


def test_a_class_file_with_fewer_names_says_which_are_missing(tmp_path):
    world = with_labels(cue_world(200, 11), boat=(0.9, 0.1), coin=(0.3, 0.3))
    (tmp_path / "classes.txt").write_text("boat\tboat\ncar\tcar\n")
    with pytest.raises(UsageError, match=r"the run's label 'coin' has no name in .*classes.txt, which has 2 classes"):
        audited(world, tmp_path, classes=str(tmp_path / "classes.txt"))


# -- what a model of a label learns ------------------------------------------------------------------------------------


def of(result, value):
    return next(finding for finding in result.findings if finding.cue.value == value)


def test_a_cue_that_a_model_of_the_label_learns_is_confirmed(boats):
    finding = of(boats, "water")
    assert finding.verdict is Verdict.CONFIRMED
    (part,) = finding.reliance
    assert (part.answerer, part.effect, part.chance) == ("rehearsed", None, 0.5)
    assert part.ranking.aligned.value > 0.9 > 0.8 > part.ranking.conflicting.value
    assert part.gap.value == pytest.approx(part.ranking.aligned.value - part.ranking.conflicting.value)
    assert part.gap.low > 0.05
    assert part.training.net_fall.low > 0
    assert part.training.p < 0.05
    assert "it ranks the label with AUC 0." in finding.sentence
    assert "points" not in finding.sentence.replace("points right", "")
    assert "count alike when it is trained" in finding.action
    assert finding.needs == ()


def test_a_column_that_no_image_shows_is_not_believed(boats):
    assert of(boats, "present").verdict in (Verdict.INCONCLUSIVE, Verdict.DATA_ONLY)


def test_what_was_scored_is_said(boats):
    assert boats.data.evidence is Verdict.CONFIRMED
    assert boats.data.counterfactual.endswith("split = test")
    assert boats.data.counterfactual_rows == 1000
    assert boats.rehearsal.scored_images == 1000
    assert not boats.rehearsal.out_of_fold
    jsonschema.validate(boats.to_json(), json_schema())


def test_ways_to_train_are_compared_by_their_aucs(boats):
    column = next(column for column in boats.rehearsal.columns if column.value == "water")
    plain, weights = column.arms[:2]
    assert (column.label, column.able, plain.cells) == ("boat", True, ())
    assert weights.gain.low > 0
    assert weights.worst_group.value > plain.worst_group.value
    assert weights.gap.value < plain.gap.value
    assert plain.group_mean.value == pytest.approx((2 * plain.worst_group.value + plain.gap.value) / 2)
    assert "a model ranks 'boat' with AUC" in column.sentence


def test_the_page_says_how_the_label_is_ranked(boats, tmp_path):
    save_report(boats, tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "A model trained on these images takes “water” for “boat”" in page
    assert "worse where “water” is missing or misleads: AUC 0." in page
    assert "Learned when trained on it" in page
    assert "AUC of its gap go with group weights, net" in page
    assert "boat; place: “water”, which goes with “images with `boat`”" in page
    assert "Lower AUC" in page
    for phrase in ("points of its gap", "Worst group", "What a model makes of it is not measured"):
        assert phrase not in page
    summary = (tmp_path / "report/summary.md").read_text(encoding="utf-8")
    assert "reliance, AUC" in summary
    assert judge(boats, (), fail_on=("confirmed",), require_evidence=False).outcome == "failed"


def test_a_rehearsal_by_itself_compares_aucs_of_each_label(tmp_path, capsys):
    from clipaudit.cli.console.rehearse import print_rehearsal

    run = write_world(visible_boats(1000, 1), tmp_path / "run", shards=12, label_kind="strings")
    panel = rehearse_run(run, AuditOptions(attributes=("place",), templates="single", split="split"))
    assert [(column.label, column.value, column.able) for column in panel.columns] == [
        ("boat", "water", True),
        ("coin", panel.columns[1].value, False),
    ]
    assert panel.accuracy is None
    assert panel.columns[0].arms[1].gain.low > 0
    print_rehearsal(panel)
    printed = capsys.readouterr().out
    assert "boat: place = water, which goes with images with `boat`" in printed
    assert "lower AUC" in printed
    assert "%" not in printed.partition("boat: place")[2].partition("a model ranks")[0]


def test_a_rehearsal_needs_twenty_images_of_a_label_and_a_column_that_leaves_some_against_it(tmp_path):
    world = with_labels(cue_world(200, 12), boat=(0.04, 0.04), coin=(1.0, 1.0))
    run = write_world(world, tmp_path / "run", label_kind="strings")
    with pytest.raises(UsageError, match=r"no label can be rehearsed: boat: 200 training images, \d+ with the label"):
        rehearse_run(run, AuditOptions(attributes=("place",), templates="single"))


def test_of_many_tied_labels_the_strongest_ten_are_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("clipaudit.cues.rehearse_labels.MOST_REHEARSED", 1)
    world = with_labels(cue_world(800, 13), boat=(0.95, 0.05), pier=(0.8, 0.2))
    result = audited(world, tmp_path, attributes=("place",), negative_audits=0, positive_trials=0)
    by_label = {finding.class_name: finding for finding in result.findings if finding.cue.value == "water"}
    assert by_label["images with `boat`"].reliance
    assert by_label["images with `pier`"].verdict is Verdict.TIED
    assert "not measured: only the 1 labels that go most" in by_label["images with `pier`"].sentence
