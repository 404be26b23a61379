"""From a folder of pictures to a report, as the README begins: pack, audit, report."""

import csv
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import call, spawn


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Pictures of the demo's birds as files: a flat folder with a table, and class folders with splits."""
    from clipaudit.demo.world.datasets import write_world

    folder = tmp_path_factory.mktemp("scenes")
    (path,) = write_world("birds", folder / "made", count=400, seed=1, shard_size=400)
    (folder / "flat").mkdir()
    rows = []
    with tarfile.open(path) as tar:
        parts = {member.name: tar.extractfile(member).read() for member in tar}
    for name, data in parts.items():
        if name.endswith(".jpg"):
            truth = json.loads(parts[name.replace(".jpg", ".json")])
            rows.append({key: truth[key] for key in ("label", "place", "split")} | {"file_name": name})
            classes = folder / "classes" / truth["split"] / truth["label"]
            classes.mkdir(parents=True, exist_ok=True)
            (classes / name).write_bytes(data)
            (folder / "flat" / name).write_bytes(data)
    with (folder / "flat/birds.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.full
def test_from_a_folder_and_a_table_to_a_report(scenes):
    packed = spawn(scenes, "pack", "flat", "shards", "--shard-mb", "2", "--workers", "2")
    assert packed.returncode == 0, packed.stderr
    assert "written  400 images in " in packed.stdout
    assert "left out  1 no image" not in packed.stdout, "the table itself is no image that is missing"
    fields = ("--label", "cls", "--attributes", "json:place,json:split")
    audited = call(scenes, "audit", "shards/*.tar", "--out", "run", "--model", "demo", "--engine", "local", *fields)
    assert audited.returncode == 0, audited.stderr
    options = ("--attribute", "place", "--split", "split", "--out", "report")
    reported = call(scenes, "report", "run", *options)
    report = json.loads((scenes / "report/report.json").read_text())
    assert reported.returncode == report["gate"]["exit_code"], reported.stderr
    train = sum("train" in line for line in (scenes / "flat/birds.csv").read_text().splitlines())
    assert report["audit"]["data"]["rows"] == train > 100
    assert report["audit"]["data"]["attributes"] == ["attributes.place"]
    assert "400" in call(scenes, "status", "run").stdout
    assert {"landbird", "waterbird"} == set((scenes / "shards/classnames.txt").read_text().split())


@pytest.mark.full
def test_class_folders_with_splits_are_audited_by_the_command_that_pack_prints(scenes):
    packed = call(scenes, "pack", "classes", "by-class", "--json")
    assert packed.returncode == 0, packed.stderr
    result = json.loads(packed.stdout)
    assert (result["samples"], result["class_names"]) == (400, ["landbird", "waterbird"])
    assert (
        "next  clipaudit audit by-class/shard-000000.tar --out RUN --label cls --attributes json:split" in packed.stderr
    )
    words = packed.stderr.split("next  clipaudit ")[1].split()
    audited = call(scenes, *words, "--model", "demo", "--engine", "local")
    assert audited.returncode == 0, audited.stderr


def rows_of(scenes):
    with (scenes / "flat/birds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report_of(folder, *options):
    """report.json of the run in a folder."""
    reported = call(folder, "report", "run", "--out", "report", *options)
    assert reported.returncode in (0, 1), reported.stderr
    return json.loads((folder / "report/report.json").read_text())["audit"]


@pytest.mark.full
def test_from_a_coco_json_of_several_categories_an_image_to_a_report(scenes, tmp_path):
    names = ["landbird", "waterbird", "land", "water"]
    rows = rows_of(scenes)
    document = {
        "images": [{"id": number, "file_name": row["file_name"]} for number, row in enumerate(rows)],
        "annotations": [
            {"image_id": number, "category_id": 10 * names.index(row[column]), "bbox": [0, 0, 8, 8]}
            for number, row in enumerate(rows)
            for column in ("label", "place")
        ],
        "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(names)],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    packed = call(tmp_path, "pack", "instances.json", "shards", "--images", str(scenes / "flat"))
    assert packed.returncode == 0, packed.stderr
    words = packed.stdout.split("next  clipaudit ")[1].replace("RUN", "run").split()
    assert words[-2:] == ["--label", "json:objects"], "the command that pack prints"
    audited = call(tmp_path, *words, "--model", "demo", "--engine", "local")
    assert audited.returncode == 0, audited.stderr
    audit = report_of(tmp_path)
    assert audit["data"]["rows"] == len(rows)
    counts = {entry["class_name"]: entry["n"] for entry in audit["classes"]}
    assert counts == {name: sum(name in (row["label"], row["place"]) for row in rows) for name in names}


@pytest.mark.full
def test_from_parquet_with_image_bytes_to_a_report(scenes, tmp_path):
    rows = rows_of(scenes)
    (tmp_path / "data").mkdir()
    features = {"label": {"names": ["waterbird", "landbird"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for split in ("train", "test"):
        chosen = [row for row in rows if row["split"] == split]
        assert chosen
        images = [{"bytes": (scenes / "flat" / row["file_name"]).read_bytes(), "path": None} for row in chosen]
        table = pa.table(
            {
                "image": images,
                "label": [features["label"]["names"].index(row["label"]) for row in chosen],
                "place": [row["place"] for row in chosen],
            }
        )
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / f"data/{split}-00000-of-00001.parquet")
    packed = call(tmp_path, "pack", "data", "shards")
    assert packed.returncode == 0, packed.stderr
    words = packed.stdout.split("next  clipaudit ")[1].replace("RUN", "run").split()
    audited = call(tmp_path, *words, "--attributes", "json:place", "--model", "demo", "--engine", "local")
    assert audited.returncode == 0, audited.stderr
    assert (tmp_path / "shards/classnames.txt").read_text() == "landbird\nwaterbird\n"
    audit = report_of(tmp_path, "--attribute", "place", "--split", "split")
    train = [row for row in rows if row["split"] == "train"]
    counts = {entry["class_name"]: entry["n"] for entry in audit["classes"]}
    assert counts == {name: sum(name == row["label"] for row in train) for name in ("landbird", "waterbird")}
    assert audit["data"]["attributes"] == ["attributes.place"]


def test_a_dry_run_writes_nothing_and_says_what_would_be_left_out(tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/1.jpg").write_bytes(b"x")
    (tmp_path / "photos/cat/notes.txt").write_bytes(b"x")
    planned = call(tmp_path, "pack", "photos", "out", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "left out  1 no image by its name: cat/notes.txt" in planned.stdout
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_one_sentence_with_code_2(tmp_path):
    ended = call(tmp_path, "pack", "nowhere", "out")
    assert (ended.returncode, ended.stderr) == (2, "clipaudit: nowhere does not exist\n")
    assert call(tmp_path, "pack", ".", "out", "--shuffle", "x").returncode == 2


def test_audit_of_a_folder_names_pack(tmp_path):
    (tmp_path / "photos").mkdir()
    ended = call(tmp_path, "audit", "photos", "--out", "run", "--model", "demo")
    assert ended.returncode == 2
    assert "make shards first: `clipaudit pack " in ended.stderr
