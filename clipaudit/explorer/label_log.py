"""What people answered when they labelled a cue: studies, answers and verdicts, in an append-only file."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from clipaudit.explorer.event_log import MAX_PLACE, EventLog, parse_event
from clipaudit.run.records import now

Answer: TypeAlias = Literal["has", "lacks", "unsure"]
Outcome: TypeAlias = Literal["confirmed", "dismissed", "not decided"]
ANSWERS: Final = get_args(Answer)
_STRICT: Final = ConfigDict(strict=False, extra="forbid", str_max_length=65_536)


@checked(frozen=True, kw_only=True, config=_STRICT)
class Stratum:
    """Images of one side and one part of the rows that are alike in the cue's score."""

    class_name: str
    """Of several classes of a side, all."""
    has: bool
    """Whether it is the side that is said to have the cue."""
    part: str
    """`association` or `counterfactual` as the report uses the rows, `both` where they are one."""
    number: int
    """0 has the lowest scores."""
    rows: int
    """Images in it, N_h: each has the same chance to be drawn."""


@checked(frozen=True, kw_only=True, config=_STRICT)
class Drawn:
    """One image of the draw."""

    shard: int
    index: int
    key: str
    stratum: int
    """Its place among the strata."""

    def __post_init__(self) -> None:
        if not (0 <= self.shard <= MAX_PLACE and 0 <= self.index <= MAX_PLACE and self.stratum >= 0):
            raise ValueError("a place out of bounds")


@checked(frozen=True, kw_only=True, config=_STRICT)
class LabelStudy:
    """What is labelled: a cue, the column that the answers become, and the images in the order of the draw."""

    id: str
    time: str
    author: str
    run: str
    fingerprint: str
    """Of the run."""
    generation: int
    """Of the run, when the images were drawn."""
    finding: str
    cue: str
    """The text that the finding names."""
    word: str
    """The value of images with the cue; the others are `no WORD`."""
    column: str
    delta: float
    """|D| below this is none."""
    seed: int
    strata: tuple[Stratum, ...]
    draw: tuple[Drawn, ...]
    """In rounds of one image a stratum, at random inside it, so that whoever stops after any number of images has
    drawn inside each side with equal probabilities, to within one image a stratum."""

    def __post_init__(self) -> None:
        if any(image.stratum >= len(self.strata) for image in self.draw):
            raise ValueError("an image of no stratum")


@checked(frozen=True, kw_only=True, config=_STRICT)
class LabelEvent:
    """One answer."""

    id: str
    time: str
    author: str
    study: str
    shard: int
    index: int
    key: str
    generation: int
    answer: Answer


@checked(frozen=True, kw_only=True, config=_STRICT)
class Undo:
    """An answer that no longer counts."""

    id: str
    time: str
    author: str
    undoes: str


@checked(frozen=True, kw_only=True, config=_STRICT)
class StudyVerdict:
    """What the audit said of the labels."""

    id: str
    time: str
    study: str
    labels: int
    """Answers that it rests on."""
    report: str
    """Directory of the report; empty where the labels alone say it."""
    outcome: Outcome
    verdict: str
    """The report's own word."""
    sentence: str
    more: int | None = None
    """Labels that are still needed, about."""
    found: str = ""
    """Id of the report's finding on the column; empty where it has none."""


_KINDS: Final[dict[str, TypeAdapter[Any]]] = {
    "study": TypeAdapter(LabelStudy),
    "label": TypeAdapter(LabelEvent),
    "undo": TypeAdapter(Undo),
    "verdict": TypeAdapter(StudyVerdict),
}
_NAMES: Final = {LabelStudy: "study", LabelEvent: "label", Undo: "undo", StudyVerdict: "verdict"}


@dataclass(eq=False, kw_only=True)
class StudyState:
    """A study with the answers that count."""

    study: LabelStudy
    labels: list[LabelEvent] = field(default_factory=list)
    """Oldest first."""
    verdict: StudyVerdict | None = None
    """The latest."""


@dataclass(frozen=True, kw_only=True)
class LabelState:
    """What the events add up to."""

    studies: dict[str, StudyState] = field(default_factory=dict)
    damaged: int = 0
    """Lines that are no event, which are left as they are."""


class LabelLog(EventLog[LabelState]):
    """A file of answers, for any number of threads and of servers on one machine."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _state)

    def add(self, event: LabelStudy | LabelEvent | Undo | StudyVerdict) -> None:
        """Append an event."""
        self.append({"event": _NAMES[type(event)], **asdict(event)})


def new_id() -> str:
    """Of an event."""
    return secrets.token_hex(6)


def stamp() -> dict[str, str]:
    """Id and time of a new event."""
    return {"id": new_id(), "time": now()}


def _event(line: str) -> Any:  # noqa: ANN401 - one of four classes
    plain = parse_event(line)
    kind = None if plain is None else _KINDS.get(str(plain.pop("event", "")))
    if plain is None or kind is None:
        return None
    try:
        return kind.validate_python(plain)
    except ValidationError:
        return None


def _state(lines: Sequence[str]) -> LabelState:
    events = [_event(line) for line in lines]
    undone = {event.undoes for event in events if isinstance(event, Undo)}
    studies: dict[str, StudyState] = {}
    for event in events:
        if isinstance(event, LabelStudy):
            studies.setdefault(event.id, StudyState(study=event))
        elif isinstance(event, LabelEvent) and event.id not in undone and event.study in studies:
            studies[event.study].labels.append(event)
        elif isinstance(event, StudyVerdict) and event.study in studies:
            studies[event.study].verdict = event
    return LabelState(studies=studies, damaged=sum(event is None for event in events))
