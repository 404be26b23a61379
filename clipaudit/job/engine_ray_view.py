"""What the driver knows of one Ray actor: its state, its task, how that was lost, and when to start it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from clipaudit.job.protocol import Task

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(kw_only=True)
class ActorView:
    """The driver's view of one actor."""

    name: str
    """`worker-000`, `worker-001`, ..."""
    actor: Any
    """Ray's handle; another one after the actor was replaced."""
    state: Literal["starting", "idle", "busy", "failed"] = "starting"
    node: str = ""
    """Ray's id of the node that the process runs on; empty before it has started for the first time."""
    task: Task | None = None
    """The task that is running, or was lost and is not reported yet."""
    progressed_at: float = 0.0
    """Monotonic seconds when its samples were last seen to have grown."""
    lost_at: float | None = None
    """Monotonic seconds when the running task was lost. Its failure is reported once it is known whether the node was
    lost too."""
    lost_node: str = ""
    lost_error: str = ""
    killed: bool = False
    """The driver has killed the process because its task took too long."""
    broken: int = 0
    """Processes in a row that failed at a shard with an error that neither shards nor stores cause."""

    def pause(self) -> float:
        """Seconds to wait before the next process is started: doubled for each broken one, at most a minute.

        Without a pause a machine that breaks every process at once would use up the attempts of all shards while
        healthy machines are busy.
        """
        return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (self.broken - 1)) if self.broken else 0.0
