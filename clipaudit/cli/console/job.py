"""What a user sees in the terminal: the plan, a progress bar with the bottleneck, the summary; stderr only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from clipaudit.job.driver import Reporter
from clipaudit.job.progress import Rate, Tally, bottleneck

if TYPE_CHECKING:
    from clipaudit.config import JobConfig
    from clipaudit.job.driver import Plan
    from clipaudit.job.protocol import Failed, StartFailed
    from clipaudit.job.recompute import Recomputed
    from clipaudit.run.check import CheckReport
    from clipaudit.run.upkeep import RunStatus

_PLAIN_SECONDS = 10.0  # without a terminal (job logs) one line at this interval instead of a bar


class ConsoleReporter(Reporter):
    """Shows one audit on stderr; a context manager, so that the bar never outlives the job."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("shards"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"),
            console=self._console,
            expand=True,
        )
        self._task: TaskID | None = None
        self._rate = Rate()
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def listed(self, shards: int, committed: int) -> None:
        """The shards are listed."""
        already = f", {committed:,} of them committed already" if committed else ""
        self._print(f"found {_count(shards, 'shard')}{already}")
        if committed < shards:
            self._print(f"[dim]loading {escape(self._config.model.name)} ...[/dim]")

    def plan(self, plan: Plan) -> None:
        """A worker is ready and the run directory is open."""
        table, model = plan.facts.table, self._config.model
        shards, images = _count(len(plan.shards), "shard"), plan.estimated_samples
        weights = f" {model.pretrained}" if model.pretrained else ""
        layers = sorted({name.split("H")[0] for name in table.heads})
        rows = [
            ("model", f"{model.name}{weights}, {model.precision} on {plan.facts.device}"),
            ("images", _preparation(plan.facts.model["preprocess"])),
            (
                "stored",
                f"{len(table.heads)} heads x {table.head_dim} in {', '.join(layers)}, embedding {table.embed_dim}",
            ),
            (
                "input",
                f"{shards}, {_bytes(plan.bytes_in)}, about {images:,} images",
            ),
            (
                "output",
                f"{_bytes(plan.bytes_per_image)} an image and {_bytes(plan.bytes_per_shard)} a shard,"
                f" about {_bytes(plan.estimated_bytes_out)} in {self._config.out}",
            ),
        ]
        agreement = plan.facts.model.get("agreement")
        if agreement:
            rows.insert(1, ("", _agreement(agreement)))
        if plan.facts.model["tower"]["pooling"] == "attention":
            remark = "it pools by attention: exact too, but slower, and each head takes as many numbers as the pool"
            rows.insert(1, ("", remark))
        grid = Table.grid(padding=(0, 2))
        for name, text in rows:
            grid.add_row(f"[dim]{name}[/dim]", escape(text))
        self._console.print(grid)
        if self._console.is_terminal:
            self._task = self._progress.add_task("audit", total=len(plan.shards), completed=plan.committed, speed="")
            self._progress.start()

    def warning(self, sentence: str) -> None:
        """What the user should know before the work begins."""
        self._print(f"[yellow]warning:[/yellow] {escape(sentence)}")

    def tick(self, tally: Tally) -> None:
        """Called about twice a second while shards are processed."""
        now = time.monotonic()
        speed = f"{self._rate.update(now, tally.samples):,.1f} images/s"
        if tally.workers_ready == 0:
            speed = "waiting for a worker"
        elif tally.seconds:
            speed += f", {bottleneck(tally.seconds)}"
        if self._task is not None:
            self._progress.update(self._task, completed=tally.shards_committed, speed=speed)
        elif now - self._last_line > _PLAIN_SECONDS:
            self._last_line = now
            self._print(f"{tally.shards_committed:,} of {_count(tally.shards_total, 'shard')}, {speed}")

    def worker_failed(self, failed: StartFailed) -> None:
        """A worker could not be started; a few times in a row it is tried again."""
        self._print(f"[yellow]{failed.worker} could not start:[/yellow] {escape(failed.error)}")

    def retry(self, failed: Failed, counted: int) -> None:
        """An attempt failed and its shard goes back to the queue."""
        self._print(f"[yellow]again:[/yellow] {escape(failed.error)}")

    def stopping(self, signal_name: str) -> None:
        """A first signal came."""
        self._print(f"[yellow]{signal_name}:[/yellow] the running shards finish; once more stops at once")

    def done(self, status: RunStatus) -> None:
        """Every shard is committed or has failed."""
        self._progress.stop()
        print_status(status, self._console)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def print_status(status: RunStatus, console: Console | None = None, *, details: int = 1) -> None:
    """The state of a run as a few lines, with so many examples of each reason; on stdout unless a console is given."""
    console = console or Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    shards = [f"{status.committed:,} of {status.shards:,} committed"]
    shards += [f"{status.partial:,} partial"] * bool(status.partial) + [f"{status.failed:,} failed"] * bool(
        status.failed
    )
    grid.add_row("[dim]shards[/dim]", ", ".join(shards))
    skipped = ", ".join(f"{count:,} {name}" for name, count in sorted(status.skipped.items()))
    coverage = f" ({100 * status.coverage:.2f} % of {status.rows:,})" if status.rows else ""
    grid.add_row("[dim]images[/dim]", f"{status.ok:,} ok{coverage}" + (f"; skipped: {skipped}" if skipped else ""))
    for reason, examples in status.examples.items():
        for example in examples[:details]:
            grid.add_row(f"[dim]{reason}[/dim]", escape(example))
    if status.ok:
        size = f"{_bytes(status.bytes_stored)}, {_bytes(status.bytes_stored / status.ok)} an image"
        grid.add_row("[dim]stored[/dim]", size)
    for sentence in status.remarks:
        grid.add_row("[yellow]note[/yellow]", escape(sentence))
    grid.add_row("[dim]run[/dim]", escape(status.run))
    console.print(grid)


def print_check(report: CheckReport) -> None:
    """The result of `clipaudit check`."""
    console = Console(highlight=False)
    for problem in report.problems:
        console.print(f"[red]problem[/red] {escape(problem)}", soft_wrap=True)
    for remark in report.remarks:
        console.print(f"[yellow]note[/yellow] {escape(remark)}", soft_wrap=True)
    console.print(
        f"checked {_count(report.shards, 'shard')}, {report.rows:,} rows:"
        f" {_count(len(report.problems), 'problem')}; largest remainder {report.largest_remainder:.1e}"
    )


def print_recomputed(recomputed: Recomputed) -> None:
    """The result of `clipaudit check --model`."""
    console = Console(highlight=False)
    for problem in recomputed.problems:
        console.print(f"[red]problem[/red] {escape(problem)}", soft_wrap=True)
    difference = f"largest difference {recomputed.largest_difference:.1e}"
    console.print(f"recomputed {_count(recomputed.images, 'image')}: {difference}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _bytes(number: float) -> str:
    """Bytes in units of 1000, as storage is sold and as the documentation counts."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def _preparation(settings: Mapping[str, Any]) -> str:
    """How the model's images are prepared, in a line."""
    mean, std = (", ".join(f"{value:.4g}" for value in settings[name]) for name in ("mean", "std"))
    size = settings["size"]
    pixels = f"{size[0]} x {size[1]}" if isinstance(size, (list, tuple)) else f"{size} x {size}"
    sides = {"shortest": "shorter side to size, middle cut out", "longest": "longer side to size, padded"}
    resized = sides.get(settings["resize_mode"], "squashed to size")
    return f"{pixels}, {resized} ({settings['interpolation']}); mean {mean}; std {std}"


def _agreement(found: dict[str, Any]) -> str:
    """How far a faster way of computing is from the plain one."""
    return (
        f"against fp32 on {found['images']} images of the first shard: least cosine {found['min_cosine']:.5f}, largest"
        f" difference {found['largest_difference']:.1e}, {found['time_ratio']:.2f} of the time"
    )
