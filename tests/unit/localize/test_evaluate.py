"""Metrics against others' definitions, masks cut like their images, and the protocols on planted truth."""

from __future__ import annotations

import io
import json
import math
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipaudit.config import ModelConfig
from clipaudit.errors import UnsupportedTower, UsageError
from clipaudit.run.classes import ClassNames


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, EvaluationConfig, LocaliserEvaluation, Sums, average_precision, pixel_auc, class_scores
    global ClassesProtocol, ObjectProtocol, PointsProtocol, ReferenceProtocol, segment, Frame, entire, OUTSIDE
    global Masked, cut_mask, read_mask

    import torch

    from clipaudit.localize.evaluation.evaluate import EvaluationConfig, LocaliserEvaluation
    from clipaudit.localize.evaluation.metrics import Sums, pixel_auc
    from clipaudit.localize.evaluation.multilabel import class_scores
    from clipaudit.localize.evaluation.segmentation import (
        ClassesProtocol,
        ObjectProtocol,
        PointsProtocol,
        ReferenceProtocol,
        segment,
    )
    from clipaudit.localize.frames import Frame, entire
    from clipaudit.localize.masks import OUTSIDE, Masked, cut_mask, read_mask
    from clipaudit.statistics import average_precision


RNG = np.random.default_rng(0)
NAMES = ClassNames(labels=(0, 1), names=("left", "right"), source="here")


def test_auc_counts_pairs():
    scores, inside = RNG.integers(0, 5, 60), RNG.integers(0, 2, 60).astype(bool)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[inside] for b in scores[~inside]]
    assert pixel_auc(scores, inside) == pytest.approx(np.mean(pairs))
    assert math.isnan(pixel_auc(scores, np.ones(60)))


def test_average_precision_is_the_sum_over_recall_steps():
    scores, positive = np.array([0.9, 0.8, 0.8, 0.3, 0.1]), np.array([1, 0, 1, 0, 1], bool)
    # thresholds 0.9: 1/1, recall 1/3; 0.8: 2/3, recall 2/3; 0.3: same recall; 0.1: 3/5, recall 1
    assert average_precision(scores, positive)[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    draws = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 3, 0], [0, 1, 0, 1, 0]])
    drawn = average_precision(scores, positive, draws)
    repeated = average_precision(np.repeat(scores, draws[1]), np.repeat(positive, draws[1]))[0]
    assert drawn[:2] == pytest.approx([average_precision(scores, positive)[0], repeated])
    assert math.isnan(drawn[2])


def test_sums_have_the_bootstraps_interval():
    values = RNG.normal(3, 1, 400)
    sums = Sums(2)
    for value in values:
        sums.add([value, 1])
    found = sums.estimate(lambda s: s[:, 0] / s[:, 1])
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.15)
    assert found == sums.estimate(lambda s: s[:, 0] / s[:, 1])
    for value in np.tile(values, 10):  # more images than groups: bounded memory, the same mean, a smaller interval
        sums.add([value, 1])
    many = sums.estimate(lambda s: s[:, 0] / s[:, 1])
    assert many.value == pytest.approx(values.mean())
    assert many.high - many.low < 0.5 * (found.high - found.low)


def test_a_mask_is_cut_where_the_image_is():
    mask = np.arange(200, dtype=np.int32).reshape(10, 20)
    assert np.array_equal(cut_mask(mask, entire((10, 20)), (10, 20)), mask)
    crop = Frame(size=(10, 20), top=0, bottom=10, left=5, right=15)
    assert np.array_equal(cut_mask(mask, crop, (10, 10)), mask[:, 5:15])
    padded = cut_mask(mask, Frame(size=(10, 20), top=-5, bottom=15, left=0, right=20), (20, 20))
    assert (padded[:5] == OUTSIDE).all()
    assert np.array_equal(padded[5:15], mask)


def sample(mask: np.ndarray, label: int = 0) -> Masked:
    return Masked(where="a", seen=np.zeros((*mask.shape, 3), np.uint8), mask=mask.astype(np.int32), label=label)


def halves(images, texts):
    """A localiser that knows the truth: text 0 is on the left, text 1 on the right."""
    left = torch.tensor([[1.0, 1, 0, 0]] * 4)
    return torch.stack([left, 1 - left]).expand(len(images), -1, -1, -1)


def zeros(seen):
    return torch.zeros(len(seen), 3, *seen[0].shape[:2])


LEFT = np.repeat([[255] * 16 + [0] * 16], 32, axis=0)


def test_the_truth_scores_full_marks_and_its_opposite_none():
    good = [sample(LEFT, 0), sample(255 - LEFT, 1)]
    bad = [sample(LEFT, 1), sample(255 - LEFT, 0)]
    texts = torch.zeros(2, 4)
    best = segment(good, {"known": halves}, texts, ObjectProtocol(NAMES), zeros).methods[0].figures
    worst = segment(bad, {"known": halves}, texts, ObjectProtocol(NAMES), zeros).methods[0].figures
    assert all(best[name].value == pytest.approx(1, abs=0.02) for name in ("pixel accuracy", "mIoU", "mAP", "AUC"))
    assert all(worst[name].value == pytest.approx(0, abs=0.02) for name in ("pixel accuracy", "mIoU", "AUC"))
    found = segment(good, {"known": halves}, texts, PointsProtocol(NAMES), zeros).methods[0].figures
    assert found["positive on object"].value == found["negative off object"].value == 1
    assert found["object's share"].value == 0.5


def test_the_reference_protocol_takes_the_predicted_class_and_only_what_speaks_for_it():
    def maps(images, texts):  # a third of the left half speaks for text 1, the rest of the left half less against it
        values = torch.tensor([[3.0, -1, -6, -6]] * 4)
        return torch.stack([-values, values]).expand(len(images), -1, -1, -1)

    def encode(pixels):
        return torch.tensor([[0.1, 0.9]]).expand(len(pixels), -1)  # closest to text 1, whatever the label says

    samples = [sample(LEFT, label=0)]
    found = segment(samples, {"known": maps}, torch.eye(2), ReferenceProtocol(NAMES), zeros, encode=encode)
    figures = found.methods[0].figures
    # By hand: bilinear columns, negative ones 0, scaled, above the mean.
    columns = torch.nn.functional.interpolate(torch.tensor([[[3.0, -1, -6, -6]]]), size=32, mode="linear")[0, 0].numpy()
    scaled = columns.clip(0) / columns.max()
    chosen, truth = scaled > scaled.mean(), LEFT[0] > 0
    assert figures["pixel accuracy"].value == pytest.approx((chosen == truth).mean())
    iou = [(a & b).sum() / (a | b).sum() for a, b in ((chosen, truth), (~chosen, ~truth))]
    assert figures["mIoU"].value == pytest.approx(np.mean(iou))
    plain = segment([sample(LEFT, label=1)], {"known": maps}, torch.eye(2), ObjectProtocol(NAMES), zeros)
    assert plain.methods[0].figures["pixel accuracy"].value > figures["pixel accuracy"].value


def test_every_pixel_the_best_class():
    mask = np.where(LEFT > 0, 7, 3)
    mask[:8] = 0  # not a class
    protocol = ClassesProtocol([7, 3])
    found = segment([sample(mask)], {"known": halves}, torch.zeros(2, 4), protocol, zeros)
    assert found.methods[0].figures["mIoU"].value == 1
    swapped = segment([sample(mask)], {"known": halves}, torch.zeros(2, 4), ClassesProtocol([3, 7]), zeros)
    assert swapped.methods[0].figures["pixel accuracy"].value == 0
    wrong = np.where(LEFT > 0, 7, 7)
    half = segment([sample(wrong)], {"known": halves}, torch.zeros(2, 4), protocol, zeros).methods[0].figures
    assert half["mIoU"].value == pytest.approx(0.5)


def test_masks_that_say_nothing_are_left_out_or_refused():
    nothing = [sample(np.zeros((32, 32))), sample(np.full((32, 32), 255))]
    found = segment([*nothing, sample(LEFT)], {"k": halves}, torch.zeros(2, 4), ObjectProtocol(NAMES), zeros)
    assert (found.images, found.unusable) == (1, 2)
    with pytest.raises(UsageError, match="no image could be scored"):
        segment(nothing, {"k": halves}, torch.zeros(2, 4), ObjectProtocol(NAMES), zeros)
    with pytest.raises(UsageError, match="label 5 has no name in here"):
        segment([sample(LEFT, 5)], {"k": halves}, torch.zeros(2, 4), ObjectProtocol(NAMES), zeros)


def test_surgerys_scalar_moves_whole_images_only():
    whole = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    scores = class_scores(whole, texts)
    shift = scores["cosine"] - scores["surgery"]
    assert torch.allclose(shift, shift[:, :1].expand(-1, 5), atol=1e-6)
    assert torch.allclose(scores["softmax"].sum(dim=1), torch.ones(6))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def shard(tmp_path):
    """Three images of 40 x 70, one without a mask; masks with classes 0, 1 and 2."""
    members = {}
    for key in ("a", "b", "c"):
        members[f"{key}.png"] = png(RNG.integers(0, 255, (40, 70, 3), dtype=np.uint8))
        members[f"{key}.cls"] = b"1"
        members[f"{key}.json"] = json.dumps({"objects": ["fish", "snow"] if key == "a" else ["snow"]}).encode()
        if key != "c":
            members[f"{key}.seg.png"] = png(np.repeat([[0] * 20 + [1] * 25 + [2] * 25], 40, axis=0).astype(np.uint8))
    (tmp_path / "classnames.txt").write_text("cat\nfish\nsnow\n")
    return write(tmp_path / "s.tar", members)


def evaluation(shard: str, **options) -> LocaliserEvaluation:
    config = EvaluationConfig(shards=(shard,), model=ModelConfig(name="demo", device="cpu"), **options)
    return LocaliserEvaluation(config)


@pytest.mark.parametrize("options", [{}, {"squashed": True}, {"whole": True}, {"side": 96}])
def test_shards_are_streamed_with_their_masks(shard, options):
    found = evaluation(shard, **options).segmentation(["decomposition", "surgery", "rollout"], "object")
    assert (found.images, [row.method for row in found.methods]) == (2, ["decomposition", "surgery", "rollout"])
    assert all(0 <= estimate.value <= 1 for row in found.methods for estimate in row.figures.values())


def test_the_first_papers_protocol_squeezes_masks_and_reads_no_label(shard):
    def run(label: str, **options):
        found = evaluation(shard, label=label, **options).segmentation(["contrast"], "reference")
        assert (found.images, found.left_out) == (2, 1)
        return found.methods[0].figures

    published = run("json:nowhere")
    assert published == run("cls", squashed=True)
    assert published["pixel accuracy"] != run("cls", squashed=False)["pixel accuracy"]


def test_recognition_takes_encoders_that_cannot_be_decomposed(shard, tmp_path, monkeypatch):
    (tmp_path / "two.txt").write_text("fish\nsnow\n")
    here = evaluation(shard, classes=str(tmp_path / "two.txt"))
    plain = here.recognition()
    monkeypatch.setattr("clipaudit.localize.evaluation.evaluate.describe_tower", resnet_refused)
    assert evaluation(shard, classes=str(tmp_path / "two.txt")).recognition().mean == plain.mean
    with pytest.raises(UnsupportedTower, match="convolutional"):
        evaluation(shard, whole=True).segmentation(["surgery"], "object")


def resnet_refused(_model):
    raise UnsupportedTower("this image tower is convolutional")


def test_classes_and_recognition(shard, tmp_path):
    (tmp_path / "numbered.txt").write_text("1\tfish\n2\tsnow\n")
    here = evaluation(shard, classes=str(tmp_path / "numbered.txt"))
    assert here.segmentation(["surgery"], "classes").methods[0].figures["mIoU"].value > 0
    found = here.recognition()
    assert found.images == 3
    assert found.occurrences == {"fish": 1, "snow": 3}
    assert found.by_class["snow"]["cosine"] == 1
    assert all(entry.low <= entry.value <= entry.high for entry in found.mean.values())
    assert set(found.mean) == {"cosine", "softmax", "surgery", "surgery - softmax"}


def test_recognition_finds_the_class_names_beside_the_shards(shard, tmp_path):
    named = evaluation(shard, classes=str(tmp_path / "classnames.txt")).recognition()
    beside = evaluation(shard).recognition()
    assert beside.mean == named.mean
    (tmp_path / "classnames.txt").rename(tmp_path / "names.txt")
    with pytest.raises(UsageError, match=r"there is no classnames\.txt beside the shards: give a file with --classes"):
        evaluation(shard).recognition()


def test_mistakes_are_one_sentence(shard, tmp_path):
    here = evaluation(shard)
    with pytest.raises(UsageError, match="no method 'lime'"):
        here.segmentation(["lime"], "object")
    with pytest.raises(UsageError, match="give --classes FILE"):
        here.segmentation(["surgery"], "classes")
    with pytest.raises(UsageError, match="--labels 'cls' is not understood"):
        evaluation(shard, classes=str(tmp_path / "classnames.txt"), labels="cls").recognition()
    with pytest.raises(UsageError, match=r"needed: image, json:none; the first, a, has png, json, seg\.png, cls"):
        evaluation(shard, classes=str(tmp_path / "classnames.txt"), labels="json:none").recognition()
    (tmp_path / "others.txt").write_text("yak\nzebra\n")
    with pytest.raises(UsageError, match="no image has one of the 2 classes"):
        evaluation(shard, classes=str(tmp_path / "others.txt")).recognition()
    image, mask = png(np.zeros((8, 8, 3), np.uint8)), png(np.zeros((9, 8), np.uint8))
    odd = write(tmp_path / "odd.tar", {"a.png": image, "a.cls": b"0", "a.seg.png": mask})
    with pytest.raises(UsageError, match=r"odd.tar: a: the mask has 9 x 8 pixels but the image 8 x 8"):
        evaluation(odd).segmentation(["surgery"], "object")
    with pytest.raises(UsageError, match="8-bit grey or palette PNG, not RGB"):
        read_mask(image, "a")
    with pytest.raises(UsageError, match="the mask cannot be read"):
        read_mask(b"no png", "a")
    with pytest.raises(UsageError, match="there is no protocol 'best'; there are: object, reference, points, classes"):
        here.segmentation(["surgery"], "best")
    with pytest.raises(UsageError, match="there is no method to evaluate"):
        here.segmentation([], "object")
    (tmp_path / "long.txt").write_text(f"cat\n{'fish ' * 60}\nsnow\n")
    with pytest.raises(UsageError, match="longer than the 32 tokens"):
        evaluation(shard, classes=str(tmp_path / "long.txt")).segmentation(["surgery"], "object")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UsageError, match=r"empty\.txt"):
        evaluation(shard, classes=str(tmp_path / "empty.txt")).segmentation(["surgery"], "object")
    for side in (7, 769, 10**9):  # a large one would ask for all memory there is
        with pytest.raises(UsageError, match=rf"--side must lie in 8\.\.768, 1 to 96 patches, not {side}"):
            evaluation(shard, side=side).segmentation(["surgery"], "object")
    with pytest.raises(UsageError, match=r"none of the 3 samples has all that is needed: image, seg\.png, json:label"):
        evaluation(shard, label="json:label").segmentation(["surgery"], "object")


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value_are_one_sentence(tmp_path, value):
    image, mask = png(np.zeros((8, 8, 3), np.uint8)), png(np.full((8, 8), value, np.uint8))
    flat = write(tmp_path / "flat.tar", {"a.png": image, "a.cls": b"0", "a.seg.png": mask})
    (tmp_path / "classnames.txt").write_text("cat\nfish\n")
    for protocol in ("object", "reference", "points"):
        with pytest.raises(UsageError, match="every mask is all object, all background or without a class"):
            evaluation(flat).segmentation(["decomposition"], protocol)
