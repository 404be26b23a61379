"""Audits without labels: classes from captions or from CLIP's own answers, and never more than `observed`."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from clipaudit.cues import AuditOptions, Verdict, audit_cues
from clipaudit.cues.measure.unlabelled import classes_source
from clipaudit.cues.report.gate import FAIL_ON, judge
from clipaudit.cues.result.result import json_schema
from clipaudit.errors import Note, UsageError
from tests.audit_worlds import Texts, cue_world, text_pool, write_world

QUICK = {"negative_audits": 4, "positive_trials": 4, "permutations": 0, "random_sets": 200, "templates": "single"}
NAMES = ("landbird", "waterbird")


def named(labels):
    """A caption for each image that names its class."""
    return [("a {} at rest", "two {}s in the sun")[n % 2].format(NAMES[k]) for n, k in enumerate(labels.tolist())]


def with_gaps(labels):
    """The same, but every fifth names no class or is missing, and every seventh of the others names both."""
    captions = named(labels)
    for n in range(len(captions)):
        if n % 5 == 0:
            captions[n] = None if n % 10 else "a bird"
        elif n % 7 == 0:
            captions[n] = "a landbird beside a waterbird"
    return captions


def audited(world, path, *, label_kind=None, classes="landbird\nwaterbird\n", test=None, **options):
    path.mkdir(exist_ok=True)
    run = write_world(world, path / "run", label_kind=label_kind)
    other = None if test is None else write_world(test, path / "test", label_kind=label_kind)
    (path / "classes.txt").write_text(classes)
    asked = AuditOptions(**{"classes": str(path / "classes.txt"), **QUICK, **options})
    return audit_cues(run, asked, test_run=other, texts=Texts(world), pool=text_pool())


def check_only_observed(result):
    """Whatever else was found, it is observed; nothing was scored, nothing may fail, and it is no pass."""
    assert {finding.verdict for finding in result.findings} <= {Verdict.OBSERVED}
    assert {point.verdict for point in result.map} <= {Verdict.OBSERVED, None}
    assert all(finding.needs and finding.counterfactual is None for finding in result.findings)
    assert all(point.reliance is None for point in result.map)
    assert result.groups == ()
    assert (result.data.evidence, result.data.counterfactual) == (Verdict.OBSERVED, None)
    assert not {"weights", "balanced", "collect"} & set(result.rows)
    for evidence, code in ((False, 0), (True, 3)):
        found = judge(result, (), fail_on=tuple(FAIL_ON), require_evidence=evidence)
        assert (found.outcome, found.exit_code, found.failing) == ("inconclusive", code, ())
    jsonschema.validate(result.to_json(), json_schema())


@pytest.fixture(scope="module")
def by_caption(tmp_path_factory):
    world = cue_world(4000, 0, test_aligned=0.5)
    world = replace(world, captions=with_gaps(world.labels))
    return world, audited(
        world,
        tmp_path_factory.mktemp("captions"),
        attributes=("place",),
        where=("split=train",),
        test_where=("split=test",),
    )


def test_captions_show_what_goes_with_the_classes_that_they_name(by_caption):
    _, result = by_caption
    assert result.settings.classes_from == "caption"
    (found,) = [finding for finding in result.findings if finding.kind == "value"]
    having = {row.class_name for row in found.classes if row.has}
    assert (having, found.cue.value) in (({"waterbird"}, "water"), ({"landbird"}, "land"))
    assert "whose captions name" in result.sentence
    check_only_observed(result)


def test_images_without_one_class_are_left_out_and_counted(by_caption):
    world, result = by_caption
    for rows, left_out, used in (
        (range(2000), result.data.left_out, result.data.rows),
        (range(2000, 4000), result.data.test_left_out, None),
    ):
        assert left_out.unnamed == sum(n % 5 == 0 for n in rows)
        assert left_out.ambiguous == sum(n % 5 != 0 and n % 7 == 0 for n in rows)
        assert used is None or used == len(rows) - left_out.unnamed - left_out.ambiguous
    groups = result.rows["groups"].to_pylist()
    assert len(groups) == sum(n % 5 != 0 and n % 7 != 0 for n in range(4000))
    assert all(row["class"] == NAMES[world.labels[int(row["key"][-8:])]] for row in groups)


def test_how_often_clip_agrees_with_captions_is_said(by_caption):
    world, result = by_caption
    used = np.array([n for n in range(2000) if n % 5 and n % 7])
    right = (world.coordinates[used].astype(np.float16).astype(np.float32) @ world.classes.T).argmax(axis=1)
    assert result.trust.accuracy.value == pytest.approx((right == world.labels[used]).mean())
    assert result.trust.accuracy.n == len(used)
    assert sum(facts.accuracy.n for facts in result.classes) == len(used)
    assert result.trust.mean_source is None


def test_the_shift_to_other_rows_is_evidence(by_caption):
    _, result = by_caption
    assert {row.cue for row in result.shift.rows} >= {"share of place = water"}
    assert any(item.name == "shift" for finding in result.findings for item in finding.evidence)


@pytest.mark.full
def test_captions_that_name_every_class_say_what_labels_say(tmp_path):
    """The same ties, to the bit; only what may be said of them differs."""
    world = cue_world(3000, 0, reliance=0.5)
    labelled = audited(world, tmp_path / "labels", label_kind="int")
    captioned = audited(replace(world, captions=named(world.labels)), tmp_path / "captions")
    assert [f.verdict for f in labelled.findings] == [Verdict.CANDIDATE] * len(labelled.findings)
    ties = [
        {(f.id, f.class_name): (f.association.d, f.association.q, f.distributions) for f in result.findings}
        for result in (labelled, captioned)
    ]
    assert ties[0] == ties[1] != {}
    assert labelled.controls == captioned.controls
    check_only_observed(captioned)


def test_clips_own_answers(tmp_path):
    world = cue_world(3000, 0)
    result = audited(world, tmp_path, classes_from="clip", attributes=("place",))
    (found,) = [finding for finding in result.findings if finding.kind == "value"]
    having = {row.class_name for row in found.classes if row.has}
    assert (having, found.cue.value) in (({"waterbird"}, "water"), ({"landbird"}, "land"))
    assert "that CLIP calls" in result.sentence
    assert result.trust.accuracy is None, "accuracy against itself says nothing"
    assert all(facts.accuracy is None for facts in result.classes)
    assert any("circular" in limit for limit in result.trust.limits)
    shown = [sample for finding in result.findings for sample in finding.gallery.aligned]
    assert shown
    assert all(sample.predicted is None is sample.predicted_without for sample in shown)
    check_only_observed(result)


def test_an_answer_that_several_classes_share_is_left_out(tmp_path):
    world = cue_world(600, 0)
    world = replace(world, names=("bird", "bird", "ship"), classes=world.classes[[0, 0, 1]])
    with pytest.warns(Note, match="labels 0 and 1 have the same name, 'bird'"):
        result = audited(world, tmp_path, classes_from="clip", classes="bird\nbird\nship\n")
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.data.left_out.ambiguous > 100
    assert result.data.left_out.ambiguous + result.data.rows == 600
    with (
        pytest.warns(Note, match="labels 0 and 1 have the same name, 'bird'"),
        pytest.raises(
            UsageError, match=r"every answer of the run at .* is a name of several classes of .*classes\.txt"
        ),
    ):
        audited(
            replace(world, names=("bird", "bird"), classes=world.classes[:2]),
            tmp_path / "same",
            classes_from="clip",
            classes="bird\nbird\n",
        )


@pytest.mark.parametrize("seed", range(2))
def test_captions_of_other_images_give_nothing(tmp_path, seed):
    world = cue_world(1500, seed)
    captions = named(np.random.default_rng(seed).permutation(world.labels))
    result = audited(replace(world, captions=captions), tmp_path, attributes=("place",))
    assert result.findings == ()
    assert result.verdict is None
    assert result.trust.near_chance
    check_only_observed(result)


@pytest.mark.full
def test_labels_come_first_and_captions_beside_them_change_nothing(tmp_path):
    world = cue_world(800, 0)
    documents = []
    for name, one, options in (
        ("plain", world, {}),
        ("captioned", replace(world, captions=with_gaps(world.labels)), {}),
        ("asked", replace(world, captions=with_gaps(world.labels)), {"classes_from": "label"}),
    ):
        result = audited(one, tmp_path / name, label_kind="int", attributes=("place",), **options)
        document = {**result.to_json(), "started": "", "seconds": 0, "state": None}
        documents.append(json.dumps(document, sort_keys=True).replace(str(tmp_path / name), "HERE"))
        assert (result.settings.classes_from, result.data.left_out.unnamed) == ("label", 0)
    assert documents[0] == documents[1] == documents[2]


def test_too_few_named_images_are_inconclusive(tmp_path):
    world = cue_world(300, 0)
    captions = [caption if n < 25 else "a bird" for n, caption in enumerate(named(world.labels))]
    result = audited(replace(world, captions=captions), tmp_path)
    assert result.verdict in (Verdict.INCONCLUSIVE, None)
    assert result.data.left_out.unnamed == 275
    captions = [caption if n < 5 else None for n, caption in enumerate(captions)]
    result = audited(replace(world, captions=captions), tmp_path / "fewer")
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.data.left_out.unnamed == 295
    assert judge(result, (), fail_on=("confirmed",), require_evidence=True).exit_code == 3


def test_a_class_that_no_caption_names_is_what_is_missing(tmp_path):
    world = cue_world(300, 0)
    captions = [None if "waterbird" in caption else caption for caption in named(world.labels)]
    result = audited(replace(world, captions=captions), tmp_path)
    assert "1 of 2 classes have 10 independent images or more" in result.sentence
    assert result.sentence.endswith("Images still needed: waterbird: 10.")


# -- what cannot be done -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "captions", "asked", "sentence"),
    [
        (None, False, None, "has no labels and no captions: .*--label or --caption, or take .*--classes-from clip"),
        (None, False, "label", "has no labels: .*--label, or ask for --classes-from clip"),
        (None, True, "label", "has no labels: .*--label, or ask for --classes-from caption or clip"),
        (None, False, "caption", "has no captions: .*--caption, or ask for --classes-from clip"),
        ("int", False, "caption", "has no captions: .*--caption, or ask for --classes-from label or clip"),
    ],
)
def test_what_a_run_lacks_is_one_sentence_that_names_the_options(tmp_path, labels, captions, asked, sentence):
    world = cue_world(100, 0)
    world = replace(world, captions=named(world.labels)) if captions else world
    run = write_world(world, tmp_path / "run", label_kind=labels)
    with pytest.raises(UsageError, match=sentence) as found:
        classes_source(run, asked)
    assert "\n" not in str(found.value)


def test_the_other_run_needs_the_same(tmp_path):
    world = cue_world(400, 0)
    with pytest.raises(UsageError, match=r"the run at .*test has no captions"):
        audited(replace(world, captions=named(world.labels)), tmp_path, test=world)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ("cat\ndog\n", r"no caption of the run at .* names one class of .*classes\.txt: write the classes as"),
        ("landbird\n", "an audit compares classes, and .* names one"),
    ],
)
def test_class_names_that_do_not_do(tmp_path, classes, sentence):
    world = cue_world(300, 0)
    with pytest.raises(UsageError, match=sentence):
        audited(replace(world, captions=named(world.labels)), tmp_path, classes=classes)


def test_class_names_are_needed(tmp_path):
    world = cue_world(300, 0)
    run = write_world(replace(world, captions=named(world.labels)), tmp_path / "run", label_kind=None)
    with pytest.raises(UsageError, match=r"no classnames\.txt beside the shards: give a file with --classes"):
        audit_cues(run, AuditOptions(**QUICK), texts=Texts(world), pool=text_pool())


def test_the_source_is_checked():
    with pytest.raises(UsageError, match="--classes-from 'words' is not understood: use label, caption or clip"):
        AuditOptions(classes_from="words")
