"""References to docs/method.md in code, tests and pages lead to a heading, and every guard that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METHOD = (ROOT / "docs" / "method.md").read_text()
SECTION = re.compile(r"docs/method\.md,?[\s#]+(\d+)(?:[\s#]+and[\s#]+(\d+))?")
STATISTIC = re.compile(r"(?<![\w-])S\d+[a-z]?(?![\w-])")
FOREIGN = re.compile(r"\b(DESIGN|STATISTICS|LAYOUT)\b|of the method\b")
"""Names of documents that users do not have, and references without a page."""


def pages() -> list[Path]:
    """All files of the repository that may refer to the method."""
    found = [ROOT / "pyproject.toml", *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for folder in ("clipaudit", "tests", "benchmarks"):
        found += [path for suffix in ("py", "html", "jinja") for path in (ROOT / folder).rglob(f"*.{suffix}")]
    return sorted(path for path in found if path != Path(__file__).resolve())


def without_noqa(text: str) -> str:
    """The text without the linter's codes, some of which look like a statistic's number."""
    return re.sub(r'# noqa: .*|"S\d{3}".*', "", text)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): without_noqa(path.read_text(encoding="utf-8")) for path in pages()}


def test_every_section_that_is_referred_to_exists(texts):
    headings = set(re.findall(r"^## (\d+) ", METHOD, re.M))
    named = {
        (number, name) for name, text in texts.items() for pair in SECTION.findall(text) for number in pair if number
    }
    assert len(named) > 5
    assert not {(number, name) for number, name in named if number not in headings}


def test_every_statistic_that_is_referred_to_exists(texts):
    headings = set(re.findall(r"^### (S\d+[a-z]?) ", METHOD, re.M))
    named = {(code, name) for name, text in texts.items() for code in STATISTIC.findall(text)}
    assert {code for code, _ in named} >= headings  # each is cited where it is computed
    assert not {(code, name) for code, name in named if code not in headings}


def test_no_reference_leads_to_a_document_that_users_do_not_have(texts):
    assert not [(name, match[0]) for name, text in texts.items() for match in FOREIGN.finditer(text)]


def test_sections_and_statistics_are_numbered_without_gaps():
    sections = [int(number) for number in re.findall(r"^## (\d+) ", METHOD, re.M)]
    statistics = [int(number) for number in re.findall(r"^### S(\d+) ", METHOD, re.M)]
    assert sections == list(range(1, len(sections) + 1))
    assert statistics == list(range(len(statistics)))


def test_the_guard_of_every_trap_is_a_test(texts):
    guards = re.findall(r"`(test_\w+)`", METHOD.partition("\n## 9 ")[2])
    defined = {name for text in texts.values() for name in re.findall(r"^def (test_\w+)", text, re.M)}
    assert len(guards) >= 10
    assert not set(guards) - defined


def test_every_module_that_the_method_names_exists():
    named = re.findall(r"`((?:clipaudit|statistics|measure|findings)/[\w/]+\.py)`", METHOD)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).is_file() or (ROOT / "clipaudit" / "cues" / name).is_file(), name
