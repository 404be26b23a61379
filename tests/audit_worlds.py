"""Synthetic runs of known truth for the audit: a linear model whose heads, texts and classes are axes of the space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipaudit.heads.texts.pool import TextPool
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.schema import IMAGE_PROPERTIES, UNDECODABLE, Sample, TableSpec, head_label
from tests.make_runs import make_manifest, make_shard, write_attempt

LAYERS, HEADS, DIM = 2, 20, 2
LABELS = tuple(head_label(layer, head) for layer in range(LAYERS) for head in range(HEADS))
INSIDE = LAYERS * HEADS * DIM
"""Heads lie side by side: coordinate j of head h is axis h * DIM + j of the joint space."""
WIDTH = INSIDE + 2
"""Two axes that no head writes to: what MLPs see of the cue and of the core."""

CUE_HEADS, CORE_HEADS = (5, 9), (30, 34)
CUE, CORE = [head * DIM for head in CUE_HEADS], [head * DIM for head in CORE_HEADS]
"""Axes of the cue and of what makes a class: two heads carry each."""
NAMED = {"the cue": [*CUE, INSIDE], "the core": [*CORE, INSIDE + 1]}
"""Texts that are more than an axis."""


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """n images."""

    labels: npt.NDArray[np.int64]
    coordinates: npt.NDArray[np.float32]
    """(n, WIDTH)"""
    attributes: dict[str, Sequence[str | None]]
    names: tuple[str, ...]
    classes: npt.NDArray[np.float32]
    """(C, WIDTH) class vectors."""
    phash: npt.NDArray[np.int64] | None = None
    captions: Sequence[str | None] | None = None
    lists: Sequence[tuple[str, ...]] | None = None
    """The labels of each image where `label_kind` is `strings`."""
    properties: npt.NDArray[np.float32] | None = None
    """(n, IMAGE_PROPERTIES) image properties, nan for none; None for a run that measured none."""


class Texts:
    """Text vectors by name: `axis N` and `no axis N` are the two ends of an axis of the space."""

    def __init__(self, world: World) -> None:
        self.world = world

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in enumerate(texts):
            name = text.removeprefix("no ")
            axes = NAMED[name] if name in NAMED else [int(name.split()[-1])]
            vectors[row, axes] = -1.0 if text.startswith("no ") else 1.0
        return unit(vectors)

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> npt.NDArray[np.float32]:
        return self.world.classes[[self.world.names.index(name) for name in names]]


def text_pool() -> TextPool:
    texts = [f"{sign}{name}" for name in (*NAMED, *(f"axis {n}" for n in range(INSIDE))) for sign in ("", "no ")]
    return TextPool(
        texts=tuple(texts),
        properties=("place",) * len(texts),
        kinds=("context-like",) * len(texts),
        source="axes",
    )


def unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def noise_world(n: int, labels: npt.NDArray[np.int64], seed: int, classes: int) -> World:
    """Labels that have nothing to do with the images."""
    rng = np.random.default_rng(seed)
    return World(
        labels=labels,
        coordinates=rng.standard_normal((n, WIDTH)).astype(np.float32),
        attributes={"place": [("land", "water")[value] for value in rng.integers(0, 2, n)]},
        names=tuple(f"class {k}" for k in range(classes)),
        classes=unit(rng.standard_normal((classes, WIDTH))),
    )


def cue_world(
    n: int,
    seed: int,
    *,
    aligned: float = 0.95,
    reliance: float = 1.0,
    core: float = 1.0,
    spread: float = 0.7,
    test_aligned: float | None = None,
) -> World:
    """Two classes, a cue `place` that goes with class 1 in a share `aligned` of the images, and a core.

    reliance and core: how much the class vectors look at either. With test_aligned the second half is the split `test`.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    share = np.full(n, aligned)
    split = np.full(n, "train", object)
    if test_aligned is not None:
        share[n // 2 :] = test_aligned
        split[n // 2 :] = "test"
    cue = np.where(rng.random(n) < share, labels, 1 - labels)
    x = 0.4 * rng.standard_normal((n, WIDTH))
    for axis in [*CUE, INSIDE]:
        x[:, axis] = (2 * cue - 1) + spread * rng.standard_normal(n)
    for axis in [*CORE, INSIDE + 1]:
        x[:, axis] = (2 * labels - 1) + spread * rng.standard_normal(n)
    w = 0.05 * rng.standard_normal((2, WIDTH))
    # what the classes share, so that the two prompts are no opposites
    w[:, 0] += 1.0
    w[:, CUE] += np.array([[-reliance], [reliance]])
    w[:, CORE] += np.array([[-core], [core]])
    return World(
        labels=labels,
        coordinates=x.astype(np.float32),
        attributes={"place": [("land", "water")[value] for value in cue], "split": list(split)},
        names=("landbird", "waterbird"),
        classes=unit(w),
    )


def write_world(world: World, path: Path, *, shards: int = 4, failed: int = 0, label_kind: str | None = "int") -> Run:
    """The world as a run, in order; of its shards, `failed` more are missing."""
    names = tuple(world.attributes)
    spec = TableSpec(
        heads=LABELS,
        head_dim=DIM,
        embed_dim=WIDTH,
        label_kind=label_kind,  # type: ignore[arg-type]
        attributes=names,
        caption=world.captions is not None,
        image_properties=IMAGE_PROPERTIES if world.properties is not None else (),
    )
    run_dir = RunDirectory(str(path))
    places = np.array_split(np.arange(len(world.labels)), shards)
    run_dir.create_or_resume(make_manifest(spec, tuple(map(make_shard, range(shards + failed)))))
    frames = np.eye(INSIDE, WIDTH, dtype=np.float32).reshape(LAYERS, HEADS, DIM, WIDTH)
    tensors = {"Q": frames, "T": np.tile(np.eye(DIM, dtype=np.float32), (LAYERS, HEADS, 1, 1))}
    write_basis(run_dir, {**tensors, "norm_bias": np.zeros(WIDTH, np.float32)}, {"tower": "test"})
    for number, rows in enumerate(places):
        _write_shard(world, run_dir, spec, number, rows)
    return Run(run_dir)


def _write_shard(world: World, run_dir: RunDirectory, spec: TableSpec, number: int, rows: npt.NDArray[Any]) -> None:
    samples = [
        Sample(
            key=f"image/{row:08d}",
            index=place,
            label=world.lists[row]
            if world.lists is not None and spec.label_kind == "strings"
            else int(world.labels[row])
            if spec.label_kind == "int"
            else None,
            caption=None if world.captions is None else world.captions[row],
            attributes={name: values[row] for name, values in world.attributes.items()},
            image_properties=None if world.properties is None else tuple(world.properties[row].tolist()),
            width=64,
            height=64,
            phash=_hash(world, row),
            offset=512 + 2048 * place,
            nbytes=1000,
        )
        for place, row in enumerate(rows.tolist())
    ]
    x = world.coordinates[rows]
    vectors = {"embedding": x, **{name: x[:, h * DIM : (h + 1) * DIM] for h, name in enumerate(LABELS)}}
    ones = np.ones(len(rows), np.float32)
    record = write_attempt(
        run_dir,
        make_shard(number),
        spec,
        samples,
        vectors,
        {"scale": ones, "norm": ones, "remainder": ones * 1e-8},
        batch=1024,
    )
    assert run_dir.commit(record)


def _hash(world: World, row: int) -> int:
    if world.phash is not None:
        return int(world.phash[row])
    return int(np.random.default_rng(row).integers(-(2**63), 2**63))


def failure(index: int) -> Sample:
    return Sample(key=f"bad/{index}", index=index, status=UNDECODABLE)


def balanced_labels(n: int, classes: int, first: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """n shuffled labels: class 0 has a share `first`, the others the rest evenly."""
    count = round(first * n)
    labels = np.concatenate([np.zeros(count, np.int64), 1 + np.arange(n - count) % (classes - 1)])
    return rng.permutation(labels)
