"""Acceptance of the audit's statistics by simulation: false findings, power, coverage, irrelevant columns, pictures.

python benchmarks/audit_acceptance.py nulls       random labels and columns, four balances, clusters told and untold
python benchmarks/audit_acceptance.py large-nulls the same on 50,000 images
python benchmarks/audit_acceptance.py planted     one class of ten with D = .5; cues that 2 of 3, 3 of 5, 6 of 10 share
python benchmarks/audit_acceptance.py texts       a text cue of one class at 80, 90, 95 %, 100 images a class, no column
python benchmarks/audit_acceptance.py coverage    D with copies x 1, 5, 20 and sources of 8, 10, 40, when shown, too
python benchmarks/audit_acceptance.py errors      a column that is wrong with a known rate: strength, gap and margin D
python benchmarks/audit_acceptance.py columns     coins, dice and a thousand values beside a cue
python benchmarks/audit_acceptance.py determinism two audits with one seed give one JSON
python benchmarks/audit_acceptance.py pictures TAR NAMES   an audit of shards with the demo model, such as CIFAR-10's

Each prints its replicates, the rate, and its one-sided 95 % limit (Clopper and Pearson). `--replicates N` sets how
many, `--seed S` the first seed; those of the tests are others. Reliance is in benchmarks/reliance_acceptance.py.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues import AuditOptions, AuditResult, audit_cues
from clipaudit.cues.reliance.gap import inside, measure_gap
from clipaudit.cues.reliance.images import CueColumn, RelianceOptions, ScoredImages, cue_cells
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import attribute_screen, omnibus
from clipaudit.cues.statistics.cuts import false_coverage_level, honest, strength_interval, units_of
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.known_error import KnownError, corrected_cells
from clipaudit.cues.statistics.multiplicity import Permuter, largest_cuts
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT, Screen, screen_of
from clipaudit.cues.statistics.strength import binned
from clipaudit.heads.texts.pool import TextPool
from tests.audit_worlds import (
    CUE,
    INSIDE,
    WIDTH,
    Texts,
    World,
    balanced_labels,
    cue_world,
    text_pool,
    unit,
    write_world,
)

DIRECTIONS, ALPHA, DELTA = 60, 0.05, 0.2
OWN = tuple(range(20, 30))
"""Axes of what makes each class in `texts`, of heads that do not see the cue."""


def upper(hits: int, trials: int) -> float:
    """One-sided 95 % upper limit of a rate."""
    return float(stats.beta.ppf(0.95, hits + 1, trials - hits)) if hits < trials else 1.0


def lower(hits: int, trials: int) -> float:
    """One-sided 95 % lower limit of a rate."""
    return float(stats.beta.ppf(0.05, hits, trials - hits + 1)) if hits else 0.0


def say(**figures: Any) -> None:
    """One line of JSON."""
    print(json.dumps(figures), flush=True)


def family(scores: np.ndarray, design: Design, seed: int, permutations: int = 199) -> tuple[Screen, np.ndarray]:
    """The screen of directions (n, M) and whether each passes by max-T and the least effect, as a report decides."""
    codes = [binned(column, 256) for column in scores.T]
    screen = screen_of([honest(column, design, 256) for column in codes])
    ranks = np.stack(codes, axis=1).astype(np.float32)
    units = units_of(ranks - ranks.mean(axis=0), design)
    orders = np.stack([cut.order for cut in screen.cuts])
    largest = largest_cuts(units, orders, design.cut_sizes, design.classes, permutations, seed)
    places = np.searchsorted(design.cut_sizes, [int(cut.upper.sum()) for cut in screen.cuts])
    with_family = replace(screen, family=largest.p(places))
    return with_family, with_family.passed(ALPHA, DELTA)


# -- 1 nulls -----------------------------------------------------------------------------------------------------------


def null_found(n: int, classes: int, first: float, size: int, told: bool, seed: int) -> bool | None:
    """Whether an audit of noise finds anything; None with too few images to test."""
    rng = np.random.default_rng([n, classes, int(100 * first), size, told, seed])
    pieces = n // size
    truth = np.repeat(balanced_labels(pieces, classes, first, rng), size)
    scores = np.repeat(rng.normal(size=(pieces, DIRECTIONS)), size, axis=0)
    scores[:, 1::2] += 0.7 * scores[:, :1]
    if size > 1:
        scores += 0.1 * rng.normal(size=scores.shape)
    group = np.repeat(np.arange(pieces), size) if size > 1 else None
    whole = Design(truth, classes, group)
    counts = whole.independent if told or size == 1 else (whole.rows_of_class / size).astype(np.int64)
    enough = counts >= MIN_INDEPENDENT
    if enough.sum() < 2:
        return None
    rows = np.flatnonzero(enough[truth])
    local = (np.cumsum(enough) - 1)[truth[rows]]
    groups = None if group is None else np.unique(group[rows], return_inverse=True)[1].astype(np.int64)
    # untold, the audit finds the source itself, which only widens errors
    design = Design(local, int(enough.sum()), groups if told else None, None if told else groups)
    if not told and size > 1:
        design = replace(design, discovery=Design(local, design.classes, groups).halves)
    _, passed = family(scores[rows], design, seed)
    values = rng.integers(0, 4, len(rows))
    column = Attribute(column="coin", values=tuple("abcd"), codes=values)
    screen = attribute_screen(column, design)
    tied = False
    if screen is not None:
        dealt = [Permuter(Design(local, design.classes, design.groups)).draw(rng) for _ in range(99)]
        tied = omnibus(screen, np.arange(len(rows)), design, dealt, ALPHA).tied
    return bool(passed.any() or tied)


def nulls(replicates: int, seed: int) -> None:
    _null_cells((500, 5000), (0.5, 0.75, 0.9, 0.98), max(1, replicates // 96), seed)


def large_nulls(replicates: int, seed: int) -> None:
    _null_cells((50_000,), (0.5, 0.9), max(1, replicates // 24), seed)


def _null_cells(sizes: Sequence[int], balances: Sequence[float], each: int, seed: int) -> None:
    cells: Iterator[tuple[int, int, float, int, bool]] = itertools.product(
        sizes, (2, 3, 10, 100), balances, (1, 20), (True, False)
    )
    hits = trials = 0
    for n, classes, first, size, told in cells:
        if size == 1 and not told:
            continue
        results = [null_found(n, classes, first, size, told, seed + number) for number in range(each)]
        known = [result for result in results if result is not None]
        hits, trials = hits + sum(known), trials + len(known)
        say(n=n, classes=classes, first=first, size=size, told=told, tested=len(known), found=sum(known))
    say(item="nulls", replicates=trials, found=hits, rate=hits / max(trials, 1), upper_95=upper(hits, max(trials, 1)))


# -- 2 planted ---------------------------------------------------------------------------------------------------------


def planted(replicates: int, seed: int) -> None:
    shift = np.sqrt(2) * stats.norm.ppf(0.75)
    for classes, having, n in ((10, 1, 2000), (3, 2, 600), (5, 3, 1000), (10, 6, 2000)):
        hits = false = 0
        for number in range(replicates):
            rng = np.random.default_rng([classes, having, seed + number])
            truth = rng.permutation(np.arange(n) % classes)
            scores = rng.normal(size=(n, 200))
            chosen = rng.choice(classes, having, replace=False)
            if having == 1:  # D = .5 on one class
                scores[np.isin(truth, chosen), 0] += shift
            else:  # 95 % of the images of some classes, 5 % of the others
                cue = rng.random(n) < np.where(np.isin(truth, chosen), 0.95, 0.05)
                scores[cue, 0] += 2.5
            screen, passed = family(scores, Design(truth, classes), number)
            right = passed[0] and set(np.flatnonzero(screen.upper[0]).tolist()) == set(chosen.tolist())
            hits, false = hits + bool(right), false + bool(passed[1:].any())
        say(item="planted", classes=classes, having=having, n=n, replicates=replicates, found=hits / replicates,
            lower_95=lower(hits, replicates), false=false / replicates)  # fmt: skip


# -- 6 coverage of D ---------------------------------------------------------------------------------------------------


def coverage(replicates: int, seed: int) -> None:
    shift = np.sqrt(2) * stats.norm.ppf(0.65)  # D = .3 along all directions
    for n, copies in itertools.product((100, 400), (1, 5, 20)):
        covered, shown = [], []
        for number in range(replicates):
            rng = np.random.default_rng([n, copies, 6, seed + number])
            truth = np.repeat([0, 1], n // 2)
            scores = rng.normal(size=(n, 20)) + shift * truth[:, None]
            cluster = np.repeat(np.arange(n), copies)
            design = Design(np.repeat(truth, copies), 2, cluster if copies > 1 else None)
            found = [honest(binned(np.repeat(column, copies), 256), design, 256) for column in scores.T]
            best = found[int(np.argmax([part.cut.low for part in found]))]
            d = best.cut.d if best.cut.upper[1] else -best.cut.d
            low, high = strength_interval(d, best.cut.error, best.quantile)
            covered.append(low <= 0.3 <= high)
            if low > DELTA:  # what passes a gate is shown with the wider interval of S1c
                passed = sum(
                    strength_interval(abs(part.cut.d), part.cut.error, part.quantile)[0] > DELTA for part in found
                )
                level = false_coverage_level(passed, len(found))
                low, high = strength_interval(
                    d, best.cut.error, best.quantile * stats.norm.ppf((1 + level) / 2) / stats.norm.ppf(0.975)
                )
                shown.append(low <= 0.3 <= high)
        say(item="coverage of D, best of 20", n=n, copies=copies, replicates=replicates, covered=np.mean(covered),
            shown=len(shown), covered_when_shown=float(np.mean(shown)) if shown else None)  # fmt: skip
    for sources in (8, 10, 40):
        covered = []
        for number in range(replicates):
            rng = np.random.default_rng([sources, 66, seed + number])
            source = np.repeat(np.arange(sources), 30)
            truth = rng.integers(0, 2, len(source))  # every source has both classes, and a tie of its own
            own = 0.5 + 0.4 * rng.normal(size=sources)
            scores = rng.normal(size=len(source)) + own[source] * truth
            half = np.zeros(len(source), np.bool_)  # all rows read: halves of so few sources say little
            design = Design(truth, 2, None, source, half)
            found = honest(binned(scores, 256), design, 256)
            true = 2 * stats.norm.cdf(0.5 / np.sqrt(2 + 0.4**2)) - 1
            low, high = strength_interval(float(found.d[1]), float(found.error[1]), found.quantile)
            covered.append(low <= true <= high)
        say(item="coverage of D, sources", sources=sources, replicates=replicates, covered=float(np.mean(covered)))


# -- 4 known errors ----------------------------------------------------------------------------------------------------


def errors(replicates: int, seed: int) -> None:
    for rate in (0.1, 0.2):
        covered_d, covered_gap = [], []
        for number in range(replicates):
            rng = np.random.default_rng([int(100 * rate), 4, seed + number])
            truth = rng.integers(0, 2, 1500)
            place = np.where(rng.random(1500) < 0.95, truth, 1 - truth)
            right = rng.random(1500) < np.where(place == truth, 0.95, 0.4)
            said = np.where(rng.random(1500) < rate, 1 - place, place)
            found = corrected_cells(
                said, truth, np.arange(1500), 1, np.array([False, True]), 2,
                KnownError(rate=rng.binomial(200, rate) / 200, images=200), right=right, seed=number,
            )  # fmt: skip
            gap = found.gap
            covered_d.append((found.d.low or -1) <= 0.9 <= (found.d.high or 1))
            if gap is not None:  # none is given where a corrected group may be empty
                covered_gap.append((gap.low or -1) <= 0.55 <= (gap.high or 1))
        say(item="known error", rate=rate, replicates=replicates, covered_d=float(np.mean(covered_d)),
            gaps=len(covered_gap), covered_gap=float(np.mean(covered_gap)))  # fmt: skip
    for rate, tie, d in itertools.product((0.1, 0.2), (0.5, 0.75, 0.9), (0.0, 0.2, 0.6)):
        _margins_of_wrong_columns(replicates, seed, rate, tie, d)


def _margins_of_wrong_columns(replicates: int, seed: int, rate: float, tie: float, d: float) -> None:
    """Margin D of margins that differ by d inside classes, read by a column that is wrong at a known rate: how often it
    is told and covered, and how often it lies inside +-delta, with and without correction."""
    told, covered, acquitted, uncorrected = [], [], 0, 0
    pointed, both = np.array([False, True]), np.ones(2, np.bool_)
    for number in range(replicates):
        rng = np.random.default_rng([int(100 * rate), int(100 * tie), int(100 * d), 44, seed + number])
        truth = rng.integers(0, 2, 1500)
        place = np.where(rng.random(1500) < tie, truth, 1 - truth)
        said = np.where(rng.random(1500) < rate, 1 - place, place)
        # D of two normal scores a shift apart
        margin = 2.0 * truth - 1 + np.sqrt(2) * stats.norm.ppf((1 + d) / 2) * place + rng.standard_normal(1500)
        images = ScoredImages(truth=truth, classes=2, cluster=np.arange(1500), discovery=truth == 0)
        error = KnownError(rate=rng.binomial(200, rate) / 200, images=200)
        cue = CueColumn(name="place", having=said, pointed=pointed, tested=both, error=error)
        logits = np.stack([-margin, margin], axis=1).astype(np.float32) / 2
        gap = measure_gap(cue_cells(images, cue), logits, RelianceOptions(seed=number))
        found = gap.corrected_margin_d
        assert found is not None
        uncorrected += inside(gap.margin_d_90, DELTA)
        acquitted += inside(found, DELTA)
        told.append(found.low is not None and found.high is not None and found.high - found.low < 2)
        if found.value is not None:
            covered.append((found.low or 0.0) <= d <= (found.high or 0.0))
    say(item="margin D, known error", rate=rate, tie=tie, d=d, replicates=replicates, given=len(covered),
        told=sum(told), covered=float(np.mean(covered)), inside_delta=acquitted / replicates,
        inside_delta_uncorrected=uncorrected / replicates)  # fmt: skip


# -- 5 columns that say nothing, 11 determinism ------------------------------------------------------------------------


def audited(world: World, folder: Path, pool: TextPool | None = None, **options: Any) -> AuditResult:
    """An audit of a synthetic world."""
    folder.mkdir(parents=True, exist_ok=True)
    run = write_world(world, folder / "run")
    (folder / "classes.txt").write_text("\n".join(world.names) + "\n")
    asked = AuditOptions(classes=str(folder / "classes.txt"), templates="single", **options)
    return audit_cues(run, asked, texts=Texts(world), pool=pool or text_pool())


def texts(replicates: int, seed: int) -> None:
    for share in (0.8, 0.9, 0.95):
        hits = others = 0
        for number in range(replicates):
            world = text_world(100, (2, 4, 4, 10)[number % 4], share, seed + number)
            with tempfile.TemporaryDirectory() as folder:
                result = audited(
                    world, Path(folder), without_cores(), seed=number, negative_audits=0, positive_trials=0
                )
            candidates = [f for f in result.findings if str(f.verdict) == "candidate"]
            right = [f for f in candidates if f.cue.name == "the cue" and "class 0" in f.class_name.split(", ")]
            hits, others = hits + bool(right), others + (len(candidates) > len(right))
        say(item="text cue", share=share, images_a_class=100, replicates=replicates, candidate=hits / replicates,
            lower_95=lower(hits, replicates), with_others=others)  # fmt: skip


def without_cores() -> TextPool:
    """The pool without texts for what makes a class: those are things, and no candidates."""
    pool = text_pool()
    own = {f"{sign}axis {axis}" for axis in OWN for sign in ("", "no ")}
    texts = tuple(text for text in pool.texts if text not in own)
    return replace(pool, texts=texts, properties=("place",) * len(texts), kinds=("context-like",) * len(texts))


def text_world(images: int, classes: int, share: float, seed: int) -> World:
    """Class 0 shows the cue in a share of its images, the others in 5 %; every class has a core of its own."""
    rng = np.random.default_rng([seed, 26])
    labels = np.repeat(np.arange(classes), images)
    cue = rng.random(len(labels)) < np.where(labels == 0, share, 0.05)
    x = 0.4 * rng.standard_normal((len(labels), WIDTH))
    for axis in [*CUE, INSIDE]:
        x[:, axis] = 2.0 * cue - 1 + 0.7 * rng.standard_normal(len(labels))
    own = np.array(OWN[:classes])
    x[np.arange(len(labels)), own[labels]] += 2.0
    w = 0.05 * rng.standard_normal((classes, WIDTH))
    w[:, 0] += 1.0  # what all names share
    w[np.arange(classes), own] += 1.0
    return World(
        labels=labels,
        coordinates=x.astype(np.float32),
        attributes={"place": ["land"] * len(labels)},
        names=tuple(f"class {k}" for k in range(classes)),
        classes=unit(w),
    )


def columns(replicates: int, seed: int) -> None:
    changed = false = 0
    for number in range(replicates):
        world = cue_world(1500, seed + number, reliance=0.5, test_aligned=0.5)
        rng = np.random.default_rng([5, seed + number])
        extra = {
            "coin": [("a", "b")[n] for n in rng.integers(0, 2, 1500)],
            "die": [str(n) for n in rng.integers(1, 7, 1500)],
            "many": [f"v{n}" for n in rng.integers(0, 1000, 1500)],
        }
        world = replace(world, attributes={**world.attributes, **extra})
        split: dict[str, Any] = {"where": ("split=train",), "test_where": ("split=test",)}
        with tempfile.TemporaryDirectory() as folder:
            plain = audited(world, Path(folder) / "a", attributes=("place",), seed=number, **split)
            more = audited(world, Path(folder) / "b", attributes=("place", *extra), seed=number, **split)
        first = {finding.id: (str(finding.verdict), finding.association.d.value) for finding in plain.findings}
        second = {finding.id: (str(finding.verdict), finding.association.d.value) for finding in more.findings}
        changed += any(second.get(name) != value for name, value in first.items())
        false += any(name not in first for name in second)
    say(item="columns that say nothing", replicates=replicates, changed=changed, false=false,
        upper_95=upper(changed + false, replicates))  # fmt: skip


def determinism(replicates: int, seed: int) -> None:
    same = 0
    for number in range(replicates):
        world = cue_world(1000, seed + number, test_aligned=0.5)
        texts = []
        for name in ("first", "second"):
            with tempfile.TemporaryDirectory() as folder:
                document = audited(world, Path(folder) / "x", attributes=("place",), seed=number).to_json()
                for part in ("started", "seconds", "state"):
                    document.pop(part)
                texts.append(json.dumps(document, sort_keys=True).replace(folder, name).replace(name, "HERE"))
        same += texts[0] == texts[1]
    say(item="determinism", replicates=replicates, same=same)


# -- 1 clean pictures --------------------------------------------------------------------------------------------------


def pictures(shards: Sequence[str], names: str) -> None:
    """An audit of shards with the demo model and class labels alone."""
    from clipaudit import run_job
    from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig

    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        config = JobConfig(
            shards=tuple(shards),
            out=f"{folder}/run",
            model=ModelConfig(name="demo", device="cpu"),
            fields=FieldsConfig(label="cls"),
            execution=ExecutionConfig(engine="local"),
        )
        run_job(config)
        result = audit_cues(config.out, AuditOptions(classes=names))
        say(
            item="pictures",
            seconds=round(time.monotonic() - began, 1),
            verdict=None if result.verdict is None else str(result.verdict),
            findings=[(finding.class_name, finding.cue.name, str(finding.verdict)) for finding in result.findings],
            differences=len(result.differences),
            sentence=result.sentence,
        )


def main() -> None:
    parser = parser_for(__doc__)
    items = {
        "nulls": (nulls, 480),
        "large-nulls": (large_nulls, 24),
        "planted": (planted, 100),
        "coverage": (coverage, 1000),
        "errors": (errors, 300),
        "columns": (columns, 20),
        "determinism": (determinism, 5),
        "texts": (texts, 20),
    }
    parser.add_argument("item", nargs="?", choices=[*items, "pictures"])
    parser.add_argument("files", nargs="*", help="pictures: shards, then the file of class names")
    parser.add_argument("--replicates", type=int)
    parser.add_argument("--seed", type=int, default=10_000)
    asked = parse(parser, item="nulls", replicates=1)
    if asked.item is None:
        parser.error(f"say which item: {', '.join([*items, 'pictures'])}")
    if asked.item == "pictures":
        pictures(asked.files[:-1], asked.files[-1])
        return
    measure, usual = items[asked.item]
    measure(asked.replicates or usual, asked.seed)


if __name__ == "__main__":
    main()
