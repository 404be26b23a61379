"""The job's log for programs (`--log-format json`): one JSON object a line on stderr, one line an event.

docs/cluster.md lists the events and their keys. Every line has `time` (ISO 8601, UTC, milliseconds), `event` and `run`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from clipaudit.errors import ClipauditError
from clipaudit.job.driver import Reporter
from clipaudit.job.progress import STAGES, Rate, Tally, shares
from clipaudit.redact import redact

if TYPE_CHECKING:
    from clipaudit.config import JobConfig
    from clipaudit.job.driver import Plan
    from clipaudit.job.protocol import Failed, Ready, StartFailed, Task
    from clipaudit.run.records import CommitRecord, FailureRecord
    from clipaudit.run.upkeep import RunStatus

_PROGRESS_SECONDS = 10.0


class JsonReporter(Reporter):
    """Writes one job's events to stderr. A context manager, which writes `job_failed` when the job ends by an error."""

    def __init__(self, config: JobConfig) -> None:
        self._run = config.out
        self._rate = Rate()
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            code = error.exit_code if isinstance(error, ClipauditError) else ClipauditError.exit_code
            # Other errors than ours are not redacted yet.
            self._write("job_failed", error=redact(f"{type(error).__name__}: {error}"), exit_code=code)

    def listed(self, shards: int, committed: int) -> None:
        """Write `job_started`."""
        self._write("job_started", shards=shards, committed=committed)

    def appending(self, known: int, new: int) -> None:
        """Write `appending`."""
        self._write("appending", known=known, new=new)

    def comparing(self, shards: int, nbytes: int) -> None:
        """Write `comparing`."""
        self._write("comparing", shards=shards, bytes_in=nbytes)

    def plan(self, plan: Plan) -> None:
        """Write `planned`."""
        self._write(
            "planned",
            model=plan.facts.model["name"],
            agreement=plan.facts.model.get("agreement"),
            heads=len(plan.facts.table.heads),
            bytes_in=plan.bytes_in,
            estimated_images=plan.estimated_samples,
            estimated_bytes_out=plan.estimated_bytes_out,
        )

    def warning(self, sentence: str) -> None:
        """Write `warning`."""
        self._write("warning", text=sentence)

    def tick(self, tally: Tally) -> None:
        """Write `progress` every ten seconds: counts, speed, and how busy each stage was."""
        now = time.monotonic()
        speed = self._rate.update(now, tally.samples)
        if now - self._last_line < _PROGRESS_SECONDS:
            return
        self._last_line = now
        states = {name: getattr(tally, name) for name in ("running", "queued", "failed")}
        self._write(
            "progress",
            shards={"total": tally.shards_total, "committed": tally.shards_committed, **states},
            images=tally.samples,
            images_per_second=round(speed, 2),
            workers={"live": tally.workers, "ready": tally.workers_ready},
            busy={stage: round(share, 3) for stage, share in shares(tally.seconds).items()},
        )

    def worker_ready(self, ready: Ready) -> None:
        """Write `worker_ready`."""
        self._write("worker_ready", worker=ready.worker, host=ready.facts.host, device=ready.facts.device)

    def worker_failed(self, failed: StartFailed) -> None:
        """Write `worker_failed`."""
        self._write("worker_failed", worker=failed.worker, error=failed.error)

    def began(self, task: Task) -> None:
        """Write `shard_began`."""
        self._write_shard("shard_began", task, bytes_in=task.shard.size)

    def committed(self, task: Task, record: CommitRecord) -> None:
        """Write `shard_committed`, with rows, bytes and the seconds of each stage."""
        seconds = record.timings.get("total", 0.0)
        self._write_shard(
            "shard_committed",
            task,
            host=record.worker,
            rows=record.rows,
            ok=record.ok,
            skipped=record.skipped,
            truncated=record.truncated,
            bytes_in=record.input_size,
            bytes_out=sum(file.bytes for file in record.files.values()),
            seconds=round(seconds, 3),
            stage_seconds={stage: round(record.timings.get(stage, 0.0), 3) for stage in STAGES},
            images_per_second=round(record.rows / seconds, 2) if seconds > 0 else None,
        )

    def superseded(self, task: Task) -> None:
        """Write `shard_superseded`."""
        self._write_shard("shard_superseded", task)

    def retry(self, failed: Failed, counted: int) -> None:
        """Write `shard_retry`."""
        self._write_shard(
            "shard_retry", failed.task, kind=failed.kind, worker=failed.worker, error=failed.error, counted=counted
        )

    def gave_up(self, task: Task, failure: FailureRecord) -> None:
        """Write `shard_failed`; the traceback is in the run directory, under `_failed/`."""
        self._write_shard("shard_failed", task, kind=failure.kind, error=failure.error, attempts=failure.attempts)

    def stopping(self, signal_name: str) -> None:
        """Write `stopping`."""
        self._write("stopping", signal=signal_name)

    def done(self, status: RunStatus) -> None:
        """Write `job_done`, with the status of the run."""
        facts = asdict(status)
        self._write("job_done", **{name: value for name, value in facts.items() if name not in ("run", "timings")})

    def _write_shard(self, event: str, task: Task, **facts: Any) -> None:
        self._write(event, shard=task.shard.id, url=task.shard.url, attempt=task.attempt, **facts)

    def _write(self, event: str, **facts: Any) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, "event": event, "run": self._run, **facts}, ensure_ascii=False)
        print(line, file=sys.stderr, flush=True)
