"""What Python users write: one name for several, a path for a text; the same as for the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipaudit import AuditOptions, FieldsConfig, JobConfig, ModelConfig, Rows, StoreConfig
from clipaudit.errors import UsageError
from clipaudit.heads.description import DescribeConfig
from clipaudit.heads.experiment import ExperimentConfig
from clipaudit.heads.named_columns import Choice
from clipaudit.retrieval.plan import IndexConfig
from clipaudit.run.reader import Run
from tests.make_runs import make_run

ONE_NAME = [
    (AuditOptions, "attributes"),
    (AuditOptions, "core"),
    (AuditOptions, "user_texts"),
    (AuditOptions, "where"),
    (AuditOptions, "test_where"),
    (FieldsConfig, "attributes"),
    (FieldsConfig, "image"),
    (JobConfig, "shards"),
    (JobConfig, "moved"),
    (Rows, "where"),
    (DescribeConfig, "heads"),
    (ExperimentConfig, "where"),
    (ExperimentConfig, "fit"),
    (Choice, "heads"),
    (Choice, "roles"),
    (Choice, "components"),
    (IndexConfig, "heads"),
]
PATHS = [
    (AuditOptions, "classes"),
    (AuditOptions, "templates"),
    (AuditOptions, "texts"),
    (ExperimentConfig, "classes"),
    (ExperimentConfig, "templates"),
    (ExperimentConfig, "texts"),
    (ExperimentConfig, "means"),
    (JobConfig, "out"),
    (ModelConfig, "name"),
    (ModelConfig, "pretrained"),
    (IndexConfig, "out"),
]
NEEDED = {JobConfig: {"shards": "a.tar", "out": "run"}, IndexConfig: {"run": "run"}}


@pytest.mark.parametrize(("kind", "name"), ONE_NAME, ids=str)
def test_one_name_is_not_a_list_of_its_letters(kind, name):
    assert getattr(kind(**{**NEEDED.get(kind, {}), name: "cam"}), name) == ("cam",)
    assert getattr(kind(**{**NEEDED.get(kind, {}), name: ["a", "b"]}), name) == ("a", "b")


@pytest.mark.parametrize(("kind", "name"), PATHS, ids=str)
def test_a_path_is_as_good_as_a_text(kind, name):
    assert getattr(kind(**{**NEEDED.get(kind, {}), name: Path("some/file")}), name) == "some/file"


def test_booleans_are_part_of_a_class_in_any_case():
    assert AuditOptions(core=("True", "FALSE", "Land")).core == ("true", "false", "Land")


def test_columns_have_short_names(tmp_path):
    run = Run(make_run(str(tmp_path / "run")))
    full = run.heads("L00H00", columns=("attributes.place", "label"))
    short = run.heads("L00H00", columns=("place", "label"))
    assert list(short.columns) == ["place", "label"]
    assert short["place"].tolist() == full["attributes.place"].tolist()
    assert run.table(["key", "place"]).column_names == ["key", "place"]
    assert run.table("place")["place"].to_pylist() == run.table("attributes.place")["attributes.place"].to_pylist()
    with pytest.raises(UsageError, match=r"has no column 'plaec': did you mean (attributes\.)?place\?"):
        run.heads("L00H00", columns=("plaec",))


@pytest.mark.parametrize("layers", ["all", " ALL ", "4", "8,10", "8-11", "5,", "1, 3-4 ,6"])
def test_layers_that_some_tower_has_are_taken_before_a_model_is_loaded(layers):
    assert StoreConfig(layers=layers).layers == layers


@pytest.mark.parametrize(
    ("layers", "words"),
    [("last", "is not understood"), ("-3", "is not understood"), ("1-", "is not"), (" , ", "no layer")],
)
def test_layers_that_no_tower_has_are_refused_before_a_model_is_loaded(layers, words):
    with pytest.raises(UsageError, match=f"--layers .*{words}"):
        StoreConfig(layers=layers)
