"""Whether reliance verdicts can be trusted: simulated worlds of known truth.

python benchmarks/reliance_acceptance.py ghosts        columns that no head sees: believed in <= 5 %
python benchmarks/reliance_acceptance.py difficulty    columns that make images hard, and a class-biased model
python benchmarks/reliance_acceptance.py label-noise   3 % wrong labels, columns that go with the true class 90/10
python benchmarks/reliance_acceptance.py sources       columns and errors that share sources, and nothing else
python benchmarks/reliance_acceptance.py followers     columns that follow another, declared, column
python benchmarks/reliance_acceptance.py model-only    columns that say nothing, of which CLIP's answers choose some
python benchmarks/reliance_acceptance.py ability       models at chance and at the ceiling: never acquitted
python benchmarks/reliance_acceptance.py real          cues that the model relies on: confirmed
python benchmarks/reliance_acceptance.py coverage      intervals of gap, DiD, group mean and worst group
python benchmarks/reliance_acceptance.py demo          generated pictures of birds, the demo's model
python benchmarks/reliance_acceptance.py speed         permutations with heads chosen anew, 2,000 x 16 x 10

Heads are axes of the embedding; an image is the sum of what its class, its cue and noise add to each head. --worlds and
--seed choose how many worlds, and which. Each line is one kind of column: how many were believed, with the upper 95 %
limit of their share (Clopper and Pearson).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues.answerers.from_table import TableAnswerer, clip_answerer, table_answerer
from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.measure.answers import answers
from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.cues.reliance.drawn_columns import drawn_columns, sorted_rows
from clipaudit.cues.reliance.gap import measure_gap
from clipaudit.cues.reliance.head_choice import choose_heads
from clipaudit.cues.reliance.head_parts import HeadParts, removal
from clipaudit.cues.reliance.images import (
    CueColumn,
    OtherColumn,
    RelianceOptions,
    ScoredImages,
    cue_cells,
)
from clipaudit.cues.reliance.rules import MeasuredReliance
from clipaudit.cues.reliance.specific_effect import FOLDS
from clipaudit.cues.reliance.suspects import suspected_cue
from clipaudit.cues.statistics.balance import balanced_mean
from clipaudit.heads.texts.prompts import load_templates
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.reader import Run
from clipaudit.run.rows import chosen_rows
from clipaudit.schema import head_label

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
HEADS, DIM = 24, 10
"""24 heads of four layers, as the demo's model has."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What class scores look at."""

    classes: int = 2
    core: float = 1.0
    """Strength of the class's own signal in the images; 0 makes a model at chance."""
    reliance: float = 0.7
    """How much class scores look at the cue."""
    noise: float = 0.9
    bias: float = 0.0
    """Added to class 0's score."""
    core_heads: tuple[int, ...] = (8, 9, 13)
    cue_heads: tuple[int, ...] = (3, 17)


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """n images and their answerer."""

    truth: Ints
    """Labels, which may be wrong."""
    place: Ints
    """(n,) 1 with the cue that heads see."""
    answerer: TableAnswerer


def make_world(
    rng: np.random.Generator,
    model: Model,
    true_class: Ints,
    place: Ints,
    hardness: npt.NDArray[np.float64] | float = 0.0,
    offset: npt.NDArray[np.float64] | float = 0.0,
    labels: Ints | None = None,
) -> World:
    """Images of the true classes with the cue `place` (n,); hardness (n,) 0..1 takes that part of the class's signal;
    offset (n,) shifts one noise head, as a source does."""
    n, K = len(true_class), model.classes
    x = model.noise * rng.standard_normal((n, HEADS, DIM))
    for head in model.core_heads:
        x[np.arange(n), head, true_class % DIM] += model.core * (1 - np.asarray(hardness))
    for head in model.cue_heads:
        x[:, head, 0] += 2 * place - 1
    x[:, 20, 1] += offset
    W = np.zeros((K, HEADS, DIM))
    for head in model.core_heads:
        W[np.arange(K), head, np.arange(K) % DIM] += 1.0
    for head in model.cue_heads:
        W[0, head, 0] += model.reliance
        W[1:, head, 0] -= model.reliance / (K - 1)
    W[0, 20, 1] += 0.5
    # every head says something of every class: removing any changes answers
    W += 0.15 * np.random.default_rng(5).standard_normal(W.shape)
    frames = np.eye(HEADS * DIM).reshape(HEADS, DIM, HEADS * DIM)
    bias = np.zeros(K)
    bias[0] = model.bias
    answerer = table_answerer(
        "clip",
        x.reshape(n, -1).astype(np.float32),
        W.reshape(K, -1).astype(np.float32),
        [head_label(head // 6, head % 6) for head in range(HEADS)],
        [x[:, head].astype(np.float32) for head in range(HEADS)],
        list(frames),
        bias.astype(np.float32),
    )
    return World(truth=true_class if labels is None else labels, place=place, answerer=answerer)


def tied(rng: np.random.Generator, classes: Ints, share: float) -> Ints:
    """(n,) a column that class 0 has in a share of its images, and others lack in the same share."""
    return np.where(rng.random(len(classes)) < share, classes == 0, classes != 0).astype(np.int64)


def column(name: str, having: Ints, classes: int) -> CueColumn:
    """A cue that points to class 0."""
    pointed = np.arange(classes) == 0
    return CueColumn(name=name, having=having, pointed=pointed, tested=np.ones(classes, np.bool_))


def images_of(
    rng: np.random.Generator, world: World, cluster: Ints | None = None, sources: bool = False
) -> ScoredImages:
    """Scored images; halves by cluster."""
    n, classes = len(world.truth), world.answerer.logits.shape[1]
    codes = np.arange(n) if cluster is None else cluster
    half = rng.random(int(codes.max()) + 1) < 0.5
    if sources:  # as many sources on either half
        half = rng.permutation(int(codes.max()) + 1) % 2 == 0
    return ScoredImages(truth=world.truth, classes=classes, cluster=codes, discovery=half[codes], sources=sources)


def verdicts_of(reliance: MeasuredReliance) -> list[str]:
    """What would be said of a cue that is tied to its class."""
    rules = {
        "confirmed": reliance.relies_on_it,
        "fails where": reliance.fails_where,
        "needed": reliance.needed,
        "acquitted": reliance.does_not_hang_on_it,
    }
    return [name for name, holds in rules.items() if holds] or ["nothing"]


def upper_limit(count: int, total: int) -> float:
    """Of a share, one-sided 95 % (Clopper and Pearson)."""
    return float(stats.beta.ppf(0.95, count + 1, total - count)) if count < total else 1.0


class Tally:
    """Columns by kind and verdict."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.totals: Counter[str] = Counter()

    def add(self, kind: str, verdicts: Sequence[str]) -> None:
        """One column."""
        self.totals[kind] += 1
        self.counts.setdefault(kind, Counter()).update(verdicts)
        if {"confirmed", "fails where", "needed"} & set(verdicts):
            self.counts[kind]["BELIEVED"] += 1

    def show(self, counted: str = "BELIEVED") -> None:
        """Print a line a kind."""
        for kind, counts in sorted(self.counts.items()):
            total, count = self.totals[kind], counts[counted]
            print(
                f"{kind}: {counted} {count} of {total}, upper limit {100 * upper_limit(count, total):.1f} %; "
                + ", ".join(f"{name} {number}" for name, number in sorted(counts.items())),
                flush=True,
            )


def random_model(rng: np.random.Generator, **changes: Any) -> Model:
    """A model that is able and makes errors."""
    options: dict[str, Any] = {
        "classes": int(rng.choice([2, 2, 3, 10])),
        "core": float(rng.uniform(0.7, 1.6)),
        "reliance": float(rng.choice([0.0, 0.5, 1.0])),
        "noise": float(rng.uniform(0.6, 1.0)),
    }
    return Model(**{**options, **changes})


def ghosts(worlds: int, seed: int) -> None:
    """Columns drawn from the label alone, in worlds whose model does or does not rely on another cue."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 1, number])
        model = random_model(rng, reliance=0.0 if number % 2 else float(rng.choice([0.5, 1.0])))
        n = int(rng.choice([300, 600, 1200])) * max(model.classes // 2, 1)
        n = min(n, 3000)
        classes = rng.integers(0, model.classes, n)
        world = make_world(rng, model, classes, tied(rng, classes, float(rng.choice([0.5, 0.75, 0.9]))))
        cues = []
        for share in (0.9, 0.75, 0.5):
            cues += [column(f"ghost {share}", tied(rng, classes, share), model.classes) for _ in range(2)]
        report = reliance_of([world.answerer], cues, images_of(rng, world))
        for row in report.findings:
            tally.add(f"{row[0].cue}, {'clean' if model.reliance == 0 else 'confounded'}", verdicts_of(row[0]))
            tally.add("all ghosts", verdicts_of(row[0]))
        assert report.placebo is not None
        tally.add("placebo draws above 5 %", ["BELIEVED"] if report.placebo.rate > 0.05 else ["nothing"])
    tally.show()


def difficulty(worlds: int, seed: int) -> None:
    """Columns that say which images are hard, with a model that prefers class 0 or another."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 2, number])
        model = random_model(rng, reliance=0.0, bias=float(rng.choice([-1.0, -0.5, 0.5, 1.0])))
        n = int(rng.choice([600, 1200])) * (1 if model.classes < 10 else 2)
        classes = rng.integers(0, model.classes, n)
        share = float(rng.choice([0.5, 0.75, 0.9]))
        hard = tied(rng, classes, share)
        if rng.random() < 0.5:  # the cue says `easy`
            world = make_world(rng, model, classes, rng.integers(0, 2, n), hardness=0.7 * (1 - hard))
        else:
            world = make_world(rng, model, classes, rng.integers(0, 2, n), hardness=0.7 * hard)
        report = reliance_of([world.answerer], [column("difficulty", hard, model.classes)], images_of(rng, world))
        tally.add(f"difficulty, {share:.2f}", verdicts_of(report.findings[0][0]))
        tally.add("all difficulty columns", verdicts_of(report.findings[0][0]))
    tally.show()


def label_noise_worlds(worlds: int, seed: int) -> None:
    """3 % of the labels are wrong; columns go with the true class, and no class score looks at them."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 3, number])
        model = random_model(rng, reliance=0.0, core=float(rng.uniform(1.4, 2.0)))
        n = int(rng.choice([600, 1200, 2400]))
        true_class = rng.integers(0, model.classes, n)
        wrong = rng.random(n) < 0.03
        labels = np.where(wrong, (true_class + rng.integers(1, model.classes, n)) % model.classes, true_class)
        place = tied(rng, true_class, 0.9)
        world = make_world(rng, model, true_class, place, labels=labels)
        cues = [
            column("seen by heads", place, model.classes),
            column("ghost", tied(rng, true_class, 0.9), model.classes),
        ]
        report = reliance_of([world.answerer], cues, images_of(rng, world))
        for row in report.findings:
            tally.add(row[0].cue, verdicts_of(row[0]))
    tally.show()


def shared_sources(worlds: int, seed: int) -> None:
    """Sources shift the scores of all their images, and differ in how many have the column; no more (trap 29)."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 9, number])
        model = random_model(rng, classes=2, reliance=0.0, core=float(rng.uniform(0.4, 0.8)))
        for count in (8, 10, 20, 40):
            source = np.arange(800) % count
            classes = rng.integers(0, 2, 800)
            having = (rng.random(800) < rng.uniform(0.1, 0.9, count)[source]).astype(np.int64)
            offset = 4.0 * rng.standard_normal(count)
            world = make_world(rng, model, classes, rng.integers(0, 2, 800), offset=offset[source])
            scored = images_of(rng, world, source, sources=True)
            report = reliance_of([world.answerer], [column("x", having, 2)], scored)
            tally.add(f"{count:2d} sources, told", verdicts_of(report.findings[0][0]))
            report = reliance_of([world.answerer], [column("x", having, 2)], images_of(rng, world))
            tally.add(f"{count:2d} sources, untold (no claim)", verdicts_of(report.findings[0][0]))
    tally.show()


def followers(worlds: int, seed: int) -> None:
    """The model relies on `place`, a declared column; others repeat it with 5 to 30 % of errors."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 4, number])
        model = random_model(rng, reliance=float(rng.uniform(0.7, 1.2)))
        n = int(rng.choice([600, 1200])) * (1 if model.classes < 10 else 2)
        classes = rng.integers(0, model.classes, n)
        share = float(rng.choice([0.5, 0.75, 0.9]))
        place = tied(rng, classes, share)
        world = make_world(rng, model, classes, place)
        cues = [column("place", place, model.classes)]
        for error in (0.05, 0.1, 0.2, 0.3):
            follower = np.where(rng.random(n) < error, 1 - place, place)
            cues.append(column(f"follower {error}", follower, model.classes))
        aligned = np.stack([np.arange(model.classes) != 0, np.arange(model.classes) == 0], axis=1)
        others = [OtherColumn(name=cue.name, codes=cue.having, aligned=aligned, of=(cue.name,)) for cue in cues]
        report = reliance_of([world.answerer], cues, images_of(rng, world), columns=others[:1])
        for row in report.findings:
            verdicts = verdicts_of(row[0])
            if row[0].inseparable_from:  # listed, and not in place's stead
                verdicts = [f"{name}, cannot be separated" for name in verdicts]
            tally.add(row[0].cue, [*verdicts, *(["explained"] if row[0].explained_by else [])])
    tally.show()


def model_only(worlds: int, seed: int) -> None:
    """A hundred columns that go with no class and that no class score looks at: those whose conflicting images happen
    to be answered worse on one half are chosen, as in a report, and scored on the other half, or on all images."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 11, number])
        model = random_model(rng, reliance=0.0, bias=float(rng.choice([0.0, 0.5])))
        n = int(rng.choice([400, 800, 1600])) * (1 if model.classes < 10 else 2)
        classes = rng.integers(0, model.classes, n)
        hard = rng.integers(0, 2, n)
        world = make_world(rng, model, classes, rng.integers(0, 2, n), hardness=float(rng.choice([0.0, 0.6])) * hard)
        images = images_of(rng, world)
        columns = {"difficulty": hard, **{f"coin {number}": rng.integers(0, 2, n) for number in range(100)}}
        everything = np.ones(model.classes, np.bool_)
        found = [suspected_cue(name, images, world.answerer.logits, c, everything) for name, c in columns.items()]
        cues = [cue for _, cue in sorted((part for part in found if part), key=lambda part: -part[0])[:10]]
        for name, tried in (("", cues), (", scored on all images", [replace(cue, scored=None) for cue in cues])):
            report = reliance_of([world.answerer], tried, images)
            verdicts = [verdicts_of(row[0]) for row in report.findings]
            for cue, verdict in zip(tried, verdicts, strict=True):
                tally.add(f"{cue.name.split()[0]}{name}", verdict)
            believed = {"confirmed", "fails where", "needed"} & {part for verdict in verdicts for part in verdict}
            tally.add(f"worlds with any{name}", sorted(believed) or ["nothing"])
    tally.show()


def ability(worlds: int, seed: int) -> None:
    """Models at chance and without errors whose margin hangs on the cue; none may be acquitted."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 5, number])
        classes_count = int(rng.choice([2, 3, 10]))
        n = int(rng.choice([600, 2000])) * (1 if classes_count < 10 else 2)
        classes = rng.integers(0, classes_count, n)
        place = tied(rng, classes, 0.5)
        for kind, model in (
            ("at chance", Model(classes=classes_count, core=0.0, reliance=0.3)),
            ("at chance, biased", Model(classes=classes_count, core=0.05, reliance=0.3, bias=20.0)),
            ("at the ceiling", Model(classes=classes_count, core=6.0, reliance=0.7, noise=0.7)),
            ("few errors", Model(classes=classes_count, core=3.2, reliance=0.5, noise=0.7)),
        ):
            world = make_world(rng, model, classes, place)
            cue = column(kind, place, classes_count)
            options = RelianceOptions(draws=199)
            report = reliance_of([world.answerer], [cue], images_of(rng, world), options=options)
            tally.add(kind, [*verdicts_of(report.findings[0][0]), f"state {report.findings[0][0].gap.state}"])
        model = Model(classes=classes_count, core=1.3, reliance=0.0, noise=0.8)
        world = make_world(rng, model, classes, place)
        report = reliance_of([world.answerer], [column("x", place, classes_count)], images_of(rng, world))
        tally.add("able and innocent (may be acquitted)", verdicts_of(report.findings[0][0]))
    tally.show("acquitted")


def real(worlds: int, seed: int) -> None:
    """Cues that class scores look at, at 50, 75 and 90 % among the scored images; 100 images a class and more."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 6, number])
        model = random_model(rng, reliance=float(rng.uniform(0.6, 1.2)), core=float(rng.uniform(0.9, 1.5)))
        per_class = int(rng.choice([50, 100, 200]))
        classes = np.repeat(np.arange(model.classes), per_class)
        for share in (0.5, 0.75, 0.9):
            world = make_world(rng, model, classes, tied(rng, classes, share))
            cue = column("real", world.place, model.classes)
            report = reliance_of([world.answerer], [cue], images_of(rng, world))
            reliance = report.findings[0][0]
            tested = "testable" if reliance.effect is not None and reliance.effect.testable else "sets too few"
            tally.add(f"{per_class} a class, {share:.2f}", [*verdicts_of(reliance), tested])
    tally.show("confirmed")


# -- coverage ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Population:
    """A large world whose numbers are the truth."""

    world: World
    images: ScoredImages

    def accuracies(self, right: Bools) -> npt.NDArray[np.float64]:
        """(2 C,) of class x (aligned, conflicting)."""
        return cue_cells(self.images, column("x", self.world.place, self.images.classes)).cells.means(right)


def _coverage_row(name: str, hits: dict[str, list[bool]]) -> None:
    parts = [f"{key} {100 * np.mean(values):.1f} % of {len(values)}" for key, values in hits.items() if values]
    print(f"{name}: " + ", ".join(parts), flush=True)


def coverage(seeds: int, seed: int) -> None:
    """How often 95 % intervals hold the truth of a large population, with copies, and with sources that differ."""
    model = Model(classes=2, core=0.9, reliance=0.6, noise=0.9)
    designs: list[tuple[str, int, int, int]] = [
        ("60 images", 60, 1, 0),
        ("120 images", 120, 1, 0),
        ("600 images", 600, 1, 0),
        ("120 images x5", 120, 5, 0),
        ("120 images x20", 120, 20, 0),
        ("8 sources of 60", 480, 1, 8),
        ("10 sources of 60", 600, 1, 10),
        ("40 sources of 20", 800, 1, 40),
    ]
    for name, count, copies, sources in designs:
        hits: dict[str, list[bool]] = {}
        population = _population(model, np.random.default_rng([seed, 70]), 1000 if sources else 0)
        for number in range(seeds):
            rng = np.random.default_rng([seed, 7, number])
            _cover(model, population, rng, (count, copies, sources), hits)
        _coverage_row(name, hits)


def _draw(model: Model, rng: np.random.Generator, n: int, sources: int) -> tuple[World, Ints]:
    """n images with the cue at 75 %; sources differ in the share of the cue, in difficulty and in what they shift."""
    source = np.arange(n) % sources if sources else np.arange(n)
    classes = rng.integers(0, model.classes, n)
    if not sources:
        return make_world(rng, model, classes, tied(rng, classes, 0.75)), source
    share = 0.75 + 0.15 * rng.uniform(-1, 1, sources)
    place = np.where(rng.random(n) < share[source], classes == 0, classes != 0).astype(np.int64)
    hardness, offset = rng.uniform(0, 0.5, sources), 0.8 * rng.standard_normal(sources)
    return make_world(rng, model, classes, place, hardness[source], offset[source]), source


def _population(model: Model, rng: np.random.Generator, sources: int) -> Population:
    world, _ = _draw(model, rng, 60_000, sources)
    n = len(world.truth)
    images = ScoredImages(
        truth=world.truth, classes=model.classes, cluster=np.arange(n), discovery=np.zeros(n, np.bool_)
    )
    return Population(world=world, images=images)


def _cover(
    model: Model,
    population: Population,
    rng: np.random.Generator,
    design: tuple[int, int, int],
    hits: dict[str, list[bool]],
) -> None:
    count, copies, sources = design
    distinct, source = _draw(model, rng, count, sources)
    rows = np.repeat(np.arange(count), copies)
    parts = distinct.answerer.parts.take(rows)
    logits, truth = distinct.answerer.logits[rows], distinct.truth[rows]
    world = World(
        truth=truth, place=distinct.place[rows], answerer=TableAnswerer(name="clip", logits=logits, parts=parts)
    )
    images = images_of(rng, world, source[rows], sources > 0)
    cue = column("x", world.place, model.classes)
    comparison = cue_cells(images, cue)
    if not comparison.both_sides_comparable:
        return
    gap = measure_gap(comparison, logits, RelianceOptions())
    base = population.accuracies(population.world.answerer.logits.argmax(axis=1) == population.world.truth)
    difference = comparison.difference(comparison.shares)
    true = {"gap": difference @ base, "group mean": base.mean()}
    worst = min(gap.cells, key=lambda cell: cell.accuracy.value or 0.0)
    true["worst group"] = base[2 * worst.k + worst.conflicting]
    estimates = {"gap": gap.gap, "group mean": gap.group_mean, "worst group": worst.accuracy}
    fold = images.folds(FOLDS)
    part = removal(logits, parts, truth, np.ones(len(rows), np.bool_), images.weight)
    chosen, after, deep = [], np.zeros(len(rows)), []
    for f in range(FOLDS):
        ordered = sorted_rows(images, fold != f)
        drawn = drawn_columns(images, cue, np.arange(len(rows))[None], ordered)
        mask = choose_heads(drawn, part.take(ordered))[0]
        chosen.append(mask)
        after[fold == f] = part.without(mask)[fold == f]
        deep.append(-difference @ (_population_without(population, distinct, parts, truth, images, mask) - base))
    if not any(mask.any() for mask in chosen):
        hits.setdefault("no heads chosen", []).append(True)
    change = after - part.right
    did = comparison.cells.combine(change, -difference).estimate()
    estimates["DiD"], true["DiD"] = did, float(np.mean(deep))
    for key, estimate in estimates.items():
        inside = estimate.low is not None and estimate.low <= true[key] <= (estimate.high or 0.0)
        hits.setdefault(key, []).append(bool(inside))
    if did.low is not None and did.low > 0:
        hits.setdefault("DiD where shown", []).append(bool(did.low <= true["DiD"] <= (did.high or 0.0)))


def _population_without(
    population: Population,
    sample: World,
    parts: HeadParts,
    truth: Ints,
    images: ScoredImages,
    mask: Bools,
) -> npt.NDArray[np.float64]:
    """(2 C,) the population's accuracies without a mask of heads, put at the sample's means."""
    logits = population.world.answerer.logits.astype(np.float64)
    for head in np.flatnonzero(mask).tolist():
        centre = balanced_mean(parts.logits[head], truth, np.ones(len(truth), np.bool_), images.weight)
        logits = logits - (population.world.answerer.parts.logits[head] - centre)
    return population.accuracies(logits.argmax(axis=1) == population.world.truth)


def demo(worlds: int, seed: int) -> None:
    """`place` of the demo's birds, ghosts beside it, and where and how the bird is drawn, through the demo's model."""
    tally = Tally()
    for number in range(worlds):
        rng = np.random.default_rng([seed, 10, number])
        with tempfile.TemporaryDirectory() as folder:
            answerer, scored, attributes = _birds(Path(folder), seed + number)
        pointed = np.array([False, True])
        both = np.ones(2, np.bool_)
        cues = [CueColumn(name="place", having=attributes["place"], pointed=pointed, tested=both)]
        cues += [
            CueColumn(name=name, having=values, pointed=side, tested=both)
            for name, values in attributes.items()
            if name != "place"
            for side in (pointed, ~pointed)
        ]
        for start in range(0, 70, 10):
            ghosts_here = [
                CueColumn(name="ghost", having=rng.integers(0, 2, len(scored.truth)), pointed=pointed, tested=both)
                for _ in range(10)
            ]
            report = reliance_of([answerer], cues + ghosts_here, scored, options=RelianceOptions(draws=400))
            for row in report.findings[0 if start == 0 else len(cues) :]:
                tally.add(row[0].cue, verdicts_of(row[0]))
            if start == 0:
                effect, gap = report.findings[0][0].effect, report.findings[0][0].gap.gap
                assert effect is not None
                print(
                    f"seed {seed + number}: place gap {gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f}), net DiD "
                    f"{effect.net_did.value:.3f} ({effect.net_did.low:.3f} to {effect.net_did.high:.3f}), control: "
                    f"{effect.control}"
                )
    tally.show()


def _birds(folder: Path, seed: int) -> tuple[TableAnswerer, ScoredImages, dict[str, Ints]]:
    """The test images of the demo's birds: CLIP's scores, and columns of 0 and 1."""
    shards, run_dir = folder / "birds", folder / "run"
    columns = ("place", "position", "art")
    cli = [sys.executable, "-m", "clipaudit"]
    named = ",".join(f"json:{name}" for name in (*columns, "split"))
    job = ["--model", "demo", "--label", "cls", "--engine", "local", "--attributes", named]
    for command in (
        ["demo-data", "birds", str(shards), "--seed", str(seed), "--count", "2000"],
        ["audit", str(shards / "*.tar"), "--out", str(run_dir), *job],
    ):
        subprocess.run([*cli, *command], check=True, capture_output=True)
    run = Run(str(run_dir))
    names = tuple(f"attributes.{name}" for name in columns)
    facts = image_facts(run, chosen_rows(run, ("split=test",)), {0: 0, 1: 1}, names)
    classes = RunTexts(run, "cpu").classes(["landbird", "waterbird"], load_templates("imagenet"))
    stored = answers(facts, run.head_labels, classes)
    answerer = clip_answerer(
        stored.embedding,
        stored.classes,
        stored.heads,
        [stored.values[head] for head in stored.heads],
        [stored.bases[head] for head in stored.heads],
    )
    scored = ScoredImages(
        truth=stored.facts.truth, classes=2, cluster=stored.facts.cluster, discovery=stored.facts.discovery
    )
    having = {}
    for name in columns:
        attribute = stored.facts.attributes[f"attributes.{name}"]
        value = (
            attribute.values.index("water") if name == "place" else int(np.bincount(attribute.codes + 1)[1:].argmax())
        )
        having[name] = np.where(attribute.codes < 0, -1, attribute.codes == value).astype(np.int64)
    return answerer, scored, having


def speed(worlds: int, seed: int) -> None:
    """Wall time of a whole `reliance_of` on 2,000 images x 16 heads x 10 classes, and of its permutations."""
    rng = np.random.default_rng([seed, 8])
    model = Model(classes=10, core=1.2, reliance=0.8)
    classes = rng.integers(0, 10, 2000)
    world = make_world(rng, model, classes, tied(rng, classes, 0.9))
    for count in (1, 5):
        cues = [column(f"cue {i}", tied(rng, classes, 0.9) if i else world.place, 10) for i in range(count)]
        start = time.perf_counter()
        reliance_of([world.answerer], cues, images_of(rng, world))
        print(f"{count} findings: {time.perf_counter() - start:.2f} s for {RelianceOptions().draws_for(count)} draws")


TASKS: dict[str, tuple[Callable[[int, int], None], int]] = {
    "ghosts": (ghosts, 40),
    "difficulty": (difficulty, 200),
    "label-noise": (label_noise_worlds, 200),
    "sources": (shared_sources, 100),
    "followers": (followers, 60),
    "model-only": (model_only, 200),
    "ability": (ability, 60),
    "real": (real, 40),
    "coverage": (coverage, 1000),
    "demo": (demo, 3),
    "speed": (speed, 1),
}


def main() -> None:
    """Run one task, or all."""
    parser = parser_for(__doc__)
    parser.add_argument("task", nargs="?", choices=[*TASKS, "all"])
    parser.add_argument("--worlds", type=int, help="worlds, or seeds of the coverage")
    parser.add_argument("--seed", type=int, default=1000)
    options = parse(parser, task="ghosts", worlds=1)
    if options.task is None:
        parser.error(f"say which task: {', '.join([*TASKS, 'all'])}")
    for name, (task, worlds) in TASKS.items():
        if options.task in (name, "all"):
            start = time.perf_counter()
            print(f"-- {name}, seed {options.seed}", flush=True)
            task(options.worlds or worlds, options.seed)
            print(f"   {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
