"""The index's figures: recall, latency, bytes, build time and peak memory; beside one index of expanded contributions.

python benchmarks/index.py million            one head of 1,000,000 vectors, each kind within its memory, on two cores
python benchmarks/index.py expanded           64 numbers a head against the same contributions in 512
python benchmarks/index.py things RUN         retrieval by head and by the whole embedding, on the demo data's factors
python benchmarks/index.py --quick million    a twentieth of the rows, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipaudit.basis import write_basis
from clipaudit.retrieval.build import BuildTask, build
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.head import HeadIndex
from clipaudit.retrieval.rowmap import segments_for
from clipaudit.run import Run
from clipaudit.rundir import RunDirectory
from clipaudit.schema import TableSpec
from tests.make_runs import make_basis, make_manifest, make_samples, write_attempt

HEAD, DIM, WIDE, SHARD_ROWS = "L11H00", 64, 512, 50_000


def head_like(rows: int, seed: int = 0, kind: str = "like a head") -> np.ndarray:
    """(rows, DIM) float32: a mean, variances that fall as i^-1.5, 1,000 loose clusters.

    The demo model's heads fall as i^-2.2 to i^-3.2 (participation ratio 2 to 4.4; here 4.7), so that this is harder
    than they are. `harder`: as 1/i (13.8) and without clusters.
    """
    rng = np.random.default_rng(seed)
    slope = -0.75 if kind == "like a head" else -0.5
    scale = (0.03 * np.arange(1, DIM + 1, dtype=np.float32) ** slope).astype(np.float32)
    centres = np.random.default_rng(99).standard_normal((1000, DIM), dtype=np.float32) * scale
    share = np.float32(0.7 if kind == "like a head" else 0.0)
    own = rng.standard_normal((rows, DIM), dtype=np.float32) * scale
    found = share * centres[rng.integers(0, 1000, rows)] + np.sqrt(1 - share**2) * own
    return (found + 0.05).astype(np.float32)


def make_run(where: Path, rows: int, *, kind: str = "like a head", expanded: bool = False) -> Run:
    """A run of one head; with `expanded` its embedding column holds the head's contributions y Q in R^512."""
    spec = TableSpec(heads=(HEAD,), head_dim=DIM, embed_dim=WIDE if expanded else 8, label_kind="int")
    shards = -(-rows // SHARD_ROWS)
    directory = RunDirectory(str(where))
    manifest = make_manifest(spec, shards)
    directory.create_or_resume(manifest)
    basis = make_basis(spec) if expanded else {"Q": np.zeros((1, 1, DIM, 8)), "T": np.zeros((1, 1, DIM, DIM))}
    write_basis(directory, basis, {"tower": "synthetic"})
    for shard in manifest.shards:
        count = min(SHARD_ROWS, rows - shard.id * SHARD_ROWS)
        values = head_like(count, shard.id, kind)
        wide = values @ basis["Q"][0, 0] if expanded else np.ones((count, 8), np.float32)
        scalars = {name: np.ones(count, np.float32) for name in ("scale", "norm", "remainder")}
        vectors = {HEAD: values, "embedding": wide.astype(np.float32)}
        samples = make_samples(count)
        directory.commit(
            write_attempt(directory, shard, spec, samples, vectors, scalars, batch=4096, label_moments="none")
        )
    return Run(str(where))


def in_process(task: dict) -> dict:
    """Build in a process of its own, whose peak memory is then its own too."""
    code = (
        "import json,sys,time,resource;"
        "from clipaudit.retrieval.build import BuildTask,build;"
        "t=json.loads(sys.argv[1]);t['segments']=tuple(t['segments']);b=time.perf_counter();c=build(BuildTask(**t));"
        "u=resource.getrusage(resource.RUSAGE_SELF);"
        "print(json.dumps({'kind':c.kind.name,'lists':c.kind.lists,'recall':c.recall_at_10,'p50':c.latency_ms_p50,"
        "'p95':c.latency_ms_p95,'bytes':c.bytes_per_vector,'effort':c.effort,'seconds':time.perf_counter()-b,"
        "'cpu':u.ru_utime+u.ru_stime,'peak':u.ru_maxrss*1024}))"
    )
    root = str(Path(__file__).resolve().parent.parent)
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(task)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    if result.returncode:
        return {"error": result.stderr.strip().splitlines()[-1]}
    return json.loads(result.stdout)


def million(rows: int, scratch: Path) -> None:
    """Auto within three budgets, and the other kinds for comparison."""
    for kind in ("like a head", "harder"):
        run = make_run(scratch / kind, rows, kind=kind)
        segments = segments_for(run)
        print(f"\n{rows:,} vectors of one head, {DIM} numbers, {kind}")
        print(
            f"{'--kind':>8} {'--memory':>9} {'kind':>14} {'recall@10':>9} {'p50 ms':>7} {'p95 ms':>7}"
            f" {'bytes':>6} {'build s':>8} {'CPU s':>6} {'peak MB':>8}"
        )
        budgets = [("auto", 4_000), ("auto", 700), ("auto", 420)]
        budgets += [("flat", 4_000)] if kind == "like a head" else []
        for spec, megabytes in budgets:
            found = in_process(
                {
                    "run": str(scratch / kind),
                    "name": HEAD,
                    "kind": spec,
                    "segments": segments,
                    "memory": megabytes * 10**6,
                    "threads": 2,
                }
            )
            if "error" in found:
                print(f"{spec:>8} {megabytes:>6} MB {found['error']}")
                continue
            shape = found["kind"] + (f" {found['lists']}" if found["lists"] else "")
            print(
                f"{spec:>8} {megabytes:>6} MB {shape:>14} {found['recall']:>9.3f} {found['p50']:>7.3f}"
                f" {found['p95']:>7.3f} {found['bytes']:>6.0f} {found['seconds']:>8.1f} {found['cpu']:>6.1f}"
                f" {found['peak'] / 1e6:>8.0f}",
                flush=True,
            )


def expanded(rows: int, scratch: Path) -> None:
    """The head's own 64 numbers against its contributions in R^512, indexed alike."""
    run = make_run(scratch / "expanded", rows, expanded=True)
    segments, found = segments_for(run), {}
    print(f"\n{rows:,} contributions of one head: coordinates ({DIM}) and expanded ({WIDE}), both ivf")
    for name in (HEAD, EMBEDDING, HEAD, EMBEDDING):
        card = build(
            BuildTask(run=run.directory.url, name=name, kind="ivf", segments=segments, memory=8 * 10**9, threads=2)
        )
        print(
            f"{name:>10}: {card.build_seconds:6.1f} s, {card.bytes_per_vector:6.0f} bytes a vector, recall@10"
            f" {card.recall_at_10:.3f}, p50 {card.latency_ms_p50:.3f} ms",
            flush=True,
        )
        best = found.get(name)
        found[name] = card if best is None or card.build_seconds < best.build_seconds else best
    small, large = found[HEAD], found[EMBEDDING]
    print(
        f"{large.bytes_per_vector / small.bytes_per_vector:.1f} times smaller,"
        f" {large.build_seconds / small.build_seconds:.1f} times faster to build (best of two each)"
    )
    narrow, wide = HeadIndex.open(run, HEAD, verify=False), HeadIndex.open(run, EMBEDDING, verify=False)
    asked = run.heads(HEAD, (), shards=[0]).values[:500]
    far = run.embedding((), shards=[0]).values[:500]
    all_of_them = np.ones(len(narrow), bool)  # every list: what differs then is rounding, not the lists
    one = narrow.nearest(narrow.space.images(asked), 10, all_of_them).numbers
    two = wide.nearest(wide.space.images(far), 10, all_of_them).numbers
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(one.tolist(), two.tolist(), strict=True)])
    print(f"shared neighbours (of ten, 500 queries, every list searched): {same:.4f}")


def things(url: str, queries: int = 400) -> None:
    """Precision@10 for each factor by each head and by the whole embedding, with 95 % bootstrap intervals."""
    run = Run(url)
    factors = ["label", *(f"attributes.{name}" for name in run.spec.attributes)]
    names = (*run.head_labels, EMBEDDING)
    truth = run.embedding([*factors])
    chosen = np.sort(np.random.default_rng(0).choice(len(truth), min(queries, len(truth)), replace=False))
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        index = HeadIndex.open(run, name, verify=False)
        found = index.search(run.vectors(name, ()).values[chosen], 11).numbers
        hits = [[n for n in row if n != own][:10] for row, own in zip(found.tolist(), chosen.tolist(), strict=True)]
        scores[name] = {f: (truth[f][np.array(hits)] == truth[f][chosen][:, None]).mean(axis=1) for f in factors}
    print(f"\n{len(truth):,} images of {url}, {len(chosen)} queries, precision@10 (95 % interval over queries)")
    for factor in factors:
        best = max(run.head_labels, key=lambda name: scores[name][factor].mean())
        values, counts = np.unique(truth[factor].astype(str), return_counts=True)
        chance = float(((counts / counts.sum()) ** 2).sum())
        difference = scores[best][factor] - scores[EMBEDDING][factor]
        print(
            f"{factor:>24}: embedding {interval(scores[EMBEDDING][factor])}, best head {best}"
            f" {interval(scores[best][factor])}, difference {interval(difference)}, chance {chance:.3f}"
            f" ({len(values)} values)"
        )


def interval(values: np.ndarray) -> str:
    """Mean and 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("million", "expanded", "things"))
    parser.add_argument("run", nargs="?")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    began = time.perf_counter()
    if arguments.what == "things":
        things(arguments.run)
        return
    with tempfile.TemporaryDirectory() as scratch:
        rows = 1_000_000 if arguments.what == "million" else 300_000
        task = million if arguments.what == "million" else expanded
        task(rows // 20 if arguments.quick else rows, Path(scratch))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"\n{os.cpu_count()} cores; {time.perf_counter() - began:.0f} s in all; largest child {peak / 1000:.0f} MB")


if __name__ == "__main__":
    main()
