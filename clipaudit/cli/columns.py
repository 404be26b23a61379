"""The commands `columns add`, `list`, `drop` and `export`: columns that come to a run after its job."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clipaudit.cli.command import Command
from clipaudit.cli.options import JsonOption, RunArgument, WhereOption, listed, option, print_json

columns = typer.Typer(
    help="Columns of a run: list them, join further ones from a table, drop and export them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MATCHING, NAMING = "Which image a row is", "Which columns"


@columns.command("add", cls=Command)
def add(
    run: RunArgument,
    table: Annotated[str, typer.Argument(help="CSV, TSV, JSONL or Parquet file, a path or URL.", show_default=False)],
    key: Annotated[str | None, option("Column of the table with the images' keys [key].", panel=MATCHING)] = None,
    shard: Annotated[
        str | None,
        option("Column with their shards: ids, URLs or file names [shard, where the table has it].", panel=MATCHING),
    ] = None,
    ignore_unknown: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown", help="Leave out rows that name no image of the run.", rich_help_panel=MATCHING
        ),
    ] = False,
    only: Annotated[
        list[str] | None, option("Columns of the table, such as light,place [all but the keys].", panel=NAMING)
    ] = None,
    name: Annotated[str | None, option("Name in the run, where one column is added.", panel=NAMING)] = None,
    prefix: Annotated[str, option("Put before every name, such as model_ [none].", panel=NAMING)] = "",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace joined columns of the same names.", rich_help_panel=NAMING),
    ] = False,
    encoding: Annotated[str | None, option("Of a CSV, TSV or JSONL file, such as cp1252 or utf-16 [utf-8].")] = None,
    author: Annotated[str | None, option("Who adds the columns, for the record [the user's name].")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be added; write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Join the columns of a table to a run, by shard and key or by key alone where keys are unique.

    Every command then uses them like the attributes of the job: `--attribute`, `--where`, `--split`, `--cluster`,
    exports. Each keeps its type, and a record of the table's path, hash, time and author. A row that names no image is
    an error that shows three examples, unless `--ignore-unknown`; so is a key that repeats.

    Example: `clipaudit columns add demo-out/birds-run birds.csv --only place --name my_place`
    """
    from clipaudit.cli.console.columns import print_joined
    from clipaudit.run.column_join import JoinOptions, add_columns

    options = JoinOptions(
        key=key or "key",
        shard=shard,
        only=listed(only),
        name=name,
        prefix=prefix,
        replace=replace,
        ignore_unknown=ignore_unknown,
        encoding=encoding or "utf-8-sig",
        author=author,
    )
    joined = add_columns(run, table, options, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, **asdict(joined)})
    else:
        print_joined(joined, run, dry_run=dry_run)


@columns.command("list", cls=Command)
def list_all(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show every column that filters and `--attribute` may name: type, values, nulls and where it comes from.

    Example: `clipaudit columns list demo-out/birds-run`
    """
    from clipaudit.cli.console.columns import print_columns
    from clipaudit.run.column_list import list_columns

    facts = list_columns(run)
    if as_json:
        print_json([asdict(column) for column in facts])
    else:
        print_columns(facts)


@columns.command("drop", cls=Command)
def drop(
    run: RunArgument,
    names: Annotated[list[str], typer.Argument(help="Joined columns.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Remove joined columns from a run; columns of the job stay as they are.

    Example: `clipaudit columns drop demo-out/birds-run my_place`
    """
    from clipaudit.run.column_list import drop_columns

    dropped = drop_columns(run, names)
    if as_json:
        print_json({"dropped": dropped})
    else:
        typer.echo(f"dropped {', '.join(dropped)}")


@columns.command("export", cls=Command)
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(help="File to write: .csv, .parquet or .jsonl.", show_default=False)],
    only: Annotated[
        list[str] | None, option("Columns, such as place,image.brightness [all attributes].", panel=NAMING)
    ] = None,
    where: WhereOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of this name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write shard, key and columns of a run's images to one table, which `columns add` reads.

    Example: `clipaudit columns export demo-out/birds-run birds.csv --only place,label`
    """
    from clipaudit.run.column_list import export_columns

    rows = export_columns(run, out, only=listed(only), where=tuple(where or ()), overwrite=overwrite)
    if as_json:
        print_json({"file": str(out), "rows": rows})
    else:
        typer.echo(f"{out}: {rows:,} rows")
