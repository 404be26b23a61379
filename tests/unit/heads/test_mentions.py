"""Which class a caption names: whole words, plurals, the longer of two names, and never a guess between classes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipaudit.heads.texts.mentions import NONE, SEVERAL, forms_of, named_class, named_classes, words_of

NAMES = ("sea", "sea_lion", "Polar Bear", "wolf", "bus", "T-shirt", "pony", "café", "bear cub")
FORMS = forms_of(NAMES)
SEA, LION, POLAR, WOLF, BUS, SHIRT, PONY, CAFE, CUB = range(len(NAMES))

word = st.text(st.characters(categories=("Ll", "Lu", "Nd")), min_size=1, max_size=8)
names = st.lists(st.lists(word, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=6)
separator = st.sampled_from([" ", ", ", "-", "_", "/", ". ", " (", "\n", "…", "\u200b", "’"])


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("Waves of the SEA.", SEA),
        ("seaside, undersea, seas1ck", NONE),
        ("the sea's colour", SEA),
        ("two seas", SEA),
        ("a sea lion on a rock", LION),
        ("Sea-Lions_resting", LION),
        ("a sea lion by the sea", SEVERAL),
        ("sea, lion", LION),
        ("lion of the sea", SEA),
        ("wolves", WOLF),
        ("a bus and more buses", BUS),
        ("busy, abuse, syllabuses", NONE),
        ("three ponies", PONY),
        ("a wolf in a t-shirt", SEVERAL),
        ("T-SHIRTS", SHIRT),
        ("tshirt", NONE),
        (unicodedata.normalize("NFD", "at the Café"), CAFE),
        ("at the cafe", NONE),
        ("sea\u00adside", NONE),  # a soft hyphen is not seen, and parts no word
        ("a polar bear cub", SEVERAL),  # two names of two words share one
        ("", NONE),
        (None, NONE),
    ],
)
def test_captions(caption, found):
    assert named_class(caption, FORMS) == found


def test_classes_that_share_a_name_cannot_be_told_apart():
    forms = forms_of(["crane", "crane", "mast", "glass", "glasses", "?!"])
    assert named_class("a crane", forms) == SEVERAL
    assert named_class("a mast", forms) == 2
    assert named_classes("glasses", forms) == {3, 4}
    assert named_class("?!", forms) == NONE


@given(names=names, before=st.text(max_size=20), after=st.text(max_size=20), gap=separator, data=st.data())
def test_a_name_among_other_words_is_found_whatever_its_case(names, before, after, gap, data):
    place = data.draw(st.integers(0, len(names) - 1))
    shown = data.draw(st.sampled_from([names[place], names[place].upper(), names[place].replace(" ", "_")]))
    wanted = words_of(names[place])
    found = named_classes(f"{before}{gap}{shown}{gap}{after}", forms_of(names))
    around = words_of(f"{before}{gap}{names[place]}{gap}{after}")
    longer = [name for name in names if len(words_of(name)) > len(wanted)]
    if words_of(shown) == wanted and not longer:  # (some letters change with their case: ß)
        assert place in found
    assert all(_stands_in(names[k], around) for k in found) or words_of(shown) != wanted


def _stands_in(name, words):
    """An oracle: the name, or a word that begins with its last one's stem, at some place among the words."""
    own = words_of(name)
    return any(
        words[at : at + len(own) - 1] == own[:-1] and words[at + len(own) - 1].startswith(own[-1][:-1])
        for at in range(len(words) - len(own) + 1)
    )


@given(first=word, last=word, name=word)
@example(first="a", last="", name="sea")
def test_never_inside_another_word(first, last, name):
    joined = f"{first}{name}{last}"
    plural = set(forms_of([name]).classes)
    if (words := words_of(joined)) and words not in plural and len(words) == 1:
        assert named_class(joined, forms_of([name])) == NONE


@given(short=word, rest=st.lists(word, min_size=1, max_size=2), other=word)
def test_the_longer_of_two_names_that_overlap_wins(short, rest, other):
    long = " ".join([short, *rest])
    forms = forms_of([short, long])
    length = len(words_of(long))
    text = words_of(f"{other} {long}")
    apart = [at for at in range(len(text)) if text[at : at + 1] in forms.classes and at < len(text) - length]
    inside = [w for w in words_of(" ".join(rest)) if (w,) in forms.classes]
    found = named_class(f"{other} {long}", forms)
    if not apart:
        assert found == 1
    elif not inside:
        assert found == SEVERAL


@given(a=word, b=word, gap=separator)
def test_two_classes_are_left_out(a, b, gap):
    forms = forms_of([a, b])
    if words_of(f"{a}{gap}{b}") == (*words_of(a), *words_of(b)):
        assert named_class(f"{a}{gap}{b}", forms) == SEVERAL
        assert named_classes(f"{a}{gap}{b}", forms) == {0, 1}


@given(st.text(max_size=60))
def test_any_text_is_some_words(text):
    words = words_of(text)
    assert all(word and not word.isspace() for word in words)
    assert isinstance(named_class(text, FORMS), int)


def test_a_class_may_have_several_names():
    forms = forms_of(["waterbird", "landbird"], [["duck", "goose", "geese"], ["hen"]])
    assert [named_class(text, forms) for text in ("two ducks", "geese at dawn", "A hen", "a waterbird")] == [0, 0, 1, 0]
    assert named_class("a duck, that is a waterbird", forms) == 0
    assert named_class("a duck and a hen", forms) == SEVERAL
