"""The command `explain`: heat maps of texts over one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from clipaudit.cli.options import (
    BlocksOption,
    FormOption,
    ImageInterpolationOption,
    ImageMeanOption,
    ImageResizeOption,
    ImageStdOption,
    JsonOption,
    ModelDeviceOption,
    ModelOption,
    PositionsOption,
    PrecisionOption,
    PretrainedOption,
    SideOption,
    check_form,
    check_positions,
    image_settings,
    listed,
    model_config,
    option,
    print_json,
)
from clipaudit.cli.terminal import tell
from clipaudit.config import check_layers
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from clipaudit.localize.surgery import Form
    from clipaudit.model import Positions


def explain(
    image: Annotated[
        str, typer.Argument(help="Image file: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.", show_default=False)
    ],
    text: Annotated[list[str] | None, option("A text to look for; give it again for more.")] = None,
    out: Annotated[Path | None, option("Picture to write, FILE.png.")] = None,
    method: Annotated[
        str,
        option(
            "decomposition, contrast (less the mean over the texts), surgery, values, maskclip, patches, relevance,"
            " gradcam, rollout or attention [decomposition]."
        ),
    ] = "decomposition",
    head: Annotated[list[str] | None, option("Heads such as L11H05,L11H07: a row of maps for each.")] = None,
    layers: Annotated[
        str | None, option("Layers whose heads count: all, a number of last layers, or 8,10 or 8-11 [all].")
    ] = None,
    blocks: BlocksOption = None,
    form: FormOption = "paper",
    whole: Annotated[
        bool, typer.Option("--whole", help="Show the model the whole picture, not what its preprocessing keeps.")
    ] = False,
    side_pixels: SideOption = None,
    positions: PositionsOption = "bicubic",
    words: Annotated[
        bool, typer.Option("--words", help="Also what each word of a text adds, by leaving it out.")
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Also the image's cosine with each token of a text, drawn below.")
    ] = False,
    squares: Annotated[bool, typer.Option("--squares", help="Draw patches as squares, not smoothly.")] = False,
    model: ModelOption = "ViT-B-32",
    pretrained: PretrainedOption = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    precision: PrecisionOption = "fp32",
    device: ModelDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show where in a picture texts are: heat maps side by side, with --head a grid of heads x texts.

    Example: `clipaudit explain demo-out/photos/waterbird/birds-000000.jpg --text "a duck" --text water --model demo
    --out bird.png`
    """
    _check_output(out, as_json)
    check_form(form, [method])
    check_positions(positions, whole=whole, side=side_pixels)
    config = model_config(
        model,
        pretrained,
        precision,
        device,
        images=image_settings(image_mean, image_std, image_resize, image_interpolation),
    )
    from clipaudit.localize.explain import Explainer
    from clipaudit.localize.question import check_picture, check_question, method_options

    check_question(text or [], method, listed(head), layers=layers is not None, blocks=blocks is not None)
    if layers is not None:
        check_layers(layers)
    check_picture(image)
    tell(f"loading {model} ...")
    explainer = Explainer(config, whole=whole, side=side_pixels, positions=cast("Positions", positions))
    options = method_options(explainer.tower, layers=layers, blocks=blocks, form=cast("Form", form))
    explanation = explainer.explain(
        image, text or [], method=method, heads=listed(head), options=options, words=words, tokens=tokens
    )
    if out is not None:
        _save(explanation.draw(smooth=not squares), out)
    if as_json:
        print_json(explanation.numbers())
    elif out is not None:
        typer.echo(out)


def _check_output(out: Path | None, as_json: bool) -> None:
    """Raise UsageError when the picture cannot be written, before a model is loaded."""
    if out is None and not as_json:
        raise UsageError("give --out FILE.png for a picture, --json for the numbers, or both")
    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: pictures are written as .png")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.absolute().parent}")


def _save(image: Image.Image, out: Path) -> None:
    try:
        image.save(out)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror or error}") from None
