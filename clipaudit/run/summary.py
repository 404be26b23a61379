"""What a run holds, in one line of text or a small HTML table for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_NAMES = 4


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of the input a run holds."""

    shards: int
    committed: int
    truncated: int
    """Committed shards that ended early."""
    rows: int
    """Samples in committed shards."""
    ok: int
    skipped: dict[str, int]
    """Rows that are not ok, by status."""
    bytes_in: int
    """Bytes of all shards of the run."""
    bytes_good: int
    """Bytes of committed shards up to their last complete members."""

    @property
    def samples_share(self) -> float:
        """Ok rows among the rows of committed shards, 0..1; 1 when there are no rows."""
        return self.ok / self.rows if self.rows else 1.0

    @property
    def bytes_share(self) -> float:
        """Input bytes that were read whole, 0..1; 1 when the shards are empty."""
        return self.bytes_good / self.bytes_in if self.bytes_in else 1.0


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Which state of a run was read."""

    generation: int
    """The last one that was read, 0-based; each `audit --append` adds one."""
    generations: int
    """How many the run had by then."""
    committed_at: str
    """Time of the last commit that was read, ISO 8601, UTC; empty when nothing was committed."""
    asked: str | None = None
    """What was given behind the run's `@`; None for the newest state."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What is in a run."""

    url: str
    model: str
    heads: Sequence[str]
    """Stored heads."""
    head_dim: int
    """Coordinates of a head."""
    embed_dim: int
    """Numbers of an embedding."""
    columns: Sequence[str]
    """Plain columns, attributes as `attributes.NAME`."""
    coverage: Coverage | str
    """What is committed, or why that cannot be read."""

    def facts(self) -> dict[str, str]:
        """Each fact in words."""
        return {
            "images": self._images(),
            "shards": self._shards(),
            "heads": f"{len(self.heads)} heads of {self.head_dim} numbers ({_ends(self.heads)})",
            "embedding": f"{self.embed_dim} numbers, {self.model}",
            "columns": ", ".join(self.columns),
        }

    def text(self) -> str:
        """One line for `repr`."""
        facts = self.facts()
        return f"Run({self.url!r}: {facts['images']}; {facts['shards']}; {facts['heads']}; columns {facts['columns']})"

    def html(self) -> str:
        """A table for notebooks; whatever comes from the run's files is escaped."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html.escape(words)}</td></tr>"
            for name, words in self.facts().items()
        )
        return f"<table><caption>Run <code>{html.escape(self.url)}</code></caption>{rows}</table>"

    def _images(self) -> str:
        if isinstance(self.coverage, str):
            return self.coverage
        skipped = ", ".join(f"{count:,} {status}" for status, count in self.coverage.skipped.items())
        return f"{self.coverage.ok:,} images" + (f" ({skipped} left out)" if skipped else "")

    def _shards(self) -> str:
        if isinstance(self.coverage, str):
            return "shards unknown"
        partial = f", {self.coverage.truncated} of them cut off" if self.coverage.truncated else ""
        return f"{self.coverage.committed:,} of {self.coverage.shards:,} shards{partial}"


def _ends(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMES else f"{names[0]} to {names[-1]}"
