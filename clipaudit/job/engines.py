"""The choice of engine: a table of the modules that run a job's workers, each imported when it is chosen."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from clipaudit.config import EngineName, ExecutionConfig, JobConfig
    from clipaudit.job.protocol import Pool

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Engine(Protocol):
    """What a module `job/engine_NAME.py` offers."""

    IN_THIS_PROCESS: bool
    """Whether `map_items` calls its function in this process; if not, function, items and results are pickled."""

    def make_pool(self, config: JobConfig) -> Pool:
        """The workers of one job, not started yet."""

    def map_items(
        self, function: Callable[[_Item, int, int], _Result], items: Sequence[_Item], execution: ExecutionConfig
    ) -> Iterator[_Result]:
        """`function(item, threads, callers)` for every item; results in any order.

        `threads` is how many threads the call may use, `callers` how many calls may run at the same time on its
        machine. Raises what the function raises, and RunInvalid when the process of one item was lost
        `execution.max_attempts` times.
        """


ENGINES: Final[Mapping[EngineName, str]] = {
    "ray": "clipaudit.job.engine_ray",
    "local": "clipaudit.job.engine_local",
}
"""`--engine` to the module that is its `Engine`."""


def load_engine(name: EngineName) -> Engine:
    """The module of an engine. It is imported here and not before, because Ray alone takes seconds to import."""
    return cast("Engine", importlib.import_module(ENGINES[name]))


def make_pool(config: JobConfig) -> Pool:
    """The workers of one job on the engine that `config.execution.engine` names, not started yet."""
    return load_engine(config.execution.engine).make_pool(config)
