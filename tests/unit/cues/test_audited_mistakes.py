"""Errors and labels of a whole audit: what the rehearsed model gets wrong, and which labels it contradicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.audit_worlds import CORE, Texts, cue_world, text_pool, write_world


@pytest.fixture(scope="module")
def audit():
    """`audit(world, path, **options)`: an audit of a synthetic world without controls."""
    from clipaudit import AuditOptions, audit_cues

    # what makes a class is a thing and no context
    things = {sign + text for sign in ("", "no ") for text in ("the core", *(f"axis {axis}" for axis in CORE))}
    pool = text_pool()
    pool = replace(pool, kinds=tuple("core-like" if text in things else "context-like" for text in pool.texts))

    def of(world, path, **options):
        quick = {"negative_audits": 0, "positive_trials": 0, "permutations": 0, "attributes": ("place",)}
        run = write_world(world, path)
        names = path.with_suffix(".txt")
        names.write_text("\n".join(world.names) + "\n")
        asked = AuditOptions(classes=str(names), templates="single", **{**quick, **options})
        return audit_cues(run, asked, texts=Texts(world), pool=pool)

    return of


def test_a_model_that_learned_a_shortcut_errs_where_the_cue_is_missing(audit, tmp_path):
    world = cue_world(2000, 1, aligned=0.85, core=0.5, spread=0.9)
    result = audit(world, tmp_path / "run")
    (errors,) = result.errors
    assert errors.answerer == "rehearsed"
    assert set(errors.searched) == {"landbird", "waterbird"}
    of_place = {(part.class_name, part.value): part for part in errors.slices if part.name == "attributes.place"}
    assert set(of_place) == {("landbird", "water"), ("waterbird", "land")}
    part = of_place["waterbird", "land"]
    assert part.sentence.startswith(f"Of {part.wrong.n} images of “waterbird” with place “land”")
    assert part.taken_for[0][0] == "landbird"
    assert part.wrong.low > part.others.high
    assert all(sample.predicted == "landbird" for sample in part.wrong_examples)
    rows = result.table("slices").to_pylist()
    mine = [row for row in rows if row["slice"] == part.id]
    assert len(mine) == part.images
    assert all(row["class"] == "waterbird" and row["wrong"] == (row["answer"] != "waterbird") for row in mine)
    assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1))
    assert result.to_json()["errors"][0]["slices"][0]["class_name"] == errors.slices[0].class_name


def test_errors_that_look_random_are_said_to(audit, tmp_path):
    # all that the model gets wrong are labels that were changed at random
    world = cue_world(1200, 2, aligned=0.5, reliance=0.0, core=1.0, spread=0.2)
    flipped = np.random.default_rng(2).random(1200) < 0.15
    world = replace(world, labels=np.where(flipped, 1 - world.labels, world.labels))
    result = audit(world, tmp_path / "run")
    (errors,) = result.errors
    assert errors.slices == ()
    assert "look random" in errors.sentence
    assert "slices" not in result.rows


def test_wrong_labels_are_in_the_review_list_with_reason_and_rate(audit, tmp_path):
    world = cue_world(1500, 3, aligned=0.6, core=1.0, spread=0.5)
    flipped = np.random.default_rng(3).random(1500) < 0.08
    # a copy with another label, which hygiene counts and which is in no second list
    phash = np.arange(1500) * 2_654_435_761 + 0x0F0F0F0F0F0F
    phash[700] = phash[701]
    world = replace(world, labels=np.where(flipped, 1 - world.labels, world.labels), phash=phash)
    result = audit(world, tmp_path / "run")
    rows = [row for row in result.table("review").to_pylist() if row["finding"] == "label"]
    listed = np.array([int(row["key"].removeprefix("image/")) for row in rows])
    assert len(rows) == result.labels.listed
    assert flipped[listed].mean() > 0.8
    assert flipped[listed].sum() > 0.7 * flipped.sum()
    right = float((~flipped[listed]).mean())
    assert right - 0.05 < result.labels.fdr < right + 0.25
    assert len(set(listed.tolist())) == len(listed)
    assert all(row["reason"].startswith("label contradicted: looks like ") for row in rows)
    assert f"{len(rows):,} of 1,500 labels to look at" in result.labels.sentence
    assert {(pair.label, pair.looks_like) for pair in result.labels.pairs} == {
        ("landbird", "waterbird"),
        ("waterbird", "landbird"),
    }
    entry = result.labels.examples[0]
    assert entry.image.predicted != entry.image.class_name


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_gap_must_be_more_than_the_wrong_labels_that_are_there_would_make(audit, tmp_path, noise):
    """S9c: a model that answers the true class alone has a gap where labels are wrong."""
    world = cue_world(2000, 10, aligned=0.8, reliance=0.0, core=1.0, spread=0.5)
    flipped = np.random.default_rng(10).random(2000) < noise
    said = replace(world, labels=np.where(flipped, 1 - world.labels, world.labels))
    lines = [f"image/{row:08d},{world.names[k]}" for row, k in enumerate(world.labels.tolist())]
    (tmp_path / "true.csv").write_text("\n".join(["key,label", *lines]) + "\n")
    result = audit(said, tmp_path / "run", predictions=(f"true={tmp_path / 'true.csv'}",))
    (finding,) = [finding for finding in result.findings if finding.cue.attribute == "attributes.place"]
    part = finding.by("given")
    assert part.label_noise.needed == pytest.approx(max(0.03, noise), abs=0.03)
    assert part.label_noise.needed == max(0.03, result.labels.wrong_share)
    if noise:
        assert part.gap.low > 0.05
        assert part.label_noise.rate_low > 0.03, "three in a hundred would not explain it"
        assert not part.label_noise.counts
        assert part.verdict.value != "fails where the cue is missing"


def test_training_rows_are_answered_out_of_fold_where_others_are_scored(audit, tmp_path):
    world = cue_world(1600, 4, aligned=0.6, core=1.0, spread=0.5, test_aligned=0.5)
    flipped = np.random.default_rng(4).random(1600) < 0.08
    world = replace(world, labels=np.where(flipped, 1 - world.labels, world.labels))
    result = audit(world, tmp_path / "run", where=("split=train",), test_where=("split=test",))
    assert result.labels.images == 1600
    rows = [row for row in result.table("review").to_pylist() if row["finding"] == "label"]
    listed = np.array([int(row["key"].removeprefix("image/")) for row in rows])
    assert (listed < 800).sum() > 20
    assert (listed >= 800).sum() > 20
    assert flipped[listed].mean() > 0.8


def test_a_given_model_that_fails_on_one_kind_of_image_is_told_by_it(audit, tmp_path):
    world = cue_world(1600, 6, aligned=0.5, reliance=0.0, core=1.0, spread=0.2)
    water = np.array(world.attributes["place"]) == "water"
    rng = np.random.default_rng(6)
    failing = water & (world.labels == 0)
    wrong = rng.random(1600) < np.where(failing, 0.5, 0.06)
    answers = np.where(wrong, 1 - world.labels, world.labels)
    random = np.where(rng.random(1600) < 0.1, 1 - world.labels, world.labels)
    options = []
    for name, values in (("failing", answers), ("random", random)):
        lines = [f"image/{row:08d},{world.names[k]}" for row, k in enumerate(values.tolist())]
        (tmp_path / f"{name}.csv").write_text("\n".join(["key,label", *lines]) + "\n")
        options.append(f"{name}={tmp_path / f'{name}.csv'}")
    result = audit(world, tmp_path / "run", predictions=tuple(options))
    errors = {part.answerer: part for part in result.errors}
    assert set(errors) >= {"given:failing", "given:random"}
    (part,) = errors["given:failing"].slices
    assert (part.class_name, part.name, part.value) == ("landbird", "attributes.place", "water")
    assert part.wrong.low < 0.5 < part.wrong.high
    assert part.others.low < 0.06 < part.others.high
    assert errors["given:random"].slices == ()
    assert "Your model random" in errors["given:random"].sentence
    assert {row["answerer"] for row in result.table("slices").to_pylist()} == {"given:failing"}


def test_images_of_a_class_that_is_too_rare_to_be_tested_are_neither_wrong_nor_mislabelled(audit, tmp_path):
    # eight robins among 1,500 birds: no probe is shown them, so that it could only contradict their label
    world = cue_world(1500, 8, aligned=0.85, core=1.0, spread=0.5)
    rare = np.arange(1500) % 190 == 0
    classes = np.concatenate([world.classes, world.classes[:1]])
    world = replace(world, labels=np.where(rare, 2, world.labels), names=(*world.names, "robin"), classes=classes)
    result = audit(world, tmp_path / "run")
    assert result.labels.images == 1500 - rare.sum()
    listed = [row for row in result.table("review").to_pylist() if row["finding"] == "label"]
    assert not [row for row in listed if row["class"] == "robin"]
    (errors,) = result.errors
    assert errors.images == 1500 - rare.sum()
    assert "robin" not in errors.too_few
    assert result.rehearsal.scored_images == 1500 - rare.sum()
    assert result.rehearsal.accuracy.n == 1500 - rare.sum()
    assert result.rehearsal.columns[0].arms[1].average.n == 1500 - rare.sum()


def test_what_a_given_model_leaves_open_counts_in_nothing(audit, tmp_path):
    world = cue_world(1600, 9, aligned=0.5, reliance=0.0, core=1.0, spread=0.2)
    rng = np.random.default_rng(9)
    right = np.where(rng.random(1600) < 0.12, 1 - world.labels, world.labels)
    # no answer, which is neither the first class nor a wrong one, on a third of them
    opened = rng.random(1600) < 0.33
    lines = [
        f"image/{row:08d}," + ("0.5,0.5" if opened[row] else ("0.9,0.1", "0.1,0.9")[right[row]]) for row in range(1600)
    ]
    header = "key," + ",".join(f"score:{name}" for name in world.names)
    (tmp_path / "open.csv").write_text("\n".join([header, *lines]) + "\n")
    result = audit(world, tmp_path / "run", predictions=(f"open={tmp_path / 'open.csv'}",), rehearse=False)
    (errors,) = result.errors
    assert errors.images == (~opened).sum()
    assert errors.wrong == (~opened & (right != world.labels)).sum()
    (model,) = result.given
    assert model.scored_images == (~opened).sum()
    assert model.accuracy.value == pytest.approx((right == world.labels)[~opened].mean())
    assert sum(pair.n for pair in model.confusions) == errors.wrong
    assert model.calibration.mean_confidence == pytest.approx(0.9)


def test_without_a_rehearsal_there_is_neither(audit, tmp_path):
    result = audit(cue_world(400, 5), tmp_path / "run", rehearse=False)
    assert result.errors == ()
    assert result.labels is None
    assert not any(row["finding"] == "label" for row in result.table("review").to_pylist())


def test_class_labels_alone_are_enough_to_doubt_some(audit, tmp_path):
    world = cue_world(1000, 5, aligned=0.5, reliance=0.0, core=1.0, spread=0.2)
    wrong = np.random.default_rng(8).choice(1000, 40, replace=False)
    labels = world.labels.copy()
    labels[wrong] = 1 - labels[wrong]
    result = audit(replace(world, labels=labels), tmp_path / "run", attributes=())
    assert result.rehearsal.not_rehearsed is None
    assert result.rehearsal.columns == ()
    rows = [row for row in result.table("review").to_pylist() if row["finding"] == "label"]
    doubted = [int(row["key"].removeprefix("image/")) for row in rows]
    assert len(doubted) >= 10
    assert np.isin(doubted, wrong).mean() > 0.5
