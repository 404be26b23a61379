"""10,000 classes: every label of the table, its name, its filter and its moments; and 10,000 labels of one image."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from clipaudit.run.rows import chosen_rows, stream_rows
from clipaudit.schema import BAD_LABEL
from clipaudit.shards.pack import PackConfig, pack
from tests.make_shards import write_shard

pytestmark = pytest.mark.full

LABELS = 10_000
IMAGE = b"\xff\xd8 no real one: the synthetic job decodes nothing"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 10,001 images, two of the last class, as `pack` makes its shards of class folders."""
    from tests.synthetic_job import audit

    folder = tmp_path_factory.mktemp("many")
    for number in range(LABELS):
        place = folder / f"photos/class {number:05d}"
        place.mkdir(parents=True)
        (place / "1.jpg").write_bytes(IMAGE)
    (place / "2.jpg").write_bytes(IMAGE)
    pack(PackConfig(source=str(folder / "photos"), out=folder / "shards", shard_mb=10))
    status = audit(folder / "shards", "*.tar")
    assert (status.rows, status.ok) == (LABELS + 1, LABELS + 1)
    return Run(folder / "shards/run")


def test_every_label_is_there_under_its_name(run):
    assert run.label_counts() == Counter({number: 1 + (number == LABELS - 1) for number in range(LABELS)})
    table = run.table(["key", "label"])
    assert Counter(table["label"].to_pylist()) == Counter(run.label_counts())
    assert run.class_names.names == tuple(f"class {number:05d}" for number in range(LABELS))
    assert check(run.directory.url).problems == ()


def test_a_filter_and_moments_find_one_of_them(run):
    rows = list(stream_rows(run, ("L00H00",), ["label"], chosen_rows(run, "label = 'class 09999'")))
    assert [label for batch in rows for label in batch.columns["label"].tolist()] == [LABELS - 1] * 2
    assert run.moments("L00H00", label=LABELS - 1).count == 2
    assert run.moments("L00H00", label=0).count == 1


def test_one_image_has_10_000_labels_and_not_one_more(tmp_path):
    from tests.synthetic_job import audit

    samples = {
        f"s{count}": {"jpg": IMAGE, "json": json.dumps({"tags": [f"t{n}" for n in range(count)]}).encode()}
        for count in (2, LABELS, LABELS + 1)
    }
    write_shard(tmp_path / "a.tar", samples)
    status = audit(tmp_path, "a.tar", label="json:tags")
    assert status.skipped == {BAD_LABEL: 1}
    run = Run(tmp_path / "run")
    assert run.label_counts() == Counter({f"t{n}": 1 + (n < 2) for n in range(LABELS)})
    assert len(run.labels()[1]) == LABELS
