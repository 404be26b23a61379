"""A shard as a stream of samples: order, statuses, counts, bounds, and threads that end."""

import io
import tarfile
import threading
import time
import tracemalloc

import numpy as np
import pytest

from clipaudit.config import DecodeConfig, FieldsConfig
from clipaudit.errors import ShardChanged, ShardUnreadable
from clipaudit.schema import STATUSES
from clipaudit.shards.fields import parse_fields
from clipaudit.shards.listing import expand
from tests.make_shards import (
    append,
    cut,
    huge_png_bytes,
    jpeg_bytes,
    member_offsets,
    png_bytes,
    webp_bytes,
    write_members,
    write_photos,
    write_shard,
)


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global PreprocessCfg, image_transform_v2, feed_module, ImageDecoder, ShardFeed

    from open_clip.transform import PreprocessCfg, image_transform_v2

    from clipaudit.shards import feed as feed_module
    from clipaudit.shards.decoder import ImageDecoder
    from clipaudit.shards.feed import ShardFeed


LABELLED = FieldsConfig(label="cls", attributes=("json:place",))


def decoder(config=None):
    return ImageDecoder(image_transform_v2(PreprocessCfg(size=32), is_train=False), config or DecodeConfig())


def open_feed(path, fields=LABELLED, **options):
    config = DecodeConfig(**options)
    return ShardFeed(expand([str(path)])[0], parse_fields(fields), decoder(config), config)


def read(path, fields=LABELLED, **options):
    with open_feed(path, fields, **options) as feed:
        return list(feed), feed.report


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not left


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("waiting", [1, 64])
def test_samples_come_in_order_with_their_own_fields(tmp_path, threads, waiting):
    path = write_photos(tmp_path / "a.tar", 40, classes=7)
    samples, report = read(path, decode_threads=threads, queue_images=waiting)
    assert [sample.key for sample in samples] == [f"photo_{i:04d}" for i in range(40)]
    assert [sample.index for sample in samples] == list(range(40))
    assert [sample.label for sample in samples] == [i % 7 for i in range(40)]
    assert [sample.attributes for sample in samples] == [{"place": "sea" if i % 2 else "land"} for i in range(40)]
    content, made = path.read_bytes(), decoder()
    for i, sample in enumerate(samples):
        data = content[sample.offset : sample.offset + sample.nbytes]
        assert data == jpeg_bytes(48, 48, seed=i)
        assert (sample.image == made(data).image).all()
        assert (sample.width, sample.height) == (48, 48)
        assert sample.phash == made(data).phash
    assert report.samples == 40
    assert report.by_status == {"ok": 40}
    assert report.details == {}
    assert report.truncated is None
    assert report.bytes_good == path.stat().st_size
    assert report.read_seconds > 0
    assert report.decode_seconds > 0


BAD = {
    "good": ({"jpg": jpeg_bytes(), "cls": 1}, "ok"),
    "other": ({"WebP": webp_bytes(), "cls": 1}, "ok"),
    "text": ({"jpg": b"I am a text", "cls": 1}, "undecodable"),
    "empty": ({"jpg": b"", "cls": 1}, "undecodable"),
    "half": ({"jpg": jpeg_bytes()[:900], "cls": 1}, "undecodable"),
    "huge": ({"png": huge_png_bytes(), "cls": 1}, "too_large"),
    "long": ({"jpg": jpeg_bytes() + bytes(200_000), "cls": 1}, "too_large"),
    "no image": ({"cls": 1, "json": {"place": "sea"}}, "missing_image"),
    "mask only": ({"seg.png": png_bytes(), "cls": 1}, "missing_image"),
    "no label": ({"jpg": jpeg_bytes()}, "missing_label"),
    "blank label": ({"jpg": jpeg_bytes(), "cls": " \n"}, "missing_label"),
    "word": ({"jpg": jpeg_bytes(), "cls": "dog"}, "bad_label"),
    "json": ({"jpg": jpeg_bytes(), "cls": 1, "json": b"{"}, "ok"),
    "../evil": ({"jpg": jpeg_bytes(), "cls": 1}, "bad_name"),
}


def test_every_kind_of_bad_sample_is_a_row_with_a_reason(tmp_path):
    pairs = [(key, parts) for key, (parts, _) in BAD.items()] + [("good", {"jpg": jpeg_bytes(seed=3), "cls": 2})]
    samples, report = read(write_shard(tmp_path / "a.tar", pairs), max_member_bytes=150_000)
    expected = [status for _, status in BAD.values()] + ["duplicate_key"]
    assert [sample.status for sample in samples] == expected
    assert set(expected) <= set(STATUSES)
    for sample in samples:
        assert (sample.image is None) == (sample.status != "ok")
        assert bool(sample.detail) == (sample.status != "ok")
        assert sample.attributes.keys() == {"place"}
    assert report.samples == len(samples)
    assert report.by_status == {status: expected.count(status) for status in expected}
    assert report.details["too_large"] == [
        "huge: 30000 x 30000 pixels are more than the limit of 178956970",
        f"long: the file has {len(jpeg_bytes()) + 200_000} bytes, the limit is 150000",
    ]
    by_key = {sample.key: sample for sample in samples[:-1]}
    assert by_key["text"].label == 1  # what is known of a failure is kept
    assert by_key["text"].offset is not None
    assert by_key["no image"].attributes == {"place": "sea"}
    assert report.missing == {"place": 11}
    assert (report.bad, report.notes) == ({"place": 1}, {"bad_metadata": 1})
    assert report.details["bad_metadata"][0].startswith("json: the json cannot be read")
    assert samples[13].key == r"\x2e\x2e\x2fevil"


def test_details_are_the_first_few(tmp_path):
    _, report = read(write_shard(tmp_path / "a.tar", {f"{i}": {"jpg": b"x", "cls": 1} for i in range(20)}))
    assert report.by_status == {"undecodable": 20}
    assert len(report.details["undecodable"]) == 5
    assert report.details["undecodable"][0].startswith("0: it is no image of a format that is read (JPEG, PNG, ")


def test_of_two_images_the_first_in_the_tar_counts(tmp_path):
    parts = {"seg.png": png_bytes(9, 9), "png": png_bytes(30, 20), "jpg": jpeg_bytes(60, 40)}
    samples, _ = read(write_shard(tmp_path / "a.tar", {"a": parts}), FieldsConfig())
    assert (samples[0].width, samples[0].label) == (30, None)


def test_bad_and_missing_attributes_and_captions_are_counted(tmp_path):
    fields = FieldsConfig(attributes=("json:a", "json:b"), caption="txt")
    image = jpeg_bytes()
    samples, report = read(
        write_shard(tmp_path / "a.tar", {
            "0": {"jpg": image, "txt": "a cat", "json": {"a": 1, "b": [1]}},
            "1": {"jpg": image, "json": {"b": {}}},
            "2": {"jpg": image, "txt": "a dog"},
        }), fields,
    )  # fmt: skip
    assert [sample.caption for sample in samples] == ["a cat", None, "a dog"]
    assert report.by_status == {"ok": 3}
    assert report.missing == {"a": 2, "b": 1, "--caption": 1}
    assert report.bad == {"b": 2}


def test_a_cut_shard_keeps_its_whole_samples(tmp_path):
    path = write_photos(tmp_path / "a.tar", 10)
    offset, data = member_offsets(path)["photo_0006.jpg"]
    samples, report = read(cut(path, data + 100))
    assert [sample.label for sample in samples] == [i % 2 for i in range(6)]
    assert report.by_status == {"ok": 6}
    assert f"at byte {offset} of {data + 100}" in report.truncated
    assert report.bytes_good == offset


def test_a_sample_without_all_its_fields_before_a_cut_is_left_out(tmp_path):
    path = write_photos(tmp_path / "a.tar", 10)
    offset, _ = member_offsets(path)["photo_0005.json"]
    cut(path, offset)
    assert len(read(path)[0]) == 5  # the json is asked for, and may have been behind the cut
    assert len(read(path, FieldsConfig(label="cls"))[0]) == 6
    assert len(read(path, FieldsConfig())[0]) == 6


def test_a_shard_that_cannot_be_read_raises_in_the_consumer(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ShardUnreadable, match=r"a\.tar is empty"):
        read(tmp_path / "a.tar")
    path = write_photos(tmp_path / "b.tar", 2)
    shard = expand([str(path)])[0]
    append(path, bytes(512))
    feed = ShardFeed(shard, parse_fields(LABELLED), decoder(), DecodeConfig())
    with feed, pytest.raises(ShardChanged):
        next(iter(feed))
    with pytest.raises(RuntimeError, match="closed"):
        list(feed)


def test_a_fault_of_the_decoder_surfaces_with_its_own_type(tmp_path):
    def broken(data):
        raise ZeroDivisionError("a bug")

    shard = expand([str(write_photos(tmp_path / "a.tar", 20))])[0]
    feed = ShardFeed(shard, parse_fields(LABELLED), broken, DecodeConfig(queue_images=2))
    with feed, pytest.raises(ZeroDivisionError):
        list(feed)


def test_a_fault_of_the_reader_in_mid_shard_surfaces_after_the_samples_before_it(tmp_path, monkeypatch):
    real = feed_module.ShardReader.__iter__

    def failing(reader):
        for i, group in enumerate(real(reader)):
            if i == 5:
                raise ShardUnreadable("the network is gone")
            yield group

    monkeypatch.setattr(feed_module.ShardReader, "__iter__", failing)
    with open_feed(write_photos(tmp_path / "a.tar", 20)) as feed:
        samples = iter(feed)
        assert [next(samples).index for _ in range(5)] == list(range(5))
        with pytest.raises(ShardUnreadable, match="network"):
            next(samples)


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_leaving_early_ends_all_threads_at_once(tmp_path, taken):
    path = write_photos(tmp_path / "a.tar", 100)
    with open_feed(path, queue_images=4) as feed:
        for _ in zip(range(taken), feed, strict=False):
            pass
        started = time.perf_counter()
    assert time.perf_counter() - started < 2
    with pytest.raises(RuntimeError, match="only after the last sample"):
        _ = feed.report
    feed.close()


def test_reading_ahead_begins_before_the_first_sample_is_asked_for(tmp_path):
    called = threading.Event()
    made = decoder()

    def noting(data):
        called.set()
        return made(data)

    shard = expand([str(write_photos(tmp_path / "a.tar", 4))])[0]
    with ShardFeed(shard, parse_fields(LABELLED), noting, DecodeConfig()):
        assert called.wait(5)


def test_what_waits_is_bounded_in_images_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_module, "MAX_RAW_BYTES", 3000)
    lock, waiting, most = threading.Lock(), 0, 0
    made = decoder()

    def slow(data):
        nonlocal waiting
        with lock:
            waiting += 1
        time.sleep(0.002)
        return made(data)

    shard = expand([str(write_photos(tmp_path / "a.tar", 60))])[0]
    config = DecodeConfig(queue_images=5, decode_threads=2)
    with ShardFeed(shard, parse_fields(LABELLED), slow, config) as feed:
        for sample in feed:
            time.sleep(0.001)
            most = max(most, waiting - sample.index)
    assert most <= 5 + 2 + 1


def test_memory_does_not_grow_with_the_shard(tmp_path):
    def peak(count):
        image = jpeg_bytes(300, 300, quality=95)
        path = write_members(tmp_path / f"{count}.tar", ((f"{i}.jpg", image) for i in range(count)))
        with open_feed(path, FieldsConfig(), queue_images=4) as feed:
            tracemalloc.start()
            assert sum(sample.image is not None for sample in feed) == count
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    peak(20)
    assert peak(400) < peak(40) * 1.5 + 200_000


def test_an_empty_shard(tmp_path):
    samples, report = read(write_shard(tmp_path / "a.tar", {}))
    assert samples == []
    assert report.samples == 0
    assert report.truncated is None


def test_images_are_uint8_and_of_the_models_size(tmp_path):
    samples, _ = read(write_photos(tmp_path / "a.tar", 3))
    assert np.stack([sample.image for sample in samples]).shape == (3, 32, 32, 3)
    assert samples[0].image.dtype == np.uint8


def test_a_sample_without_an_image_says_what_it_has(tmp_path):
    path = write_members(
        tmp_path / "a.tar", [("a.input.jpg", jpeg_bytes()), ("a.cls", 1), ("b_1.5x.jpg", jpeg_bytes())]
    )
    samples, _ = read(path, FieldsConfig(label="cls"))
    assert [sample.status for sample in samples] == ["missing_image"] * 2
    assert samples[0].detail.endswith("it has cls, input.jpg; --image-key input.jpg reads it")
    assert samples[1].detail.endswith("it has 5x.jpg; --image-key 5x.jpg reads it")
    samples, _ = read(write_members(tmp_path / "b.tar", [("a.heic", b"x"), ("b.txt", "no image")]), FieldsConfig())
    assert samples[0].detail.endswith("it has heic; heic files are not read: convert them to JPEG, PNG or WebP")
    assert samples[1].detail.endswith("it has txt")
    named = FieldsConfig(label="cls", image=("input.jpg", "5x.jpg"))
    samples, _ = read(path, named)
    assert [(sample.key, sample.status) for sample in samples] == [("a", "ok"), ("b_1", "missing_label")]


def test_members_that_are_no_files_of_a_sample_are_counted_and_no_lost_images(tmp_path):
    image = jpeg_bytes()
    members = [
        ("__meta__.json", "{}"), ("__index__/a.jpg", image), ("a.jpg", image), ("a.png", png_bytes()), ("a.cls", 1),
        ("._a.jpg", b"x"), ("inner.tar", b"x"), ("more/inner.tar.gz", b"x"), ("b.tar", b"x"), ("b.jpg", image),
        ("README", b"x"), ("sub/__stats__.json", "{}"),
    ]  # fmt: skip
    samples, report = read(write_members(tmp_path / "a.tar", members), FieldsConfig())
    assert [(sample.key, sample.status, sample.index) for sample in samples] == [("a", "ok", 0), ("b", "ok", 1)]
    assert report.notes == {
        "further_image": 1, "hidden_file": 1, "meta_file": 3, "nameless_file": 1, "nested_archive": 2,
    }  # fmt: skip
    assert report.details["nested_archive"] == ["inner.tar", "more/inner.tar.gz"]
    assert sorted(report.details["meta_file"]) == ["__index__/a.jpg", "__meta__.json", "sub/__stats__.json"]
    assert report.details["further_image"] == ["a: png beside jpg, which is read; --image-key png reads the other"]


def test_every_image_that_tar_lists_is_a_row_or_counted(tmp_path):
    path = tmp_path / "a.tar"
    kinds = {
        "plain.jpg": tarfile.REGTYPE, "hard.jpg": tarfile.LNKTYPE, "soft.jpg": tarfile.SYMTYPE,
        "pipe.jpg": tarfile.FIFOTYPE, "block.jpg": tarfile.BLKTYPE, "character.jpg": tarfile.CHRTYPE,
        "contiguous.jpg": tarfile.CONTTYPE, "old.jpg": tarfile.AREGTYPE, "unknown.jpg": b"Z",
    }  # fmt: skip
    with tarfile.open(path, "w") as tar:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "plain.jpg"
            if info.isreg() or kind == b"Z":
                info.size = len(jpeg_bytes())
            tar.addfile(info, io.BytesIO(jpeg_bytes()))
    samples, report = read(path, FieldsConfig())
    status = {sample.key: sample.status for sample in samples}
    readable = {"plain", "hard", "soft", "contiguous", "old"}
    assert status == {name[:-4]: "ok" if name[:-4] in readable else "undecodable" for name in kinds}
    assert all("device, a pipe or of a special type" in detail for detail in report.details["undecodable"])


def test_a_label_file_that_is_a_broken_link_says_so(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(jpeg_bytes())
        tar.addfile(info, io.BytesIO(jpeg_bytes()))
        info = tarfile.TarInfo("a.cls")
        info.type, info.linkname = tarfile.SYMTYPE, "gone.cls"
        tar.addfile(info)
    samples, _ = read(path, FieldsConfig(label="cls"))
    assert samples[0].detail == "cls: it is a link to 'gone.cls', which is not in this shard"


def test_a_sample_without_its_label_says_what_it_has(tmp_path):
    names = {f"n{number}": number for number in range(10)} | {"\ud800": 1}
    path = write_shard(
        tmp_path / "a.tar",
        {"a": {"jpg": jpeg_bytes(), "cls": 1, "json": names}, "b": {"jpg": jpeg_bytes(), "json": {"\ud800": 1}}},
    )
    samples, report = read(path, FieldsConfig(label="json:kind"))
    assert [sample.status for sample in samples] == ["missing_label"] * 2
    lists = "its json has n0, n1, n2, n3, n4, n5, n6, n7 and 3 more; it has jpg, json, cls"
    assert samples[0].detail == f"the sample has no label json:kind; {lists}; --label cls reads another file"
    assert samples[1].detail == "the sample has no label json:kind; its json has ?; it has jpg, json"
    assert report.details["missing_label"][0] == f"a: {samples[0].detail}"
    samples, _ = read(path, FieldsConfig(label="txt"))
    assert samples[1].detail.endswith("no label txt; it has jpg, json; --label json:NAME reads another file")
    write_shard(path, {"a": {"jpg": jpeg_bytes(), "cls": " \n", "json": names}})
    samples, _ = read(path, FieldsConfig(label="cls"))
    assert samples[0].detail == "the sample has no label cls; its cls is empty; --label json:NAME reads another file"


def first_samples(path, **names):
    from clipaudit.shards.missing import warn_of_first_samples

    return warn_of_first_samples(expand([str(path)])[0], parse_fields(FieldsConfig(**names)))


def test_first_samples_that_all_lack_an_image_or_a_label_are_told_of(tmp_path):
    odd = {f"s{i}": {"input.jpg": jpeg_bytes(), "cls": "owl"} for i in range(3)}
    path = write_shard(tmp_path / "a.tar", odd)
    sentence = first_samples(path)
    assert sentence.startswith(f"{path}: its first 3 samples have no image: s0: ")
    assert "--image-key input.jpg" in sentence
    sentence = first_samples(path, image=("input.jpg",), label="cls")
    assert "no label that can be read: s0: label cls: 'owl' is not a 64-bit integer" in sentence
    assert first_samples(path, image=("input.jpg",), label="cls:text") is None
    fine = {**odd, "s9": {"jpg": jpeg_bytes(), "cls": 1}}
    assert first_samples(write_shard(tmp_path / "b.tar", fine), label="cls") is None
    assert "its first sample has no label" in first_samples(
        write_shard(tmp_path / "c.tar", {"a": {"jpg": jpeg_bytes()}}), label="cls"
    )
    (tmp_path / "d.tar").write_bytes(b"no tar at all" * 100)
    assert first_samples(tmp_path / "d.tar") is None, "the job says what is wrong with it"


def test_members_that_are_not_next_to_each_other_say_how_to_repack(tmp_path):
    path = write_members(
        tmp_path / "a.tar", [("0.jpg", jpeg_bytes()), ("1.jpg", jpeg_bytes()), ("0.cls", 0), ("1.cls", 1)]
    )
    samples, report = read(path, FieldsConfig(label="cls"))
    assert len(samples) == 4
    assert "next to each other (repack with `tar --sort=name`)" in report.details["duplicate_key"][0]


def test_truncated_jpegs_are_read_when_asked_for_and_counted(tmp_path):
    whole = jpeg_bytes(90, 60)
    path = write_shard(tmp_path / "a.tar", {"cut": {"jpg": whole[: len(whole) * 2 // 3]}, "whole": {"jpg": whole}})
    samples, report = read(path, FieldsConfig())
    assert [sample.status for sample in samples] == ["undecodable", "ok"]
    assert samples[0].detail.endswith("; --allow-truncated-images reads what there is")
    samples, report = read(path, FieldsConfig(), allow_truncated_images=True)
    assert [sample.status for sample in samples] == ["ok", "ok"]
    assert (samples[0].width, samples[0].height) == (90, 60)
    assert report.notes == {"truncated_image": 1}
    assert report.details["truncated_image"] == [f"cut: the file ends early, after {len(whole) * 2 // 3} bytes"]
