"""The command line: options to configuration, results to the terminal; imports nothing heavy until a command runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipaudit.cli import demo, index, localize, query
from clipaudit.cli import heads as cli_heads
from clipaudit.cli import report as cli_report
from clipaudit.cli.options import (
    ImageInterpolationOption,
    ImageMeanOption,
    ImageResizeOption,
    ImageStdOption,
    JsonOption,
    RunArgument,
    image_settings,
    print_json,
)
from clipaudit.cli.options import option as _option
from clipaudit.errors import IntegrityError, Interrupted
from clipaudit.schema import VERSION

if TYPE_CHECKING:
    from clipaudit.config import JobConfig

app = typer.Typer(
    name="clipaudit",
    help="Audit image data sets with the exact per-head decomposition of a CLIP image encoder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipaudit {VERSION}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Audit image data sets with the exact per-head decomposition of a CLIP image encoder."""


@app.command()
def audit(
    shards: Annotated[
        list[str] | None,
        typer.Argument(
            help="WebDataset shards: paths or URLs with brace ranges and globs, quoted.", show_default=False
        ),
    ] = None,
    out: Annotated[str | None, _option("Run directory, a path or any fsspec URL; the same command resumes it.")] = None,
    config_file: Annotated[
        Path | None, _option("TOML or YAML file with these options; the command line wins.", "--config")
    ] = None,
    model: Annotated[
        str | None, _option("open_clip name, model directory, hf-hub:ORG/NAME or demo [ViT-B-32].", panel="Model")
    ] = None,
    pretrained: Annotated[
        str | None,
        _option("open_clip weight tag, checkpoint file, or random-seed-N for untrained weights.", panel="Model"),
    ] = None,
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_resize: ImageResizeOption = None,
    image_interpolation: ImageInterpolationOption = None,
    precision: Annotated[str | None, _option("fp32, bf16, fp16, or int8 on CPUs [fp32].", panel="Model")] = None,
    device: Annotated[str | None, _option("auto, cpu, cuda, cuda:N or mps [auto].", panel="Model")] = None,
    batch_size: Annotated[int | None, _option("Images a forward pass [32].", panel="Model")] = None,
    compile_model: Annotated[
        bool | None, _option("Run the model through torch.compile; gains nothing on CPUs.", "--compile", panel="Model")
    ] = None,
    min_agreement: Annotated[
        float | None,
        _option("Least cosine with fp32 on the first shard for int8 and --resize device [0.999].", panel="Model"),
    ] = None,
    label: Annotated[
        str | None,
        _option(
            "Label column: cls (numbers), cls:text (names), txt, EXTENSION:text, json:PATH such as json:attrs.species.",
            panel="Table",
        ),
    ] = None,
    attributes: Annotated[
        list[str] | None,
        _option("Attribute columns: json:place,json:split; NAME=json:a.place names one.", panel="Table"),
    ] = None,
    caption: Annotated[str | None, _option("Caption column: txt or a json path.", panel="Table")] = None,
    layers: Annotated[
        str | None, _option("Stored layers: all, a number of last layers, or 8,10 or 8-11 [4].", panel="Table")
    ] = None,
    components: Annotated[
        bool | None, _option("Also store each stored layer's attention sum and MLP term.", panel="Table")
    ] = None,
    label_moments: Annotated[
        str | None, _option("Per-label moments a shard stores: auto, all or none [auto].", panel="Table")
    ] = None,
    engine: Annotated[str | None, _option("ray or local (one worker, no Ray) [ray].", panel="Execution")] = None,
    workers: Annotated[int | None, _option("Workers [one a GPU, else one per 4 CPUs].", panel="Execution")] = None,
    address: Annotated[
        str | None, _option("Ray cluster [the job's own, else a new local one].", panel="Execution")
    ] = None,
    gpus_per_worker: Annotated[float | None, _option("GPUs of a worker, fractions allowed.", panel="Execution")] = None,
    cpus_per_worker: Annotated[float | None, _option("CPUs of a worker [at most 4].", panel="Execution")] = None,
    decode_threads: Annotated[int | None, _option("Decoding threads of a worker [2].", panel="Execution")] = None,
    decode_processes: Annotated[
        int | None, _option("Decoding processes of a worker instead of threads [0].", panel="Execution")
    ] = None,
    resize: Annotated[
        str | None, _option("Where images are resized: host, or device to spare the CPUs [host].", panel="Execution")
    ] = None,
    max_image_pixels: Annotated[
        int | None, _option("Larger images are skipped undecoded [178956970].", panel="Execution")
    ] = None,
    max_attempts: Annotated[int | None, _option("Attempts at a shard [3].", panel="Execution")] = None,
    max_shard_seconds: Annotated[
        float | None, _option("Longest time without progress at a shard [3600].", panel="Execution")
    ] = None,
    max_lost: Annotated[
        float | None, _option("Share of samples that may be skipped before exit code 4 [0.05].", panel="Execution")
    ] = None,
    max_lost_shards: Annotated[
        int | None, _option("Shards that may fail before exit code 4 [0].", panel="Execution")
    ] = None,
    log_format: Annotated[
        str | None, _option("text, or json: one JSON object a line on stderr, one line an event [text].")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Stream shards through the model and write each head's coordinates of each image to Parquet.

    Example: `clipaudit audit 'train-{000000..000146}.tar' --out runs/train --model ViT-L-14
    --pretrained laion2b_s32b_b82k --label cls --attributes json:place,json:split`
    """
    from clipaudit.cli.config_file import job_config

    options = {
        "shards": shards or None,
        "out": out,
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
        },
        "store": {"layers": layers, "components": components, "label_moments": label_moments},
        "decode": {
            "decode_threads": decode_threads,
            "decode_processes": decode_processes,
            "resize": resize,
            "max_image_pixels": max_image_pixels,
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
    _audit(job_config(options, config_file), as_json)


def _audit(config: JobConfig, as_json: bool) -> None:
    from clipaudit.cli.console.job import ConsoleReporter
    from clipaudit.cli.console.job_log import JsonReporter
    from clipaudit.job.driver import run_job
    from clipaudit.job.engines import make_pool

    pool = make_pool(config)
    shown = JsonReporter if config.execution.log_format == "json" else ConsoleReporter
    with shown(config) as reporter, _stop_on_signals(reporter.stopping) as stop:
        try:
            result = run_job(config, pool, reporter, stop)
        except KeyboardInterrupt:  # the second signal
            raise Interrupted("stopped at once; the same command goes on from the last committed shard") from None
    if as_json:
        print_json(asdict(result))


@contextmanager
def _stop_on_signals(on_stop: Any) -> Iterator[threading.Event]:  # noqa: ANN401
    """First SIGINT or SIGTERM: hand out no more shards and let the running ones finish; second: stop at once."""
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        on_stop(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command()
def status(
    run: RunArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew until the run is done: speed, bottleneck, time left.")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="With --watch: seconds between two looks.")
    ] = 2.0,
    details: Annotated[
        int, typer.Option("--details", min=0, max=100, help="Examples of each reason for which samples were skipped.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is: shards, samples by status, coverage and bytes.

    Example: `clipaudit status runs/train --watch`. With `--json --watch`: one object a line.
    """
    if watch:
        from clipaudit.cli.console.watch import watch as watch_run

        watch_run(run, interval, as_json)
        return
    from clipaudit.cli.console.job import print_status
    from clipaudit.run.upkeep import status as run_status

    result = run_status(run)
    if as_json:
        print_json(asdict(result))
    else:
        print_status(result, details=details)


@app.command()
def check(
    run: RunArgument,
    model: Annotated[
        bool, typer.Option("--model", help="Also load the model and recompute some stored images from their shards.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify every committed file: hashes, rows, moments and the integrity of the decomposition.

    Example: `clipaudit check runs/train --model`
    """
    from clipaudit.cli.console.job import print_check, print_recomputed
    from clipaudit.run.check import check as run_check

    report = run_check(run)
    problems, result = list(report.problems), asdict(report)
    if not as_json:
        print_check(report)
    if model:
        from clipaudit.job.recompute import recompute

        recomputed = recompute(run)
        problems += recomputed.problems
        result["recomputed"] = asdict(recomputed)
        if not as_json:
            print_recomputed(recomputed)
    if as_json:
        print_json(result)
    if problems:
        raise IntegrityError(f"{run}: {problems[0]}" + (f" (and {len(problems) - 1} more)" if problems[1:] else ""))


@app.command()
def gc(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, remove nothing.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove young files too; only when no job is writing to this run.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove files that no commit refers to: leftovers of attempts that were lost.

    Example: `clipaudit gc runs/train --dry-run`
    """
    from clipaudit.run.upkeep import YOUNG_SECONDS
    from clipaudit.run.upkeep import gc as run_gc

    removed = run_gc(run, dry_run=dry_run, min_age_seconds=0 if everything else YOUNG_SECONDS)
    if as_json:
        print_json({"dry_run": dry_run, "removed": removed})
        return
    for name in removed:
        typer.echo(name)
    typer.echo(f"{'would remove' if dry_run else 'removed'} {len(removed)} files", err=True)


@app.command()
def export(
    run: RunArgument,
    out: Annotated[str, typer.Option("--out", help="Directory to write; must not exist or be empty.")],
    file_format: Annotated[str, typer.Option("--format", help="parquet (fixed-size float lists) or npy.")] = "parquet",
    heads: Annotated[
        str | None, typer.Option("--heads", help="Heads such as L22H05,L22H06; default: all stored.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a run's vectors as plain float lists or .npy arrays for other tools.

    Example: `clipaudit export runs/train --out train-heads --format npy --heads L11H05`
    """
    from clipaudit.run.export import export as run_export

    chosen = [name.strip() for name in heads.split(",") if name.strip()] if heads else None
    for path in run_export(run, out, file_format=file_format, heads=chosen, overwrite=overwrite):
        typer.echo(path)


app.command("heads")(cli_heads.heads)
app.command("ablate")(cli_heads.ablate)
app.command("compare")(cli_heads.compare)
app.command("index")(index.index)
app.command("query")(query.query)
app.command("duplicates")(index.duplicates)
app.command("serve")(query.serve)
app.command("explain")(localize.explain)
app.add_typer(localize.evaluate, name="evaluate")
app.command("report")(cli_report.report)
app.command("demo")(demo.demo)
app.command("demo-data")(demo.demo_data)
