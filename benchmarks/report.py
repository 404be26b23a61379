"""The whole command `clipaudit report` on 2,000 images x 16 heads x 10 classes with all controls: seconds, memory.

python benchmarks/report.py                two runs: a split whose test part is mixed, and no split; three rounds each
python benchmarks/report.py --profile FILE functions by their time, of one round without a split, for `pstats`
python benchmarks/report.py --folder DIR   keep the runs and the reports there
python benchmarks/report.py --smoke        300 images, one round

Three of ten classes have a cue, `place`, at 95 %, others at 5 %; two heads see it as if it were those classes. The
image properties are noise, and text vectors are beside the run, so that no model is loaded. The command runs as users
run it, in a process of its own, with `--no-pictures --no-heat`; printed are wall and CPU seconds, the machine's load,
peak memory, what was measured, and a hash of report.json without its times: two versions of the code that measure the
same print the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit import Texts
from options import parse, parser_for

from clipaudit.heads.texts.pool import load_pool
from clipaudit.heads.texts.prompts import load_templates
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.schema import IMAGE_PROPERTIES, Sample, TableSpec, head_label
from tests.make_runs import make_basis, make_manifest, write_attempt

LIMIT_SECONDS = 8.0
DIM, WIDE, SHARDS = 64, 512, 4
HAVING = (0, 1, 2)
"""Classes that have the cue."""
CUE_HEADS, CORE_HEADS = (5, 9), (3, 12)
VOLATILE = ("started", "seconds", "versions", "files")
"""Parts of report.json that differ between two runs of the same code, or two versions of it."""


def write_run(where: Path, images: int, heads: int, classes: int, *, split: bool, seed: int = 0) -> Run:
    """A run of `images` images; with a split its second half is the test part, where every class has the cue in half of
    its images."""
    labels = tuple(head_label(layer, head) for layer in range(2) for head in range(heads // 2))
    columns = ("place", "split") if split else ("place",)
    spec = TableSpec(
        heads=labels,
        head_dim=DIM,
        embed_dim=WIDE,
        label_kind="int",
        attributes=columns,
        image_properties=IMAGE_PROPERTIES,
    )
    directory = RunDirectory(str(where))
    manifest = make_manifest(spec, SHARDS)
    directory.create_or_resume(manifest)
    basis = make_basis(spec)
    write_basis(directory, basis, {"tower": "synthetic"})
    rng = np.random.default_rng(seed)
    toward = Texts().classes([f"class {k}" for k in range(classes)], ())
    truth = rng.permutation(np.arange(images) % classes)
    tested = (np.arange(images) % 2 == 1) if split else np.zeros(images, np.bool_)
    share = np.where(tested, 0.5, np.where(np.isin(truth, HAVING), 0.95, 0.05))
    place = rng.random(images) < share
    hashes = rng.integers(-(2**63), 2**63, images)
    hashes[: images // 50] = hashes[images // 50 : 2 * (images // 50)]  # near duplicates
    vectors = _vectors(rng, basis["Q"].reshape(heads, DIM, WIDE), labels, toward, truth, place)
    properties = rng.random((images, len(IMAGE_PROPERTIES)))
    for shard, rows in zip(manifest.shards, np.array_split(np.arange(images), SHARDS), strict=True):
        samples = [
            Sample(
                key=f"image/{row:08d}",
                index=index,
                label=int(truth[row]),
                attributes={"place": ("land", "water")[int(place[row])], "split": ("train", "test")[int(tested[row])]}
                if split
                else {"place": ("land", "water")[int(place[row])]},
                image_properties=tuple(properties[row].tolist()),
                width=224,
                height=224,
                phash=int(hashes[row]),
                offset=512 + 30_720 * index,
                nbytes=25_000,
            )
            for index, row in enumerate(rows.tolist())
        ]
        ones = np.ones(len(rows), np.float32)
        scalars = {"scale": ones, "norm": ones, "remainder": ones * 1e-8}
        own = {name: values[rows] for name, values in vectors.items()}
        directory.commit(write_attempt(directory, shard, spec, samples, own, scalars, batch=4096))
    return Run(str(where))


def _vectors(
    rng: np.random.Generator,
    frames: np.ndarray,
    names: Sequence[str],
    toward: np.ndarray,
    truth: np.ndarray,
    place: np.ndarray,
) -> dict[str, np.ndarray]:
    """The embedding and each head's coordinates; heads see the cue, or what makes a class, or nothing."""
    heads = {name: rng.standard_normal((len(truth), DIM), dtype=np.float32) / 100 for name in names}
    cue = toward[list(HAVING)].mean(axis=0) - toward.mean(axis=0)
    for head in CUE_HEADS:
        folded = frames[head] @ cue
        heads[names[head]] += 0.12 * np.where(place, 1, -1)[:, None] * folded / np.linalg.norm(folded)
    for head in CORE_HEADS:
        folded = toward @ frames[head].T  # (C, DIM)
        heads[names[head]] += 0.08 * (folded / np.linalg.norm(folded, axis=1, keepdims=True))[truth]
    embedding = rng.standard_normal((len(truth), WIDE), dtype=np.float32) / 25 + 0.05 * toward[truth]
    for frame, values in zip(frames, heads.values(), strict=True):
        embedding += values @ frame
    return {
        "embedding": embedding.astype(np.float32),
        **{name: part.astype(np.float32) for name, part in heads.items()},
    }


def keep_texts(run: Run, names: Sequence[str]) -> None:
    """Vectors of the pool and the classes beside the run, as its own model would have left them."""
    made = Texts()
    encoder = "clipaudit.heads.texts.encoder"
    with (
        mock.patch.object(RunTexts, "_load", return_value=()),
        mock.patch(f"{encoder}.encode_texts", made.vectors),
        mock.patch(f"{encoder}.encode_classes", made.classes),
    ):
        texts = RunTexts(run)
        texts.vectors(load_pool().texts)
        texts.classes(names, load_templates("imagenet"))


def command(run: Path, names: Path, out: Path, *, split: bool) -> list[str]:
    """Arguments of `clipaudit`."""
    parts = ["report", str(run), "--classes", str(names), "--attribute", "place", "--out", str(out)]
    return [*parts, *(["--split", "split"] if split else []), "--no-pictures", "--no-heat", "--fail-on", "never"]


def timed(arguments: Sequence[str], out: Path) -> dict[str, Any]:
    """One round in a process of its own, as the machine's user would wait for it."""
    # an installed package's modules are compiled already
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "clipaudit", *arguments], stdout=subprocess.DEVNULL, env=env)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"clipaudit report ended with {process.returncode}")
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "load": round(os.getloadavg()[0], 1),
        "peak_mib": round(used.ru_maxrss / 1024),
        "same": digest(out),
    }


def digest(out: Path) -> str:
    """Of report.json without what differs between two runs of the same code."""

    def kept(pairs: list[tuple[str, object]]) -> dict[str, object]:
        return {name: value for name, value in pairs if name not in VOLATILE}

    found = json.loads((out / "report.json").read_text(), object_pairs_hook=kept)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


def measured(out: Path) -> dict[str, Any]:
    """What the report says, to see that all controls ran."""
    audit = json.loads((out / "report.json").read_text())["audit"]
    rehearsal, placebo = audit["rehearsal"], audit["trust"]["placebo"]
    return {
        "verdict": audit["verdict"],
        "findings": [f"{part['class_name']}: {part['cue']['value']}: {part['verdict']}" for part in audit["findings"]],
        "arms": [[arm["name"] for arm in column["arms"]] for column in rehearsal["columns"]],
        "curve": [column["curve"] is not None for column in rehearsal["columns"]],
        "placebo_draws": None if placebo is None else placebo["draws"],
    }


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--profile", type=Path, help="a file for the profile")
    asked: argparse.Namespace = parse(parser, images=300, rounds=1)
    with tempfile.TemporaryDirectory(prefix="clipaudit-report-") as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"class {k}" for k in range(asked.classes)]
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
        slowest = 0.0
        for kind, split in (("split", True), ("no-split", False)):
            where, out = folder / f"run-{kind}-{asked.images}", folder / f"report-{kind}"
            if not where.exists():
                keep_texts(write_run(where, asked.images, asked.heads, asked.classes, split=split), names)
            arguments = command(where, folder / "classes.txt", out, split=split)
            if asked.profile is not None:
                profiler = [sys.executable, "-m", "cProfile", "-o", str(asked.profile), "-m", "clipaudit"]
                if not split:
                    subprocess.run([*profiler, *arguments], check=True, stdout=subprocess.DEVNULL)
                continue
            rounds = []
            timed(arguments, out)  # the first round warms up
            for _ in range(asked.rounds):
                rounds.append(timed(arguments, out))
                print(json.dumps({"run": kind, **rounds[-1]}), flush=True)
            print(json.dumps({"run": kind, **measured(out)}), flush=True)
            slowest = max(slowest, statistics.median(row["seconds"] for row in rounds))
        if asked.profile is None and not asked.smoke:
            within = slowest <= LIMIT_SECONDS
            print(f"median of the slower run {slowest:.1f} s, limit {LIMIT_SECONDS:.0f} s: within it: {within}")


if __name__ == "__main__":
    main()
