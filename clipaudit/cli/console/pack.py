"""What `pack` prints: the plan, progress, what was written, and what was left out and why."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from clipaudit.cli.console.format import byte_count, count, print_facts
from clipaudit.cli.console.progress import ProgressBar
from clipaudit.cli.terminal import events, is_quiet, note, results
from clipaudit.shards.pack import REASONS, Packing

_NAMED: Final = 5


class PackReporter:
    """Prints one pack. A context manager."""

    def __init__(self, out: Path, *, quiet: bool) -> None:
        """`quiet`: everything is an event, for stdout holds JSON."""
        self._out = out
        self._console = events() if quiet else results()
        self._bar = ProgressBar("images")

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def planned(self, packing: Packing, *, dry_run: bool = False) -> None:
        """Print the plan: the result of `--dry-run`, else left out with `--quiet`, but for its notes."""
        if is_quiet() and not dry_run:
            for sentence in packing.notes:
                note(sentence)
            return
        facts = [
            ("source", packing.kind),
            ("images", f"{packing.images:,} of {byte_count(packing.nbytes)}"),
            (
                "classes",
                f"{len(packing.class_names):,}: {_some(packing.class_names)}" if packing.class_names else "none",
            ),
        ]
        splits = [f"{name} {number:,}" for name, number in packing.splits.items() if name]
        facts += [("splits", ", ".join(splits))] if splits else []
        if packing.columns:
            facts.append(("columns", f"{_some(packing.columns)} (for audit: --attributes json:NAME)"))
        facts.append(("shards", f"{packing.shards:,} in {self._out}"))
        facts += [("note", sentence) for sentence in packing.notes]
        print_facts(self._console, facts)

    def progress(self, done: int, total: int) -> None:
        """Show that `done` of `total` images are written."""
        self._bar(done, total)

    def left_out(self, packing: Packing) -> None:
        """Print what is left out, a line a reason."""
        facts = []
        for reason, number in sorted(packing.left_out.items(), key=lambda item: -item[1]):
            names = ", ".join(packing.examples[reason])
            facts.append(("left out", f"{number:,} {REASONS[reason]}: {names}{', ...' if number > 3 else ''}"))
        print_facts(self._console, facts)

    def finished(self, packing: Packing) -> None:
        """Print what was written, what was left out, and the command that comes next."""
        self._bar.__exit__(None, None, None)
        before = f" ({packing.finished_before:,} of them finished before)" if packing.finished_before else ""
        written = f"{count(packing.samples, 'image')} in {count(packing.shards, 'shard')}{before}"
        print_facts(self._console, [("written", f"{written}, {byte_count(packing.stored_bytes)}")])
        self.left_out(packing)
        shards = f"{self._out}/shard-{{000000..{packing.shards - 1:06d}}}.tar" if packing.shards > 1 else None
        lists = " --label json:objects" if "objects" in packing.columns else ""  # of COCO: several labels an image
        label = " --label cls" if packing.class_names else lists
        label += " --attributes json:split" if any(packing.splits) else ""
        command = f"clipaudit audit {shlex.quote(shards or f'{self._out}/shard-000000.tar')} --out RUN{label}"
        if not is_quiet():
            print_facts(self._console, [("next", command)])


def as_document(packing: Packing) -> dict[str, Any]:
    """What `--json` prints."""
    return asdict(packing)


def _some(names: list[str]) -> str:
    """The first few names, and that there are more."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
