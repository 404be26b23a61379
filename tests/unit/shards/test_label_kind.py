"""What labels are where their source alone does not tell: the first images decide."""

import pytest

from clipaudit.config import FieldsConfig
from clipaudit.shards.fields import parse_fields
from clipaudit.shards.label_kind import look_up_kind
from clipaudit.shards.listing import expand
from tests.make_shards import write_shard


def looked_up(path, samples, label):
    shard = expand([str(write_shard(path, samples))])[0]
    return look_up_kind(shard, parse_fields(FieldsConfig(label=label)))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([3, 4], "int"),
        (["owl", "cat"], "string"),
        ([], None),
        ([" 5 ", "owl", 7], "int"),
        (["owl", 7, "cat"], "string"),
    ],
)
def test_cls_is_what_most_of_the_first_are(tmp_path, values, kind):
    samples = {f"s{n}": {"cls": value} for n, value in enumerate(values)} or {"s": {"jpg": b""}}
    assert looked_up(tmp_path / "a.tar", samples, "cls").kind == kind


def test_mixed_kinds_are_one_sentence(tmp_path):
    result = looked_up(tmp_path / "a.tar", {"a": {"cls": 7}, "b": {"cls": "owl"}, "c": {"cls": 8}}, "cls")
    assert (result.kind, result.example) == ("int", "'7' in a")
    assert result.warning.endswith(
        "labels cls are of several kinds, such as '7' in a and 'owl' in b: those unlike the first will be bad labels;"
        " --label cls:text reads both as names"
    )


def test_a_source_that_tells_the_kind_and_a_shard_that_cannot_be_read(tmp_path):
    assert looked_up(tmp_path / "a.tar", {"a": {"cls": 7}}, "cls:text").kind == "string"
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    shard = expand([str(tmp_path / "b.tar")])[0]
    assert look_up_kind(shard, parse_fields(FieldsConfig(label="cls"))).kind is None
