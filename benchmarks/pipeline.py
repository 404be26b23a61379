"""End to end: the job against a bare model loop on the same images, Ray against local, two workers against one.

    python benchmarks/pipeline.py 'photos-*.tar' [--model ViT-B-32] [--rounds 3] [--ray] [--json FILE]
    python benchmarks/pipeline.py 'photos-*.tar' --scaling --copies 8

The bare loop is plain `encode_image` over the same images, decoded and normalised beforehand and held in memory, in
batches of the same size: what the model alone could do. The job reads, decodes, decomposes, and writes Parquet and
moments. Rounds alternate, forwards and backwards in turn; ratios are of medians of images/s. Loading the model is
outside both. Bare loop, local engine and one Ray worker (--ray) have all cores; with --scaling every contestant has one
thread a worker: one and two bare loops in processes of their own, Ray jobs with one and two workers. Two bare loops
against twice one is what the machine itself allows. --copies takes each shard several times, so that rounds are long
and two workers share the work evenly.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import SMALL_MODEL, parse, parser_for

from clipaudit.config import DecodeConfig, ExecutionConfig, JobConfig, ModelConfig
from clipaudit.job.driver import make_manifest
from clipaudit.job.engine_local import LocalPool
from clipaudit.job.progress import Tally
from clipaudit.job.protocol import Pool
from clipaudit.job.scheduler import Scheduler
from clipaudit.model.loading import Normaliser, load_model
from clipaudit.run.directory import RunDirectory
from clipaudit.run.upkeep import status
from clipaudit.schema import OK
from clipaudit.shards.decoder import ImageDecoder
from clipaudit.shards.feed import ShardFeed
from clipaudit.shards.fields import parse_fields
from clipaudit.shards.listing import expand


class BareLoop:
    """Plain `encode_image` over every image of the shards, from memory."""

    def __init__(self, config: JobConfig) -> None:
        loaded = load_model(config.model)
        self._model, self._size = loaded.model, config.model.batch_size
        decoder = ImageDecoder(loaded.transform, config.decode)
        normalise = Normaliser(decoder.mean, decoder.std, loaded.device)
        pixels = []
        for shard in expand(config.shards):
            with ShardFeed(shard, parse_fields(config.fields), decoder, config.decode) as feed:
                pixels += [sample.image for sample in feed if sample.status == OK]
        self._images = normalise(pixels)

    def round(self) -> float:
        """Images/s."""
        started = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, len(self._images), self._size):
                self._model.encode_image(self._images[first : first + self._size], normalize=True)
        return len(self._images) / (time.perf_counter() - started)


class BareLoops:
    """Bare loops of one thread each, in processes of their own that work at the same time."""

    def __init__(self, config: JobConfig, number: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._processes = [
            ProcessPoolExecutor(1, mp_context=spawn, initializer=_load, initargs=(config,)) for _ in range(number)
        ]

    def round(self) -> float:
        """Images/s of all together, as slow as the slowest."""
        futures = [process.submit(_round) for process in self._processes]
        return len(futures) * min(future.result() for future in futures)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.shutdown()


def _load(config: JobConfig) -> None:
    global _loop
    torch.set_num_threads(1)
    _loop = BareLoop(config)


def _round() -> float:
    return _loop.round()


_loop: BareLoop


class Job:
    """A pool whose worker stays loaded; each round is a run of its own."""

    def __init__(self, config: JobConfig, pool: Pool) -> None:
        self._config, self._pool = config, pool
        self._shards = tuple(expand(config.shards))
        self.run_dir = RunDirectory(config.out)
        self._scheduler = Scheduler(self.run_dir, pool, config.execution, threading.Event())
        facts = self._scheduler.first_worker()
        self._manifest = self.run_dir.create_or_resume(make_manifest(config, facts, self._shards))

    def round(self) -> float:
        """Images/s."""
        shutil.rmtree(Path(self._config.out) / "_committed")
        (Path(self._config.out) / "_committed").mkdir()
        tally = Tally(shards_total=len(self._shards), shards_committed=0)
        started = time.perf_counter()
        self._scheduler.run(self._shards, self._manifest.fingerprint, tally)
        return tally.samples / (time.perf_counter() - started)

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


Contestant = BareLoop | BareLoops | Job


def at_full_width(config: JobConfig, folder: str, ray: bool) -> dict[str, Contestant]:
    """Everybody has all cores."""
    found: dict[str, Contestant] = {"bare loop": BareLoop(config)}
    local = replace(config, out=f"{folder}/local")
    found["local"] = Job(local, LocalPool(local))
    if ray:
        found["ray"] = ray_job(config, f"{folder}/ray", workers=1, cpus=os.cpu_count() or 1)
    return found


def one_thread_each(config: JobConfig, folder: str) -> dict[str, Contestant]:
    """One and two of each kind, one thread a worker."""
    return {
        "1 bare loop": BareLoops(config, 1),
        "2 bare loops": BareLoops(config, 2),
        "1 worker": ray_job(config, f"{folder}/ray1", workers=1, cpus=1),
        "2 workers": ray_job(config, f"{folder}/ray2", workers=2, cpus=1),
    }


def ray_job(config: JobConfig, out: str, workers: int, cpus: int) -> Job:
    """A job on the benchmark's own Ray, where several pools have room beside each other."""
    from clipaudit.job.engine_ray import RayPool

    execution = ExecutionConfig(engine="ray", workers=workers, cpus_per_worker=cpus)
    config = replace(config, out=out, execution=execution)
    return Job(config, RayPool(config))


def copied(patterns: list[str], copies: int, folder: Path) -> list[str]:
    """The shards under as many names each; symbolic links, no bytes."""
    names = []
    for copy in range(copies):
        for shard in expand(patterns):
            name = folder / f"{copy:03d}-{shard.id:06d}.tar"
            name.symlink_to(shard.url)
            names.append(str(name))
    return names


def ratios(speeds: dict[str, float]) -> dict[str, float]:
    """What the speeds say."""
    if "2 workers" in speeds:
        return {
            "1 worker / 1 bare loop": speeds["1 worker"] / speeds["1 bare loop"],
            "2 workers / 2 bare loops": speeds["2 workers"] / speeds["2 bare loops"],
            "2 workers / 2 x 1 worker": speeds["2 workers"] / (2 * speeds["1 worker"]),
            "2 bare loops / 2 x 1 bare loop": speeds["2 bare loops"] / (2 * speeds["1 bare loop"]),
        }
    found = {"local / bare loop": speeds["local"] / speeds["bare loop"]}
    if "ray" in speeds:
        found["ray / bare loop"] = speeds["ray"] / speeds["bare loop"]
        found["ray / local"] = speeds["ray"] / speeds["local"]
    return found


def main() -> None:
    """Run the rounds and print the table."""
    parser = parser_for(__doc__)
    parser.add_argument("shards", nargs="*")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--pretrained", default="random-seed-0")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--decode-threads", type=int, default=2)
    parser.add_argument("--decode-processes", type=int, default=0)
    parser.add_argument("--precision", default="fp32", help="of the job; the bare loop is fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=1, help="how often each shard is taken")
    parser.add_argument("--ray", action="store_true", help="also run the job on a local Ray cluster")
    parser.add_argument("--scaling", action="store_true", help="one worker against two, one thread each")
    parser.add_argument("--json", type=Path)
    options = parse(parser, needs_shards=True, model=SMALL_MODEL, rounds=1)
    with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp") as folder:
        config = JobConfig(
            shards=tuple(copied(options.shards, options.copies, Path(folder))),
            out=folder,
            model=ModelConfig(
                name=options.model,
                pretrained=options.pretrained or None,
                batch_size=options.batch_size,
                precision=options.precision,
            ),
            decode=DecodeConfig(decode_threads=options.decode_threads, decode_processes=options.decode_processes),
            execution=ExecutionConfig(engine="local"),
        )
        if options.ray or options.scaling:
            import ray

            temporary = f"{folder}/ray"  # short: Ray's sockets allow about 100 characters
            ray.init(address="local", num_cpus=64, include_dashboard=False, log_to_driver=False, _temp_dir=temporary)
        contestants = one_thread_each(config, folder) if options.scaling else at_full_width(config, folder, options.ray)
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name, contestant in list(contestants.items())[:: -1 if number % 2 else 1]:
                speed = contestant.round()
                if number > 0:  # the first round warms up
                    speeds[name].append(speed)
        job = next(contestant for contestant in contestants.values() if isinstance(contestant, Job))
        run = status(job.run_dir)
        for contestant in contestants.values():
            if not isinstance(contestant, BareLoop):
                contestant.close()
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()}, torch {torch.__version__}",
        "model": f"{options.model} {options.pretrained}, {options.precision}, batch {options.batch_size}",
        "images": run.ok,
        "images_per_second": medians,
        **ratios(medians),
        "bytes_per_image": run.bytes_stored / run.ok,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps({**result, "rounds": speeds}, indent=2))


if __name__ == "__main__":
    main()
