"""Plain texts out of data, such as keys and labels, as they may stand in a line: on a terminal, in a list."""

from __future__ import annotations


def one_line(text: str) -> str:
    """A text with its control characters written as escapes, so that it stays on its line and commands no terminal.

    >>> one_line("two\\nlines") == "two\\\\nlines"
    True
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
