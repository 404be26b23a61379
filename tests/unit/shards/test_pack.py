"""`pack` of class folders: every byte, every label, resume, what is left out, and what is refused."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipaudit.errors import UsageError
from clipaudit.shards import pack_writer
from clipaudit.shards.pack import RECORD, PackConfig, pack, plan
from clipaudit.shards.pack_writer import key_of
from clipaudit.shards.sources.options import SourceOptions
from tests.make_shards import jpeg_bytes


def make_folders(root, files):
    """Write {path below root: bytes}."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def config_for(source, out, **settings):
    return PackConfig(source=str(source), out=Path(out), **settings)


def samples_of(out):
    """Every sample of all shards by tarfile: [(image bytes, class name or else number or None, json)]."""
    file = out / "classnames.txt"
    names = [line.rpartition("\t")[2] for line in file.read_text().split("\n")] if file.exists() else None
    samples = []
    for shard in sorted(out.glob("*.tar")):
        groups = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, extension = member.name.rpartition(".")
                groups.setdefault(key, {})[extension] = tar.extractfile(member).read()
        for parts in groups.values():
            image = next(data for extension, data in parts.items() if extension not in ("cls", "json", "txt"))
            label = parts["cls"].decode() if "cls" in parts else None
            label = label if names is None or label is None else names[int(label)]
            samples.append((image, label, json.loads(parts["json"])))
    return samples


@pytest.fixture
def photos(tmp_path):
    files = {f"{name}/{i}.jpg": f"{name} {i}".encode() * (i + 1) for name in ("dog", "cat") for i in range(10)}
    return make_folders(tmp_path / "photos", files)


NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=20
).filter(lambda name: name.strip() and not name.startswith(".") and len(name.encode()) < 200)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(
        st.tuples(st.sampled_from(("a", "b", "c d", "Ä")), NAMES), st.binary(min_size=1, max_size=3000), min_size=1
    ),
    shard_mb=st.sampled_from((0.004, 0.02, 100)),
    shuffle=st.sampled_from((None, 0, 7)),
)
def test_every_byte_and_every_label_comes_back(tmp_path_factory, files, shard_mb, shuffle):
    root = tmp_path_factory.mktemp("source")
    make_folders(root, {f"{label}/{name}.png": data for (label, name), data in files.items()})
    out = tmp_path_factory.mktemp("packed") / "out"
    packing = pack(config_for(root, out, shard_mb=shard_mb, shuffle=shuffle))
    expected = Counter((data, label) for (label, _), data in files.items())
    samples = samples_of(out)
    assert Counter((data, label) for data, label, _ in samples) == expected
    assert packing.samples == packing.images == len(files)
    assert all(document["label"] == label for _, label, document in samples)
    assert packing.stored_bytes == sum(path.stat().st_size for path in out.glob("*.tar"))


def test_webdataset_and_our_reader_read_what_pack_writes(photos, tmp_path):
    from webdataset.tariterators import group_by_keys, tar_file_expander

    from clipaudit.shards.listing import expand
    from clipaudit.shards.reader import ShardReader

    pack(config_for(photos, tmp_path / "out", shard_mb=0.01))
    shards = expand([f"{tmp_path}/out/*.tar"])
    assert len(shards) > 2
    ours = {}
    for shard in shards:
        with ShardReader(shard, wants=lambda _: True, complete=lambda _: True, max_member_bytes=10**6) as reader:
            ours |= {group.key: {name: member.data for name, member in group.members.items()} for group in reader}
            assert reader.truncated is None
            assert not reader.left_out.counts
    theirs = {}
    for shard in shards:
        with Path(shard.url).open("rb") as file:
            members = tar_file_expander([{"url": shard.url, "stream": file}])
            theirs |= {sample.pop("__key__"): sample for sample in group_by_keys(members)}
    assert {
        key: {name: data for name, data in sample.items() if name[0] != "_"} for key, sample in theirs.items()
    } == ours
    assert len(ours) == 20


def test_class_names_are_read_back_as_they_were_folders(tmp_path):
    from clipaudit.run.classes import load_classes

    names = ["aeroplane", "zebra crossing", "Ä", "10", "9"]
    root = make_folders(tmp_path / "photos", {f"{name}/1.jpg": b"x" for name in names})
    pack(config_for(root, tmp_path / "out"))
    classes = load_classes(str(tmp_path / "out/classnames.txt"))
    assert sorted(classes.names) == sorted(names)
    assert {label for _, label, _ in samples_of(tmp_path / "out")} == set(names)


def test_numbers_as_class_names_are_sorted_by_value(tmp_path):
    root = make_folders(tmp_path / "photos", {f"{i}/1.jpg": b"%d" % i for i in range(12)})
    pack(config_for(root, tmp_path / "out"))
    assert (tmp_path / "out/classnames.txt").read_text().split() == [str(i) for i in range(12)]
    assert all(int(label) == int(data) for data, label, _ in samples_of(tmp_path / "out"))


def test_splits_in_folders(tmp_path):
    files = {f"{split}/{name}/1.jpg": f"{split} {name}".encode() for split in ("train", "Val") for name in ("a", "b")}
    root = make_folders(tmp_path / "photos", files)
    packing = pack(config_for(root, tmp_path / "all"))
    assert packing.splits == {"train": 2, "Val": 2}
    assert all(
        f"{document['split']} {label}".encode() == data for data, label, document in samples_of(tmp_path / "all")
    )
    only = pack(config_for(root, tmp_path / "train", options=SourceOptions(split="train")))
    assert (only.samples, only.left_out) == (2, {"other_split": 2})


def test_the_same_source_gives_the_same_bytes_with_any_number_of_workers(photos, tmp_path):
    for name, workers in (("a", 1), ("b", 2)):
        pack(config_for(photos, tmp_path / name, shard_mb=0.01, workers=workers))
    shards = sorted(path.name for path in (tmp_path / "a").glob("*.tar"))
    assert len(shards) > 2
    assert [(tmp_path / "a" / name).read_bytes() for name in shards] == [
        (tmp_path / "b" / name).read_bytes() for name in shards
    ]


def test_a_writer_that_is_killed_loses_its_shard_alone(photos, tmp_path, monkeypatch):
    from clipaudit.shards import pack_processes

    # The program of a writer that ends at its first task, as one that is out of memory does.
    monkeypatch.setattr(pack_processes, "_PROGRAM", (sys.executable, "-c", "input()"))
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="a process that writes shards ended before its shard was written"):
        pack(config_for(photos, out, shard_mb=0.01, workers=2))
    assert not list(out.glob("*.tar"))
    monkeypatch.undo()
    pack(config_for(photos, out, shard_mb=0.01, workers=2))
    assert Counter(label for _, label, _ in samples_of(out)) == {"cat": 10, "dog": 10}


def test_shuffle_mixes_the_classes(photos, tmp_path):
    pack(config_for(photos, tmp_path / "mixed"))
    pack(config_for(photos, tmp_path / "sorted", shuffle=None))
    labels = [label for _, label, _ in samples_of(tmp_path / "mixed")]
    assert [label for _, label, _ in samples_of(tmp_path / "sorted")] == sorted(labels) != labels


def test_a_finished_shard_is_not_written_again(photos, tmp_path):
    out = tmp_path / "out"
    pack(config_for(photos, out, shard_mb=0.01))
    shards = sorted(out.glob("*.tar"))
    content = {path: path.read_bytes() for path in shards}
    shards[1].unlink()
    shards[2].write_bytes(b"cut")
    (out / f".{shards[1].name}.part").write_bytes(b"left by a killed pack")
    times = {path: path.stat().st_mtime_ns for path in shards if path not in shards[1:3]}
    packing = pack(config_for(photos, out, shard_mb=0.01))
    assert packing.finished_before == len(shards) - 2
    assert packing.samples == 20
    assert {path: path.read_bytes() for path in shards} == content
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert sorted(path.name for path in out.iterdir()) == ["classnames.txt", RECORD, *(path.name for path in shards)]


def test_a_pack_that_is_stopped_goes_on(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    calls = []

    def stopped(done, _total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(config_for(photos, out, shard_mb=0.01), progress=stopped)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    with (out / RECORD).open("ab") as file:
        file.write(b'{"name": "shard-0000')  # as a crash may leave it
    assert pack(config_for(photos, out, shard_mb=0.01)).finished_before == 2
    assert Counter(label for _, label, _ in samples_of(out)) == {"cat": 10, "dog": 10}


@pytest.mark.parametrize("change", ["source", "shard_mb", "shuffle"])
def test_shards_of_another_plan_are_not_mixed_in(photos, tmp_path, change):
    out = tmp_path / "out"
    pack(config_for(photos, out))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    if change == "source":
        (photos / "cat/new.jpg").write_bytes(b"new")
    settings = {"shard_mb": 7.0} if change == "shard_mb" else {"shuffle": 1} if change == "shuffle" else {}
    with pytest.raises(UsageError, match="another source or other options, or the source has changed"):
        pack(config_for(photos, out, **settings))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_links_never_lead_out_of_the_source(photos, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (photos / "cat/out.jpg").symlink_to("../../secret.jpg")
    (photos / "cat/inside.jpg").symlink_to("../dog/3.jpg")
    (photos / "cat/nowhere.jpg").symlink_to("missing.jpg")
    (photos / "cat/loop").symlink_to("..")
    (photos / "dog/round.jpg").symlink_to("round.jpg")
    os.mkfifo(photos / "dog/pipe.jpg")
    packing = pack(config_for(photos, tmp_path / "out"))
    images = [(data, label) for data, label, _ in samples_of(tmp_path / "out")]
    assert (b"dog 3" * 4, "cat") in images
    assert len(images) == 21
    assert b"secret" not in [data for data, _ in images]
    assert packing.left_out == {"folder_link": 1, "missing_file": 2, "outside": 1, "not_an_image": 1}


def test_a_file_that_becomes_a_link_or_changes_is_left_out(photos, tmp_path, monkeypatch):
    (tmp_path / "secret.jpg").write_bytes(b"secret")

    def changed(_packing):
        (photos / "cat/0.jpg").unlink()
        (photos / "cat/0.jpg").symlink_to(tmp_path / "secret.jpg")
        (photos / "cat/1.jpg").write_bytes(b"longer than it was before")
        (photos / "cat/2.jpg").unlink()

    packing = pack(config_for(photos, tmp_path / "out"), planned=changed)
    assert packing.left_out == {"outside": 1, "changed": 1, "unreadable": 1}
    assert packing.samples == 17
    assert packing.examples["changed"] == ["cat/1.jpg"]


def test_what_is_left_out_is_counted_with_its_reason(photos, tmp_path):
    make_folders(photos, {"cat/a.txt": b"x", "cat/.DS_Store": b"x", "stray.jpg": b"x", "cat/empty.jpg": b""})
    packing = plan(config_for(photos, tmp_path / "out"))
    assert packing.left_out == {"not_an_image": 1, "hidden": 1, "no_class": 1, "empty_file": 1}
    assert packing.examples["no_class"] == ["stray.jpg"]
    assert not (tmp_path / "out").exists()  # a dry run


def test_names_that_are_not_utf8(tmp_path):
    root = make_folders(tmp_path / "photos", {"cat/1.jpg": b"x"})
    with Path(os.fsdecode(os.fsencode(root / "cat") + b"/caf\xe9.jpg")).open("wb") as file:
        file.write(b"latin")
    pack(config_for(root, tmp_path / "out"))
    assert {document["path"] for *_, document in samples_of(tmp_path / "out")} == {"cat/1.jpg", "cat/caf\\xe9.jpg"}


def test_keys_are_plain_and_numbered():
    assert key_of(3, "a/b.c/IMG 4.2.JPEG") == ("00000003-IMG_4_2", "jpeg")
    assert key_of(123456789, "照片.png") == ("123456789", "png")
    assert len(key_of(1, "x" * 300 + ".webp")[0]) < 90


def test_a_flat_folder_without_a_table_has_no_labels(tmp_path):
    root = make_folders(tmp_path / "photos", {"1.jpg": b"a", "2.jpg": b"b"})
    packing = pack(config_for(root, tmp_path / "out"))
    assert [label for _, label, _ in samples_of(tmp_path / "out")] == [None, None]
    assert "without classes" in packing.notes[0]
    assert not (tmp_path / "out/classnames.txt").exists()


def test_what_cannot_be_packed_is_one_sentence_and_leaves_nothing(photos, tmp_path):
    out = tmp_path / "out"
    cases = [
        (config_for(tmp_path / "nowhere", out), "nowhere does not exist"),
        (config_for(make_folders(tmp_path / "e", {"cat/a.txt": b"x"}), out), "1 no image by its name .*cat/a.txt"),
        (config_for(photos, photos / "cat/out"), "lies inside"),
        (config_for(photos, out, shard_mb=0), "--shard-mb 0 must be above 0"),
        (config_for("s3://bucket/photos", out), "local files"),
        (config_for(photos, out, options=SourceOptions(label="kind")), "directory without a table"),
    ]
    for config, message in cases:
        with pytest.raises(UsageError, match=message) as caught:
            pack(config)
        assert "\n" not in str(caught.value)
        assert not out.exists()


def test_other_shards_are_not_overwritten(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/shard-000000.tar").write_bytes(b"mine")
    with pytest.raises(UsageError, match="did not write"):
        pack(config_for(photos, tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shard-000000.tar"]


def test_a_full_disk_leaves_no_part(photos, tmp_path, monkeypatch):
    from clipaudit.errors import StorageFull

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack_writer, "SampleMembers", full)
    with pytest.raises(StorageFull, match="no space left"):
        pack(config_for(photos, tmp_path / "out"))
    assert (tmp_path / "out" / RECORD).exists(), "the same command goes on"
    assert not list((tmp_path / "out").glob("*shard*"))


def test_real_pictures_decode_as_before(tmp_path):
    from clipaudit.shards.image_header import read_header

    root = make_folders(tmp_path / "photos", {f"cat/{i}.jpg": jpeg_bytes(seed=i) for i in range(3)})
    pack(config_for(root, tmp_path / "out"))
    assert {read_header(data).format for data, *_ in samples_of(tmp_path / "out")} == {"JPEG"}


def test_another_writer_is_given_the_shards_one_by_one(photos, tmp_path):
    asked = []

    def writer(tasks):
        asked.append(len(tasks))
        return (pack_writer.write_piece(tasks[number], 1, 1) for number in reversed(range(len(tasks))))

    packing = pack(config_for(photos, tmp_path / "out"), writer=writer)
    assert asked == [packing.shards]
    pack(config_for(photos, tmp_path / "here"))
    for path in (tmp_path / "here").glob("*.tar"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_an_engine_that_is_not_there_is_named(photos, tmp_path):
    from clipaudit.cli.pack import pack as command

    for options, message in (
        ({"engine": "spark"}, "--engine must be local or ray"),
        ({"address": "auto"}, "--address"),
    ):
        with pytest.raises(UsageError, match=message):
            command(str(photos), tmp_path / "out", **options)


# -- what an owner of data may have -----------------------------------------------------------------------------------


def read_names(out):
    """The names of classnames.txt as `report` reads them."""
    from clipaudit.run.classes import load_classes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_classes(str(out / "classnames.txt")).names


@pytest.mark.parametrize(
    "names",
    [("1 cat", "2 dog"), ("0,cat", "1,dog"), ("1. cat", "2. dog"), ("cat, 1", "dog, 2"), ("{cat}", "dog"), ("7", "10"),
     ("-1", "0"), ("cat  x", "dog"), ("001.Black_footed", "002.Laysan"), ("label", "0", "1")],
)  # fmt: skip
def test_classes_of_odd_names_are_read_back_in_their_order(tmp_path, names):
    make_folders(tmp_path / "photos", {f"{name}/1.jpg": name.encode() for name in names})
    packing = pack(config_for(tmp_path / "photos", tmp_path / "out"))
    assert read_names(tmp_path / "out") == tuple(packing.class_names)
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        files = {name: tar.extractfile(name).read().decode() for name in tar.getnames()}
    labels = {files[name]: files[name.replace(".jpg", ".cls")] for name in files if name.endswith(".jpg")}
    assert {name: packing.class_names[int(label)] for name, label in labels.items()} == {
        name: " ".join(name.split()) for name in names
    }


def test_classes_that_read_alike_are_told(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make_folders(tmp_path / "photos", {f"{name}/1.jpg": b"x" for name in (composed, decomposed, "Cat", "cat", "dog")})
    packing = pack(config_for(tmp_path / "photos", tmp_path / "out"))
    assert len(packing.class_names) == 5
    assert sorted(packing.notes) == [
        "'Cat' and 'cat' are two classes although they read alike",
        r"'cafe\u0301' and 'caf\xe9' are two classes although they read alike",
    ]


def test_a_class_has_one_number_in_all_splits(tmp_path):
    files = {"train/cat/1.jpg": b"1", "train/dog/2.jpg": b"2", "test/dog/3.jpg": b"3", "test/ant/4.jpg": b"4"}
    make_folders(tmp_path / "photos", files)
    for split in ("train", "test"):
        packing = pack(config_for(tmp_path / "photos", tmp_path / split, options=SourceOptions(split=split)))
        assert packing.class_names == ["ant", "cat", "dog"]
    assert {label for _, label, _ in samples_of(tmp_path / "test")} == {"ant", "dog"}


def test_splits_beside_other_folders_are_told(tmp_path):
    make_folders(tmp_path / "photos", {"train/cat/1.jpg": b"1", "val/cat/2.jpg": b"2", "extra/3.jpg": b"3"})
    packing = plan(config_for(tmp_path / "photos", tmp_path / "out"))
    assert packing.class_names == ["extra", "train", "val"]
    assert packing.notes == ["train, val: taken for classes and no splits, since extra is none"]


def test_links_to_images_of_another_class_are_told(tmp_path):
    make_folders(tmp_path / "photos", {"cat/1.jpg": b"1", "dog/2.jpg": b"2"})
    (tmp_path / "photos/dog/1.jpg").symlink_to("../cat/1.jpg")
    (tmp_path / "photos/owl").mkdir()  # no image of it
    packing = plan(config_for(tmp_path / "photos", tmp_path / "out"))
    assert (packing.images, packing.class_names) == (3, ["cat", "dog"])
    assert packing.notes == ["1 images are links to files of the source, each packed like an image of its own"]


def test_a_blank_class_is_no_class(tmp_path):
    make_folders(tmp_path / "photos", {" /1.jpg": b"1", "dog/2.jpg": b"2"})
    packing = pack(config_for(tmp_path / "photos", tmp_path / "out"))
    assert (packing.class_names, packing.left_out) == (["dog"], {"no_label": 1})
