"""What a user calls part of the class: values and columns that must exist, for a slip would be ignored in silence."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

from clipaudit.cues.result.column_words import core_word
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.errors import UsageError

_LISTED = 8


def check_core(core: Collection[str], columns: Iterable[Mapping[str, Attribute]], texts: Collection[str]) -> None:
    """UsageError for a core value that is no value or name of the attributes, by column, and no text of the audit."""
    if not core:
        return
    names: dict[str, None] = {}
    for by_column in columns:
        for column, attribute in by_column.items():
            names |= dict.fromkeys([column, column.rpartition(".")[2], *attribute.values])
            names |= dict.fromkeys(f"{column}={value}" for value in attribute.values)
            names |= dict.fromkeys(core_word(column, value) for value in attribute.values)
    known = {*names, *texts}
    for wanted in core:
        if wanted not in known:
            nearest = difflib.get_close_matches(wanted, known, n=1)
            available = ", ".join([*names][:_LISTED]) + (", ..." if len(names) > _LISTED else "")
            meant = f"did you mean {nearest[0]}? " if nearest else ""
            given = f"the columns and values are {available}" if names else "no column is given with --attribute"
            raise UsageError(f"--core {wanted!r} is no value, column or text of the audit: {meant}{given}")
