"""A randomised, seeded trial: faults rain on a job until a number of them has struck, and nothing may be lost.

    python -m tests.cluster.chaos --seed 1 --faults 60 [--model DIR] [--folder DIR]

Several Ray nodes on this machine, a driver in a process of its own. Rounds follow each other, each a run of the same
shards, some of them appended while the others are not finished, until every fault of the plan has struck. After each
round the run's table is compared with that of the local engine: every sample exactly once, with its label, attributes
and vectors. Prints what was survived, as JSON.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

from clipaudit.job.engine_ray import with_patience
from clipaudit.run.directory import RunDirectory
from clipaudit.schema import OK
from tests.cluster.faults import IN_WORKERS

ROOT = Path(__file__).resolve().parent.parent.parent
ON_MACHINES = (
    "worker process killed",
    "worker process paused",
    "node killed",
    "driver killed",
    "driver asked to stop",
    "second driver of the same run",
    "shard out of reach for a while",
    "node added",
    "garbage collected in mid run",
)
SHARDS, IMAGES = 24, 24
ALL, FIRST = f"{{000..{SHARDS - 1:03d}}}.tar", "{000..009}.tar"  # named one by one: one out of reach is missed
MOST_SECONDS = 2400.0
MOST_DRIVERS = 60


class Trial:
    """One cluster, one plan of faults, as many rounds as the plan takes."""

    def __init__(self, folder, model, seed, faults, workers):
        self.folder, self.model, self.workers = folder, model, workers
        self.random = random.Random(seed)
        kinds = [*ON_MACHINES, *IN_WORKERS]
        self.plan = [kinds[number % len(kinds)] for number in range(faults)]
        self.random.shuffle(self.plan)
        self.struck, self.exits = Counter(), Counter()
        self.waiting = folder / "faults"
        self.waiting.mkdir(parents=True)
        self.drivers, self.repairs, self.rounds, self.restarts = [], [], 0, 0
        self.asked = []  # drivers that were sent SIGTERM
        self.retries, self.wrong = Counter(), Counter()
        self.appending = False

    # -- the stage ---------------------------------------------------------------------------------------------------

    def set_up(self):
        """Shards, the model, the table of the local engine, and the cluster."""
        make_data(self.folder / "data")
        self.reference = self.local_table()
        os.environ |= {
            "CHAOS_FAULTS": str(self.waiting),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": tempfile.mkdtemp(prefix="ray", dir="/tmp"),  # short: sockets allow about 100 characters
        }
        from ray.cluster_utils import Cluster

        quick = {
            "health_check_initial_delay_ms": 2000,
            "health_check_period_ms": 1000,
            "health_check_failure_threshold": 3,
        }
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
        self.cluster = with_patience(lambda: Cluster(initialize_head=True, head_node_args=head))
        for _ in range(self.workers):
            self.add_machine()

    def add_machine(self):
        with_patience(lambda: self.cluster.add_node(num_cpus=1))

    def tear_down(self):
        for driver in self.drivers:
            driver.kill()
            driver.wait()
        if hasattr(self, "cluster"):
            self.cluster.shutdown()
            shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)

    def config(self, out, shards=ALL, append=False, **execution):
        return {
            "shards": [f"{self.folder}/data/{shards}"],
            "out": str(out),
            "append": append,
            "model": {"name": self.model, "batch_size": 4},
            "fields": {"label": "cls", "attributes": ["json:name"]},
            "decode": {"decode_threads": 1},
            "execution": {"max_lost_samples": 1.0, **execution},
        }

    def local_table(self):
        import threading

        from pydantic import TypeAdapter

        from clipaudit.config import JobConfig
        from clipaudit.job.driver import Reporter, run_job
        from clipaudit.job.engine_local import LocalPool

        out = self.folder / "local"
        config = TypeAdapter(JobConfig).validate_python(self.config(out, engine="local"))
        run_job(config, LocalPool(config), Reporter(), threading.Event())
        return table_of(out)

    def start_driver(self):
        execution = {"workers": self.workers, "cpus_per_worker": 1, "max_shard_seconds": 12.0}
        path = self.out.with_suffix(".config.json")
        part = {"append": True} if self.appending else {"shards": FIRST}
        path.write_text(json.dumps(self.config(self.out, **part, address=self.cluster.address, **execution)))
        self.log = self.folder / f"{self.out.name}-driver-{self.restarts:02d}.log"
        self.restarts += 1
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "tests.cluster.faults", str(path)]
            self.drivers.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))

    # -- a round -----------------------------------------------------------------------------------------------------

    def play(self):
        started = time.monotonic()
        while self.plan or self.waits():
            self.rounds += 1
            self.round(started)
            self.judge()

    def waits(self):
        return len(list(self.waiting.glob("*.waiting")))

    def round(self, started):
        """One run from its first driver to the exit of the last; faults follow each other as commits do."""
        self.out = self.folder / f"run-{self.rounds}"
        self.appending = False  # first the run of ten shards, then all of them with --append
        directory = RunDirectory(str(self.out))
        seen, since = 0, time.monotonic()
        while True:
            assert time.monotonic() - started < MOST_SECONDS, f"no end in sight: see {self.log}"
            self.reap()
            self.repair()
            committed = len(directory.committed_ids()) if directory.exists() else 0
            assert self.restarts <= MOST_DRIVERS, f"drivers end and end without an end of the run: see {self.log}"
            if not self.drivers:
                if self.appending and committed == SHARDS and self.exits["last"] == 0:
                    return
                # also where drivers were killed before the first ten shards were done: the append finishes those
                self.appending = self.appending or committed > 0
                self.start_driver()
            # enough time for some work between two faults, else nothing would be left to destroy
            if self.plan and (committed > seen or time.monotonic() - since > 15) and self.waits() < 2:
                self.strike(self.plan.pop())
                seen, since = committed, time.monotonic()
            time.sleep(0.1)

    def reap(self):
        for driver in [driver for driver in self.drivers if driver.poll() is not None]:
            self.drivers.remove(driver)
            self.exits["last"] = driver.returncode
            self.exits[f"exit code {driver.returncode}"] += 1
            # a SIGTERM of ours that comes before the handler is set, or when the interpreter is shutting down
            expected = {0, 2, 4, -signal.SIGKILL} | ({-signal.SIGTERM} if driver in self.asked else set())
            assert driver.returncode in expected, f"a bug ended the driver ({driver.returncode}): see {self.folder}"

    def repair(self):
        """Undo what was meant to last only for a while."""
        for due, call in list(self.repairs):
            if time.monotonic() >= due:
                self.repairs.remove((due, call))
                call()

    def later(self, call):
        self.repairs.append((time.monotonic() + self.random.uniform(1, 4), call))

    # -- faults ------------------------------------------------------------------------------------------------------

    def strike(self, kind):
        if kind in IN_WORKERS:
            number = sum(self.struck.values())
            (self.waiting / f"{number:04d}.waiting").write_text(kind)
        elif not getattr(self, "_" + kind.replace(" ", "_"))():
            self.plan.insert(0, kind)  # nothing there to strike: later
            return
        self.struck[kind] += 1

    def processes(self):
        """Workers' processes that our own nodes have started."""
        found = []
        for node in self.cluster.worker_nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                found += [child for child in raylet.children() if "FaultyActor" in title(child)]
        return found

    def _worker_process_killed(self):
        found = self.processes()
        with contextlib.suppress(IndexError, psutil.NoSuchProcess):
            self.random.choice(found).kill()
            return True
        return False

    def _worker_process_paused(self):
        found = self.processes()
        with contextlib.suppress(IndexError, psutil.NoSuchProcess):
            process = self.random.choice(found)
            process.suspend()
            self.later(lambda: resume(process))
            return True
        return False

    def _node_killed(self):
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)
        if len(nodes) < self.workers:
            return False
        self.cluster.remove_node(self.random.choice(nodes), allow_graceful=False)
        self.later(self.add_machine)
        return True

    def _node_added(self):
        if len(self.cluster.worker_nodes) > self.workers:
            return True
        self.add_machine()
        return True

    def _driver_killed(self):
        for driver in self.drivers[:1]:
            driver.kill()
        return bool(self.drivers)

    def _driver_asked_to_stop(self):
        for driver in self.drivers[:1]:
            driver.send_signal(signal.SIGTERM)
            self.asked.append(driver)
        return bool(self.drivers)

    def _second_driver_of_the_same_run(self):
        if len(self.drivers) != 1:
            return False
        self.start_driver()
        return True

    def _shard_out_of_reach_for_a_while(self):
        path = self.random.choice(sorted((self.folder / "data").glob("*.tar")))
        away = path.rename(path.with_suffix(".away"))
        self.later(lambda: away.rename(path))
        return True

    def _garbage_collected_in_mid_run(self):
        from clipaudit.run.upkeep import gc

        if not RunDirectory(str(self.out)).exists():
            return False
        gc(str(self.out))
        return True

    # -- the verdict -------------------------------------------------------------------------------------------------

    def judge(self):
        """The run holds what the local engine's does, checks well, and gc leaves nothing but what is committed."""
        from clipaudit.run.integrity import check
        from clipaudit.run.upkeep import gc

        found = table_of(self.out)
        self.wrong.update(compare(self.reference, found))
        report = check(str(self.out))
        gc(str(self.out), min_age_seconds=0)
        directory = RunDirectory(str(self.out))
        kept = {name for record in directory.committed().values() for name in record.files}
        left = {
            e.path for e in directory.storage.walk() if e.path.startswith(("projections/", "moments/", "_attempts/"))
        }
        for path in self.folder.glob(f"{self.out.name}-driver-*.log"):
            for line in path.read_text().splitlines():
                if '"shard_retry"' in line:
                    self.retries[json.loads(line)["kind"]] += 1
        assert not self.wrong.total(), self.wrong
        assert report.problems == (), report.problems
        assert left == kept, left ^ kept
        shutil.rmtree(self.out)


def title(process):
    """What a process calls itself, nothing if it is gone: Ray's workers bear the name of their class."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def resume(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


def make_data(folder):
    """Shards whose every sample can be told from every other: by name, label and picture; some are broken."""
    from tests.make_shards import cut, jpeg_bytes, write_shard

    for number in range(SHARDS):
        samples = {}
        for i in range(IMAGES):
            unique = 1000 * number + i
            image = jpeg_bytes(40, 40, seed=unique)
            samples[f"s{i:03d}"] = {
                "jpg": image[:-300] if unique % 97 == 5 else image,
                "cls": "none" if unique % 89 == 7 else unique,
                "json": {"name": f"picture {unique}"},
            }
        path = write_shard(folder / f"{number:03d}.tar", samples)
        if number % 7 == 3:
            cut(path, path.stat().st_size * 2 // 3)


def table_of(out):
    """Every row of a run: identity to its plain columns and its vectors."""
    from clipaudit.run.reader import Run

    run = Run(str(out))
    plain = [
        "shard_id",
        "index",
        "key",
        "status",
        "label",
        "attributes",
        "width",
        "height",
        "phash",
        "offset",
        "nbytes",
    ]
    rows = Counter()
    facts, vectors = {}, {}
    for batch in run.batches([*plain, *run.spec.vectors]):
        for row in batch.to_pylist():
            identity = row["shard_id"], row["key"], row["index"]
            rows[identity] += 1
            facts[identity] = {name: row[name] for name in plain}
            if row["status"] == OK:
                vectors[identity] = np.frombuffer(b"".join(row[name] for name in run.spec.vectors), np.float16)
    return rows, facts, vectors


def compare(reference, found):
    """How many rows are lost, invented, repeated, mislabelled, or have the vectors of another picture."""
    (rows, facts, vectors), (their_rows, their_facts, their_vectors) = reference, found
    both = rows.keys() & their_rows.keys()
    ok = vectors.keys() & their_vectors.keys()
    return {
        "lost": len(rows.keys() - their_rows.keys()),
        "invented": len(their_rows.keys() - rows.keys()),
        "repeated": sum(count - 1 for count in their_rows.values()),
        "mislabelled": sum(facts[identity] != their_facts[identity] for identity in both),
        "other vectors": sum(not same(vectors[identity], their_vectors[identity]) for identity in ok),
    }


def same(a, b):
    """Equal but for the rounding to float16 and of another order of sums; for `b` (n, length) one answer a row."""
    return np.all(np.abs(a.astype(np.float32) - b) <= 1e-6 + 2e-3 * np.abs(a), axis=-1)


def distinguishable(reference):
    """Whether the vectors tell every picture from every other, so that `other vectors` means something."""
    values = np.stack(list(reference[2].values()))
    return not any(same(a, values[n + 1 :]).any() for n, a in enumerate(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--kinds", help="these instead of every kind in turn, separated by commas")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--model", default="demo", help="the model's directory")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos"))
    trial = Trial(folder, options.model, options.seed, options.faults, options.workers)
    if options.kinds:
        trial.plan = options.kinds.split(",")[::-1]
    started = time.monotonic()
    try:
        trial.set_up()
        assert distinguishable(trial.reference)
        trial.play()
    finally:
        trial.tear_down()
    rows, _, vectors = trial.reference
    trial.exits.pop("last")
    survived = {
        "seed": options.seed,
        "faults": sum(trial.struck.values()),
        "survived": dict(sorted(trial.struck.items())),
        "rounds": trial.rounds,
        "drivers": dict(trial.exits),
        "attempts made again": dict(trial.retries),
        "rows a round": len(rows),
        "ok rows a round": len(vectors),
        **trial.wrong,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(survived, indent=1))
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
