"""The rehearsal on the page: disease and cure at a glance, who relies on the cue, what could not be trained."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from clipaudit.cues.report.document import File
from clipaudit.cues.report.first_screen import cases, plain_sentences
from clipaudit.cues.report.markdown import markdown
from clipaudit.cues.report.page import render
from clipaudit.cues.report.pictures import InlinePicture, Pictures, identity, strips
from clipaudit.cues.report.rehearsed_arms import rehearsal_columns
from clipaudit.cues.report.reliance_words import answerer_cell
from clipaudit.cues.report.words import headline
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.result.rehearsal_parts import (
    ColumnRehearsal,
    CurvePoint,
    LeanedHead,
    LearningCurve,
    RehearsalArm,
    RehearsalPanel,
    SeedRange,
)
from clipaudit.cues.result.reliance_parts import CellAccuracy, TrainingExperiment
from tests.audit_examples import around, cell_examples, confirmed, example_result, reliance, sample
from tests.unit.cues.test_report_page import report_of, with_findings


def cells(worst):
    return (
        CellAccuracy(class_name="waterbird", conflicting=False, accuracy=around(0.97, 0.02, 642)),
        CellAccuracy(class_name="waterbird", conflicting=True, accuracy=around(worst, 0.04, 642)),
        CellAccuracy(class_name="landbird", conflicting=False, accuracy=around(0.98, 0.01, 2255)),
        CellAccuracy(class_name="landbird", conflicting=True, accuracy=around(0.8, 0.02, 2255)),
    )


def arm(name, worst, gain):
    return RehearsalArm(
        name=name,
        training_images=4795,
        average=around(0.9, 0.01, 5794),
        group_mean=around(0.85, 0.01, 5794),
        worst_group=around(worst, 0.04, 642),
        worst="waterbird without water",
        gap=around(0.4, 0.03, 5794),
        gain=None if gain is None else around(gain, 0.01, 5794),
        cells=cells(worst),
        seeds=SeedRange(draws=5, low=0.84, high=0.86),
    )


@pytest.fixture(scope="module")
def panel():
    column = ColumnRehearsal(
        attribute="attributes.place",
        value="water",
        classes="waterbird",
        able=True,
        sentence="Trained on these images as they are, a model answers 41 % of waterbird without water right.",
        arms=(arm("as it is", 0.41, None), arm("group weights", 0.78, 0.1), arm("balanced subset", 0.83, 0.09)),
        curve=LearningCurve(
            points=(CurvePoint(conflicting=60, group_mean=0.8, worst_group=0.3, shortfall=around(0.5, 0.05, 60)),),
            at_hand=240,
            collect=None,
            low=None,
            high=None,
            sentence="More than can be told.",
        ),
        heads=(LeanedHead(head="L03H05", text="a <b>lake</b>", share=0.31),),
    )
    return RehearsalPanel(
        not_rehearsed=None,
        trained_on="/runs/birds, attributes.split = train",
        training_images=4795,
        training_rows_at_hand=4795,
        scored_images=5794,
        out_of_fold=False,
        strength=0.1,
        accuracy=around(0.9, 0.01, 5794),
        columns=(column,),
    )


def rehearsed_part(verdict):
    training = TrainingExperiment(
        gap_before=around(0.5, 0.03, 5794),
        gap_after=around(0.1, 0.03, 5794),
        fall=around(0.4, 0.03, 5794),
        net_fall=around(0.38, 0.03, 5794),
        conflict_rise=around(0.35, 0.03, 5794),
        group_mean_change=around(0.1, 0.01, 5794),
        p=0.01,
        draws=99,
        band=(-0.01, 0.02),
        highest=0.04,
        training_rows=4795,
        visibility=around(0.95, 0.01, 5794),
    )
    return reliance(verdict, answerer="rehearsed", cells=cells(0.41), effect=None, training=training)


def test_disease_and_cure_stand_on_the_first_screen_and_in_a_section(panel):
    report = report_of(replace(example_result(), rehearsal=panel))
    weights = File(name="weights.parquet", about="Weights.", rows=4795)
    page = render(replace(report, files=(*report.files, weights))).replace("\u00a0", " ")
    first = page[: page.index("<nav")]
    glance = first[first.index("A model trained on these images: its worst group") :]
    bars = re.findall(
        r"<span>([^<]+)</span><div class=\"track\"><div class=\"fill (\w*)\"[^>]*></div></div><span>(\d+ %)", glance
    )
    assert bars[:3] == [
        ("as they are", "bad", "41 %"),
        ("with the group weights", "after", "78 %"),
        ("on the balanced subset", "after", "83 %"),
    ]
    section = page[page.index('id="rehearsal"') : page.index('id="cards"')]
    assert "Trained on these images as they are, a model answers 41 %" in section
    assert 'href="weights.parquet"' in section, "what the arm needs is at hand"
    assert "60: 30 % in the worst group" in section
    assert "a &lt;b&gt;lake&lt;/b&gt;" in section
    assert "scored on 5,794 others" in section


def test_what_could_not_be_trained_says_why(panel):
    nothing = replace(panel, not_rehearsed="it was left out (--no-rehearse)", columns=())
    page = render(report_of(replace(example_result(), rehearsal=nothing)))
    assert "Nothing was trained: it was left out (--no-rehearse)." in page
    assert "No column goes with a class" not in page
    assert 'id="rehearsal"' not in render(report_of(example_result()))


def test_weights_that_mend_nothing_beyond_chance_are_not_praised(panel):
    column = panel.columns[0]
    weak = replace(column.arms[1], gain=around(0.02, 0.05, 5794))
    rehearsal = replace(panel, columns=(replace(column, arms=(column.arms[0], weak, *column.arms[2:])),))
    parts = (reliance(Verdict.CONFIRMED), rehearsed_part(Verdict.CONFIRMED))
    result = replace(with_findings(replace(confirmed(), reliance=parts)), rehearsal=rehearsal)
    sentences = " ".join(plain_sentences(report_of(result)))
    assert "the group weights make it no better beyond chance" in sentences
    assert "78 %" not in sentences


def test_the_balanced_subset_is_linked_where_it_balances_the_column_alone(panel):
    result = replace(example_result(), rehearsal=panel)

    def files(*columns):
        table = result.rows["balanced"].replace_schema_metadata({"columns": json.dumps(columns)})
        (part,) = rehearsal_columns(replace(result, rows={**result.rows, "balanced": table}))
        return [line.file for line in part.lines]

    assert files("attributes.place") == ["", "weights.parquet", "balanced_subset.txt"]
    assert files("attributes.place", "attributes.camera") == ["", "weights.parquet", ""]
    assert files("image.brightness") == ["", "weights.parquet", ""]


def test_the_headline_names_who_relies_on_it(panel):
    parts = (reliance(Verdict.INCONCLUSIVE), replace(rehearsed_part(Verdict.CONFIRMED), examples=cell_examples()))
    result = replace(with_findings(replace(confirmed(), reliance=parts)), rehearsal=panel)
    assert headline(result) == "A model trained on these images takes “water” for “waterbird”"
    report = report_of(result)
    sentences = " ".join(plain_sentences(report))
    assert "A model trained on these images answers only 41 % of “waterbird” without “water” right" in sentences
    assert "38 of the 50 points" in sentences
    assert "CLIP recognises only" not in sentences
    assert "trained with the group weights, 78 % (95 % interval 74 % to 82 %)." in sentences
    assert "83 %" not in sentences, "the best of several ways to train looks better than it is"
    assert "A model trained on these images takes" in markdown(report)
    page = render(report).replace("\u00a0", " ")
    case = page[page.index("“waterbird” with “land”") :]
    assert re.search(r"right</span>.*?41 %.*?with weights</span>.*?78 %", case, re.DOTALL)
    assert "answers of a model trained on these images, as often as the bars say" in page


def test_pictures_are_of_the_images_and_answers_that_the_bars_are_of(panel):
    """A model trained on these images has other answers than CLIP, and on other images than the cue was found in."""
    parts = (reliance(Verdict.INCONCLUSIVE), replace(rehearsed_part(Verdict.CONFIRMED), examples=cell_examples()))
    finding = replace(confirmed(), reliance=parts)
    result = replace(with_findings(finding), rehearsal=panel)
    picture = InlinePicture(url="data:image/webp;base64,AA==", width=1, height=1)
    everything = {identity(sample(number)): picture for number in range(30)}
    rows = cases(result, Pictures(plain=everything))
    assert [[item.key for item in row.pictures] for row in rows] == [
        ["birds-000021", "birds-000022"],
        ["birds-000023"],
        ["birds-000024"],
    ]
    assert [item.answer for row in rows for item in row.pictures] == ["waterbird", "waterbird", "landbird", "waterbird"]
    *measured, least = strips(finding, Pictures())
    assert "“waterbird” with “land”, where the shortcut fails: 41 % of" in measured[1].title
    assert {item.answer for item in least.pictures} == {None}, "CLIP's answers are not the trained model's"


def test_the_table_of_findings_has_a_column_for_each_answerer():
    parts = (
        reliance(),
        rehearsed_part(Verdict.CONFIRMED),
        reliance(Verdict.FAILS_WHERE, answerer="given:resnet", effect=None),
    )
    finding = replace(confirmed(), reliance=parts)
    assert answerer_cell(finding, "rehearsed").value == "+38.0"
    assert answerer_cell(finding, "clip").value == "+30.0"
    assert "its gap" in answerer_cell(finding, "given").about
    assert answerer_cell(confirmed(), "rehearsed").about == "not measured"
    worst = (reliance(Verdict.INCONCLUSIVE, answerer="given:a"), reliance(Verdict.FAILS_WHERE, answerer="given:b"))
    assert replace(finding, reliance=worst).by("given").answerer == "given:b"
    assert replace(finding, reliance=worst).by("given:a").verdict is Verdict.INCONCLUSIVE
