"""A report's files: JSON and its schema, JUnit, Markdown, exports, and their directory that appears at once."""

import csv
import io
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from clipaudit.cues.report import document
from clipaudit.cues.report.files import ABOUT, csv_text, effective_images, safe_cell
from clipaudit.cues.report.junit import junit_xml
from clipaudit.cues.report.markdown import escape, markdown
from clipaudit.cues.report.waivers import Waiver
from clipaudit.cues.report.write import ReportConfig, check_out, write_report
from clipaudit.errors import UsageError
from tests.audit_examples import candidate, confirmed, example_result, inconclusive

SCHEMA = Path(document.__file__).with_name("report.schema.json")
MADE = {"index.html", "report.json", "report.schema.json", "junit.xml", "summary.md", "SHA256SUMS", *ABOUT}


def config(out, **changes):
    facts = {"out": str(out), "fail_on": ("confirmed",), "command": "clipaudit report RUN", "today": date(2026, 11, 21)}
    return ReportConfig(**{**facts, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report written once, and its directory."""
    out = tmp_path_factory.mktemp("report") / "birds"
    return write_report(example_result(), config(out)), out


# -- the directory -----------------------------------------------------------------------------------------------------


def test_everything_is_written(made):
    report, out = made
    assert {path.name for path in out.iterdir()} == MADE
    assert {file.name for file in report.files} == MADE - {"index.html"}
    assert [path.name for path in out.parent.iterdir()] == ["birds"], "nothing is left beside it"


def test_an_older_report_is_replaced_as_a_whole(tmp_path):
    out = tmp_path / "report"
    write_report(example_result(), config(out))
    (out / "weights.parquet").rename(out / "from-before.parquet")
    write_report(replace(example_result(), findings=()), config(out))
    assert {path.name for path in out.iterdir()} == MADE
    assert json.loads((out / "report.json").read_text())["audit"]["findings"] == []


def test_a_failure_leaves_the_older_report(tmp_path, monkeypatch):
    out = tmp_path / "report"
    write_report(example_result(), config(out))
    before = (out / "report.json").read_bytes()

    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("clipaudit.cues.report.write.junit_xml", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        write_report(example_result(), config(out))
    assert (out / "report.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_directory_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty and holds no report"):
        check_out(str(tmp_path))
    with pytest.raises(UsageError, match="is a file: give a directory"):
        check_out(str(tmp_path / "thesis.tex"))
    check_out(str(tmp_path / "new"))


def test_a_url_works_too():
    import fsspec

    out = "memory://reports/birds"
    write_report(example_result(), config(out))
    fsspec.filesystem("memory").pipe_file("/reports/birds/old.csv", b"")
    write_report(example_result(), config(out))
    names = {name.rsplit("/", 1)[-1] for name in fsspec.filesystem("memory").ls("/reports/birds", detail=False)}
    assert names == MADE


# -- report.json -------------------------------------------------------------------------------------------------------


def test_the_json_keeps_the_published_schema(made):
    _, out = made
    published = json.loads(SCHEMA.read_text())
    value = json.loads((out / "report.json").read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    jsonschema.Draft202012Validator(published).validate(value)
    assert json.loads((out / "report.schema.json").read_text()) == published


def test_the_json_is_what_the_schemas_own_serializer_writes(made):
    report, _ = made
    numbers = replace(report, audit=replace(report.audit, seconds=float("nan")))
    for document_ in (report, numbers):
        assert document_.to_json() == json.loads(TypeAdapter(document.Report).dump_json(document_))


def test_the_published_schema_is_that_of_the_code():
    assert json.loads(SCHEMA.read_text()) == document.json_schema(), (
        f"write it anew: python -m clipaudit.cues.report > clipaudit/cues/report/{SCHEMA.name}"
    )


def test_the_json_has_null_and_never_nan(tmp_path):
    result = example_result()
    broken = replace(result.findings[0].association.d, value=float("nan"), low=float("-inf"))
    finding = replace(result.findings[0], association=replace(result.findings[0].association, d=broken))
    write_report(replace(result, findings=(finding,)), config(tmp_path / "r"))
    text = (tmp_path / "r/report.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["audit"]["findings"][0]["association"]["d"]["value"] is None


def test_the_same_audit_gives_the_same_bytes(made, tmp_path):
    _, out = made
    write_report(example_result(), config(tmp_path / "again"))
    for name in MADE:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_gate_and_waivers_are_in_it(tmp_path):
    waiver = Waiver(finding=confirmed().id, owner="jo", reason="known", expires=date(2027, 1, 1))
    write_report(example_result(), config(tmp_path / "r", waivers=(waiver,)))
    found = json.loads((tmp_path / "r/report.json").read_text())
    assert found["gate"]["waived"] == [confirmed().id]
    assert found["waivers"][0]["status"] == "active"
    assert found["command"] == "clipaudit report RUN"


# -- JUnit and Markdown ------------------------------------------------------------------------------------------------


def test_junit_counts_what_fails(made):
    root = ElementTree.fromstring(junit_xml(made[0]))
    suite = root.find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "5",
        "1",
        "0",
        "3",
    )
    failure = suite.find("testcase/failure")
    assert "Confirmed shortcut" in failure.get("message")
    assert "Collect 1,001 images" in failure.text


def test_junit_of_an_invalid_audit_is_an_error(tmp_path):
    trust = replace(example_result().trust, valid=False, problems=("Shuffled labels gave findings.",))
    report = write_report(replace(example_result(), trust=trust), config(tmp_path / "r"))
    assert ElementTree.fromstring(junit_xml(report)).find("testsuite/testcase/error").text == (
        "Shuffled labels gave findings."
    )


def test_junit_fails_for_want_of_evidence_where_it_is_required(tmp_path):
    result = replace(example_result(), findings=(inconclusive(),))
    for required, kind in ((True, "failure"), (False, "skipped")):
        report = write_report(result, config(tmp_path / str(required), require_evidence=required))
        case = ElementTree.fromstring(junit_xml(report)).find("testsuite/testcase[@name='evidence']")
        assert case.find(kind) is not None


def test_junit_holds_any_text(tmp_path):
    odd = replace(confirmed(), class_name="a\x00b\x1b<&>\ufffe", sentence="]]> & <b>")
    report = write_report(replace(example_result(), findings=(odd,)), config(tmp_path / "r"))
    case = ElementTree.fromstring(junit_xml(report)).findall("testsuite/testcase")[-1]
    assert case.get("classname") == "clipaudit.a\ufffdb\ufffd<&>\ufffd"


def test_markdown_says_it_in_a_table(made):
    text = markdown(made[0])
    lines = text.splitlines()
    assert lines[0] == "# CLIP takes “water” for “waterbird”"
    assert "**Gate failed: 1 finding of the kind confirmed.**" in lines
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 1 + len(made[0].audit.findings)
    assert all(line.count("|") == 8 for line in rows)
    assert "&lt;of&gt;" in text


def test_markdown_shows_texts_letter_by_letter():
    assert escape("<b>a|b\nc</b> [x](http://y) *z* @all #1") == (
        "&lt;b&gt;a\\|b c&lt;/b&gt; \\[x\\](http&#58;//y) \\*z\\* &#64;all \\#1"
    )


# -- exports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", " =1+1", "＝1+1"])
def test_csv_cells_are_no_formulas(text):
    table = pa.table({"key": [text], "number": [-1.5]})
    (_, row) = csv.reader(io.StringIO(csv_text(table), newline=""))
    assert row == ["'" + text, "-1.5"]


def test_csv_keeps_all_other_texts():
    texts = ['say "hi"', "a,b", "two\nlines", "ä", "<script>", "a=b", ""]
    table = pa.table({"key": texts})
    assert [row[0] for row in csv.reader(io.StringIO(csv_text(table), newline=""))] == ["key", *texts]
    assert safe_cell(None) is None


def test_parquet_exports_are_the_tables(made):
    _, out = made
    for name in ("weights", "groups", "spuriosity"):
        assert pq.read_table(out / f"{name}.parquet").equals(example_result().rows[name])


def test_the_balanced_subset_is_a_list_of_keys(tmp_path):
    table = pa.table({"shard_id": pa.array([3, 12], pa.int32()), "key": ["a/b.c", "two\nlines"]})
    result = replace(example_result(), rows={"balanced": table})
    report = write_report(result, config(tmp_path / "r"))
    assert (tmp_path / "r/balanced_subset.txt").read_text() == "000003/a/b.c\n000012/two\\nlines\n"
    assert not (tmp_path / "r/weights.parquet").exists(), "what there is nothing for is not written"
    assert "weights.parquet" not in {file.name for file in report.files}


def test_the_worth_of_weights_comes_from_their_table():
    table = pa.table({"weight": [1.0]}).replace_schema_metadata({"effective_n": "812.4"})
    assert effective_images(replace(example_result(), rows={"weights": table})) == 812.4
    assert effective_images(replace(example_result(), rows={})) is None


def test_heads_are_named(made):
    _, out = made
    text = (out / "heads.json").read_text()
    assert confirmed().id in text
    assert "L03H05" in text
    assert candidate().id in text
