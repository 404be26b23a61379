"""What `audit` prints, all of it on stderr: the plan, a progress bar with the bottleneck, the summary."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from clipaudit.cli.console.format import byte_count, count, duration, print_facts
from clipaudit.cli.console.run import print_status
from clipaudit.cli.terminal import events, plain, remarks
from clipaudit.job.driver import Reporter
from clipaudit.job.progress import Rate, Tally, bottleneck

if TYPE_CHECKING:
    from clipaudit.config import JobConfig
    from clipaudit.job.driver import Plan
    from clipaudit.job.protocol import Failed, StartFailed
    from clipaudit.run.upkeep import RunStatus
    from clipaudit.schema import LabelKind

_LINE_SECONDS = 10.0  # without a terminal (in the log of a job) one line at this interval instead of a bar

_KINDS: Final[dict[LabelKind, str]] = {
    "int": "numbers",
    "string": "names",
    "ints": "lists of numbers",
    "strings": "lists of names",
}


class ConsoleReporter(Reporter):
    """Shows one job on stderr. A context manager, whose end removes the bar."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._console = events()
        self._remarks = remarks()
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
        self._images_left = 0
        self._rate = Rate()
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def listed(self, shards: int, committed: int) -> None:
        """Print how many shards there are, and how many of them are committed already."""
        already = f", {committed:,} of them committed already" if committed else ""
        self._print(f"found {count(shards, 'shard')}{already}")
        if committed < shards:
            self._print(f"[dim]loading {plain(self._config.model.name)} ...[/dim]")

    def appending(self, known: int, new: int) -> None:
        """Print how many of the named shards the run has, and how many are added."""
        self._print(f"{known:,} known, {new:,} new")

    def labels(self, kind: LabelKind, example: str) -> None:
        """Print what labels are read as."""
        self._print(f"labels {self._config.fields.label} are {_KINDS[kind]}, such as {plain(example)}")

    def comparing(self, shards: int, nbytes: int) -> None:
        """Print that contents are compared, which takes the time of reading them."""
        self._print(f"comparing the contents of {count(shards, 'shard')} ({byte_count(nbytes)}), whose times changed")

    def plan(self, plan: Plan) -> None:
        """Print model, columns, input and output, and start the bar."""
        self._images_left = round(plan.estimated_samples * (1 - plan.committed / max(1, len(plan.shards))))
        table, model = plan.facts.table, self._config.model
        shards, images = count(len(plan.shards), "shard"), plan.estimated_samples
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
                f"{shards}, {byte_count(plan.bytes_in)}, about {images:,} images",
            ),
            (
                "output",
                f"{byte_count(plan.bytes_per_image)} an image and {byte_count(plan.bytes_per_shard)} a shard,"
                f" about {byte_count(plan.estimated_bytes_out)} in {self._config.out}",
            ),
        ]
        agreement = plan.facts.model.get("agreement")
        if agreement:
            rows.insert(1, ("", _agreement(agreement)))
        if plan.facts.model["tower"]["pooling"] == "attention":
            remark = "it pools by attention: exact too, but slower, and each head takes as many numbers as the pool"
            rows.insert(1, ("", remark))
        print_facts(self._console, rows)
        if self._console.is_terminal:
            self._task = self._progress.add_task("audit", total=len(plan.shards), completed=plan.committed, speed="")
            self._progress.start()

    def warning(self, sentence: str) -> None:
        """Print a warning."""
        self._warn("warning:", sentence)

    def tick(self, tally: Tally) -> None:
        """Update the bar, or print a line every ten seconds: shards, speed, bottleneck and the time that is left."""
        now = time.monotonic()
        rate = self._rate.update(now, tally.samples)
        speed = f"{rate:,.1f} images/s"
        if tally.workers_ready == 0:
            speed = "waiting for a worker"
        elif tally.seconds:
            speed += f", {bottleneck(tally.seconds)}"
        if rate > 0 and self._images_left > tally.samples:
            speed += f", {duration((self._images_left - tally.samples) / rate)} left"
        if self._task is not None:
            self._progress.update(self._task, completed=tally.shards_committed, speed=speed)
        elif now - self._last_line > _LINE_SECONDS:
            self._last_line = now
            self._print(f"{tally.shards_committed:,} of {count(tally.shards_total, 'shard')}, {speed}")

    def worker_failed(self, failed: StartFailed) -> None:
        """Print why a worker could not be started."""
        self._warn(f"{failed.worker} could not start:", failed.error)

    def retry(self, failed: Failed, counted: int) -> None:
        """Print why an attempt failed whose shard is tried again."""
        self._warn("again:", failed.error)

    def stopping(self, signal_name: str) -> None:
        """Print that the job stops after the running shards, because of a signal."""
        self._warn(f"{signal_name}:", "the running shards finish; a second signal stops at once")

    def done(self, status: RunStatus) -> None:
        """Remove the bar and print the status of the run."""
        self._progress.stop()
        print_status(status, self._console)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _warn(self, title: str, sentence: str) -> None:
        self._remarks.print(f"[yellow]{plain(title)}[/yellow] {plain(sentence)}", soft_wrap=True)


def _preparation(settings: Mapping[str, Any]) -> str:
    """How the model's images are prepared, in a line."""
    mean, std = (", ".join(f"{value:.4g}" for value in settings[name]) for name in ("mean", "std"))
    size = settings["size"]
    pixels = f"{size[0]} x {size[1]}" if isinstance(size, (list, tuple)) else f"{size} x {size}"
    sides = {"shortest": "shorter side to size, middle cut out", "longest": "longer side to size, padded"}
    resized = sides.get(settings["resize_mode"], "squashed to size")
    return f"{pixels}, {resized} ({settings['interpolation']}); mean {mean}; std {std}"


def _agreement(facts: dict[str, Any]) -> str:
    """How far a faster option is from fp32, in one line; `facts` is an `Agreement` as run.json has it."""
    return (
        f"against fp32 on {facts['images']} images of the first shard: least cosine {facts['min_cosine']:.5f}, largest"
        f" difference {facts['largest_difference']:.1e}, {facts['time_ratio']:.2f} of the time"
    )
