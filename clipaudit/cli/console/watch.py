"""What `status --watch` prints: a panel that is updated in a terminal, else plain lines or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from clipaudit.cli.console.format import duration
from clipaudit.cli.streams import reader_is_gone
from clipaudit.cli.terminal import plain, results
from clipaudit.job.watch import Sight, Watcher

_BAR_WIDTH = 40


def watch(run: str, interval_seconds: float, as_json: bool) -> None:
    """Show a run until it is done or the user interrupts. Raises RunNotFound when there is none."""
    watcher = Watcher(run)
    console = results()
    try:
        if as_json or not console.is_terminal:
            for sight in _looks(watcher, interval_seconds):
                line = json.dumps(asdict(sight)) if as_json else _line(sight)
                print(line, file=sys.stdout, flush=True)
                if reader_is_gone():
                    return
            return
        with Live(console=console, auto_refresh=False) as live:
            for sight in _looks(watcher, interval_seconds):
                live.update(panel(sight), refresh=True)
    except KeyboardInterrupt:  # Ctrl-C ends the watching only; the job goes on
        return


def _looks(watcher: Watcher, interval_seconds: float) -> Iterator[Sight]:
    """The run at intervals, until it is done."""
    while True:
        sight = watcher.look()
        yield sight
        if sight.done:
            return
        time.sleep(interval_seconds)


def panel(sight: Sight) -> Table:
    """The panel of one moment."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("[dim]run[/dim]", plain(sight.run))
    grid.add_row("", ProgressBar(total=max(1, sight.bytes_in), completed=sight.bytes_committed, width=_BAR_WIDTH))
    failed = f", [red]{sight.failed:,} failed[/red]" if sight.failed else ""
    grid.add_row(
        "[dim]shards[/dim]",
        f"{sight.committed:,} of {sight.shards:,} committed{failed}, {sight.attempts:,} begun",
    )
    skipped = ", ".join(f"{count:,} {name}" for name, count in sight.skipped.items())
    grid.add_row("[dim]images[/dim]", f"{sight.ok:,} ok" + (f"; skipped: {skipped}" if skipped else ""))
    grid.add_row("[dim]speed[/dim]", _speed(sight))
    if sight.last_commit:
        grid.add_row("[dim]last commit[/dim]", sight.last_commit)
    return grid


def _line(sight: Sight) -> str:
    failed = f", {sight.failed:,} failed" if sight.failed else ""
    return f"{sight.committed:,} of {sight.shards:,} shards{failed}, {sight.ok:,} images ok, {_speed(sight)}"


def _speed(sight: Sight) -> str:
    if sight.done:
        return "done"
    if sight.seconds_left is None:
        return "no shard is committed yet"
    waits = f", {sight.bottleneck}" if sight.bottleneck else ""
    return f"{sight.images_per_second:,.1f} images/s{waits}, {duration(sight.seconds_left)} left at this rate"
