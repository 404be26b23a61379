"""Pages: one place makes their environments, which escape values, miss no name, and hold no forbidden character."""

import jinja2
import pytest

from clipaudit.pages.html import render_page, template_environment, without_forbidden
from tests.commands import ROOT

PACKAGES = ("clipaudit.heads", "clipaudit.retrieval", "clipaudit.cues.report", "clipaudit.demo")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_template_of_a_package_can_be_loaded(package):
    environment = template_environment(package)
    names = environment.list_templates(extensions=["html"])
    assert names
    assert all(environment.loader.get_source(environment, name)[0] for name in names)


@pytest.mark.parametrize("package", PACKAGES)
def test_values_are_escaped_and_unknown_names_are_errors(package):
    environment = template_environment(package)
    page = render_page(environment.from_string("<p>{{ key }}</p>"), key="<script>alert(1)</script>")
    assert page == "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"
    with pytest.raises(jinja2.UndefinedError, match="'key' is undefined"):
        render_page(environment.from_string("{{ key }}"))


def test_lines_of_block_tags_leave_no_lines():
    template = template_environment("clipaudit.heads").from_string(
        "<ul>\n  {% for n in ns %}\n  <li>\n  {% endfor %}\n</ul>"
    )
    assert render_page(template, ns=[1, 2]) == "<ul>\n  <li>\n  <li>\n</ul>"


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x85", "\ud800", "\ufffe", "\u202e", "\u2066"])
def test_no_page_holds_a_forbidden_character(character):
    template = template_environment("clipaudit.heads").from_string("<p>{{ key }}</p>")
    assert render_page(template, key=f"a{character}b") == "<p>a\ufffdb</p>"
    assert without_forbidden("tab\tline\nü\u00a0\u200d😀") == "tab\tline\nü\u00a0\u200d😀"


def test_a_package_without_templates_is_an_error():
    with pytest.raises(ValueError, match="templates"):
        template_environment("clipaudit.storage")


def test_no_other_module_makes_an_environment():
    makers = [path.name for path in (ROOT / "clipaudit").rglob("*.py") if "Environment(" in path.read_text()]
    assert makers == ["html.py"]
