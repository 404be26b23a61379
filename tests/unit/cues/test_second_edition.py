"""Cuts, honest strengths, sources, columns as a whole, known errors on arrays; bad input through whole audits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from clipaudit.cues import AuditOptions, Verdict, audit_cues
from clipaudit.cues.findings.collecting import to_collect
from clipaudit.cues.measure.declared_columns import column_tests, own_design
from clipaudit.cues.result.column_words import core_word, value_word
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import attribute_screen, names_class, unusable
from clipaudit.cues.statistics.columns import binned_column, binned_like, blank_values, column_kind, multi_class_auc
from clipaudit.cues.statistics.cuts import cut_of, false_coverage_level, honest, strength_interval
from clipaudit.cues.statistics.design import Design, halves_of
from clipaudit.cues.statistics.known_error import KnownError, corrected_cells, parse_attribute
from clipaudit.cues.statistics.sources import SourceCandidate, find_source, intraclass, jackknife, nested
from clipaudit.cues.statistics.strength import binned
from clipaudit.errors import Note, UsageError
from tests.audit_worlds import WIDTH, Texts, World, cue_world, noise_world, text_pool, unit, write_world

QUICK = {"negative_audits": 0, "positive_trials": 0, "permutations": 0, "templates": "single"}


def audited(world: World, path, **options):
    run = write_world(world, path / "run")
    (path / "classes.txt").write_text("\n".join(world.names) + "\n")
    asked = AuditOptions(**{"classes": str(path / "classes.txt"), **QUICK, **options})
    return audit_cues(run, asked, texts=Texts(world), pool=text_pool())


def look_world(seed: int) -> World:
    """Four classes; the first one looks special along sixteen axes, each of which some text of the pool names."""
    rng = np.random.default_rng(seed)
    labels, own = np.repeat(np.arange(4), 150), np.array([20, 24, 26, 28])
    x = 0.4 * rng.standard_normal((600, WIDTH))
    x[np.arange(600), own[labels]] += 2.0
    x[:, 40:56] = 1.5 * (labels == 0)[:, None] + 0.7 * rng.standard_normal((600, 16))
    w = 0.05 * rng.standard_normal((4, WIDTH))
    w[:, 0] += 1.0  # what all names share
    w[np.arange(4), own] += 1.0
    return World(
        labels=labels,
        coordinates=x.astype(np.float32),
        attributes={"place": ["land"] * 600},
        names=tuple(f"class {k}" for k in range(4)),
        classes=unit(w),
    )


def column(values):
    """Texts or None, one an image, as a column."""
    known = sorted({value for value in values if value is not None})
    place = {value: number for number, value in enumerate(known)}
    codes = np.array([-1 if value is None else place[value] for value in values], np.int64)
    return Attribute(column="attributes.c", values=tuple(known), codes=codes)


# -- cuts and honest strengths -----------------------------------------------------------------------------------------


def test_the_swapped_half_is_not_averaged():
    """D of a cut is the confirmation half's alone; the other way round stands beside it."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 800)
    scores = rng.normal(size=800) + 1.2 * (truth < 2)
    design = Design(truth, 4)
    cut = cut_of(binned(scores), design, 1024)
    rows = ~design.halves
    above = cut.upper[truth]
    pairs = [
        (scores[rows & (truth == k)][:, None] > scores[rows & (truth == j)][None]).mean()
        for k in (0, 1)
        for j in (2, 3)
    ]
    assert cut.upper.tolist() == [True, True, False, False]
    assert above.any()
    assert cut.d == pytest.approx(2 * np.mean(pairs) - 1, abs=1e-9)
    assert cut.replication != cut.d
    assert cut.replicated


@pytest.mark.parametrize("copies", [1, 5, 20])
def test_honest_intervals_cover_with_copies(copies):
    """Worlds other than those of the traps: skewed scores, three classes, one of them with D = .4."""
    rng, covered = np.random.default_rng(400 + copies), []
    for _ in range(120):
        truth = np.repeat(np.arange(3), 40)
        scores = rng.exponential(size=120) + 0.6 * (truth == 0)
        cluster = np.repeat(np.arange(120), copies)
        design = Design(np.repeat(truth, copies), 3, cluster)
        found = honest(binned(np.repeat(scores, copies)), design, 1024)
        low, high = strength_interval(found.d[0], found.error[0], found.quantile)
        true = 1 - np.exp(-0.6)  # D of an exponential shifted by .6 against one that is not
        covered.append(low <= true <= high)
    assert np.mean(covered) >= 0.89


def test_intervals_of_what_passed_allow_for_what_was_tried():
    assert false_coverage_level(3, 60) == pytest.approx(0.9975)
    assert false_coverage_level(0, 60) == pytest.approx(1 - 0.05 / 60)
    assert false_coverage_level(60, 60) == 0.95


def test_halves_split_each_class_and_keep_clusters_together():
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(60), 3)
    truth = np.repeat(rng.integers(0, 3, 60), 3)
    half = halves_of(truth, cluster)
    assert all(len(np.unique(half[cluster == c])) == 1 for c in range(60))
    for k in range(3):
        inside = np.unique(cluster[truth == k])
        first = sum(half[cluster == c][0] for c in inside)
        assert abs(2 * first - len(inside)) <= 1


# -- sources -----------------------------------------------------------------------------------------------------------


def sourced(rng, sources, size, spread):
    """Embeddings of sources that share something besides their class."""
    source = np.repeat(np.arange(sources), size)
    truth = rng.integers(0, 2, sources * size)
    common = spread * rng.normal(size=(sources, 30))
    return source, truth, common[source] + rng.normal(size=(sources * size, 30)) + truth[:, None]


def source_of(columns, embedding, cells, cluster, seed=0):
    candidates = [SourceCandidate(name=name, codes=codes, cells=cells) for name, codes in columns.items()]
    return find_source(candidates, lambda rows: embedding[rows], cluster, seed)


def test_many_small_sources_are_found_among_many_images():
    """Ten images of each of 3,000 sources: 5,000 images at random would hold one or two of each, and tell nothing."""
    rng = np.random.default_rng(12)
    source, truth, embedding = sourced(rng, 3000, 10, 0.35)
    found, tried = source_of({"camera": source}, embedding, truth, np.arange(30_000))
    assert found is not None
    assert tried[0].rows == 5000
    assert tried[0].levels == 3000
    assert source_of({"coin": rng.permutation(source)}, embedding, truth, np.arange(30_000))[0] is None


def test_shards_that_differ_as_the_splits_do_are_no_source(tmp_path):
    """Test images are others than training images, and shards are written split by split (as the demo's birds)."""
    world = cue_world(1600, 5, test_aligned=0.5)
    moved = np.random.default_rng(5).standard_normal(world.coordinates.shape[1]) * (np.arange(1600) >= 800)[:, None]
    world = replace(world, coordinates=(world.coordinates + 0.3 * moved).astype(np.float32))
    run = write_world(world, tmp_path / "run", shards=4)
    (tmp_path / "classes.txt").write_text("\n".join(world.names) + "\n")
    asked = AuditOptions(classes=str(tmp_path / "classes.txt"), attributes=("place",), **QUICK)
    result = audit_cues(run, asked, texts=Texts(world), pool=text_pool())
    assert [source.used for source in result.trust.sources] == [False]
    assert result.verdict is not Verdict.INCONCLUSIVE
    assert any("several splits (test, train)" in limit for limit in result.trust.limits)
    # without the column nobody can say that they are splits: four shards that differ decide nothing
    hidden = replace(world, attributes={"place": world.attributes["place"]})
    result = audited(hidden, tmp_path / "hidden", attributes=("place",))
    assert [source.used for source in result.trust.sources] == [True]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "Images of one shard are alike" in result.trust.limits[0]


def test_a_source_is_found_and_widens_errors():
    rng = np.random.default_rng(2)
    source, truth, embedding = sourced(rng, 24, 20, 0.6)
    coin = rng.integers(0, 24, len(truth))
    found, tried = source_of({"coin": coin, "camera": source}, embedding, truth, np.arange(len(truth)))
    assert found is not None
    assert found.name == "camera"
    assert {test.name for test in tried} == {"coin", "camera"}
    scores = np.repeat(rng.normal(size=24), 20) + rng.normal(size=480)
    classes = np.repeat(np.arange(24) % 2, 20)
    alone = honest(binned(scores), Design(classes, 2), 1024)
    wide = honest(binned(scores), Design(classes, 2, None, source), 1024)
    assert wide.cut.error > 1.5 * alone.cut.error
    assert wide.quantile > alone.quantile


def test_no_source_is_found_where_there_is_none():
    hits = 0
    for seed in range(20):
        rng = np.random.default_rng(500 + seed)
        source, truth, embedding = sourced(rng, 20, 15, 0.0)
        found, _ = source_of({"camera": source}, embedding, truth, np.arange(len(truth)), seed)
        hits += found is not None
    assert hits <= 1


def test_copies_are_no_source():
    rng = np.random.default_rng(3)
    embedding = np.repeat(rng.normal(size=(200, 30)), 5, axis=0)
    cluster, shard = np.repeat(np.arange(200), 5), np.repeat(np.arange(20), 50)
    found, _ = source_of({"shard": shard}, embedding, np.repeat(rng.integers(0, 2, 200), 5), cluster)
    assert found is None
    assert intraclass(embedding, cluster) > 0.99


def test_the_jackknife_over_sources_is_students():
    rng = np.random.default_rng(4)
    source = np.repeat(np.arange(10), 30)
    values = np.repeat(rng.normal(size=10), 30)
    error, quantile, count = jackknife(lambda rows: float(values[rows].mean()), source)
    assert count == 10
    assert error == pytest.approx(values[::30].std(ddof=1) / np.sqrt(10))
    assert quantile == pytest.approx(2.262, abs=1e-3)


def test_a_column_nested_in_a_source_is_known():
    source = np.repeat(np.arange(4), 5)
    assert nested(np.arange(20), source)
    assert not nested(np.arange(20) % 5, source)


def omnibus_of(codes, truth, shard, *, cluster=None, source=None):
    """The p-value of a column of codes as a whole."""
    attribute = Attribute(
        column="attributes.c", values=tuple(f"room {n:02d}" for n in range(codes.max() + 1)), codes=codes
    )
    design = Design(truth, 2, cluster, source, halves_of(truth, cluster))
    screen = attribute_screen(attribute, own_design(design, attribute, None))
    rows = np.arange(len(truth))
    raw = {"attributes.c": attribute}
    tests = column_tests((screen,), raw, rows, design, rows, shard, source_name=None, alpha=0.05, seed=0)
    return tests[0].omnibus.p


def test_a_source_is_no_cluster_of_the_test_of_a_column_nested_in_it():
    """Two rooms in each of eight houses; classes differ from house to house, so that rooms go with them."""
    rng = np.random.default_rng(6)
    source = np.repeat(np.arange(8), 60)
    truth = (rng.random(480) < rng.uniform(0.1, 0.9, 8)[source]).astype(np.int64)
    room = 2 * source + rng.integers(0, 2, 480)
    # whole houses that change places take their rooms' class shares with them, and nothing could ever be seen
    assert omnibus_of(room, truth, source, source=source) < 0.01
    elsewhere = np.where(rng.random(480) < 0.1, rng.integers(0, 16, 480), room)
    assert omnibus_of(elsewhere, truth, source, source=source) > 0.05


def test_a_column_that_goes_with_shards_is_not_tied_to_classes_that_do():
    """Labels of near duplicates are dealt inside shards, as those of all other tests are."""
    rng = np.random.default_rng(0)
    shard = np.repeat([0, 1], 200)
    truth = np.repeat((rng.random(200) < np.repeat([0.8, 0.2], 100)).astype(int), 2)
    codes = np.repeat((rng.random(200) < np.repeat([0.9, 0.1], 100)).astype(int), 2)
    assert omnibus_of(codes, truth, shard, cluster=np.repeat(np.arange(200), 2)) > 0.05
    assert omnibus_of(codes, truth, np.zeros(400, np.int64), cluster=np.repeat(np.arange(200), 2)) < 0.01


@pytest.mark.full
def test_a_cue_is_found_where_shards_are_the_source(tmp_path):
    """Twenty shards, each with its own shift of all images: intervals widen, and a strong cue still stands out."""
    world = cue_world(1600, 5)
    rng = np.random.default_rng(5)
    x = world.coordinates + (0.5 * rng.standard_normal((20, world.coordinates.shape[1])))[np.arange(1600) // 80]
    run = write_world(replace(world, coordinates=x.astype(np.float32)), tmp_path / "run", shards=20)
    (tmp_path / "classes.txt").write_text("\n".join(world.names) + "\n")
    asked = AuditOptions(classes=str(tmp_path / "classes.txt"), attributes=("place",), **{**QUICK, "permutations": 199})
    result = audit_cues(run, asked, texts=Texts(world), pool=text_pool())
    assert [source.name for source in result.trust.sources if source.used] == ["shard"]
    assert result.findings[0].association.above_delta


def test_few_sources_decide_nothing(tmp_path):
    world = cue_world(900, 5)
    camera = [f"camera {n}" for n in np.random.default_rng(5).integers(0, 5, 900)]
    world = replace(world, attributes={**world.attributes, "camera": camera})
    result = audited(world, tmp_path, attributes=("place",), cluster="camera")
    assert {finding.verdict for finding in result.findings} <= {Verdict.INCONCLUSIVE}
    assert result.verdict is Verdict.INCONCLUSIVE


# -- columns -----------------------------------------------------------------------------------------------------------


def test_columns_have_kinds():
    assert column_kind(("0.5", "1", "2e3")) == "number"
    assert column_kind(("true", "false")) == "boolean"
    assert column_kind(("low", "mid", "high")) == "ordered"
    assert column_kind(("low", "mid", "elephant")) == "text"
    assert column_kind(('["a", "b"]', "[]")) == "text"


def test_blanks_among_numbers_are_no_values_and_among_words_they_are():
    assert blank_values(["0.5", "nan", "2", "NA", " "]).tolist() == [False, True, False, True, True]
    assert not blank_values(["red", "NA", "2"]).any()
    assert not blank_values(["nan", "NA"]).any()


def test_numbers_are_cut_into_five_bins_with_zero_apart():
    rng = np.random.default_rng(6)
    numbers = np.where(rng.random(1000) < 0.3, 0.0, rng.exponential(size=1000).round(3))
    cut = binned_column(column([f"{x:g}" for x in numbers]))
    assert cut.kind == "number"
    assert len(cut.names) == 5
    assert cut.names[0] == "0"
    assert (numbers[cut.codes == 0] == 0).all()
    order = [numbers[cut.codes == b].max() for b in range(5)]
    assert order == sorted(order)


def test_ordered_words_keep_their_order_and_rare_values_are_pooled():
    cut = binned_column(column(["high"] * 20 + ["low"] * 30 + ["mid"] * 15))
    assert cut.names == ("low", "mid", "high")
    cut = binned_column(column(["a"] * 20 + ["b"] * 20 + [f"r{n}" for n in range(12)]))
    assert cut.names == ("a", "b", "(rare values)")
    assert np.bincount(cut.codes).tolist() == [20, 20, 12]


def test_other_rows_go_into_the_same_bins():
    train = column([f"{n}" for n in range(100)])
    other = column(["-5", "3", "1000", None])
    first, second = binned_like(train, [train, other])
    assert first.values == second.values
    by_value = {value: second.codes[n] for n, value in enumerate(["-5", "3", "1000", None])}
    assert by_value["-5"] == by_value["3"] == 0
    assert by_value["1000"] == 4
    assert by_value[None] == -1


def test_columns_that_name_the_class_and_keys_are_set_apart():
    truth = np.repeat([0, 1, 2], 40)
    assert names_class(column([f"class {k}" for k in truth]), truth)
    assert names_class(column([f"{k} {n % 2}" for n, k in enumerate(truth)]), truth)
    assert not names_class(column([f"{n % 4}" for n in range(120)]), truth)
    assert "a value of its own" in unusable(column([f"file {n}" for n in range(120)]))
    assert "a value of its own" in unusable(column([f"{n}" for n in range(120)]))
    brightness = np.random.default_rng(7).normal(size=120)
    assert unusable(column([f"{x:.6f}" for x in brightness])) is None


def test_the_auc_of_a_number_over_classes_is_half_for_noise_and_one_when_it_tells_all():
    rng = np.random.default_rng(8)
    truth = rng.integers(0, 4, 2000)
    half = np.arange(2000) % 2 == 0
    assert multi_class_auc(rng.normal(size=2000), truth, 4, half) == pytest.approx(0.5, abs=0.03)
    assert multi_class_auc(-1.0 * truth, truth, 4, half) == 1.0


def test_a_known_error_is_corrected():
    """20 % wrong values on a 95 % skewed column: the corrected strength and gap cover the truth."""
    assert parse_attribute("place:error=0.2/150") == ("place", KnownError(rate=0.2, images=150))
    assert parse_attribute("json:place") == ("json:place", None)
    with pytest.raises(UsageError, match=r"between 0 and 0\.45"):
        parse_attribute("place:error=0.9")
    with pytest.raises(UsageError, match=r"error=0\.1/250"):
        parse_attribute("place:error=much")
    covered = []
    for seed in range(40):
        rng = np.random.default_rng(600 + seed)
        truth = rng.integers(0, 2, 1500)
        place = np.where(rng.random(1500) < 0.9, truth, 1 - truth)
        right = rng.random(1500) < np.where(place == truth, 0.9, 0.5)
        said = np.where(rng.random(1500) < 0.2, 1 - place, place)
        measured = rng.binomial(200, 0.2) / 200  # the rate itself comes from 200 images
        found = corrected_cells(
            said, truth, np.arange(1500), 1, np.array([False, True]), 2, KnownError(rate=measured, images=200),
            right=right, seed=seed,
        )  # fmt: skip
        covered.append((found.d.low <= 0.8 <= found.d.high, found.gap.low <= 0.4 <= found.gap.high))
    assert np.mean(covered, axis=0).min() >= 0.85


@pytest.mark.parametrize("sources", [8, 20])
def test_a_corrected_strength_covers_where_sources_differ(sources):
    """Trap 22: as many images, from few sources that differ in how often they have the value."""
    kept = {True: 0, False: 0}
    for seed in range(60):
        rng = np.random.default_rng([70, sources, seed])
        source = np.arange(800) % sources
        truth = (rng.random(800) < 0.5).astype(np.int64)
        # the population's difference of shares is .4: sources move the shares of both classes apart, or together
        share = np.where(truth == 1, 0.7, 0.3) + np.where(truth == 1, 1, -1) * rng.uniform(-0.2, 0.2, sources)[source]
        true = (rng.random(800) < share).astype(np.int64)
        codes = np.where(rng.random(800) < 0.1, 1 - true, true)
        asked = (codes, truth, np.arange(800), 1, np.array([False, True]), 2, KnownError(rate=0.1, images=1000))
        for told in kept:
            d = corrected_cells(*asked, source=source if told else None, seed=seed).d
            kept[told] += bool(d.low <= 0.4 <= d.high)
    assert kept[True] >= 54  # of 60; P(fewer than 54 at 95 %) = 4 %
    assert kept[False] < kept[True]


def test_a_report_corrects_with_the_sources_that_it_found(tmp_path):
    world, rng, camera = cue_world(800, 5, aligned=0.8), np.random.default_rng(5), np.arange(800) % 20
    shifted = world.coordinates + (0.8 * rng.standard_normal((20, world.coordinates.shape[1])))[camera]
    attributes = {**world.attributes, "camera": [f"camera {n:02d}" for n in camera]}
    world = replace(world, coordinates=shifted.astype(np.float32), attributes=attributes)
    result = audited(world, tmp_path, attributes=("place:error=0.1", "camera"))
    assert [source.name for source in result.trust.sources if source.used] == ["attributes.camera"]
    finding = next(finding for finding in result.findings if finding.cue.attribute == "attributes.place")
    # twenty cameras are drawn again, not 400 images
    assert finding.association.corrected.n == 20
    assert finding.reliance[0].corrected_gap.n == 20


def test_a_corrected_gap_weighs_classes_as_the_gap_does():
    """One class of ten has the cue: its side counts as much as that of the nine that lack it (S9)."""
    truth = np.repeat(np.arange(10), 100)
    place = np.tile([0, 1], 500)
    right = np.where(truth == 0, place == 1, True)  # only the class that has the cue relies on it
    pointed = np.arange(10) == 0
    found = corrected_cells(place, truth, np.arange(1000), 1, pointed, 2, KnownError(rate=0.0, images=100), right=right)
    assert found.gap.value == pytest.approx(0.5)


def test_what_to_collect_makes_shares_equal_at_the_least_cost():
    having, lacking = np.array([184, 1057]), np.array([3498, 56])
    plan = to_collect(having, lacking, np.array([False, True]))
    shares = (having + plan.with_cue) / (having + plan.with_cue + lacking + plan.without_cue)
    assert np.ptp(shares) < 0.01
    assert plan.total <= 4315  # both filled up to half
    assert to_collect(np.array([50, 50]), np.array([50, 50]), np.array([False, True])).total == 0


# -- whole audits: columns that say nothing, and bad input -------------------------------------------------------------


@pytest.mark.full
def test_a_column_that_says_nothing_changes_nothing(tmp_path):
    """Coins, dice and a thousand values beside a text's candidate: it stays, with the same numbers."""
    world = cue_world(1500, 9, reliance=0.5)
    rng = np.random.default_rng(9)
    extra = {
        "coin": [("a", "b")[n] for n in rng.integers(0, 2, 1500)],
        "die": [str(n) for n in rng.integers(1, 7, 1500)],
        "many": [f"v{n}" for n in rng.integers(0, 1000, 1500)],
    }
    world = replace(world, attributes={**world.attributes, **extra})
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    without = audited(world, tmp_path / "without")
    others = audited(world, tmp_path / "with", attributes=tuple(extra))
    first = {finding.cue.name: finding for finding in without.findings}
    second = {finding.cue.name: finding for finding in others.findings}
    assert first
    assert set(first) == set(second)
    for name, finding in first.items():
        assert second[name].verdict is finding.verdict
        assert second[name].association.d.value == finding.association.d.value


def bad_columns(rng, labels):
    n = len(labels)
    return {
        "one value": ["land"] * n,
        "a value a row": [f"row {i}" for i in range(n)],
        "mostly missing": [None if rng.random() < 0.6 else ("a", "b")[int(rng.integers(2))] for _ in range(n)],
        "many numbers": [f"{x:.4f}" for x in rng.normal(size=n)],
        "numbers and blanks": [*(f"{x:.4f}" for x in rng.normal(size=n - 4)), "nan", "NA", "", "inf"],
        "ordered": [("low", "mid", "high")[int(rng.integers(3))] for _ in range(n)],
        "booleans": [("true", "false")[int(rng.integers(2))] for _ in range(n)],
        "lists": [('["a"]', '["a", "b"]', "[]")[int(rng.integers(3))] for _ in range(n)],
        "the class": [f"name of {k}" for k in labels],
    }


def test_bad_columns_are_a_sentence_or_a_statistic_and_never_a_pass(tmp_path):
    rng = np.random.default_rng(10)
    labels = np.concatenate([np.full(12, 2), rng.integers(0, 2, 588)])
    world = noise_world(600, labels, 10, 3)
    columns = {name.replace(" ", "_"): values for name, values in bad_columns(rng, labels).items()}
    columns["copy"] = columns["ordered"]
    world = replace(world, attributes=columns)
    result = audited(world, tmp_path, attributes=tuple(columns))
    dropped = {one.what.rpartition(".")[2]: one.reason for one in result.dropped if one.head is None}
    tested = {table.attribute.rpartition(".")[2]: table.kind for table in result.attributes}
    assert set(dropped) | set(tested) == set(columns)
    assert {"one_value", "a_value_a_row", "the_class"} <= set(dropped)
    assert "names the class" in dropped["the_class"]
    assert tested["many_numbers"] == tested["numbers_and_blanks"] == "number"
    (blanks,) = [table for table in result.attributes if table.attribute.endswith("numbers_and_blanks")]
    assert blanks.cells.missing == 4
    assert tested["ordered"] == "ordered"
    assert tested["booleans"] == "boolean"
    assert not any(finding.verdict in (Verdict.CONFIRMED, Verdict.FAILS_WHERE) for finding in result.findings)
    assert result.verdict is not None, "a class of 12 images is no pass"


def test_classes_that_share_a_name_are_two(tmp_path):
    """ImageNet has two missiles. No prompt tells them apart, but labels do, and so does the report."""
    world = replace(cue_world(600, 4), names=("missile", "missile"))
    with pytest.warns(Note, match="labels 0 and 1 have the same name, 'missile'"):
        result = audited(world, tmp_path, attributes=("place",))
    assert [facts.class_name for facts in result.classes] == ["missile (0)", "missile (1)"]
    finding = next(finding for finding in result.findings if finding.cue.attribute == "attributes.place")
    assert {row.class_name: row.has for row in finding.classes} == {"missile (0)": True, "missile (1)": False}
    assert "missile (0) goes with 'land'" in finding.sentence
    assert {group.class_name for group in finding.groups.groups} == {"missile (0)", "missile (1)"}
    assert result.trust.near_chance


def test_the_images_that_are_asked_for_are_those_that_are_missing(tmp_path):
    """Where no scored image goes against the cue, none of either class can be compared: more of the others help not."""
    world = cue_world(1200, 4, test_aligned=1.0)
    result = audited(world, tmp_path, attributes=("place",), split="split")
    finding = next(finding for finding in result.findings if finding.cue.attribute == "attributes.place")
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert [(need.what, need.images) for need in finding.needs[:2]] == [
        ("landbird without land among the scored images", 100),
        ("waterbird with land among the scored images", 100),
    ]
    assert not any(need.images and "landbird with land" in need.what for need in finding.needs)


def test_a_value_that_says_nothing_alone_is_said_with_its_column(tmp_path):
    """`landbird goes with 'false'` says nothing; and of two values either names the cue that is part of the class."""
    world = cue_world(600, 4)
    wet = ["true" if place == "water" else "false" for place in world.attributes["place"]]
    result = audited(replace(world, attributes={"wet": wet}), tmp_path, attributes=("wet",), core=("wet=true",))
    finding = next(finding for finding in result.findings if finding.cue.attribute == "attributes.wet")
    assert finding.cue.value == "false"
    assert finding.sentence.startswith("landbird goes with 'wet false'")
    assert "wet false" in finding.action
    assert finding.core


@pytest.mark.parametrize(("column", "value", "word", "core"), [
    ("attributes.place", "water", "water", "water"),
    ("attributes.hat", "yes", "hat yes", "hat=yes"),
    ("attributes.light", "-0.5 to 2e+06", "light -0.5 to 2e+06", "light=-0.5 to 2e+06"),
    ("attributes.year", "1999", "year 1999", "year=1999"),
    ("attributes.place", "", "place (empty)", "place="),
    ("labels.no", "no", "no", "no"),
    ("image.brightness", "dark pictures", "dark pictures", "dark pictures"),
    (None, "x", "x", "x"),
])  # fmt: skip
def test_values_in_words(column, value, word, core):
    assert value_word(column, value) == word
    assert column is None or core_word(column, value) == core


@pytest.mark.parametrize("columns", [(), ("place",)])
def test_images_that_a_model_does_not_tell_apart_are_a_report_and_no_pass(tmp_path, columns):
    """No head varies, so that there is no direction: the columns alone are tested."""
    world = cue_world(400, 12)
    world = replace(world, coordinates=np.zeros_like(world.coordinates))
    result = audited(world, tmp_path, attributes=columns)
    assert result.trust.directions == 0
    assert result.trust.tests == 2 * len(columns)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.trust.near_chance
    assert columns or "so that no text was tested" in result.sentence


def test_a_column_that_could_not_be_tested_is_no_pass_in_the_result_either(tmp_path):
    """`verdict` is null for a pass alone: it says what the gate says."""
    world = noise_world(600, np.arange(600) % 2, 13, 2)
    world = replace(world, attributes={"place": ["land"] * 600})
    result = audited(world, tmp_path, attributes=("place",))
    assert result.findings == ()
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "That is not decided: CLIP's answers are no better than guessing; the column place" in result.sentence
    assert "the column place could not be tested (every image has the value 'land')" in result.sentence


@pytest.mark.parametrize("again", ["place", "attributes.place", "place:error=0.1"])
def test_a_column_given_twice_is_refused(tmp_path, again):
    """One of the two would count, in silence: with the known error, or without."""
    with pytest.raises(UsageError, match=rf"^--attribute place and --attribute {again} are the same column: give it"):
        audited(cue_world(200, 5), tmp_path, attributes=("place", again))


def test_a_tied_column_without_a_value_is_a_finding(tmp_path):
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 4, 2400)
    world = noise_world(2400, labels, 11, 4)
    values = np.where(labels == 0, rng.integers(0, 9, 2400), rng.integers(0, 18, 2400))
    world = replace(world, attributes={"studio": [f"s{value:02d}" for value in values]})
    result = audited(world, tmp_path, attributes=("studio",))
    (finding,) = [finding for finding in result.findings if finding.kind == "column"]
    assert finding.verdict is Verdict.TIED
    assert finding.association.d.low > 0.2
    assert result.attributes[0].tied


def test_scores_of_two_normals_have_the_strength_that_is_planted():
    shift = np.sqrt(2) * norm.ppf(0.75)
    rng = np.random.default_rng(12)
    truth = np.repeat([0, 1], 4000)
    found = honest(binned(rng.normal(size=8000) + shift * truth), Design(truth, 2), 1024)
    assert found.d[1] == pytest.approx(0.5, abs=0.05)


def test_what_a_class_looks_like_is_no_candidate(tmp_path):
    """A cactus is green, as a meadow is: images of one class do not differ by that as those with a meadow would."""
    result = audited(look_world(1), tmp_path)
    assert [finding.cue.name for finding in result.findings if finding.kind == "text"] == []
    assert any(row.having == ("class 0",) for row in result.differences), "it is listed among the differences"
