"""Detections and false alarms on the same head scores: this audit, cleanlab's spurious-correlation check, and PPS.

python benchmarks/audit_peers.py              synthetic scores: one cue of D = 0.5 among noise, at three balances
python benchmarks/audit_peers.py --run RUN    scores of a run's heads, labels drawn by lot: every alarm is false
python benchmarks/audit_peers.py --smoke      one repeat

Needs the extra `bench`. What each peer is given, and when it is taken to speak:

* cleanlab (Datalab, `spurious_correlations`). Datalab computes the check on properties of images only (darkness, blur
  and the like) and offers no public way to hand it other scores, so its own class `SpuriousCorrelations` is given a
  table with one column a head score, as Datalab gives it one column an image property. A score below Datalab's default
  threshold of 0.3 is its report of a correlation. Its column scores lie in 0..1 in Datalab; they are scaled to that.
* PPS, the predictive power score, as its authors define it (decision tree, 4-fold cross-validation, weighted F1,
  normalised by the better of always the commonest class and drawing by shares), written out here. It has no threshold;
  0.2 is counted, and any value above 0.
* This audit: flagged as S1 to S4 say (Benjamini-Hochberg at 5 % over all scores, lower limit of |D| above 0.2).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from sklearn.metrics import f1_score
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.strength import binned
from clipaudit.run.reader import Run
from tests.audit_arrays import screen_codes

BALANCES = (0.5, 0.75, 0.95)
ROWS, SCORES, STRENGTH = 1000, 20, 0.5
Flags = npt.NDArray[np.bool_]
Data = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def ours(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> Flags:
    """(M,) flagged for any class."""
    found = screen_codes((binned(column) for column in scores.T), Design(labels, int(labels.max()) + 1))
    return np.asarray(found.flagged(0.05, 0.2).any(axis=1))


def cleanlab(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> Flags:
    """(M,) below Datalab's threshold."""
    import pandas as pd
    from cleanlab.datalab.internal.adapter.constants import SPURIOUS_CORRELATION_ISSUE
    from cleanlab.datalab.internal.spurious_correlation import SpuriousCorrelations

    low, high = scores.min(axis=0), scores.max(axis=0)
    table = pd.DataFrame((scores - low) / (high - low), columns=[f"head {m}" for m in range(scores.shape[1])])
    found = SpuriousCorrelations(table, labels).calculate_correlations()
    threshold = SPURIOUS_CORRELATION_ISSUE["spurious_correlations"]["threshold"]
    return np.asarray(found["score"].to_numpy() < threshold)


def power(score: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """PPS of one score, 0..1."""
    tree = DecisionTreeClassifier(random_state=0)
    model = float(cross_val_score(tree, score[:, None], labels, cv=4, scoring="f1_weighted").mean())
    commonest = np.full(len(labels), np.bincount(labels).argmax())
    drawn = np.random.default_rng(0).permutation(labels)
    naive = max(f1_score(labels, guess, average="weighted", zero_division=0.0) for guess in (commonest, drawn))
    return max(0.0, (model - naive) / (1 - naive))


def powers(least: float) -> Callable[[npt.NDArray[np.float64], npt.NDArray[np.int64]], Flags]:
    """Flags of scores whose PPS is above a limit."""
    return lambda scores, labels: np.array([power(column, labels) > least for column in scores.T])


METHODS = {
    "this audit": ours,
    "cleanlab (score < 0.3)": cleanlab,
    "PPS > 0.2": powers(0.2),
    "PPS > 0": powers(0.0),
}


def synthetic(share: float, seed: int, planted: bool) -> Data:
    """Normal scores; with `planted`, the first differs between the classes by D = 0.5."""
    rng = np.random.default_rng([seed, int(100 * share)])
    labels = rng.permutation((np.arange(ROWS) >= share * ROWS).astype(np.int64))
    scores = rng.standard_normal((ROWS, SCORES))
    if planted:
        scores[:, 0] += np.sqrt(2) * norm.ppf((1 + STRENGTH) / 2) * labels
    return scores, labels


def of_run(url: str) -> Iterator[npt.NDArray[np.float64]]:
    """(n, SCORES) scores: random directions of the run's heads, for one repeat after another."""
    run, rng = Run(url), np.random.default_rng(0)
    while True:
        columns = []
        for place in rng.integers(0, len(run.head_labels), SCORES).tolist():
            values = run.heads(run.head_labels[place], columns=(), dtype=np.float32).values.astype(np.float64)
            u = rng.standard_normal(values.shape[1])
            columns.append((values - values.mean(axis=0)) @ (u / np.linalg.norm(u)))
        yield np.stack(columns, axis=1)


def by_lot(share: float, seed: int, scores: npt.NDArray[np.float64]) -> Data:
    """ROWS of the scores with labels that have nothing to do with them."""
    rng = np.random.default_rng([seed, int(100 * share), 1])
    rows = rng.permutation(len(scores))[:ROWS]
    return scores[rows], rng.permutation((np.arange(len(rows)) >= share * len(rows)).astype(np.int64))


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--run")
    parser.add_argument("--repeats", type=int, default=30)
    asked = parse(parser, repeats=1)
    repeats, methods = asked.repeats, dict(METHODS)
    if asked.smoke and importlib.util.find_spec("cleanlab") is None:
        print("cleanlab is not installed: left out (pip install '.[bench]')")
        del methods["cleanlab (score < 0.3)"]
    print(
        f"{ROWS} images, {SCORES} scores, {repeats} repeats; share of the cue found | share of noise scores flagged |"
    )
    print("share of repeats without any cue in which something is flagged")
    for share in BALANCES:
        sources = of_run(asked.run) if asked.run else None
        planted = [synthetic(share, seed, True) for seed in range(0 if sources else repeats)]
        noise = [
            by_lot(share, seed, next(sources)) if sources else synthetic(share, 1000 + seed, False)
            for seed in range(repeats)
        ]
        for name, method in methods.items():
            hits = [method(*data) for data in planted]
            clean = np.array([method(*data) for data in noise])
            found = f"{np.mean([flags[0] for flags in hits]):7.2f}" if hits else "      -"
            wrong = clean if not hits else np.concatenate([[flags[1:].mean() for flags in hits], clean.mean(axis=1)])
            any_ = clean.any(axis=1).mean()
            print(f"{share:.0%}/{1 - share:.0%}  {name:24s} {found} {np.mean(wrong):7.3f} {any_:7.2f}", flush=True)


if __name__ == "__main__":
    main()
