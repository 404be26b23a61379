"""SVG files: well-formed whatever their texts hold, and texts that fit."""

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from clipaudit.pages.svg import cut_text, svg_file, tag, text, text_width

NAMESPACE = "{http://www.w3.org/2000/svg}"


@given(st.text(max_size=30), st.text(max_size=30))
def test_files_are_well_formed_whatever_texts_hold(title, words):
    root = ET.fromstring(svg_file(200, 80, title, "text { fill: red; }", text(1, 2, words), tag("a", href=words)))
    assert root.tag == f"{NAMESPACE}svg"
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("200", "80", "0 0 200 80")
    assert root.find(f"{NAMESPACE}text") is not None


def test_a_file_has_its_title_and_style():
    root = ET.fromstring(svg_file(10.5, 20, "a <title>", ".s > .t { fill: red; }"))
    assert root.find(f"{NAMESPACE}title").text == "a <title>"
    assert root.find(f"{NAMESPACE}style").text == ".s > .t { fill: red; }"
    assert root.get("viewBox") == "0 0 10.5 20"


@given(st.text(max_size=40), st.floats(0, 200))
def test_texts_are_cut_to_fit(words, width):
    short = cut_text(words, width, 12)
    assert short == words or (short.endswith("…") and words.startswith(short[:-1]))
    assert text_width(short, 12) <= max(width, text_width("…", 12))
    assert (short == words) == (text_width(words, 12) <= width)


def test_east_asian_letters_are_as_wide_as_high():
    assert text_width("鳥", 12) == 12 > text_width("b", 12)
