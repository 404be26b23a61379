"""The commands on a run directory: `status`, `check`, `gc` and `export`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from clipaudit.cli.options import JsonOption, RunArgument, WhereOption, listed, option, print_json
from clipaudit.cli.terminal import note, tell
from clipaudit.errors import IntegrityError


def status(
    run: RunArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh until the run is done: speed, bottleneck, time left.")
    ] = False,
    interval_seconds: Annotated[
        float, typer.Option("--interval", min=0.1, help="With --watch: seconds between two looks.")
    ] = 2.0,
    details: Annotated[
        int, typer.Option("--details", min=0, max=100, help="Examples of each reason for which samples were skipped.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is: shards, samples by status, coverage and bytes.

    Example: `clipaudit status demo-out/birds-run --watch`. With `--json --watch`: one object a line.
    """
    if watch:
        from clipaudit.cli.console.watch import watch as watch_run

        watch_run(run, interval_seconds, as_json)
        return
    from clipaudit.cli.console.run import print_status
    from clipaudit.run.upkeep import status as run_status

    result = run_status(run)
    if as_json:
        print_json(asdict(result))
    else:
        print_status(result, details=details)


def check(
    run: RunArgument,
    model: Annotated[
        bool, typer.Option("--model", help="Also load the model and recompute some stored images from their shards.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify every committed file: hashes, rows, moments and the integrity of the decomposition.

    Example: `clipaudit check demo-out/birds-run --model`
    """
    from clipaudit.cli.console.run import print_check, print_recomputed
    from clipaudit.run.integrity import check as run_check

    tell(f"reading every file of {run} once: the time of reading them, for 10 KB an image")
    report = run_check(run)
    problems, result = list(report.problems), asdict(report)
    if not as_json:
        print_check(report)
    if model:
        from clipaudit.job.recompute import recompute

        tell("loading the model, and computing up to 32 images again")
        recomputed = recompute(run)
        problems += recomputed.problems
        result["recomputed"] = asdict(recomputed)
        if not as_json:
            print_recomputed(recomputed)
    if as_json:
        print_json(result)
    if problems:
        raise IntegrityError(f"{run}: {problems[0]}" + (f" (and {len(problems) - 1} more)" if problems[1:] else ""))


def gc(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, remove nothing.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove young files too; only when no job is writing to this run.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove files that no commit refers to: leftovers of attempts that were lost.

    Example: `clipaudit gc demo-out/birds-run --dry-run`
    """
    from clipaudit.run.upkeep import YOUNG_SECONDS
    from clipaudit.run.upkeep import gc as run_gc

    removed = run_gc(run, dry_run=dry_run, min_age_seconds=0 if everything else YOUNG_SECONDS)
    if as_json:
        print_json({"dry_run": dry_run, "removed": removed})
        return
    for name in removed:
        typer.echo(name)
    tell(f"{'would remove' if dry_run else 'removed'} {len(removed)} files")


def export(
    run: RunArgument,
    out: Annotated[str, typer.Option("--out", help="Directory to write; must not exist or be empty.")],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="parquet (fixed-size float lists), npy, csv (no vectors), fiftyone, or images (folders by class).",
        ),
    ] = "parquet",
    heads: Annotated[
        list[str] | None,
        option("Heads such as L22H05,L22H06 [all stored; of fiftyone the embedding alone].", "--head", "--heads"),
    ] = None,
    where: WhereOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run's rows for other tools: Parquet, .npy, CSV, a FiftyOne data set or image folders.

    Every row has the URL of its shard, the image's name in it, its class and its attributes as columns.

    Example: `clipaudit export demo-out/birds-run --out heads --format npy --heads L05H00 --where split=train`
    """
    from clipaudit.run.export import export as run_export

    tell(f"writing the rows of {run} to {out} as {file_format}")
    paths = run_export(
        run,
        out,
        file_format=file_format,
        heads=listed(heads) or None,
        where=tuple(where or ()),
        overwrite=overwrite,
        note=note,
    )
    if as_json:
        print_json({"format": file_format, "files": [str(path) for path in paths]})
        return
    for path in paths:
        typer.echo(path)
