"""What every page needs: one way to make it from a template, and no characters that it must not hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import jinja2

_FORBIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


def templates(package: str) -> jinja2.Environment:
    """The templates in the `templates/` of a package: every value is escaped, one that is not given is an error."""
    import jinja2  # not needed by who draws SVG alone

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def without_forbidden(page: str) -> str:
    """A page with each forbidden character replaced by U+FFFD: those that HTML forbids, and those that turn the
    direction of what follows them. They can only come from hostile keys and texts.
    """
    return _FORBIDDEN.sub("\ufffd", page)
