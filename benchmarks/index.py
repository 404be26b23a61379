"""The index's figures: recall, latency, bytes, build time and peak memory; beside one index of expanded contributions.

python benchmarks/index.py million            one head of 1,000,000 vectors, each kind within its memory, on two cores
python benchmarks/index.py expanded           64 numbers a head against the same contributions in 512
python benchmarks/index.py things RUN RUN2    retrieval by head and by the whole embedding, on two runs of `things`
python benchmarks/index.py copies RUN         which altered copies of a run's images `clipaudit duplicates` finds
python benchmarks/index.py --smoke            all four at their smallest sizes, to see that they run
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import made_runs, parse, parser_for
from roles import FACTORS

from clipaudit.errors import UsageError
from clipaudit.retrieval.build import BuildTask, build
from clipaudit.retrieval.card import EMBEDDING, Space
from clipaudit.retrieval.duplicates import DuplicatesConfig, find_duplicates
from clipaudit.retrieval.head_index import HeadIndex
from clipaudit.retrieval.retriever import Retriever
from clipaudit.retrieval.rowmap import segments_for
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run, Vectors
from clipaudit.schema import TableSpec
from tests.make_runs import make_basis, make_manifest, make_samples, write_attempt

ROOT = Path(__file__).resolve().parent.parent
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
    spec = TableSpec(heads=(HEAD,), head_dim=DIM, embed_dim=WIDE if expanded else DIM, label_kind="int")
    shards = -(-rows // SHARD_ROWS)
    directory = RunDirectory(str(where))
    manifest = make_manifest(spec, shards)
    directory.create_or_resume(manifest)
    basis = make_basis(spec) if expanded else {"Q": np.eye(DIM)[None, None], "T": np.eye(DIM)[None, None]}
    write_basis(directory, basis, {"tower": "synthetic"})
    for shard in manifest.shards:
        count = min(SHARD_ROWS, rows - shard.id * SHARD_ROWS)
        values = head_like(count, shard.id, kind)
        wide = values @ basis["Q"][0, 0] if expanded else np.ones((count, DIM), np.float32)
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
        "'cpu':u.ru_utime+u.ru_stime,'peak':c.peak_bytes}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(task)],
        capture_output=True,
        text=True,
        check=False,
        env={
            "OMP_WAIT_POLICY": "passive",
            **os.environ,
            "PYTHONPATH": str(ROOT),
        },  # no spinning where others compute too
    )
    if result.returncode:
        return {"error": result.stderr.strip().splitlines()[-1]}
    return json.loads(result.stdout)


def million(rows: int, scratch: Path) -> None:
    """Auto within two budgets, and the exact index beside it."""
    for kind in ("like a head", "harder"):
        where = scratch / f"{kind}-{rows}".replace(" ", "-")
        run = Run(str(where)) if where.exists() else make_run(where, rows, kind=kind)
        segments = segments_for(run)
        print(f"\n{rows:,} vectors of one head, {DIM} numbers, {kind}")
        print(
            f"{'--kind':>8} {'--memory':>9} {'--metric':>8} {'kind':>14} {'recall@10':>9} {'p50 ms':>7} {'p95 ms':>7}"
            f" {'bytes':>6} {'build s':>8} {'CPU s':>6} {'peak MB':>8} {'load':>5}"
        )
        budgets = [("auto", 4_000, "cosine"), ("auto", 4_000, "centred")]
        budgets += [("auto", 420, "cosine"), ("flat", 4_000, "cosine")] if kind == "like a head" else []
        for spec, megabytes, metric in budgets:
            load = os.getloadavg()[0]
            found = in_process(
                {
                    "run": str(where),
                    "name": HEAD,
                    "kind": spec,
                    "metric": metric,
                    "segments": segments,
                    "memory": megabytes * 10**6,
                    "threads": 2,
                }
            )
            if "error" in found:
                print(f"{spec:>8} {megabytes:>6} MB {metric:>8} {found['error']}")
                continue
            shape = found["kind"] + (f" {found['lists']}" if found["lists"] else "")
            print(
                f"{spec:>8} {megabytes:>6} MB {metric:>8} {shape:>14} {found['recall']:>9.3f} {found['p50']:>7.3f}"
                f" {found['p95']:>7.3f} {found['bytes']:>6.0f} {found['seconds']:>8.1f} {found['cpu']:>6.1f}"
                f" {found['peak'] / 1e6:>8.0f} {load:>5.1f}",
                flush=True,
            )


def expanded(rows: int, scratch: Path) -> None:
    """The head's own 64 numbers against its contributions in R^512, indexed alike."""
    where = scratch / f"expanded-{rows}"
    run = Run(str(where)) if where.exists() else make_run(where, rows, expanded=True)
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


def things(chosen_on: str, measured_on: str) -> None:
    """Precision@10 for each factor by heads and by the whole embedding, with 95 % bootstrap intervals.

    A factor's head is the best one on the first data set, and is measured on the second, which has none of its images;
    heads by role are those that `clipaudit heads` named in words. Queries are images that have the factor: a style
    other than photo, a tint other than none.
    """
    for metric in ("cosine", "centred"):
        things_by(Run(chosen_on), Run(measured_on), metric)


def things_by(choice: Run, run: Run, metric: str, queries: int = 1000) -> None:
    """The same for one metric."""
    known, truth = (found.embedding([f"attributes.{name}" for name in FACTORS]) for found in (choice, run))
    tried = {name: precision(choice, known, {name: 1.0}, queries, metric) for name in choice.head_labels}
    best = {factor: max(tried, key=lambda name: tried[name][factor].mean()) for factor in FACTORS}
    asked = {f"{factor} head {name}": {name: 1.0} for factor, name in best.items()}
    asked |= {f"role {factor}, {len(heads)} heads": heads for factor, heads in by_role(run).items()}
    whole = {"embedding, raw": precision(run, truth, {EMBEDDING: 1.0}, queries, "raw")}
    whole[f"embedding, {metric}"] = precision(run, truth, {EMBEDDING: 1.0}, queries, metric)
    found = whole | {label: precision(run, truth, heads, queries, metric) for label, heads in asked.items()}
    print(
        f"\n{metric}: precision@10 (95 % interval over queries) among the {len(truth):,} images of {run.directory.url}"
    )
    print(f"{'':>24}" + "".join(f"{factor:>26}" for factor in FACTORS))
    chance = [((truth[f"attributes.{f}"][:, None] == wanted(truth, f)).mean()) for f in FACTORS]
    print(f"{'chance':>24}" + "".join(f"{share:>26.3f}" for share in chance))
    for label, by_factor in found.items():
        print(f"{label:>24}" + "".join(f"{interval(by_factor[factor]):>26}" for factor in FACTORS))
    for factor in FACTORS:
        usual = max(whole, key=lambda label: whole[label][factor].mean())
        for label in (label for label in asked if factor in label.split(",")[0].split()):
            print(f"{factor}: {label} minus {usual}: {interval(found[label][factor] - found[usual][factor])}")


def copies(url: str, scratch: Path, count: int = 300) -> None:
    """Alter some of a run's images, audit them as a second run, and look for them in the first."""
    run, rng = Run(url), np.random.default_rng(0)
    rows = run.table(["status", "shard_id", "index", "key", "offset", "nbytes"]).to_pylist()
    rows = [rows[n] for n in rng.permutation(len(rows))[:count].tolist() if rows[n]["status"] == "ok"]
    scratch.mkdir(exist_ok=True)
    with tarfile.open(scratch / "altered.tar", "w") as tar:
        for row in rows:
            with fsspec.open(run.manifest.shards[row["shard_id"]].url, "rb") as file:
                file.seek(row["offset"])
                image = Image.open(io.BytesIO(file.read(row["nbytes"]))).convert("RGB")
            for name, changed in altered(image).items():
                info = tarfile.TarInfo(f"{name}-{row['shard_id']}-{row['index']}.jpg")
                buffer = io.BytesIO()
                changed.save(buffer, "JPEG", quality=60 if name == "jpeg60" else 95)
                info.size = buffer.tell()
                tar.addfile(info, io.BytesIO(buffer.getvalue()))
    identity = run.manifest.identity
    command = [sys.executable, "-m", "clipaudit", "audit", str(scratch / "altered.tar"), "--out", str(scratch / "run")]
    command += ["--model", identity["model"], "--layers", "1", "--engine", "local"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    found = find_duplicates(run, Run(str(scratch / "run")), DuplicatesConfig())
    table = [row for row in pq.read_table(found.table).to_pylist() if row["run"] == 1]
    places = {
        (row["shard_id"], row["key"]): row["index"] for row in run.table(["shard_id", "key", "index"]).to_pylist()
    }
    print(f"\n{len(rows)} images of {url}, altered; found as copies of the right image, and of another")
    for name in altered(Image.new("RGB", (64, 64))):
        hits = [
            row["key"] == f"{name}-{row['copy_shard_id']}-{places[row['copy_shard_id'], row['copy_key']]}"
            for row in table
            if row["key"].startswith(f"{name}-")
        ]
        print(f"{name:>12}: {sum(hits) / len(rows):.3f}, {(len(hits) - sum(hits)) / len(rows):.3f}")


def altered(image: Image.Image) -> dict[str, Image.Image]:
    """What happens to images on their way; `mirrored` and `quarter` are other pictures and should not be found."""
    width, height = image.size
    side = (width * 3 // 4, height * 3 // 4)
    edge = max(1, width // 32)
    return {
        "jpeg60": image,
        "resized": image.resize(side, Image.Resampling.LANCZOS),
        "brighter": ImageEnhance.Brightness(image).enhance(1.1),
        "trimmed": image.crop((edge, edge, width - edge, height - edge)),
        "mirrored": ImageOps.mirror(image),
        "quarter": image.crop((0, 0, width // 2, height // 2)),
    }


def wanted(truth: Vectors, factor: str) -> np.ndarray:
    """The values of a factor that images have; `photo` is no style, and `none` no tint."""
    values = truth[f"attributes.{factor}"]
    return values[~np.isin(values, ("photo", "none"))]


def by_role(run: Run) -> dict[str, dict[str, float]]:
    """Factor -> its heads by role, when the heads have been described: those whose property speaks of it."""
    found: dict[str, dict[str, float]] = {}
    for factor, properties in FACTORS.items():
        for role in sorted(properties):
            try:
                found.setdefault(factor, {}).update(dict.fromkeys(Retriever(run).heads_of_role(role), 1.0))
            except UsageError:
                continue
    return {factor: heads for factor, heads in found.items() if heads}


def precision(run: Run, truth: Vectors, weights: dict[str, float], queries: int, metric: str) -> dict[str, np.ndarray]:
    """Factor -> (q,) share of the ten best of an exact search, summed over heads, that have the query's value."""
    found = {}
    mean = {name: run.vectors(name, ()).values.mean(axis=0) for name in weights}
    rows = {name: Space(metric, 0 * mean[name] if metric == "raw" else mean[name]) for name in weights}
    prepared = {name: rows[name].images(run.vectors(name, ()).values) for name in weights}
    for factor in FACTORS:
        values = truth[f"attributes.{factor}"]
        places = np.flatnonzero(~np.isin(values, ("photo", "none")))
        places = np.sort(np.random.default_rng(0).permutation(places)[:queries])
        products = sum(weight * (prepared[name][places] @ prepared[name].T) for name, weight in weights.items())
        products[np.arange(len(places)), places] = -np.inf
        ten = np.argpartition(-products, 10, axis=1)[:, :10]
        found[factor] = (values[ten] == values[places][:, None]).mean(axis=1)
    return found


def interval(values: np.ndarray) -> str:
    """Mean and 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("what", nargs="?", choices=("million", "expanded", "things", "copies"))
    parser.add_argument("runs", nargs="*", help="heads are chosen on the first, and measured on the second")
    parser.add_argument("--rows", type=int, help="of `million` and `expanded` (default 1,000,000 and 100,000)")
    parser.add_argument("--scratch", type=Path, help="keep the made runs here, for the next time")
    options = parse(parser, rows=2000)
    if options.what is None and not options.smoke:
        parser.error("say what: million, expanded, things or copies")
    tasks = [options.what] if options.what else ["million", "expanded", "things", "copies"]
    runs = options.runs or (made_runs() if options.smoke and {"things", "copies"} & set(tasks) else [])
    if "things" in tasks and len(runs) != 2:
        parser.error("things wants two runs")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        scratch = options.scratch or Path(name)
        calls: dict[str, Callable[[], None]] = {
            "million": lambda: million(options.rows or 1_000_000, scratch),
            "expanded": lambda: expanded(options.rows or 100_000, scratch),
            "things": lambda: things(*runs),
            "copies": lambda: copies(runs[0], Path(name) / "copies", count=20 if options.smoke else 300),
        }
        for task in tasks:
            calls[task]()
    print(f"\n{os.cpu_count()} cores; {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
