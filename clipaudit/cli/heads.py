"""The command `heads`: every head in words, as a table, JSON and a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipaudit.cli.options import (
    ROWS,
    TEXTS,
    AllocationOption,
    CriterionOption,
    JsonOption,
    OutOption,
    RunArgument,
    SeedOption,
    TextDeviceOption,
    TextsOption,
    WhereOption,
    at_least,
    listed,
    one_of,
    option,
    print_json,
)
from clipaudit.cli.saving import save
from clipaudit.cli.terminal import tell
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.heads.description import Description


def heads(
    run: RunArgument,
    texts: TextsOption = None,
    steps: Annotated[
        int | None, option("Texts chosen for each head [20, or all where there are fewer].", panel=TEXTS)
    ] = None,
    top: Annotated[int | None, option("Texts shown of each head [3; all of a --head].")] = None,
    head: Annotated[list[str] | None, option("Heads such as L22H05,L22H06 [all stored].", "--head", "--heads")] = None,
    label: Annotated[str | None, option("Only rows with this label.", panel=ROWS)] = None,
    where: WhereOption = None,
    criterion: CriterionOption = "explained",
    allocation: AllocationOption = "own",
    roles: Annotated[bool, typer.Option("--roles/--no-roles", help="Find each head's role.")] = True,
    stability: Annotated[
        bool, typer.Option("--stability", help="Draw shards again: how often is each text chosen again?")
    ] = False,
    seed: SeedOption = 0,
    device: TextDeviceOption = "auto",
    out: OutOption = None,
    html: Annotated[str | None, option("Also write a page with the most extreme images along each text.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what each attention head looks at: the texts that span most of its variance, and its role.

    Reads the stored moments and the run's own model's text encoder, no image. The result also goes to
    `RUN/heads/NAME/heads.json`, NAME being `all`, or the rows that were chosen.

    Example: `clipaudit heads demo-out/birds-run --head L05H00 --where place=water`
    """
    at_least("--top", top, 1)
    one_of("--criterion", criterion, ("explained", "reference"))
    one_of("--allocation", allocation, ("own", "published"))
    from clipaudit.cli.console.heads import print_heads
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.heads.description import DEFAULT_STEPS, FILE, FOLDER, DescribeConfig, describe, description_json
    from clipaudit.heads.texts.pool import pool_for
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.run.filters import equal_to
    from clipaudit.run.reader import Run
    from clipaudit.run.rows import chosen_rows

    opened_run = Run(run)
    pool = pool_for(opened_run.manifest.identity["model"], texts)
    config = DescribeConfig(
        heads=listed(head) or None,
        rows=chosen_rows(opened_run, [*(where or ()), *([equal_to("label", label)] if label is not None else ())]),
        steps=min(DEFAULT_STEPS, len(pool)) if steps is None else steps,
        criterion="reference" if criterion == "reference" else "explained",
        allocation="published" if allocation == "published" else "own",
        roles=roles,
        stability=stability,
        seed=seed,
    )
    tell("putting heads into words from stored sums: no image is read, whatever their number")
    with ProgressBar("heads") as progress:
        description = describe(opened_run, pool, RunTexts(opened_run, device, progress.loading), config, progress)
    json_value = description_json(description)
    if as_json:
        print_json(json_value)
    else:
        print_heads(description, top if top is not None else config.steps if head else 3)
    if html is not None:
        _write_page(description, html)
    save(opened_run, f"{FOLDER}/{description.name}", {FILE: json_value}, out)


def _write_page(description: Description, path: str) -> None:
    """Write the page of the heads to a path or URL. Raises UsageError when it names a directory."""
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.heads.page import extremes, render
    from clipaudit.run.derived import publish

    parent, _, name = path.rpartition("/")
    if not name:
        raise UsageError(f"--html names a file to write, and {path!r} is a directory")
    with ProgressBar("rows") as progress:
        images = extremes(description, on_rows=progress)
    folder = parent or ("/" if path.startswith("/") else ".")
    publish(description.run, "", {name: render(description, images)}, folder)
