"""Seconds of the class predictability of 48 heads (S5), one thread against the threads of the linear algebra.

python benchmarks/predictability.py            48 heads x 2,000 images of 64 numbers, 2, 10 and 20 classes; minutes
python benchmarks/predictability.py --smoke    two heads, to see that it runs

A is the audit's own: `skill` with the linear algebra held to one thread. B is the same without that limit. They
alternate; seconds are of the wall, so that waiting for threads counts. The last column is the largest difference of a
skill from that of a minimum found to 1e-7.

Before, the regression was an L-BFGS of our own with at most 40 iterations. In CPU seconds on one thread, alternating
(48 heads), scikit-learn takes 1.4, 2.0 and 2.3 times as long with 2, 10 and 20 classes. The old code ran on all
threads: on two shared cores A takes a tenth of its time. On the demo's birds (16 heads) old skills were up to 0.003 off
the minimum's, where it had stopped early; A's are within 0.00013.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.arrays import Float64s, Ints
from clipaudit.cues.statistics import predictability
from clipaudit.cues.statistics.predictability import MAX_ROWS, one_thread_each, skill

HEADS, DIM, CLASSES = 48, 64, (2, 10, 20)


def head_values(classes: int, head: int, heads: int) -> tuple[Float64s, Ints]:
    """(2000, 64) correlated coordinates whose class means lie further apart from head to head, and (2000,) classes."""
    rng = np.random.default_rng([classes, head])
    truth = rng.integers(0, classes, MAX_ROWS)
    means = (0.05 + (head / heads) ** 2) * rng.normal(size=(classes, DIM))
    mixing = np.eye(DIM) + 0.3 * rng.normal(size=(DIM, DIM))
    return rng.normal(size=(MAX_ROWS, DIM)) @ mixing + means[truth], truth


@contextmanager
def exact() -> Iterator[None]:
    """`skill` of a minimum found to 1e-7."""
    with mock.patch.object(predictability, "_TOLERANCE", 1e-7):
        yield


def timed(values: Float64s, truth: Ints, classes: int, way: AbstractContextManager[None]) -> tuple[float, float]:
    """Seconds, and the skill."""
    with way:
        began = time.perf_counter()
        value = skill(values, truth, classes, np.arange(len(truth))).value
        return time.perf_counter() - began, value or 0.0


def main() -> None:
    """Print the table."""
    parser = parser_for(__doc__)
    parser.add_argument("--heads", type=int, default=HEADS)
    heads = parse(parser, heads=2).heads
    print(f"{'classes':>7} {'A, 1 thread':>12} {'B, all threads':>15} {'A / B':>6} {'off the minimum':>16}")
    for classes in CLASSES:
        one_thread, threads, off = 0.0, 0.0, 0.0
        for head in range(heads):
            values, truth = head_values(classes, head, heads)
            seconds, value = timed(values, truth, classes, one_thread_each())
            one_thread += seconds
            threads += timed(values, truth, classes, nullcontext())[0]
            if head % 8 == 0:
                off = max(off, abs(value - timed(values, truth, classes, exact())[1]))
        ratio = one_thread / threads
        print(f"{classes:>7} {one_thread:>10.1f} s {threads:>13.1f} s {ratio:>6.2f} {off:>16.5f}", flush=True)


if __name__ == "__main__":
    main()
