"""Error slices beside B2T's keywords and a Domino-style mixture, on planted failures of known truth; false slices.

python benchmarks/slices.py               two worlds of 3,200 pictures, 20 failures and 100 models without one in each
python benchmarks/slices.py --fits        also how well texts fit where a right word exists and where none does
python benchmarks/slices.py --smoke       one small world, to see that it runs

Pictures of four things by the demo model. A model errs on 60 % (`--strength`) of the images of one class in one style,
and on 8 % of all others. Each method names what it errs on, and ranks images: `word` is whether the name says the style
and the class is right, `p@10` the share of the first ten images that are of the class and style. Models without a
failure err on 5 to 30 % at random. The peers are also shown as they are when they are told the class that fails.

* this audit: `mistakes.error_slices`, the slice with the largest difference.
* B2T (Kim et al., CVPR 2024): keywords of the captions of wrong images (here the 20 most frequent phrases of one to
  three words), ranked by their CLIP score, mean similarity with the wrong minus that with the right images of the
  class, the class with the largest one first; images ranked by similarity with the keyword. It has captions.
* Domino (Eyuboglu et al., ICLR 2022): a mixture over embedding (32 principal components), label and prediction, 25
  components, label and prediction weighted by 10, the five with the largest difference between label and prediction;
  named by the text nearest to the component's mean less the class's; fitted to each class, the slice with the largest
  share of errors first. `best of 5` takes, as its paper does, the slice of the class that fits the truth best.

Both are our own plain implementations of what the papers say, without their tuning.
"""

from __future__ import annotations

import collections
import io
import json
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, Run, StoreConfig, run_job
from clipaudit.cues.measure.image_facts import image_facts
from clipaudit.cues.measure.naming import Namer
from clipaudit.cues.measure.vectors import read_vectors
from clipaudit.cues.mistakes.error_slices import AcceptedSlice, accepted_slices, slice_tests
from clipaudit.cues.mistakes.trait_search import Traits
from clipaudit.cues.statistics.design import Design
from clipaudit.demo.world import nouns
from clipaudit.demo.world.captions import caption
from clipaudit.demo.world.scenes import draw_scene, pick, render
from clipaudit.heads.texts.pool import pool_for
from clipaudit.heads.texts.prompts import load_templates
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.rows import chosen_rows
from tests.cue_pictures import NOUNS, border

WORDS = {
    "black and white": ("black and white", "monochrome"),
    "blurry": ("blur", "out of focus"),
    "sepia": ("sepia",),
    "sketch": ("sketch", "drawing"),
    "pixelated": ("pixelated", "low resolution"),
}
"""Styles, and the words that are right for them."""
STOP = frozenset(
    ["a", "an", "the", "of", "in", "on", "at", "with", "to", "by", "and", "is", "are", "photo", "picture", "image"]
)
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pictures:
    """A world's pictures, as the methods see them."""

    truth: npt.NDArray[np.int64]
    style: npt.NDArray[np.int64]
    captions: list[str]
    embedding: npt.NDArray[np.float32]
    traits: Traits
    cluster: npt.NDArray[np.int64]
    texts: RunTexts


@dataclass(frozen=True, eq=False, kw_only=True)
class Named:
    """What a method names."""

    k: int
    name: str
    order: npt.NDArray[np.int64]
    """Images, most of it first."""
    score: float
    """By which classes are compared."""


def pictures(folder: Path, count: int, seed: int) -> Pictures:
    """Drawn, decomposed and read; a tenth has a red border, whatever else it is."""
    rng = np.random.default_rng([seed, 95])
    styles, captions = [], []
    with tarfile.open(folder / "p-000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            k = int(rng.integers(len(NOUNS)))
            tint = pick(rng, tuple(nouns.TINTS)) if rng.random() < 0.1 else "none"
            scene = draw_scene(rng, noun=NOUNS[k], photo=0.4, fixed={"tint": tint})
            pixels, _ = render(scene, rng)
            framed = rng.random() < 0.1
            pixels = border(pixels) if framed else pixels
            captions.append(caption(scene, rng))
            styles.append(len(WORDS) if framed else list(WORDS).index(scene.style) if scene.style in WORDS else -1)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
            columns = json.dumps({"style": scene.style}).encode()
            for suffix, data in (("jpg", buffer.getvalue()), ("cls", str(k).encode()), ("json", columns)):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    config = JobConfig(
        shards=(str(folder / "p-000000.tar"),),
        out=str(folder / "run"),
        model=ModelConfig(name="demo", device="cpu"),
        fields=FieldsConfig(label="cls"),
        store=StoreConfig(layers="1"),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config)
    run = Run(config.out)
    facts = image_facts(run, chosen_rows(run, ()), {k: k for k in range(len(NOUNS))})
    embedding = read_vectors(run, "embedding", facts.position).astype(np.float32)
    pool, texts = pool_for("demo", None), RunTexts(run)
    classes = texts.classes(NOUNS, load_templates("imagenet"))
    namer = Namer(pool, texts.vectors(pool.texts), NOUNS, classes)
    names, axes = namer.context_axes()
    return Pictures(
        truth=facts.truth,
        style=np.array(styles)[facts.index],
        captions=[captions[place] for place in facts.index],
        embedding=embedding,
        traits=Traits(texts=names, axes=axes, embedding=embedding, subspace=namer.subspace),
        cluster=facts.cluster,
        texts=texts,
    )


def design_of(world: Pictures, rng: np.random.Generator) -> Design:
    """Halves drawn anew, clusters together."""
    halves = rng.random(int(world.cluster.max()) + 1) < 0.5
    return Design(world.truth, len(NOUNS), world.cluster, None, halves[world.cluster])


def ours(world: Pictures, wrong: Bools, design: Design) -> list[AcceptedSlice]:
    """Slices, largest difference first."""
    return accepted_slices([slice_tests(world.traits, wrong, design)], [wrong], [design])[0]


def b2t(world: Pictures, wrong: Bools, k: int) -> Named:
    """The first keyword, and the class's images by similarity with it."""
    inside = world.truth == k
    counts: collections.Counter[str] = collections.Counter()
    for place in np.flatnonzero(inside & wrong).tolist():
        words = world.captions[place].split()
        phrases = {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}
        counts.update(phrase for phrase in phrases if meaningful(phrase, NOUNS[k]))
    keywords = [phrase for phrase, _ in counts.most_common(20)]
    vectors = world.texts.vectors(keywords)
    unit = world.embedding / np.linalg.norm(world.embedding, axis=1, keepdims=True)
    similar = unit @ vectors.T
    score = similar[inside & wrong].mean(axis=0) - similar[inside & ~wrong].mean(axis=0)
    best = int(np.argmax(score))
    rows = np.flatnonzero(inside)
    order = rows[np.argsort(-similar[rows, best], kind="stable")]
    return Named(k=k, name=keywords[best], order=order, score=float(score[best]))


def meaningful(phrase: str, noun: str) -> bool:
    """Whether a phrase has more than stop words, begins and ends with none, and does not name the class."""
    words = phrase.split()
    return words[0] not in STOP and words[-1] not in STOP and not any(word.rstrip("s") == noun for word in words)


def domino(world: Pictures, wrong: Bools, k: int, seed: int, components: int = 25) -> list[Named]:
    """Five slices, and the class's images by membership in each."""
    rng = np.random.default_rng([seed, 97])
    rows = np.flatnonzero(world.truth == k)
    x = world.embedding[rows].astype(np.float64)
    mean = x.mean(axis=0)
    _, _, axes = np.linalg.svd(x - mean, full_matrices=False)
    z = (x - mean) @ axes[:32].T
    z = z / z.std()
    e = wrong[rows].astype(np.float64)
    # started as its paper does: right and wrong images on components of their own, with noise
    r = rng.dirichlet(np.ones(components), len(rows))
    half = components // 2
    r[:, :half] *= np.where(e, 4.0, 0.25)[:, None]
    r /= r.sum(axis=1, keepdims=True)
    for _ in range(100):
        weight = r.sum(axis=0) + 1e-6
        centre = (r.T @ z) / weight[:, None]
        spread = (r.T @ z**2) / weight[:, None] - centre**2 + 1e-3
        share = np.clip((r.T @ e + 0.1) / (weight + 0.2), 1e-4, 1 - 1e-4)
        log = np.log(weight / weight.sum())[None] - 0.5 * (
            (z**2) @ (1 / spread).T - 2 * z @ (centre / spread).T + (centre**2 / spread + np.log(spread)).sum(axis=1)
        )
        log += 10 * (e[:, None] * np.log(share) + (1 - e[:, None]) * np.log(1 - share))
        log -= log.max(axis=1, keepdims=True)
        r = np.exp(log)
        r /= r.sum(axis=1, keepdims=True)
    slices = []
    for place in np.argsort(-share, kind="stable")[:5].tolist():
        toward = (r[:, place] @ x) / max(float(r[:, place].sum()), 1e-9) - mean
        name = world.traits.texts[int(np.argmax(world.traits.axes @ toward))]
        order = rows[np.argsort(-r[:, place], kind="stable")]
        slices.append(Named(k=k, name=name, order=order, score=float(share[place])))
    return slices


def measured(world: Pictures, seed: int, strength: float) -> dict[str, dict[str, float]]:
    """Every method on one planted failure: right word and precision at ten."""
    rng = np.random.default_rng([seed, 96])
    k, style = int(rng.integers(len(NOUNS))), int(rng.integers(len(WORDS)))
    failing = (world.truth == k) & (world.style == style)
    wrong = rng.random(len(failing)) < np.where(failing, strength, 0.08)
    right = tuple(WORDS.values())[style]

    def entry(named: Named) -> dict[str, float]:
        said = named.k == k and any(word in named.name for word in right)
        return {"word": float(said), "p@10": float(failing[named.order[:10]].mean())}

    keywords = [b2t(world, wrong, j) for j in range(len(NOUNS))]
    mixtures = [domino(world, wrong, j, seed) for j in range(len(NOUNS))]
    slices = ours(world, wrong, design_of(world, rng))
    nothing = {"word": 0.0, "p@10": 0.0}
    first = nothing
    if slices:
        test = slices[0].test
        first = entry(Named(k=test.k, name=test.chosen.trait.name, order=test.having, score=0.0))
    return {
        "this audit": first,
        "B2T keywords": entry(max(keywords, key=lambda named: named.score)),
        "Domino": entry(max((parts[0] for parts in mixtures), key=lambda named: named.score)),
        "B2T, told the class": entry(keywords[k]),
        "Domino, told the class": entry(mixtures[k][0]),
        "Domino, told, best of 5": max(map(entry, mixtures[k]), key=lambda part: (part["p@10"], part["word"])),
    }


def false_slices(world: Pictures, seed: int) -> bool:
    """Whether a model that errs at random has a slice."""
    rng = np.random.default_rng([seed, 98])
    wrong = rng.random(len(world.truth)) < rng.choice([0.05, 0.1, 0.2, 0.3])
    return bool(ours(world, wrong, design_of(world, rng)))


def fits(world: Pictures, seed: int) -> dict[str, float]:
    """Fit of the first slice's text where images of a style fail, and where those with a red border do."""
    rng = np.random.default_rng([seed, 99])
    k, style = int(rng.integers(len(NOUNS))), int(rng.integers(len(WORDS)))
    result = {}
    for name, code in (("a style", style), ("a border", len(WORDS))):
        failing = (world.truth == k) & (world.style == code)
        wrong = rng.random(len(failing)) < np.where(failing, 0.6, 0.08)
        slices = [entry for entry in ours(world, wrong, design_of(world, rng)) if entry.test.k == k]
        if slices:
            result[name] = slices[0].test.chosen.trait.fit or 0.0
    return result


def interval(values: list[float]) -> str:
    """Mean and Student's 95 % interval."""
    x = np.array(values)
    half = float(stats.t.ppf(0.975, max(len(x) - 1, 1)) * x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else np.nan
    return f"{x.mean():.2f} [{x.mean() - half:.2f}, {x.mean() + half:.2f}]"


def main() -> None:
    """Print means, differences and the rate of false slices."""
    parser = parser_for(__doc__)
    parser.add_argument("--count", type=int, default=3200, help="pictures a world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[810, 811])
    parser.add_argument("--failures", type=int, default=20, help="planted failures a world")
    parser.add_argument("--nulls", type=int, default=100, help="models that err at random, a world")
    parser.add_argument("--strength", type=float, default=0.6, help="share of wrong answers where the model fails")
    parser.add_argument("--fits", action="store_true")
    options = parse(parser, count=400, seeds=[810], failures=2, nulls=2)
    rows: list[dict[str, dict[str, float]]] = []
    nulls: list[bool] = []
    of_fits: list[dict[str, float]] = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            world = pictures(Path(folder), options.count, seed)
            rows += [measured(world, 1000 * seed + number, options.strength) for number in range(options.failures)]
            nulls += [false_slices(world, 1000 * seed + number) for number in range(options.nulls)]
            if options.fits:
                of_fits += [fits(world, 1000 * seed + number) for number in range(options.failures)]
    for method in rows[0]:
        figures = ", ".join(f"{what} {interval([row[method][what] for row in rows])}" for what in ("word", "p@10"))
        print(f"{method}: {figures} ({len(rows)} failures)")
    for method in list(rows[0])[1:]:
        ahead = ", ".join(
            f"{what} {interval([row['this audit'][what] - row[method][what] for row in rows])}"
            for what in ("word", "p@10")
        )
        print(f"this audit less {method}: {ahead}")
    upper = stats.beta.ppf(0.95, sum(nulls) + 1, len(nulls) - sum(nulls))
    print(f"models that err at random: {sum(nulls)} of {len(nulls)} have a slice (95 % upper limit {upper:.3f})")
    for name in ("a style", "a border"):
        values = [row[name] for row in of_fits if name in row]
        if values:
            print(f"fit of the text where {name} fails: {min(values):.2f} to {max(values):.2f} ({len(values)} slices)")


if __name__ == "__main__":
    main()
