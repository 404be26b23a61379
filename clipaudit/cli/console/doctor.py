"""What `doctor` prints: a line a subject, and under a note or a problem what to do."""

from __future__ import annotations

from typing import Final

from clipaudit.cli.console.format import count
from clipaudit.cli.installation import Condition, State
from clipaudit.cli.terminal import plain, results

_MARKS: Final[dict[State, str]] = {
    "ok": "[green]ok[/green]",
    "note": "[yellow]note[/yellow]",
    "problem": "[red]problem[/red]",
}
_STATE_WIDTH: Final = 7
_SUBJECT_WIDTH: Final = 9


class DoctorReporter:
    """Prints conditions as they come, since importing torch takes seconds."""

    def __init__(self, *, quiet: bool) -> None:
        """`quiet`: print nothing, for stdout holds JSON."""
        self._console = results()
        self._console.quiet = quiet

    def condition(self, condition: Condition) -> None:
        """Print one line, and what to do."""
        state = _MARKS[condition.state] + " " * (_STATE_WIDTH - len(condition.state))
        self._console.print(f"{state}  {condition.subject:{_SUBJECT_WIDTH}}  {plain(condition.text)}", soft_wrap=True)
        if condition.remedy:
            self._console.print(f"{'':{_STATE_WIDTH + _SUBJECT_WIDTH + 4}}{plain(condition.remedy)}", soft_wrap=True)

    def finished(self, problems: int) -> None:
        """Print what it comes to."""
        text = f"{count(problems, 'problem')}: see above" if problems else "All that clipaudit needs is there."
        self._console.print(text, soft_wrap=True)
