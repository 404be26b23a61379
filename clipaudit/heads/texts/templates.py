"""Prompt templates that class names go into: the published sets, or a file."""

from __future__ import annotations

from typing import Final

from clipaudit.errors import UsageError
from clipaudit.storage.text_file import parse_lines, read_if_there

TEMPLATE_SETS: Final = ("imagenet", "simple", "single")
"""OpenAI's 80 templates for ImageNet; the 7 of them that do nearly as well; one."""
SINGLE: Final = ("a photo of a {}.",)


def load_templates(spec: str = "imagenet") -> tuple[str, ...]:
    """Prompt templates with one `{}` each: a name of TEMPLATE_SETS, or a file with one a line.

    Raises UsageError when there is no such set or file, and naming the line that is no template.
    """
    if spec == "single":
        return SINGLE
    if spec in TEMPLATE_SETS:
        from open_clip import zero_shot_metadata as metadata  # brings torch

        makers = metadata.OPENAI_IMAGENET_TEMPLATES if spec == "imagenet" else metadata.SIMPLE_IMAGENET_TEMPLATES
        return tuple(str(make("{}")) for make in makers)
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
