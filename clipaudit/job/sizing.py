"""How many workers a cluster holds, and the CPUs and GPUs of each: arithmetic on Ray's resources, without Ray."""

from __future__ import annotations

from collections.abc import Mapping

from clipaudit.config import ExecutionConfig, JobConfig
from clipaudit.errors import UsageError

_CPUS_PER_WORKER = 4.0


def workers_and_resources(config: JobConfig, cluster: Mapping[str, float]) -> tuple[int, float, float]:
    """(workers, CPUs of each, GPUs of each) for a cluster's resources (`{"CPU": 8.0, "GPU": 1.0, ...}`).

    What the configuration gives stays as given. Raises UsageError when the cluster has too little and `--workers` was
    not given.
    """
    execution = config.execution
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    wants_gpu = config.model.device.startswith("cuda") or (config.model.device == "auto" and gpus > 0)
    per_gpu = execution.gpus_per_worker if execution.gpus_per_worker is not None else float(wants_gpu)
    if cpus == 0 and gpus == 0 and execution.workers is None:
        raise UsageError("the cluster has no CPUs or GPUs yet: give --workers (and --gpus-per-worker)")
    if execution.workers is not None:
        workers = execution.workers
    elif per_gpu > 0:
        workers = int(gpus / per_gpu)
        if workers == 0:
            raise UsageError(f"the cluster has {gpus:g} GPUs, fewer than --gpus-per-worker {per_gpu:g}: give --workers")
    else:
        workers = max(1, int(cpus // (execution.cpus_per_worker or _CPUS_PER_WORKER)))
    share = max(1.0, cpus // workers) if cpus else 1.0
    return workers, execution.cpus_per_worker or min(_CPUS_PER_WORKER, share), per_gpu


def workers_that_fit(cpus: float, gpus: float, cluster: Mapping[str, float]) -> int:
    """How many workers with `cpus` CPUs and `gpus` GPUs each fit into a cluster's resources; 0 when both are 0."""
    needs = (("CPU", cpus), ("GPU", gpus))
    return min((int(cluster.get(name, 0.0) / amount) for name, amount in needs if amount > 0), default=0)


def callers_and_cpus(execution: ExecutionConfig, items: int, cluster: Mapping[str, float]) -> tuple[int, float]:
    """(actors, CPUs of each) for `items` pieces of work without a GPU: at most an actor an item, all CPUs in use."""
    cpus = max(1.0, cluster.get("CPU", 1.0))
    workers = execution.workers or max(1, min(items, int(cpus // (execution.cpus_per_worker or 1))))
    return workers, execution.cpus_per_worker or max(1.0, cpus // workers)
