"""What goes to which stream, how wide, in which colours, and what `--quiet` leaves out."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
import typer

from clipaudit.cli.app import app
from clipaudit.cli.console.format import new_table, print_facts
from clipaudit.cli.terminal import advise, events, is_quiet, note, remarks, results, silenced, tell
from tests.make_runs import SPEC, make_run

COLOUR = re.compile(r"\x1b\[[\d;]*3\dm")


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run").url


def all_commands(command, name=""):
    inner = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for each, below in inner.items():
        yield from all_commands(below, f"{name} {each}")


@pytest.mark.parametrize(("name", "command"), [*all_commands(typer.main.get_command(app))])
def test_every_command_can_be_quiet(name, command):
    names = [option for parameter in command.params for option in parameter.opts]
    assert names.count("--quiet") == names.count("-q") == 1, name


def test_quiet_leaves_the_result_and_drops_plan_progress_and_advice(clipaudit, run):
    loud, quiet = clipaudit("check", run), clipaudit("check", run, "--quiet")
    assert loud.stderr.startswith("reading every file of ")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout == loud.stdout != ""
    assert clipaudit("check", run).stderr == loud.stderr, "the next command is not quiet"


def test_quiet_leaves_errors_and_exit_codes(clipaudit):
    ended = clipaudit("check", "nowhere", "-q")
    assert ended.returncode == 2
    assert ended.stderr.startswith("clipaudit: ")


def test_quiet_and_a_log_for_programs_contradict(clipaudit):
    ended = clipaudit("audit", "a.tar", "--out", "run", "--quiet", "--log-format", "json")
    assert ended.returncode == 2
    assert "--quiet" in ended.stderr
    assert "--log-format json" in ended.stderr


def test_quiet_pack_says_what_it_wrote_and_no_more(clipaudit, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "1.png")
    quiet = clipaudit("pack", "photos", "shards", "--quiet")
    assert quiet.stderr == ""
    assert [line.split()[0] for line in quiet.stdout.splitlines()] == ["written"]
    plan = clipaudit("pack", "photos", "others", "--quiet", "--dry-run")
    assert plan.stdout.startswith("source "), "the plan is the result of a dry run"


def test_events_and_remarks_go_to_standard_error_and_only_remarks_are_left_when_quiet(capsys):
    for quiet in (False, True):
        with silenced(quiet):
            assert is_quiet() is quiet
            tell("loading [a] model")
            advise("clipaudit", "report", "my run")
            note("two classes of one name")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "loading [a] model",
        "next  clipaudit report 'my run'",
        "note two classes of one name",
        "note two classes of one name",
    ]
    assert not is_quiet()


def wide_table():
    table = new_table(("head", False), ("share", True), ("text", False))
    table.add_row("L11H05", "12.3 %", "a photograph of water " * 20)
    return table


def test_a_row_is_one_line_for_a_program_that_reads_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    results().print(wide_table())
    print_facts(results(), [("images", "400 ok " * 30)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
@pytest.mark.parametrize("columns", [40, 100])
def test_a_terminal_has_its_own_width_and_colours_unless_they_are_declined(monkeypatch, no_color, coloured, columns):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    note("two classes of one name")
    console = remarks()
    console.print(wide_table())
    text = terminal.getvalue()
    assert (COLOUR.search(text) is not None) is coloured
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= columns
    assert "12.3 %" in plain, "no figure is broken"
    assert events().width == columns


def test_a_quiet_command_with_json_prints_json_alone(clipaudit, run):
    ended = clipaudit("check", run, "--json", "--quiet")
    assert json.loads(ended.stdout)["problems"] == []
    assert ended.stderr == ""


HOSTILE = ("\x1b]0;title\x07", "[bold]b[/x]", "two\nlines", "\u202eback")
"""What a stranger's data may hold: a terminal's commands, rich's markup, line ends, changes of direction."""


def test_values_of_data_are_shown_and_command_neither_terminal_nor_markup(clipaudit, tmp_path):
    make_run(
        tmp_path / "odd",
        replace(SPEC, label_kind="string"),
        label=lambda index: HOSTILE[index % 4],
        attributes=lambda index: {"place": HOSTILE[index % 4]},
    )
    for arguments in (["columns", "list", "odd"], ["export", "odd", "--out", "out", "--where", "place = '\x1b[1m'"]):
        ended = clipaudit(*arguments)
        shown = ended.stdout + ended.stderr
        assert all(character.isprintable() or character == "\n" for character in shown), ended
        assert r"\x1b]0;title\x07" in shown
        assert "[bold]b[/x]" in shown
        assert r"two\nlines" in shown
        assert r"\u202eback" in shown


def test_a_class_that_looks_like_markup_has_its_own_row(capsys):
    from clipaudit.cli.console.evaluate import print_recognition
    from clipaudit.localize.evaluation.multilabel import MultiLabelResult

    scores = {"cosine": 0.5}
    print_recognition(MultiLabelResult(mean={}, by_class={"[/dog]": scores}, occurrences={"[/dog]": 3}, images=3))
    assert ["[/dog]", "3", "50.0"] in [line.split() for line in capsys.readouterr().out.splitlines()]
