"""The bundled text pool's quality, lists that users bring, class names and prompt templates."""

import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import fsspec
import pytest

from clipaudit.demo.evaluation.head_choice import text_pool
from clipaudit.errors import Note, UsageError
from clipaudit.heads.texts import pool, prompts
from clipaudit.heads.texts.pool import CONTEXT, CORE, KINDS, UNSPECIFIED, load_pool, pool_for
from clipaudit.heads.texts.prompts import load_templates
from clipaudit.run.classes import ClassNames, find_classes, listed_classes, load_classes
from clipaudit.storage import text_file

FOLDER = Path(pool.__file__).parent / "pool"
WORLD = re.findall(
    r"\w+",
    """
    ocean lake forest bamboo grass desert snow sky night city room brick
    sepia sketch pixelated black blue brown green orange pink purple red white yellow
    circle cross heart square star triangle
    duck flamingo goose penguin swan eagle owl parrot rooster turkey
    butterfly cat cow crab elephant fish frog pig turtle whale
    airplane bicycle boat bus car helicopter rocket tractor
    apple banana cake carrot donut hamburger pizza strawberry
    balloon book cactus camera clock guitar key umbrella
""",
)
"""What the demo's scenes are made of; `black and white` and `blurry` are looked for apart."""

SMALL_WORDS = {"a", "an", "the", "of", "in", "on", "at", "with", "to", "from", "for", "by", "and", "as", "into"}
SMALL_WORDS |= {"is", "are", "that", "it", "its", "their", "his", "her"}
CARRIERS = {"photo", "photograph", "picture", "image", "taken", "showing"}
"""Words that say only that there is a picture."""


def singular(word):
    word = word.removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search(r"(ss|sh|ch|x|z)es$", word):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def content(text):
    """The words that carry a text's meaning, as a set."""
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode().replace("-", " ")
    words = [singular(word) for word in re.findall(r"[a-z0-9']+", plain)]
    words = [word for word in words if word not in SMALL_WORDS]
    return frozenset(word for word in words if word not in CARRIERS) or frozenset(words)


def near_duplicates(texts, similarity=0.75):
    """Pairs whose sets of words are equal, or overlap by at least `similarity` of their union."""
    sets = [content(text) for text in texts]
    positions = defaultdict(list)
    found = []
    for second, words in enumerate(sets):
        shared = Counter(first for word in words for first in positions[word])
        for first, common in shared.items():
            if common >= similarity * len(words | sets[first]):
                found.append((texts[first], texts[second]))
        for word in words:
            positions[word].append(second)
    return found


@pytest.fixture(scope="module")
def ours():
    return load_pool()


# -- our own pool ------------------------------------------------------------------------------------------------------


def test_the_pool_is_large_in_every_property(ours):
    assert len(ours) > 4000
    counts = Counter(ours.properties)
    assert set(counts) == {path.stem for path in FOLDER.glob("*.txt")}, "every file is in properties.toml"
    assert len(counts) >= 25
    assert min(counts.values()) >= 80, counts
    assert ours.duplicates == 0
    assert ours.source == pool.BUNDLED
    assert ours.summary == f"{len(ours):,} texts in {len(counts)} properties from clipaudit's own pool"


def test_both_kinds_are_well_filled(ours):
    counts = Counter(ours.kinds)
    assert set(counts) == {CORE, CONTEXT}
    assert min(counts.values()) > 1000


def test_a_line_can_differ_in_kind_from_its_file(ours):
    kinds = dict(zip(ours.texts, ours.kinds, strict=True))
    assert kinds["a person wearing a hat"] == CONTEXT
    assert kinds["a straw hat"] == CORE
    assert kinds["a close-up of feathers"] == CORE
    assert kinds["a rough surface"] == CONTEXT


def test_no_two_texts_say_nearly_the_same(ours):
    assert near_duplicates(ours.texts) == []


def test_the_check_for_near_duplicates_finds_some():
    texts = ("a photo of a duck", "An image of the ducks.", "a red car parked by night", "a red car parked at night")
    assert near_duplicates(texts) == [texts[:2], texts[2:]]
    assert near_duplicates(["two dogs", "three dogs", "a dog on a sofa"]) == []


def test_lines_are_clean(ours):
    allowed = re.compile(r"[^\W_]+(?:[ ,'-]+[^\W_]+)*")
    for text in ours.texts:
        assert allowed.fullmatch(text), text
        assert 5 <= len(text) <= 100, text
        words = text.lower().split()
        assert all(a != b for a, b in itertools.pairwise(words)), text
    # said with a y or a w; letters said one by one
    wrong = re.compile(r"\b(?:[Aa] (?!eu|Eu|one|once)[aeioAEIO]\w|[Aa]n (?!MRI|SUV)[b-df-gj-np-tv-zB-DF-GJ-NP-TV-Z]\w)")
    assert [text for text in ours.texts if wrong.search(text)] == []


def test_every_text_fits_the_context_of_clip(ours):
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    assert max(len(tokenizer.encode(text)) for text in ours.texts) <= 77 - 2


@pytest.mark.parametrize("word", [*WORLD, "black and white", "blurry"])
def test_the_demo_world_finds_its_words(ours, word):
    matching = [text for text in ours.texts if re.search(rf"\b{word}(?:e?s)?\b", text)]
    assert len(matching) >= 4, matching


def test_the_same_pool_has_the_same_fingerprint(ours, tmp_path):
    assert ours.fingerprint == load_pool().fingerprint
    assert len(ours.fingerprint) == 64
    rows = zip(ours.texts, ours.properties, ours.kinds, strict=True)
    (tmp_path / "own.tsv").write_text("\n".join("\t".join(row) for row in rows), encoding="utf-8")
    assert load_pool(str(tmp_path / "own.tsv")).fingerprint == ours.fingerprint


# -- lists that users bring --------------------------------------------------------------------------------------------


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def test_a_plain_list(tmp_path):
    path = write(tmp_path / "list.txt", "\ufeff A dog \r\n\r\n  a  cat\na dog\n# hashtag\nA CAT\n  \n")
    texts = load_pool(path)
    assert texts.texts == ("A dog", "a cat", "# hashtag")
    assert set(texts.properties) == set(texts.kinds) == {UNSPECIFIED}
    assert texts.duplicates == 2
    assert texts.summary == f"3 texts from {path}; 2 duplicates left out"


def test_a_list_with_properties(tmp_path):
    path = write(
        tmp_path / "list.tsv",
        "Text\tProperty\tKind\n"
        "a red sky\tcolour\nmy dog\tpets\nmy cat\tpets\tcore-like\na tree\tplants\tcontext-like\n",
    )
    texts = load_pool(path)
    assert texts.texts == ("a red sky", "my dog", "my cat", "a tree")
    assert texts.properties == ("colour", "pets", "pets", "plants")
    assert texts.kinds == (CONTEXT, UNSPECIFIED, CORE, CONTEXT)
    assert texts.properties == ("colour", "pets", "pets", "plants")
    assert texts.summary == f"4 texts in 3 properties from {path}"
    assert set(texts.kinds) <= set(KINDS)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("text,property\nsnow,weather\n", r"list\.txt: the columns are separated by commas: write text<TAB>property"),
        ("", r"list\.txt has no texts: write one a line$"),
        (" \n\t\n", r"list\.txt has no texts"),
        ("text\tproperty\n", r"list\.txt has no texts"),
        (b"good\nb\xff\n", r"list\.txt, line 2: not UTF-8"),
        ("good\n".encode("utf-16-le"), r"list\.txt, line 1: not plain text"),
        ("good\n" + "x" * 1001, r"list\.txt, line 2: 1,001 characters, more than 1,000$"),
        ("good\nbad\tcolour\n", r"list\.txt, line 2: there is a tab, and the first line has none$"),
        ("good\tcolour\n\nbad\n", r"list\.txt, line 3: this file has .* and here are 1 column$"),
        ("good\tcolour\nbad\t\n", r"list\.txt, line 2: .* 1 column$"),
        ("good\tcolour\nbad\t\tcore-like\n", r"list\.txt, line 2: .* 2 columns$"),
        ("good\ta\tcore-like\tb\n", r"list\.txt, line 1: .* 4 columns$"),
        ("good\ta\tcore\n", r"list\.txt, line 1: the kind 'core' is none of core-like, context-like, unspecified$"),
    ],
)
def test_a_bad_list_is_one_sentence(tmp_path, data, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        load_pool(write(tmp_path / "list.txt", data))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"^there is no file .*gone\.txt$"):
        load_pool(str(tmp_path / "gone.txt"))
    with pytest.raises(UsageError, match=r" is a directory: name a file$"):
        load_pool(str(tmp_path))
    with pytest.raises(UsageError, match=r"^there is no file memory://gone\.txt, or it may not be read$"):
        load_pool("memory://gone.txt")
    with pytest.raises(UsageError, match=r"^nosuch://x\.txt cannot be read: "):
        load_pool("nosuch://x.txt")
    monkeypatch.setattr(text_file, "MAX_BYTES", 10)
    with pytest.raises(UsageError, match="is it a list of texts"):
        load_pool(write(tmp_path / "large.txt", "a text too many\n"))


def test_too_few_texts(tmp_path):
    texts = load_pool(write(tmp_path / "two.txt", "one\ntwo\n"))
    texts.require(2)
    with pytest.raises(UsageError, match=r"^60 texts were asked for, there are 2 in .*two\.txt$"):
        texts.require(60)


def test_a_pool_of_unequal_columns_is_a_bug():
    with pytest.raises(ValueError, match="differ in length"):
        pool.TextPool(texts=("a",), properties=(), kinds=(CORE,), source="x")


# -- class names -------------------------------------------------------------------------------------------------------


def test_names_one_a_line_count_from_0(tmp_path):
    names = load_classes(write(tmp_path / "names.txt", "air plane\ncat\n\n"))
    assert names.by_label == {0: "air plane", 1: "cat"}
    assert len(names) == 2
    assert names.rows([1, None, 0, 1]) == {1: 1, 0: 0}
    assert names.rows(["Air_Plane", "1"]) == {"Air_Plane": 0, "1": 1}, "words are names, digits are labels"


def test_names_with_labels(tmp_path):
    names = load_classes(write(tmp_path / "names.txt", "5\tcat\n2\tdog\n"))
    assert names.labels == (5, 2)
    assert names.rows([2]) == {2: 1}
    names = load_classes(write(tmp_path / "words.txt", "n01\tcat\n007\tdog\n"))
    assert names.labels == ("n01", "007")
    assert names.rows(["n01", "007"]) == {"n01": 0, "007": 1}


def test_further_names_of_a_class(tmp_path):
    names = load_classes(write(tmp_path / "names.txt", "0\tlandbird\n1\twaterbird\tduck\twater bird\n"))
    assert names.names == ("landbird", "waterbird")
    assert names.others == ((), ("duck", "water bird"))


def test_repeated_names_are_told_and_never_guessed(tmp_path):
    with pytest.warns(Note, match=r"names\.txt: labels 0 and 2 have the same name, 'missile': no prompt tells these"):
        names = load_classes(write(tmp_path / "names.txt", "missile\ncrane\nmissile\n"))
    assert names.repeated == ("missile",)
    assert names.rows([0, 2, "crane"]) == {0: 0, 2: 2, "crane": 1}
    with pytest.raises(UsageError, match=r"^the run's label 'missile' has no name in"):
        names.rows(["missile"])


def test_names_that_differ_in_case_alone_are_told_by_their_spelling(tmp_path):
    with pytest.warns(Note, match="labels 1, 2 and 3 have the same name, 'polar bear'"):
        names = load_classes(write(tmp_path / "names.txt", "cat\npolar bear\nPolar Bear\npolar_bear\n"))
    assert names.shares_name == (False, True, True, True)
    assert names.rows(["polar bear", "Polar Bear"]) == {"polar bear": 1, "Polar Bear": 2}
    with pytest.raises(UsageError, match="no name in"):
        names.rows(["POLAR BEAR"])


def test_a_further_name_of_two_classes_is_told(tmp_path):
    with pytest.warns(Note, match=r"'duck' is a name of the labels 0 and 1: captions with it name neither"):
        load_classes(write(tmp_path / "names.txt", "0\tmallard\tduck\n1\twaterbird\tduck\n"))


@pytest.mark.parametrize("data", ["cat\ndog\n", "3 series\n5 series\n", "0\t0\n1\t1\n", "n01\tcat\n"])
def test_names_that_are_names_are_read_without_a_word(tmp_path, data):
    assert len(load_classes(write(tmp_path / "names.txt", data))) == data.count("\n")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("0,airplane\n1,cat\n", r"lines such as '0,airplane' look like a label and a name: separate them by a tab"),
        ("label,name\n0,airplane\n1,cat\n", r"lines such as '0,airplane' look like a label and a name"),
        ("airplane, 0\ncat, 1\n", r"lines such as 'airplane, 0' look like a label and a name"),
        ("0: airplane\n1: cat\n", r"lines such as '0: airplane' look like a label and a name"),
        ("1 airplane\n2 cat\n", r"lines such as '1 airplane' look like a label and a name"),
        ("label\tname\n0\tcat\n1\tdog\n", r"names\.txt, line 1: 'label' is no label like the others: remove the hea"),
        ("cat\t0\ndog\t1\n", r"names\.txt: the second column holds numbers: write label<TAB>name, the label first$"),
        ("", r"names\.txt has no class names: write one a line$"),
        ('{\n"0": "cat"\n}', r"names\.txt looks like JSON: write a name a line, or label<TAB>name$"),
        ("cat\n\ndog\n", r"names\.txt, line 2: blank, though names follow; labels count the lines from 0$"),
        ("\ncat\n", r"names\.txt, line 1: blank"),
        ("cat\ndog\t1\n", r"names\.txt, line 2: not a name without a tab, which the first line has$"),
        ("0\tcat\ndog\n", r"names\.txt, line 2: not label<TAB>name, which the first line has$"),
        ("0\tcat\t1\n", r"names\.txt, line 1: not label<TAB>name"),
        ("0\tcat\n0\tdog\n", r"names\.txt, line 2: the label '0' is in line 1 already$"),
        (b"cat\n\xff", r"names\.txt, line 2: not UTF-8"),
    ],
)
def test_a_bad_class_file_is_one_sentence(tmp_path, data, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_classes(write(tmp_path / "names.txt", data))


def test_labels_that_the_file_does_not_name():
    names = ClassNames(labels=(0, 1), names=("cat", "dog"), source="names.txt")
    with pytest.raises(
        UsageError, match=r"^the run's label 2 has no name in names\.txt, which has 2 classes: 0 = cat, 1 = dog$"
    ):
        names.rows([0, 2])
    with pytest.raises(UsageError, match=r"^the run's labels 2, 3, 4, 5, 6, \.\.\. have no name"):
        names.rows(range(9))


def test_a_given_file_comes_first(tmp_path):
    write(tmp_path / "classnames.txt", "beside\n")
    given = write(tmp_path / "given.txt", "given\n")
    shards = [str(tmp_path / "0.tar")]
    assert find_classes(given, shards, [0]).names == ("given",)
    assert find_classes(None, shards, [0]).names == ("beside",)
    with pytest.raises(UsageError, match=r"the run's label 1 has no name in .*given\.txt"):
        find_classes(given, shards, [1])


def test_names_lie_beside_the_shards_or_one_above(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    shards = [str(tmp_path / "train/0.tar"), str(tmp_path / "test/0.tar")]
    write(tmp_path / "classnames.txt", "cat\ndog\n")
    assert find_classes(None, shards, [0, 1]).names == ("cat", "dog")
    write(tmp_path / "test/classnames.txt", "dog\ncat\n")
    with pytest.raises(UsageError, match=r"classnames\.txt and .*classnames\.txt differ: give the file"):
        find_classes(None, shards, [0, 1])
    for part, further in (("train", "kitten"), ("test", "tomcat")):
        write(tmp_path / part / "classnames.txt", f"0\tcat\t{further}\n1\tdog\n")
    with pytest.raises(UsageError, match="differ: give the file"):
        listed_classes(None, shards)


def test_names_beside_remote_shards():
    fsspec.filesystem("memory").pipe_file("/set/classnames.txt", b"cat\ndog\n")
    for shard in ("memory://set/0.tar", "memory://set/train/0.tar"):
        assert find_classes(None, [shard], [1]).names == ("cat", "dog")
    with pytest.raises(UsageError, match="labels are numbers"):
        find_classes(None, ["memory://0.tar", "simplecache::memory://set/0.tar"], [1])


def test_words_name_themselves(tmp_path):
    names = find_classes(None, [str(tmp_path / "0.tar")], ["polar_bear", None, "ant", "polar_bear"])
    assert names == ClassNames(labels=("ant", "polar_bear"), names=("ant", "polar bear"), source="the run's labels")
    assert names.rows(["polar_bear"]) == {"polar_bear": 1}
    write(tmp_path / "classnames.txt", "cat\ndog\n")
    assert find_classes(None, [str(tmp_path / "0.tar")], ["land", "water"]).names == ("land", "water")
    with pytest.raises(UsageError, match=r"label 'water' has no name in .*classnames\.txt"):
        find_classes(None, [str(tmp_path / "0.tar")], ["cat", "water"])


def test_numbers_without_names(tmp_path):
    with pytest.raises(UsageError, match=r"^the run's labels are numbers \(3, 1\) and there is no classnames\.txt"):
        find_classes(None, [str(tmp_path / "0.tar")], [3, 1])
    with pytest.raises(UsageError, match=r"^the run has no labels"):
        find_classes(None, [], [None])


# -- templates ---------------------------------------------------------------------------------------------------------


def test_template_sets():
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    from clipaudit.heads.texts.encoder import fill

    imagenet = load_templates()
    assert len(set(imagenet)) == 80
    assert all(template.count("{}") == 1 for template in imagenet)
    assert [fill(template, "tench") for template in imagenet] == [make("tench") for make in OPENAI_IMAGENET_TEMPLATES]
    assert set(load_templates("simple")) < set(imagenet)
    assert len(load_templates("simple")) == 7
    assert load_templates("single") == ("a photo of a {}.",)
    assert set(prompts.TEMPLATE_SETS) == {"imagenet", "simple", "single"}


def test_prompts_leave_names_alone():
    from clipaudit.heads.texts.encoder import fill

    prompts = [[fill(template, name) for template in ("x {}", "{}.")] for name in ("{0}", "a {} b")]
    assert prompts == [["x {0}", "{0}."], ["x a {} b", "a {} b."]]


def test_templates_from_a_file(tmp_path):
    assert load_templates(write(tmp_path / "t.txt", "a {}\n\nthe {}.\na {}\n")) == ("a {}", "the {}.")
    for data, sentence in [
        ("a {}\nno name\n", r"t\.txt, line 2: a template needs \{\} once"),
        ("{} and {}\n", r"t\.txt, line 1: a template needs"),
        ("\n", r"t\.txt has no templates"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            load_templates(write(tmp_path / "t.txt", data))
    with pytest.raises(UsageError, match=r"^no templates 'imagnet': give imagenet, simple, single or a file"):
        load_templates("imagnet")


def test_the_demo_model_is_given_the_words_of_its_captions():
    ours = pool_for("demo")
    assert dict(zip(ours.texts, ours.properties, strict=True)) == text_pool()
    things = {name for name, kind in zip(ours.properties, ours.kinds, strict=True) if kind == CORE}
    assert things == {"noun", "colour", "shape"}
    assert pool_for("ViT-B-32").fingerprint == load_pool().fingerprint


def test_a_file_goes_before_the_words_of_a_model(tmp_path):
    assert pool_for("demo", write(tmp_path / "own.txt", "one\n")).texts == ("one",)
