"""Whole audits of synthetic runs of known truth: verdicts, bad input, tables, hygiene."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jsonschema
import numpy as np
import pyarrow as pa
import pytest

from clipaudit.cues import AuditOptions, Verdict, audit_cues
from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.cues.result.result import json_schema
from clipaudit.cues.row_tables import heads
from clipaudit.cues.statistics.balance import balanced_subset, balanced_weights
from clipaudit.errors import RunNotFound, UsageError
from clipaudit.run.rows import ALL
from tests.audit_worlds import NAMED, Texts, World, cue_world, noise_world, text_pool, unit, write_world
from tests.make_runs import TIMES, grown

QUICK = {"negative_audits": 4, "positive_trials": 4, "permutations": 199, "random_sets": 200, "templates": "single"}


def audited(world: World, path, *, shards=4, failed=0, **options):
    run = write_world(world, path / "run", shards=shards, failed=failed)
    (path / "classes.txt").write_text("\n".join(world.names) + "\n")
    asked = AuditOptions(**{"classes": str(path / "classes.txt"), **QUICK, **options})
    return audit_cues(run, asked, texts=Texts(world), pool=text_pool())


SPLIT = {"where": ("split=train",), "test_where": ("split=test",)}


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory):
    world = cue_world(4000, 0, test_aligned=0.5)
    return audited(world, tmp_path_factory.mktemp("confirmed"), attributes=("place",), **SPLIT)


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_a_shortcut_in_data_and_model_is_confirmed_for_both_classes(confirmed):
    assert confirmed.verdict is Verdict.CONFIRMED
    (first,) = [finding for finding in confirmed.findings if finding.verdict is Verdict.CONFIRMED]
    assert (first.kind, first.side, first.cue.attribute) == ("value", "both", "attributes.place")
    # one cue is one finding, with a row a class
    assert {(row.class_name, row.has) for row in first.classes} == {
        ("waterbird", first.cue.value == "water"),
        ("landbird", first.cue.value == "land"),
    }
    assert {finding.verdict for finding in confirmed.findings} <= {Verdict.CONFIRMED, Verdict.CANDIDATE}
    effect = first.counterfactual
    assert set(effect.heads) == {"L00H05", "L00H09"}
    assert first.association.d.low > 0.8
    assert effect.p < 0.05
    assert effect.control_sets >= 50
    assert first.cue.words[1].text.removeprefix("no ") == "the cue"
    world = cue_world(4000, 0, test_aligned=0.5)
    cue, water = np.array(world.attributes["place"][:2000]) == first.cue.value, first.cue.value == "water"
    own = world.labels[:2000] == int(water)
    cells = [int(cell.sum()) for cell in (own & cue, own & ~cue, ~own & cue)]
    drawn = "from {:,} images with the cue, {:,} of the same classes without it and {:,} of other classes".format(
        *cells
    )
    assert drawn in first.gallery.drawn
    assert "sample" not in first.gallery.drawn
    having = [row.class_name for row in first.classes if row.has]
    assert (first.groups.worst.class_name in having) != (first.groups.worst.value == first.cue.value)
    dose = [point.gap.value for point in effect.doses]
    assert dose == sorted(dose, reverse=True)
    assert confirmed.trust.valid
    assert confirmed.trust.placebo.rate <= 0.05
    assert all(shift.shifted for shift in confirmed.shift.rows if shift.head is None)


def test_pictures_of_a_finding_are_scored_images_answered_as_often_right_as_its_figures_say(confirmed):
    shown = 0
    for finding in confirmed.findings:
        assert [part for part in finding.reliance if part.examples] in ([], [finding.relying])
        for examples in finding.relying.examples if finding.relying is not None else ():
            (cell,) = (
                cell
                for cell in finding.relying.cells
                if (cell.class_name, cell.conflicting) == (examples.class_name, examples.conflicting)
            )
            has_cue = (cell.class_name in finding.having) != cell.conflicting
            assert {image.class_name for image in examples.images} == {cell.class_name}
            assert {image.value == finding.cue.value for image in examples.images} == {has_cue}
            right = np.mean([image.predicted == image.class_name for image in examples.images])
            assert right == pytest.approx(cell.accuracy.value, abs=1 / len(examples.images))
            shown += len(examples.images)
    assert shown >= 24


@pytest.mark.parametrize("name", ["confirmed", "few"])
def test_what_groups_show_without_the_cue_is_what_the_effect_measured(request, tmp_path, name):
    """Heads chosen on the images that are shown would make all of them look better than the effect is."""
    if name == "few":
        result = audited(cue_world(500, 6, aligned=0.8, spread=1.2), tmp_path, attributes=("place",))
    else:
        result = request.getfixturevalue(name)
    finding = next(finding for finding in result.findings if finding.counterfactual is not None)
    having = {row.class_name for row in finding.classes if row.has}
    sides = {True: [], False: []}
    for group in finding.groups.groups:
        aligned = (group.value == finding.cue.value) == (group.class_name in having)
        sides[aligned].append(group.without.value)
    gap = np.mean(sides[True]) - np.mean(sides[False])
    assert gap == pytest.approx(finding.counterfactual.gap_after.value, abs=1e-9)


def test_a_cue_that_only_the_model_uses(tmp_path):
    """Association none, verdict model shortcut."""
    result = audited(cue_world(3000, 0, aligned=0.5), tmp_path, attributes=("place",))
    (finding,) = [finding for finding in result.findings if finding.kind == "value"]
    assert finding.verdict is Verdict.MODEL_ONLY
    assert finding.association.within_delta
    assert finding.association.strength == "negligible"


def test_a_cue_that_the_model_does_not_use(tmp_path):
    world = cue_world(8000, 0, aligned=0.9, reliance=0.0, core=0.5, spread=2.0)
    result = audited(world, tmp_path, attributes=("place",), rehearse=False)
    (finding,) = [finding for finding in result.findings if finding.kind == "value"]
    assert finding.verdict is Verdict.DATA_ONLY
    assert finding.reliance[0].does_not_hang_on_it
    assert finding.by("rehearsed") is None


def test_a_cue_that_clip_does_not_use_and_a_model_trained_here_would_learn(tmp_path):
    world = cue_world(4000, 0, aligned=0.9, reliance=0.0, core=0.5, spread=2.0)
    result = audited(world, tmp_path, attributes=("place",))
    (finding,) = [finding for finding in result.findings if finding.kind == "value"]
    # the headline is the worst of the answerers' verdicts, and its sentence names who it is
    assert (result.verdict, finding.verdict) == (Verdict.CONFIRMED, Verdict.CONFIRMED)
    assert "a model trained on these images relies on" in finding.sentence
    assert "trained again with group weights" in finding.sentence
    assert finding.by("clip").verdict is Verdict.INCONCLUSIVE
    training = finding.by("rehearsed").training
    assert training.draws == 99
    assert training.net_fall.low > 0
    assert training.highest < training.fall.value
    assert training.visibility.low > 0.55


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("MOST_CLASSES", 1, "2 classes take too long"), ("LEAST_TRAINING", 10_000, "training images, .* are too few")],
)
def test_a_report_says_why_it_rehearses_nothing(tmp_path, monkeypatch, limit, value, reason):
    from clipaudit.cues.answerers import panel

    monkeypatch.setattr(panel, limit, value)
    result = audited(cue_world(600, 2), tmp_path, attributes=("place",))
    assert re.search(reason, result.rehearsal.not_rehearsed)
    assert all(finding.by("rehearsed") is None for finding in result.findings)


def test_what_is_rehearsed_is_what_is_exported(confirmed):
    """The weights and the subset of the arms are those of the files."""
    from clipaudit.cues.rehearsal.experiment import weights_of
    from clipaudit.cues.statistics.attribute import Attribute

    table = confirmed.table("weights")
    assert "weight.place" not in table.column_names, "of one column the weight is its own"
    labels = np.array([confirmed.classes[0].class_name == name for name in table["class"].to_pylist()]).astype(np.int64)
    codes = np.array([value == "water" for value in table["attributes.place"].to_pylist()]).astype(np.int64)
    column = Attribute(column="attributes.place", values=("land", "water"), codes=codes)
    assert np.allclose(table["weight"].to_numpy(), weights_of(labels, column))
    (part,) = confirmed.rehearsal.columns
    subset = next(arm for arm in part.arms if arm.name == "balanced subset")
    assert subset.training_images == confirmed.table("balanced").num_rows


def test_a_column_drawn_from_the_labels_is_not_learned(tmp_path):
    """Trap 11: heads of another cue would mend its conflicting images, weights of its own do not."""
    world = cue_world(3000, 5, aligned=0.9, test_aligned=0.5)
    rng = np.random.default_rng(0)
    train = np.array(world.attributes["split"]) == "train"
    ghost = np.where(rng.random(3000) < np.where(train, 0.9, 0.5), world.labels, 1 - world.labels)
    world = replace(world, attributes={**world.attributes, "ghost": [("no", "yes")[value] for value in ghost]})
    result = audited(world, tmp_path, attributes=("place", "ghost"), **SPLIT)
    by_column = {finding.cue.attribute: finding for finding in result.findings if finding.kind == "value"}
    assert by_column["attributes.place"].by("rehearsed").verdict is Verdict.CONFIRMED
    ghost_part = by_column["attributes.ghost"].by("rehearsed")
    assert ghost_part.verdict is Verdict.INCONCLUSIVE
    assert not ghost_part.training.visibility.low > 0.55
    # of two columns each has weights of its own beside those of both
    assert {"weight", "weight.place", "weight.ghost"} <= set(result.table("weights").column_names)


@pytest.mark.full
def test_core_heads_are_core_with_attributes_and_at_most_candidates_without(tmp_path):
    """What is part of the class is no more than a candidate, with an attribute of another cue, too."""
    world = cue_world(3000, 0, aligned=0.5, reliance=0.5, core=0.5)
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    result = audited(world, tmp_path / "with", attributes=("place",), user_texts=("the core",))
    core = [finding for finding in result.findings if "core" in finding.cue.name]
    assert core
    assert {finding.verdict for finding in core} == {Verdict.CANDIDATE}
    assert all(set(finding.cue.heads) == {"L01H10", "L01H14"} for finding in core)
    result = audited(world, tmp_path / "without", user_texts=("the core",))
    assert {finding.verdict for finding in result.findings} == {Verdict.CANDIDATE}


def test_class_labels_alone_give_candidates_with_their_evidence(tmp_path):
    result = audited(cue_world(3000, 0, reliance=0.5), tmp_path)
    assert {finding.verdict for finding in result.findings} == {Verdict.CANDIDATE}
    first = next(f for f in result.findings if f.cue.name.removeprefix("no ") == "the cue")
    assert first.needs
    assert first.reliance == ()
    assert {item.name for item in first.evidence} >= {"semantic distance", "text axis", "pseudo-attribute"}
    assert next(item for item in first.evidence if item.name == "pseudo-attribute").supports is True
    assert first.cells.corrected
    assert result.data.evidence is Verdict.CANDIDATE


@pytest.mark.parametrize("classes", [2, pytest.param(4, marks=pytest.mark.full)])
def test_noise_gives_no_finding(tmp_path, classes):
    labels = np.random.default_rng(classes).integers(0, classes, 1500)
    result = audited(noise_world(1500, labels, 1, classes), tmp_path, attributes=("place",))
    assert result.findings == ()
    # its class vectors are noise, too
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.trust.valid
    assert "No shortcut cue" in result.sentence
    assert result.sentence.endswith("That is not decided: CLIP's answers are no better than guessing.")


@pytest.mark.full
def test_another_run_is_scored(tmp_path):
    train = cue_world(2500, 0)
    run = write_world(train, tmp_path / "train")
    test = write_world(replace(cue_world(2500, 1, aligned=0.5), classes=train.classes), tmp_path / "test")
    (tmp_path / "classes.txt").write_text("landbird\nwaterbird\n")
    options = AuditOptions(classes=str(tmp_path / "classes.txt"), attributes=("place",), **QUICK)
    result = audit_cues(run, options, test_run=test, texts=Texts(train), pool=text_pool())
    assert result.test_run == test.directory.url
    assert result.findings[0].verdict is Verdict.CONFIRMED
    assert test.directory.url in result.data.counterfactual
    assert len(result.shift.heads) == 10
    assert {row.train.value > 0.5 for row in result.shift.rows if row.head is not None} == {True}, "D is the cue's"


@pytest.mark.full
def test_clusters_are_counted(tmp_path):
    base = cue_world(400, 0, test_aligned=None)
    world = replace(
        base,
        labels=np.repeat(base.labels, 5),
        coordinates=np.repeat(base.coordinates, 5, axis=0),
        attributes={name: [value for value in values for _ in range(5)] for name, values in base.attributes.items()},
        phash=np.repeat(np.random.default_rng(0).integers(-(2**62), 2**62, 400), 5),
    )
    result = audited(world, tmp_path, attributes=("place",))
    assert result.data.clusters <= 400
    assert result.hygiene.duplicate_images >= 1900
    assert result.classes[0].independent < result.classes[0].n / 4
    assert result.hygiene.examples[0][0].key


def test_the_runs_table_of_near_duplicates_is_used(tmp_path, monkeypatch):
    world = cue_world(400, 0)
    run = write_world(world, tmp_path / "run")
    table = pa.table({"cluster": [0, 0, 1, 1, 1], "shard_id": [0, 0, 1, 2, 3], "index": [0, 7, 1, 2, 3]})
    monkeypatch.setattr("clipaudit.retrieval.duplicates.read_clusters", lambda run: table)
    facts = image_facts(run, ALL, {0: 0, 1: 1})
    same = [
        facts.cluster[(facts.shard_id == s) & (facts.index == i)][0]
        for s, i in ((0, 0), (0, 7), (1, 1), (2, 2), (3, 3))
    ]
    assert same[0] == same[1] != same[2] == same[3] == same[4]
    assert len(np.unique(facts.cluster)) == 397
    monkeypatch.setattr("clipaudit.retrieval.duplicates.read_clusters", lambda run: table.slice(0, 0))
    assert len(np.unique(image_facts(run, ALL, {0: 0, 1: 1}).cluster)) == 400


@pytest.mark.full
def test_leaked_duplicates_are_counted(tmp_path):
    world = cue_world(600, 0, test_aligned=0.5)
    hashes = np.random.default_rng(0).integers(-(2**62), 2**62, 600)
    hashes[300:303] = hashes[:3]
    # three more copies of one image are the same leak, and so is one that was saved again: two bits of its hash differ
    hashes[[3, 310, 311]] = hashes[0]
    hashes[312] = hashes[1] ^ 0b11
    moved = world.coordinates.copy()
    moved[312] = moved[1]
    # and a fourth pair that no hash is equal of
    hashes[320], moved[320] = hashes[20] ^ 0b101, moved[20]
    result = audited(replace(world, phash=hashes, coordinates=moved), tmp_path, attributes=("place",), **SPLIT)
    assert result.hygiene.leaked_clusters == 4
    named = {tuple(part.key for part in pair) for pair in result.hygiene.leaked_examples}
    assert ("image/00000020", "image/00000320") in named
    assert all(a < "image/00000300" <= b for a, b in named)
    assert len(named) == 4


def test_images_of_a_named_source_are_no_near_duplicates(tmp_path):
    world = cue_world(400, 0)
    hashes = np.random.default_rng(0).integers(-(2**62), 2**62, 400)
    hashes[200] = hashes[3]
    world = replace(world, phash=hashes, attributes={**world.attributes, "camera": [f"{n % 20}" for n in range(400)]})
    result = audited(world, tmp_path, cluster="camera")
    assert (result.hygiene.duplicate_clusters, result.hygiene.duplicate_images) == (1, 2)
    assert result.data.clusters == 20


# -- the result --------------------------------------------------------------------------------------------------------


def test_json_follows_the_published_schema(confirmed):
    document = confirmed.to_json()
    jsonschema.validate(document, json_schema())
    assert "NaN" not in json.dumps(document, allow_nan=False)


@pytest.mark.full
def test_one_seed_gives_one_json(tmp_path):
    world = cue_world(2000, 3, test_aligned=0.5)
    documents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        documents.append(audited(world, tmp_path / name, attributes=("place",), **SPLIT).to_json())
    for document, name in zip(documents, ("first", "second"), strict=True):
        document.pop("started")
        document.pop("seconds")
        document.pop("state")  # when the run was committed: there are two runs
        text = json.dumps(document, sort_keys=True).replace(str(tmp_path / name), "HERE")
        documents[documents.index(document)] = text
    assert documents[0] == documents[1]


def test_tables_are_tidy(confirmed):
    findings = confirmed.table("findings")
    assert findings.num_rows == len(confirmed.findings)
    assert findings["verdict"].to_pylist()[0] == "confirmed shortcut"
    with_groups = sum(finding.groups is not None for finding in confirmed.findings)
    assert confirmed.table("group_accuracy").num_rows == 4 * (1 + with_groups)
    assert set(confirmed.table("arms")["arm"].to_pylist()) >= {"whole heads", "direction only"}
    assert confirmed.table("reliance")["answerer"].to_pylist() == ["clip", "rehearsed"] * with_groups
    assert confirmed.table("class_rows").num_rows == 2 * len(confirmed.findings)
    assert confirmed.table("classes")["class"].to_pylist() == ["landbird", "waterbird"]
    assert confirmed.table("weights").num_rows == 2000
    with pytest.raises(UsageError, match="there is no table 'nothing'"):
        confirmed.table("nothing")
    assert "<table>" in confirmed._repr_html_()


def test_exports(confirmed):
    rows = confirmed.rows
    weights = rows["weights"]
    by_group = weights.group_by(["class", "attributes.place"]).aggregate([("weight", "sum")])
    assert float(weights.schema.metadata[b"effective_n"]) < 2000
    assert np.ptp(by_group["weight_sum"].to_numpy()) < 1e-6
    balanced = rows["balanced"].num_rows
    assert balanced % 4 == 0
    assert balanced > 0
    collect = rows["collect"].to_pylist()
    having = next(row.class_name for row in confirmed.findings[0].classes if row.has)
    cue, other = confirmed.findings[0].cue.value, {"waterbird": "landbird", "landbird": "waterbird"}[having]
    assert {(row["class"], row["value"]) for row in collect} == {(having, f"not {cue}"), (other, cue)}
    assert all(row["collect"] > 0 for row in collect)
    spurious = rows["spuriosity"].to_pylist()
    first = [row for row in spurious if row["finding"] == confirmed.findings[0].id]
    assert [row["rank"] for row in first] == list(range(1, len(first) + 1))
    assert first[0]["score"] > first[-1]["score"]
    assert set(rows["groups"]["rows"].to_pylist()) == {"association", "counterfactual"}
    assert rows["review"].num_rows > 0
    assert heads(confirmed)["findings"][0]["heads"] == list(confirmed.findings[0].counterfactual.heads)


def test_weights_are_capped():
    groups = np.repeat([0, 1], [9999, 1])
    weights, effective = balanced_weights(groups)
    assert weights.max() == 50
    assert effective < 10_000
    assert len(balanced_subset(groups)) == 2
    assert balanced_weights(np.empty(0, int))[1] == 0.0


# -- bad input ---------------------------------------------------------------------------------------------------------


def small(seed=0, **changes):
    return replace(cue_world(300, seed), **changes)


def test_no_labels(tmp_path):
    run = write_world(small(), tmp_path / "run", label_kind=None)
    with pytest.raises(UsageError, match="has no labels"):
        audit_cues(run, AuditOptions(**QUICK), texts=Texts(small()), pool=text_pool())


def test_one_class(tmp_path):
    world = small(labels=np.zeros(300, int))
    with pytest.raises(UsageError, match=r"compares classes, and the run at .* has one"):
        audited(world, tmp_path)


def test_a_class_with_one_image_is_named_and_not_tested(tmp_path):
    labels = np.zeros(300, int)
    labels[7] = 1
    result = audited(small(labels=labels), tmp_path, attributes=("place",))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "waterbird: 9" in result.sentence
    assert result.findings == ()
    assert [found.tested for found in result.classes] == [False, False]
    jsonschema.validate(result.to_json(), json_schema())


def test_a_small_class_among_others_is_left_out(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, 900)
    labels[labels == 2] = 1
    labels[:4] = 2
    result = audited(noise_world(900, labels, 0, 3), tmp_path)
    assert [found.tested for found in result.classes] == [True, True, False]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "class 2 has fewer than 100 independent images" in result.sentence


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (lambda n: "land", "every image has the value 'land'"),
        pytest.param(lambda n: f"place {n}", "a value of its own", marks=pytest.mark.full),
        pytest.param(lambda n: None, "no image has a value", marks=pytest.mark.full),
    ],
)
def test_an_attribute_that_says_nothing_is_named(tmp_path, values, reason):
    world = small(attributes={"place": [values(n) for n in range(300)]})
    result = audited(world, tmp_path, attributes=("place",))
    assert any(reason in one.reason for one in result.dropped if one.what == "attributes.place")
    assert not any(finding.verdict is Verdict.CONFIRMED for finding in result.findings)


def test_an_attribute_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no column 'weather'"):
        audited(small(), tmp_path, attributes=("weather",))


def test_a_missing_classes_file(tmp_path):
    run = write_world(small(), tmp_path / "run")
    with pytest.raises(UsageError, match=r"nowhere\.txt"):
        audit_cues(run, AuditOptions(classes=str(tmp_path / "nowhere.txt")), texts=Texts(small()), pool=text_pool())


def test_classes_that_do_not_match(tmp_path):
    run = write_world(small(), tmp_path / "run")
    (tmp_path / "classes.txt").write_text("7\tcat\n8\tdog\n")
    with pytest.raises(UsageError, match=r"labels \d, \d have no name"):
        audit_cues(run, AuditOptions(classes=str(tmp_path / "classes.txt")), texts=Texts(small()), pool=text_pool())


def test_rows_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="validation"):
        audited(small(), tmp_path, where=("split=validation",))


def test_failed_shards_are_said_and_no_pass(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, 600)
    result = audited(noise_world(600, labels, 0, 2), tmp_path, failed=2)
    assert result.hygiene.failed_shards == 2
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "2 shards of the run are missing" in result.sentence


def test_no_run(tmp_path):
    with pytest.raises(RunNotFound):
        audit_cues(tmp_path / "nothing")


def test_guessing_is_said(tmp_path):
    world = replace(
        cue_world(800, 0),
        classes=unit(np.random.default_rng(0).normal(size=(2, len(Texts(small()).vectors(["axis 0"])[0])))),
    )
    result = audited(
        replace(world, classes=world.classes[[0, 0]] + 1e-3 * world.classes), tmp_path, attributes=("place",)
    )
    assert result.trust.near_chance == ("no better than guessing" in " ".join(result.trust.limits))
    assert not any(finding.verdict is Verdict.CONFIRMED for finding in result.findings)


def test_options_are_checked():
    with pytest.raises(UsageError, match="random_sets must be at least 200"):
        AuditOptions(random_sets=10)
    with pytest.raises(UsageError, match="minimum effects"):
        AuditOptions(delta_warn=0.5)
    with pytest.raises(UsageError, match="alpha"):
        AuditOptions(alpha=0.0)
    with pytest.raises(UsageError, match="permutations must be 0 or at least 199"):
        AuditOptions(permutations=19)


def test_named_texts_are_in_the_pool():
    assert set(NAMED) <= set(text_pool().texts)


def test_a_run_made_in_three_steps_gives_the_report_of_one_made_at_once(tmp_path):
    world = cue_world(600, 0)
    run = write_world(world, tmp_path / "run", shards=4)
    (tmp_path / "classes.txt").write_text("\n".join(world.names) + "\n")
    options = AuditOptions(**QUICK, classes=str(tmp_path / "classes.txt"), attributes=("place",))

    def document(place):
        result = audit_cues(place, options, texts=Texts(world), pool=text_pool()).to_json()
        return {name: value for name, value in result.items() if name not in ("started", "seconds")}

    whole = document(run)
    steps = document(grown(run.directory, (2, 1, 1)).url)
    assert whole["state"]["generation"] == 0
    assert steps.pop("state") == {"generation": 2, "committed_at": TIMES[2].replace("T10", "T11")}
    whole.pop("state")
    assert steps == whole
    before = document(f"{run.directory.url}@1")
    assert before["state"]["generation"] == 1
    assert before["data"]["rows"] == 450
