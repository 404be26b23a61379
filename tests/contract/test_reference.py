"""What users may rely on: the names that the documentation imports, and the options in docs/cli.md."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import typer

import clipaudit
from clipaudit.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {
    "clipaudit": clipaudit.__all__,
    "clipaudit.cues": ["AuditOptions", "AuditResult", "Verdict", "audit_cues"],
    "clipaudit.model": [
        "Decomposer",
        "Decomposition",
        "Positions",
        "Readout",
        "TokenValues",
        "Tower",
        "describe_tower",
        "resized",
        "token_map",
        "token_scores",
        "with_positions",
    ],
    "clipaudit.localize": [
        "METHODS",
        "Localiser",
        "Method",
        "Options",
        "PatchFeatures",
        "Points",
        "Surgery",
        "TokenDecomposition",
        "TokenMaps",
        "enlarged",
        "feature_surgery",
        "localiser",
        "min_max",
        "points",
        "similarities",
        "single_text",
        "text_weights",
    ],
    "clipaudit.cues.report": ["save_report"],
}
"""Removing or renaming one of these needs a line in CHANGELOG.md."""
GENERAL = {"--help", "--install-completion", "--show-completion"}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_these_and_documented(module):
    found = importlib.import_module(module)
    assert sorted(getattr(found, "__all__", PUBLIC[module])) == sorted(PUBLIC[module])
    for name in PUBLIC[module]:
        value = getattr(found, name)
        assert not (inspect.isclass(value) or inspect.isfunction(value)) or inspect.getdoc(value), name


def test_the_documentation_imports_public_names_only():
    """From the front door alone, in whatever way Python is written there."""
    imports = re.compile(r"^ *(?:from (clipaudit[\w.]*) import ([\w, ]+)|import (clipaudit[\w.]*))", re.MULTILINE)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    names = {
        (module or whole, name.strip())
        for page in pages
        for module, listed, whole in imports.findall(page.read_text())
        for name in (listed or "").split(",")
    }
    assert names
    assert {
        (module, name) for module, name in names if module != "clipaudit" or name not in ("", *PUBLIC[module])
    } == set()


def commands(command, name):
    """Every command with its full name."""
    yield name, command
    for inner in getattr(command, "commands", {}).values():
        yield from commands(inner, f"{name} {inner.name}")


def test_the_reference_has_every_command_and_option_as_help_has_them():
    page = (ROOT / "docs/cli.md").read_text()
    sections = dict(re.findall(r"^#+ `([^`]+)`\n(.*?)(?=^#+ `|\Z)", page, re.S | re.M))
    known = dict(commands(typer.main.get_command(app), "clipaudit"))
    again = "typer clipaudit.cli.app utils docs --name clipaudit --output docs/cli.md"
    assert list(sections) == list(known), again
    for name, command in known.items():
        shown = dict(re.findall(r"^\* `(?:-\w, )?(--[\w-]+)[^`]*`: (.*)$", sections[name], re.M))
        options = {param.opts[0]: param.help for param in command.params if param.opts[0].startswith("--")}
        options = {option: help for option, help in options.items() if option not in GENERAL}
        assert shown.keys() - GENERAL == options.keys(), (name, again)
        assert all(shown[option].startswith(help) for option, help in options.items()), (name, again)
