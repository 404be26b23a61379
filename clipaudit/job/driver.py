"""The stages of a job as plain functions: list the shards, plan, process, account for losses; no Ray here."""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
from dataclasses import dataclass

from clipaudit.config import JobConfig, fingerprint
from clipaudit.errors import RunInvalid, RunNotFound, UsageError
from clipaudit.job.advice import bytes_per_shard, pack_advice
from clipaudit.job.engines import make_pool
from clipaudit.job.fields import fields_of
from clipaudit.job.new_labels import refuse_other_labels, refuse_other_numbers
from clipaudit.job.progress import Tally
from clipaudit.job.protocol import Observer, Pool, WorkerFacts
from clipaudit.job.scheduler import Scheduler
from clipaudit.job.shard_list import ShardList, list_shards
from clipaudit.run.directory import RunDirectory, opened_place
from clipaudit.run.growth import Growth
from clipaudit.run.reader import Run
from clipaudit.run.records import Manifest, compare_options
from clipaudit.run.upkeep import RunStatus, status
from clipaudit.schema import SCHEMA_VERSION, VERSION, LabelKind, Shard
from clipaudit.shards.fields import parse_fields
from clipaudit.shards.listing import expand
from clipaudit.shards.missing import warn_of_first_samples
from clipaudit.shards.reader import estimate_samples

_PACKAGES = ("torch", "open_clip_torch", "timm", "torchvision", "pillow", "pyarrow", "numpy", "webdataset")
_ROW_METADATA_BYTES = 120  # of a row on disk: key, size, hash, offsets, norms, and its share of the commit record


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job is about to do."""

    shards: tuple[Shard, ...]
    """All shards of the run."""
    committed: int
    """How many of them an earlier job of this run has committed."""
    bytes_in: int
    """Bytes of all shards."""
    estimated_samples: int
    """From the sizes of the first samples of up to three shards; 0 when none could be read."""
    facts: WorkerFacts
    """Of the job's first worker."""

    @property
    def bytes_per_image(self) -> int:
        """Stored bytes an image, vectors and metadata."""
        return self.facts.table.vector_bytes + _ROW_METADATA_BYTES

    @property
    def bytes_per_shard(self) -> int:
        """Stored bytes a shard beside its rows: its moments, the Parquet file's footer, the commit record."""
        return bytes_per_shard(self.facts.table)

    @property
    def estimated_bytes_out(self) -> int:
        """Stored bytes of the whole run: rows, shards' moments, and the basis file (float32 Q, T and G) once."""
        table, tower = self.facts.table, self.facts.model["tower"]
        bases = 1 if tower["pooling"] == "attention" else len(table.heads)  # behind an attention pool heads share one
        # Of each basis Q (dh x D) and T (dh x dh), and once G (width x D).
        numbers = bases * table.head_dim * (table.embed_dim + table.head_dim) + int(tower["width"]) * table.embed_dim
        return self.bytes_per_image * self.estimated_samples + self.bytes_per_shard * len(self.shards) + 4 * numbers


class Reporter(Observer):
    """An Observer that is also told of the job's beginning and end, to show it to a user; this one is silent."""

    def listed(self, shards: int, committed: int) -> None:
        """The job has so many shards, and so many of them are committed already."""

    def appending(self, known: int, new: int) -> None:
        """Of the shards that `--append` names, the run has so many already, and so many are added to it."""

    def labels(self, kind: LabelKind, example: str) -> None:
        """Labels will be read as this kind, since the first ones are; `example` is one of them with its sample."""

    def comparing(self, shards: int, nbytes: int) -> None:
        """The contents of so many shards are read, because their times differ from what the run recorded."""

    def plan(self, plan: Plan) -> None:
        """A worker is ready and the run directory is open."""

    def warning(self, sentence: str) -> None:
        """Something the user should know before the work begins."""

    def done(self, status: RunStatus) -> None:
        """Every shard is committed or has failed."""


def run_job(
    config: JobConfig,
    pool: Pool | None = None,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
) -> RunStatus:
    """Process every shard that is not committed yet: the whole of `clipaudit audit`. Returns the status of the run.

    Args:
        config: which shards, which model, what is stored where.
        pool: the workers, closed at the end however the job ends; default: those of `config.execution.engine`.
        reporter: is told how the job goes; default: a silent one.
        stop: once it is set, no further shard is handed out.

    Raises UsageError before any work for a wrong option, RunMismatch for a run directory of another configuration,
    WorkersUnavailable when no worker can be started, Interrupted after `stop`, and RunInvalid at the end when more was
    lost than the configuration allows.

    >>> config = JobConfig(
    ...     shards=("demo-out/birds/birds-{000000..000001}.tar",),
    ...     out="new-run",
    ...     model=ModelConfig(name="demo"),
    ...     fields=FieldsConfig(label="cls", attributes=("json:place",)),
    ...     execution=ExecutionConfig(engine="local"),
    ... )
    >>> status = run_job(config)  # the same call resumes a job that was interrupted
    >>> status.committed == status.shards
    True
    """
    reporter = Reporter() if reporter is None else reporter
    stop = threading.Event() if stop is None else stop
    parse_fields(config.fields)  # its errors are told before the shards are listed and the model is loaded
    _refuse_state(config.out)
    run_dir = RunDirectory(config.out)
    _refuse_other_options(run_dir, config)  # only what is known without the model; the rest is compared with it
    asked = tuple(expand(config.shards))
    listed = _list_shards(run_dir, config, asked, reporter)
    if config.append:
        reporter.appending(listed.known, len(listed.new))
    reporter.listed(len(listed.shards), listed.committed)
    if listed.pending:
        fields, labels = fields_of(config, run_dir)
        if labels.kind is not None and labels.example:
            reporter.labels(labels.kind, labels.example)
        if listed.new:
            refuse_other_numbers(listed.shards, fields)
        if config.append and listed.new:
            refuse_other_labels(Run(run_dir), listed.new, fields)
        lack = warn_of_first_samples(listed.pending[0], fields)
        for sentence in filter(None, (labels.warning, lack)):
            reporter.warning(sentence)
        _process(config, run_dir, make_pool(config) if pool is None else pool, reporter, stop, asked, listed)
    result = status(run_dir)
    reporter.done(result)
    _refuse_losses(config, result)
    return result


def _list_shards(run_dir: RunDirectory, config: JobConfig, asked: tuple[Shard, ...], reporter: Reporter) -> ShardList:
    return list_shards(run_dir, asked, append=config.append, moved=config.moved, comparing=reporter.comparing)


def _process(
    config: JobConfig,
    run_dir: RunDirectory,
    pool: Pool,
    reporter: Reporter,
    stop: threading.Event,
    asked: tuple[Shard, ...],
    listed: ShardList,
) -> None:
    scheduler = Scheduler(run_dir, pool, config.execution, stop, reporter)
    try:
        facts = scheduler.first_worker()
        manifest = make_manifest(config, facts, asked)
        if run_dir.create_or_resume(manifest) is not manifest:
            listed = _joined(config, run_dir, reporter, asked, manifest)
        if not run_dir.storage.exclusive:
            reporter.warning(
                f"{run_dir.url}: this store cannot refuse to overwrite a file, so run only one job at a time on it"
            )
        samples = estimate_samples(listed.shards)
        if (advice := pack_advice(listed.shards, samples, facts.table, parse_fields(config.fields))) is not None:
            reporter.warning(advice)
        reporter.plan(
            Plan(
                shards=listed.shards,
                committed=listed.committed,
                bytes_in=sum(shard.size for shard in listed.shards),
                estimated_samples=samples,
                facts=facts,
            )
        )
        tally = Tally(shards_total=len(listed.shards), shards_committed=listed.committed)
        scheduler.run(listed.pending, manifest.fingerprint, tally, listed.generation_of)
    finally:
        pool.close()


def _joined(
    config: JobConfig, run_dir: RunDirectory, reporter: Reporter, asked: tuple[Shard, ...], manifest: Manifest
) -> ShardList:
    """The command's shards once those that are new belong to the run.

    Of two drivers that append at the same time one is first to create the generation; the other looks again.
    """
    while True:
        listed = _list_shards(run_dir, config, asked, reporter)
        if not listed.new or listed.history is None:
            return listed
        run_dir.grow(
            Growth(
                generation=listed.history.generation + 1,
                shards=listed.new,
                clipaudit_version=manifest.clipaudit_version,
                packages=manifest.packages,
            )
        )


def make_manifest(config: JobConfig, facts: WorkerFacts, shards: tuple[Shard, ...]) -> Manifest:
    """The content of run.json: the identity that the run is bound to, its shards, and the versions that made it."""
    identity = config.identity()
    return Manifest(
        clipaudit_version=VERSION,
        identity=identity,
        fingerprint=fingerprint({**identity, "weights": facts.model["fingerprint"], "schema": SCHEMA_VERSION}),
        model=facts.model,
        packages={name: importlib.metadata.version(name) for name in _PACKAGES},
        table=facts.table,
        shards=shards,
    )


def _refuse_other_options(run_dir: RunDirectory, config: JobConfig) -> None:
    """RunMismatch when the run that is there has other options than this command."""
    with contextlib.suppress(RunNotFound):
        compare_options(run_dir.open(), config.identity(), run_dir.url)


def _refuse_state(out: str) -> None:
    """UsageError for `--out RUN@1`, which would begin a run of that name beside the one that is meant."""
    directory, moment = opened_place(out)
    if moment is not None and directory.exists():
        raise UsageError(
            f"--out {out}: a job goes on with the newest state of {directory.url}: leave out @{moment.text}"
        )


def _refuse_losses(config: JobConfig, result: RunStatus) -> None:
    limits = config.execution
    if result.failed > limits.max_lost_shards:
        raise RunInvalid(
            f"{result.failed} of {result.shards} shards failed, and the table lacks their images (see"
            f" {config.out}/_failed); the same command tries them again, --max-lost-shards allows for them"
        )
    if result.lost > limits.max_lost_samples:
        what = "were skipped, or lie where a shard is damaged" if result.partial else "were skipped"
        losses = (
            f"{100 * result.lost:.1f} % of the samples {what}"
            if result.rows
            else "no shard holds a sample that can be read"
        )
        raise RunInvalid(
            f"{losses}, and --max-lost allows {100 * limits.max_lost_samples:g} %;"
            f" `clipaudit status {config.out}` counts the reasons"
        )
