"""`pack` of COCO jsons, Parquet with image bytes and tars with names of their own."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter

import pytest

from clipaudit.errors import UsageError
from clipaudit.shards.pack import pack, plan
from clipaudit.shards.sources.options import SourceOptions
from tests.make_shards import jpeg_bytes, write_members
from tests.unit.shards.test_pack import config_for, make_folders, samples_of

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 18, "name": "bench"}]


def write_coco(path, images, annotations, categories=CATEGORIES):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def image(number, name):
    return {"id": number, "file_name": name, "width": 8, "height": 6}


def annotation(number, category, box=(1, 2, 3, 4)):
    return {"image_id": number, "category_id": category, "bbox": list(box), "segmentation": [[0] * 100]}


@pytest.fixture
def coco(tmp_path):
    make_folders(tmp_path / "coco/val2017", {f"{i}.jpg": b"image %d" % i for i in range(4)})
    return tmp_path / "coco/annotations/instances_val2017.json"


def test_coco_images_have_their_objects_and_boxes(coco, tmp_path):
    images = [image(i, f"{i}.jpg") for i in range(4)]
    write_coco(coco, images, [annotation(0, 18), annotation(0, 1, (5, 5, 1, 1)), annotation(0, 1), annotation(2, 1)])
    packing = pack(config_for(coco, tmp_path / "out"))
    documents = {data: (label, document) for data, label, document in samples_of(tmp_path / "out")}
    label, document = documents[b"image 0"]
    assert label is None
    assert document == {
        "path": "0.jpg", "objects": ["bench", "dog"], "width": 8, "height": 6, "image_id": 0,
        "boxes": [
            {"object": "bench", "box": [1, 2, 3, 4]},
            {"object": "dog", "box": [5, 5, 1, 1]},
            {"object": "dog", "box": [1, 2, 3, 4]},
        ],
    }  # fmt: skip
    assert documents[b"image 1"][1]["objects"] == []
    assert packing.samples == 4


def test_coco_with_one_category_an_image_has_classes(coco, tmp_path):
    write_coco(coco, [image(0, "0.jpg"), image(1, "1.jpg")], [annotation(0, 18), annotation(1, 1), annotation(1, 1)])
    pack(config_for(coco, tmp_path / "out"))
    samples = {(data, label) for data, label, _ in samples_of(tmp_path / "out")}
    assert samples == {(b"image 0", "bench"), (b"image 1", "dog")}


def test_coco_leaves_out_what_has_no_file_image_or_category(coco, tmp_path):
    images = [image(0, "0.jpg"), image(1, "gone.jpg"), image(2, "../../secret.jpg"), {"id": 3}]
    categories = [*CATEGORIES, CATEGORIES[0], {"id": 9, "name": "dog"}]
    write_coco(coco, images, [annotation(0, 9), annotation(77, 1), annotation(0, 55)], categories)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    packing = pack(config_for(coco, tmp_path / "out"))
    assert packing.left_out == {
        "missing_file": 1, "outside": 1, "no_path": 1, "unknown_image": 1, "unknown_category": 1,
    }  # fmt: skip
    assert [document["objects"] for *_, document in samples_of(tmp_path / "out")] == [["dog"]]
    assert "1 categories have the name of another" in " ".join(packing.notes)


@pytest.mark.parametrize(
    ("images", "categories", "message"),
    [
        ([image(0, "0.jpg"), image(0, "1.jpg")], CATEGORIES, "two images have the number 0"),
        ([image(0, "0.jpg")], [*CATEGORIES, {"id": 1, "name": "cat"}], "category 1 has two names, 'dog' and 'cat'"),
        ([image(0, "0.jpg")], [{"id": 1}], "category 1 has no name"),
        ([{"file_name": "0.jpg"}], CATEGORIES, "has no `id`"),
        ([image(0, "x.jpg")], CATEGORIES, "none of its images .* such as x.jpg: .* --images"),
        ("no list", CATEGORIES, "is no COCO json: it needs the lists"),
    ],
)
def test_bad_coco_is_one_sentence_and_leaves_nothing(coco, tmp_path, images, categories, message):
    write_coco(coco, images, [], categories)
    with pytest.raises(UsageError, match=message):
        pack(config_for(coco, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_directory_of_a_coco_set_is_told_which_file_to_give(coco, tmp_path):
    write_coco(coco, [image(0, "0.jpg")], [])
    with pytest.raises(UsageError, match=r"give the json as the source, .*instances_val2017.json"):
        plan(config_for(tmp_path / "coco", tmp_path / "out"))


def write_parquet(path, rows, features=None):
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if features is not None:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def png_bytes():
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def test_a_hub_folder_keeps_bytes_class_names_and_splits(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    images = [jpeg_bytes(seed=i) for i in range(6)]
    rows = [
        {"image": {"bytes": data, "path": f"p{i}.jpeg" if i else None}, "label": i % 2, "score": i / 2}
        for i, data in enumerate(images)
    ]
    write_parquet(tmp_path / "set/data/train-00000-of-00002.parquet", rows[:3], features)
    write_parquet(tmp_path / "set/data/train-00001-of-00002.parquet", rows[3:5], features)
    write_parquet(tmp_path / "set/data/test-00000-of-00001.parquet", rows[5:], features)
    packing = pack(config_for(tmp_path / "set", tmp_path / "out", shard_mb=0.01))
    samples = samples_of(tmp_path / "out")
    assert Counter((data, label) for data, label, _ in samples) == Counter(
        (data, ("cat", "dog")[i % 2]) for i, data in enumerate(images)
    )
    documents = {data: document for data, _, document in samples}
    assert documents[images[5]] == {"path": "p5.jpeg", "split": "test", "label": "dog", "score": 2.5}
    assert "path" not in documents[images[0]]
    assert packing.splits == {"test": 1, "train": 5}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def write_arrow(path, rows, features):
    """As `save_to_disk` of the datasets library writes it: an Arrow stream with the features in its metadata."""
    import pyarrow
    import pyarrow.ipc

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


FEATURES = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


@pytest.mark.parametrize("files", ["{}/data-00000-of-00001.arrow", "default/{}/0000.parquet"])
def test_saved_data_sets_and_configurations_of_the_hub(tmp_path, files):
    images = [jpeg_bytes(seed=i) for i in range(5)]
    rows = [{"image": {"bytes": data, "path": f"p{i}.jpg"}, "label": i % 2} for i, data in enumerate(images)]
    write = write_arrow if files.endswith("arrow") else write_parquet
    write(tmp_path / "set" / files.format("train"), rows[:3], FEATURES)
    write(tmp_path / "set" / files.format("test"), rows[3:], FEATURES)
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    packing = pack(config_for(tmp_path / "set", tmp_path / "out"))
    assert (packing.splits, packing.class_names) == ({"test": 2, "train": 3}, ["cat", "dog"])
    samples = samples_of(tmp_path / "out")
    assert {(data, label) for data, label, _ in samples} == {
        (data, ("cat", "dog")[i % 2]) for i, data in enumerate(images)
    }


def test_several_configurations_are_asked_about(tmp_path):
    for name in ("large", "small"):
        write_parquet(tmp_path / "set" / name / "train-00000-of-00001.parquet", [{"image": b"\xff\xd8", "label": 0}])
    with pytest.raises(UsageError, match=r"has several configurations \(large, small\): give one"):
        pack(config_for(tmp_path / "set", tmp_path / "out"))
    assert pack(config_for(tmp_path / "set/small", tmp_path / "out")).samples == 1


def test_parquet_of_plain_bytes_goes_on_after_a_stop(tmp_path):
    rows = [{"img": png_bytes() + bytes([i]), "class": "ab"[i % 2]} for i in range(8)]
    source = write_parquet(tmp_path / "t.parquet", rows)
    pack(config_for(source, tmp_path / "out", shard_mb=0.01))
    (tmp_path / "out/shard-000000.tar").unlink()
    packing = pack(config_for(source, tmp_path / "out", shard_mb=0.01))
    assert packing.finished_before == packing.shards - 1 > 0
    assert Counter((data, label) for data, label, _ in samples_of(tmp_path / "out")) == Counter(
        (row["img"], row["class"]) for row in rows
    )
    assert list((tmp_path / "out").glob("*.tar"))
    assert plan(config_for(source, tmp_path / "dry")).images == 8


def test_parquet_rows_without_image_or_class(tmp_path):
    rows = [{"img": b"\xff\xd8 1", "label": "a"}, {"img": None, "label": "a"}, {"img": b"\xff\xd8 2", "label": None}]
    packing = pack(config_for(write_parquet(tmp_path / "t.parquet", rows), tmp_path / "out"))
    assert packing.left_out == {"no_image": 1, "no_label": 1}


def test_parquet_images_that_have_no_class_are_none(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    rows = [{"image": b"1", "label": 1}, {"image": b"2", "label": -1}]
    packing = pack(config_for(write_parquet(tmp_path / "t.parquet", rows, features), tmp_path / "out"))
    assert (packing.class_names, packing.left_out) == (["dog"], {"no_label": 1})
    beyond = write_parquet(tmp_path / "u.parquet", [{"image": b"1", "label": 2}], features)
    with pytest.raises(UsageError, match="the class 2 is none of the 2 that its metadata names"):
        pack(config_for(beyond, tmp_path / "other"))
    rows = [{"image": b"1", "label": 1.0}, {"image": b"2", "label": float("nan")}]
    assert pack(config_for(write_parquet(tmp_path / "v.parquet", rows), tmp_path / "nan")).left_out == {"no_label": 1}


def test_texts_that_are_stored_as_bytes_are_no_images(tmp_path):
    source = write_parquet(tmp_path / "t.parquet", [{"label": b"cat", "image": b"1"}, {"label": b"dog", "image": b"2"}])
    pack(config_for(source, tmp_path / "out"))
    assert {(data, label) for data, label, _ in samples_of(tmp_path / "out")} == {(b"1", "cat"), (b"2", "dog")}


def test_an_image_that_a_coco_json_lists_twice_is_packed_once(coco, tmp_path):
    write_coco(coco, [image(0, "0.jpg"), image(1, "./0.jpg")], [annotation(0, 1), annotation(1, 18)])
    packing = pack(config_for(coco, tmp_path / "out"))
    assert packing.left_out == {"repeated_path": 1}
    assert [label for _, label, _ in samples_of(tmp_path / "out")] == ["dog"]


def test_parquet_of_addresses_is_one_sentence(tmp_path):
    for column in ("image", "link"):
        source = write_parquet(tmp_path / "t.parquet", [{column: "https://x/1.jpg", "label": "a"}])
        with pytest.raises(UsageError, match=rf"'{column}' holds addresses .*: download the images first"):
            pack(config_for(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_tars_with_class_folders(tmp_path):
    members = [
        ("./train/cat/a.b.c.jpg", b"1"),
        ("train/dog/x y.PNG", b"2"),
        ("val/dog/../1.jpg", b"3"),
        ("a.txt", b"t"),
    ]
    source = write_members(tmp_path / "old.tar", members)
    packing = pack(config_for(source, tmp_path / "out"))
    samples = samples_of(tmp_path / "out")
    assert {(data, label, document["split"]) for data, label, document in samples} == {
        (b"1", "cat", "train"), (b"2", "dog", "train"), (b"3", "dog", "val"),
    }  # fmt: skip
    assert packing.left_out == {"no_image": 1}


def test_tars_with_files_beside_the_images(tmp_path):
    members = [("1.v2.jpg", b"1"), ("1.v2.cls", b"7\n"), ("1.v2.json", b'{"place": "sea"}'), ("1.v2.txt", b"words"),
               ("2.jpg", b"2"), ("2.cls", b"10"), ("2.json", b"{broken")]  # fmt: skip
    write_members(tmp_path / "tars/a.tar", members)
    packing = pack(config_for(tmp_path / "tars", tmp_path / "out", options=SourceOptions(caption="txt")))
    assert packing.class_names == ["7", "10"]
    assert not (tmp_path / "out/classnames.txt").exists(), "nobody said what 7 and 10 are called"
    documents = {data: (label, document) for data, label, document in samples_of(tmp_path / "out")}
    assert documents[b"1"][0] == "7"
    assert documents[b"1"][1]["place"] == "sea"
    assert documents[b"2"][0] == "10"
    assert packing.left_out == {"bad_json": 1}


def test_class_numbers_of_tars_and_their_names_stay(tmp_path):
    document = b'{"label": "gull", "path": "sea/1.jpg"}'
    members = [("1.jpg", b"1"), ("1.cls", b"3"), ("1.json", document), ("1.txt", b"a gull"),
               ("2.jpg", b"2"), ("2.cls", b"01")]  # fmt: skip
    write_members(tmp_path / "tars/train/a.tar", members)
    names = "cat\ndog\nowl\ngull\n"
    (tmp_path / "tars/classnames.txt").write_text(names)  # one directory up
    packing = pack(config_for(tmp_path / "tars/train", tmp_path / "out"))
    assert packing.class_names == names.split()
    assert (tmp_path / "out/classnames.txt").read_text() == names
    samples = {data: (label, document) for data, label, document in samples_of(tmp_path / "out")}
    assert samples[b"1"][0] == "gull"
    assert samples[b"1"][1] == {"member": "1.jpg", "label": "gull", "path": "sea/1.jpg", "txt": "a gull"}
    assert samples[b"2"] == ("dog", {"path": "2.jpg"})
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        captions = {name: tar.extractfile(name).read() for name in tar.getnames() if name.endswith("txt")}
    assert list(captions.values()) == [b"a gull"]


def test_shards_that_pack_wrote_are_packed_again_without_a_change_of_labels(tmp_path):
    make_folders(tmp_path / "photos", {f"{name}/{i}.jpg": f"{name}{i}".encode() for name in "cab" for i in range(4)})
    pack(config_for(tmp_path / "photos", tmp_path / "many", shard_mb=0.003))
    assert len(list((tmp_path / "many").glob("*.tar"))) > 3
    pack(config_for(tmp_path / "many", tmp_path / "few"))
    assert (tmp_path / "few/classnames.txt").read_text() == "a\nb\nc\n"
    before, after = (
        {data: (label, document["path"], document["label"]) for data, label, document in samples_of(tmp_path / name)}
        for name in ("many", "few")
    )
    assert after == before


def test_the_class_in_the_json_of_tars(tmp_path):
    members = [("1.jpg", b"1"), ("1.cls", b"0"), ("1.json", b'{"label": "cat", "kind": "pet"}'),
               ("2.jpg", b"2"), ("2.json", b'{"label": "dog"}')]  # fmt: skip
    source = write_members(tmp_path / "a.tar", members)
    asked = SourceOptions(label="kind")
    packing = pack(config_for(source, tmp_path / "kinds", options=asked))
    assert [(data, label, document["label"]) for data, label, document in samples_of(tmp_path / "kinds")] == [
        (b"1", "pet", "cat")
    ]
    assert packing.left_out == {"no_label": 1}
    with pytest.raises(UsageError, match=r"--label 'knd': no json in .* has it, but label, kind"):
        pack(config_for(source, tmp_path / "none", options=SourceOptions(label="knd")))
    with pytest.raises(UsageError, match=r"--caption 'words': .* has no such column, but label, kind"):
        pack(config_for(source, tmp_path / "none", options=SourceOptions(caption="words")))
    write_members(tmp_path / "b.tar", members[3:])
    pack(config_for(tmp_path / "b.tar", tmp_path / "labels"))
    assert [(data, label) for data, label, _ in samples_of(tmp_path / "labels")] == [(b"2", "dog")]


def test_class_numbers_and_folders_of_one_source_are_no_classes(tmp_path):
    members = [("1.jpg", b"1"), ("1.cls", b"3"), ("dog/2.jpg", b"2")]
    with pytest.raises(UsageError, match=r"the class of 1.jpg is a number, and that of dog/2.jpg, which has none"):
        pack(config_for(write_members(tmp_path / "a.tar", members), tmp_path / "out"))


def test_class_folders_in_tars_are_numbered_as_the_names_beside_them(tmp_path):
    write_members(tmp_path / "a.tar", [("b/1.jpg", b"1"), ("a/2.jpg", b"2")])
    (tmp_path / "classnames.txt").write_text("b\na\nc\n")
    assert pack(config_for(tmp_path / "a.tar", tmp_path / "out")).class_names == ["b", "a", "c"]
    assert {(data, label) for data, label, _ in samples_of(tmp_path / "out")} == {(b"1", "b"), (b"2", "a")}
    (tmp_path / "classnames.txt").write_text("b\nc\n")
    packing = pack(config_for(tmp_path / "a.tar", tmp_path / "other"))
    assert packing.class_names == ["a", "b"]
    assert packing.notes == ["classnames.txt of the source is not used: 'a' is not one of its names"]


def test_masks_beside_images_are_no_images(tmp_path):
    members = [("1.jpg", b"1"), ("1.cls", b"0"), ("1.seg.png", b"m"), ("12.jpg", b"2"), ("12.cls", b"1")]
    packing = pack(config_for(write_members(tmp_path / "a.tar", members), tmp_path / "out"))
    assert {(data, label) for data, label, _ in samples_of(tmp_path / "out")} == {(b"1", "0"), (b"2", "1")}
    assert packing.left_out == {"beside": 1}


@pytest.mark.parametrize("name", ["a.tar", "a.json", "a.tar.gz"])
def test_files_that_are_not_what_their_names_say(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(1000))
    with pytest.raises(UsageError, match=r"plain tar|is no json|is compressed") as caught:
        pack(config_for(tmp_path / name, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_that_comes_next_names_the_labels(coco, tmp_path, capsys):
    from clipaudit.cli.console.pack import PackReporter

    write_coco(coco, [image(i, f"{i}.jpg") for i in range(2)], [annotation(0, 1), annotation(0, 2), annotation(1, 2)])
    packing = pack(config_for(coco, tmp_path / "out"))
    with PackReporter(tmp_path / "out", quiet=True) as reporter:
        reporter.planned(packing)
        reporter.finished(packing)
    told = " ".join(capsys.readouterr().err.split())
    assert "--out RUN --label json:objects" in told
    assert "objects, boxes, width, height, image_id (for audit: --attributes json:NAME)" in told
