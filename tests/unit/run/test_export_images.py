"""Exports with image files: the shards' own bytes, under names that tell class and place."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
import threading

import numpy as np
import pyarrow.csv
import pytest

from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
from clipaudit.errors import UsageError
from clipaudit.run.classes import ClassNames
from clipaudit.run.column_list import export_columns
from clipaudit.run.directory import RunDirectory
from clipaudit.run.export import export
from clipaudit.run.export_images import _Names, _sample
from clipaudit.run.reader import Run
from clipaudit.run.stored_images import StoredImages
from clipaudit.shards.listing import expand, local_path
from tests.make_shards import jpeg_bytes
from tests.worded_models import write_worded_model

KEYS = ("one", "a/b", "folder/" + "long-" * 30, "\u5199\u771f", "five")
NAMES = ("cat", "a dog/wolf")


@pytest.fixture(scope="module", params=[tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def run(request, tmp_path_factory):
    """A run of five images with names of all kinds, and two classes."""
    from clipaudit.job.driver import Reporter, run_job
    from clipaudit.job.engine_local import LocalPool

    folder = tmp_path_factory.mktemp("exported")
    model = write_worded_model(folder / "model", layers=2, image_size=32)
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in NAMES))
    with tarfile.open(folder / "s-0.tar", "w", format=request.param) as tar:
        for n, key in enumerate(KEYS):
            meta = {"place": "sea", "tags": f"tag {n}"}
            for extension, data in (
                ("JPG", jpeg_bytes(16, 16, seed=n)),
                ("cls", str(n % 2).encode()),
                ("json", json.dumps(meta).encode()),
            ):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    config = JobConfig(
        shards=f"{folder}/s-*.tar",
        out=folder / "run",
        model=ModelConfig(name=str(model), device="cpu"),
        fields=FieldsConfig(label="cls", attributes=("json:place", "json:tags")),
        store=StoreConfig(layers="1"),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config, LocalPool(config), Reporter(), threading.Event())
    return Run(config.out)


def test_every_row_names_its_shard_member_and_class(run, tmp_path):
    export(run, tmp_path / "out", file_format="csv")
    table = pyarrow.csv.read_csv(tmp_path / "out/table.csv")
    assert table["shard"].to_pylist() == [run.manifest.shards[0].url] * len(KEYS)
    assert table["member"].to_pylist() == [f"{key}.JPG" for key in KEYS]
    assert table["class_name"].to_pylist() == [NAMES[n % 2] for n in range(len(KEYS))]
    assert table["tags"].to_pylist() == [f"tag {n}" for n in range(len(KEYS))]


def test_images_lie_in_folders_by_class(run, tmp_path):
    export(run, tmp_path / "out", file_format="images", where="label = 'a dog/wolf'")
    table = pyarrow.csv.read_csv(tmp_path / "out/images.csv")
    assert table["key"].to_pylist() == [KEYS[1], KEYS[3]]
    for file, index in zip(table["file"].to_pylist(), (1, 3), strict=True):
        assert file.startswith("images/a dog_wolf/000000-00000")
        assert (tmp_path / "out" / file).read_bytes() == jpeg_bytes(16, 16, seed=index)
    assert sum(path.is_file() for path in (tmp_path / "out/images").rglob("*")) == 2


def test_samples_are_as_fiftyone_reads_them(run, tmp_path):
    files = export(run, tmp_path / "out", file_format="fiftyone")
    assert [path.name for path in files] == ["data", "embedding.npy", "samples.json"]
    samples = json.loads((tmp_path / "out/samples.json").read_text())["samples"]
    assert [sample["key"] for sample in samples] == list(KEYS)
    for n, sample in enumerate(samples):
        assert (tmp_path / "out" / sample["filepath"]).read_bytes() == jpeg_bytes(16, 16, seed=n)
        assert sample["ground_truth"] == {"_cls": "Classification", "label": NAMES[n % 2]}
        assert sample["metadata"] == {"_cls": "ImageMetadata", "width": 16, "height": 16}
        assert sample["tags"] == [], "FiftyOne's own field"
        assert sample["attribute_tags"] == f"tag {n}"
        assert sample["member"] == f"{KEYS[n]}.JPG"
    np.testing.assert_array_equal(np.load(tmp_path / "out/embedding.npy"), run.embedding().values)


def test_the_command_prints_files_or_json(run, clipaudit, tmp_path):
    printed = clipaudit("export", run.directory.url, "--out", "a", "--format", "csv", "--where", "label = cat")
    assert printed.stdout == "a/table.csv\n"
    assert len(pyarrow.csv.read_csv(tmp_path / "a/table.csv")) == 3
    as_json = clipaudit("export", run.directory.url, "--out", "b", "--head", "L01H00", "--head", "L01H01", "--json")
    assert json.loads(as_json.stdout) == {"format": "parquet", "files": ["b/table.parquet"]}


def test_classes_that_would_share_a_folder_have_their_own(run, tmp_path, monkeypatch):
    monkeypatch.setattr(ClassNames, "name_of", lambda self, label: {0: "a/b", 1: "A_b"}[label])
    export(Run(run.url), tmp_path / "out", file_format="images")
    table = pyarrow.csv.read_csv(tmp_path / "out/images.csv")
    folders = {(row["label"], row["file"].split("/")[1]) for row in table.to_pylist()}
    assert folders == {(0, "a_b"), (1, "A_b_2")}


def test_names_of_classes_that_disagree_cost_an_export_that_column_alone(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(local_path(run.manifest.shards[0].url), other / "s-1.tar")
    (other / "classnames.txt").write_text("dog\ncat\n")
    directory = RunDirectory(str(shutil.copytree(run.directory.storage.root, tmp_path / "run")))
    manifest = directory.open()
    more = tuple(expand([run.manifest.shards[0].url, str(other / "s-1.tar")]))
    directory.storage.replace("run.json", dataclasses.replace(manifest, shards=more).to_json())
    notes = []
    export(Run(directory), tmp_path / "out", file_format="csv", note=notes.append)
    assert "class_name" not in pyarrow.csv.read_csv(tmp_path / "out/table.csv").column_names
    assert any("there is no column class_name: " in note and "classnames.txt differ" in note for note in notes)
    with pytest.raises(UsageError, match="differ: give the file"):
        export_columns(Run(directory), tmp_path / "c.csv", only=("label", "class_name"))


def test_fields_that_fiftyone_would_call_the_same_are_all_kept():
    plain = {"shard_id": 0, "index": 0, "key": "a", "a.b": 1, "a_b": 2, "tags": "x", "index_in_shard": 9}
    sample = _sample("a.jpg", "cat", plain, _Names())
    assert (sample["a_b"], sample["a_b_2"], sample["attribute_tags"]) == (1, 2, "x")
    assert (sample["index_in_shard"], sample["attribute_index_in_shard"]) == (0, 9)


def test_an_image_that_is_cut_while_it_is_exported_is_no_image(run, tmp_path, monkeypatch):
    read = StoredImages.read
    monkeypatch.setattr(StoredImages, "read", lambda self, *place: read(self, *place)[:-1])
    with pytest.raises(UsageError, match="cannot be exported: the shard was cut while it was read"):
        export(Run(run.url), tmp_path / "out", file_format="images")
