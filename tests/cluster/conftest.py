"""One local Ray cluster for the tests of a worker that need no cluster of a kind of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.commands import free_port


@pytest.fixture(scope="session")
def _ray_directory() -> Iterator[tuple[str, int]]:
    """Where the cluster keeps its files, and the port of its metrics."""
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: Ray's sockets allow about 100 characters
    yield directory, free_port()
    import ray

    ray.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_metrics(_ray_directory) -> str:
    """A cluster of one node with two CPUs is joined; the address of its metrics. It is kept for the next module."""
    import ray

    from clipaudit.job.engine_ray import with_patience

    directory, port = _ray_directory
    if not ray.is_initialized():
        options = {"include_dashboard": False, "log_to_driver": False, "_metrics_export_port": port}
        with_patience(lambda: ray.init(address="local", num_cpus=2, _temp_dir=directory, **options))
    return f"http://{ray.util.get_node_ip_address()}:{port}/metrics"
