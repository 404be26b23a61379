"""`clipaudit report`: options, exit codes and files, with the audit itself replaced by an example."""

import json
from dataclasses import replace

import pytest

from clipaudit.__main__ import main
from clipaudit.cli import report as cli_report
from clipaudit.cues.options import AuditOptions
from clipaudit.run.directory import RunDirectory
from tests.audit_examples import candidate, confirmed, example_result, observed, unlabelled_result
from tests.make_runs import make_manifest


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Run the command in this process on an invented audit; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    RunDirectory("run").create(make_manifest())

    def run(*arguments, result=None):
        def audit(audited_run, test_run, options, device):
            run.options.append(options)
            return result or example_result()

        monkeypatch.setattr(cli_report, "_audit", audit)
        monkeypatch.setattr("sys.argv", ["clipaudit", "report", "run", "--quiet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    run.options = []
    return run


def only(*findings):
    return replace(example_result(), findings=findings)


def test_it_says_what_it_found_where_to_look_and_fails(report, tmp_path):
    code, out, err = report("--out", "out", "--seed", 3)
    assert (code, err) == (1, "")
    assert out.startswith("CLIP takes “water” for “waterbird”.\n")
    assert out.endswith("Gate failed: 1 finding of the kind confirmed.\nOpen out/index.html\n")
    assert confirmed().id in out
    assert "Left out, image cannot be decoded: 2, such as birds-000000.tar: 000017: it is empty\n" in out
    command = json.loads((tmp_path / "out/report.json").read_text())["command"]
    assert command == "clipaudit report run --seed 3"


def test_without_out_it_goes_into_the_run(report, tmp_path):
    assert report("--fail-on", "never")[0] == 0
    assert (tmp_path / "run/reports/report/index.html").is_file()


@pytest.mark.parametrize(
    ("findings", "arguments", "code"),
    [
        ((), (), 0),
        ((confirmed(),), (), 1),
        ((confirmed(),), ("--fail-on", "never"), 0),
        ((confirmed(),), ("--fail-on", "data-only,model-only"), 0),
        ((candidate(),), (), 0),
        ((candidate(),), ("--require-evidence",), 3),
    ],
)
def test_exit_codes(report, findings, arguments, code):
    assert report("--out", "out", *arguments, result=only(*findings))[0] == code


def test_an_invalid_audit_exits_4_and_is_written(report, tmp_path):
    trust = replace(example_result().trust, valid=False, problems=("Shuffled labels gave findings.",))
    code, out, _ = report("--out", "out", result=replace(example_result(), trust=trust))
    assert code == 4
    assert "Shuffled labels gave findings." in out
    assert (tmp_path / "out/index.html").is_file()


def test_a_waiver_for_an_unknown_finding_is_one_sentence_after_the_report(report, tmp_path):
    (tmp_path / "w.yaml").write_text("- {finding: feed, owner: jo, reason: r, expires: 2030-01-01}\n")
    code, _, err = report("--out", "out", "--waivers", "w.yaml")
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("clipaudit: --waivers: this audit has no finding 'feed'")
    assert (tmp_path / "out/report.json").is_file(), "the work is not lost"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fail-on", "everything"), "--fail-on 'everything' is not understood"),
        (("--waivers", "none.yaml"), "--waivers none.yaml cannot be read"),
        (("--out", "."), "--out . is not empty and holds no report"),
        (("--test-run", "nowhere"), "there is no run at nowhere"),
    ],
)
def test_mistakes_are_found_before_the_work_begins(report, monkeypatch, arguments, message):
    code, out, err = report(*arguments, result=NotImplemented)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_json_is_the_report(report, tmp_path):
    _, out, _ = report("--out", "out", "--json")
    assert json.loads(out) == json.loads((tmp_path / "out/report.json").read_text())


def test_the_command_can_be_run_again(report, tmp_path):
    (tmp_path / "w.yaml").write_text("[]\n")
    report("--out", "o", "--attribute", "place", "--attribute", "split", "--text", "it's snow", "--no-heat",
           "--waivers", "w.yaml", "--require-evidence", "--fail-on", "confirmed")  # fmt: skip
    command = json.loads((tmp_path / "o/report.json").read_text())["command"]
    assert command == (
        "clipaudit report run --attribute place --attribute split --text 'it'\"'\"'s snow' --fail-on confirmed"
        " --waivers w.yaml --seed 0 --require-evidence --no-heat"
    )


@pytest.mark.parametrize("source", ["caption", "clip"])
@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("--require-evidence",), 3)])
def test_what_is_observed_never_fails(report, tmp_path, source, arguments, code):
    result = unlabelled_result(source, observed())
    fail_on = ("--fail-on", "confirmed,model-only,data-only,candidate")
    ended, out, err = report("--out", "out", "--classes-from", source, *fail_on, *arguments, result=result)
    assert (ended, err) == (code, "")
    assert "Observed: “water” goes with what " in out
    assert "Labels were not used" in out
    found = json.loads((tmp_path / "out/report.json").read_text())
    assert f"--classes-from {source}" in found["command"]
    assert not {"weights.parquet", "balanced_subset.txt", "collect.csv"} & {file["name"] for file in found["files"]}


def test_a_split_is_train_for_the_ties_and_test_for_the_reliance(report):
    report("--split", "json:meta.split", "--attribute", "place,tint", "--templates", "simple", "--seed", 3)
    report()
    options, plain = report.options
    assert (options.split, options.where, options.test_where) == ("split", (), ())
    assert (options.attributes, options.templates, options.seed) == (("place", "tint"), "simple", 3)
    assert plain == AuditOptions()
