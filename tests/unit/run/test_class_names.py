"""Names of classes and captions in filters: the right rows, and what is said where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipaudit.errors import Note, UsageError
from clipaudit.retrieval.plan import IndexConfig, build_indexes
from clipaudit.retrieval.retriever import Retriever
from clipaudit.run.classes import load_classes
from clipaudit.run.reader import Run
from clipaudit.run.rows import chosen_rows, stream_rows
from clipaudit.schema import Shard
from tests.make_runs import MEMORY, SPEC, make_manifest, make_run


@pytest.fixture
def run(tmp_path):
    """Labels 0, 1 and 2 in turn, and a caption in four of five rows; names beside the shards."""
    (tmp_path / "classnames.txt").write_text("cat\npolar bear\ndog\n")
    directory = make_run(str(tmp_path / "run"), SPEC, shards=1, rows=30)
    shard = Shard(id=0, url=str(tmp_path / "s.tar"), size=1000, etag="etag-0")
    directory.storage.replace("run.json", make_manifest(SPEC, (shard,)).to_json())
    return Run(directory)


def labels(run, where):
    rows = chosen_rows(run, where)
    return {label for batch in stream_rows(run, [], ["label"], rows) for label in batch.columns["label"].tolist()}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("label = 'dog'", {2}),
        ("label = dog", {2}),
        ("label = Polar_Bear", {1}),
        ("label=polar bear", {1}),
        ("label != 'dog'", {0, 1}),
        ("label in (cat, 'polar bear')", {0, 1}),
        ("label = 2", {2}),
    ],
)
def test_a_label_is_compared_with_the_name_of_its_class(run, where, expected):
    assert labels(run, where) == expected


def test_filters_by_name_are_filters_by_label(run):
    assert chosen_rows(run, "label = dog").where == ("label = 2",)


def test_a_name_of_no_class_lists_the_names(run):
    with pytest.raises(UsageError, match=r"the classes are cat, polar bear, dog; did you mean dog\?$"):
        chosen_rows(run, "label = dogs")
    with pytest.raises(UsageError, match=r"holds whole numbers from 0 to 2, and 'dog' is no such value"):
        chosen_rows(run, "label < dog")


def test_hits_have_class_names_and_captions(run):
    build_indexes(IndexConfig(run=run.directory.url, heads="embedding", memory=MEMORY))
    key = run.embedding()["key"][0]
    answer = Retriever(run).search(key=f"0/{key}", where="label = dog and caption like 'a picture%'")
    assert answer.hits
    for hit in answer.hits:
        assert (hit.row.label, hit.row.class_name) == (2, "dog")
        assert hit.row.caption == f"a picture, number {hit.row.index}"


def test_an_index_without_captions_says_how_to_have_them(run, monkeypatch):
    monkeypatch.setattr("clipaudit.retrieval.rowmap._LEFT_OUT", ("status", "caption", "scale", "norm", "remainder"))
    build_indexes(IndexConfig(run=run.directory.url, heads="embedding", memory=MEMORY))
    retriever, key = Retriever(run), f"0/{run.embedding()['key'][0]}"
    assert retriever.search(key=key).hits[0].row.caption is None
    with pytest.raises(UsageError, match=r"'caption' is not in the index of .* built without captions \(`clipaudit"):
        retriever.search(key=key, where="caption like 'a%'")


def test_indexes_elsewhere_leave_the_run_alone(run, tmp_path):
    before = [(entry.path, entry.modified) for entry in run.directory.storage.walk()]
    out = tmp_path / "elsewhere"
    build_indexes(IndexConfig(run=run.directory.url, heads="embedding", memory=MEMORY, out=out))
    build_indexes(IndexConfig(run=run.directory.url, memory=MEMORY, out=str(out), update=True))
    key = f"0/{run.embedding()['key'][0]}"
    assert len(Retriever(run, indexes=str(out)).search(key=key).hits) == 20
    assert [(entry.path, entry.modified) for entry in run.directory.storage.walk()] == before
    with pytest.raises(UsageError, match="has no index of embedding"):
        Retriever(run).search(key=key)


def test_a_scored_run_whose_numbers_mean_other_classes_is_refused(tmp_path):
    from clipaudit.cues.inputs import AuditInputs
    from clipaudit.cues.options import AuditOptions

    runs = []
    for name, names in (("a", "cat\ndog\n"), ("b", "ant\ncat\ndog\n")):
        (tmp_path / f"shards-{name}").mkdir()
        (tmp_path / f"shards-{name}/classnames.txt").write_text(names)
        directory = make_run(str(tmp_path / name))
        manifest = directory.open()
        moved = tuple(replace(shard, url=f"{tmp_path}/shards-{name}/{shard.id}.tar") for shard in manifest.shards)
        directory.storage.replace("run.json", replace(manifest, shards=moved).to_json())
        runs.append(Run(directory))
    with pytest.raises(UsageError, match=r"label 0 is 'cat' in .*/shards-a/.* and 'ant' in .*: class numbers"):
        AuditInputs(runs[0], AuditOptions(), runs[1], texts=object())


def test_names_in_two_spellings_of_unicode_are_one_name(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    path = tmp_path / "names.txt"
    path.write_text(f"{composed}\nbar\n", encoding="utf-8")
    assert load_classes(str(path)).rows([decomposed, "bar"]) == {decomposed: 0, "bar": 1}


def test_classes_that_are_called_by_numbers_keep_their_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("1\n2\n3\n")
    classes = load_classes(str(path))
    assert classes.rows(["1", "2", "3"]) == {"1": 0, "2": 1, "3": 2}, "texts are the names"
    assert classes.rows([0, 1, 2]) == {0: 0, 1: 1, 2: 2}, "numbers are the lines"
    assert [classes.name_of(label) for label in (0, 1, "1")] == ["1", "2", None]
    path.write_text("cat\ndog\n")
    assert load_classes(str(path)).rows(["0", "1"]) == {"0": 0, "1": 1}
    path.write_text("7\tcat\n8\t7\n")
    assert load_classes(str(path)).rows(["7", 8]) == {"7": 0, 8: 1}, "labels that the file gives come first"


def test_classes_that_differ_in_case_are_two(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Cat\ncat\ndog\n")
    with pytest.warns(Note, match="labels 0 and 1 have the same name, 'Cat'"):
        classes = load_classes(str(path))
    assert classes.rows(["cat", "Cat", "DOG"]) == {"cat": 1, "Cat": 0, "DOG": 2}
    with pytest.raises(UsageError, match="label 'CAT' has no name"):
        classes.rows(["CAT"])
