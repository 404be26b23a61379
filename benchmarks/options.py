"""What the benchmarks share: `--smoke`, which runs everything at its smallest sizes, and small photographs for it."""

from __future__ import annotations

import argparse
import atexit
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.make_shards import write_photos

SMALL_MODEL = "ViT-S-32-alt"
"""The smallest class-token ViT that open_clip registers."""


def parser_for(description: str | None) -> argparse.ArgumentParser:
    """A parser with the script's docstring as its help."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def parse(parser: argparse.ArgumentParser, *, needs_shards: bool = False, **smoke: object) -> argparse.Namespace:
    """Parse the command line; with `--smoke` the options in `smoke` take these values unless they are given.

    With `needs_shards` the script's argument `shards` may be left out under `--smoke`: photographs are made for it.
    """
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, seconds: to see that everything runs")
    if "--smoke" in sys.argv[1:]:
        parser.set_defaults(**smoke)
    options = parser.parse_args()
    if needs_shards and options.smoke and not options.shards:
        options.shards = made_shards()
    if needs_shards and not options.shards:
        parser.error("the following arguments are required: SHARDS")
    return options


def scratch_folder() -> Path:
    """A new directory, removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="clipaudit-smoke-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def made_runs(seeds: Sequence[int] = (1, 2), images: int = 60) -> list[str]:
    """Runs over small `things` worlds, all layers of the demo model, one a seed."""
    from tests.make_audits import audited_world

    factors = ("noun", "background", "style", "tint")
    runs = (audited_world(scratch_folder(), "things", images, seed, attributes=factors, layers="all") for seed in seeds)
    return [run.directory.url for run in runs]


def made_shards(count: int = 2, images: int = 12) -> Sequence[str]:
    """Paths of small shards of JPEGs with labels."""
    folder = scratch_folder()
    return [str(write_photos(folder / f"{n:06d}.tar", images, prefix=f"shard{n}")) for n in range(count)]
