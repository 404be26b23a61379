"""Sparse concepts beside the nearest text: which of them says what is in a picture (docs/figures.md).

python benchmarks/concepts.py              2,000 pictures of the demo's things: a few minutes
python benchmarks/concepts.py --smoke      a few, to see that it runs

Of every picture the true thing, setting, style and tint are known. `nearest`: the text of that property with the
largest cosine with the picture, both relative to their means. `concept`: the one with the largest weight, where one has
any. Right is a text that the demo's captions use for that thing, setting, style or tint. `false`: of the pictures in
whose making nothing of the kind was done (no style, no tint), those of which a text of it is said all the same; the
nearest text always says one, so that for it a limit is set at which it says as many of those that have one as the
concepts do. Last the cost with our own pool of 6,469 texts, whose vectors are the demo's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from options import parse, parser_for, scratch_folder

from clipaudit.arrays import Float64s
from clipaudit.demo.world import captions
from clipaudit.heads.sparse import Dictionary, dictionary_of, sparse_weights
from clipaudit.heads.texts.pool import load_pool, pool_for
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.reader import Run
from tests.make_audits import audited_world

PROPERTIES = {"noun": "noun", "background": "place", "style": "style", "tint": "tint"}
"""A factor of the world, and the property of the texts that are about it."""
PLAIN = ("photo", "none")
"""Values of factors with which nothing is done to a picture."""


def says(factor: str, value: str, text: str) -> bool:
    """Whether a text is a caption's word for a value."""
    return any(phrase in text.casefold() for phrase in phrases(factor, value))


def phrases(factor: str, value: str) -> tuple[str, ...]:
    """How captions call a value of a factor."""
    if factor == "background":
        return (*captions.PLACES[value], f"{value} background")
    if factor == "style":
        return tuple(phrase.removesuffix(" of") for phrase in captions.STYLE_PREFIXES[value])
    return (value.casefold(),)


def compare(factor: str, truth: list[str], weights: Float64s, cosines: Float64s, dictionary: Dictionary) -> None:
    """Print a line on one factor: truth of n pictures, (n, T) weights and cosines."""
    texts = np.array([name == PROPERTIES[factor] for name in dictionary.properties])
    names = np.array(dictionary.texts, object)[texts]
    plain = np.array([value in PLAIN for value in truth])
    inside, near = weights[:, texts], cosines[:, texts]
    told = inside.max(axis=1) > 0
    right = {
        kind: np.array([says(factor, value, names[place]) for value, place in zip(truth, best, strict=True)])
        for kind, best in {"concept": inside.argmax(axis=1), "nearest": near.argmax(axis=1)}.items()
    }
    made = ~plain
    line = f"{factor:10} {made.sum():5} pictures: nearest {right['nearest'][made].mean():6.1%} right of all"
    line += f"; concept {told[made].mean():6.1%} told, {right['concept'][made & told].mean():6.1%} of these right"
    limit = np.quantile(near[made].max(axis=1), 1 - told[made].mean())
    at_limit = near.max(axis=1) >= limit
    line += f", nearest where as many are told {right['nearest'][made & at_limit].mean():6.1%}"
    if plain.any():
        line += f"; false: concept {told[plain].mean():6.1%}, nearest {at_limit[plain].mean():6.1%}"
    print(line)


def quality(run: Run, penalty: float) -> None:
    """Print what concepts and nearest texts say of each factor."""
    pool = pool_for("demo")
    dictionary = dictionary_of(pool, RunTexts(run, "cpu").vectors(pool.texts))
    rows = run.embedding([f"attributes.{factor}" for factor in PROPERTIES], dtype=np.float32)
    mean = rows.values.mean(axis=0, dtype=np.float64)
    weights = sparse_weights(rows.values, mean, dictionary, penalty).astype(np.float64)
    centred = rows.values - mean
    cosines = (centred / np.linalg.norm(centred, axis=1, keepdims=True)) @ dictionary.vectors.T
    print(f"{len(weights):,} pictures, penalty {penalty}: {(weights > 0).sum(axis=1).mean():.1f} concepts each")
    for factor in PROPERTIES:
        compare(factor, list(rows.columns[f"attributes.{factor}"]), weights, cosines, dictionary)


def cost(run: Run, penalty: float, images: int) -> None:
    """Print the time with our own pool."""
    pool = load_pool()
    dictionary = dictionary_of(pool, RunTexts(run, "cpu").vectors(pool.texts))
    embeddings = run.embedding(dtype=np.float32).values[:images]
    started, spent = time.perf_counter(), time.process_time()
    sparse_weights(embeddings, embeddings.mean(axis=0), dictionary, penalty)
    wall, spent = time.perf_counter() - started, time.process_time() - spent
    print(f"{len(embeddings):,} pictures x {len(dictionary):,} concepts: {wall:.1f} s, {spent:.1f} s of processors")


def main() -> None:
    """Print both."""
    parser = parser_for(__doc__)
    parser.add_argument("--count", type=int, default=2000, help="pictures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--penalty", type=float, nargs="+", default=[0.15, 0.25, 0.35])
    options = parse(parser, count=120, penalty=[0.25])
    factors = tuple(PROPERTIES)
    run = audited_world(scratch_folder(), "things", options.count, options.seed, attributes=factors)
    for penalty in options.penalty:
        quality(run, penalty)
    if not options.smoke:
        cost(run, options.penalty[-1], options.count)


if __name__ == "__main__":
    main()
