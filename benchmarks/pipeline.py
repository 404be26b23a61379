"""End to end: the job against a bare model loop on the same images, and Ray against the local engine.

    python benchmarks/pipeline.py 'photos-*.tar' [--model ViT-B-32] [--rounds 3] [--ray] [--json FILE]

The bare loop is plain `encode_image` over the same images, decoded and normalised beforehand and held in memory, in
batches of the same size: what the model alone could do. The job reads, decodes, decomposes, and writes Parquet and
moments. Rounds alternate; ratios are of medians of images/s. Loading the model is outside both.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch

from clipaudit.config import AuditConfig, DecodeConfig, ExecutionConfig, ModelConfig
from clipaudit.feed import ShardFeed
from clipaudit.fields import parse_fields
from clipaudit.images import ImageDecoder
from clipaudit.local import LocalPool
from clipaudit.model import Normaliser, load_model
from clipaudit.rundir import RunDirectory
from clipaudit.scheduler import Scheduler, Tally
from clipaudit.schema import OK
from clipaudit.shardlist import expand
from clipaudit.stages import make_manifest
from clipaudit.tasks import Pool
from clipaudit.upkeep import status


class BareLoop:
    """Plain `encode_image` over every image of the shards, from memory."""

    def __init__(self, config: AuditConfig) -> None:
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


class Job:
    """A pool whose worker stays loaded; each round is a run of its own."""

    def __init__(self, config: AuditConfig, pool: Pool) -> None:
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


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--pretrained", default="random-seed-0")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--decode-threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true", help="also run the job on a local Ray cluster")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp") as directory:
        config = AuditConfig(
            shards=tuple(options.shards),
            out=f"{directory}/local",
            model=ModelConfig(name=options.model, pretrained=options.pretrained, batch_size=options.batch_size),
            decode=DecodeConfig(decode_threads=options.decode_threads),
            execution=ExecutionConfig(engine="local"),
        )
        contestants: dict[str, BareLoop | Job] = {"bare loop": BareLoop(config)}
        contestants["local"] = Job(config, LocalPool(config))
        if options.ray:
            from clipaudit.cluster import RayPool

            ray_config = replace(config, out=f"{directory}/ray", execution=ExecutionConfig(engine="ray", workers=1))
            contestants["ray"] = Job(ray_config, RayPool(ray_config))
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name, contestant in contestants.items():
                speed = contestant.round()
                if number > 0:  # the first round warms up
                    speeds[name].append(speed)
        run = status(config.out)
        for contestant in contestants.values():
            if isinstance(contestant, Job):
                contestant.close()
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    result = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "model": f"{options.model} {options.pretrained}, batch {options.batch_size}",
        "images": run.ok,
        "images_per_second": medians,
        "local / bare loop": medians["local"] / medians["bare loop"],
        "bytes_per_image": run.bytes_stored / run.ok,
    }
    if options.ray:
        result["ray / local"] = medians["ray"] / medians["local"]
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps({**result, "rounds": speeds}, indent=2))


if __name__ == "__main__":
    main()
