"""The commands `query` and `serve`: a request to the indexes, answered as a table, JSON or a page, or over HTTP."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipaudit.cli.options import (
    DeviceOption,
    JsonOption,
    RunArgument,
    listed,
    one_of,
    option,
    print_json,
    where_option,
    write_page,
)
from clipaudit.cli.terminal import tell
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.retrieval.request import Request
    from clipaudit.retrieval.retriever import Retriever
    from clipaudit.retrieval.sheet import SheetPanel

WHAT, HOW, OUTPUT = "What is asked", "Which images", "Output"


HeadOption = Annotated[
    list[str] | None,
    option(
        "Head, or several with weights: L11H05=2,L10H01; or embedding [embedding].", "--head", "--heads", panel=WHAT
    ),
]
RoleOption = Annotated[str | None, option("All heads with this role, as `clipaudit heads` found it.", panel=WHAT)]
ImageOption = Annotated[list[str] | None, option("Images like this file; FILE=2 counts twice; repeatable.", panel=WHAT)]
KeyOption = Annotated[
    list[str] | None,
    option("Images like this sample: SHARD/KEY, the shard by number or file name; repeatable, =WEIGHT.", panel=WHAT),
]
TextOption = Annotated[
    list[str] | None,
    option("Images along this text; 'a dog=2' counts twice, 'fog=-1' or '-fog' is subtracted; repeatable.", panel=WHAT),
]
MinusOption = Annotated[
    list[str] | None, option("Images without what this text says: its score is subtracted; repeatable.", panel=WHAT)
]
EndOption = Annotated[str, option("max (most like it) or min (least) [max].", panel=WHAT)]
KOption = Annotated[int | None, option("Images [20, or all where there are fewer].", "-k", panel=HOW)]
WhereOption = Annotated[list[str] | None, where_option("Only images", panel=HOW)]
UniqueOption = Annotated[
    bool, typer.Option("--unique", help="Leave out copies (by perceptual hash).", rich_help_panel=HOW)
]
IndexesOption = Annotated[
    str | None, option("Directory that `clipaudit index --out` wrote [the run's own].", panel=HOW)
]
StaleOption = Annotated[
    bool, typer.Option("--allow-stale", help="Accept an index that is older than the run.", rich_help_panel=HOW)
]
VerifyOption = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Hash the index's files first.", rich_help_panel=HOW)
]
CompareOption = Annotated[
    bool, typer.Option("--compare", help="Also ask the whole embedding, side by side.", rich_help_panel=OUTPUT)
]
MapsOption = Annotated[
    bool,
    typer.Option(
        "--maps", help="Beside each picture of --html: where in it what was asked is seen.", rich_help_panel=OUTPUT
    ),
]
HtmlOption = Annotated[Path | None, option("Write a contact sheet: one HTML file.", panel=OUTPUT)]
ThumbnailOption = Annotated[int, option("Pixels of a picture's longer side [160].", "--thumbnail", panel=OUTPUT)]


def query(
    run: RunArgument,
    head: HeadOption = None,
    role: RoleOption = None,
    image: ImageOption = None,
    key: KeyOption = None,
    text: TextOption = None,
    minus: MinusOption = None,
    end: EndOption = "max",
    k: KOption = None,
    where: WhereOption = None,
    unique: UniqueOption = False,
    stale: StaleOption = False,
    verify: VerifyOption = True,
    indexes: IndexesOption = None,
    compare: CompareOption = False,
    html: HtmlOption = None,
    maps: MapsOption = False,
    thumbnail_pixels: ThumbnailOption = 160,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find images that are alike in one respect: by a head, by several, by a role, or by the whole embedding.

    Several texts, samples and images add up: `--text "a dog" --text "a lake=0.5" --minus snow`.

    Example: `clipaudit query runs/train --role colour --key 3/photo_0001 --compare --html like.html`
    """
    from clipaudit.cli.console.query import print_answer
    from clipaudit.retrieval.parts import parse_images, parse_keys, parse_minus, parse_texts, parts_of
    from clipaudit.retrieval.queries import QueryEncoder
    from clipaudit.retrieval.request import Request, answers, parse_weights
    from clipaudit.retrieval.retriever import Retriever
    from clipaudit.run.reader import Run

    one_of("--end", end, ("max", "min"))
    if maps and html is None:
        raise UsageError("--maps draws on the page of --html: give --html FILE too")
    opened_run = Run(run)
    request = Request(
        weights=parse_weights(listed(head)),
        role=role,
        parts=parts_of(
            opened_run,
            text=parse_texts("--text", text or ()),
            key=parse_keys(opened_run, key or ()),
            image=parse_images(image or ()),
            minus=parse_minus(minus or ()),
        ),
        end="min" if end == "min" else "max",
        k=k,
        where=tuple(where or ()),
        unique=unique,
        compare=compare,
    )
    retriever = Retriever(opened_run, indexes=indexes, stale=stale, verify=verify)
    panels = answers(retriever, QueryEncoder(opened_run, device, _tell_loading), request)
    if html is not None:
        _write_sheet(html, retriever, request, panels, thumbnail_pixels, device if maps else None)
    if as_json:
        print_json({"asked": request.words(), "panels": [_panel_json(panel) for panel in panels]})
        return
    for panel in panels:
        print_answer(f"{request.words()}: {panel.title}", panel.answer)
    if html is not None:
        tell(f"written to {html}")


def serve(
    run: RunArgument,
    api: Annotated[bool, typer.Option("--api", help="The JSON interface, described at /openapi.json.")] = False,
    port: Annotated[int, option("Port on 127.0.0.1; 0 takes a free one [8765].")] = 8765,
    indexes: IndexesOption = None,
    device: DeviceOption = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address on stdout as JSON, for a program that starts the server.")
    ] = False,
) -> None:
    """Answer queries over HTTP on this machine: JSON, from memory-mapped indexes, with limits on what may be asked.

    Example: `clipaudit serve runs/train --api`
    """
    if not api:
        raise UsageError(f"give --api for the JSON interface; the page over a run is `clipaudit explore {run}`")
    if not 0 <= port < 65536:
        raise UsageError(f"--port must lie in 0..65535, not {port}")
    from clipaudit.explorer.server import serve_api

    def print_address(url: str) -> None:
        if as_json:
            typer.echo(json.dumps({"url": url, "interface": f"{url}/openapi.json"}))
            sys.stdout.flush()
        else:
            typer.echo(f"{url}/openapi.json", err=True)

    serve_api(
        run,
        port=port,
        device=device,
        indexes=indexes,
        on_start=print_address,
    )


def _tell_loading(model: str) -> None:
    tell(f"loading {model} ...")


def _write_sheet(
    html: Path, retriever: Retriever, request: Request, panels: list[SheetPanel], side: int, maps_device: str | None
) -> None:
    """Write the page, with pictures of `side` pixels; with heat maps when a device for the model is named."""
    from clipaudit.retrieval.sheet import contact_sheet
    from clipaudit.run.thumbnails import Thumbnails

    thumbnails, draw = Thumbnails(retriever.run, side), None
    if maps_device is not None:
        from clipaudit.retrieval.sheet_maps import SheetMaps  # loads torch

        draw = SheetMaps(retriever, side=side, device=maps_device)
    page = contact_sheet(retriever.run, request.sheet_query(retriever, thumbnails), panels, thumbnails, draw)
    write_page("--html", html, page)


def _panel_json(panel: SheetPanel) -> dict[str, Any]:
    """One list of results as plain JSON values."""
    return {"title": panel.title, "notes": list(panel.answer.notes), "hits": [asdict(hit) for hit in panel.answer.hits]}
