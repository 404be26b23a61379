"""The command line: puts the commands together; imports nothing heavy until one runs."""

from __future__ import annotations

from typing import Annotated

import typer

from clipaudit.cli import (
    ablate,
    columns,
    compare,
    concepts,
    demo,
    doctor,
    evaluate,
    explore,
    heads,
    index,
    job,
    localize,
    pack,
    query,
    rehearse,
    report,
    run,
    texts,
)
from clipaudit.cli.command import Command
from clipaudit.schema import VERSION

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


app.command("pack", cls=Command)(pack.pack)
app.command("audit", cls=Command)(job.audit)
app.command("status", cls=Command)(run.status)
app.command("check", cls=Command)(run.check)
app.command("gc", cls=Command)(run.gc)
app.command("export", cls=Command)(run.export)
app.add_typer(columns.columns, name="columns")
app.command("heads", cls=Command)(heads.heads)
app.command("ablate", cls=Command)(ablate.ablate)
app.command("compare", cls=Command)(compare.compare)
app.command("concepts", cls=Command)(concepts.concepts)
app.add_typer(texts.texts, name="texts")
app.command("index", cls=Command)(index.index)
app.command("query", cls=Command)(query.query)
app.command("duplicates", cls=Command)(index.duplicates)
app.command("serve", cls=Command)(query.serve)
app.command("explore", cls=Command)(explore.explore)
app.command("explain", cls=Command)(localize.explain)
app.add_typer(evaluate.evaluate, name="evaluate")
app.command("report", cls=Command)(report.report)
app.command("rehearse", cls=Command)(rehearse.rehearse)
app.command("demo", cls=Command)(demo.demo)
app.command("demo-data", cls=Command)(demo.demo_data)
app.command("doctor", cls=Command)(doctor.doctor)
