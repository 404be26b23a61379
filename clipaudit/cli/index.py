"""The commands `index` and `duplicates`: options to builders, cards to the terminal; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from clipaudit.cli.options import JsonOption, OutOption, RunArgument, listed, one_of, option, print_json, write_page
from clipaudit.cli.terminal import advise, tell

if TYPE_CHECKING:
    from clipaudit.retrieval.build import BuildTask
    from clipaudit.retrieval.card import IndexCard, Metric

EXECUTION = "Execution"

MemoryOption = Annotated[
    str | None, option("Memory of one builder, such as 4GB [half of the machine's].", panel=EXECUTION)
]
EngineOption = Annotated[str, option("ray (heads in parallel) or local (one after another) [local].", panel=EXECUTION)]
HeadsOption = Annotated[
    list[str] | None,
    option("Heads such as L22H05,L22H06, and embedding [all stored, and embedding].", "--head", "--heads"),
]
KindOption = Annotated[str, option("auto, flat, hnsw, ivf or ivf-pq; also hnsw64, ivf4096, ivf4096-pq32 [auto].")]
MetricOption = Annotated[
    str,
    option("Score: cosine (of rows minus the head's mean), centred (their product) or raw (the paper's) [cosine]."),
]
UpdateOption = Annotated[
    bool, typer.Option("--update", help="Add the shards committed since; kind, lists and mean stay.")
]
IndexOutOption = Annotated[
    str | None,
    option("Directory whose indexes/ gets them, for a run that cannot be written to; query with --indexes [the run]."),
]
SeedOption = Annotated[
    int,
    typer.Option(help="Of the training sample, the held-out queries and the lists [0].", min=0, show_default=False),
]
WorkersOption = Annotated[int | None, option("Builders at the same time [one a CPU].", panel=EXECUTION)]
AddressOption = Annotated[str | None, option("Ray cluster [the job's own, else a new local one].", panel=EXECUTION)]
CpusOption = Annotated[float | None, option("CPUs of a builder.", panel=EXECUTION)]


def index(
    run: RunArgument,
    heads: HeadsOption = None,
    kind: KindOption = "auto",
    metric: MetricOption = "cosine",
    memory: MemoryOption = None,
    update: UpdateOption = False,
    seed: SeedOption = 0,
    out: IndexOutOption = None,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    address: AddressOption = None,
    cpus_per_worker: CpusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build one search index for each head, and one for the whole embedding, from the stored coordinates.

    Each index gets a card in `RUN/indexes/HEAD/card.json`: kind, bytes, recall@10 against an exact search, latency.

    Example: `clipaudit index demo-out/birds-run --heads L05H00,embedding --memory 4GB`
    """
    from clipaudit.cli.console.index import IndexReporter
    from clipaudit.config import EngineName, ExecutionConfig
    from clipaudit.job.engines import load_engine
    from clipaudit.retrieval.build import build_shared
    from clipaudit.retrieval.kinds import parse_memory
    from clipaudit.retrieval.plan import IndexConfig, build_indexes

    one_of("--metric", metric, ("cosine", "centred", "raw"))
    one_of("--engine", engine, get_args(EngineName))
    config = IndexConfig(
        run=run,
        heads=listed(heads) or None,
        kind=kind,
        metric=cast("Metric", metric),
        memory=None if memory is None else parse_memory(memory),
        update=update,
        seed=seed,
        out=out,
    )
    execution = ExecutionConfig(
        engine=cast("EngineName", engine), workers=workers, address=address, cpus_per_worker=cpus_per_worker
    )
    chosen_engine = load_engine(execution.engine)
    tell(f"building the indexes of {run}: a line for each that is finished")
    with IndexReporter(quiet=as_json) as reporter:
        # A progress bar can be updated from this process only; other processes build without one.
        build = reporter.build if chosen_engine.IN_THIS_PROCESS else build_shared

        def build_all(tasks: Sequence[BuildTask]) -> Iterator[IndexCard]:
            return chosen_engine.map_items(build, tasks, execution)

        cards = build_indexes(config, build_all, reporter.done)
        reporter.finish(cards, out or run)
    if cards:
        place = () if out is None else ("--indexes", out)
        advise("clipaudit", "query", run, "--head", cards[0].name, "--text", "TEXT", *place)
    if as_json:
        print_json([asdict(card) for card in cards])


def duplicates(
    run: RunArgument,
    other: Annotated[
        str | None, typer.Argument(help="Another run: which of its images are in the first?", show_default=False)
    ] = None,
    similarity: Annotated[float, option("Least cosine of two whole embeddings [0.95].")] = 0.95,
    bits: Annotated[int, option("Most bits of 64 in which two perceptual hashes differ [10].")] = 10,
    memory: MemoryOption = None,
    out: OutOption = None,
    update: Annotated[
        bool, typer.Option("--update", help="Compare only images of shards that came since, with all.")
    ] = False,
    html: Annotated[
        Path | None, option("Also write a page with the largest clusters' pictures: one HTML file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find near-duplicates within a run, or images of another run that are in this one too: leakage.

    Every image of a cluster becomes a row of `RUN/duplicates/within/duplicates.parquet`, or `with-OTHER/`, or of
    `--out`, and nothing else is written. `clipaudit report` uses the table in the run.

    Example: `clipaudit duplicates demo-out/birds-run demo-out/things-run`
    """
    from clipaudit.cli.console.format import count
    from clipaudit.cli.console.index import IndexReporter, print_duplicates
    from clipaudit.retrieval.duplicates import DuplicatesConfig, find_duplicates
    from clipaudit.retrieval.kinds import parse_memory
    from clipaudit.run.reader import Run

    config = DuplicatesConfig(similarity=similarity, bits=bits, memory=None if memory is None else parse_memory(memory))
    with IndexReporter(quiet=as_json) as reporter:
        first, second = Run(run), None if other is None else Run(other)
        compared = " and ".join(count(len(each), "image") for each in (first, second) if each is not None)
        tell(f"comparing {compared}")
        result = find_duplicates(first, second, config, reporter.stage("embedding"), out, update=update)
    if html is not None:
        from clipaudit.retrieval.duplicates import read_table
        from clipaudit.retrieval.duplicates_page import duplicates_page

        runs = [first] if second is None else [first, second]
        write_page("--html", html, duplicates_page(result, runs, read_table(result.table)))
    if as_json:
        print_json(asdict(result))
    else:
        print_duplicates(result)
    if other is None and out is None:
        advise("clipaudit", "report", run)
