"""The command `compare`: how heads differ between two runs of one model."""

from __future__ import annotations

from typing import Annotated

import typer

from clipaudit.cli.options import (
    JsonOption,
    TextDeviceOption,
    TextsOption,
    WhereOption,
    at_least,
    option,
    print_json,
)
from clipaudit.cli.saving import save
from clipaudit.cli.terminal import tell


def compare(
    run: Annotated[str, typer.Argument(help="Run to compare with.", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="RUN2", help="Run of the same model.", show_default=False)],
    texts: TextsOption = None,
    top: Annotated[int, option("Texts shown of each head, towards and away [3].")] = 3,
    where: WhereOption = None,
    device: TextDeviceOption = "auto",
    out: Annotated[str | None, option("Directory for compare.json, a path or URL [nowhere].")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how each head's mean moved and its spread changed from one run to another of the same model.

    Reads the stored moments and the model's text encoder, no image, and writes into neither run. With `--out` the
    result also goes to `compare.json` there.

    A run is compared with what it was by `RUN@GENERATION` or `RUN@DATE`.

    Example: `clipaudit compare demo-out/birds-run demo-out/things-run --top 5`
    """
    at_least("--top", top, 1)
    from clipaudit.cli.console.compare import print_comparison
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.heads.comparison import FILE, comparison_json
    from clipaudit.heads.comparison import compare as compare_runs
    from clipaudit.heads.texts.pool import pool_for
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.run.derived import finite
    from clipaudit.run.reader import Run
    from clipaudit.run.rows import chosen_rows

    before, after = Run(run), Run(other)
    pool = pool_for(after.manifest.identity["model"], texts)
    rows = chosen_rows(before, where or ()), chosen_rows(after, where or ())
    tell("comparing the heads of the two runs by stored sums: no image is read, whatever their number")
    with ProgressBar("heads") as progress:
        comparison = compare_runs(
            before, after, pool, RunTexts(after, device, progress.loading, keep=False), rows, progress
        )
    json_value = comparison_json(comparison)
    if as_json:
        print_json(finite(json_value))
    else:
        print_comparison(comparison, top)
    if out is not None:
        save(after, comparison.name, {FILE: json_value}, out)
