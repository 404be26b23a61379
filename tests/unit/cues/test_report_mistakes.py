"""Error slices and labels to look at, on the page, in Markdown and in the files."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pyarrow as pa
import pytest

from clipaudit.cues.report.document import File, Report
from clipaudit.cues.report.files import csv_text, write_exports
from clipaudit.cues.report.gate import judge, parse_fail_on
from clipaudit.cues.report.markdown import markdown
from clipaudit.cues.report.page import render
from clipaudit.cues.report.pictures import InlinePicture, Pictures, identity
from tests.audit_examples import answerer_errors, error_slice, example_result


def report_of(audit, files=()):
    gate = judge(audit, (), fail_on=parse_fail_on(["never"]), require_evidence=False)
    return Report(audit=audit, gate=gate, waivers=(), files=files, command="clipaudit report RUN")


FILES = tuple(File(name=name, about="", rows=3) for name in ("slices.csv", "review.csv"))


def test_a_slice_is_a_card_with_its_figures_and_pictures():
    audit = example_result()
    part = audit.errors[0].slices[0]
    picture = InlinePicture(url="data:image/webp;base64,UklGRg==", width=112, height=84)
    pictures = Pictures(plain={identity(sample): picture for sample in (*part.wrong_examples, *part.right_examples)})
    page = render(report_of(audit, FILES), pictures)
    section = page[page.index('id="errors"') : page.index('id="shift"')]
    assert "A model trained on these images" in section
    assert "Your model resnet" in section
    assert part.description in section
    assert part.sentence.replace(" %", "\u00a0%") in section
    assert "6.8 ×" in section
    assert section.count("<img") == 3
    assert "a pencil drawing" in section
    assert "Trust the pictures, not the word" in section
    assert 'href="slices.csv"' in section
    assert "The errors look random" in section, "errors at random are a result, too"


def test_a_text_that_fits_and_a_report_without_models_say_no_more():
    audit = example_result()
    well = answerer_errors("rehearsed", replace(error_slice(), no_good_word=False))
    page = render(report_of(replace(audit, errors=(well,))))
    assert "Trust the pictures, not the word" not in page[page.index('id="errors"') : page.index('id="shift"')]
    assert 'href="slices.csv"' not in page, "no link to a file that was not written"
    assert 'id="errors"' not in render(report_of(replace(audit, errors=(), labels=None)))
    assert 'href="#errors"' not in render(report_of(replace(audit, errors=(), labels=None)))


def test_labels_to_look_at_stand_in_hygiene_with_their_rate():
    audit = example_result()
    page = render(report_of(audit, FILES))
    section = page[page.index('id="hygiene"') : page.index('id="actions"')]
    assert "Labels to look at" in section
    assert "false-discovery rate 15\u00a0%" in section
    assert "birds-000050" in section
    assert 'href="review.csv"' in section
    nothing = replace(audit.labels, listed=0, fdr=None, examples=(), pairs=(), sentence="No label to look at.")
    page = render(report_of(replace(audit, labels=nothing)))
    assert "No label to look at." in page
    assert "Which labels look like" not in page


def test_markdown_and_json_hold_them():
    report = report_of(example_result())
    text = markdown(report)
    assert "## Where models err" in text
    assert "look like “a sketch”" in text
    assert "## Labels" in text
    stored = report.to_json()["audit"]
    assert stored["errors"][0]["slices"][0]["lift"]["value"] == pytest.approx(6.8)
    assert stored["errors"][1]["slices"] == []
    assert stored["labels"]["fdr"] == pytest.approx(0.15)
    assert stored["labels"]["examples"][0]["image"]["key"] == "birds-000050"


def test_the_images_of_slices_are_a_file(tmp_path):
    audit = example_result()
    table = pa.table({"answerer": ["given:=1+1"], "slice": ["5ca1ab1e0000"], "key": ["a"], "wrong": [True]})
    written = write_exports(replace(audit, rows={**audit.rows, "slices": table}), tmp_path)
    assert next(file for file in written if file.name == "slices.csv").rows == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / "slices.csv").read_text())))
    assert rows == [{"answerer": "given:=1+1", "slice": "5ca1ab1e0000", "key": "a", "wrong": "True"}]
    assert csv_text(pa.table({"key": ["=1+1"]})).splitlines()[1] == "'=1+1"
