"""What `doctor` prints: a line a subject, and under a note or a problem what to do."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape

from clipaudit.cli.console.format import count
from clipaudit.cli.installation import Finding, State

_MARKS: Final[dict[State, str]] = {
    "ok": "[green]ok[/green]",
    "note": "[yellow]note[/yellow]",
    "problem": "[red]problem[/red]",
}
_STATE_WIDTH: Final = 7
_SUBJECT_WIDTH: Final = 9


class DoctorReporter:
    """Prints findings as they come, since importing torch takes seconds."""

    def __init__(self, *, quiet: bool) -> None:
        """`quiet`: print nothing, for stdout holds JSON."""
        self._console = Console(highlight=False, quiet=quiet)

    def finding(self, finding: Finding) -> None:
        """Print one finding."""
        state = _MARKS[finding.state] + " " * (_STATE_WIDTH - len(finding.state))
        self._console.print(f"{state}  {finding.subject:{_SUBJECT_WIDTH}}  {escape(finding.text)}", soft_wrap=True)
        if finding.remedy:
            self._console.print(f"{'':{_STATE_WIDTH + _SUBJECT_WIDTH + 4}}{escape(finding.remedy)}", soft_wrap=True)

    def finished(self, problems: int) -> None:
        """Print what it comes to."""
        text = f"{count(problems, 'problem')}: see above" if problems else "All that clipaudit needs is there."
        self._console.print(text, soft_wrap=True)
