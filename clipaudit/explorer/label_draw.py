"""Which images are labelled for a cue, and in which order: strata of a cross-fitted score, drawn in rounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.errors import UsageError
from clipaudit.explorer.label_log import Drawn, LabelStudy, Stratum, stamp
from clipaudit.explorer.report_file import ReportFile
from clipaudit.explorer.workspace import Workspace
from clipaudit.retrieval.row_table import RowTable
from clipaudit.run.reader import Run
from clipaudit.run.records import COLUMN_NAME

STRATA: Final = 5
"""Of each side and part."""
_CLASSES: Final = 6
"""That a finding may compare: an audit tests a column where each class has ten images with a value."""
MAX_DRAW: Final = 1000
"""Images that a study may show."""
_SHRINKAGE: Final = 0.1
_THIRD: Final = 1 / 3
_FRAME: Final = re.compile(r"^(?:an? |the )?(?:photo|picture|image|scene)s? (?:of|with|at|in|on|by) ", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CandidateCue:
    """A finding that rests on a text, and the classes that are compared."""

    finding: str
    text: str
    sides: Mapping[int | str, tuple[str, bool]]
    """Label -> (class's name, whether it is said to have the cue)."""
    delta: float


def cue_of(report: ReportFile, finding: str) -> CandidateCue:
    """A finding of a report that labels can decide; UsageError for one that is not there, or rests on no text."""
    for each in report.audit["findings"]:
        if each["id"] != finding:
            continue
        if each["kind"] != "text":
            raise UsageError("this finding rests on a column already: labels are for cues that only a text names")
        return CandidateCue(
            finding=finding,
            text=str(each["cue"]["name"]),
            sides=_sides(each["classes"]),
            delta=float(each["association"]["delta"]),
        )
    raise UsageError(f"the report has no finding {finding[:80]!r}")


def _sides(rows: Sequence[Mapping[str, Any]]) -> dict[int | str, tuple[str, bool]]:
    """Every class with its side; UsageError where labels would have to be spread over too many."""
    if len(rows) > _CLASSES:
        raise UsageError(
            f"the finding compares {len(rows)} classes, and a column is tested where each has ten labelled images: this"
            f" page draws for at most {_CLASSES}; label them in a table, and `clipaudit columns add` joins it"
        )
    return {row["label"]: (str(row["class_name"]), bool(row["has"])) for row in rows}


def new_study(workspace: Workspace, cue: CandidateCue, word: str, author: str, seed: int) -> LabelStudy:
    """A study of a cue with its whole draw; UsageError where too few images can be drawn.

    Loads the run's model where the text's vector is not stored yet.
    """
    run, rows = workspace.run, workspace.plain_rows()
    if run.spec.multi_label:
        raise UsageError("images of several labels: a cue's verdict needs one label an image")
    word = (word.strip() or plain_word(cue.text))[:60]
    labels, parts = rows.table["label"].to_pylist(), _parts(workspace, len(rows))
    classes = np.array([list(cue.sides).index(label) if label in cue.sides else -1 for label in labels], np.int64)
    used = np.flatnonzero((classes >= 0) & (parts != ""))
    if not {has for place, (_, has) in enumerate(cue.sides.values()) if (classes[used] == place).any()} == {
        True,
        False,
    }:
        raise UsageError("there are no images of classes with the cue and of classes without it to label")
    embedding = workspace.scores.vectors("embedding")[used].astype(np.float64)
    text = workspace.encoder.text(cue.text)
    score = cross_fitted(embedding, text, classes[used], np.random.default_rng([seed, 1]))
    strata, codes = _strata(cue, classes[used], parts[used], score)
    draw = rounds(codes, len(strata), np.random.default_rng([seed, 2]))
    return LabelStudy(
        **stamp(),
        author=author,
        run=run.directory.url,
        fingerprint=run.manifest.fingerprint,
        generation=run.state.generation,
        finding=cue.finding,
        cue=cue.text,
        word=word,
        column=_free_name(run, word),
        delta=cue.delta,
        seed=seed,
        strata=tuple(strata),
        draw=_drawn(rows, used[draw], codes[draw]),
    )


def plain_word(text: str) -> str:
    """`a photo of the sea` as a value of a column: `the sea`."""
    shorter = _FRAME.sub("", _FRAME.sub("", text.strip()))
    return re.sub(r"^(?:an?|the) ", "", shorter) or text


def cross_fitted(embedding: Float64s, text: Floats, classes: Ints, rng: np.random.Generator) -> Float64s:
    """(n,) how much of a cue each image has, along a direction that other images gave.

    embedding (n, D) unit vectors, text (D,), classes (n,) codes. On each half the images with most and least of the
    text inside their class give a linear discriminant, which scores the other half: a text's own axis is rarely where
    images differ most (Ledoit and Wolf's shrinkage with a fixed weight). Nothing of the score can follow an image's own
    place among its fit, and no label of the cue is used: strata are fixed before the first answer.
    """
    centred = embedding.copy()
    for k in np.unique(classes):
        centred[classes == k] -= centred[classes == k].mean(axis=0)
    along = centred @ np.asarray(text, np.float64)
    half = rng.permutation(len(along)) % 2
    scores = np.empty(len(along))
    for side in (0, 1):
        fit, other = half != side, half == side
        direction = _discriminant(centred[fit], along[fit])
        own = centred[other] @ direction
        # each half on its own scale: both are cut into the same strata
        scores[other] = (own - own.mean()) / max(float(own.std()), 1e-12)
    return scores


def _discriminant(vectors: Float64s, along: Float64s) -> Float64s:
    if len(vectors) < 6:
        return np.zeros(vectors.shape[1])
    low, high = np.quantile(along, (_THIRD, 1 - _THIRD))
    most, least = vectors[along >= high], vectors[along <= low]
    inside = np.concatenate([most - most.mean(axis=0), least - least.mean(axis=0)])
    covariance = inside.T @ inside / len(inside)
    ridge = _SHRINKAGE * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    direction: Float64s = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), most.mean(0) - least.mean(0))
    return direction


def rounds(codes: Ints, count: int, rng: np.random.Generator) -> Ints:
    """(m,) places of the images drawn, at most MAX_DRAW: rounds of one of each stratum, each round in an order of its
    own; strata (n,) codes 0..count-1."""
    queues = [rng.permutation(np.flatnonzero(codes == stratum)) for stratum in range(count)]
    drawn: list[int] = []
    for number in range(max(len(queue) for queue in queues)):
        one = [int(queue[number]) for queue in queues if number < len(queue)]
        if len(drawn) + len(one) > MAX_DRAW:
            break
        drawn += [one[place] for place in rng.permutation(len(one))]
    return np.array(drawn, np.int64)


def _parts(workspace: Workspace, n: int) -> Any:  # noqa: ANN401 - (n,) texts
    """(n,) what the report used each row for; empty for rows that it did not use."""
    column = workspace.report_columns().get("audit.rows")
    if column is None:
        return np.full(n, "both", object)
    return np.array([value or "" for value in column.to_pylist()], object)


def _strata(cue: CandidateCue, classes: Ints, parts: Any, score: Float64s) -> tuple[list[Stratum], Ints]:  # noqa: ANN401
    """Strata of equal size inside each side and part, and (n,) which one each image is in.

    Of a side with several classes all have the same chance to be drawn, image by image, as inside each.
    """
    names, sides = zip(*cue.sides.values(), strict=True)
    strata: list[Stratum] = []
    codes = np.full(len(classes), -1, np.int64)
    of_side = np.array(sides)[classes]
    for has in (True, False):
        name = ", ".join(name for name, side in zip(names, sides, strict=True) if side == has)
        for part in sorted(set(parts.tolist())):
            own = np.flatnonzero((of_side == has) & (parts == part))
            own = own[np.argsort(score[own], kind="stable")]
            for number, piece in enumerate(np.array_split(own, min(STRATA, max(len(own) // STRATA, 1)))):
                if len(piece):
                    codes[piece] = len(strata)
                    strata.append(Stratum(class_name=name, has=has, part=part, number=number, rows=len(piece)))
    return strata, codes


def _drawn(rows: RowTable, numbers: Ints, codes: Ints) -> tuple[Drawn, ...]:
    taken = rows.table.select(["shard_id", "index", "key"]).take(numbers)
    columns = (taken[name].to_pylist() for name in ("shard_id", "index", "key"))
    return tuple(
        Drawn(shard=shard, index=index, key=key, stratum=stratum)
        for shard, index, key, stratum in zip(*columns, codes.tolist(), strict=True)
    )


def _free_name(run: Run, word: str) -> str:
    """A column's name for the answers that the run does not have yet."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", word).strip("_-")[:40]
    name = name if COLUMN_NAME.fullmatch(name) else f"cue_{name}".strip("_")
    taken = {*run.columns, *run.spec.attributes, *run.joined, "label", "image", "attributes", "class_name", "shard"}
    free, number = name, 1
    while free in taken or COLUMN_NAME.fullmatch(free) is None:
        number += 1
        free = f"{name}_{number}" if COLUMN_NAME.fullmatch(name) else f"cue_{number}"
    return free
