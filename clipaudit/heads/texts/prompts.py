"""Prompt templates that class names go into: the published sets, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.storage.text_file import parse_lines, read_if_there

TEMPLATE_SETS: Final = ("imagenet", "simple", "single")
"""OpenAI's 80 templates for ImageNet; the 7 of them that do nearly as well; one."""
_TEMPLATES: Final = Path(__file__).parent / "templates"
SINGLE: Final = ("a photo of a {}.",)


def load_templates(spec: str = "imagenet") -> tuple[str, ...]:
    """Prompt templates with one `{}` each: a name of TEMPLATE_SETS, or a file with one a line.

    Raises UsageError when there is no such set or file, and naming the line that is no template.
    """
    if spec == "single":
        return SINGLE
    if spec in TEMPLATE_SETS:
        # a copy of CLIP's published prompts (MIT): open_clip has them too, but importing it brings torch
        return tuple((_TEMPLATES / f"{spec}.txt").read_text("utf-8").splitlines())
    data = read_if_there(spec)
    if data is None:
        raise UsageError(f"no templates {spec!r}: give {', '.join(TEMPLATE_SETS)} or a file with one a line")
    lines = parse_lines(data, spec)
    for line in lines:
        if len(line.columns) > 1 or line.columns[0].count("{}") != 1:
            raise UsageError(f"{spec}, line {line.number}: a template needs {{}} once, where the class name goes")
    if not lines:
        raise UsageError(f"{spec} has no templates: write one a line, with {{}} where the class name goes")
    return tuple(dict.fromkeys(line.columns[0] for line in lines))
