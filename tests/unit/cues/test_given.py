"""The user's own model: reading its predictions, what is said of it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from clipaudit.cues import AuditOptions, Verdict, audit_cues
from clipaudit.cues.answerers.given import given_answerer
from clipaudit.cues.answerers.predictions import read_predictions
from clipaudit.cues.findings.given_models import calibration, given_model
from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.cues.reliance.images import ScoredImages
from clipaudit.cues.report.page import render
from clipaudit.errors import UsageError
from clipaudit.run.classes import ClassNames
from clipaudit.run.rows import chosen_rows
from tests.audit_examples import example_result
from tests.audit_worlds import Texts, cue_world, text_pool, write_world
from tests.unit.cues.test_pipeline import QUICK, SPLIT
from tests.unit.cues.test_report_page import report_of

NAMES = ("landbird", "waterbird")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run whose test half has cue and class untied, and its world."""
    path = tmp_path_factory.mktemp("given")
    world = cue_world(2400, 0, test_aligned=0.5)
    run = write_world(world, path / "run")
    (path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return path, world, run


def keys_of(run):
    return run.table(["key", "shard_id"]).to_pylist()


def cue_of(world):
    return np.array([value == "water" for value in world.attributes["place"]])


def csv_of(path, rows):
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def audited(place, *predictions, **options):
    path, world, run = place
    asked = {"classes": str(path / "classes.txt"), "attributes": ("place",), "rehearse": False, **QUICK, **SPLIT}
    return audit_cues(
        run, AuditOptions(**{**asked, "predictions": predictions, **options}), texts=Texts(world), pool=text_pool()
    )


def scored(place, text, scale=None):
    """The answerer of a file of predictions, of the run's test images."""
    _, _, run = place
    names = ClassNames(labels=(0, 1), names=NAMES, source="test")
    facts = image_facts(run, chosen_rows(run, ("split=test",)), {0: 0, 1: 1}, ("attributes.place",))
    return given_answerer(read_predictions(text, names, run.manifest.shards, scale), facts, 2), facts


def answers_of(place, rng, error=0.05):
    """A model that answers by the cue in half of the images, and by the class in the others."""
    _, world, _ = place
    cue, labels = cue_of(world), np.asarray(world.labels)
    answers = np.where(rng.random(len(labels)) < 0.5, cue, labels)
    return np.where(rng.random(len(labels)) < error, 1 - answers, answers)


def labels_file(place, name="labels.csv", rows=None):
    path, _, run = place
    answers = answers_of(place, np.random.default_rng(0))
    table = [{"key": row["key"], "label": NAMES[answer]} for row, answer in zip(keys_of(run), answers, strict=True)]
    return csv_of(path / name, table if rows is None else rows(table))


def test_a_model_that_looks_at_the_cue_fails_where_it_is_missing(place):
    result = audited(place, f"resnet={labels_file(place)}")
    (finding,) = [finding for finding in result.findings if finding.kind == "value"]
    part = finding.by("given")
    assert part.answerer == "given:resnet"
    assert part.verdict is Verdict.FAILS_WHERE, "the strongest for a model that can only be watched"
    assert part.effect is None
    assert part.gap.value == pytest.approx(0.45, abs=0.08)
    assert "your model resnet fails where" in part.sentence
    # the worst of all answerers is CLIP's
    assert finding.verdict is Verdict.CONFIRMED
    (model,) = result.given
    assert (model.name, model.source, model.scored_images) == ("resnet", "labels.csv", 1200)
    assert model.accuracy.value == pytest.approx(0.73, abs=0.05)
    assert not model.at_chance
    assert {(pair.class_name, pair.answer) for pair in model.confusions} == {NAMES, NAMES[::-1]}
    assert model.calibration is None
    page = render(report_of(result))
    assert "Your model" in page
    assert "resnet" in page[page.index('id="given"') :]


def test_a_columns_known_error_is_corrected_for_every_answerer(tmp_path):
    """The column is wrong for 20 %, so that each answerer's gap is seen at three fifths."""
    world = cue_world(2400, 1, test_aligned=0.5)
    cue, rng = cue_of(world), np.random.default_rng(1)
    said = np.where(rng.random(2400) < 0.2, ~cue, cue)
    run = write_world(
        replace(world, attributes={**world.attributes, "place": [("land", "water")[v] for v in said.astype(int)]}),
        tmp_path / "run",
    )
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    here = tmp_path, world, run
    options = {"rehearse": True, "attributes": ("place:error=0.2/400",)}
    result = audited(here, f"resnet={labels_file(here)}", **options)
    finding = next(finding for finding in result.findings if finding.cue.attribute == "attributes.place")
    assert {part.answerer for part in finding.reliance} == {"clip", "rehearsed", "given:resnet"}
    test = np.arange(2400) >= 1200
    right = answers_of(here, np.random.default_rng(0)) == world.labels
    true = right[test & (cue == world.labels)].mean() - right[test & (cue != world.labels)].mean()
    own = finding.by("given")
    assert own.gap.value < true - 0.1
    assert own.corrected_gap.low < true < own.corrected_gap.high
    for part in finding.reliance:
        assert part.corrected_gap.value == pytest.approx(part.gap.value / 0.6, abs=0.05)
        assert part.corrected_margin_d.value > part.margin_d.value + 0.05


def test_a_gap_that_a_wrong_column_hides_acquits_nobody(tmp_path):
    """Trap 6: the column is wrong for 30 %, so that four tenths are seen of a gap of 7 points, which is beyond 5."""
    world = cue_world(12_000, 1, test_aligned=0.5)
    cue, labels, rng = cue_of(world), np.asarray(world.labels), np.random.default_rng(1)
    said = np.where(rng.random(12_000) < 0.3, ~cue, cue)
    wrong = rng.random(12_000) < np.where(cue == labels, 0.15, 0.22)
    places = [("land", "water")[value] for value in said.astype(int)]
    run = write_world(replace(world, attributes={**world.attributes, "place": places}), tmp_path / "run")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    answers = np.where(wrong, 1 - labels, labels)
    table = [{"key": row["key"], "label": NAMES[answer]} for row, answer in zip(keys_of(run), answers, strict=True)]
    file = csv_of(tmp_path / "labels.csv", table)
    for column, acquitted in (("place", True), ("place:error=0.3/2000", False)):
        result = audited((tmp_path, world, run), f"resnet={file}", attributes=(column,))
        part = next(finding for finding in result.findings if finding.cue.attribute == "attributes.place").by("given")
        assert part.gap_90.high < 0.05
        assert part.does_not_hang_on_it == acquitted
    assert part.corrected_gap.high > 0.05


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("scale", ["probability", "percent", "logit"])
def test_scores_on_every_scale_are_the_same_answers(place, form, scale):
    path, world, run = place
    rng = np.random.default_rng(1)
    logits = rng.normal(size=len(world.labels)) + 2.0 * (2 * np.asarray(world.labels) - 1)
    probability = 1 / (1 + np.exp(-logits))
    values = {
        "probability": np.stack([1 - probability, probability], axis=1),
        "percent": 100 * np.stack([1 - probability, probability], axis=1),
        "logit": np.stack([np.zeros_like(logits), logits], axis=1),
    }[scale]
    rows = [
        {"shard": row["shard_id"], "key": row["key"], "score:waterbird": float(b), "score:landbird": float(a)}
        for row, (a, b) in zip(keys_of(run), values, strict=True)
    ]
    file = path / f"{scale}.{form}"
    if form == "csv":
        csv_of(file, rows)
    elif form == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    answerer, facts = scored(place, f"scored={file}", None if scale == "probability" else scale)
    test = np.array(world.attributes["split"]) == "test"
    assert np.array_equal(answerer.logits.argmax(axis=1), (logits > 0)[test])
    assert np.allclose(answerer.probabilities[:, 1], probability[test], atol=1e-9)
    images = ScoredImages(truth=facts.truth, classes=2, cluster=facts.cluster, discovery=facts.discovery)
    names = ClassNames(labels=(0, 1), names=NAMES, source="test")
    model = given_model(answerer, images, names, 0)
    assert model.calibration.ece.low <= model.calibration.ece.value
    assert sum(part.n for part in model.calibration.bins) == 1200
    confidence = [part.confidence for part in model.calibration.bins]
    assert confidence == sorted(confidence)
    page = render(report_of(replace(example_result(), given=(model,))))
    assert "expected calibration error" in page


def halved(table):
    return table[::2]


def renamed(table):
    return [{**row, "key": f"other-{row['key']}"} for row in table]


def misspelt(table):
    return [{**table[0], "label": "waterbrid"}, *table[1:]]


def twice(table):
    return [*table, table[0]]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (halved, r"600 of the 1,200 scored images have no prediction, such as [^,]+, [^,]+, [^,:]+: give all"),
        (renamed, r"none of its 2,400 keys \(other-.*\) is one of the 1,200 scored images"),
        (misspelt, r"row 1 names the class 'waterbrid', which the run lacks; did you mean 'waterbird'"),
        (twice, r"rows 1 and 2401 have the same key"),
    ],
)
def test_predictions_that_do_not_fit_are_one_sentence(place, rows, sentence):
    file = labels_file(place, f"{rows.__name__}.csv", rows)
    with pytest.raises(UsageError, match=sentence) as error:
        scored(place, f"resnet={file}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "scores", "sentence"),
    [
        ({"score:landbird": 2.0, "score:waterbird": -1.5}, None, "sum to 0.5, and not to 1: say --scores"),
        ({"score:landbird": 40.0, "score:waterbird": 60.0}, None, "sum to 100, and not to 1: say --scores"),
        ({"score:landbird": 0.4, "score:waterbird": 0.6}, "percent", "sum to 1, and not to 100"),
        ({"score:landbird": "high", "score:waterbird": 0.6}, None, "row 1 has a score that is no number"),
        ({"score:landbird": 1.0}, None, "no scores of waterbird"),
        ({"answer": "landbird"}, None, "neither a column 'label' nor 'score:CLASS'"),
    ],
)
def test_scores_are_taken_for_nothing_that_they_are_not(place, row, scores, sentence):
    path, _, run = place
    file = csv_of(path / "odd.csv", [{"key": entry["key"], **row} for entry in keys_of(run)])
    with pytest.raises(UsageError, match=sentence):
        scored(place, f"resnet={file}", scores)


@pytest.mark.parametrize(
    ("predictions", "sentence"),
    [
        (("resnet",), "say NAME=FILE"),
        (("resnet=nothing.txt",), "is no CSV, TSV, JSONL or Parquet file"),
        (("resnet=nosuch.csv",), "cannot be read"),
        (("a=x.csv", "a=y.csv"), "two models of one name"),
    ],
)
def test_what_is_no_file_of_predictions_is_told_before_anything_is_read(place, predictions, sentence):
    with pytest.raises(UsageError, match=sentence):
        audited(place, *predictions)


def test_a_calibrated_model_has_little_error_and_an_overconfident_one_much():
    rng = np.random.default_rng(0)
    n = 4000
    confidence = 0.5 + rng.random(n) / 2
    images = ScoredImages(truth=np.zeros(n, np.int64), classes=2, cluster=np.arange(n), discovery=np.zeros(n, np.bool_))
    honest = calibration(confidence, rng.random(n) < confidence, images, 0)
    assert honest.ece.value < 0.04
    assert honest.ece.low < 0.01
    boastful = calibration(confidence, rng.random(n) < confidence - 0.2, images, 0)
    assert boastful.ece.low > 0.15
    assert boastful.ece.high < 0.25
