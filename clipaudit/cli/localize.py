"""The commands that look into images; imports nothing heavy until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipaudit.cli.options import (
    ImageInterpolationOption,
    ImageMeanOption,
    ImageResizeOption,
    ImageStdOption,
    JsonOption,
    image_settings,
    listed,
    one_of,
    option,
    print_json,
)
from clipaudit.errors import UsageError

ModelOption = Annotated[str, option("open_clip name, model directory, hf-hub:ORG/NAME or demo [ViT-B-32].")]
PretrainedOption = Annotated[
    str | None, option("open_clip weight tag, checkpoint file, or random-seed-N for untrained weights.")
]
PrecisionOption = Annotated[str, option("fp32, bf16 or fp16 [fp32].")]
DeviceOption = Annotated[str, option("auto, cpu, cuda, cuda:N or mps [auto].")]
BlocksOption = Annotated[int | None, option("Surgery: last blocks that have the second path [6].")]
SideOption = Annotated[
    int | None, option("Whole pictures with about so many pixels on the shorter side; implies --whole [the model's].")
]
FormOption = Annotated[str, option("Surgery of features: paper, or code as it was released [paper].")]


def explain(
    image: Annotated[str, typer.Argument(help="Image file: jpg, png or webp.", show_default=False)],
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
    side: SideOption = None,
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
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show where in a picture texts are: heat maps side by side, with --head a grid of heads x texts.

    Example: `clipaudit explain bird.jpg --text "a duck" --text "water" --model demo --out bird.png`
    """
    _check_output(out, as_json)
    one_of("--form", form, ("paper", "code"))
    from clipaudit.localize.explain import Explainer, method_options

    explainer = Explainer(
        _model(
            model,
            pretrained,
            precision,
            device,
            images=image_settings(image_mean, image_std, image_resize, image_interpolation),
        ),
        whole=whole,
        side=side,
    )
    options = method_options(explainer.tower, layers=layers, blocks=blocks, form=form)  # type: ignore[arg-type]
    found = explainer.explain(
        image, text or [], method=method, heads=listed(head), options=options, words=words, tokens=tokens
    )
    if out is not None:
        _save(found.draw(smooth=not squares), out)
    if as_json:
        print_json(found.numbers())
    elif out is not None:
        typer.echo(out)


def _model(
    name: str, pretrained: str | None, precision: str, device: str, batch_size: int = 32, *, images: dict[str, Any]
) -> Any:  # noqa: ANN401 - loaded late
    from clipaudit.config import ModelConfig

    return ModelConfig(
        name=name,
        pretrained=pretrained,
        precision=precision,  # type: ignore[arg-type]
        device=device,
        batch_size=batch_size,
        **images,
    )


def _check_output(out: Path | None, as_json: bool) -> None:
    if out is None and not as_json:
        raise UsageError("give --out FILE.png for a picture, --json for the numbers, or both")
    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: pictures are written as .png")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.absolute().parent}")


def _save(image: Any, out: Path) -> None:  # noqa: ANN401 - a PIL image, which this file does not import
    try:
        image.save(out)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror or error}") from None


evaluate = typer.Typer(
    no_args_is_help=True, help="Measure heat maps and class scores against masks and labels in shards."
)

ShardsArgument = Annotated[
    list[str], typer.Argument(help="WebDataset shards: paths or URLs with brace ranges and globs.", show_default=False)
]
ClassesOption = Annotated[str | None, option("File of class names [classnames.txt beside the shards].")]
TemplatesOption = Annotated[str, option("Prompts: imagenet, simple, single, or a file with one a line [single].")]
LimitOption = Annotated[int | None, option("At most so many images.")]
BatchOption = Annotated[int, option("Images a forward pass [32].")]
LabelOption = Annotated[str, option("Label field, of the class of each image's object [cls].")]


@evaluate.command()
def segmentation(
    shards: ShardsArgument,
    protocol: Annotated[
        str,
        option(
            "object (the label's map against the mask), reference (the first paper's: the predicted class's map) or"
            " classes (every pixel the best class) [object]."
        ),
    ] = "object",
    methods: Annotated[list[str] | None, option("Methods, as of `explain` [decomposition,contrast,surgery].")] = None,
    label: LabelOption = "cls",
    classes: ClassesOption = None,
    templates: TemplatesOption = "single",
    squashed: Annotated[
        bool | None,
        option(
            "Masks squeezed onto cropped images, as the first paper evaluates, or cut as they are"
            " [squashed with --protocol reference, else aligned].",
            "--squashed/--aligned",
        ),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Whole pictures, not what the preprocessing keeps.")] = False,
    side: SideOption = None,
    blocks: BlocksOption = None,
    form: FormOption = "paper",
    limit: LimitOption = None,
    batch_size: BatchOption = 32,
    model: ModelOption = "ViT-B-32",
    pretrained: PretrainedOption = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Zero-shot segmentation against `seg.png` masks: pixel accuracy, mIoU, mAP and AUC of each method.

    Example: `clipaudit evaluate segmentation 'shards/things-*.tar' --model demo --methods decomposition,rollout`
    """
    one_of("--protocol", protocol, ("object", "reference", "classes"))
    common: dict[str, Any] = {"label": label, "squashed": squashed, "whole": whole, "side": side}
    common |= {
        "blocks": blocks,
        "form": form,
        "shards": shards,
        "classes": classes,
        "templates": templates,
        "limit": limit,
    }
    config = _evaluation(
        common,
        _model(
            model,
            pretrained,
            precision,
            device,
            batch_size,
            images=image_settings(image_mean, image_std, image_resize, image_interpolation),
        ),
    )
    _segment(config, listed(methods), protocol, as_json)


@evaluate.command()
def points(
    shards: ShardsArgument,
    methods: Annotated[list[str] | None, option("Methods, as of `explain` [decomposition,contrast,surgery].")] = None,
    label: LabelOption = "cls",
    classes: ClassesOption = None,
    templates: TemplatesOption = "single",
    limit: LimitOption = None,
    batch_size: BatchOption = 32,
    model: ModelOption = "ViT-B-32",
    pretrained: PretrainedOption = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Point prompts for a segmenter such as SAM: how many lie on the label's object, and off it, as they should.

    Example: `clipaudit evaluate points 'shards/things-*.tar' --model demo --methods surgery`
    """
    common = {"shards": shards, "label": label, "classes": classes, "templates": templates, "limit": limit}
    config = _evaluation(
        common,
        _model(
            model,
            pretrained,
            "fp32",
            device,
            batch_size,
            images=image_settings(image_mean, image_std, image_resize, image_interpolation),
        ),
    )
    _segment(config, listed(methods), "points", as_json)


@evaluate.command()
def multilabel(
    shards: ShardsArgument,
    labels: Annotated[str, option("json path of each image's list of labels [json:objects].")] = "json:objects",
    classes: ClassesOption = None,
    templates: TemplatesOption = "single",
    form: FormOption = "paper",
    limit: LimitOption = None,
    batch_size: BatchOption = 32,
    model: ModelOption = "ViT-B-32",
    pretrained: PretrainedOption = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Multi-label recognition: mean average precision of cosines, of their softmax, and after feature surgery.

    Example: `clipaudit evaluate multilabel 'coco-*.tar' --labels json:objects --classes coco.txt --model ViT-B-16
    --pretrained laion2b_s34b_b88k`
    """
    common = {"shards": shards, "labels": labels, "classes": classes, "templates": templates, "limit": limit}
    config = _evaluation(
        common | {"form": form},
        _model(
            model,
            pretrained,
            "fp32",
            device,
            batch_size,
            images=image_settings(image_mean, image_std, image_resize, image_interpolation),
        ),
    )
    from clipaudit.cli.console.localize import Counter, print_recognition
    from clipaudit.localize.evaluation.evaluate import LocaliserEvaluation, plain

    with Counter() as counter:
        result = LocaliserEvaluation(config, counter).recognition()
    if as_json:
        figures = {"images": result.images, "mean": plain(result.mean), "classes": result.by_class}
        print_json(figures | {"occurrences": result.occurrences})
    else:
        print_recognition(result)


@evaluate.command()
def waterbirds(
    shards: ShardsArgument,
    label: LabelOption = "cls",
    place: Annotated[str, option("json path of what the background is [json:place].")] = "json:place",
    head: Annotated[
        list[str] | None, option("Heads to ablate, such as L11H05,L11H07 [those of the first paper for the model].")
    ] = None,
    keep_layers: Annotated[int, option("Last layers whose attention stays; earlier ones become means [4].")] = 4,
    random: Annotated[int, option("Also draw so many sets of as many heads of the same layers [0].")] = 0,
    min_group: Annotated[int, option("Smaller groups cannot be the worst [10].")] = 10,
    classes: ClassesOption = None,
    templates: TemplatesOption = "imagenet",
    limit: LimitOption = None,
    batch_size: BatchOption = 32,
    model: ModelOption = "ViT-B-32",
    pretrained: PretrainedOption = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """The first paper's Waterbirds protocol: accuracy by class and place before and after heads become means.

    Example: `clipaudit evaluate waterbirds waterbirds-test.tar --model ViT-L-14 --pretrained laion2b_s32b_b82k`
    """
    if random < 0:
        raise UsageError(f"--random must be at least 0, not {random}")
    common = {"shards": shards, "label": label, "classes": classes, "templates": templates, "limit": limit}
    config = _evaluation(
        common,
        _model(
            model,
            pretrained,
            precision,
            device,
            batch_size,
            images=image_settings(image_mean, image_std, image_resize, image_interpolation),
        ),
    )
    from clipaudit.cli.console.localize import Counter, groups_json, print_groups
    from clipaudit.localize.evaluation.evaluate import LocaliserEvaluation

    with Counter() as counter:
        result = LocaliserEvaluation(config, counter).groups(
            place, listed(head), kept_layers=keep_layers, random=random, min_group=min_group
        )
    if as_json:
        print_json(groups_json(result))
    else:
        print_groups(result)


@evaluate.command("heads")
def evaluate_heads(
    shards: ShardsArgument,
    label: Annotated[str, option("json path of what the object is [json:label].")] = "json:label",
    place: Annotated[str, option("json path of what the background is [json:background].")] = "json:background",
    templates: TemplatesOption = "single",
    limit: Annotated[int, option("At most so many images; they are kept in memory [1000].")] = 1000,
    batch_size: BatchOption = 32,
    model: ModelOption = "ViT-B-32",
    pretrained: PretrainedOption = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Whether heads that tell objects look at objects, and heads that tell places beside them, against masks.

    Example: `clipaudit evaluate heads 'shards/things-*.tar' --model demo`
    """
    common = {"shards": shards, "label": label, "templates": templates, "limit": limit}
    config = _evaluation(
        common,
        _model(
            model,
            pretrained,
            "fp32",
            device,
            batch_size,
            images=image_settings(image_mean, image_std, image_resize, image_interpolation),
        ),
    )
    from dataclasses import asdict

    from clipaudit.cli.console.localize import Counter, print_heads
    from clipaudit.localize.evaluation.evaluate import LocaliserEvaluation

    with Counter() as counter:
        result = LocaliserEvaluation(config, counter).heads(place)
    if as_json:
        print_json(asdict(result))
    else:
        print_heads(result)


def _evaluation(common: dict[str, Any], model: Any) -> Any:  # noqa: ANN401 - loaded late
    one_of("--form", common.get("form", "paper"), ("paper", "code"))
    if common["limit"] is not None and common["limit"] < 1:
        raise UsageError(f"--limit must be at least 1, not {common['limit']}")
    from clipaudit.localize.evaluation.evaluate import EvaluationConfig

    return EvaluationConfig(model=model, **{**common, "shards": tuple(common["shards"])})


def _segment(config: Any, methods: tuple[str, ...], protocol: str, as_json: bool) -> None:  # noqa: ANN401
    from clipaudit.cli.console.localize import Counter, print_segmentation
    from clipaudit.localize.evaluation.evaluate import LocaliserEvaluation, plain

    with Counter() as counter:
        chosen = methods or ("decomposition", "contrast", "surgery")
        result = LocaliserEvaluation(config, counter).segmentation(chosen, protocol)
    if as_json:
        figures = {found.method: plain(found.figures) for found in result.methods}
        counts = {"images": result.images, "unusable": result.unusable, "left_out": result.left_out}
        print_json(counts | {"methods": figures})
    else:
        print_segmentation(result)
