"""README and docs as a user types them: every console and Python block runs against `demo-out`, in order."""

import re
import shutil

import pytest
import typer

from tests.commands import ROOT, write_demo
from tests.doc_blocks import Block, blocks, has_reason, pages, run_block, unlike

DEMO = "clipaudit demo demo-out"


@pytest.mark.parametrize("page", pages())
def test_blocks_that_are_not_run_say_why(page):
    unexplained = [str(block) for block in blocks(page) if block.comment and not has_reason(block)]
    assert unexplained == [], "`<!-- not run: REASON -->` is what the comment above a block may say"


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        (["of 48 % right", "Gate failed."], None),
        (["of 47 % right"], None),
        (["of 40 % right"], "of 40 % right"),
        (["Gate failed."], "Gate failed."),
        (["...", "Gate failed."], None),
        (["of 48 % right", "...", "Gate passed."], "Gate passed."),
        (["of 48 % wrong"], "of 48 % wrong"),
    ],
)
def test_output_on_a_page_is_held_to_what_is_printed(shown, wrong):
    assert unlike(shown, ["of 48 %  right", "Gate failed."]) == wrong


@pytest.mark.full
@pytest.mark.parametrize("page", [page for page in pages() if any(not block.comment for block in blocks(page))])
def test_every_block_of_a_page_runs_and_prints_what_it_shows(page, shared, tmp_path, monkeypatch):
    shutil.copytree(shared("demo-out", write_demo) / "demo-out", tmp_path / "demo-out")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.comment and DEMO not in block.code:  # that has been run
            run_block(block, tmp_path, names)


def all_commands():
    """Every command by how it is called, in the order of the help."""
    from clipaudit.cli.app import app

    def below(command, name):
        inner = getattr(command, "commands", {})
        for each in inner:
            yield from below(inner[each], f"{name} {each}")
        if not inner:
            yield name, command

    return dict(below(typer.main.get_command(app), "clipaudit"))


def examples():
    """The example of every command's help."""
    found = {
        name: re.search(r"Example: `(.+?)`", " ".join(command.help.split())) for name, command in all_commands().items()
    }
    return {name: match[1] if match else "" for name, match in found.items()}


NOT_RUN = {
    "clipaudit demo": "made what the others run on",
    "clipaudit serve": "serves until it is stopped",
    "clipaudit explore": "serves until it is stopped",
    "clipaudit evaluate multilabel": "needs shards with lists of labels",
    "clipaudit doctor": "looks for the network",
}


def test_every_command_has_an_example_of_itself():
    assert [name for name, example in examples().items() if not example.startswith(name)] == []


@pytest.mark.parametrize("page", [*pages(), "CHANGELOG.md", "CONTRIBUTING.md"])
def test_options_that_a_page_names_exist_also_where_nothing_is_run(page):
    text = (ROOT / page).read_text().replace("\\\n", " ")
    missing = []
    for name, command in all_commands().items():
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for line in re.findall(rf"\b{name} ([^`\n|#&]*)", text):
            missing += [f"{name} {word}" for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", line) if word not in known]
    assert missing == []


@pytest.mark.full
def test_the_example_of_every_command_runs_on_the_demo(shared, tmp_path, monkeypatch):
    shutil.copytree(shared("demo-out", write_demo) / "demo-out", tmp_path / "demo-out")
    monkeypatch.chdir(tmp_path)
    runs = {name: example for name, example in examples().items() if name not in NOT_RUN}
    order = sorted(runs, key=lambda name: "columns export" not in name)  # writes the table that `columns add` reads
    for name in order:
        run_block(Block(page=name, line=0, language="bash", code=f"{runs[name]}\n", comment=""), tmp_path, {})
