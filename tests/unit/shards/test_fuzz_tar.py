"""Any bytes as a shard: the tar reader ends with samples or with one of our errors, and never invents a byte."""

import io
import struct
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipaudit.errors import ClipauditError
from clipaudit.schema import BAD_NAME, DUPLICATE_KEY, OK
from clipaudit.shards.listing import expand
from clipaudit.shards.reader import ShardReader
from clipaudit.shards.tar import EndedEarly, NotATar, TarReader
from tests.fuzz import bounded, damaged, damages, folder_in_memory, no_hang, small

FEW, MANY = 150, 32_000
QUICK = settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(QUICK, max_examples=MANY)


def archive(format, names=("a.jpg", "a.cls", "b.jpg", "c/d.e.jpg", "y" * 60 + "/" + "x" * 80 + ".jpg", "ü.jpg")):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for number, name in enumerate(names):
            data = f"{name}:".encode() + bytes(range(256)) * (number % 3)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


ARCHIVES = [archive(format) for format in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]

numbers = st.binary(min_size=12, max_size=12) | st.integers(0, 2**33).map(lambda n: b"%011o\0" % n)
names = st.binary(max_size=100) | st.sampled_from([b"../../x.jpg", b"/etc/x.jpg", b"a\0b.jpg", b"c:\\x.jpg", b".jpg"])


@st.composite
def headers(draw):
    """A header block whose checksum is right, whatever else is in it."""
    block = bytearray(512)
    block[0:100] = draw(names).ljust(100, b"\0")
    block[124:136] = draw(numbers)
    block[156:157] = draw(
        st.sampled_from([b"0", b"\0", b"L", b"K", b"x", b"g", b"X", b"S", b"1", b"2", b"5", b"V", b"?"])
    )
    block[157:257] = draw(names).ljust(100, b"\0")
    block[257:265] = draw(st.sampled_from([b"ustar\00000", b"ustar  \0", b"\0" * 8]))
    block[345:500] = draw(st.binary(max_size=155)).ljust(155, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


pax_records = st.lists(
    st.tuples(st.sampled_from([b"path", b"size", b"GNU.sparse.size", b"x"]), st.binary(max_size=20)), max_size=3
).map(lambda pairs: b"".join(b"%d %s=%s\n" % (len(k) + len(v) + 5, k, v) for k, v in pairs).ljust(512, b"\0"))
shards = (
    st.tuples(st.sampled_from(ARCHIVES), damages).map(lambda pair: damaged(*pair))
    | st.lists(headers() | pax_records | st.binary(max_size=600) | st.just(b"\0" * 512), max_size=8).map(b"".join)
    | st.binary(max_size=2000)
)


def read_members(data):
    """Whatever the reader makes of the bytes, every member's data are those at its place."""
    reader = TarReader(io.BytesIO(data), len(data), wants=lambda _: True)
    with no_hang():
        try:
            for member in reader:
                if member.link is not None or member.sparse:
                    assert member.data is None
                    (member.name + (member.link or "")).encode()
                    continue
                assert member.data == data[member.offset : member.offset + member.nbytes]
                assert len(member.data) == member.nbytes
                member.name.encode()
                assert reader.bytes_good <= len(data)
        except NotATar:
            return
        except EndedEarly:
            pytest.fail("a stream of known size did not end early")
    assert 0 <= reader.bytes_good <= len(data)
    assert reader.bytes_good == len(data) or reader.truncated is not None


def read_samples(data, path):
    """The samples of the bytes as a shard: whole, with names that stay inside, each key once."""
    path.write_bytes(data)
    with no_hang():
        try:
            (shard,) = expand([str(path)])
            with ShardReader(shard, wants=lambda _: True, complete=bool, max_member_bytes=1000) as reader:
                groups = list(reader)
        except ClipauditError:
            return
    keys = [group.key for group in groups if group.status == OK]
    assert len(keys) == len(set(keys))
    for group in groups:
        assert group.status in (OK, BAD_NAME, DUPLICATE_KEY)
        assert not group.key.startswith("/")
        assert ".." not in group.key.replace("\\", "/").split("/")
        assert "\0" not in group.key
        for member in group.members.values():
            assert member.data is None or member.data == data[member.offset : member.offset + member.nbytes]


@pytest.fixture(scope="module")
def path():
    with folder_in_memory() as folder:
        read_samples(ARCHIVES[0], folder / "fuzzed.tar")  # imports what reading needs
        yield folder / "fuzzed.tar"


@given(data=shards)
@QUICK
def test_members_are_the_archives_own_bytes(data):
    with small():
        read_members(data)


@given(data=shards)
@QUICK
def test_samples_come_whole_or_not_at_all(path, data):
    with small():
        read_samples(data, path)


@pytest.mark.parametrize("size", [2**40, 2**62, 2**70])
def test_a_size_that_no_file_has_costs_no_memory(size):
    block = bytearray(ARCHIVES[0][:512])
    block[124:136] = struct.pack(">B", 0x80) + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    reader = TarReader(io.BytesIO(bytes(block)), 512, wants=lambda _: True)
    assert list(reader) == []
    assert "an impossible size" in reader.truncated or "cut inside" in reader.truncated


@pytest.mark.slow
@given(data=shards)
@SLOW
def test_members_are_the_archives_own_bytes_in_many_cases(data):
    with bounded():
        read_members(data)


@pytest.mark.slow
@given(data=shards)
@SLOW
def test_samples_come_whole_or_not_at_all_in_many_cases(path, data):
    with bounded():
        read_samples(data, path)
