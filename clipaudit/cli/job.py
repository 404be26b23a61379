"""The command `audit`: options to the job's configuration, the job, and its events to the terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipaudit.cli.options import (
    ImageInterpolationOption,
    ImageMeanOption,
    ImageResizeOption,
    ImageStdOption,
    JsonOption,
    image_settings,
    listed,
    option,
    print_json,
)
from clipaudit.cli.terminal import advise, is_quiet
from clipaudit.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from clipaudit.config import JobConfig


ShardsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="WebDataset shards: paths or URLs with brace ranges and globs, quoted.", show_default=False),
]
LabelOption = Annotated[
    str | None,
    option(
        "Labels: cls (numbers or names), txt, EXTENSION:text, json:PATH (also of a list of labels), path:N (folder N of"
        " the member's name, 0 the first, -1 the last), shard (its name).",
        panel="Table",
    ),
]
AttributesOption = Annotated[
    list[str] | None,
    option(
        "Attribute columns: json:place,json:split; NAME=json:a.place names one; also source=shard, who=path:0,"
        " EXTENSION:text.",
        panel="Table",
    ),
]
ImageKeyOption = Annotated[
    list[str] | None,
    option(
        "Extension of the image, all after the name's first dot: input.jpg, '*.jpg' [jpg, png, ...].", panel="Table"
    ),
]
AppendOption = Annotated[
    bool | None, option("Add the shards to the run; those that it has are skipped and counted.", "--append")
]
MovedOption = Annotated[list[str] | None, option("FROM=TO: the run's shards below FROM are below TO now; repeatable.")]
ConfigOption = Annotated[
    Path | None, option("TOML or YAML file with these options; the command line wins.", "--config")
]
ComponentsOption = Annotated[
    bool | None,
    option("Also store each layer's attention sum, MLP term and class-token self-attention.", panel="Table"),
]
CompileOption = Annotated[
    bool | None, option("Run the model through torch.compile; gains nothing on CPUs.", "--compile", panel="Model")
]
TruncatedOption = Annotated[
    bool | None,
    option(
        "Decode JPEGs that lack their end, the rest grey, and count them.",
        "--allow-truncated-images",
        panel="Execution",
    ),
]


def audit(
    shards: ShardsArgument = None,
    out: Annotated[str | None, option("Run directory, a path or any fsspec URL; the same command resumes it.")] = None,
    append: AppendOption = None,
    moved: MovedOption = None,
    config_file: ConfigOption = None,
    model: Annotated[
        str | None, option("open_clip name, model directory, hf-hub:ORG/NAME or demo [ViT-B-32].", panel="Model")
    ] = None,
    pretrained: Annotated[
        str | None,
        option("open_clip weight tag, checkpoint file, or random-seed-N for untrained weights.", panel="Model"),
    ] = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    precision: Annotated[str | None, option("fp32, bf16, fp16, or int8 on CPUs [fp32].", panel="Model")] = None,
    device: Annotated[str | None, option("auto, cpu, cuda, cuda:N or mps [auto].", panel="Model")] = None,
    batch_size: Annotated[int | None, option("Images a forward pass [32].", panel="Model")] = None,
    compile_model: CompileOption = None,
    min_agreement: Annotated[
        float | None,
        option("Least cosine with fp32 on the first shard for int8 and --resize device [0.999].", panel="Model"),
    ] = None,
    label: LabelOption = None,
    attributes: AttributesOption = None,
    caption: Annotated[str | None, option("Caption column: txt or a json path.", panel="Table")] = None,
    image_key: ImageKeyOption = None,
    layers: Annotated[
        str | None, option("Stored layers: all, a number of last layers, or 8,10 or 8-11 [4].", panel="Table")
    ] = None,
    components: ComponentsOption = None,
    label_moments: Annotated[
        str | None, option("Per-label moments a shard stores: auto, all or none [auto].", panel="Table")
    ] = None,
    engine: Annotated[str | None, option("ray or local (one worker, no Ray) [ray].", panel="Execution")] = None,
    workers: Annotated[int | None, option("Workers [one a GPU, else one per 4 CPUs].", panel="Execution")] = None,
    address: Annotated[
        str | None, option("Ray cluster [the job's own, else a new local one].", panel="Execution")
    ] = None,
    gpus_per_worker: Annotated[float | None, option("GPUs of a worker, fractions allowed.", panel="Execution")] = None,
    cpus_per_worker: Annotated[float | None, option("CPUs of a worker [at most 4].", panel="Execution")] = None,
    decode_threads: Annotated[int | None, option("Decoding threads of a worker [2].", panel="Execution")] = None,
    decode_processes: Annotated[
        int | None, option("Decoding processes of a worker instead of threads [0].", panel="Execution")
    ] = None,
    resize: Annotated[
        str | None, option("Where images are resized: host, or device to spare the CPUs [host].", panel="Execution")
    ] = None,
    max_image_pixels: Annotated[
        int | None, option("Larger images are skipped undecoded [178956970].", panel="Execution")
    ] = None,
    allow_truncated_images: TruncatedOption = None,
    max_attempts: Annotated[int | None, option("Attempts at a shard [3].", panel="Execution")] = None,
    max_shard_seconds: Annotated[
        float | None, option("Longest time without progress at a shard [3600].", panel="Execution")
    ] = None,
    max_lost: Annotated[
        float | None, option("Share of samples that may be skipped before exit code 4 [0.05].", panel="Execution")
    ] = None,
    max_lost_shards: Annotated[
        int | None, option("Shards that may fail before exit code 4 [0].", panel="Execution")
    ] = None,
    log_format: Annotated[
        str | None, option("text, or json: one JSON object a line on stderr, one line an event [text].")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Stream shards through the model and write each head's coordinates of each image to Parquet.

    Example: `clipaudit audit 'train-{000000..000146}.tar' --out runs/train --model ViT-L-14
    --pretrained laion2b_s32b_b82k --label cls --attributes json:place,json:split`
    """
    from clipaudit.cli.config_file import OptionTree, job_config

    options: OptionTree = {
        "shards": shards or None,
        "out": out,
        "append": append,
        "moved": moved or None,
        "model": {
            "name": model,
            "pretrained": pretrained,
            **image_settings(image_mean, image_std, image_resize, image_interpolation),
            "precision": precision,
            "device": device,
            "batch_size": batch_size,
            "compile": compile_model,
            "min_agreement": min_agreement,
        },
        "fields": {
            "label": label,
            "attributes": [part for text in attributes for part in text.split(",") if part] if attributes else None,
            "caption": caption,
            "image": listed(image_key) or None,
        },
        "store": {"layers": layers, "components": components, "label_moments": label_moments},
        "decode": {
            "decode_threads": decode_threads,
            "decode_processes": decode_processes,
            "resize": resize,
            "max_image_pixels": max_image_pixels,
            "allow_truncated_images": allow_truncated_images,
        },
        "execution": {
            "engine": engine,
            "workers": workers,
            "address": address,
            "gpus_per_worker": gpus_per_worker,
            "cpus_per_worker": cpus_per_worker,
            "max_attempts": max_attempts,
            "max_shard_seconds": max_shard_seconds,
            "max_lost_samples": max_lost,
            "max_lost_shards": max_lost_shards,
            "log_format": log_format,
        },
    }
    run_job(job_config(options, config_file), as_json)


def run_job(config: JobConfig, as_json: bool) -> None:
    """Run a job to its end, with its events on stderr in the form of `log_format`, and its status on stdout as JSON.

    Raises UsageError for a log that `--quiet` would leave empty, Interrupted after a second signal, and else what
    `driver.run_job` raises.
    """
    from clipaudit.cli.console.job import ConsoleReporter
    from clipaudit.cli.console.job_log import JsonReporter
    from clipaudit.job import driver
    from clipaudit.job.engines import make_pool

    log_is_json = config.execution.log_format == "json"
    if log_is_json and is_quiet():
        raise UsageError("--quiet leaves out what --log-format json asks for: give one of them")
    pool = make_pool(config)
    new_reporter = JsonReporter if log_is_json else ConsoleReporter
    with new_reporter(config) as reporter, _stop_on_signals(reporter.stopping) as stop:
        try:
            result = driver.run_job(config, pool, reporter, stop)
        except KeyboardInterrupt:  # raised by the handler at the second signal
            raise Interrupted("stopped at once; the same command goes on from the last committed shard") from None
    if result.ok and result.committed == result.shards and not log_is_json:
        advise("clipaudit", "report", result.run)
    if as_json:
        print_json(asdict(result))


@contextmanager
def _stop_on_signals(on_stop: Callable[[str], None]) -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets, after which running shards finish and no other is begun.

    `on_stop` is called with the signal's name. A second signal raises KeyboardInterrupt in the main thread.
    """
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        on_stop(signal.Signals(number).name)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
