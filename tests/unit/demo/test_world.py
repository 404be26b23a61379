"""The demo world: scenes are what they say, the same on every machine, and each data set has the truth it promises."""

import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chi2_contingency

from clipaudit.demo.training.data import ALIGNED, training_batch, training_scene
from clipaudit.demo.world import nouns, sprites
from clipaudit.demo.world.captions import caption, plural, vocabulary
from clipaudit.demo.world.datasets import PLANTED, WORLDS, samples, write_world
from clipaudit.demo.world.scenes import Scene, render
from clipaudit.errors import UsageError


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def scenes():
    return st.integers(0, 10**6).map(lambda seed: training_scene(generator(seed)))


def test_every_noun_has_art_that_training_sees():
    for noun in nouns.NOUNS:
        assert set(nouns.ARTS) <= set(sprites.arts_of(noun))
    assert len(sprites.nouns_of(nouns.HELD_OUT_ART)) >= 35


def test_every_sprite_fills_its_square_and_has_a_clear_outline():
    for noun in nouns.NOUNS:
        for art in sprites.arts_of(noun):
            alpha = sprites.sprite(noun, art, sprites.SPRITE_SIZE)[..., 3]
            rows, columns = np.nonzero(alpha > 127)
            assert max(np.ptp(rows), np.ptp(columns)) >= sprites.SPRITE_SIZE - 6, (noun, art)
            assert 0.04 < (alpha > 127).mean() < 1, (noun, art)


def test_art_comes_with_its_licence_texts():
    folder = sprites.FOLDER.parent
    notice = (folder / "NOTICE.md").read_text()
    for art in (*nouns.ARTS, nouns.HELD_OUT_ART):
        assert f"sprites/{art}/" in notice
    assert {path.name for path in (folder / "licenses").iterdir()} == {
        "Apache-2.0.txt", "MIT-CLIP.txt", "MIT-emojibase.txt", "MIT-fluent-emoji.txt"
    }  # fmt: skip


@settings(max_examples=150)
@given(scene=scenes(), seed=st.integers(0, 10**6))
def test_the_mask_is_where_the_object_is(scene, seed):
    pixels, mask = render(scene, generator(seed))
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == mask.dtype == np.uint8
    if not scene.noun:
        assert not mask.any()
        return
    assert 0.005 < (mask == 255).mean() < 0.85
    if scene.style == "photo" and scene.tint == "none":
        empty, _ = render(Scene(background=scene.background, count=0), generator(seed))
        # The same seed paints the same background, so what differs is the object. What is less than half opaque changes
        # a pixel by less than half of the way.
        changed = np.abs(pixels.astype(int) - empty).sum(2)
        assert changed[mask == 0].max() <= 3 * 128
        assert (changed[mask > 0] > 0).mean() > 0.8


@given(position=st.sampled_from(nouns.POSITIONS), seed=st.integers(0, 10**6))
def test_an_object_is_where_its_position_says(position, seed):
    scene = Scene(noun="apple", art="noto", position=position, size="small", background="room")
    _, mask = render(scene, generator(seed))
    rows, columns = np.nonzero(mask)
    x, y = columns.mean() / 64 - 0.5, rows.mean() / 64 - 0.5
    along = {"left": -x, "right": x, "top": -y, "bottom": y, "center": 0.2 - max(abs(x), abs(y))}[position]
    assert along > 0.08


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_objects_as_counted(count):
    for seed in range(20):
        _, mask = render(Scene(noun="star", colour="red", count=count, background="sky"), generator(seed))
        columns = (mask > 0).any(0)
        assert 1 <= (np.diff(columns.astype(int)) == 1).sum() + columns[0] <= count


@pytest.mark.parametrize(("style", "holds"), [
    ("black and white", lambda p: (p[..., 0] == p[..., 1]).all() and (p[..., 1] == p[..., 2]).all()),
    ("sepia", lambda p: (p[..., 0].astype(int) - p[..., 2]).mean() > 20),
    ("sketch", lambda p: np.percentile(p, 95) >= 235 and (p[..., 0] == p[..., 1]).all()),
    ("pixelated", lambda p: (p.reshape(16, 4, 16, 4, 3) == p[::4, ::4].reshape(16, 1, 16, 1, 3)).all()),
])  # fmt: skip
def test_styles_do_what_their_names_say(style, holds):
    for background in nouns.BACKGROUNDS:
        pixels, _ = render(Scene(noun="car", art="noto", style=style, background=background), generator(3))
        assert holds(pixels), background


def test_blur_takes_away_fine_detail():
    sharp, _ = render(Scene(noun="bicycle", art="noto", background="brick"), generator(1))
    blurred, _ = render(Scene(noun="bicycle", art="noto", style="blurry", background="brick"), generator(1))
    detail = [np.abs(np.diff(p.astype(int), axis=1)).mean() for p in (blurred, sharp)]
    assert detail[0] < 0.4 * detail[1]


@pytest.mark.parametrize("tint", nouns.TINTS)
def test_a_tint_moves_the_whole_image_towards_its_colour(tint):
    plain, _ = render(Scene(noun="cow", art="noto", background="city"), generator(1))
    tinted, _ = render(Scene(noun="cow", art="noto", tint=tint, background="city"), generator(1))
    gain = tinted.mean((0, 1)) / plain.mean((0, 1))
    channels = {"red": [0], "green": [1], "blue": [2], "purple": [0, 2]}[tint]
    assert min(gain[channels]) > 1.15 * max(np.delete(gain, channels))


@settings(max_examples=300)
@given(scene=scenes(), seed=st.integers(0, 10**6))
def test_captions_say_nothing_untrue(scene, seed):
    words = caption(scene, generator(seed)).replace("under the stars", "")
    for noun in {*nouns.NOUNS, *nouns.SHAPES} - {scene.noun, scene.other}:
        assert not {noun, plural(noun)} & set(words.split()), words
    # Colour words of fixed phrases are not the object's.
    bare = words.replace("black and white", "").replace("red bricks", "").replace("green field", "")
    named = set(bare.replace("blue sky", "").split()) & set(nouns.COLOURS)
    assert named <= {scene.colour, scene.tint}, words
    for style in ("sepia", "sketch", "pixelated", "blurry"):
        assert style not in words or scene.style == style
    for place in ("ocean", "desert", "bamboo", "city", "room", "snow", "brick"):
        assert place not in words or scene.background == place


def test_the_vocabulary_covers_every_caption():
    vocabulary_words = {word for phrase in vocabulary() for word in phrase.split()}
    rng = generator(5)
    for _ in range(3000):
        assert set(caption(training_scene(rng), rng).split()) <= vocabulary_words


def test_training_birds_live_at_home_and_nothing_else_has_a_home():
    rng = generator(11)
    drawn = [training_scene(rng) for _ in range(12_000)]
    for group, home in nouns.HOME.items():
        places = Counter(nouns.BACKGROUND_GROUP_OF[scene.background] for scene in drawn if scene.group == group)
        assert places[home] / places.total() == pytest.approx(ALIGNED, abs=0.025)
        assert places.total() > 1000
    others = [s for s in drawn if s.noun and s.group not in nouns.HOME]
    assert p_independent((s.noun, s.background) for s in others) > 1e-3


def p_independent(pairs):
    counts = Counter(pairs)
    first, second = ({pair[side] for pair in counts} for side in (0, 1))
    return chi2_contingency([[counts[a, b] for b in sorted(second)] for a in sorted(first)]).pvalue


def test_a_training_batch_depends_on_its_number_only():
    images, captions = training_batch(3, 17, 8)
    again, same = training_batch(3, 17, 8)
    assert (images == again).all()
    assert captions == same
    assert (training_batch(3, 18, 8)[0] != images).any()


def test_pixels_are_the_same_on_every_machine():
    """A digest from the machine that trained the model: another here means that the world's pixels have changed."""
    digest = hashlib.sha256()
    for name in WORLDS:
        for sample in samples(name, count=40, seed=7):
            digest.update(sample.pixels.tobytes() + sample.mask.tobytes() + sample.caption.encode())
    assert digest.hexdigest()[:16] == "80470aeca78f5061"


def test_an_image_does_not_depend_on_how_many_there_are():
    first, all_images = ([s.pixels for s in samples("things", count=n, seed=2)] for n in (5, 9))
    assert all((a == b).all() for a, b in zip(first, all_images, strict=False))


@pytest.mark.parametrize("name", WORLDS)
def test_shards_hold_what_the_world_says_byte_for_byte(tmp_path, name):
    paths = write_world(name, tmp_path / "a", count=25, seed=4, shard_size=10)
    again = write_world(name, tmp_path / "b", count=25, seed=4, shard_size=10)
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    assert [p.name for p in paths] == [f"{name}-{number:06d}.tar" for number in range(3)]
    assert (tmp_path / "a/classnames.txt").read_text().splitlines() == list(WORLDS[name].classes)
    with tarfile.open(paths[0]) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    for sample in itertools.islice(samples(name, count=25, seed=4), 10):
        image = np.asarray(Image.open(io.BytesIO(members[f"{sample.key}.jpg"])))
        assert np.abs(image.astype(int) - sample.pixels).mean() < 4
        assert (np.asarray(Image.open(io.BytesIO(members[f"{sample.key}.seg.png"]))) == sample.mask).all()
        truth = json.loads(members[f"{sample.key}.json"])
        assert truth == {**sample.scene.factors(), "label": WORLDS[name].classes[sample.label], "split": sample.split}
        assert int(members[f"{sample.key}.cls"]) == sample.label
        assert members[f"{sample.key}.txt"].decode() == sample.caption


def drawn(name, count, seed=0):
    """Truth of a world's images without their pixels."""
    return [
        {**sample.scene.factors(), "label": WORLDS[name].classes[sample.label], "split": sample.split}
        for sample in samples(name, count=count, seed=seed)
    ]


def test_birds_have_the_waterbirds_groups():
    groups = Counter((row["split"], row["label"], row["place"]) for row in drawn("birds", 2000))
    assert groups == {
        ("train", "landbird", "land"): 730, ("train", "landbird", "water"): 38,
        ("train", "waterbird", "land"): 12, ("train", "waterbird", "water"): 220,
        ("test", "landbird", "land"): 389, ("test", "landbird", "water"): 389,
        ("test", "waterbird", "land"): 111, ("test", "waterbird", "water"): 111,
    }  # fmt: skip


def test_planted_classes_have_their_cue_and_nothing_else():
    rows = drawn("planted", 2400)
    for label, cue in PLANTED.items():
        ((factor, value),) = cue.items()
        own = [row[factor] == value for row in rows if row["label"] == label]
        others = [row[factor] == value for row in rows if row["label"] != label]
        assert np.mean(own) > 0.85
        assert np.mean(others) < 0.2
    clean = [row for row in rows if row["label"] not in PLANTED]
    for factor in ("style", "background", "tint", "position", "size", "split"):
        assert p_independent((row["label"], row[factor]) for row in clean) > 1e-3, factor


@pytest.mark.parametrize("name", ["things", "nulls"])
def test_controls_have_nothing_to_find(name):
    rows = drawn(name, 2400, seed=1)
    for factor in ("style", "background", "tint", "position", "size", "split", "place"):
        assert p_independent((row["label"], row[factor]) for row in rows) > 1e-3, factor
    if name == "nulls":
        assert p_independent((row["label"], row["noun"]) for row in rows) > 1e-3


def test_wrong_names_and_sizes_are_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="no demo data set 'bird'; there are: birds, things, planted, nulls"):
        write_world("bird", tmp_path, count=1, seed=0)
    with pytest.raises(UsageError, match="--count must be at least 1, not 0"):
        write_world("birds", tmp_path, count=0, seed=0)
    with pytest.raises(UsageError, match="--shard-size must be at least 1, not 0"):
        write_world("birds", tmp_path, count=1, seed=0, shard_size=0)
