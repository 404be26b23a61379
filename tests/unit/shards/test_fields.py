"""Field specifications, and the values that members of every kind give."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.config import FieldsConfig
from clipaudit.errors import UsageError
from clipaudit.schema import BAD_LABEL, BAD_METADATA, MISSING_LABEL, OK, STATUSES
from clipaudit.shards.field_values import MAX_JSON_BYTES, MAX_TEXT_BYTES, Origin
from clipaudit.shards.fields import extract, parse_fields


def fields(**config):
    return parse_fields(FieldsConfig(**config))


def take(members, **config):
    return extract(members, fields(**config))


def test_parsed():
    parsed = fields(label="cls", attributes=("json:a.place", "split=json:b.c.d", "json:objects.name"), caption="txt")
    assert parsed.label_kind == "int"
    assert parsed.attribute_names == ("place", "split", "name")
    assert [item.path for item in parsed.attributes] == [("a", "place"), ("b", "c", "d"), ("objects", "name")]
    assert parsed.extensions == {"cls", "json", "txt"}
    assert parsed.attributes[1].spec == "json:b.c.d"


@pytest.mark.parametrize(("label", "kind"), [("cls", "int"), ("txt", "string"), ("json:a", "string"), (None, None)])
def test_label_kind(label, kind):
    assert fields(label=label).label_kind == kind


@pytest.mark.parametrize(
    ("label", "key", "expected", "status"),
    [
        ("path:0", "train/dog/0001", "train", OK),
        ("path:1", "train/dog/0001", "dog", OK),
        ("path:-1", "train/dog/0001", "dog", OK),
        ("path:-2", "./train/dog/0001", "train", OK),
        ("path:2", "train/dog/0001", None, MISSING_LABEL),
        ("path:0", "0001", None, MISSING_LABEL),
        ("shard", "0001", "birds-000003", OK),
        ("path:text", "train/0001", "from a file", OK),
    ],
)
def test_labels_from_names(label, key, expected, status):
    origin = Origin(key=key, shard="s3://bucket/v1.2/birds-000003.tar")
    values = extract({"jpg": b"", "path": b"from a file"}, fields(label=label), origin)
    assert (values.label, values.status) == (expected, status)


def test_a_folder_that_is_not_there_shows_those_that_are():
    origin = Origin(key="train/dog/0001", shard="a.tar")
    values = extract({"jpg": b""}, fields(label="path:5"), origin)
    assert values.detail == "the sample has no label path:5: 'train/dog/0001' is in the folders 'train', 'dog'"
    values = extract({"jpg": b""}, fields(label="path:0"), Origin(key="0001"))
    assert values.detail == "the sample has no label path:0: '0001' is in no folder"


def test_attributes_from_names_and_text_files():
    specs = ("source=shard", "who=path:0", "camera=cam:text", "place=json:place")
    origin = Origin(key="alice/0001", shard="https://host/sets/birds.v2.tar?token=x")
    values = extract({"cam": b"nikon\n", "json": b"broken"}, fields(attributes=specs), origin)
    assert values.attributes == {"source": "birds.v2", "who": "alice", "camera": "nikon", "place": None}
    assert values.bad == ["place"]
    assert values.kinds == {"source": "text", "who": "text", "camera": "text"}
    values = extract({"cam": b"\xff"}, fields(attributes=specs), Origin(key="0001", shard="b.tar"))
    assert (values.missing, values.bad) == (["who", "place"], ["camera"])


@pytest.mark.parametrize("kind", ["int", "string"])
def test_a_cls_of_the_other_kind_is_one_sentence(kind):
    chosen = replace(fields(label="cls"), kind=kind)
    values = extract({"cls": b"owl" if kind == "int" else b"7"}, chosen)
    assert values.status == BAD_LABEL
    assert "cls:text" in values.detail
    assert extract({"cls": b"7" if kind == "int" else b" owl\n"}, chosen).label == (7 if kind == "int" else "owl")


def test_nothing_asked_for_needs_nothing():
    assert fields().extensions == frozenset()
    assert take({}).status == OK


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"label": "class"}, r"^--label 'class' is not understood: use cls, txt or json:PATH"),
        ({"label": ""}, "^--label '' is not understood"),
        ({"label": "json"}, "^--label 'json' is not understood"),
        ({"label": "json:"}, "^--label 'json:' is not understood"),
        ({"label": "json:a..b"}, "^--label"),
        ({"label": "cls:a"}, "^--label"),
        ({"label": "x=json:a"}, "^--label"),
        ({"label": "path:x"}, r"path:N \(folder N of the member's name, 0 the first, -1 the last\)"),
        ({"attributes": ("path:0",)}, r"^--attributes 'path:0': '0' is not a column name .* give one, NAME=path:0$"),
        ({"caption": "path:0"}, r"^--caption 'path:0' is not understood: use txt or json:PATH"),
        ({"caption": "cls"}, r"^--caption 'cls' is not understood: use txt or json:PATH"),
        ({"attributes": ("cls",)}, r"^--attributes 'cls' is not understood: use json:PATH .* with NAME="),
        ({"attributes": ("json:a.eye color",)}, r"^--attributes 'json:a.eye color': 'eye color' is not a column name"),
        ({"attributes": ("json:objects.0",)}, r"'0' is not a column name .* give one, NAME=json:objects.0$"),
        ({"attributes": ("=json:a",)}, "^--attributes"),
        ({"attributes": ("json:a.x", "json:b.x")}, r"^--attributes: 'json:a.x' and 'json:b.x' both name .* 'x'"),
    ],
)
def test_bad_specifications_name_the_option(config, sentence):
    with pytest.raises(UsageError, match=sentence):
        fields(**config)


@pytest.mark.parametrize(
    ("data", "label", "status"),
    [
        (b"3", 3, OK), (b" -12\r\n", -12, OK), (b"+7", 7, OK), (b"007", 7, OK), (b"\xef\xbb\xbf7", 7, OK),
        (b"", None, MISSING_LABEL),
        (b" \n", None, MISSING_LABEL), (b"9223372036854775807", 2**63 - 1, OK),
        (b"9223372036854775808", None, BAD_LABEL),
        (b"-9223372036854775808", -(2**63), OK), (b"3.0", None, BAD_LABEL), (b"1_0", None, BAD_LABEL),
        (b"cat", None, BAD_LABEL), (b"0x10", None, BAD_LABEL), ("٣".encode(), None, BAD_LABEL),
        (b"1" * 20, None, BAD_LABEL), (b"\xff", None, BAD_LABEL), (None, None, BAD_LABEL),
        (b"1" + b" " * 5000, None, BAD_LABEL),
    ],
)  # fmt: skip
def test_cls(data, label, status):
    values = take({"cls": data}, label="cls")
    assert (values.label, values.status) == (label, status)
    assert bool(values.detail) == (status != OK)


@pytest.mark.parametrize(
    ("value", "label", "status"),
    [
        ("cat", "cat", OK), (" cat ", "cat", OK), (7, "7", OK), (2**70, str(2**70), OK), ("", None, MISSING_LABEL),
        (None, None, MISSING_LABEL), (True, None, BAD_LABEL), (1.0, None, BAD_LABEL), (["cat"], None, BAD_LABEL),
        ({"a": 1}, None, BAD_LABEL), ("x" * 1025, None, BAD_LABEL), ("\ud800", None, BAD_LABEL),
    ],
)  # fmt: skip
def test_json_label(value, label, status):
    values = take({"json": json.dumps({"a": {"b": value}}).encode()}, label="json:a.b")
    assert (values.label, values.status) == (label, status)


@pytest.mark.parametrize(
    ("data", "label", "status"),
    [
        (b"a dog\n", "a dog", OK), ("\ufeffzoë".encode(), "zoë", OK), (b"\n", None, MISSING_LABEL),
        (b"\xff\xfe", None, BAD_LABEL), (None, None, BAD_LABEL),
    ],
)  # fmt: skip
def test_txt_label(data, label, status):
    values = take({"txt": data}, label="txt")
    assert (values.label, values.status) == (label, status)


@pytest.mark.parametrize("label", ["cls", "txt", "json:a"])
def test_missing_label(label):
    values = take({"jpg": b""}, label=label)
    assert values.status == MISSING_LABEL
    assert label in values.detail


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("sea", "sea"), (True, "true"), (False, "false"), (3, "3"), (3.0, "3"), (-0.0, "0"), (0.1, "0.1"),
        (1e300, "1e+300"), ("3.0", "3.0"),
    ],
)  # fmt: skip
def test_attributes(value, text):
    values = take({"json": json.dumps({"x": value}).encode()}, attributes=("json:x",))
    assert values.attributes == {"x": text}
    assert (values.missing, values.bad) == ([], [])


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "1e999", "[1]", "{}", '"\\ud800"'])
def test_values_that_are_no_text_are_counted_as_bad(raw):
    values = take({"json": b'{"x": %s, "y": 1}' % raw.encode()}, attributes=("json:x", "json:y"), caption="json:x")
    assert values.attributes == {"x": None, "y": "1"}
    assert values.bad == ["x", "--caption"]
    assert values.status == OK


def test_missing_attributes_are_counted_and_no_failure():
    document = b'{"a": {"b": null}, "c": "", "list": [{"n": "one"}]}'
    specs = ("b=json:a.b", "json:c", "json:a.b.z", "d=json:a.9", "one=json:list.0.n", "two=json:list.1.n")
    specs += ("x=json:list.n",)
    values = take({"json": document}, attributes=specs)
    assert values.attributes == {"b": None, "c": None, "z": None, "d": None, "one": "one", "two": None, "x": None}
    assert values.missing == ["b", "c", "z", "d", "two", "x"]
    assert values.status == OK
    assert take({}, attributes=("json:a",)).missing == ["a"]


def test_the_last_of_repeated_keys_counts():
    assert take({"json": b'{"x": 1, "x": 2}'}, attributes=("json:x",)).attributes == {"x": "2"}


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe{}", b"[1]", b"3", b"[" * 200_000, b'{"x":' * 200_000, b'{"x": %s}' % (b"1" * 5000), None,
     b" " * (MAX_JSON_BYTES + 1)],
    ids=["empty", "open", "utf-16", "list", "number", "deep", "deeper", "digits", "unread", "huge"],
)  # fmt: skip
def test_json_that_cannot_be_read(data):
    values = take({"json": data, "cls": b"1"}, label="cls", attributes=("json:x",))
    assert (values.status, values.label) == (OK, 1), "it costs the json, not the image"
    assert (values.attributes, values.bad) == ({"x": None}, ["x"])
    ((kind, detail),) = values.notes
    assert kind == BAD_METADATA
    assert "\n" not in detail
    labelled = take({"json": data}, label="json:x", caption="json:t")
    assert (labelled.status, labelled.notes) == (BAD_METADATA, [])
    assert labelled.detail.startswith("label json:x: the json")
    assert take({"json": data, "cls": b"1"}, label="cls").status == OK  # not read when not asked for


def test_captions():
    assert take({"txt": b" a cat \n"}, caption="txt").caption == "a cat"
    assert take({}, caption="txt").missing == ["--caption"]
    assert take({"txt": b""}, caption="txt").caption is None
    assert take({"json": b'{"t": "a dog"}'}, caption="json:t").caption == "a dog"
    bad = take({"txt": b"\xff"}, caption="txt")
    assert (bad.status, bad.caption, [kind for kind, _ in bad.notes]) == (OK, None, [BAD_METADATA])
    both = take({"txt": b"x" * (MAX_TEXT_BYTES + 1), "json": b"{}", "cls": b"x"}, caption="txt", label="cls")
    assert both.status == BAD_LABEL
    beside = take({"txt": b"a cat", "json": b"{"}, caption="txt", attributes=("json:x",))
    assert (beside.status, beside.caption) == (OK, "a cat")


def test_extensions_of_the_image():
    usual = fields()
    assert [name for name in ("jpg", "seg.png", "gif", "tiff", "input.jpg", "cls") if usual.is_image(name)] == [
        "jpg", "gif", "tiff",
    ]  # fmt: skip
    assert usual.images_in(["gif", "cls", "png", "jpg"]) == ["png", "jpg", "gif"], "a usual format first"
    named = fields(image=(".Input.JPG", "5x.*"))
    assert named.images_in(["jpg", "5x.png", "input.jpg", "cls"]) == ["5x.png", "input.jpg"]
    with pytest.raises(UsageError, match="--image-key"):
        fields(image=("a/b",))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(document=json_values, junk=st.binary(max_size=30), data=st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_a_member_holds_the_columns_can_store_it(document, junk, data):
    encoded = json.dumps(document).encode()
    content = data.draw(st.sampled_from([encoded, junk, encoded[: len(encoded) // 2], None]))
    members = {"json": content, "txt": junk, "cls": junk}
    for label in ("cls", "txt", "json:a"):
        values = extract(members, fields(label=label, attributes=("json:a", "b=json:a.b"), caption="txt"))
        assert values.status in STATUSES
        assert values.attributes.keys() == {"a", "b"}
        assert (values.label is None) == (values.status != OK)
        for text in (values.label, values.caption, *values.attributes.values()):
            if isinstance(text, str):
                assert text
                text.encode()
            elif text is not None:
                assert -(2**63) <= text < 2**63


@pytest.mark.parametrize(
    ("spec", "members", "label"),
    [
        ("cls:text", {"cls": b"owl\n"}, "owl"),
        ("cls:text", {"cls": b"7"}, "7"),
        ("class.txt:text", {"class.txt": b"owl"}, "owl"),
    ],
)
def test_names_are_labels_from_any_extension(spec, members, label):
    parsed = fields(label=spec)
    assert parsed.label_kind == "string"
    assert extract(members, parsed).label == label
    assert parsed.label.spec == spec


def test_a_name_in_a_cls_file_is_quoted_with_the_option_that_reads_it():
    values = take({"cls": b"owl"}, label="cls")
    assert values.status == BAD_LABEL
    assert "'owl' is not a 64-bit integer" in values.detail
    assert "--label cls:text" in values.detail
