"""Thumbnails out of shards, and the page that holds them: no data becomes markup, nothing leaves the page."""

import base64
import io
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clipaudit.errors import UsageError
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.parts import QueryPart
from clipaudit.retrieval.plan import IndexConfig, build_indexes
from clipaudit.retrieval.queries import QueryEncoder
from clipaudit.retrieval.request import Request, answers
from clipaudit.retrieval.retriever import Answer, Hit, Retriever
from clipaudit.retrieval.sheet import SheetPanel, SheetQuery, contact_sheet
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.row import Row
from clipaudit.run.thumbnails import NoPicture, Thumbnails, shrink
from clipaudit.shards.listing import expand
from tests.make_audits import audited
from tests.make_runs import MEMORY, SPEC, make_manifest
from tests.make_shards import encode, huge_png_bytes, jpeg_bytes, member_offsets, photo, write_shard


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global RunMaps, SheetMaps, along

    from clipaudit.localize.run_maps import RunMaps
    from clipaudit.retrieval.sheet_maps import SheetMaps, along


EVIL = "<script>alert('x')</script>&\"'{{ 7*7 }}"


@pytest.fixture
def shard(tmp_path):
    return write_shard(
        tmp_path / "s-0.tar",
        {
            "a": {"jpg": jpeg_bytes(640, 480, seed=1)},
            "b": {"png": encode(photo(40, 90), "PNG")},
            "c": {"jpg": b"not an image"},
            "d": {"png": huge_png_bytes()},
        },
    )


@pytest.fixture
def run(tmp_path, shard):
    directory = RunDirectory(str(tmp_path / "run"))
    directory.create(make_manifest(SPEC, tuple(expand([str(shard)]))))
    return Run(directory)


def row(shard, name, **known):
    offset = next(data for member, (_, data) in member_offsets(shard).items() if member.startswith(name))
    return Row(**{"shard_id": 0, "index": 0, "key": name, "offset": offset, "nbytes": 200_000, **known})


def test_a_thumbnail_is_cut_out_by_its_place(run, shard):
    picture = Thumbnails(run, 100)(row(shard, "a"))
    image = Image.open(io.BytesIO(picture.data))
    assert (image.format, image.size) == ("JPEG", (100, 75))
    assert (picture.width, picture.height) == image.size
    small = Thumbnails(run, 160)(row(shard, "b"))
    assert (small.width, small.height) == (40, 90), "small images are not enlarged"


def test_only_its_bytes_are_read(run, shard, monkeypatch):
    reads = []

    class Watched(io.FileIO):
        def read(self, size=-1):
            reads.append((self.tell(), size))
            return super().read(size)

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", lambda _, path, mode: Watched(path, "rb"))
    start, size = member_offsets(shard)["a.jpg"][1], len(jpeg_bytes(640, 480, seed=1))
    Thumbnails(run)(row(shard, "a", nbytes=size))
    assert reads == [(start, size)]


def test_what_cannot_be_shown_says_why(run, shard):
    thumbnails = Thumbnails(run)
    for name, words in (("c", "no image of a format that is read"), ("d", "more than the limit|pixels")):
        with pytest.raises(NoPicture, match=words):
            thumbnails(row(shard, name))
    with pytest.raises(NoPicture, match="not stored"):
        thumbnails(replace(row(shard, "a"), offset=None))
    os.utime(shard, (1, 1))
    with pytest.raises(NoPicture, match="has changed"):
        Thumbnails(run)(row(shard, "a"))
    shard.unlink()
    with pytest.raises(NoPicture, match="not there any more"):
        Thumbnails(run)(Row(shard_id=0, index=0, key="a", offset=9, nbytes=9))
    with pytest.raises(UsageError, match="16 to 512"):
        Thumbnails(run, 5000)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16", "RGB"])
def test_every_kind_of_png_becomes_a_small_jpeg(mode):
    image = Image.fromarray(photo(300, 200))
    image = image.convert("I").point(lambda v: v * 200).convert("I;16") if mode == "I;16" else image.convert(mode)
    picture = shrink(encode(image, "PNG"), 64, 10**6)
    found = Image.open(io.BytesIO(picture.data))
    assert (found.mode, found.size) == ("RGB", (64, 43))


def test_bombs_are_refused_before_they_are_decoded():
    with pytest.raises(NoPicture, match="more than the limit"):
        shrink(jpeg_bytes(400, 300), 64, 100 * 100)


def panel(rows, title="by L00H00"):
    hits = tuple(Hit(rank=n, score=0.5 - n / 10, row=found, parts={"L00H00": 0.25}) for n, found in enumerate(rows, 1))
    return SheetPanel(title=title, about="this head alone", answer=Answer(hits=hits, notes=(EVIL,)))


def test_nothing_of_the_data_becomes_markup(run, shard):
    evil = row(shard, "a", key=EVIL, label=EVIL, attributes={"place": EVIL, EVIL: "x", "none": None})
    asked = SheetQuery(words=EVIL, row=evil, where=EVIL)
    page = contact_sheet(run, asked, [panel([evil], EVIL), panel([evil, row(shard, "b")])], Thumbnails(run))
    assert "<script" not in page
    assert "alert(&#39;x&#39;)" in page
    # pictures, colours, scores and the run's own place may have the digits of 7 * 7
    body = page.split("<body>")[1].replace(run.directory.url, "")
    assert "49" not in re.sub(r"base64,[^\"]*|#\w+|\d+\.\d+", "", body), "nothing is evaluated"


def test_the_page_needs_nothing_else(run, shard):
    page = contact_sheet(run, SheetQuery(words="like a"), [panel([row(shard, "a"), row(shard, "c")])], Thumbnails(run))
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]*)", page)
    assert links
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert "default-src 'none'" in page
    assert "no image of a format that is read" in page, "a picture that cannot be shown says why"
    data = base64.b64decode(links[0].partition(",")[2])
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    assert len(page) < 60_000


def test_side_by_side_marks_what_one_list_alone_has(run, shard):
    a, b = row(shard, "a", label=1, attributes={"place": "sea"}), row(shard, "b", index=1, label=2)
    asked = SheetQuery(words="like a", row=replace(a, index=5))
    page = contact_sheet(run, asked, [panel([a, b]), panel([a])], Thumbnails(run))
    assert page.count("only here") == 1
    assert "1 of 2 are in both lists" in page
    assert "of 2, like the query in: label 1, place 1" in page


# -- maps --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A run of a tiny model whose scores are plain products, so that they are sums over tokens."""
    run = audited(tmp_path_factory.mktemp("mapped"), shards=1, index=False)
    config = IndexConfig(run=run.directory.url, metric="raw", kind="flat", memory=MEMORY)
    build_indexes(config)
    return Retriever(run)


ASKED = {
    "head": {"weights": {"L01H00": 1.0}},
    "heads, each with its own direction and weight": {"weights": {"L01H00": 2.0, "L00H01": -0.5}},
    "everything": {},
}


@pytest.mark.parametrize("end", ["max", "min"])
@pytest.mark.parametrize("query", [{"key": (0, "p0_0003")}, {"text": "a cat"}, {"image": jpeg_bytes(40, 30, seed=9)}])
@pytest.mark.parametrize("weights", ASKED.values(), ids=ASKED)
def test_maps_are_what_each_patch_adds_to_the_score(indexed, weights, query, end):
    """Against the model with all tokens, by the plain sum over patches and the class token."""
    from clipaudit.config import ModelConfig
    from clipaudit.localize.token_maps import TokenDecomposition
    from clipaudit.model.loading import Normaliser, load_model
    from clipaudit.schema import parse_head_label

    run, thumbnails = indexed.run, Thumbnails(indexed.run)
    panel = answers(indexed, QueryEncoder(run, "cpu"), Request(**weights, parts=(QueryPart(**query),), end=end, k=4))[0]
    heads, directions = along(indexed, panel.question)
    maps = RunMaps(run, side=64, device="cpu")
    pictures = [maps.read(thumbnails.data(hit.row), hit.row.key) for hit in panel.answer.hits]
    drawn = maps.scores(pictures, heads, directions)
    assert np.abs(drawn).max() > 0

    import torch

    model = load_model(ModelConfig(name=run.manifest.identity["model"], device="cpu"))
    normalise = Normaliser(maps._reader.mean, maps._reader.std, model.device)
    pixels = normalise([picture.seen for picture in pictures])
    texts = torch.from_numpy(np.asarray(directions, np.float32))
    score, patches = 0, 0
    for label, direction in zip(heads or [None], texts, strict=True):
        found = TokenDecomposition(model.model, label and [parse_head_label(label)])(pixels, direction[None])
        patches = patches + found.patches[:, 0].numpy()
        score = score + (found.heads if label else found.products)[:, 0].numpy()
    np.testing.assert_allclose(drawn, patches, atol=1e-6)
    sign = -1 if end == "min" else 1
    np.testing.assert_allclose(score, [sign * hit.score for hit in panel.answer.hits], atol=1e-3)


def test_a_picture_that_cannot_be_drawn_is_left_out(indexed):
    draw = SheetMaps(indexed, side=64, device="cpu")
    panel = answers(indexed, QueryEncoder(indexed.run, "cpu"), Request(parts=(QueryPart(key=(0, "p0_0003")),), k=3))[0]
    found = draw(panel.question, {(0, 0): jpeg_bytes(300, 100, seed=1), (0, 1): b"no image", (9, 9): huge_png_bytes()})
    assert list(found) == [(0, 0)]
    assert (found[0, 0].width, found[0, 0].height) == (64, 21), "the picture's own shape"
    assert draw(panel.question, {}) == {}
    assert list(panel.question.queries) == [EMBEDDING]


def test_heads_and_the_whole_embedding_are_not_drawn_as_one_sum(indexed):
    asking = Request(weights={"L01H00": 1.0, EMBEDDING: 1.0}, parts=(QueryPart(key=(0, "p0_0003")),), k=3)
    panel = answers(indexed, QueryEncoder(indexed.run, "cpu"), asking)[0]
    with pytest.raises(UsageError, match="as one sum"):
        along(indexed, panel.question)
