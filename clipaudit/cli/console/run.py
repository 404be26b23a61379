"""What `status` and `check` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from clipaudit.cli.console.format import byte_count, count, print_facts
from clipaudit.cli.terminal import plain, results

if TYPE_CHECKING:
    from clipaudit.job.recompute import Recomputed
    from clipaudit.run.integrity import CheckReport
    from clipaudit.run.upkeep import RunStatus


def print_status(status: RunStatus, console: Console | None = None, *, details: int = 1) -> None:
    """Print the status of a run: shards, images by status with so many examples of each reason, bytes.

    On stdout unless a console is given.
    """
    console = console or results()
    facts = []
    shards = [f"{status.committed:,} of {status.shards:,} committed"]
    shards += [f"{status.partial:,} partial"] * bool(status.partial) + [f"{status.failed:,} failed"] * bool(
        status.failed
    )
    facts.append(("shards", ", ".join(shards)))
    if len(status.generations) > 1:
        for part in status.generations:
            what = f"{part.committed:,} of {count(part.shards, 'shard')}, {'begun' * (not part.generation) or 'added'}"
            facts.append((f"generation {part.generation}", f"{what} {part.created}"))
    skipped = ", ".join(f"{count:,} {name}" for name, count in sorted(status.skipped.items()))
    coverage = f" ({100 * status.coverage:.2f} % of {status.rows:,})" if status.rows else ""
    facts.append(("images", f"{status.ok:,} ok{coverage}" + (f"; skipped: {skipped}" if skipped else "")))
    if status.notes:
        facts.append(("noted", ", ".join(f"{count:,} {kind}" for kind, count in sorted(status.notes.items()))))
    for reason, examples in status.examples.items():
        facts += [(reason, example) for example in examples[:details]]
    if status.ok:
        size = f"{byte_count(status.bytes_stored)}, {byte_count(status.bytes_stored / status.ok)} an image"
        facts.append(("stored", size))
    facts += [("note", sentence) for sentence in status.remarks]
    print_facts(console, [*facts, ("run", status.run)])


def print_check(report: CheckReport) -> None:
    """Print the result of `check` on stdout."""
    console = results()
    for problem in report.problems:
        console.print(f"[red]problem[/red] {plain(problem)}", soft_wrap=True)
    for remark in report.remarks:
        console.print(f"[yellow]note[/yellow] {plain(remark)}", soft_wrap=True)
    console.print(
        f"checked {count(report.shards, 'shard')}, {report.rows:,} rows:"
        f" {count(len(report.problems), 'problem')}; largest remainder {report.largest_remainder:.1e}"
    )


def print_recomputed(recomputed: Recomputed) -> None:
    """Print the result of `check --model` on stdout."""
    console = results()
    for problem in recomputed.problems:
        console.print(f"[red]problem[/red] {plain(problem)}", soft_wrap=True)
    difference = f"largest difference {recomputed.largest_difference:.1e}"
    console.print(f"recomputed {count(recomputed.images, 'image')}: {difference}")
