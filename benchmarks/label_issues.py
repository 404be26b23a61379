"""Wrong labels beside cleanlab's ranking, on the same out-of-fold answers, and how true the stated rate is.

python benchmarks/label_issues.py            the demo's things and birds, 5, 10 and 20 % planted noise, three seeds each
python benchmarks/label_issues.py --smoke    one small world, to see that it runs

Labels are changed to another class at random; a probe is trained out of fold on the changed labels. Printed
are the average precision of the order of all images, `rate` (the stated false-discovery rate of the list) and `true`
(the part of the listed whose label is right), and cleanlab's average precision by its two rankings
(`get_label_quality_scores`, needs '.[bench]').
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.metrics import average_precision_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.cues.measure.vectors import read_vectors
from clipaudit.cues.mistakes.label_issues import label_issues
from clipaudit.cues.rehearsal.folds import cross_folds
from clipaudit.cues.rehearsal.rehearsal import rehearse
from clipaudit.run.rows import chosen_rows
from tests.make_audits import audited_world

RANKINGS = ("self_confidence", "normalized_margin")


def world(name: str, count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(n, D) embeddings and (n,) classes."""
    with tempfile.TemporaryDirectory() as folder:
        run = audited_world(Path(folder), name, count, seed, attributes=("style",), layers="1")
        labels = sorted(label for label in run.label_counts() if label is not None)
        facts = image_facts(run, chosen_rows(run, ()), {label: k for k, label in enumerate(labels)})
        return read_vectors(run, "embedding", facts.position).astype(np.float32), facts.truth


def measured(embedding: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], noise: float, seed: int) -> list[float]:
    """Ours, the stated and true rates, listed over wrong, and cleanlab's where it is installed."""
    rng = np.random.default_rng([seed, round(1000 * noise)])
    K = int(truth.max()) + 1
    flipped = rng.random(len(truth)) < noise
    labels = np.where(flipped, (truth + rng.integers(1, K, len(truth))) % K, truth)
    alone = np.arange(len(truth))
    folds = cross_folds(alone, labels, alone, seed)
    logits = rehearse(embedding, labels, embedding, folds, K, seed).logits
    issues = label_issues(logits, labels)
    right = float((~flipped[issues.listed]).mean()) if len(issues.listed) else float("nan")
    rate = float("nan") if issues.fdr is None else issues.fdr
    row = [average_precision_score(flipped, -issues.margin), rate, right, len(issues.listed) / max(flipped.sum(), 1)]
    if importlib.util.find_spec("cleanlab") is not None:
        from cleanlab.rank import get_label_quality_scores

        probability = softmax(logits.astype(np.float64), axis=1)
        row += [
            average_precision_score(flipped, -get_label_quality_scores(labels, probability, method=ranking))
            for ranking in RANKINGS
        ]
    return row


def main() -> None:
    """A line a world and noise."""
    parser = parser_for(__doc__)
    parser.add_argument("--count", type=int, default=3000, help="pictures a world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[900, 901, 902])
    parser.add_argument("--worlds", nargs="+", default=["things", "birds", "planted"])
    options = parse(parser, count=300, seeds=[900], worlds=["planted"])
    if importlib.util.find_spec("cleanlab") is None:
        print("cleanlab is not installed: left out (pip install '.[bench]')")
    for name in options.worlds:
        embedding, truth = world(name, options.count, options.seeds[0])
        for noise in (0.05, 0.1, 0.2):
            rows = np.array([measured(embedding, truth, noise, seed) for seed in options.seeds])
            ours, rate, right, listed, *peers = rows.mean(axis=0)
            said = ", ".join(
                f"cleanlab {ranking} {value:.3f} (ours less it at worst {(rows[:, 0] - rows[:, 4 + place]).min():+.3f})"
                for place, (ranking, value) in enumerate(zip(RANKINGS, peers, strict=False))
            )
            print(
                f"{name}, {noise:.0%} wrong: average precision {ours:.3f}; rate {rate:.2f}, true {right:.2f},"
                f" listed / wrong {listed:.2f}; {said}",
                flush=True,
            )


if __name__ == "__main__":
    main()
