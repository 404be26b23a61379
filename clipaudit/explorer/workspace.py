"""One run with all that the explorer's routes share: rows with further columns, scores, pictures, report and tags."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Float32s
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.explorer.layouts import Layouts
from clipaudit.explorer.report_columns import ReportColumns
from clipaudit.explorer.report_file import ReportFile, find_report
from clipaudit.explorer.run_scores import RunScores
from clipaudit.explorer.tag_log import TagLog, TagState
from clipaudit.explorer.wall import SCORE, ViewRequest, Wall
from clipaudit.heads.texts.prompts import TEMPLATE_SETS, load_templates
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.retrieval.queries import QueryEncoder
from clipaudit.retrieval.row_table import RowTable
from clipaudit.run.classes import ClassNames, find_classes
from clipaudit.run.columns import read_columns
from clipaudit.run.filter_columns import FilterColumns
from clipaudit.run.reader import Run
from clipaudit.run.thumbnails import Thumbnails
from clipaudit.schema import OK, labels_in
from clipaudit.storage.text_file import is_remote, read_if_there

_LEFT_OUT: Final = frozenset({"status", "scale", "norm", "remainder"})
PREDICTED, RIGHT, TAGS = "clip.predicted", "clip.right", "tags"
"""Columns of the page: CLIP's zero-shot answer, whether it is the label, and an image's tags."""
_TAG_PREFIX: Final = "tag."
SIDES: Final = (96, 192, 256, 384)
"""Pixels of thumbnails' longer sides."""
_WALLS: Final = 4
LISTING_SECONDS: Final = 15.0
"""Between two looks at which shards are committed: of a remote run each is a request."""


@dataclass(frozen=True, kw_only=True)
class ClassPrompts:
    """The classes of a run, and how they are said to the model."""

    names: ClassNames
    templates: tuple[str, ...]
    source: str
    """Where the templates are from."""


class Workspace:
    """What the routes share. For any number of threads.

    Args:
        run: a run, as it is when this object is made.
        report: directory of a report; None to look for the newest one in the run and beside it.
        look: whether a report is looked for where none is given.
        tags: where tags are kept.
        write: whether tags may be written, and texts' vectors into the run.
        device: where the run's model runs, see `QueryEncoder`.
    """

    def __init__(
        self,
        run: Run,
        *,
        report: str | None = None,
        look: bool = True,
        tags: TagLog | None = None,
        write: bool = False,
        device: str = "auto",
    ) -> None:
        self.run, self.write, self.tag_log, self.device = run, write, tags, device
        self.encoder = QueryEncoder(run, device, keep=write)
        self.scores = RunScores(run, self.encoder)
        self.layouts = Layouts(run, self.scores, keep=write)
        self.report: ReportFile | None = find_report(run, report) if look or report is not None else None
        self.thumbnails = {side: Thumbnails(run, side) for side in SIDES}
        self._lock, self._answers_lock = threading.RLock(), threading.RLock()
        self._walls: OrderedDict[tuple[tuple[int, int], bool], Wall] = OrderedDict()
        self._answers: dict[str, pa.Array] | None = None
        self._vectors: dict[int, Float32s] = {}
        self._placed_tags: tuple[tuple[int, int], TagState] | None = None
        self._new_shards, self._list_again = 0, 0.0
        self.revision = 0
        """Grows when the page must ask for everything again: another report, another column."""

    # -- rows --------------------------------------------------------------------------------------------------------

    @cached_property
    def _plain_rows(self) -> RowTable:
        """The run's ok rows with the run's own columns."""
        run = self.run
        columns = [name for name in run.columns if name not in run.spec.vectors and name not in _LEFT_OUT]
        batches = run.batches(["status", *columns])
        parts = [batch.filter(pc.equal(batch["status"], OK)).select(columns) for batch in batches]
        table = pa.Table.from_batches(parts, run.schema(columns))
        starts, first = {}, 0
        for shard, record in run.records.items():
            starts[shard] = (first, record.ok)
            first += record.ok
        return RowTable(run, table, starts, f"the run at {run.directory.url}", run.attribute_types)

    @cached_property
    def _report_columns(self) -> dict[str, pa.Array]:
        try:
            return {} if self.report is None else ReportColumns(self.report).columns(self._plain_rows)
        except IntegrityError:  # the findings' screen tells it; the wall does without
            return {}

    def report_columns(self) -> dict[str, pa.Array]:
        """The columns (n,) of the rows that the report knows, by name; nothing where it cannot be read."""
        with self._lock:
            return self._report_columns

    def answer_columns(self) -> dict[str, str]:
        """Column that says whether an answer is right -> whose answer it is; of the report's answerers."""
        known = self.report_columns()
        words = {} if self.report is None else ReportColumns(self.report).answerers()
        return {name: whose for name, whose in words.items() if name in known}

    @cached_property
    def picture_version(self) -> str:
        """What browsers keep pictures under: of this run's shards in this state, and of no other run."""
        shards = [(shard.id, shard.url, shard.size, shard.etag) for shard in self.run.manifest.shards]
        state = self.run.state
        facts = (self.run.directory.url, self.run.manifest.fingerprint, state.generation, state.committed_at, shards)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:20]

    def reread(self, report: str) -> None:
        """Show a report from now on, with the columns that were joined to the run since.

        Rows keep their numbers: where shards came in the meantime, the run is left as it is.
        """
        found = find_report(Run(self.run.directory.url), report)
        with self._lock:
            self.report = found
            self._take_anew()

    def _take_anew(self) -> None:
        """Read rows, columns and what the report says of them again, when they are needed."""
        fresh = Run(self.run.directory.url)
        if list(fresh.records) == list(self.run.records):
            self.run = fresh
            self.__dict__.pop("_plain_rows", None)
        self.__dict__.pop("_report_columns", None)
        self._placed_tags = None
        self._walls.clear()
        self.revision += 1

    def _follow_columns(self) -> bool:
        """Whether columns were joined to the run, or dropped, since it was read; then it is read again."""
        try:
            now = {name: record.path for name, record in read_columns(self.run.directory).items()}
        except IntegrityError:  # the columns that are known go on
            return False
        known = {name: record.path for name, record in self.run.joined.items()}
        changed = {name: path for name, path in now.items() if name not in self.run.spec.attributes} != known
        if changed:
            self._take_anew()
        return changed

    def plain_rows(self) -> RowTable:
        """The run's ok rows with the run's own columns."""
        with self._lock:
            try:
                return self._plain_rows
            except IntegrityError:  # perhaps of a column that was dropped before its values were read
                if not self._follow_columns():
                    raise
                return self._plain_rows

    def wall(self, request: ViewRequest | None = None) -> Wall:
        """The wall with every column that a request may need; CLIP's answers only where it names them."""
        self.plain_rows()
        state = self.tags()
        answers = self._answers is not None or (request is not None and self._names_answers(request, state))
        columns = self.answers() if answers else {}  # before the lock: it may load the model
        key = ((0, 0) if self.tag_log is None else self.tag_log.stamp, answers)
        with self._lock:
            if key not in self._walls:
                extra = {**self._report_columns, **columns}
                extra |= _tag_columns(self._plain_rows, state, self.tags_column)
                self._walls[key] = Wall(self._with(extra), self._scores_of, self.layouts.inside)
                if len(self._walls) > _WALLS:
                    self._walls.popitem(last=False)
            return self._walls[key]

    def _names_answers(self, request: ViewRequest, state: TagState) -> bool:
        """Whether a view is filtered, sorted or grouped by CLIP's answers; a value of that name is no such column."""
        return bool({PREDICTED, RIGHT} & set(request.named(self._filter_columns(state))))

    def _filter_columns(self, state: TagState) -> FilterColumns:
        """Every column that a filter may name, whether it is computed or not."""
        rows = self.plain_rows()
        extra = {name: values.slice(0, 0) for name, values in self._report_columns.items()}
        extra |= {PREDICTED: pa.array([], pa.string()), self.tags_column: pa.array([], pa.string())}
        flags = (RIGHT, *(f"{_TAG_PREFIX}{tag}" for tag in state.counts))
        extra |= {name: pa.array([], pa.bool_()) for name in flags}
        table = rows.table.slice(0, 0)
        for name in extra.keys() - set(table.column_names):
            table = table.append_column(name, extra[name])
        return RowTable(self.run, table, {}, rows.source, self.run.attribute_types).filter_columns

    @property
    def tags_column(self) -> str:
        """What filters call an image's tags: `tags`, unless the run has an attribute of that name."""
        return TAGS if TAGS not in (*self.run.columns, *self.run.attributes) else f"page.{TAGS}"

    def page_only(self, request: ViewRequest) -> tuple[str, ...]:
        """The columns that a view names and only the page has, each once."""
        names = [name for name in request.named(self._filter_columns(self.tags())) if name != SCORE]
        own = {"attributes." + name for name in self.run.attributes} | {*self.run.flat_columns(), *self.run.attributes}
        return tuple(dict.fromkeys(name for name in names if name not in own))

    def _with(self, extra: dict[str, pa.Array]) -> RowTable:
        rows = self._plain_rows
        table = rows.table
        for name, values in extra.items():
            if name not in table.column_names:
                table = table.append_column(name, values)
        return RowTable(self.run, table, rows.starts, rows.source, self.run.attribute_types)

    def _scores_of(self, request: ViewRequest) -> Float32s:
        return self.scores.scores(request.parts, dict(request.weights))

    @cached_property
    def class_names(self) -> ClassNames | None:
        """What labels are called; None also where the file of names cannot be used, for the page does without."""
        try:
            return self.run.class_names
        except UsageError:
            return None

    # -- classes -----------------------------------------------------------------------------------------------------

    @cached_property
    def class_prompts(self) -> ClassPrompts:
        """The run's classes with the report's prompts; UsageError when it has no labels or they have no names."""
        shards = [shard.url for shard in self.run.manifest.shards]
        source, templates = self._templates()
        names = find_classes(self.given_classes(), shards, self.run.class_labels())
        return ClassPrompts(names=names, templates=templates, source=source)

    @cached_property
    def _texts(self) -> RunTexts:
        return RunTexts(self.run, self.device, keep=self.write)

    def class_vectors(self, places: Sequence[int] | None = None) -> Float32s:
        """(C, D) unit vectors of the classes, or of some by their places: two take a moment, ten thousand minutes.

        Those that were asked for stay in memory. UsageError as from `class_prompts`.
        """
        prompts, names = self.class_prompts, self.class_prompts.names.names
        with self._answers_lock:
            wanted = range(len(names)) if places is None else places
            missing = [place for place in wanted if place not in self._vectors]
            if missing:
                # all at once where all are asked for: a report has stored them under that list
                missing = list(wanted) if places is None else missing
                vectors = self._texts.classes([names[place] for place in missing], prompts.templates)
                self._vectors |= dict(zip(missing, vectors, strict=True))
            return np.stack([self._vectors[place] for place in wanted])

    def given_classes(self) -> str | None:
        """The report's file of class names, where it can still be read."""
        given = None if self.report is None else self.report.audit.get("settings", {}).get("classes")
        return given if isinstance(given, str) and _is_file(given) else None

    def _templates(self) -> tuple[str, tuple[str, ...]]:
        """The report's prompt templates, or the default ones where its file is not there any more."""
        given = "imagenet" if self.report is None else str(self.report.audit["settings"]["templates"])
        candidates = [given]
        if self.report is not None and self.report.storage.local:
            # the file was named as seen from where the report was made: often its directory's parent
            parent, name = self.report.storage.url.rstrip("/").rpartition("/")[0], given.rpartition("/")[2]
            candidates.append(f"{parent}/{name}")
        for spec in candidates:
            if spec not in TEMPLATE_SETS and not _is_file(spec):
                continue
            try:
                return spec, load_templates(spec)
            except UsageError:
                continue
        return "imagenet", load_templates("imagenet")

    def answers(self) -> dict[str, pa.Array]:
        """CLIP's zero-shot class of every row and whether it is the label's, (n,) each; null without a label."""
        with self._answers_lock:
            if self._answers is None:
                self._answers = self._new_answers()
            return self._answers

    def _new_answers(self) -> dict[str, pa.Array]:
        vectors, names = self.class_vectors(), self.class_prompts.names
        embedding = self.scores.vectors("embedding")
        predicted = np.empty(len(embedding), np.int64)
        for start in range(0, len(embedding), 65_536):
            logits = embedding[start : start + 65_536].astype(np.float32) @ vectors.T
            predicted[start : start + 65_536] = logits.argmax(axis=1)
        label_rows = names.rows(self.run.class_labels())
        right: list[bool | None] = []
        for label, answer in zip(self._plain_rows.table["label"].to_pylist(), predicted.tolist(), strict=True):
            # of several labels, one that is answered is right
            truth = [
                label_rows[each]
                for each in labels_in(tuple(label) if isinstance(label, list) else label)
                if each in label_rows
            ]
            right.append(answer in truth if truth else None)
        answers = np.array(names.names, object)[predicted]
        return {PREDICTED: pa.array(answers, pa.string()), RIGHT: pa.array(right, pa.bool_())}

    # -- tags --------------------------------------------------------------------------------------------------------

    def tags(self) -> TagState:
        """What people tagged, of images that are still those that they tagged; nothing where no tags are kept."""
        if self.tag_log is None:
            return TagState()
        stamp, state = self.tag_log.stamp, self.tag_log.state()
        with self._lock:
            if self._placed_tags is None or self._placed_tags[0] != stamp:
                self._placed_tags = stamp, state.among(self._keys_at(list(state.by_image)))
            return self._placed_tags[1]

    def _keys_at(self, places: list[tuple[int, int]]) -> list[str | None]:
        numbers = self.plain_rows().numbers(places)
        keys = self.plain_rows().table["key"].take(pa.array(numbers, pa.int64())).to_pylist() if numbers else []
        return list(keys)

    def new_shards(self) -> int:
        """Shards that were committed since the run was opened; the store is asked at most every LISTING_SECONDS, then
        also for columns that were joined or dropped, which count from then on.
        """
        with self._lock:
            if time.monotonic() >= self._list_again:
                self._follow_columns()
                self._new_shards = len(self.run.directory.committed_ids() - set(self.run.records))
                self._list_again = time.monotonic() + LISTING_SECONDS
            return self._new_shards

    def number(self, shard: int, index: int) -> int | None:
        """The number of a row, None when there is none."""
        return self.plain_rows().numbers([(shard, index)])[0]


def _is_file(path: str) -> bool:
    """Whether a path is a local file: a report, which may be a stranger's, must not make this process ask a server."""
    return not is_remote(path) and read_if_there(path) is not None


def _tag_columns(rows: RowTable, state: TagState, name: str) -> dict[str, pa.Array]:
    """Under a name all of an image's tags in one text, and a boolean column for each tag."""
    images = list(state.by_image)
    numbers = rows.numbers(images)
    texts: list[Any] = [None] * len(rows)
    flags = {tag: np.zeros(len(rows), np.bool_) for tag in state.counts}
    for image, number in zip(images, numbers, strict=True):
        if number is not None:
            texts[number] = ", ".join(sorted(state.by_image[image]))
            for tag in state.by_image[image]:
                flags[tag][number] = True
    columns = {name: pa.array(texts, pa.string())}
    return columns | {f"{_TAG_PREFIX}{tag}": pa.array(values) for tag, values in flags.items()}
