"""Labels from everywhere, through the whole job: what the run holds, and what resumes it."""

import json
from dataclasses import replace

import pytest

from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
from clipaudit.errors import RunMismatch, UsageError
from clipaudit.run.reader import Run
from clipaudit.run.rows import chosen_rows
from tests.make_shards import jpeg_bytes, write_shard

NAMES = ("owl", "cat")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model that reads words."""
    from tests.worded_models import write_worded_model

    return write_worded_model(tmp_path_factory.mktemp("model"), layers=2, image_size=32)


def job(folder, model, label, **fields):
    """The configuration of a job over `folder/*.tar`."""
    execution = ExecutionConfig(engine="local", **({"max_lost_samples": 1.0} if fields.pop("lossy", False) else {}))
    return JobConfig(
        shards=(f"{folder}/*.tar",),
        out=str(folder / "run"),
        model=ModelConfig(name=str(model), device="cpu"),
        fields=FieldsConfig(label=label, **fields),
        store=StoreConfig(layers="1"),
        execution=execution,
    )


def audited(folder, model, label, **fields):
    from clipaudit.job.driver import run_job

    config = job(folder, model, label, **fields)
    run_job(config)
    return Run(config.out)


def write_named(folder, shards=2, images=4):
    """Shards of `train/CLASS/N.jpg` with the class's name in `cls`."""
    for shard in range(shards):
        samples = {
            f"train/{NAMES[n % 2]}/{shard}{n}": {"jpg": jpeg_bytes(seed=10 * shard + n), "cls": NAMES[n % 2]}
            for n in range(images)
        }
        write_shard(folder / f"part-{shard}.tar", samples)


@pytest.mark.parametrize(
    ("label", "counts"),
    [
        ("cls", {"owl": 4, "cat": 4}),
        ("path:-1", {"owl": 4, "cat": 4}),
        ("path:0", {"train": 8}),
        ("shard", {"part-0": 4, "part-1": 4}),
    ],
)
def test_names_are_labels_wherever_they_are(tmp_path, model, label, counts):
    write_named(tmp_path)
    run = audited(tmp_path, model, label, attributes=("source=shard", "split=path:0"))
    assert run.label_counts() == counts
    assert set(run.labels().tolist()) == set(counts)
    assert run.table(["source"])["source"].to_pylist() == ["part-0"] * 4 + ["part-1"] * 4
    name = next(iter(counts))
    assert run.moments(label=name).count == counts[name]
    assert chosen_rows(run, [f"label = {name}", "split = train"]).where == (
        f"label = {name}",
        "attributes.split = train",
    )


def test_a_run_goes_on_with_the_labels_that_it_began_with(tmp_path, model):
    from clipaudit.job.driver import run_job

    write_named(tmp_path)
    first = audited(tmp_path, model, "cls")
    for record in (tmp_path / "run" / "_committed").glob("000001.json"):
        record.unlink()
    run_job(job(tmp_path, model, "cls"))
    assert Run(tmp_path / "run").label_counts() == first.label_counts()
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["identity"]["label"] == "cls"
    assert "kind" not in stored["identity"]


def test_labels_of_the_other_kind_are_counted_and_said_before_the_work(tmp_path, model):
    from clipaudit.job.driver import Reporter, run_job

    values = (1, 2, "owl", 3)
    write_shard(
        tmp_path / "a.tar", {f"s{n}": {"jpg": jpeg_bytes(seed=n), "cls": value} for n, value in enumerate(values)}
    )

    sentences = []

    class Telling(Reporter):
        def warning(self, sentence):
            sentences.append(sentence)

    config = job(tmp_path, model, "cls", lossy=True)
    status = run_job(config, reporter=Telling())
    assert "labels cls are of several kinds, such as '1' in s0 and 'owl' in s2" in sentences[0]
    assert status.skipped == {"bad_label": 1}
    assert Run(config.out).label_counts() == {1: 1, 2: 1, 3: 1}


def test_another_image_of_each_sample_is_audited_by_its_extension(tmp_path, model):
    samples = {
        f"s{n}": {"input.jpg": jpeg_bytes(30, 20), "output.jpg": jpeg_bytes(50, 40), "cls": NAMES[n % 2]}
        for n in range(4)
    }
    write_shard(tmp_path / "a.tar", samples)
    run = audited(tmp_path, model, "cls", image=("output.jpg",))
    assert set(run.table(["width"])["width"].to_pylist()) == {50}
    assert run.manifest.identity["image_key"] == ["output.jpg"]
    assert run.label_counts() == {"owl": 2, "cat": 2}


# -- several labels an image -------------------------------------------------------------------------------------------

LISTS = (["dog", "cat"], [], ["dog", "dog"], ["potted plant"])


def write_lists(folder, lists=LISTS, name="a"):
    samples = {f"{name}{n}": {"jpg": jpeg_bytes(seed=n), "json": {"objects": labels}} for n, labels in enumerate(lists)}
    return write_shard(folder / f"{name}.tar", samples)


def test_a_list_of_labels_makes_a_run_of_several_labels(tmp_path, model):
    write_lists(tmp_path)
    run = audited(tmp_path, model, "json:objects")
    assert run.spec.label_kind == "strings"
    assert run.labels().tolist() == [("dog", "cat"), (), ("dog",), ("potted plant",)]
    assert run.label_counts() == {"dog": 2, "cat": 1, "potted plant": 1}
    assert run.moments(label="dog").count == 2


def test_numbers_in_lists_and_lists_that_are_all_empty(tmp_path, model):
    write_lists(tmp_path / "ints", ([3, 1], [], [3]))
    assert audited(tmp_path / "ints", model, "json:objects").labels().tolist() == [(3, 1), (), (3,)]
    write_lists(tmp_path / "empty", ([], []))
    run = audited(tmp_path / "empty", model, "json:objects")
    assert run.spec.label_kind == "strings"
    assert run.label_counts() == {}


@pytest.mark.parametrize(
    ("value", "status", "sentence"),
    [
        (["dog", 7], "bad_label", "its list holds texts and integers, such as 'dog' and 7"),
        ([7], "bad_label", "it is a list of integers, and the run's labels are lists of texts"),
        ("dog", "bad_label", "'dog' is no list, and the run's labels are lists: the first images decide which"),
        (["dog", ""], "bad_label", "its list holds an empty name"),
        (["dog", None], "bad_label", "its list holds None, which is neither text nor an integer"),
        (["dog", 0.5], "bad_label", "its list holds 0.5, which is neither text nor an integer"),
        (None, "missing_label", "the sample has no label json:objects; its json has objects"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_sentence(tmp_path, model, value, status, sentence):
    write_lists(tmp_path, (["dog"], value, ["cat"]))
    run = audited(tmp_path, model, "json:objects", lossy=True)
    assert run.label_counts() == {"dog": 1, "cat": 1}
    (record,) = run.records.values()
    assert record.skipped == {status: 1}
    assert sentence in record.details[status][0]


def test_a_list_where_the_run_has_single_labels_is_one_sentence(tmp_path, model):
    write_lists(tmp_path, ("dog", ["dog", "cat"], "cat"))
    run = audited(tmp_path, model, "json:objects", lossy=True)
    assert run.spec.label_kind == "string"
    (record,) = run.records.values()
    assert "it is a list, and the run's labels are single values" in record.details["bad_label"][0]


def test_a_path_that_does_not_exist_shows_what_there_is(tmp_path, model):
    from clipaudit.errors import RunInvalid

    write_lists(tmp_path)
    with pytest.raises(RunInvalid):
        audited(tmp_path, model, "json:categories")
    with pytest.raises(UsageError, match="no label json:categories; its json has objects"):
        Run(tmp_path / "run").class_labels()


def test_a_packed_coco_json_is_a_run_of_several_labels(tmp_path, model):
    from clipaudit.shards.pack import PackConfig, pack

    categories = ((1, "dog"), (2, "cat"), (7, "dog"), (9, "tv"))  # two numbers of one name count as one class
    folder = tmp_path / "coco"
    (folder / "images").mkdir(parents=True)
    for number in range(4):
        (folder / "images" / f"{number}.jpg").write_bytes(jpeg_bytes(seed=number))
    document = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(4)],
        "annotations": [
            {"image_id": image, "category_id": category, "bbox": [1, 1, 2, 2]}
            for image, category in ((0, 1), (0, 2), (0, 7), (1, 9), (2, 1))
        ],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    pack(PackConfig(source=str(folder / "instances.json"), out=tmp_path / "shards"))
    run = audited(tmp_path / "shards", model, "json:objects")
    assert run.label_counts() == {"dog": 2, "cat": 1, "tv": 1}
    assert sorted(run.labels().tolist()) == [(), ("cat", "dog"), ("dog",), ("tv",)]


@pytest.mark.parametrize(
    ("first", "later", "sentence"),
    [
        ("dog", ["dog", "cat"], "it is a list, and the run's labels are single values"),
        (["dog", "cat"], "dog", "'dog' is no list, and the run's labels are lists"),
        (["dog"], [7], "it is a list of integers, and the run's labels are lists of texts"),
    ],
)
def test_appended_shards_with_labels_of_another_kind_are_one_sentence(tmp_path, model, first, later, sentence):
    from clipaudit.job.driver import run_job

    write_lists(tmp_path / "old", (first, first), "a")
    write_lists(tmp_path / "new", (later, later), "b")
    out = str(tmp_path / "run")
    run_job(replace(job(tmp_path / "old", model, "json:objects"), out=out))
    more = replace(job(tmp_path / "new", model, "json:objects"), out=out, append=True)
    with pytest.raises(RunMismatch, match=sentence):
        run_job(more)
    assert len(Run(out)) == 2, "what was there is as it was"
