"""What no page may hold: characters that HTML forbids, and those that turn the direction of what follows them."""

import re
from typing import Final

_FORBIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


def without_forbidden(page: str) -> str:
    """A page with each such character, which can only come from hostile keys and texts, replaced by U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", page)
