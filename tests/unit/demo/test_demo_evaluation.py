"""The demo model's evaluation: planted answers, planted maps and planted heads are found; the whole of it runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.config import ModelConfig
from clipaudit.demo.evaluation.head_choice import PLACE, RULES, HeadText, HeadTexts, head_words, text_pool
from clipaudit.demo.evaluation.measured import Figure, Target, mean_interval, plain, resampled_groups, share
from clipaudit.demo.evaluation.questions import questions
from clipaudit.demo.world import nouns
from clipaudit.demo.world.captions import vocabulary
from clipaudit.errors import UsageError
from clipaudit.heads.textspan import textspan
from clipaudit.heads.zeroshot import LogitBatch
from clipaudit.statistics import Proportion


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, evaluate, heat_maps, card, ImageEncoder, answers, drawn, footprint, recognition
    global training_facts, matched_sets, right_answers, studied, vocab_size, TokenDecomposition, pixel_auc
    global Decomposer, bundled, token_map

    import open_clip
    import torch

    from clipaudit.demo.evaluation import __main__ as evaluate
    from clipaudit.demo.evaluation.masks import heat_maps
    from clipaudit.demo.evaluation.model_card import card
    from clipaudit.demo.evaluation.recognition import ImageEncoder, answers, drawn, footprint, recognition
    from clipaudit.demo.evaluation.report import training_facts
    from clipaudit.demo.evaluation.shortcut import matched_sets, right_answers, studied
    from clipaudit.demo.training.tokenizer import vocab_size
    from clipaudit.localize import TokenDecomposition
    from clipaudit.localize.evaluation.metrics import pixel_auc
    from clipaudit.model import Decomposer, bundled
    from clipaudit.model.token_scores import token_map


HEADS = tuple(f"L{layer:02d}H{head:02d}" for layer in range(2) for head in range(4))
BY_NAME = {question.name: question for question in questions()}


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> str:
    """The demo's architecture with seeded random weights."""
    bpe = bundled.PACKAGED / bundled.BPE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**bundled.model_config(vocab_size(bpe)))
    directory = tmp_path_factory.mktemp("demo-model")
    bundled.write_directory(directory, model.state_dict(), bpe, vocab_size(bpe))
    return str(directory)


@pytest.fixture(scope="module")
def encoder(model_directory) -> ImageEncoder:
    return ImageEncoder.load(ModelConfig(name=model_directory))


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "limit", "value", "interval", "reached"),
    [
        ("at least", 0.9, 0.9, (0.8, 0.95), True),
        ("at least", 0.9, 0.89, (0.8, 0.95), False),
        ("at least", 0.9, math.nan, None, False),
        ("at most", 2.0, 1.9, None, True),
        ("at most", 2.0, 2.1, None, False),
        ("above", 0.5, 0.6, (0.51, 0.7), True),
        ("above", 0.5, 0.6, (0.49, 0.7), False),
        ("above", 0.5, 0.6, None, False),
    ],
)
def test_a_target_is_reached_or_not(kind, limit, value, interval, reached):
    figure = Figure(part="p", name="n", value=value, interval=interval, target=Target(limit=limit, kind=kind))
    assert figure.reached is reached
    assert figure.record()["reached"] is reached


def test_shares_are_shown_as_per_cent_and_held_as_shares():
    figure = share("recognition", "nouns", Proportion(right=150, total=200), 0.7)
    assert list(figure.cells().values()) == ["nouns", "at least 70.0 %", "75.0 %", "68.6 to 80.5", "yes"]
    assert figure.record()["value"] == 0.75
    assert figure.record()["images"] == 200
    assert plain(math.nan) is None
    assert Figure(part="p", name="n", value=1.0).reached is None


def test_the_mean_lies_in_its_interval():
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    low, high = mean_interval(values)
    assert low < values.mean() < high
    assert 0.5 < (high - low) / (2 * 1.96 * 0.1 / 20) < 2


def test_resampling_is_paired_and_agrees_with_drawing_images():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 3, 300)
    before, after = rng.random(300) < 0.5, rng.random(300) < 0.8
    average, accuracy = resampled_groups([before, before, after], groups, resamples=1000)
    assert accuracy.shape == (1000, 3, 3)
    assert (average[:, 0] == average[:, 1]).all(), "the same images are drawn for every setting"
    by_hand = np.array([after[rows].mean() for rows in rng.integers(0, 300, (1000, 300))])
    assert average[:, 2].mean() == pytest.approx(after.mean(), abs=0.01)
    assert average[:, 2].std() == pytest.approx(by_hand.std(), rel=0.2)
    for group in range(3):
        assert accuracy[:, 2, group].mean() == pytest.approx(after[groups == group].mean(), abs=0.01)


def test_a_group_that_is_not_drawn_has_no_accuracy():
    _, accuracy = resampled_groups([np.ones(20, bool)], np.array([0] * 19 + [1]), resamples=200)
    assert np.isnan(accuracy[:, 0, 1]).any()
    assert np.nanmin(accuracy) == 1


# -- masks -------------------------------------------------------------------------------------------------------------


def test_a_planted_map_has_auc_one():
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 20:40] = 255
    noise = np.random.default_rng(0).random((64, 64))
    assert pixel_auc(noise + 2 * (mask > 0), mask > 0) == 1
    assert pixel_auc(noise - 2 * (mask > 0), mask > 0) == 0
    assert pixel_auc(np.ones((64, 64)), mask > 0) == 0.5
    assert pixel_auc(noise, mask > 0) == pytest.approx(0.5, abs=0.05)
    assert math.isnan(pixel_auc(noise, np.zeros((64, 64), bool)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_counts_pairs(pixels):
    inside, outside = [s for s, m in pixels if m], [s for s, m in pixels if not m]
    auc = pixel_auc([s for s, _ in pixels], [m for _, m in pixels])
    if not inside or not outside:
        assert math.isnan(auc)
        return
    wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    assert auc == pytest.approx(wins / (len(inside) * len(outside)))


def test_heat_maps_are_the_tokens_scores_at_their_places(encoder):
    pixels = [image for _, _, image in drawn(BY_NAME["nouns"], False, 3, 0)]
    texts = encoder.texts(["a duck", "a cat"])
    decomposer = Decomposer(encoder.model, tokens=True)
    maps = heat_maps(encoder, TokenDecomposition(encoder.model), pixels, texts)
    assert maps.shape == (3, 2, 64, 64)
    scores = token_map(decomposer(encoder.normalise(pixels)), decomposer.readout, torch.from_numpy(texts)).numpy()
    np.testing.assert_allclose(maps.mean(axis=(2, 3)), scores[:, 1:].mean(axis=1), atol=1e-6)
    # tokens run row by row: the lower right corner is the last one's
    np.testing.assert_allclose(maps[:, :, -1, -1], scores[:, -1], atol=1e-6)
    np.testing.assert_allclose(maps[:, :, 0, -1], scores[:, 8], atol=1e-6)


# -- recognition -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.name)
def test_images_show_what_is_asked(question):
    factor = {
        "backgrounds": "background",
        "backgrounds in all styles": "background",
        "colours": "colour",
        "styles with `photo`": "style",
        "styles": "style",
        "tints": "tint",
        "nouns": "noun",
        "shapes": "noun",
        "counts": "count",
        "positions": "position",
        "sizes": "size",
    }[question.name]
    for held_out in question.arts:
        for truth, scene, _ in drawn(question, held_out, 2 * len(question.options), 3):
            value = getattr(scene, factor)
            assert question.options[truth] == (("one", "two", "three")[value - 1] if factor == "count" else value)
            assert scene.colour or (scene.art == nouns.HELD_OUT_ART) is held_out
            assert factor == "style" or question.name.endswith("all styles") or scene.style == "photo"


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.name)
def test_prompts_are_made_of_the_captions_words(question):
    vocabulary_words = {word for phrase in vocabulary() for word in phrase.split()}
    prompts = [text for texts in question.prompts.values() for text in texts]
    assert len(set(prompts)) == len(prompts)
    assert {word for text in prompts for word in text.split()} <= vocabulary_words
    assert len({len(texts) for texts in question.prompts.values()}) <= 2


class Oracle:
    """Answers every question rightly, or always with its first option."""

    def __init__(self, question, right=True):
        self.seen, self.right, self.question = 0, right, question

    def images(self, pixels):
        options = self.question.drawable(held_out=False)
        rows = [(self.seen + n) % len(options) if self.right else 0 for n in range(len(pixels))]
        self.seen += len(pixels)
        return np.eye(len(self.question.options), dtype=np.float32)[rows]


def test_right_answers_are_counted_as_right():
    question = BY_NAME["nouns"]
    assert (answers(Oracle(question), question, np.eye(44), False, count=300, seed=0) == 0).all()


def test_guessing_is_at_chance():
    question = BY_NAME["backgrounds"]
    places = answers(Oracle(question, right=False), question, np.eye(12), False, count=240, seed=0)
    assert (places == 0).mean() == pytest.approx(1 / 12)


def test_every_top_and_art_has_its_figure(encoder):
    names = [figure.name for figure in recognition(encoder, BY_NAME["nouns"], count=44, seed=0)]
    assert names == [f"nouns, 44-way, top {top}, {art} art" for art in ("seen", "unseen") for top in (1, 5)]


def test_options_are_mean_directions(encoder):
    texts = ["a duck", "a photo of a duck", "a cat"]
    vectors = encoder.texts(texts)
    options = encoder.options([texts[:2], texts[2:]])
    mean = vectors[:2].mean(axis=0)
    np.testing.assert_allclose(options, [mean / np.linalg.norm(mean), vectors[2]], atol=1e-6)


def test_a_model_that_is_not_the_demos_is_refused(tiny_model):
    with pytest.raises(UsageError, match="is not a directory"):
        footprint(ModelConfig(name="ViT-B-32", pretrained="random-seed-0"))
    with pytest.raises(UsageError, match="32"):
        ImageEncoder.load(ModelConfig(name=tiny_model))


# -- heads by text -----------------------------------------------------------------------------------------------------


def test_the_pool_is_made_of_captions_and_names_every_place():
    pool = text_pool()
    vocabulary_words = {word for phrase in vocabulary() for word in phrase.split()} | {"objects"}
    assert {word for text in pool for word in text.split()} <= vocabulary_words
    assert set(pool.values()) == {PLACE, "noun", "colour", "shape", "count", "position", "size", "tint", "style"}
    about_places = [text for text, name in pool.items() if name == PLACE]
    for background in nouns.BACKGROUNDS:
        assert any(background in text for text in about_places)
    assert 0.2 < len(about_places) / len(pool) < 0.5


def words(head, *texts):
    chosen = tuple(HeadText(text=f"text {n}", property=name, explained=share) for n, (name, share) in enumerate(texts))
    return HeadTexts(head=head, variance=0.1, texts=chosen)


def test_the_two_rules_read_variance_and_number():
    one_strong = words("L00H00", (PLACE, 0.5), ("noun", 0.1), ("noun", 0.1), ("noun", 0.1), ("noun", 0.1))
    three_weak = words("L00H01", ("noun", 0.5), (PLACE, 0.1), (PLACE, 0.1), (PLACE, 0.1), ("noun", 0.1))
    assert one_strong.chosen("variance")
    assert not one_strong.chosen("majority")
    assert not three_weak.chosen("variance")
    assert three_weak.chosen("majority")
    assert not any(words("L00H02").chosen(rule) for rule in RULES), "a head without texts is not about anything"


def test_the_planted_head_is_chosen():
    rng = np.random.default_rng(0)
    properties = ["place"] * 6 + ["noun"] * 6
    texts = [f"{name} {n}" for n, name in enumerate(properties)]
    vectors = np.linalg.qr(rng.standard_normal((16, 12)))[0].T
    noise = 0.01 * np.eye(16)
    spans = {
        "L01H00": textspan(vectors[:6].T @ vectors[:6] + noise, vectors, 5),
        "L01H01": textspan(vectors[6:].T @ vectors[6:] + noise, vectors, 5),
    }
    heads = head_words(spans, {"L01H00": 0.3, "L01H01": 0.2}, texts, properties)
    for rule in RULES:
        assert [head.head for head in heads if head.chosen(rule)] == ["L01H00"]
    assert heads[0].weight("variance") > 0.95


# -- the birds' shortcut -----------------------------------------------------------------------------------------------


def planted_birds(rows=800, seed=0):
    """Logits in which head L01H02 writes the place, strongly, and everything else is noise on the bird's own sign."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    place = rng.integers(0, 2, rows)
    bird = (2 * truth - 1) * 1.0 + 0.5 * rng.standard_normal(rows)
    written = 2.0 * (2 * place - 1)
    removed = 0.05 * rng.standard_normal((len(HEADS), rows, 2)).astype(np.float32)
    removed[HEADS.index("L01H02"), :, 1] += written
    base = np.stack([np.zeros(rows), bird + written], axis=1).astype(np.float32)
    values = np.array(["water" if p else "land" for p in place], object)
    cuts = np.array_split(np.arange(rows), 3)
    return [LogitBatch(base=base[c], removed=removed[:, c], truth=truth[c], values=values[c]) for c in cuts]


def place_words(*about_places):
    return [words(head, (PLACE if head in about_places else "noun", 0.4)) for head in HEADS]


def test_ablating_the_planted_head_raises_the_worst_group():
    study = studied(place_words("L01H02"), HEADS, planted_birds(), ("landbird", "waterbird"), seed=0)
    plainly, ablated = study.settings["none"], study.settings["variance"]
    assert ablated.heads == study.settings["majority"].heads == ("L01H02",)
    assert set(plainly.groups) == {
        f"{bird} on {place}" for bird in ("landbird", "waterbird") for place in nouns.HOME.values()
    }
    assert plainly.worst < 0.1
    assert ablated.worst > 0.9
    assert study.possible["variance"] == 4
    assert study.controls["variance"].beaten == pytest.approx(0.75, abs=0.06), "one set of four is the chosen one"
    low, high = study.intervals["variance rise"]
    assert 0.7 < low < ablated.worst - plainly.worst < high < 1
    assert study.intervals["none rise"] == (0, 0)
    by_name = {figure.name: figure for figure in study.figures}
    assert by_name["1 place heads: rise of the worst group"].reached
    assert by_name["1 place heads: random sets beaten"].reached is False
    assert len(by_name) == len(study.figures)


def test_without_a_place_head_nothing_rises():
    study = studied(place_words(), HEADS, planted_birds(), ("landbird", "waterbird"), seed=0)
    assert study.settings["variance"].heads == ()
    assert study.settings["variance"].worst == study.settings["none"].worst
    assert study.controls["variance"].p == 1
    assert study.possible["variance"] == 1
    json.dumps(study.record(), allow_nan=False)


def test_right_answers_agree_with_the_settings():
    batches = planted_birds()
    chosen = np.array([head == "L01H02" for head in HEADS])
    study = studied(place_words("L01H02"), HEADS, batches, ("landbird", "waterbird"), seed=0)
    assert right_answers(batches, chosen).sum() == study.settings["variance"].accuracy.right
    assert right_answers(batches, ~chosen & chosen).sum() == study.settings["none"].accuracy.right


@pytest.mark.parametrize(
    ("chosen", "sets"), [((), 1), (HEADS, 1), (HEADS[:1], 4), (HEADS[:2], 6), ((HEADS[0], *HEADS[4:6]), 24)]
)
def test_matched_sets_are_counted(chosen, sets):
    assert matched_sets(HEADS, chosen) == sets


# -- the whole ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few_questions():
    """Questions with few prompts: those of the others take longer to encode than everything else here."""
    with pytest.MonkeyPatch.context() as patch:
        few = tuple(BY_NAME[name] for name in ("colours", "nouns", "sizes"))
        patch.setattr(evaluate, "questions", lambda: few)
        yield


@pytest.fixture(scope="module")
def whole(model_directory, few_questions):
    return evaluate.evaluate(model_directory, images=12, seed=2)


def test_a_whole_evaluation_is_a_record(whole):
    record = json.loads(json.dumps(whole.record(), allow_nan=False))
    assert {figure["part"] for figure in record["figures"]} == {"recognition", "birds", "mask", "footprint"}
    assert len({figure["name"] for figure in record["figures"]}) == len(record["figures"])
    assert len(record["birds"]["heads"]) == 24
    assert all(len(head["texts"]) == 5 for head in record["birds"]["heads"])
    assert set(record["birds"]["controls"]) == set(RULES)
    for figure in record["figures"]:
        if figure["interval"] is not None:
            low, high = figure["interval"]
            assert low <= figure["value"] <= high


@pytest.mark.full
def test_the_command_writes_and_prints_the_same(whole, model_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate", "--model", "a model"])
    training = tmp_path / "training"
    training.mkdir()
    (training / "log.jsonl").write_text('{"step": 1, "seconds": 60.0}\n{"step": 2, "seconds": 30.0}\n')
    out, card_file = tmp_path / "out", tmp_path / "cards" / "MODEL_CARD.md"
    evaluate.main(model_directory, out=out, seed=2, images=12, card_file=card_file, training=training)
    record = json.loads((out / "evaluation.json").read_text())
    assert record["command"] == "python -m clipaudit.demo.evaluation --model 'a model'"
    assert record["training"] == {"log": {"step": 2, "seconds": 30.0}, "seconds": 90.0}
    before = whole.record()
    assert record["birds"] == before["birds"], "the same seed gives the same figures"
    timeless = [[f for f in r["figures"] if f["part"] != "footprint"] for r in (record, before)]
    assert timeless[0] == timeless[1]
    assert card_file.read_text().startswith("# clipaudit's demo model\n")
    output = capsys.readouterr().out
    assert "worst group below the average" in output
    assert str(card_file) in output


def test_the_card_holds_every_figure_and_the_recipe(whole, tmp_path):
    from safetensors.torch import save_file

    recipe = {"seed": 7, "images": 1000, "batch": 8, "lr": 0.001, "ema": 0.99, "patch_dropout": 0.5, "dense": 0.2}
    save_file({"x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors", metadata={"state": json.dumps(recipe)})
    facts = training_facts(tmp_path)
    assert facts == {"recipe": recipe}
    text = card(replace(whole, training=facts, note="The better of two seeds."))
    for figure in whole.figures:
        assert f"| {' | '.join(figure.cells().values())} |" in text
    for head in whole.shortcut.words:
        assert f"| {head.head} |" in text
    assert whole.model["fingerprint"] in text
    assert "Not for anything else" in text
    assert "--seed 7 --images 1000 --batch 8 --lr 0.001 --ema 0.99" in text
    assert "| patch_dropout | 0.5 |" in text
    assert "The better of two seeds." in text


def test_without_a_training_the_card_says_so(whole, tmp_path):
    assert training_facts(tmp_path) == {}
    assert "no recipe stands here" in card(whole)
    assert "How it was chosen" not in card(whole)


def test_a_table_has_a_row_for_every_figure(whole):
    table = whole.table()
    assert table.row_count == len(whole.figures)
    assert [column.header for column in table.columns] == ["figure", "target", "measured", "95 % interval", "reached"]
