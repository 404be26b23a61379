"""The commands `evaluate ...`: heat maps and class scores against the masks and labels in shards."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, cast

import typer

from clipaudit.cli.command import Command
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
    at_least,
    check_form,
    check_positions,
    image_settings,
    listed,
    model_config,
    one_of,
    option,
    print_json,
)
from clipaudit.errors import RunNotFound, UsageError

if TYPE_CHECKING:
    from clipaudit.localize.evaluation.evaluate import EvaluationConfig
    from clipaudit.localize.surgery import Form
    from clipaudit.model import Positions
    from clipaudit.run.reader import Run

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


@evaluate.command(cls=Command)
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
    side_pixels: SideOption = None,
    positions: PositionsOption = "bicubic",
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
    device: ModelDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Zero-shot segmentation against `seg.png` masks: pixel accuracy, mIoU, mAP and AUC of each method.

    Example: `clipaudit evaluate segmentation 'demo-out/things/*.tar' --model demo --methods decomposition,rollout
    --limit 100`
    """
    one_of("--protocol", protocol, ("object", "reference", "classes"))
    check_positions(positions, whole=whole, side=side_pixels)
    check_form(form, listed(methods))
    at_least("--limit", limit, 1)
    model_options = model_config(
        model,
        pretrained,
        precision,
        device,
        batch_size,
        images=image_settings(image_mean, image_std, image_resize, image_interpolation),
    )
    from clipaudit.localize.evaluation.evaluate import EvaluationConfig

    config = EvaluationConfig(
        shards=tuple(shards),
        model=model_options,
        label=label,
        classes=classes,
        templates=templates,
        limit=limit,
        squashed=squashed,
        whole=whole,
        side=side_pixels,
        positions=cast("Positions", positions),
        blocks=blocks,
        form=cast("Form", form),
    )
    _segment(config, listed(methods), protocol, as_json)


@evaluate.command(cls=Command)
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
    device: ModelDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Point prompts for a segmenter such as SAM: how many lie on the label's object, and off it, as they should.

    Example: `clipaudit evaluate points 'demo-out/things/*.tar' --model demo --methods surgery --limit 100`
    """
    at_least("--limit", limit, 1)
    model_options = model_config(
        model,
        pretrained,
        "fp32",
        device,
        batch_size,
        images=image_settings(image_mean, image_std, image_resize, image_interpolation),
    )
    from clipaudit.localize.evaluation.evaluate import EvaluationConfig

    config = EvaluationConfig(
        shards=tuple(shards), model=model_options, label=label, classes=classes, templates=templates, limit=limit
    )
    _segment(config, listed(methods), "points", as_json)


@evaluate.command(cls=Command)
def multilabel(
    shards: Annotated[
        list[str],
        typer.Argument(
            help="WebDataset shards, or a run whose labels are lists: its stored embeddings and model are used.",
            show_default=False,
        ),
    ],
    labels: Annotated[str | None, option("json path of each image's list of labels, in shards [json:objects].")] = None,
    classes: ClassesOption = None,
    templates: TemplatesOption = "single",
    form: FormOption = "paper",
    limit: LimitOption = None,
    batch_size: BatchOption = 32,
    model: Annotated[str | None, option("open_clip name, model directory, hf-hub:ORG/NAME or demo [ViT-B-32].")] = None,
    pretrained: PretrainedOption = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    device: ModelDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Multi-label recognition: mean average precision of cosines, of their softmax, and after feature surgery.

    Of shards the images are encoded, of a run (`audit --label json:objects`) the stored embeddings are used.

    Example: `clipaudit evaluate multilabel 'coco-*.tar' --labels json:objects --classes coco.txt --model ViT-B-16
    --pretrained laion2b_s34b_b88k`
    """
    check_form(form, ())
    at_least("--limit", limit, 1)
    images = image_settings(image_mean, image_std, image_resize, image_interpolation)
    run = _run_at(shards)
    if run is not None:
        given = {"--labels": labels, "--model": model, "--pretrained": pretrained, "--limit": limit}
        given |= {f"--{name.replace('_', '-')}": value for name, value in images.items()}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} is for shards: the run at {shards[0]} has its own images, labels and model")
    from clipaudit.cli.console.evaluate import print_recognition
    from clipaudit.cli.console.progress import ImageCounter
    from clipaudit.localize.evaluation.evaluate import (
        EvaluationConfig,
        LocaliserEvaluation,
        plain,
        recognition_of_run,
    )

    name = model or "ViT-B-32" if run is None else run.manifest.identity["model"]
    with ImageCounter(name) as counter:
        if run is not None:
            result = recognition_of_run(run, classes, templates, cast("Form", form), device, counter)
        else:
            config = EvaluationConfig(
                shards=tuple(shards),
                model=model_config(name, pretrained, "fp32", device, batch_size, images=images),
                labels=labels or "json:objects",
                classes=classes,
                templates=templates,
                limit=limit,
                form=cast("Form", form),
            )
            result = LocaliserEvaluation(config, counter).recognition()
    if as_json:
        figures = {"images": result.images, "mean": plain(result.mean), "classes": result.by_class}
        print_json(figures | {"occurrences": result.occurrences})
    else:
        print_recognition(result)


def _run_at(places: list[str]) -> Run | None:
    """The run at the only place; None where that is no run. UsageError when a run is one of several places."""
    from clipaudit.run.reader import Run

    runs = [place for place in places if "{" not in place and "*" not in place and _is_run(place)]
    if runs and len(places) > 1:
        raise UsageError(f"{runs[0]} is a run: give it alone, or shards")
    return Run(runs[0]) if runs else None


def _is_run(place: str) -> bool:
    from clipaudit.run.directory import opened_place

    try:
        opened_place(place)[0].open()
    except RunNotFound:
        return False
    return True


@evaluate.command(cls=Command)
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
    device: ModelDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """The first paper's Waterbirds protocol: accuracy by class and place before and after heads become means.

    Example: `clipaudit evaluate waterbirds 'demo-out/birds/*.tar' --model demo --head L05H00 --limit 200`
    """
    at_least("--random", random, 0)
    at_least("--limit", limit, 1)
    model_options = model_config(
        model,
        pretrained,
        precision,
        device,
        batch_size,
        images=image_settings(image_mean, image_std, image_resize, image_interpolation),
    )
    from clipaudit.cli.console.evaluate import groups_json, print_groups
    from clipaudit.cli.console.progress import ImageCounter
    from clipaudit.localize.evaluation.evaluate import EvaluationConfig, LocaliserEvaluation

    config = EvaluationConfig(
        shards=tuple(shards), model=model_options, label=label, classes=classes, templates=templates, limit=limit
    )
    with ImageCounter(config.model.name) as counter:
        result = LocaliserEvaluation(config, counter).groups(
            place, listed(head), kept_layers=keep_layers, random=random, min_group=min_group
        )
    if as_json:
        print_json(groups_json(result))
    else:
        print_groups(result)


@evaluate.command("heads", cls=Command)
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
    device: ModelDeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Whether heads that tell objects look at objects, and heads that tell places beside them, against masks.

    Example: `clipaudit evaluate heads 'demo-out/things/*.tar' --model demo --limit 200`
    """
    at_least("--limit", limit, 1)
    model_options = model_config(
        model,
        pretrained,
        "fp32",
        device,
        batch_size,
        images=image_settings(image_mean, image_std, image_resize, image_interpolation),
    )
    from clipaudit.cli.console.evaluate import print_heads
    from clipaudit.cli.console.progress import ImageCounter
    from clipaudit.localize.evaluation.evaluate import EvaluationConfig, LocaliserEvaluation

    config = EvaluationConfig(shards=tuple(shards), model=model_options, label=label, templates=templates, limit=limit)
    with ImageCounter(config.model.name) as counter:
        result = LocaliserEvaluation(config, counter).heads(place)
    if as_json:
        print_json(asdict(result))
    else:
        print_heads(result)


def _segment(config: EvaluationConfig, methods: tuple[str, ...], protocol: str, as_json: bool) -> None:
    """Evaluate methods against masks by a protocol, and print the figures."""
    from clipaudit.cli.console.evaluate import print_segmentation
    from clipaudit.cli.console.progress import ImageCounter
    from clipaudit.localize.evaluation.evaluate import LocaliserEvaluation, plain

    with ImageCounter(config.model.name) as counter:
        chosen = methods or ("decomposition", "contrast", "surgery")
        result = LocaliserEvaluation(config, counter).segmentation(chosen, protocol)
    if as_json:
        figures = {method.method: plain(method.figures) for method in result.methods}
        counts = {"images": result.images, "unusable": result.unusable, "left_out": result.left_out}
        print_json(counts | {"methods": figures})
    else:
        print_segmentation(result)
