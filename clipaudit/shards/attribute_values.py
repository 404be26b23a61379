"""Values of attributes: numbers, booleans, texts and lists of texts, as the texts that are stored, and their kinds."""

from __future__ import annotations

import json

from clipaudit.shards.fields import Json, _as_text, _BadValue, _kind

BadValue = _BadValue
MAX_LIST: int = 1000
"""Texts of one list."""


def attribute_value(value: Json | object) -> tuple[str, str]:
    """(text, kind) of a value: a list of texts as a json array, of the kind `texts`; an empty text for null.

    Raises BadValue for an object, a list of other things than texts, a number that is not finite and a text that UTF-8
    cannot encode.
    """
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise BadValue("it is a list of other things than texts")
        if len(value) > MAX_LIST:
            raise BadValue(f"it is a list of more than {MAX_LIST} texts")
        return json.dumps([_as_text(item) for item in value], ensure_ascii=False), "texts"
    return _as_text(value), _kind(value)
