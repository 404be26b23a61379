"""What the commands have in common: arguments, options, checks and JSON on stdout; imports nothing heavy."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from clipaudit.config import ModelConfig, Precision


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


ROWS, TEXTS = "Rows", "Texts"
"""Panels of the help."""

RunArgument = Annotated[
    str,
    typer.Argument(
        help="Run directory, a local path or any fsspec URL; RUN@2 or RUN@2026-11-01 is what it was.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
SeedOption = Annotated[int, typer.Option(help="Of everything that is drawn at random [0].", min=0, show_default=False)]
OutOption = Annotated[str | None, option("Directory for the results, a path or URL [inside the run].")]

# Commands that run a model on images
ModelOption = Annotated[str, option("open_clip name, model directory, hf-hub:ORG/NAME or demo [ViT-B-32].")]
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
PretrainedOption = Annotated[
    str | None, option("open_clip weight tag, checkpoint file, or random-seed-N for untrained weights.")
]
PrecisionOption = Annotated[str, option("fp32, bf16 or fp16 [fp32].")]
ModelDeviceOption = Annotated[str, option("auto, cpu, cuda, cuda:N or mps [auto].")]

# Commands that read a run and ask its model for texts or a few images
DeviceOption = Annotated[str, option("Where the model runs: auto, cpu, cuda, cuda:N or mps [auto].")]
TextDeviceOption = Annotated[str, option("Where the text encoder runs: auto, cpu, cuda, cuda:N or mps [auto].")]
TextsOption = Annotated[
    str | None,
    option(
        "Texts, one a line, or text, tab, property; a path or URL [our own pool; the demo model's words].", panel=TEXTS
    ),
]
CriterionOption = Annotated[
    str,
    option("explained (variance that a text adds) or reference (the published code's) [explained].", panel=TEXTS),
]
AllocationOption = Annotated[
    str,
    option("Parts of the embedding: own, or published (that code's; needs audit --components) [own].", panel=TEXTS),
]
WhereOption = Annotated[list[str] | None, where_option("Only rows", panel=ROWS)]

# Commands on heat maps
BlocksOption = Annotated[int | None, option("Surgery: last blocks that have the second path [6].")]
SideOption = Annotated[
    int | None,
    option("Whole pictures with about so many pixels on the shorter side; implies --whole [the model's].", "--side"),
]
POSITIONS = ("bicubic", "bilinear")
PositionsOption = Annotated[
    str,
    option("Position embeddings at other sizes: bicubic, or bilinear as CLIP Surgery's code [bicubic].", "--positions"),
]
FORMS = ("paper", "code")
FormOption = Annotated[str, option("Surgery of features: paper, or code as it was released [paper].")]


def listed(texts: Sequence[str] | None) -> tuple[str, ...]:
    """The values of an option that may be repeated and may hold commas: `--heads L10H00,L11H03 --heads L11H05`."""
    return tuple(part.strip() for text in texts or () for part in text.split(",") if part.strip())


def check_positions(positions: str, *, whole: bool, side: int | None) -> None:
    """UsageError for an unknown --positions, and for one that changes nothing: pictures have the model's own size."""
    one_of("--positions", positions, POSITIONS)
    if positions != POSITIONS[0] and not whole and side is None:
        raise UsageError(f"--positions {positions} changes nothing at the model's own size: give --side N or --whole")


def check_form(form: str, methods: Sequence[str]) -> None:
    """UsageError for an unknown --form, and for one that no method uses; no methods: the default ones."""
    one_of("--form", form, FORMS)
    if form != FORMS[0] and methods and "surgery" not in methods:
        raise UsageError(f"--form {form} belongs to --method surgery, and not to {', '.join(methods)}")


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UsageError naming the option unless the value is among those allowed (two or more)."""
    if value not in allowed:
        raise UsageError(f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {value!r}")


def at_least(name: str, value: int | None, least: int) -> None:
    """Raise UsageError naming the option when its value is given and below `least`."""
    if value is not None and value < least:
        raise UsageError(f"{name} must be at least {least}, not {value}")


def image_settings(mean: str | None, std: str | None, resize: str | None, interpolation: str | None) -> dict[str, Any]:
    """The four options as fields of ModelConfig; None for what was not given. Raises UsageError."""
    return {
        "image_mean": _three_numbers("--image-mean", mean),
        "image_std": _three_numbers("--image-std", std),
        "image_resize": resize,
        "image_interpolation": interpolation,
    }


def _three_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{name} must be three numbers such as 0.5,0.5,0.5, not {text!r}") from error
    return numbers * 3 if len(numbers) == 1 else numbers


def model_config(
    name: str,
    pretrained: str | None,
    precision: str,
    device: str,
    batch_size: int = 32,
    *,
    images: Mapping[str, Any] = MappingProxyType({}),
) -> ModelConfig:
    """The model of a command that reads images. Raises UsageError for a value that is not allowed."""
    from clipaudit.config import ModelConfig

    return ModelConfig(
        name=name,
        pretrained=pretrained,
        precision=cast("Precision", precision),
        device=device,
        batch_size=batch_size,
        **images,
    )


def command_line(context: typer.Context, *, always: Collection[str] = (), never: Collection[str] = ()) -> str:
    """A shell command that runs this one again: its arguments, the options that the user gave, and the flags.

    `always` and `never` name parameters that are included also at their default, and that are left out.
    """
    words, flags = list(context.command_path.split()), []
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        source = context.get_parameter_source(name)
        is_default = source is None or source.name == "DEFAULT"
        if name in never or value is None or (is_default and name not in always):
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, bool):
            flags.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            for item in value if isinstance(value, (list, tuple)) else [value]:
                words += [parameter.opts[0], str(item)]
    return shlex.join(words + flags)


def write_page(option_name: str, path: Path, page: str) -> None:
    """Write a page as UTF-8. Raises UsageError naming the option when it cannot be written."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option_name} {path} cannot be written: {error.strerror}") from error


def print_json(value: object) -> None:
    """Write indented JSON and a newline to stdout; values that JSON lacks as their `str`."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
