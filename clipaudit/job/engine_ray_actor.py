"""What the driver knows of one remote worker: its state, its task, how that was lost, and when to start it again."""

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
    actor: Any
    state: Literal["starting", "idle", "busy", "failed"] = "starting"
    node: str = ""
    task: Task | None = None
    lost_at: float | None = None
    """When the running task was lost; its failure is reported once it is known whether the node went with it."""
    lost_node: str = ""
    lost_error: str = ""
    killed: bool = False
    broken: int = 0
    """Processes in a row that failed at a shard in a way that nobody foresaw."""

    def pause(self) -> float:
        """Seconds until a new process is worth a try: a machine that breaks each one at once must not use up the
        attempts of every shard while healthy ones are busy."""
        return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (self.broken - 1)) if self.broken else 0.0
