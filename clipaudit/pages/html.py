"""HTML pages: the one place that makes jinja environments, and that removes characters no page may hold."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import jinja2

_FORBIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
"""Characters that HTML forbids, and those that change the direction of the text behind them."""


@cache
def template_environment(package: str) -> jinja2.Environment:
    """The environment of the templates in `templates/` of a package, such as `clipaudit.heads`; one for each package.

    Values are escaped, an undefined name is an error, and lines that hold a block tag alone leave no line behind.
    Raises ValueError when the package has no templates.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(template: jinja2.Template, **values: object) -> str:
    """The page that a template makes of `values`, without forbidden characters.

    Raises jinja2.UndefinedError for a name that the template needs and `values` does not have.
    """
    return without_forbidden(template.render(**values))


def without_forbidden(page: str) -> str:
    """The page with U+FFFD in place of each forbidden character, which only hostile keys and texts contain."""
    return _FORBIDDEN.sub("\ufffd", page)
