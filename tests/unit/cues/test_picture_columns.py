"""Image properties in an audit: tested without being asked for, named plainly, one finding for each parting."""

import json
from dataclasses import replace

import numpy as np
import pytest

from clipaudit.cues.measure.picture_columns import NO_JPEG, in_named_bins, named_ends
from clipaudit.cues.options import AuditOptions
from clipaudit.cues.pipeline import audit_cues
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.columns import binned_like, omnibus_p, sequential_p
from clipaudit.errors import UsageError
from clipaudit.schema import IMAGE_PROPERTIES
from tests.audit_worlds import Texts, balanced_labels, cue_world, noise_world, text_pool, write_world

N, CLASSES = 800, 4
OPTIONS = AuditOptions(permutations=199, random_sets=200, negative_audits=0, positive_trials=0)


def drawn(n, seed):
    """(n, properties) that go with nothing."""
    rng = np.random.default_rng([seed, 1])
    values = rng.uniform(0.1, 0.9, (n, len(IMAGE_PROPERTIES))).astype(np.float32)
    values[:, IMAGE_PROPERTIES.index("jpeg_quality")] = rng.choice([75, 90, 95], n)
    values[:, IMAGE_PROPERTIES.index("aspect")] = 1.5
    return values


def world(seed=0, **changed):
    """Noise with image properties; `changed` names properties and what is done to those of class 0, mostly."""
    rng = np.random.default_rng([seed, 2])
    labels = balanced_labels(N, CLASSES, 1 / CLASSES, rng)
    values = drawn(N, seed)
    having = (labels == 0) & (rng.random(N) < 0.9)
    for name, change in changed.items():
        column = values[:, IMAGE_PROPERTIES.index(name)]
        column[having] = change(column[having])
    return replace(noise_world(N, labels, seed, CLASSES), properties=values)


def audited(made, folder, options=OPTIONS, **runs):
    run = write_world(made, folder)
    names = folder / "names.txt"
    names.write_text("\n".join(made.names))
    return audit_cues(run, replace(options, classes=str(names)), texts=Texts(made), pool=text_pool(), **runs)


def pictured(result):
    return [f for f in result.findings if f.cue.attribute and f.cue.attribute.startswith("image.")]


def test_what_goes_with_nothing_ends_at_its_test_and_changes_nothing(tmp_path):
    made = world(3)
    with_properties = audited(made, tmp_path / "a")
    without = audited(replace(made, properties=None), tmp_path / "b")
    assert not pictured(with_properties)
    assert with_properties.attributes == without.attributes == ()
    assert with_properties.dropped == without.dropped, "a property that cannot be tested is no question"
    assert [f.association for f in with_properties.findings] == [f.association for f in without.findings]
    assert with_properties.data.image_properties == tuple(f"image.{name}" for name in IMAGE_PROPERTIES)
    assert without.data.image_properties == ()


@pytest.mark.parametrize(
    ("name", "change", "end"),
    [
        ("brightness", lambda x: 0.2 * x, "dark pictures"),
        ("brightness", lambda x: x + 1, "bright pictures"),
        ("sharpness", lambda x: 0.1 * x, "blurred pictures"),
        ("border", lambda x: 0 * x + 1, "a uniform border"),
        ("kilobytes", lambda x: 0.1 * x, "small files"),
        ("aspect", lambda x: 0 * x + 0.75, "tall pictures"),
        ("jpeg_quality", lambda x: 0 * x + 40, "low JPEG quality"),
        ("jpeg_quality", lambda x: x * np.nan, NO_JPEG),
    ],
)
def test_a_planted_property_is_a_finding_with_a_plain_name(tmp_path, name, change, end):
    result = audited(world(1, **{name: change}), tmp_path / "run")
    (finding,) = pictured(result)
    assert (finding.cue.attribute, finding.cue.value, finding.class_name) == (f"image.{name}", end, "class 0")
    assert f"class 0 goes with {end!r}" in finding.sentence
    assert finding.association.above_delta
    (table,) = [table for table in result.attributes if table.attribute == f"image.{name}"]
    assert table.tied
    if end != NO_JPEG:
        assert any(word.text.startswith(f"{column_in_words(f'image.{name}')} ") for word in finding.cue.words), (
            "which numbers the end holds"
        )


def test_properties_that_part_the_classes_alike_are_one_finding(tmp_path):
    changed = {"brightness": lambda x: 0.2 * x, "contrast": lambda x: 0.3 * x, "kilobytes": lambda x: 0.3 * x}
    result = audited(world(1, **changed), tmp_path / "run")
    (finding,) = pictured(result)
    named = {finding.cue.value, *(word.text for word in finding.cue.words if word.property == "image property")}
    assert {"dark pictures", "pictures of low contrast", "small files"} <= named
    assert len(result.attributes) == 3, "each has its table"


def test_a_property_that_tells_all_classes_apart_is_a_finding_and_not_left_out(tmp_path):
    made = world(1)
    sizes = np.where(made.labels < 2, 0.3, 12.0)
    made.properties[:, IMAGE_PROPERTIES.index("megapixels")] = sizes
    result = audited(made, tmp_path / "run")
    (finding,) = pictured(result)
    assert finding.cue.value in ("small pictures", "large pictures")
    assert finding.association.d.value > 0.9
    assert result.dropped == ()


def test_a_property_that_follows_from_a_column_explains_nothing_and_stands_beside_it(tmp_path):
    made = cue_world(1200, 5)
    values = drawn(1200, 5)
    # brightness follows from the place, as that of pictures does
    bright = np.array([place == "water" for place in made.attributes["place"]])
    values[:, IMAGE_PROPERTIES.index("brightness")] += np.where(bright, 2, 0)
    result = audited(replace(made, properties=values), tmp_path / "run", replace(OPTIONS, attributes=("place",)))
    (place,) = [f for f in result.findings if f.cue.attribute == "attributes.place"]
    assert place.verdict == Verdict.CONFIRMED
    assert not place.explained_by
    assert not place.inseparable_from
    assert not pictured(result), "it follows from the place, and is named beside it"
    named = {word.text for word in place.cue.words if word.property == "image property"}
    assert named & {"bright pictures", "dark pictures"}


def test_one_that_is_asked_for_is_a_declared_column(tmp_path):
    options = replace(OPTIONS, attributes=("image.brightness", "image.aspect"))
    result = audited(world(1, brightness=lambda x: 0.2 * x), tmp_path / "run", options)
    assert [f.cue.value for f in pictured(result)] == ["dark pictures"]
    assert result.data.attributes == ("image.brightness",)
    assert [(d.what, d.reason) for d in result.dropped] == [("image.aspect", "every image has the value '1.5'")]


def test_a_run_of_before_has_none(tmp_path):
    made = replace(world(1), properties=None)
    with pytest.raises(UsageError, match="not measured yet when the run was begun"):
        audited(made, tmp_path / "run", replace(OPTIONS, attributes=("image.brightness",)))


def test_two_runs_are_compared_in_what_both_have(tmp_path):
    made = world(1, brightness=lambda x: 0.2 * x)
    other = write_world(replace(made, properties=None), tmp_path / "other")
    result = audited(made, tmp_path / "run", test_run=other)
    assert result.data.image_properties == ()


@pytest.mark.parametrize("seed", range(5))
def test_the_test_that_ends_early_agrees_with_the_whole_one(seed):
    rng = np.random.default_rng(seed)
    truth, codes = rng.integers(0, 3, 300), rng.integers(0, 5, 300)
    dealt = [rng.permutation(truth) for _ in range(999)]
    p = sequential_p(codes, truth, 3, dealt)
    assert p == pytest.approx(omnibus_p(codes, truth, 3, dealt), rel=0.5)
    assert sequential_p(truth, truth, 3, dealt) == 1 / 1000
    assert sequential_p(np.zeros(300, np.int64), truth, 3, dealt) == 1.0


def test_rare_bins_have_no_name_of_an_end():
    binned = Attribute(
        column="image.aspect", values=("0.75", "1.333", "(rare values)"), codes=np.array([0, 1, 2, 1, -1])
    )
    ends = named_ends([binned], [binned])
    assert ends.parts[0].values == ("tall pictures", "wide pictures", "(rare values)")
    assert ends.ranges == {"tall pictures": "picture shape up to 0.75", "wide pictures": "picture shape from 1.333"}


def test_a_border_is_there_or_not_whatever_other_images_have():
    plain = Attribute(column="image.border", values=("0.05", "0.3", "0.94"), codes=np.repeat([0, 1, 2, -1], 30))
    framed = Attribute(column="image.border", values=("0.96", "1", "0.2"), codes=np.repeat([0, 1, 2], 30))
    ends = in_named_bins(plain, [plain, framed])
    names = [np.array([*part.values, "none"])[part.codes].tolist() for part in ends.parts]
    assert set(names[0][:90]) == {"no uniform border"}, "the most uniform third has no border"
    assert set(names[0][90:]) == {"none"}
    assert names[1] == ["a uniform border"] * 60 + ["no uniform border"] * 30
    assert ends.ranges["a uniform border"] == "picture border from 0.95"


def twins(seed, follows):
    """Two classes, one bright and one sharp in nine of ten images: the same images, or drawn apart."""
    rng = np.random.default_rng([seed, 3])
    labels = balanced_labels(N, 2, 1 / 2, rng)
    values = drawn(N, seed)
    share = np.where(labels == 0, 0.8, 0.2)
    having = rng.random(N) < share
    again = having if follows else rng.random(N) < share
    values[having, IMAGE_PROPERTIES.index("brightness")] *= 0.2
    values[again, IMAGE_PROPERTIES.index("sharpness")] *= 0.2
    return replace(noise_world(N, labels, seed, 2), properties=values)


def test_properties_that_part_two_classes_are_one_cue_only_if_they_go_together_inside_classes(tmp_path):
    (one,) = pictured(audited(twins(1, follows=True), tmp_path / "a"))
    assert one.cue.attribute == "image.brightness", "the earlier in the order of causes names it"
    assert {word.text for word in one.cue.words} & {"sharp pictures", "blurred pictures"}
    apart = pictured(audited(twins(1, follows=False), tmp_path / "b"))
    assert {f.cue.attribute for f in apart} == {"image.brightness", "image.sharpness"}


def test_a_property_that_a_column_does_not_bring_about_stays_a_finding_beside_it(tmp_path):
    made = cue_world(1200, 5)
    values = drawn(1200, 5)
    rng = np.random.default_rng(6)
    # the same classes are bright, whatever the place
    bright = rng.random(1200) < np.where(made.labels == 1, 0.8, 0.2)
    values[bright, IMAGE_PROPERTIES.index("brightness")] += 2
    result = audited(replace(made, properties=values), tmp_path / "run", replace(OPTIONS, attributes=("place",)))
    assert {f.cue.attribute for f in result.findings if f.kind == "value"} == {"attributes.place", "image.brightness"}
    # nobody asked for the brightness: it has weights of its own, and those of the declared column stay as they are
    without = audited(made, tmp_path / "without", replace(OPTIONS, attributes=("place",)))
    weights = result.rows["weights"]
    assert weights["weight"].equals(without.rows["weights"]["weight"])
    assert not weights["weight.image.brightness"].equals(weights["weight"])
    assert result.rows["balanced"].equals(without.rows["balanced"])
    assert json.loads(result.rows["balanced"].schema.metadata[b"columns"]) == ["attributes.place"]


def test_png_against_jpeg_of_one_quality_is_a_cue(tmp_path):
    made = world(1)
    quality = made.properties[:, IMAGE_PROPERTIES.index("jpeg_quality")]
    quality[:] = np.where((made.labels == 0) & (np.arange(N) % 10 > 0), np.nan, 90)
    (finding,) = pictured(audited(made, tmp_path / "run"))
    assert (finding.cue.value, finding.class_name) == (NO_JPEG, "class 0")


def test_a_jpeg_of_a_rare_quality_is_a_jpeg():
    raw = Attribute(
        column="image.jpeg_quality", values=("75", "90", "95"), codes=np.repeat([0, 1, 2, -1], [40, 40, 3, 20])
    )
    ends = named_ends(binned_like(raw, [raw]), [raw])
    (part,) = ends.parts
    names = np.array([*part.values, "none"])[part.codes]
    assert set(names[80:83]) == {"none"}
    assert set(names[83:]) == {NO_JPEG}


def test_declared_columns_are_rehearsed_before_image_properties(tmp_path):
    made = cue_world(1200, 5)
    values = drawn(1200, 5)
    rng = np.random.default_rng(6)
    for name in ("brightness", "sharpness", "saturation"):  # each tied more strongly than the place
        changed = rng.random(1200) < np.where(made.labels == 1, 0.98, 0.02)
        values[changed, IMAGE_PROPERTIES.index(name)] += 2
    result = audited(replace(made, properties=values), tmp_path / "run", replace(OPTIONS, attributes=("place",)))
    first, *others = (column.attribute for column in result.rehearsal.columns)
    assert first == "attributes.place"
    assert len(others) == 2


def test_a_property_tied_as_a_whole_is_no_finding_and_keeps_nothing_from_a_pass(tmp_path):
    made = world(1)
    column = made.properties[:, IMAGE_PROPERTIES.index("brightness")]
    some = (made.labels == 0) & (np.random.default_rng(8).random(N) < 0.4)
    column[some] *= 0.2
    result = audited(made, tmp_path / "run")
    (table,) = result.attributes
    assert table.tied
    assert not result.findings
    # of this world's class vectors nothing else is open
    assert result.sentence.endswith("That is not decided: CLIP's answers are no better than guessing.")


def test_a_text_stands_beside_an_image_property_that_goes_with_the_same_images(tmp_path):
    made = cue_world(1200, 5)
    values = drawn(1200, 5)
    water = np.array([place == "water" for place in made.attributes["place"]])
    values[water, IMAGE_PROPERTIES.index("brightness")] += 2
    without = audited(replace(made, attributes={}), tmp_path / "a")
    beside = audited(replace(made, attributes={}, properties=values), tmp_path / "b")
    assert pictured(beside)
    texts = [f.cue.name for f in without.findings if f.kind == "text"]
    assert texts
    assert [f.cue.name for f in beside.findings if f.kind == "text"] == texts
