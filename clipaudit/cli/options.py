"""What the commands have in common: arguments, options and JSON on stdout; imports nothing heavy."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from clipaudit.errors import UsageError

RunArgument = Annotated[str, typer.Argument(help="Run directory, a local path or any fsspec URL.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def option(text: str, *names: str, panel: str | None = None) -> Any:  # noqa: ANN401 - typer's own type is untyped
    """An option whose default stands in its help text."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def where_option(what: str, panel: str | None = None) -> Any:  # noqa: ANN401 - as in `option`
    """A repeatable option of filters; `what` says what they choose, such as `Only rows`."""
    return option(
        f"{what} that pass a filter: split=test, \"label = 3 and (light < 9 or place in ('land', 'water'))\";"
        " repeatable, all must hold.",
        panel=panel,
    )


_IMAGES = "Images"
ImageMeanOption = Annotated[
    str | None, option("Mean of red, green, blue, such as 0.5,0.5,0.5 [the weights'].", "--image-mean", panel=_IMAGES)
]
ImageStdOption = Annotated[
    str | None, option("Standard deviation of red, green, blue [the weights'].", "--image-std", panel=_IMAGES)
]
ImageResizeOption = Annotated[
    str | None, option("shortest, longest or squash [the weights'].", "--image-resize", panel=_IMAGES)
]
ImageInterpolationOption = Annotated[
    str | None, option("bicubic or bilinear [the weights'].", "--image-interpolation", panel=_IMAGES)
]


def image_settings(mean: str | None, std: str | None, resize: str | None, interpolation: str | None) -> dict[str, Any]:
    """The four options as fields of ModelConfig; None for what was not given. Raises UsageError."""
    return {
        "image_mean": _numbers("--image-mean", mean),
        "image_std": _numbers("--image-std", std),
        "image_resize": resize,
        "image_interpolation": interpolation,
    }


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{name} must be three numbers such as 0.5,0.5,0.5, not {text!r}") from error
    return numbers * 3 if len(numbers) == 1 else numbers


def listed(texts: list[str] | None) -> tuple[str, ...]:
    """The values of an option that may be repeated and may hold commas: `--heads L10H00,L11H03 --heads L11H05`."""
    return tuple(part.strip() for text in texts or () for part in text.split(",") if part.strip())


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """UsageError naming the option unless the value is among those allowed."""
    if value not in allowed:
        raise UsageError(f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {value!r}")


def print_json(value: object) -> None:
    """Indented JSON and a newline on stdout."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
