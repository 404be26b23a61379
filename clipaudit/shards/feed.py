"""One shard as a stream of decoded samples: a reader thread, k decoding threads, and limits on what is in flight."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeAlias

from clipaudit.config import DecodeConfig
from clipaudit.schema import FURTHER_IMAGE, MISSING_IMAGE, OK, TOO_LARGE, TRUNCATED_IMAGE, UNDECODABLE, Sample, Shard
from clipaudit.shards.decoder import DecodedImage, ImageTooLarge, ImageUndecodable
from clipaudit.shards.field_values import Origin
from clipaudit.shards.fields import Fields, Values, extract
from clipaudit.shards.missing import lacks_its_end, missing_image, missing_label
from clipaudit.shards.reader import Group, Member, OtherMembers, ShardReader

MAX_RAW_BYTES: Final = 64 * 2**20  # undecoded bytes in flight; a single larger sample is passed on alone
DETAILS_PER_STATUS: Final = 5  # failures of one status that a report quotes
Decode: TypeAlias = Callable[[bytes], DecodedImage]
"""`decoder.ImageDecoder`, or `decoder_processes.ProcessDecoder`, which does the same in other processes."""
_POLL_SECONDS: Final = 0.1
_JOIN_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """What was read of a shard, and what was not."""

    samples: int
    """Rows, failures included."""
    by_status: dict[str, int]
    """Rows of each status."""
    details: dict[str, list[str]]
    """For each status other than `ok` the first few failures, `KEY: reason`; for each note likewise."""
    notes: dict[str, int]
    """What costs no image, by kind: `bad_metadata`, `truncated_image`, `further_image` of samples; `meta_file`,
    `hidden_file`, `nameless_file`, `nested_archive` of members that belong to no sample."""
    truncated: str | None
    """One sentence with the byte offset when the tar is cut or holds junk; the samples before that are used."""
    bytes_good: int
    """Offset behind the last member that was read whole; the shard's size when nothing is wrong."""
    sha256: str
    """Of the whole shard as it was read, hex digits."""
    missing: dict[str, int]
    """Samples without a value, by attribute; captions are counted under `--caption`."""
    bad: dict[str, int]
    """Samples whose value cannot be stored as text, likewise."""
    kinds: dict[str, list[str]]
    """What the values of each attribute are in the json: see `fields.Values.kinds`."""
    read_seconds: float
    """Time spent in reading and in parsing the tar."""
    decode_seconds: float
    """Time spent in fields and images, summed over the threads."""


@dataclass(slots=True)
class _Tally:
    """Counts for the report; only the consumer's thread changes them."""

    by_status: Counter[str] = field(default_factory=Counter)
    details: dict[str, list[str]] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, set[str]] = field(default_factory=dict)
    decode_seconds: float = 0.0

    def add(self, sample: Sample, values: Values, seconds: float) -> None:
        self.by_status[sample.status] += 1
        self.missing.update(values.missing)
        self.bad.update(values.bad)
        self.decode_seconds += seconds
        for name, kind in values.kinds.items():
            self.kinds.setdefault(name, set()).add(kind)
        if sample.status != OK:
            self._quote(sample.status, f"{sample.key}: {sample.detail}")
        for kind, detail in values.notes:
            self.notes[kind] += 1
            self._quote(kind, f"{sample.key}: {detail}")

    def add_left_out(self, left_out: OtherMembers) -> None:
        self.notes.update(left_out.counts)
        for kind, names in left_out.names.items():
            for name in names:
                self._quote(kind, name)

    def _quote(self, kind: str, sentence: str) -> None:
        details = self.details.setdefault(kind, [])
        if len(details) < DETAILS_PER_STATUS:
            details.append(sentence)


_Decoded: TypeAlias = tuple[Sample, Values, float]
"""A sample, its fields, and the seconds that both took."""


@dataclass(frozen=True, slots=True)
class _End:
    """Last item of the queue: what the reader knows of the whole shard, or the error that ended it."""

    truncated: str | None = None
    bytes_good: int = 0
    sha256: str = ""
    read_seconds: float = 0.0
    left_out: OtherMembers | None = None
    error: BaseException | None = None


class _Budget:
    """A limit on the bytes in flight, shared by the reader and the decoding threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    def take(self, amount: int, stop: threading.Event) -> None:
        """Wait until `amount` more bytes fit, or nothing else is in flight, or `stop` is set."""
        with self._changed:
            while self._used and self._used + amount > self._limit and not stop.is_set():
                self._changed.wait(_POLL_SECONDS)
            self._used += amount

    def give(self, amount: int) -> None:
        """Return bytes that were taken."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()


class ShardFeed:
    """Iterates over one shard's samples in tar order, once; reading ahead begins with the constructor.

    A context manager: leaving it, or `close()`, ends all its threads, however far the iteration came. Memory is bounded
    by `queue_images` decoded images and 64 MiB of undecoded bytes, not by the shard. The iteration raises ShardError
    when the shard cannot be read; a failure of a single sample is that sample's `status` and `detail`.

    The reader thread submits each group of members to the pool of decoding threads and puts the future into a bounded
    queue; the consumer takes the futures out in that order, so that samples keep the tar's order however long each one
    takes. Every wait ends after `_POLL_SECONDS` to look at `_stop`, so that no thread can hang on a full queue.
    """

    def __init__(self, shard: Shard, fields: Fields, decoder: Decode, config: DecodeConfig) -> None:
        """Start to read `shard`; `decoder` must be thread-safe, and may be shared between feeds."""
        self._shard = shard
        self._fields = fields
        self._decoder = decoder
        self._config = config
        self._stop = threading.Event()
        self._budget = _Budget(MAX_RAW_BYTES)
        self._queue: queue.Queue[Future[_Decoded] | _End] = queue.Queue(config.queue_images)
        self._tally = _Tally()
        self._report: ReadReport | None = None
        self._pool = ThreadPoolExecutor(config.decoders, thread_name_prefix=f"decode-{shard.id}")
        self._reader = threading.Thread(target=self._read, name=f"read-{shard.id}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all threads and drop what is in the queue; may be called twice. `report` remains."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        # No longer: a read may hang in a network file system. The thread is a daemon and does not keep the process.
        self._reader.join(_JOIN_SECONDS)
        while not self._queue.empty():
            self._queue.get_nowait()

    @property
    def report(self) -> ReadReport:
        """What was read. Raises RuntimeError before the last sample was iterated over."""
        if self._report is None:
            raise RuntimeError("the report is complete only after the last sample")
        return self._report

    def __iter__(self) -> Iterator[Sample]:
        while self._report is None:
            item = self._next()
            if isinstance(item, _End):
                self.close()
                if item.error is not None:
                    raise item.error
                self._report = self._finish(item)
                return
            sample, values, seconds = item.result()
            self._tally.add(sample, values, seconds)
            yield sample

    def _next(self) -> Future[_Decoded] | _End:
        while not self._stop.is_set():
            try:
                return self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
        raise RuntimeError("the feed is closed")

    def _finish(self, end: _End) -> ReadReport:
        tally = self._tally
        if end.left_out is not None:
            tally.add_left_out(end.left_out)
        return ReadReport(
            samples=tally.by_status.total(),
            by_status=dict(tally.by_status),
            details=tally.details,
            notes=dict(tally.notes),
            truncated=end.truncated,
            bytes_good=end.bytes_good,
            sha256=end.sha256,
            missing=dict(tally.missing),
            bad=dict(tally.bad),
            kinds={name: sorted(tally.kinds.get(name, ())) for name in self._fields.attribute_names},
            read_seconds=end.read_seconds,
            decode_seconds=tally.decode_seconds,
        )

    def _read(self) -> None:
        """The reader thread: groups into the pool, their futures into the queue, and an _End after the last one."""
        try:
            end = self._read_groups()
        except BaseException as error:  # noqa: BLE001 - passed to the consumer, which raises it
            end = _End(error=error)
        self._put(end)

    def _read_groups(self) -> _End:
        started = time.perf_counter()
        waited = 0.0
        with ShardReader(
            self._shard,
            wants=self._fields.wants,
            complete=self._is_complete,
            max_member_bytes=self._config.max_member_bytes,
            hashed=True,
        ) as reader:
            index = 0
            for group in reader:
                if group.foreign_kind is not None and not self._fields.images_in(group.extensions):
                    reader.left_out.add(group.foreign_kind, ".".join([group.key, *group.extensions[:1]]))
                    continue
                wait_started = time.perf_counter()
                nbytes = sum(len(member.data or b"") for member in group.members.values())
                self._budget.take(nbytes, self._stop)
                if self._stop.is_set():
                    break
                self._put(self._pool.submit(self._decode, group, index, nbytes))
                index += 1
                waited += time.perf_counter() - wait_started
            seconds = time.perf_counter() - started - waited
            return _End(
                truncated=reader.truncated,
                bytes_good=reader.bytes_good,
                sha256=reader.sha256,
                read_seconds=seconds,
                left_out=reader.left_out,
            )

    def _put(self, item: Future[_Decoded] | _End) -> None:
        """Put an item into the queue as soon as there is room; drop it when the feed is closed."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def _is_complete(self, members: Mapping[str, Member]) -> bool:
        return self._fields.extensions <= members.keys() and bool(self._fields.images_in(members))

    def _decode(self, group: Group, index: int, nbytes: int) -> _Decoded:
        started = time.perf_counter()
        try:
            sample, values = self._sample(group, index)
        finally:
            self._budget.give(nbytes)
        return sample, values, time.perf_counter() - started

    def _sample(self, group: Group, index: int) -> tuple[Sample, Values]:
        sample = Sample(key=group.key, index=index, status=group.status, detail=group.detail)
        if group.status != OK:
            sample.attributes = dict.fromkeys(self._fields.attribute_names)
            return sample, Values()
        data = {name: member.data for name, member in group.members.items()}
        values = extract(data, self._fields, Origin(key=group.key, shard=self._shard.url))
        sample.label, sample.caption, sample.attributes = values.label, values.caption, values.attributes
        sample.status, sample.detail = values.status, values.detail
        if sample.status != OK:
            sample.detail = missing_label(group, self._fields, values)
        images = self._fields.images_in(group.members)
        if not images:
            sample.status, sample.detail = MISSING_IMAGE, missing_image(group, self._fields)
            return sample, values
        values.notes += [
            (FURTHER_IMAGE, f"{name} beside {images[0]}, which is read; --image-key {name} reads the other")
            for name in images[1:]
        ]
        image = group.members[images[0]]
        if image.data is not None:  # the length of a file that was not read may exceed the column's int32
            sample.offset, sample.nbytes = image.offset, image.nbytes
        if sample.status == OK:
            self._add_image(sample, image, values)
        return sample, values

    def _add_image(self, sample: Sample, image: Member, values: Values) -> None:
        if image.problem:
            sample.status, sample.detail = UNDECODABLE, image.problem
            return
        if image.data is None:
            limit = self._config.max_member_bytes
            sample.status, sample.detail = TOO_LARGE, f"the file has {image.nbytes} bytes, the limit is {limit}"
            return
        try:
            decoded = self._decoder(image.data)
        except ImageUndecodable as error:
            sample.status, sample.detail = UNDECODABLE, str(error)
            if lacks_its_end(image.data) and not self._config.allow_truncated_images:
                sample.detail += "; --allow-truncated-images reads what there is"
        except ImageTooLarge as error:
            sample.status, sample.detail = TOO_LARGE, str(error)
        else:
            sample.image, sample.phash = decoded.image, decoded.phash
            sample.width, sample.height = decoded.width, decoded.height
            sample.image_properties = decoded.properties
            if decoded.truncated:
                values.notes.append((TRUNCATED_IMAGE, f"the file ends early, after {image.nbytes} bytes"))
