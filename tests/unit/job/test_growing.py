"""`--append`, `--moved` and the identity of shards by content: the real driver, with a worker that loads no model."""

import json
import os
import shutil

import pytest

from clipaudit.config import FieldsConfig
from clipaudit.errors import RunMismatch, UsageError
from clipaudit.job.advice import pack_advice
from clipaudit.job.driver import Reporter
from clipaudit.run.directory import RunDirectory
from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from clipaudit.shards.fields import parse_fields
from tests.make_shards import write_shard


@pytest.fixture(scope="module")
def audit():
    from tests.synthetic_job import audit

    return audit


def write(folder, number, rows=3, label=lambda i: i % 2, name="s"):
    samples = {
        f"{name}{number}_{i}": {
            "jpg": b"\xff\xd8" + os.urandom(40),
            "cls": label(i),
            "json": {"number": 100 * number + i},
        }
        for i in range(rows)
    }
    return write_shard(folder / f"{name}-{number:03d}.tar", samples)


def rows_of(run):
    table = Run(str(run)).table(["shard_id", "key", "label", "attributes.number"])
    return sorted(map(tuple, (row.values() for row in table.to_pylist())))


class Heard(Reporter):
    def __init__(self):
        self.appended, self.compared = [], []

    def appending(self, known, new):
        self.appended.append((known, new))

    def comparing(self, shards, nbytes):
        self.compared.append(shards)


def touch(path, seconds=5):
    """Another time, the same content."""
    later = path.stat().st_mtime + seconds
    os.utime(path, (later, later))


def test_a_run_made_in_three_steps_holds_what_one_made_at_once_does(audit, tmp_path):
    for number in range(6):
        write(tmp_path, number)
    audit(tmp_path, "s-00[0-2].tar")
    first = (tmp_path / "run/run.json").read_bytes()
    heard = Heard()
    audit(tmp_path, "s-00[0-3].tar", append=True, reporter=heard)
    status = audit(tmp_path, "s-004.tar", "s-005.tar", append=True, reporter=heard)
    assert heard.appended == [(3, 1), (0, 2)]
    assert (status.committed, status.shards) == (6, 6)
    assert (tmp_path / "run/run.json").read_bytes() == first, "it stays as it was created"
    audit(tmp_path, "*.tar", out="whole")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    assert check(str(tmp_path / "run")).problems == ()
    run = Run(tmp_path / "run")
    assert [record.generation for record in run.records.values()] == [0, 0, 0, 1, 2, 2]
    assert [
        growth["generation"]
        for growth in map(json.loads, (p.read_text() for p in sorted((tmp_path / "run/growth").iterdir())))
    ] == [1, 2]


def test_the_same_append_again_and_the_first_command_again_add_nothing(audit, tmp_path):
    for number in range(3):
        write(tmp_path, number)
    audit(tmp_path, "s-000.tar")
    audit(tmp_path, "s-001.tar", append=True)
    heard = Heard()
    assert audit(tmp_path, "s-001.tar", append=True, reporter=heard).committed == 2
    assert heard.appended == [(1, 0)]
    assert audit(tmp_path, "s-000.tar").committed == 2, "its shards are all there"
    assert audit(tmp_path, "s-000.tar", "s-001.tar").committed == 2
    assert [path.name for path in (tmp_path / "run/growth").iterdir()] == ["000001.json"]
    with pytest.raises(RunMismatch, match=r"1 added \(first: .*s-002.tar\): give --append to add them"):
        audit(tmp_path, "s-00[0-2].tar")
    with pytest.raises(RunMismatch, match="1 removed"):
        audit(tmp_path, "s-001.tar")


def test_a_job_goes_on_with_the_newest_state(audit, tmp_path):
    write(tmp_path, 0)
    audit(tmp_path, "s-000.tar")
    with pytest.raises(UsageError, match=r"--out .*run@0: a job goes on with the newest state of .*run: leave out @0"):
        audit(tmp_path, "s-000.tar", out="run@0")
    assert not (tmp_path / "run@0").exists()


def test_an_append_finishes_what_was_left(audit, tmp_path):
    for number in range(4):
        write(tmp_path, number)
    audit(tmp_path, "s-00[0-1].tar")
    audit(tmp_path, "s-002.tar", append=True)
    directory = RunDirectory(str(tmp_path / "run"))
    for shard in (1, 2):  # as if the jobs had been interrupted
        for name in (*directory.read_commit(shard).files, directory.commit_path(shard)):
            (tmp_path / "run" / name).unlink()
    assert Run(tmp_path / "run").coverage().committed == 1
    assert audit(tmp_path, "s-003.tar", append=True).committed == 4
    audit(tmp_path, "*.tar", out="whole")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def test_nothing_is_written_for_labels_of_another_kind_or_other_options(audit, tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 1, label=lambda i: "cat")
    write(tmp_path, 2)
    audit(tmp_path, "s-000.tar")
    with pytest.raises(RunMismatch, match=r"s-001.tar: the labels of its first 3 samples are of another kind.*cat"):
        audit(tmp_path, "s-001.tar", append=True)
    with pytest.raises(RunMismatch, match="other options"):
        audit(tmp_path, "s-002.tar", append=True, label="cls:text")
    audit(tmp_path, "s-001.tar", out="names", label="cls:text")
    with pytest.raises(RunMismatch, match=r"its labels are numbers, such as '0', and those of the run at .* are names"):
        audit(tmp_path, "s-002.tar", out="names", label="cls:text", append=True)
    assert not (tmp_path / "run/growth").exists()
    assert not (tmp_path / "names/growth").exists()
    with pytest.raises(UsageError, match=r"there is no run at .*: leave out --append"):
        audit(tmp_path, "s-002.tar", out="none", append=True)


def test_shards_whose_class_numbers_mean_other_classes_are_refused(audit, tmp_path):
    for number, names in enumerate(("cat\ndog\n", "Cat\ndog\nowl\n", "ant\ncat\ndog\n")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "classnames.txt").write_text(names)
        write(tmp_path / str(number), number)
    audit(tmp_path, "0/*.tar")
    with pytest.raises(RunMismatch, match=r"label 0 is 'cat' in .*/0/classnames.txt and 'ant' in .*/2/classnames.txt"):
        audit(tmp_path, "2/*.tar", append=True)
    assert not (tmp_path / "run/growth").exists()
    assert audit(tmp_path, "1/*.tar", append=True).committed == 2, "one class more behind the others"
    with pytest.raises(
        RunMismatch, match="class numbers of these shards mean different things, and nothing was written"
    ):
        audit(tmp_path, "0/*.tar", "2/*.tar", out="begun")
    assert not (tmp_path / "begun").exists()
    assert audit(tmp_path, "0/*.tar", "2/*.tar", out="texts", label="json:number").committed == 2


def test_a_shard_with_another_time_and_the_same_content_goes_on_and_an_edited_one_does_not(audit, tmp_path):
    paths = [write(tmp_path, number) for number in range(3)]
    audit(tmp_path, "s-00[0-1].tar")
    touch(paths[0])
    heard = Heard()
    audit(tmp_path, "s-002.tar", "s-000.tar", append=True, reporter=heard)
    assert heard.compared == [1]
    audit(tmp_path, "*.tar", reporter=heard)
    assert heard.compared == [1], "the new time is recorded"
    data = bytearray(paths[1].read_bytes())
    data[520] ^= 1
    paths[1].write_bytes(data)
    touch(paths[1])
    with pytest.raises(RunMismatch, match=r"s-001.tar has changed since the run"):
        audit(tmp_path, "*.tar")
    paths[1].write_bytes(data + bytes(512))
    with pytest.raises(RunMismatch, match=r"s-001.tar has changed since the run .*\(size was"):
        audit(tmp_path, "*.tar")


def test_a_shard_that_nobody_has_read_may_have_another_time(audit, tmp_path):
    paths = [write(tmp_path, number) for number in range(2)]
    audit(tmp_path, "*.tar")
    directory = RunDirectory(str(tmp_path / "run"))
    for name in (*directory.read_commit(1).files, directory.commit_path(1)):
        (tmp_path / "run" / name).unlink()
    touch(paths[1])
    assert audit(tmp_path, "*.tar").committed == 2
    from clipaudit.run.stored_images import StoredImages

    assert StoredImages(Run(tmp_path / "run")).fault(1) is None


def test_a_copied_data_set_is_read_where_it_is_now(audit, tmp_path):
    (tmp_path / "old").mkdir()
    for number in range(3):
        write(tmp_path / "old", number)
    audit(tmp_path, "old/s-00[0-1].tar")
    shutil.copytree(tmp_path / "old", tmp_path / "new=home", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "old")
    from clipaudit.run.stored_images import StoredImages

    with pytest.raises(RunMismatch, match=rf"--moved {tmp_path}/old={tmp_path}/new=home"):
        audit(tmp_path, "new=home/s-00[0-1].tar")
    move = (f"{tmp_path}/old={tmp_path}/new=home",)
    heard = Heard()
    assert audit(tmp_path, "new=home/s-00[0-1].tar", moved=move, reporter=heard).committed == 2
    assert heard.compared == [2]
    run = Run(tmp_path / "run")
    images = StoredImages(run)
    row = run.table(["offset", "nbytes"], 1).to_pylist()[0]
    assert images.read(1, row["offset"], row["nbytes"])[:2] == b"\xff\xd8"
    assert check(str(tmp_path / "run")).problems == ()
    assert audit(tmp_path, "new=home/*.tar", moved=move, append=True).committed == 3
    assert audit(tmp_path, "new=home/*.tar").committed == 3, "the move is recorded in the run"
    assert [path.name for path in (tmp_path / "run/moves").iterdir()] == ["000001.json"]
    with pytest.raises(UsageError, match=r"no shard of the run at .* lies below /nowhere"):
        audit(tmp_path, "new=home/*.tar", moved=("/nowhere=/here",))


def test_pictures_of_a_restored_data_set_are_read_without_a_job(audit, tmp_path):
    from clipaudit.run.stored_images import StoredImages

    path = write(tmp_path, 0)
    audit(tmp_path, "*.tar")
    touch(path)
    assert StoredImages(Run(tmp_path / "run")).fault(0) is None, "compared by its content"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    assert "changed" in StoredImages(Run(tmp_path / "run")).fault(0)


def test_a_copy_of_a_known_shard_is_not_added_twice(audit, tmp_path):
    write(tmp_path, 0)
    audit(tmp_path, "*.tar")
    (tmp_path / "copy").mkdir()
    shutil.copyfile(tmp_path / "s-000.tar", tmp_path / "copy/s-000.tar")
    write(tmp_path / "copy", 1)
    heard = Heard()
    assert audit(tmp_path, "copy/*.tar", append=True, reporter=heard).committed == 2
    assert heard.appended == [(1, 1)]


def test_two_appends_at_the_same_time_make_two_generations(audit, tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path, number)
    audit(tmp_path, "s-000.tar")
    grow, raced = RunDirectory.grow, []

    def late(self, growth):
        if not raced:
            raced.append(True)
            audit(tmp_path, "s-001.tar", append=True)
        return grow(self, growth)

    monkeypatch.setattr(RunDirectory, "grow", late)
    assert audit(tmp_path, "s-002.tar", append=True).committed == 3
    audit(tmp_path, "*.tar", out="whole")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    assert Run(tmp_path / "run").state.generation == 2


def test_many_tiny_shards_are_advised_to_be_packed(audit, tmp_path):
    class Told(Reporter):
        sentences = ()

        def warning(self, sentence):
            self.sentences += (sentence,)

    for number in range(200):
        write(tmp_path, number, rows=2)
    told = Told()
    audit(tmp_path, "s-*.tar", reporter=told)
    (sentence,) = told.sentences
    assert "200 shards of about 2 images" in sentence
    assert f"Packed into 1, the run takes 1 MB less and is read faster: `clipaudit pack {tmp_path} SHARDS`" in sentence
    stored = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert stored > 200 * 2000, "and it is about as much as that"
    few = Told()
    audit(tmp_path, "s-00[0-4].tar", out="few", reporter=few)
    assert few.sentences == ()
    run = Run(tmp_path / "run")
    for kept, attributes in (
        (True, ("json:place",)),
        (False, ("shard",)),
        (False, ("top=path:0",)),
        (False, ("kind:text",)),
    ):
        fields = parse_fields(FieldsConfig(label="cls", attributes=attributes))
        advised = pack_advice(run.manifest.shards, 400, run.spec, fields)
        assert (advised is not None) == kept, "pack keeps cls, json and txt alone"
