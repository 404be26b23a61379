"""The pictures of a page: which samples are shown, their thumbnails as data URLs within a budget, and captions."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final, TypeAlias

from PIL import Image

from clipaudit.cues.report.telling_words import accuracy_of, cell_in_words, example_cells
from clipaudit.cues.report.words import counted, cue_word, having_name, share
from clipaudit.cues.result.finding_parts import SampleRef, Verdict
from clipaudit.cues.result.result import AuditResult, Finding
from clipaudit.run.reader import Run
from clipaudit.run.row import Row
from clipaudit.run.thumbnails import NoPicture, Thumbnails

STRIP: Final = 8
"""Pictures in a row, at most."""
CARDS: Final = 10
"""Findings that get a card."""
SLICES: Final = 6
"""Error slices of each answerer that get a card."""
_DUPLICATES: Final = 3
"""Clusters of near duplicates that are shown."""
_PLAIN_BUDGET: Final = 1_200_000
"""Characters of the data URLs without heat maps."""
_BUDGET: Final = 2_000_000
"""Characters of all data URLs together; the page stays below 3 MB."""
_QUALITY: Final = 75
"""Of WebP, 0..100."""
_THREADS: Final = 8

SampleKey: TypeAlias = tuple[str, int]
"""Shard URL and index: two runs number their shards alike."""


@dataclass(frozen=True, kw_only=True)
class InlinePicture:
    """A picture within the page."""

    url: str
    """`data:image/webp;base64,...`"""
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of samples that could be read and fit into the page."""

    plain: Mapping[SampleKey, InlinePicture] = field(default_factory=dict)
    heat: Mapping[tuple[str, SampleKey], InlinePicture] = field(default_factory=dict)
    """By finding id and sample: the picture with the cue's heat map over it."""


@dataclass(frozen=True, kw_only=True)
class CaptionedPicture:
    """One picture of a strip with its caption."""

    picture: str | None
    heat: str | None
    width: int
    height: int
    alt: str
    what: str
    """Class and value."""
    key: str
    answer: str | None
    """CLIP's answer; None where there is none."""
    correct: bool


@dataclass(frozen=True, kw_only=True)
class PictureStrip:
    """A row of pictures."""

    title: str
    pictures: tuple[CaptionedPicture, ...]


def read_pictures(result: AuditResult, runs: Sequence[Run], side: int = 112) -> Pictures:
    """Thumbnails of every sample that the page shows, most important first, until the budget is spent."""
    readers = [(Thumbnails(run, side), run.manifest.shards) for run in runs]
    # by URL, with the shard's id in the run that reads it: two runs may number the same shards differently
    makers = {shard.url: (thumbnails, shard.id) for thumbnails, shards in readers for shard in shards}
    samples = {identity(sample): sample for sample in _wanted(result)}

    def make(sample: SampleRef) -> bytes | None:
        if sample.url not in makers:
            return None
        thumbnails, shard_id = makers[sample.url]
        row = Row(shard_id=shard_id, index=sample.index, key=sample.key, offset=sample.offset, nbytes=sample.nbytes)
        try:
            return compact(thumbnails(row).data)
        except NoPicture:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        files = zip(samples, pool.map(make, samples.values()), strict=True)
        return Pictures(plain=within_budget((name, data) for name, data in files if data is not None))


def within_budget(
    images: Iterable[tuple[SampleKey, bytes]], budget: int = _PLAIN_BUDGET
) -> dict[SampleKey, InlinePicture]:
    """Image files as data URLs, in order, until `budget` characters are used."""
    pictures: dict[SampleKey, InlinePicture] = {}
    for name, data in images:
        picture = as_picture(data)
        budget -= len(picture.url)
        if budget < 0:
            break
        pictures[name] = picture
    return pictures


def compact(data: bytes) -> bytes:
    """A picture that we made ourselves as WebP, about half the size of a JPEG."""
    with Image.open(io.BytesIO(data)) as image:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=_QUALITY, method=4)
        return buffer.getvalue()


def as_picture(data: bytes) -> InlinePicture:
    """An image file that we made ourselves as a data URL."""
    with Image.open(io.BytesIO(data)) as image:
        kind, (width, height) = str(image.format).lower(), image.size
    return InlinePicture(url=f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width=width, height=height)


def strips(finding: Finding, pictures: Pictures, several_labels: bool = False) -> tuple[PictureStrip, ...]:
    """The rows of a finding's card, no picture twice; rows without samples are left out."""
    return tuple(
        PictureStrip(title=title, pictures=row(samples, pictures, finding.id))
        for title, samples in _rows(finding, "Others" if several_labels else "Other classes")
        if samples
    )


def _rows(finding: Finding, others_are: str) -> tuple[tuple[str, tuple[SampleRef, ...]], ...]:
    """Titles and samples of a card's rows."""
    name, gallery = having_name(finding), finding.gallery
    rows = tuple(_measured_rows(finding)) or _described_rows(finding, others_are)
    above = {identity(sample) for _, samples in rows for sample in samples}
    least = tuple(sample for sample in gallery.least_spurious if identity(sample) not in above)
    note = ", after those above" if len(least) < len(gallery.least_spurious) else ""
    part = finding.relying
    if part is not None and part.examples and part.answerer != "clip":  # the others' answers stand above
        least = tuple(replace(sample, predicted=None) for sample in least)
    return (*rows, (f"“{name}” with the least of the cue{note}", least[:STRIP]))


def _measured_rows(finding: Finding) -> Iterator[tuple[str, tuple[SampleRef, ...]]]:
    """The cells that show the finding best, with how they are answered."""
    part, (fails, misleads) = finding.relying, _consequences(finding)
    if part is None:
        return
    for cell, examples in example_cells(finding):
        accuracy = accuracy_of(finding, part, cell)
        where = f", where {fails if cell.class_name in finding.having else misleads}" if cell.conflicting else ""
        right = f"{share(accuracy.value, 0)} of {counted(accuracy.n, 'image')} right"
        yield f"{cell_in_words(finding, cell)}{where}: {right}", examples.images[:STRIP]


def _described_rows(finding: Finding, others_are: str) -> tuple[tuple[str, tuple[SampleRef, ...]], ...]:
    """Images with and without the cue, where no answers were measured."""
    names, name, cue, gallery = finding.having, having_name(finding), cue_word(finding), finding.gallery
    fails, misleads = _consequences(finding)
    same = tuple(sample for sample in gallery.conflicting if sample.class_name in names)
    others = tuple(sample for sample in gallery.conflicting if sample.class_name not in names)
    return (
        (f"“{name}” with the cue “{cue}”", gallery.aligned[:STRIP]),
        (f"“{name}” without it: where {fails}", same[:STRIP]),
        (f"{others_are} with it: where {misleads}", others[:STRIP]),
    )


def _consequences(finding: Finding) -> tuple[str, str]:
    """What happens without the cue, and to other classes with it."""
    if finding.verdict in (Verdict.CONFIRMED, Verdict.MODEL_ONLY):
        return "the shortcut fails", "the shortcut misleads"
    return "a shortcut would fail", "a shortcut would mislead"


def row(
    samples: Sequence[SampleRef], pictures: Pictures, finding: str | None, most: int = STRIP
) -> tuple[CaptionedPicture, ...]:
    """Samples with their pictures and captions."""
    return tuple(_captioned(sample, pictures, finding) for sample in samples[:most])


def duplicate_strips(result: AuditResult, pictures: Pictures) -> tuple[PictureStrip, ...]:
    """Some clusters of near duplicates."""
    return tuple(
        PictureStrip(
            title=f"Near duplicates: {len(cluster)} of the same picture", pictures=row(cluster, pictures, None)
        )
        for cluster in result.hygiene.examples[:_DUPLICATES]
    )


def add_heat(
    result: AuditResult, pictures: Pictures, draw: Callable[[Finding, Sequence[SampleRef]], Mapping[SampleKey, bytes]]
) -> Pictures:
    """The pictures with heat maps of the first findings' cues, drawn by `draw`, until the page's budget is used."""
    budget = _BUDGET - sum(len(picture.url) for picture in pictures.plain.values())
    heat: dict[tuple[str, SampleKey], InlinePicture] = {}
    for finding in result.findings[:CARDS]:
        samples = {identity(s): s for s in _of_finding(finding) if identity(s) in pictures.plain}
        for name, data in draw(finding, list(samples.values())).items():
            picture = as_picture(data)
            budget -= len(picture.url)
            if budget < 0:
                return Pictures(plain=pictures.plain, heat=heat)
            heat[finding.id, name] = picture
    return Pictures(plain=pictures.plain, heat=heat)


def identity(sample: SampleRef) -> SampleKey:
    """The key of a sample's pictures."""
    return sample.url, sample.index


def _wanted(result: AuditResult) -> Iterator[SampleRef]:
    for finding in result.findings[:CARDS]:
        yield from _of_finding(finding)
    for errors in result.errors:
        for part in errors.slices[:SLICES]:
            yield from (*part.wrong_examples[:STRIP], *part.right_examples[:STRIP])
    if result.labels is not None:
        yield from (entry.image for entry in result.labels.examples)
    yield from chain.from_iterable(cluster[:STRIP] for cluster in result.hygiene.examples[:_DUPLICATES])


def _of_finding(finding: Finding) -> Iterator[SampleRef]:
    for _, samples in _rows(finding, ""):
        yield from samples


def _captioned(sample: SampleRef, pictures: Pictures, finding: str | None) -> CaptionedPicture:
    picture = pictures.plain.get(identity(sample))
    heat = None if finding is None else pictures.heat.get((finding, identity(sample)))
    what = ", ".join(part for part in (sample.class_name, sample.value) if part) or "no label"
    return CaptionedPicture(
        picture=None if picture is None else picture.url,
        heat=None if heat is None else heat.url,
        width=1 if picture is None else picture.width,
        height=1 if picture is None else picture.height,
        alt=f"{what}: {sample.key}",
        what=what,
        key=sample.key,
        answer=sample.predicted,
        correct=sample.predicted is not None and sample.predicted == sample.class_name,
    )
