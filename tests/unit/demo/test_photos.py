"""The demo's folder of photos: pictures of the birds' train split in class folders, byte by byte."""

import io
import json
import tarfile

from clipaudit.demo.photos import write_photos
from tests.make_shards import write_shard


def sample(number, label, split="train"):
    return {"jpg": b"picture %d" % number, "cls": label, "json": {"split": split, "place": "land"}, "seg.png": b"mask"}


def test_pictures_of_the_train_split_lie_in_class_folders(tmp_path):
    (tmp_path / "classnames.txt").write_text("landbird\nwater bird\n")
    shards = [
        write_shard(
            tmp_path / f"{part}.tar",
            {f"k{part}{i}": sample(10 * part + i, i % 2, ("train", "test")[i == 5]) for i in range(6)},
        )
        for part in range(2)
    ]
    assert write_photos(shards, tmp_path / "photos", count=8) == 8
    paths = sorted(str(path.relative_to(tmp_path / "photos")) for path in (tmp_path / "photos").rglob("*.jpg"))
    assert [path.split("/")[0] for path in paths] == ["landbird"] * 4 + ["water_bird"] * 4
    assert (tmp_path / "photos/landbird/k00.jpg").read_bytes() == b"picture 0"
    assert not (tmp_path / "photos/water_bird/k05.jpg").exists(), "of the test split"


def test_the_folder_packs_into_its_two_classes(tmp_path):
    from clipaudit.shards.pack import PackConfig, pack

    (tmp_path / "classnames.txt").write_text("landbird\nwaterbird\n")
    shard = write_shard(tmp_path / "a.tar", {f"k{i}": sample(i, i % 2) for i in range(4)})
    write_photos([shard], tmp_path / "photos")
    packing = pack(PackConfig(source=str(tmp_path / "photos"), out=tmp_path / "out"))
    assert (packing.class_names, packing.samples, packing.left_out) == (["landbird", "waterbird"], 4, {})
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        documents = [
            json.load(io.BytesIO(tar.extractfile(name).read())) for name in tar.getnames() if name.endswith("json")
        ]
    assert {document["label"] for document in documents} == {"landbird", "waterbird"}
