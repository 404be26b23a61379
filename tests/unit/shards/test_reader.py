"""One shard to its groups: webdataset's semantics, and every way in which a tar can be broken."""

import io
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipaudit.errors import ShardChanged, ShardNotFound, ShardUnreadable
from clipaudit.schema import BAD_NAME, DUPLICATE_KEY, OK
from clipaudit.shards.listing import expand
from clipaudit.shards.reader import ShardReader
from tests.make_shards import append, cut, member_offsets, overwrite, write_members, write_shard

WANTED = {"jpg", "png", "cls", "json"}


def read(path, wanted=WANTED, required=("jpg", "cls"), max_member_bytes=2**20):
    """(groups, truncated) of a local tar."""
    shard = expand([str(path)])[0]
    with ShardReader(
        shard,
        wants=wanted.__contains__,
        complete=lambda members: members.keys() >= set(required),
        max_member_bytes=max_member_bytes,
    ) as reader:
        return list(reader), reader.truncated


def plain(groups):
    return [(group.key, group.status, contents(group)) for group in groups]


def contents(group):
    return {name: member.data for name, member in group.members.items()}


def pairs(count, size=700):
    return {f"k{i}": {"jpg": bytes([i + 1]) * size, "cls": i} for i in range(count)}


def test_groups_with_offsets(tmp_path):
    path = write_shard(tmp_path / "a.tar", pairs(3))
    groups, truncated = read(path)
    assert truncated is None
    assert plain(groups) == [(f"k{i}", OK, {"jpg": bytes([i + 1]) * 700, "cls": b"%d" % i}) for i in range(3)]
    content = path.read_bytes()
    for group in groups:
        for member in group.members.values():
            assert content[member.offset : member.offset + member.nbytes] == member.data


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format(tmp_path, format):
    key = "/".join(["directory"] * 9) + "/" + "k" * (60 if format == tarfile.USTAR_FORMAT else 300)
    samples = {key: {"jpg": b"1", "cls": 1}, "b": {"jpg": b"2"}}
    groups, truncated = read(write_shard(tmp_path / "a.tar", samples, format=format))
    assert truncated is None
    assert [group.key for group in groups] == [key, "b"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_are_not_ascii(tmp_path, format):
    groups, _ = read(write_shard(tmp_path / "a.tar", {"zoë/naïve-猫": {"jpg": b"1"}}, format=format))
    assert groups[0].key == "zoë/naïve-猫"


def test_bytes_that_are_not_utf8_are_escaped(tmp_path):
    path = write_members(tmp_path / "a.tar", [("x\udcff\udc80.jpg", b"1"), ("x\udcff\udc80.cls", b"1")])
    groups, _ = read(path)
    assert [(group.key, len(group.members)) for group in groups] == [(r"x\xff\x80", 2)]


def test_keys_and_extensions_are_webdatasets(tmp_path):
    from webdataset.tariterators import group_by_keys, tar_file_expander

    members = [
        ("a.b/c.d.JPG", b"1"), ("a.b/c.Seg.PNG", b"2"), ("a.b/c.jpg", b"3"), ("noextension", b"4"), ("x/y.jpg", b"5"),
        ("__index__.json", b"6"), ("__meta__/x.jpg", b"7"), ("__key.jpg", b"8"), ("z.", b"9"), ("x/z.cls", b"10"),
    ]  # fmt: skip
    path = write_members(tmp_path / "a.tar", members)
    ours, _ = read(path, wanted={"jpg", "d.jpg", "seg.png", "cls", "json", ""})
    stream = [{"url": "a", "stream": io.BytesIO(path.read_bytes())}]
    theirs = list(group_by_keys(tar_file_expander(stream)))
    clean = [{key: value for key, value in sample.items() if not key.startswith("__")} for sample in theirs]
    assert [group.key for group in ours] == [sample["__key__"] for sample in theirs]
    assert [contents(group) for group in ours] == clean


def test_directories_links_hidden_files_and_empty_groups(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in [("d", tarfile.DIRTYPE), ("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE),
                           ("c.jpg", tarfile.FIFOTYPE), ("d/._e.jpg", tarfile.REGTYPE), ("e.txt", tarfile.REGTYPE),
                           ("._e.cls", tarfile.REGTYPE), ("e.jpg", tarfile.REGTYPE)]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "../../etc/passwd"
            tar.addfile(info)
    groups, truncated = read(path)
    assert truncated is None
    assert plain(groups)[-1] == ("e", OK, {"jpg": b""})
    links = [(group.key, group.members["jpg"].data, group.members["jpg"].problem) for group in groups[:-1]]
    lost = "it is a link to '../../etc/passwd', which is not in this shard"
    special = "it is a device, a pipe or of a special type, not a file"
    assert links == [("a", None, lost), ("b", None, lost), ("c", None, special)], "counted, and never followed outside"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_within_the_archive_are_followed(tmp_path, format):
    long = "d/" + "x" * 120
    path = tmp_path / "a.tar"
    names = [("d/a.jpg", None), ("d/b.jpg", (tarfile.LNKTYPE, "d/a.jpg")), ("d/c.jpg", (tarfile.SYMTYPE, "a.jpg")),
             ("e/f.jpg", (tarfile.SYMTYPE, "../d/b.jpg")), ("g.jpg", (tarfile.SYMTYPE, "h.jpg")), ("h.jpg", None),
             ("i.jpg", (tarfile.SYMTYPE, "i.jpg"))]  # fmt: skip
    if format != tarfile.USTAR_FORMAT:
        names += [(f"{long}.jpg", None), ("j.jpg", (tarfile.LNKTYPE, f"{long}.jpg"))]
    with tarfile.open(path, "w", format=format) as tar:
        for name, link in names:
            info = tarfile.TarInfo(name)
            data = b"" if link else name.encode()
            info.size = len(data)
            if link:
                info.type, info.linkname = link
            tar.addfile(info, io.BytesIO(data))
    groups, truncated = read(path)
    assert truncated is None
    found = {group.key: group.members["jpg"] for group in groups}
    assert [group.status for group in groups] == [OK] * len(names), "nothing that tar lists vanishes"
    whole = path.read_bytes()
    for key in ("d/b", "d/c", "e/f"):
        assert found[key].data == b"d/a.jpg"
        assert whole[found[key].offset : found[key].offset + found[key].nbytes] == b"d/a.jpg"
    assert found["g"].data == b"h.jpg", "a link to a later member"
    assert "not in this shard" in found["i"].problem, "a link to itself"
    if format != tarfile.USTAR_FORMAT:
        assert found["j"].data == f"{long}.jpg".encode()


def test_sparse_members_are_skipped_whole(tmp_path):
    header = bytearray(tarfile.TarInfo("s.jpg").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[124:136] = b"00000001000\0"
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    extension = bytes(504) + b"\1" + bytes(7), bytes(512)
    rest = write_shard(tmp_path / "rest.tar", pairs(2)).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + b"".join(extension) + b"x" * 512 + rest)
    groups, truncated = read(path)
    assert truncated is None
    assert [group.key for group in groups] == ["s", "k0", "k1"]
    assert "sparse" in groups[0].members["jpg"].problem
    assert [group.members["jpg"].problem for group in groups[1:]] == ["", ""]


@pytest.mark.parametrize(
    "name",
    ["/a.jpg", "../a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg", "c:/a.jpg", "\\\\host\\a.jpg", "/etc/passwd"],
)
def test_names_that_leave_the_archive(tmp_path, name):
    path = write_members(tmp_path / "a.tar", [("k0.jpg", b"0"), (name, b"1"), ("k2.jpg", b"2")])
    groups, truncated = read(path)
    assert truncated is None
    assert [group.status for group in groups] == [OK, BAD_NAME, OK]
    bad = groups[1]
    assert not bad.members
    assert bad.detail
    assert not {"/", "\\\\", ".."} & set(bad.key)
    assert ".." not in bad.key
    assert bad.key.isprintable()


def test_a_nul_in_a_pax_name(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"path": "a\0b.jpg"}
        tar.addfile(info)
    groups, _ = read(path)
    assert [(group.key, group.status) for group in groups] == [(r"a\x00b", BAD_NAME)]


def test_a_key_that_comes_again(tmp_path):
    samples = [("a", {"jpg": b"1", "cls": 1}), ("b", {"jpg": b"2", "cls": 2}), ("a", {"jpg": b"3", "cls": 3})]
    groups, _ = read(write_shard(tmp_path / "a.tar", samples))
    assert plain(groups) == [
        ("a", OK, {"jpg": b"1", "cls": b"1"}), ("b", OK, {"jpg": b"2", "cls": b"2"}), ("a", DUPLICATE_KEY, {})
    ]  # fmt: skip


def test_members_that_are_not_adjacent_are_never_joined(tmp_path):
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"1"), ("b.cls", b"2")]
    groups, _ = read(write_members(tmp_path / "a.tar", members))
    assert plain(groups) == [
        ("a", OK, {"jpg": b"1"}), ("b", OK, {"jpg": b"2"}), ("a", DUPLICATE_KEY, {}), ("b", DUPLICATE_KEY, {})
    ]  # fmt: skip


def test_an_extension_that_comes_again_begins_a_new_group(tmp_path):
    members = [("a.jpg", b"1"), ("a.cls", b"1"), ("a.JPG", b"2"), ("a.cls", b"2"), ("b.jpg", b"3")]
    groups, _ = read(write_members(tmp_path / "a.tar", members))
    assert plain(groups) == [("a", OK, {"jpg": b"1", "cls": b"1"}), ("a", DUPLICATE_KEY, {}), ("b", OK, {"jpg": b"3"})]


def test_members_over_the_limit_are_not_read(tmp_path):
    groups, truncated = read(write_shard(tmp_path / "a.tar", pairs(2)), max_member_bytes=100)
    assert truncated is None
    assert [group.members["jpg"].data for group in groups] == [None, None]
    assert [group.members["jpg"].nbytes for group in groups] == [700, 700]
    assert groups[1].members["cls"].data == b"1"


# Broken tars


@pytest.mark.parametrize("change", ["rewritten", "grown", "renamed over", "removed"])
def test_a_local_shard_that_is_written_to_while_it_is_read_is_thrown_away(tmp_path, change):
    """Another file under its name changes nothing: the one that was opened is read to its end."""
    path = write_shard(tmp_path / "a.tar", pairs(40))
    os.utime(path, (1, 1))  # clocks of file systems are coarse
    before, other = path.read_bytes(), write_shard(tmp_path / "b.tar", pairs(40, size=701))
    (shard,) = expand([str(path)])
    with ShardReader(shard, wants=WANTED.__contains__, complete=lambda _: True, max_member_bytes=2**20) as reader:
        groups = iter(reader)
        read_groups = [next(groups)]
        match change:
            case "rewritten":
                path.write_bytes(before.replace(bytes([31]) * 700, bytes([32]) * 700))
            case "grown":
                append(path, bytes(10240))
            case "renamed over":
                other.rename(path)
            case "removed":
                path.unlink()
        if change in ("rewritten", "grown"):
            with pytest.raises(ShardChanged, match=r"a\.tar"):
                list(groups)
            return
        read_groups += groups
    assert [contents(group)["jpg"] for group in read_groups] == [bytes([n + 1]) * 700 for n in range(40)]


def test_an_empty_file_and_files_that_are_no_tar(tmp_path):
    for content, sentence in [
        (b"", r"is empty \(0 bytes\)"),
        (b"text", "is not a plain tar: it has 4 bytes only"),
        (b"text" * 400, "is not a plain tar: it does not begin with a tar header"),
        (b"\x1f\x8b" + bytes(1000), "is not a plain tar: it is compressed with gzip"),
    ]:
        path = tmp_path / "a.tar"
        path.write_bytes(content)
        with pytest.raises(ShardUnreadable, match=sentence):
            read(path)


def test_a_tar_without_members(tmp_path):
    assert read(write_shard(tmp_path / "a.tar", {})) == ([], None)


def test_cut_mid_member(tmp_path):
    path = write_shard(tmp_path / "a.tar", pairs(4))
    header, data = member_offsets(path)["k2.jpg"]
    groups, truncated = read(cut(path, data + 300))
    assert [group.key for group in groups] == ["k0", "k1"]
    assert truncated == f"cut inside the member 'k2.jpg' that begins at byte {header} of {data + 300}"


def test_cut_mid_header_keeps_a_sample_only_if_it_is_whole(tmp_path):
    path = write_shard(tmp_path / "a.tar", pairs(4))
    header, _ = member_offsets(path)["k2.jpg"]
    groups, truncated = read(cut(path, header + 100))
    assert [group.key for group in groups] == ["k0", "k1"]
    assert f"at byte {header} of {header + 100}" in truncated
    header, _ = member_offsets(path)["k1.cls"]
    groups, truncated = read(cut(path, header + 100))
    assert [group.key for group in groups] == ["k0"]
    assert truncated.endswith("the sample 'k1' before it may be incomplete and is left out")


def test_junk_in_the_middle(tmp_path):
    path = write_shard(tmp_path / "a.tar", pairs(4))
    header, _ = member_offsets(path)["k2.jpg"]
    groups, truncated = read(overwrite(path, header, b"\xa5" * 300))
    assert [group.key for group in groups] == ["k0", "k1"]
    assert truncated == f"junk instead of a tar header at byte {header} of {path.stat().st_size}"


def test_zeros_in_the_middle_and_a_second_archive_behind_the_first(tmp_path):
    path = write_shard(tmp_path / "a.tar", pairs(4))
    header, data = member_offsets(path)["k2.jpg"]
    groups, truncated = read(overwrite(path, header, bytes(512)))
    assert [group.key for group in groups] == ["k0", "k1"]
    assert truncated == f"data behind the end-of-archive mark, begins at byte {data} of {path.stat().st_size}"
    whole = write_shard(tmp_path / "b.tar", pairs(1))
    size = whole.stat().st_size
    groups, truncated = read(append(whole, path.read_bytes()))
    assert [group.key for group in groups] == ["k0"]
    assert f"begins at byte {size} " in truncated


def test_junk_at_the_tail(tmp_path):
    path = write_shard(tmp_path / "a.tar", pairs(2))
    size = path.stat().st_size
    groups, truncated = read(append(path, b"junk"))
    assert len(groups) == 2
    assert f"begins at byte {size} of {size + 4}" in truncated


@pytest.mark.parametrize(
    ("field", "value"),
    [(124, b"77777777777\0"), (124, b"\x80" + b"\xff" * 11), (124, b"\xff" * 12), (156, b"L"), (156, b"x")],
)
def test_headers_that_lie(tmp_path, field, value):
    path = write_shard(tmp_path / "a.tar", pairs(4))
    at, _ = member_offsets(path)["k2.jpg"]
    header = bytearray(path.read_bytes()[at : at + 512])
    header[field : field + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    groups, truncated = read(overwrite(path, at, bytes(header)))
    assert [group.key for group in groups[:2]] == ["k0", "k1"]
    assert all(group.members["cls"].data == group.key[1:].encode() for group in groups if "cls" in group.members)
    assert truncated or field == 156


LABELLED = {"jpg", "png", "cls"}
SHARD = [
    ("a/k0", {"jpg": b"0" * 700, "cls": 0}),
    ("a/k1", {"cls": 1, "jpg": b"1" * 512}),
    ("a/k2", {"jpg": b"2" * 20, "seg.png": b"s" * 600, "cls": 2, "json": {"x": 2}}),
    ("a/k0", {"jpg": b"9" * 10, "cls": 9}),
    ("a/k3", {"png": b"3" * 30, "jpg": b"3" * 20, "cls": 3}),
    ("a/k4", {"jpg": b"4" * 300}),
    ("a/k5" + "n" * 120, {"jpg": b"5" * 3, "cls": 5}),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuts")
    made = {}
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_shard(folder / f"{format}.tar", SHARD, format=format)
        made[format] = path, path.read_bytes(), plain(read(path, LABELLED)[0])
    return made


def check_cut(whole, format, size):
    path, content, samples = whole[format]
    if size < 512:
        with pytest.raises(ShardUnreadable):
            read(cut_copy(path, content, size))
        return
    groups, truncated = read(cut_copy(path, content, size), LABELLED)
    assert plain(groups) == samples[: len(groups)]
    # An archive is known to be whole when at least one block of its end mark is there.
    last = len(content.rstrip(b"\0"))
    padded = -(-last // 512) * 512
    assert (truncated is None) == (size >= padded + 512)
    if truncated is None:
        assert len(groups) == len(samples)


def cut_copy(path, content, size):
    short = path.with_suffix(".cut")
    short.write_bytes(content[:size])
    return short


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_keeps_a_prefix_and_is_noticed(whole, format, data):
    check_cut(whole, format, data.draw(st.integers(0, len(whole[format][1]))))


@pytest.mark.slow
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_cut_keeps_a_prefix_and_is_noticed(whole, format):
    for size in range(len(whole[format][1]) + 1):
        check_cut(whole, format, size)


@given(data=st.data(), junk=st.binary(min_size=1, max_size=1500))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_anywhere_leaves_the_samples_before_it_alone(whole, data, junk):
    path, content, samples = whole[tarfile.GNU_FORMAT]
    at = data.draw(st.integers(0, len(content) - 1))
    broken = path.with_suffix(".junk")
    broken.write_bytes(content[:at] + junk + content[at + len(junk) :])
    try:
        groups, _ = read(broken, LABELLED)
    except ShardUnreadable:
        assert at < 512
        return
    whole_groups, _ = read(path, LABELLED)
    starts = [min(member.offset for member in group.members.values()) for group in whole_groups if group.members]
    safe = sum(start <= at for start in starts[1:])  # the next one's header stands untouched behind them
    assert plain(groups)[:safe] == samples[:safe]


# Reading that fails


def test_a_web_server_without_ranges(tmp_path):
    write_shard(tmp_path / "a.tar", pairs(3))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        groups, truncated = read(f"{url}/a.tar")
        listed = expand([f"{url}/*.tar"])
        with pytest.raises(ShardNotFound, match=r"/b\.tar does not exist$"):
            expand([f"{url}/b.tar"])
        server.shutdown()
        thread.join()
    assert truncated is None
    assert [group.key for group in groups] == ["k0", "k1", "k2"]
    assert [shard.url for shard in listed] == [f"{url}/a.tar"]


def test_a_shard_that_changed_or_vanished_before_it_is_opened(tmp_path):
    path = write_shard(tmp_path / "a.tar", pairs(2))
    shard = expand([str(path)])[0]
    append(path, bytes(512))
    with pytest.raises(ShardChanged):
        ShardReader(shard, wants=bool, complete=bool, max_member_bytes=1)
    path.unlink()
    with pytest.raises(ShardUnreadable, match="does not exist any more"):
        ShardReader(shard, wants=bool, complete=bool, max_member_bytes=1)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [(OSError(5, "Input/output error"), "cannot be read: .*Input/output error"), (None, "stream ended after 1024 of")],
)
def test_a_stream_that_fails_is_not_a_truncated_tar(tmp_path, monkeypatch, failure, sentence):
    path = write_shard(tmp_path / "a.tar", pairs(3))

    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= 1024:
                if failure is None:
                    return b""
                raise failure
            return super().read(min(size, 512))

    monkeypatch.setattr(
        fsspec.implementations.local.LocalFileSystem, "open", lambda *args, **kwargs: Failing(path.read_bytes())
    )
    with pytest.raises(ShardUnreadable, match=sentence):
        read(path)
