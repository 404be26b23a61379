"""The command `pack`: options to a source and its shards; imports nothing heavy until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipaudit.cli.options import JsonOption, one_of, option, print_json
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.shards.pack import Writer

READING = "Reading the source"


def pack(
    source: Annotated[str, typer.Argument(help="Directory, table, COCO json, Parquet file or tar.")],
    out: Annotated[Path, typer.Argument(help="Directory for the shards, outside of the source.")],
    images: Annotated[
        str | None,
        option("Directory that the paths in a table or a COCO json begin in [the file's own].", panel=READING),
    ] = None,
    path: Annotated[
        str | None, option("Column with the images' paths [path, file_name, image, ...].", panel=READING)
    ] = None,
    label: Annotated[
        str | None, option("Column with the class [class_name, label, class, ...].", panel=READING)
    ] = None,
    caption: Annotated[str | None, option("Column that becomes KEY.txt [none].", panel=READING)] = None,
    split: Annotated[str | None, option("Pack only this split, such as train [all].", panel=READING)] = None,
    encoding: Annotated[
        str | None, option("Of a CSV, TSV or JSONL file, such as cp1252 or utf-16 [utf-8].", panel=READING)
    ] = None,
    shard_mb: Annotated[float, typer.Option("--shard-mb", help="About the size of a shard, in 10^6 bytes.")] = 100.0,
    shuffle: Annotated[str, option("Seed of the images' order, or no for the source's own [0].")] = "0",
    workers: Annotated[int, typer.Option("--workers", help="Processes that write shards.", min=1)] = 2,
    engine: Annotated[
        str, option("local, or ray: on a cluster whose nodes see SOURCE and OUT by the same paths [local].")
    ] = "local",
    address: Annotated[str | None, option("Ray cluster [the job's own, else a new local one].")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be packed and left out; write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make WebDataset shards of a folder or table of images, for `audit`.

    SOURCE is a directory of class folders (`cat/1.jpg`, or `train/cat/1.jpg`), a directory of images with a table
    (CSV, TSV, JSONL or Parquet) or the table itself, a COCO json, Parquet with image bytes (a file or a directory), or
    tars with other names than WebDataset's. Images are copied byte by byte. `cls` is the number of the class in
    `OUT/classnames.txt`; `json` has the path, the split and all columns. What is left out is counted, with the reason.
    The same command goes on where it was stopped.

    Example: `clipaudit pack demo-out/photos shards/photos`
    """
    from clipaudit.cli.console.pack import PackReporter, as_document
    from clipaudit.shards.pack import PackConfig
    from clipaudit.shards.pack import pack as pack_source
    from clipaudit.shards.pack import plan as plan_source
    from clipaudit.shards.sources.options import SourceOptions

    if shuffle != "no" and not (shuffle.isdecimal() and len(shuffle) < 10):
        raise UsageError(f"--shuffle {shuffle!r} must be a whole number from 0, or no")
    config = PackConfig(
        source=source,
        out=out,
        options=SourceOptions(
            images=images, path=path, label=label, caption=caption, split=split, encoding=encoding or "utf-8-sig"
        ),
        shard_mb=shard_mb,
        shuffle=None if shuffle == "no" else int(shuffle),
        workers=workers,
    )
    with PackReporter(out, quiet=as_json) as reporter:
        if dry_run:
            packing = plan_source(config)
            reporter.planned(packing, dry_run=True)
            reporter.left_out(packing)
        else:
            packing = pack_source(
                config,
                planned=reporter.planned,
                progress=reporter.progress,
                writer=_on_engine(engine, workers, address),
            )
            reporter.finished(packing)
    if as_json:
        print_json(as_document(packing))


def _on_engine(engine: str, workers: int, address: str | None) -> Writer | None:
    """What writes the shards on another engine than this machine's processes; UsageError for one that is unknown."""
    one_of("--engine", engine, ("local", "ray"))
    if engine == "local":
        if address is not None:
            raise UsageError("--address belongs to --engine ray")
        return None
    from clipaudit.config import ExecutionConfig
    from clipaudit.job.engines import load_engine
    from clipaudit.shards.pack_writer import write_piece

    execution = ExecutionConfig(engine="ray", workers=workers, address=address, cpus_per_worker=1)
    return lambda tasks: load_engine("ray").map_items(write_piece, tasks, execution)
