"""The command line: puts the commands together; imports nothing heavy until one runs."""

from __future__ import annotations

from typing import Annotated

import typer

from clipaudit.cli import ablate, compare, demo, evaluate, heads, index, job, localize, query, report, run
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


app.command("audit")(job.audit)
app.command("status")(run.status)
app.command("check")(run.check)
app.command("gc")(run.gc)
app.command("export")(run.export)
app.command("heads")(heads.heads)
app.command("ablate")(ablate.ablate)
app.command("compare")(compare.compare)
app.command("index")(index.index)
app.command("query")(query.query)
app.command("duplicates")(index.duplicates)
app.command("serve")(query.serve)
app.command("explain")(localize.explain)
app.add_typer(evaluate.evaluate, name="evaluate")
app.command("report")(report.report)
app.command("demo")(demo.demo)
app.command("demo-data")(demo.demo_data)
