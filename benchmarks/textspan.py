"""TextSpan from moments against the published loop over images: seconds, the same picks, and memory.

python benchmarks/textspan.py            50,000 images, 3,498 texts, 60 steps, one head of 64; a minute or two
python benchmarks/textspan.py --smoke    a fraction of it, to see that it runs

A is a plain implementation of the published algorithm (Gandelsman et al., ICLR 2024, Algorithm 1), on the outputs of
the head for all images in the joint space, float32 as published. B is ours: moments of the head's coordinates, then
TextSpan.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.heads.textspan import fold, textspan
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.schema import TableSpec

Float32s = npt.NDArray[np.float32]
_Result = TypeVar("_Result")

HEAD_DIM, JOINT = 64, 768
SPEC = TableSpec(heads=("L23H00",), head_dim=HEAD_DIM, embed_dim=JOINT)


def published_loop(outputs: Float32s, texts: Float32s, steps: int) -> list[int]:
    """The published greedy loop: project all texts on all images, take the most spread, remove it from both."""
    data, candidates = outputs - outputs.mean(axis=0), texts.copy()
    picks = []
    for _ in range(steps):
        spread = (data @ candidates.T).var(axis=0)
        picks.append(int(spread.argmax()))
        direction = candidates[picks[-1]] / np.linalg.norm(candidates[picks[-1]])
        data -= np.outer(data @ direction, direction)
        candidates -= np.outer(candidates @ direction, direction)
    return picks


def moments(coordinates: npt.NDArray[np.float16], piece: int = 4096) -> Moments:
    """The head's moments as a worker accumulates them, piece by piece."""
    template = Moments.empty(SPEC).select(SPEC.heads, ())
    pieces = (coordinates[start : start + piece] for start in range(0, len(coordinates), piece))
    return merge([template, *(moments_of(template, {"L23H00": part}) for part in pieces)])


def timed(call: Callable[[], _Result], repeats: int = 1) -> tuple[float, _Result]:
    """Best seconds of some runs, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - start)
    assert result is not None
    return best, result


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory that numpy held while the call ran, beyond what was there before."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def world(images: int, texts: int, seed: int = 0) -> tuple[npt.NDArray[np.float16], Float32s, Float32s]:
    """Coordinates (images, dh) of a head whose spectrum falls off, texts (texts, D) in a cone, and Q (dh, D)."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((HEAD_DIM, HEAD_DIM)) * np.geomspace(1, 0.05, HEAD_DIM)
    coordinates = (rng.standard_normal((images, HEAD_DIM), dtype=np.float32) @ mix.astype(np.float32) / 30).astype(
        np.float16
    )
    candidates = rng.standard_normal((texts, JOINT), dtype=np.float32) + 2 * rng.standard_normal(
        JOINT, dtype=np.float32
    )
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    frame = np.linalg.qr(rng.standard_normal((JOINT, HEAD_DIM)))[0].T
    return coordinates, candidates, frame.astype(np.float32)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--texts", type=int, default=3_498)
    parser.add_argument("--steps", type=int, default=60)
    options = parse(parser, images=2000, texts=100, steps=10)
    images, texts, steps = options.images, options.texts, options.steps
    y, t, Q = world(images, texts)
    outputs, projected = y.astype(np.float32) @ Q, t @ Q.T @ Q  # texts in the head's row space, as published
    print(f"{images:,} images, {texts:,} texts, {steps} steps, head of {HEAD_DIM} in {JOINT} dimensions")

    found = moments(y)
    from_moments = lambda: textspan(found.covariance("L23H00"), fold(Q, t), steps, "reference")  # noqa: E731
    with_moments = lambda: textspan(moments(y).covariance("L23H00"), fold(Q, t), steps, "reference")  # noqa: E731
    both, span = timed(with_moments, 3)
    stored, _ = timed(from_moments, 3)
    slow, picks = timed(lambda: published_loop(outputs, projected, steps))
    again, _ = timed(with_moments, 3)
    both = min(both, again)
    same = sum(a == b for a, b in zip(picks, span.texts.tolist(), strict=True))
    print(f"published loop                {slow:9.3f} s")
    print(f"ours, moments included        {both:9.3f} s   {slow / both:7,.0f} times faster")
    print(f"ours, from stored moments     {stored:9.3f} s   {slow / stored:7,.0f} times faster")
    print(f"the same picks                {same} of {steps}")
    small = world(images // 10, texts)[0]
    for name, values in ((f"{images // 10:,} images", small), (f"{images:,} images", y)):
        peak = peak_bytes(lambda v=values: textspan(moments(v).covariance("L23H00"), fold(Q, t), steps, "reference"))
        print(f"peak memory, {name:16s} {peak / 1e6:9.1f} MB")


if __name__ == "__main__":
    main()
