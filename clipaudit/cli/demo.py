"""The commands `demo` and `demo-data`; imports nothing heavy until one runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from clipaudit.cli.terminal import is_quiet


def demo_data(
    name: Annotated[str, typer.Argument(help="Data set: birds, things, planted or nulls.")],
    out: Annotated[Path, typer.Argument(help="Directory for the shards.")],
    count: Annotated[int, typer.Option("--count", help="Images.")] = 2000,
    shard_size: Annotated[int, typer.Option("--shard-size", help="Images a shard.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Write a generated data set of known truth as WebDataset shards: jpg, cls, json, txt and seg.png.

    `birds`: waterbirds on water and landbirds on land (95 % in train, 50 % in test). `things`: 44 nouns, nothing tied
    to anything. `planted`: cats black and white, cars in snow, guitars tinted purple, five clean classes. `nulls`:
    random labels.

    Example: `clipaudit demo-data birds shards/birds --count 5000`
    """
    from clipaudit.demo.world.datasets import write_world

    for path in write_world(name, out, count=count, seed=seed, shard_size=shard_size):
        typer.echo(path)
    typer.echo(out / "classnames.txt")


def demo(
    out: Annotated[Path, typer.Argument(help="Directory to make; must not exist or be empty.")] = Path(
        "clipaudit-demo"
    ),
    birds: Annotated[int, typer.Option("--birds", help="Images of birds to audit.")] = 4000,
    things: Annotated[int, typer.Option("--things", help="Images of other things, which describe the heads.")] = 3000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the pictures.")] = 0,
) -> None:
    """Show the whole thing on generated pictures with a small CLIP model: needs no network, takes a minute or two.

    Ends with the report of the birds' shortcut, in OUT/report, and a page of the model's heads in words. OUT/photos has
    some of the birds in class folders, to try `clipaudit pack` on.

    Example: `clipaudit demo demo-out`
    """
    from clipaudit.demo.showcase import showcase

    say: Callable[[str], None] = (lambda _: None) if is_quiet() else typer.echo
    page = showcase(out, birds=birds, things=things, seed=seed, say=say)
    typer.echo(f"Open {page}")
    say(f"Look through it: {shlex.join(['clipaudit', 'explore', str(out / 'birds-run'), '--write'])}")
