"""A run's heads as a table: share of the variance, role and words, where `clipaudit heads` has found them."""

from __future__ import annotations

from dataclasses import dataclass

from clipaudit.heads.description import stored_description
from clipaudit.heads.textspan import variance_share
from clipaudit.run.moments import Moments
from clipaudit.run.reader import Run
from clipaudit.schema import parse_head_label


@dataclass(frozen=True, kw_only=True)
class WeighedText:
    """A text of a head."""

    text: str
    explained: float
    """Share of the head's variance that it adds to the texts before it."""


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """One head."""

    head: str
    layer: int
    share: float
    """Its variance relative to the embedding's."""
    role: str | None
    texts: tuple[WeighedText, ...]
    """In the order of choice; empty before `clipaudit heads` has run."""


def head_table(run: Run, moments: Moments) -> tuple[list[HeadFacts], str | None]:
    """The stored heads in the run's order, and which file their words are from; None where there is none.

    IntegrityError when that file is damaged.
    """
    source, described = stored_description(run) or (None, {})
    facts = []
    for head in run.head_labels:
        words = described.get(head, {})
        role = words.get("role") or {}
        facts.append(
            HeadFacts(
                head=head,
                layer=parse_head_label(head)[0],
                share=variance_share(moments, head),
                role=role.get("label"),
                texts=tuple(
                    WeighedText(text=str(text["text"]), explained=float(text["explained"]))
                    for text in words.get("texts", ())
                ),
            )
        )
    return facts, source
