"""Image properties: are planted ones found and named, and what does measuring them cost?

python benchmarks/image_properties.py planted   20 seeds of each of: a class tinted, bordered, darkened, blurred
python benchmarks/image_properties.py clean     20 seeds: classes that have nothing to do with their pictures
python benchmarks/image_properties.py twins     500 draws of two properties, apart or one after the other: one cue?
python benchmarks/image_properties.py cost [TAR ...]   decoding alone and with properties, alternating; ms an image
python benchmarks/image_properties.py report    an audit of 2,000 images x 16 heads x 8 classes with and without them

`planted` and `clean` draw scenes of the demo, change those of one class of four in 90 % and those of the others in 5 %,
write them as JPEG, measure the files, and audit them as a report does, on noise in place of the model's numbers. Seeds
begin at `--seed` (default 4100, which no test uses). CPU seconds; other load on the machine matters little.
"""

from __future__ import annotations

import io
import itertools
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues import AuditOptions, AuditResult, audit_cues
from clipaudit.cues.findings.same_cue import go_together
from clipaudit.demo.world.datasets import samples
from clipaudit.schema import IMAGE_PROPERTIES
from clipaudit.shards.image_header import read_header
from clipaudit.shards.image_properties import image_properties
from tests.audit_worlds import Texts, World, balanced_labels, noise_world, text_pool, write_world

Pixels = npt.NDArray[np.uint8]
IMAGES, CLASSES = 800, 4
HAVING, BY_CHANCE = 0.9, 0.05
"""Share of the planted class, and of the others, that is changed."""
OPTIONS = AuditOptions(permutations=199, negative_audits=0, positive_trials=0)


def tinted(pixels: Pixels) -> Pixels:
    return (pixels * np.array([1.0, 0.55, 0.2])).astype(np.uint8)  # as through an orange filter


def bordered(pixels: Pixels) -> Pixels:
    framed = pixels.copy()
    for side in (np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:]):
        framed[side] = (230, 225, 215)
    return framed


def darkened(pixels: Pixels) -> Pixels:
    return (pixels * 0.4).astype(np.uint8)


def blurred(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2.0)))


PLANTS: dict[str, tuple[Callable[[Pixels], Pixels], str]] = {
    "tinted": (tinted, "colourful pictures"),
    "bordered": (bordered, "a uniform border"),
    "darkened": (darkened, "dark pictures"),
    "blurred": (blurred, "blurred pictures"),
}
"""What is done to the pictures, and what the report should call it."""


def encoded(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measured(data: bytes) -> tuple[float, ...]:
    rgb = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return image_properties(rgb, len(data), read_header(data).quantisation)


@lru_cache(1)
def scenes(seed: int) -> tuple[Pixels, ...]:
    """Pictures that go with no label."""
    return tuple(sample.pixels for sample in samples("nulls", count=IMAGES, seed=seed))


def world(seed: int, change: Callable[[Pixels], Pixels] | None) -> World:
    """Scenes with labels drawn apart from them; `change` is done to most of class 0 and a few of the others."""
    rng = np.random.default_rng([seed, 9])
    labels = balanced_labels(IMAGES, CLASSES, 1 / CLASSES, rng)
    share = np.where(labels == 0, HAVING, BY_CHANCE)
    changed = rng.random(IMAGES) < share
    values = []
    for pixels, apply in zip(scenes(seed), changed.tolist(), strict=True):
        values.append(measured(encoded(change(pixels) if change is not None and apply else pixels)))
    return replace(noise_world(IMAGES, labels, seed, CLASSES), properties=np.array(values, np.float32))


def audit(made: World, options: AuditOptions = OPTIONS) -> AuditResult:
    with tempfile.TemporaryDirectory() as folder:
        run = write_world(made, Path(folder) / "run")
        names = Path(folder) / "names.txt"
        names.write_text("\n".join(made.names))
        return audit_cues(run, replace(options, classes=str(names)), texts=Texts(made), pool=text_pool())


def properties_in(result: AuditResult) -> list[dict[str, Any]]:
    """The findings of image properties: column, what it is called, the classes, and what else is named."""
    return [
        {
            "column": finding.cue.attribute,
            "name": finding.cue.value or finding.cue.name,
            "classes": finding.class_name,
            "also": [word.text for word in finding.cue.words if word.property == "image property"],
            "d": finding.association.d.value,
        }
        for finding in result.findings
        if finding.cue.attribute is not None and finding.cue.attribute.startswith("image.")
    ]


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def planted(seeds: range) -> None:
    keys = ("found", "named_first", "further_findings", "findings_of_other_classes")
    counts = {kind: Counter(dict.fromkeys(keys, 0)) for kind in PLANTS}
    for seed in seeds:
        for kind, (change, name) in PLANTS.items():
            rows = properties_in(audit(world(seed, change)))
            own = [row for row in rows if row["classes"] == "class 0"]
            counts[kind]["found"] += any(name in (row["name"], *row["also"]) for row in own)
            counts[kind]["named_first"] += any(row["name"] == name for row in own)
            counts[kind]["further_findings"] += max(len(own) - 1, 0)
            counts[kind]["findings_of_other_classes"] += len(rows) - len(own)
            if seed == seeds[0] or not any(name in (row["name"], *row["also"]) for row in own):
                say(kind=kind, seed=seed, findings=rows)
    for kind, figures in counts.items():
        say(kind=kind, seeds=len(seeds), **figures)


def clean(seeds: range) -> None:
    without = 0
    for seed in seeds:
        rows = properties_in(audit(world(seed, None)))
        without += not rows
        if rows:
            say(seed=seed, findings=rows)
    say(clean=without, seeds=len(seeds))


def twins(seed: int) -> None:
    """Two properties that part the classes alike: how often they count as one cue, by images and classes."""
    rng = np.random.default_rng(seed)
    draws = 500
    for n, classes in itertools.product((200, 400, 800, 2000), (2, 4)):
        labels = np.arange(n) % classes
        one = Counter({"apart": 0, "follows": 0})
        for _ in range(draws):
            first, twin = (rng.random(n) < np.where(labels == 0, HAVING, BY_CHANCE) for _ in range(2))
            having = _thirds(rng.normal(size=n) + 2.5 * first) == 2
            one["apart"] += _together(labels, having, _thirds(rng.normal(size=n) + 2.5 * twin))
            one["follows"] += _together(labels, having, _thirds(rng.normal(size=n) + 1.5 * first))
        say(images=n, classes=classes, draws=draws, called_one=dict(one))


def _thirds(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.searchsorted(np.quantile(values, (1 / 3, 2 / 3)), values).astype(np.float64)


def _together(labels: npt.NDArray[np.int64], having: npt.NDArray[np.bool_], other: npt.NDArray[np.float64]) -> bool:
    sides = [np.flatnonzero(labels == 0), np.flatnonzero(labels != 0)]
    return any(go_together(other[side], having[side], labels[side], OPTIONS.delta_warn, side) for side in sides)


def report_cost(seed: int) -> None:
    """2,000 images x 16 heads x 8 classes: CPU seconds with and without image properties, alternating."""
    rng = np.random.default_rng(seed)
    labels = balanced_labels(2000, 8, 1 / 8, rng)
    values = rng.uniform(0.1, 0.9, (2000, len(IMAGE_PROPERTIES))).astype(np.float32)
    made = noise_world(2000, labels, seed, 8)
    tied = values.copy()
    tied[labels == 0, 0] *= 0.2
    worlds = {"without": None, "nothing tied": values, "one tied": tied}
    seconds: dict[str, list[float]] = {name: [] for name in worlds}
    for _ in range(3):
        for name, properties in worlds.items():
            start = time.process_time()
            audit(replace(made, properties=properties), replace(OPTIONS, negative_audits=20, positive_trials=20))
            seconds[name].append(time.process_time() - start)
    say(cpu_seconds={name: round(statistics.median(part), 2) for name, part in seconds.items()})


# -- the cost of measuring ---------------------------------------------------------------------------------------------


def pictures(tars: list[str]) -> dict[str, list[bytes]]:
    """Files by source: those in the given tars, else drawn ones of several sizes."""
    if tars:
        return {Path(name).name: list(_members(name)) for name in tars}
    rng = np.random.default_rng(0)
    drawn = {}
    for height, width in ((64, 64), (224, 224), (375, 500), (1200, 1600)):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        drawn[f"{width} x {height}"] = [encoded(np.asarray(image))] * 40
    return drawn


def _members(name: str) -> Iterator[bytes]:
    with tarfile.open(name) as tar:
        for member in tar:
            if member.name.endswith((".jpg", ".jpeg")):
                content = tar.extractfile(member)
                assert content is not None
                yield content.read()


def cost(tars: list[str]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from clipaudit.config import DecodeConfig
    from clipaudit.shards.decoder import ImageDecoder

    decoder = ImageDecoder(image_transform_v2(PreprocessCfg(size=224), is_train=False), DecodeConfig())
    without = mock.patch("clipaudit.shards.decoder.image_properties", return_value=())
    for source, files in pictures(tars).items():
        files = files[:200]
        rounds: dict[str, list[float]] = {"decode": [], "decode and measure": []}
        for number in range(7):
            for name, rows in rounds.items():
                start = time.process_time()
                if name == "decode":
                    with without:
                        for data in files:
                            decoder(data)
                else:
                    for data in files:
                        decoder(data)
                if number:  # the first round warms up
                    rows.append(1000 * (time.process_time() - start) / len(files))
        alone, both = (statistics.median(rows) for rows in rounds.values())
        say(
            source=source,
            images=len(files),
            decode_ms=round(alone, 3),
            with_properties_ms=round(both, 3),
            added_ms=round(both - alone, 3),
        )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("what", nargs="?", choices=("planted", "clean", "twins", "cost", "report"), default="planted")
    parser.add_argument("tars", nargs="*")
    parser.add_argument("--seed", type=int, default=4100)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parse(parser, what="clean", seeds=1)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    if arguments.what == "planted":
        planted(seeds)
    elif arguments.what == "clean":
        clean(seeds)
    elif arguments.what == "twins":
        twins(arguments.seed)
    elif arguments.what == "report":
        report_cost(arguments.seed)
    else:
        cost(arguments.tars)


if __name__ == "__main__":
    main()
