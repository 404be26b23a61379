"""Whether a rehearsal can be trusted, and what it costs: worlds of known truth, real pictures, the demo's birds.

python benchmarks/rehearse.py ghosts               columns that no pixel shows: believed in <= 5 %
python benchmarks/rehearse.py planted              a cue at 95/5 that pixels show: confirmed, and the weights help
python benchmarks/rehearse.py collect              "collect N": adding held-back images gets there inside the interval
python benchmarks/rehearse.py pictures RUN COLUMN [SPLIT]   verdicts and arms of a run that is there
python benchmarks/rehearse.py demo                 generated birds, three seeds: CLIP and the probe
python benchmarks/rehearse.py cost                 50,000 x 512 x 10 and 1,000,000 rows: seconds and memory

Worlds are embeddings: a class, a cue and noise, each on directions of its own. --worlds and --seed choose how many, and
which. Shares have Clopper and Pearson's upper 95 % limit.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues import AuditOptions, audit_cues
from clipaudit.cues.answerers.given import GivenAnswerer
from clipaudit.cues.answerers.rehearsed import TRAINING_ROWS
from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.measure.answers import MAX_ROWS
from clipaudit.cues.rehearsal.arms import arm_answers
from clipaudit.cues.rehearsal.cue_in_features import cue_scores
from clipaudit.cues.rehearsal.experiment import column_experiments, draws_for, weights_of
from clipaudit.cues.rehearsal.folds import Fold, cross_folds, split_fold
from clipaudit.cues.rehearsal.learning_curve import WITHIN, learning_curve, to_collect
from clipaudit.cues.rehearsal.rehearsal import Rehearsal, rehearse
from clipaudit.cues.reliance.images import CueColumn, ScoredImages, cue_cells
from clipaudit.cues.reliance.rules import MeasuredReliance
from clipaudit.cues.reliance.training_effect import RetrainedAnswers
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.balance import balanced_subset, group_codes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]
DIMS = 64


@dataclass(frozen=True, kw_only=True)
class Signal:
    """How clearly an embedding shows what it shows, in standard deviations of the noise."""

    core: float = 1.5
    cue: float = 2.5
    noise: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """Training images and scored images."""

    embedding: Floats
    truth: Ints
    place: Ints
    """The cue that pixels show."""
    train: npt.NDArray[np.bool_]
    """(n,) trains; else scored."""


def world_of(
    rng: np.random.Generator, n: int, share: float, signal: Signal, classes: int = 2, scored: int | None = None
) -> World:
    """n training images with the cue as the class in a share of them, and as many scored ones (or `scored`) where both
    are untied."""
    truth = rng.integers(0, classes, n + (n if scored is None else scored))
    train = np.arange(len(truth)) < n
    place = tied(rng, truth, np.where(train, share, 0.5))
    return World(embedding=embedded(rng, truth, place, signal, classes), truth=truth, place=place, train=train)


def embedded(rng: np.random.Generator, truth: Ints, place: Ints, signal: Signal, classes: int = 2) -> Floats:
    """(n, DIMS) a class on `classes` axes, a cue on two others, noise on all with variances that fall."""
    scale = np.linspace(1.5, 0.5, DIMS)
    embedding = signal.noise * scale * rng.standard_normal((len(truth), DIMS))
    embedding[np.arange(len(truth)), 20 + truth] += signal.core
    embedding[:, [5, 6]] += signal.cue * (place[:, None] - 0.5)
    # an orthogonal turn, so that no dimension is special
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((DIMS, DIMS)))[0]
    return np.asarray(embedding @ turn)


def tied(rng: np.random.Generator, truth: Ints, share: Any) -> Ints:  # noqa: ANN401 - a number or an array
    """(n,) 1 for a share of class 0 and for the rest of the others."""
    return np.where(rng.random(len(truth)) < share, truth == 0, truth != 0).astype(np.int64)


def column(name: str, codes: Ints) -> Attribute:
    """A column of two values."""
    return Attribute(column=name, values=("no", "yes"), codes=codes)


def cue_of(name: str, codes: Ints, classes: int) -> CueColumn:
    """It goes with class 0."""
    return CueColumn(name=name, having=codes, pointed=np.arange(classes) == 0, tested=np.ones(classes, np.bool_))


def images_of(rng: np.random.Generator, truth: Ints, classes: int) -> ScoredImages:
    """Every image its own cluster."""
    return ScoredImages(
        truth=truth, classes=classes, cluster=np.arange(len(truth)), discovery=rng.random(len(truth)) < 0.5
    )


def folds_of(world: World, split: bool) -> tuple[Rehearsal, Ints, Ints]:
    """The rehearsal, and the places of the training images and the scored ones."""
    classes = int(world.truth.max()) + 1
    train, scored = np.flatnonzero(world.train), np.flatnonzero(~world.train)
    if not split:
        scored = train
    folds: tuple[Fold, ...] = split_fold(train, scored) if split else cross_folds(train, world.truth[train], scored, 0)
    rehearsal = rehearse(world.embedding[train], world.truth[train], world.embedding[scored], folds, classes)
    return rehearsal, train, scored


def measured(rng: np.random.Generator, world: World, columns: dict[str, Ints], split: bool) -> list[MeasuredReliance]:
    """The rules' answers for each column, the probe alone answering."""
    rehearsal, train, scored = folds_of(world, split)
    images = images_of(rng, world.truth[scored], rehearsal.classes)
    attributes = [column(name, codes[train]) for name, codes in columns.items()]
    experiments = column_experiments(
        rehearsal, world.truth[train], train, attributes, images.truth, draws_for(len(columns)), 0
    )
    cues = [cue_of(name, codes[scored], rehearsal.classes) for name, codes in columns.items()]
    retrained = []
    for attribute, experiment in zip(attributes, experiments, strict=True):
        seen, taught_by = cue_scores(rehearsal, attribute.codes)
        retrained.append(
            RetrainedAnswers(
                before=experiment.before,
                after=experiment.after,
                drawn_before=experiment.drawn_before,
                drawn=experiment.drawn,
                training_rows=experiment.training_rows,
                seen=seen,
                taught_by=taught_by,
            )
        )
    answerer = GivenAnswerer(name="rehearsed", logits=rehearsal.logits, path="", probabilities=None)
    report = reliance_of([answerer], cues, images, retrained={"rehearsed": retrained})
    return [parts[0] for parts in report.findings]


def word_of(reliance: MeasuredReliance) -> str:
    """The verdict that the rules give, the association being above delta."""
    if reliance.relies_on_it:
        return "confirmed"
    return "fails where" if reliance.fails_where else "acquitted" if reliance.does_not_hang_on_it else "open"


def say(name: str, counts: Counter[str], bad: tuple[str, ...]) -> None:
    """One line of a table."""
    total, wrong = sum(counts.values()), sum(counts[word] for word in bad)
    upper = float(stats.beta.ppf(0.95, wrong + 1, total - wrong)) if wrong < total else 1.0
    print(f"{name:60} {wrong:4} of {total:4} (upper {100 * upper:.1f} %)   {dict(counts)}", flush=True)


# -- whether it is believed --------------------------------------------------------------------------------------------


def ghosts(worlds: int, seed: int) -> None:
    """Columns drawn from the label alone, beside a real cue and without one, with and without wrong labels."""
    for split in (True, False):
        for name, share, wrong in (
            ("a real cue beside", 0.9, 0.0),
            ("clean", 0.5, 0.0),
            ("3 % wrong labels", 0.9, 0.03),
        ):
            counts: Counter[str] = Counter()
            for number in range(worlds):
                rng = np.random.default_rng([seed, number, int(split), int(100 * share), int(100 * wrong)])
                world = world_of(rng, 1000, share, Signal())
                where = world.train if split else np.ones(len(world.train), np.bool_)
                columns = {
                    f"ghost {number} {tie}": tied(rng, world.truth, np.where(where, tie, 0.5))
                    for tie in (0.9, 0.75)
                    for number in range(2)
                }
                labels = np.where(rng.random(len(world.truth)) < wrong, 1 - world.truth, world.truth)
                world = World(embedding=world.embedding, truth=labels, place=world.place, train=world.train)
                counts.update(word_of(part) for part in measured(rng, world, columns, split))
            say(f"ghosts, {name}, {'split' if split else 'out of fold'}", counts, ("confirmed", "fails where"))


def planted(worlds: int, seed: int) -> None:
    """A cue at 95/5, and the same untied."""
    for split in (True, False):
        for share in (0.95, 0.5):
            counts: Counter[str] = Counter()
            better = 0
            for number in range(worlds):
                rng = np.random.default_rng([seed, 1000 + number, int(split), int(100 * share)])
                world = world_of(rng, 1000, share, Signal())
                (part,) = measured(rng, world, {"place": world.place}, split)
                counts[word_of(part)] += 1
                effect = part.training
                better += effect is not None and (effect.group_mean_change.low or 0.0) > 0
            bad = ("open", "acquitted", "fails where") if share > 0.5 else ("confirmed", "fails where")
            say(f"cue at {100 * share:.0f} %, {'split' if split else 'out of fold'}; not as it should be", counts, bad)
            print(f"{'':52} weights better than as it is, interval above 0: {better} of {worlds}", flush=True)


# -- what to collect ---------------------------------------------------------------------------------------------------


SET_ON = ((0.95, 2.0, 2.0), (0.9, 2.0, 2.0), (0.9, 2.5, 1.5), (0.85, 2.0, 1.5))
"""Share, core and cue of worlds that the curve was developed on, with other seeds."""
FRESH = ((0.8, 1.8, 1.5), (0.88, 2.2, 1.7), (0.75, 1.5, 2.0))
"""Of worlds that it was not."""


def collect(worlds: int, seed: int, settings: Sequence[tuple[float, float, float]] = (*SET_ON, *FRESH)) -> None:
    """Train with a part of the conflicting images, ask how many more, add held-back ones until it is so."""
    for share, core, cue in settings:
        signal = Signal(core=core, cue=cue)
        told, inside, truths = 0, 0, []
        for number in range(worlds):
            rng = np.random.default_rng([seed, 2000 + number, int(100 * share)])
            world = world_of(rng, 2000, share, signal, scored=8000)
            rehearsal, train, scored = folds_of(world, True)
            images = images_of(rng, world.truth[scored], 2)
            comparison = cue_cells(images, cue_of("place", world.place[scored], 2))
            conflicts = (world.place[train] != (world.truth[train] == 0)).astype(np.int64)
            fit = learning_curve(rehearsal, comparison, conflicts, train, 0)
            answer = None if fit is None else to_collect(fit)
            needed = truly_needed(rng, world, signal, int(conflicts.sum()))
            truths.append(needed)
            if answer is None:
                continue
            told += 1
            inside += answer[1] <= needed <= answer[2]
        spread = np.quantile(truths, [0.1, 0.5, 0.9], method="nearest")
        print(
            f"tied {share:.2f}, core {signal.core}, cue {signal.cue}: told in {told} of {worlds}, inside the interval"
            f" {inside} of {told}; truly needed {spread.tolist()} more of about {2000 * (1 - share):.0f}",
            flush=True,
        )


def truly_needed(rng: np.random.Generator, world: World, signal: Signal, at_hand: int) -> float:
    """Conflicting images to add until the worst group is within 5 points of the group mean, on many scored images."""
    n = 6000
    truth = rng.integers(0, 2, n)
    place = tied(rng, truth, 0.5)
    images = ScoredImages(truth=truth, classes=2, cluster=np.arange(n), discovery=np.zeros(n, np.bool_))
    comparison = cue_cells(images, cue_of("place", place, 2))
    scored = embedded(rng, truth, place, signal)
    held_truth = rng.integers(0, 2, 4 * at_hand)
    held = embedded(rng, held_truth, (held_truth != 0).astype(np.int64), signal)
    train = np.flatnonzero(world.train)
    for extra in (0, *np.unique(np.geomspace(0.05, 4, 14) * at_hand).astype(int).tolist()):
        falls = []
        for _ in range(2):
            chosen = rng.permutation(len(held))[:extra]
            embedding = np.concatenate([world.embedding[train], held[chosen]])
            labels = np.concatenate([world.truth[train], held_truth[chosen]])
            m = len(labels)
            model = rehearse(embedding, labels, scored, split_fold(np.arange(m), m + np.arange(n)), 2)
            right = model.logits.argmax(axis=1) == truth
            used = np.repeat(comparison.comparable, 2)
            means = comparison.cells.means(right)[used]
            falls.append(float(means.mean() - means.min()))
        if np.mean(falls) <= WITHIN:
            return float(extra)
    return float("inf")


# -- runs --------------------------------------------------------------------------------------------------------------


def pictures(run: str, attribute: str, split: str | None, classes: str | None) -> None:
    """Verdicts and arms of a run."""
    result = audit_cues(run, AuditOptions(attributes=(attribute,), split=split, classes=classes))
    print(result.sentence)
    for finding in result.findings:
        for part in finding.reliance:
            print(f"  {finding.cue.name} ({finding.class_name}), {part.answerer}: {part.verdict}; {part.sentence}")
    for lines in result.rehearsal.columns if result.rehearsal else ():
        for arm in lines.arms:
            gain = (
                "" if arm.gain is None else f", gain {arm.gain.value:+.3f} [{arm.gain.low:+.3f}, {arm.gain.high:+.3f}]"
            )
            print(
                f"  {arm.name:30} worst {arm.worst_group.value:.2f} ({arm.worst}), mean {arm.group_mean.value:.2f},"
                f" gap {arm.gap.value:+.2f}{gain}"
            )


def demo(worlds: int, seed: int) -> None:
    """Generated birds of several seeds through a report."""
    for number in range(worlds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            command = [sys.executable, "-m", "clipaudit"]
            made = ["demo-data", "birds", str(place / "birds"), "--count", "2000", "--seed", str(seed + number)]
            subprocess.run([*command, *made], check=True, capture_output=True)
            shards = sorted(map(str, (place / "birds").glob("*.tar")))
            job = ["audit", *shards, "--out", str(place / "run"), "--model", "demo", "--engine", "local"]
            job += ["--label", "cls", "--attributes", "json:place,json:split"]
            subprocess.run([*command, *job], check=True, capture_output=True)
            result = audit_cues(str(place / "run"), AuditOptions(attributes=("place",), split="split"))
            for finding in result.findings:
                if finding.kind == "value":
                    verdicts = {part.answerer: str(part.verdict) for part in finding.reliance}
                    print(f"seed {seed + number}: {finding.cue.value} ({finding.class_name}) {verdicts}", flush=True)
            for arm in result.rehearsal.columns[0].arms if result.rehearsal else ():
                print(
                    f"    {arm.name:30} worst {arm.worst_group.value:.2f}, mean {arm.group_mean.value:.2f}", flush=True
                )


# -- cost --------------------------------------------------------------------------------------------------------------


def cost(rows: int, split: bool) -> None:
    """All arms, the experiment and the curve on rows x 512 x 10; 20,000 are scored. Above 50,000 a sample trains, and
    the embeddings lie on disk."""
    rng = np.random.default_rng(0)
    classes, dims = 10, 512
    total = rows + (MAX_ROWS if split else 0)
    truth = rng.integers(0, classes, total)
    place = tied(rng, truth, 0.9)
    centres = 0.6 * rng.standard_normal((classes, dims)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        embedding = np.memmap(Path(folder) / "embedding", np.float16, "w+", shape=(total, dims))
        spread = np.linspace(2, 0.1, dims, dtype=np.float32)
        for first in range(0, total, 50_000):
            part = slice(first, first + 50_000)
            noise = rng.standard_normal((len(truth[part]), dims), dtype=np.float32) * spread
            embedding[part] = noise + centres[truth[part]] + 0.5 * place[part, None]
        began, used = time.perf_counter(), time.process_time()
        chosen = np.sort(rng.permutation(rows)[:TRAINING_ROWS])
        scored = np.arange(rows, total) if split else chosen[:: max(1, len(chosen) // MAX_ROWS)][:MAX_ROWS]
        folds: tuple[Fold, ...] = split_fold(chosen, scored) if split else cross_folds(chosen, truth[chosen], scored, 0)
        rehearsal = rehearse(embedding[chosen], truth[chosen], embedding[scored], folds, classes)
    lap("as it is", began, used)
    images = images_of(rng, truth[scored], classes)
    labels, codes = truth[chosen], place[chosen]
    attribute = column("place", codes)
    (experiment,) = column_experiments(rehearsal, labels, chosen, [attribute], images.truth, draws_for(1), 0)
    lap("experiment", began, used)
    exported = balanced_subset(group_codes(labels, [attribute]))
    arm_answers(rehearsal, labels, chosen, attribute, experiment, exported, weights_of(labels, attribute), 0)
    lap("arms", began, used)
    comparison = cue_cells(images, cue_of("place", place[scored], classes))
    learning_curve(rehearsal, comparison, (codes != (labels == 0)).astype(np.int64), chosen, 0)
    lap("curve", began, used)


def lap(what: str, began: float, used: float) -> None:
    """Seconds since the beginning, and the highest memory so far."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  {what:12} {time.perf_counter() - began:6.1f} s, {time.process_time() - used:6.1f} s of processors,"
          f" {memory:.2f} GiB", flush=True)  # fmt: skip


def main() -> None:
    """Run what was asked for."""
    parser = parser_for(__doc__)
    parser.add_argument(
        "what", nargs="?", default="ghosts", choices=("ghosts", "planted", "collect", "pictures", "demo", "cost")
    )
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", default=None)
    parser.add_argument("--out-of-fold", action="store_true")
    options = parse(parser, what="planted", worlds=1)
    if options.what == "pictures":
        run, attribute, *split = options.rest
        pictures(run, attribute, split[0] if split else None, options.classes)
    elif options.what == "cost":
        cost(options.rows, not options.out_of_fold)
    else:
        {"ghosts": ghosts, "planted": planted, "collect": collect, "demo": demo}[options.what](
            options.worlds, options.seed
        )


if __name__ == "__main__":
    main()
