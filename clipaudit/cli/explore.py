"""The command `explore`: a run and its report in the browser."""

from __future__ import annotations

import json
import secrets
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from clipaudit.cli.options import DeviceOption, RunArgument, option
from clipaudit.cli.query import IndexesOption
from clipaudit.errors import UsageError


def explore(
    run: RunArgument,
    report: Annotated[
        str | None, option("Directory of a report [one of this run, in it or beside it].", "--report")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Images may be tagged; without it the page only reads.")
    ] = False,
    tags: Annotated[
        Path | None,
        option("File of the tags [RUN/explorer/tags.jsonl; NAME-tags.jsonl here if the run is remote].", "--tags"),
    ] = None,
    port: Annotated[int, option("Port on 127.0.0.1; 0 takes a free one [8766].")] = 8766,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in this machine's browser.")
    ] = True,
    indexes: IndexesOption = None,
    device: DeviceOption = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address on stdout as JSON, for a program that starts the page.")
    ] = False,
) -> None:
    """Look at a run and its report in the browser: images, findings, heads, searches and tags; on this machine alone.

    Example: `clipaudit explore demo-out/birds-run --report demo-out/report --write`
    """
    if not 0 <= port < 65536:
        raise UsageError(f"--port must lie in 0..65535, not {port}")
    from clipaudit.explorer.redirect import redirect_file
    from clipaudit.explorer.server import ExplorerOptions, serve_api

    token = secrets.token_urlsafe(24) if write else ""

    def started(url: str) -> None:
        # behind the # the token reaches the page, and no log of a server or proxy
        address = f"{url}/#token={token}" if token else f"{url}/"
        if as_json:
            typer.echo(json.dumps({"url": address, "interface": f"{url}/openapi.json", "write": write}))
            sys.stdout.flush()
        else:
            typer.echo(f"Open {address}   (Ctrl-C ends)", err=True)
        if browser:
            # a browser's arguments can be read by every user of this machine: the file cannot
            webbrowser.open(redirect_file(address).as_uri() if token else address)

    serve_api(
        run,
        port=port,
        device=device,
        indexes=indexes,
        on_start=started,
        explorer=ExplorerOptions(
            report=report, write=write, tags=tags, token=token, options=_options(report, tags, indexes, device)
        ),
    )


def _options(report: str | None, tags: Path | None, indexes: str | None, device: str) -> tuple[str, ...]:
    """What the command was given beside --port and --write, to show how it is started again."""
    given = (("--report", report), ("--tags", tags), ("--indexes", indexes))
    options = [word for name, value in given if value is not None for word in (name, str(value))]
    return (*options, *(() if device == "auto" else ("--device", device)))
