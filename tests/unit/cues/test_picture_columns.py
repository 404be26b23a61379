"""Image properties in an audit: tested without being asked for, named plainly, one finding for each parting."""

from dataclasses import replace

import numpy as np
import pytest

from clipaudit.cues.measure.picture_columns import NO_JPEG, named_ends
from clipaudit.cues.options import AuditOptions
from clipaudit.cues.pipeline import audit_cues
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.columns import omnibus_p, sequential_p
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
        assert any(word.text.startswith(f"image.{name} ") for word in finding.cue.words), "which numbers the end holds"


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
    ends = named_ends([binned])
    assert ends.parts[0].values == ("tall pictures", "wide pictures", "(rare values)")
    assert ends.ranges == {"tall pictures": "image.aspect up to 0.75", "wide pictures": "image.aspect from 1.333"}
