"""How far an audit may be trusted: controls on permuted and planted labels, limits, sources, placebos (S13)."""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.measure.context import Context, Progress
from clipaudit.cues.measure.controls import STRENGTHS, negative_control, positive_control
from clipaudit.cues.measure.declared_columns import SPLIT
from clipaudit.cues.result.finding_parts import ClassesFrom
from clipaudit.cues.result.panels import (
    Controls,
    Hygiene,
    SourceFacts,
    Trust,
)
from clipaudit.cues.result.reliance_parts import Placebo
from clipaudit.cues.statistics.intervals import accuracy
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT
from clipaudit.heads.zeroshot import near_chance
from clipaudit.statistics import Proportion, p_text

_DIRECT: Final = (
    "Only direct effects of attention heads on the class token are measured; MLPs and what later layers read from a"
    " head stay as they are."
)
_LIMITS: Final = (
    _DIRECT,
    "What CLIP does not see, and what the text pool has no words for, is not found.",
    "Association and reliance are different things: a data set may hold a shortcut that CLIP does not use, and CLIP may"
    " use one that this data set does not hold.",
)
_GUESSING: Final = "Zero-shot answers are no better than guessing: nothing can be learnt of what CLIP relies on."
_STRANGERS: Final = "CLIP answers what captions name no more often than chance: they may not describe these images."
_UNLABELLED: Final = "What CLIP relies on is not measured: only labels say which of its answers are right."
_CLASSES: Final[dict[ClassesFrom, tuple[str, ...]]] = {
    "label": (),
    "caption": (
        "Classes are what captions name: a caption that leaves out what is there, or names what is not, puts an image"
        " into no class or a wrong one.",
        _UNLABELLED,
    ),
    "clip": (
        "Classes are CLIP's own answers, which is circular: whatever makes CLIP answer a class goes with that class,"
        " whether the class's images have it or not.",
        _UNLABELLED,
    ),
}


def run_controls(context: Context, progress: Progress) -> Controls:
    """Permuted labels and planted shifts, on the sample."""
    design, options = context.sample_design, context.options
    progress("controls", 0, 2)
    negative = negative_control(
        context.ranks,
        design,
        context.largest,
        audits=options.negative_audits,
        alpha=options.alpha,
        delta=options.delta_warn,
        seed=options.seed,
        strata=context.strata,
    )
    progress("controls", 1, 2)
    positive = tuple(
        positive_control(
            context.scan.spare,
            design,
            context.largest,
            d=d,
            alpha=options.alpha,
            delta=options.delta_warn,
            seed=options.seed,
        )
        for d in STRENGTHS
    )
    progress("controls", 2, 2)
    return Controls(negative=negative, positive=positive)


def trust_of(context: Context, controls: Controls, hygiene: Hygiene, placebo: Placebo | None) -> Trust:
    """How far the findings may be trusted."""
    problems = []
    if not controls.negative.valid:
        dealt = "labels" if context.classes_from == "label" else "classes"
        problems.append(
            f"{100 * controls.negative.share_with_any:.0f} % of {controls.negative.audits} audits on permuted {dealt}"
            " found something, which must not happen in more than 5 %."
        )
    limits = [*_CLASSES[context.classes_from], *_LIMITS]
    if context.classes_from != "label":
        limits.remove(_DIRECT)
    if hygiene.failed_shards:
        limits.insert(0, f"{hygiene.failed_shards} shards of the run are missing: nothing is known of their images.")
    zero_shot_right = zero_shot(context)
    guessing = zero_shot_right is not None and near_chance(zero_shot_right, len(context.names))
    if guessing:
        limits.insert(0, _GUESSING if context.classes_from == "label" else _STRANGERS)
    limits[:0] = _of_sources(context)
    total = float(context.embedding.astype(np.float64).var(axis=0).sum())
    explained = float(context.scan.heads_sum.astype(np.float64).var(axis=0).sum())
    return Trust(
        valid=not problems,
        problems=tuple(problems),
        tests=context.family.p.size,
        directions=len(context.scan.directions),
        heads=len(context.scan.values),
        accuracy=None if zero_shot_right is None else accuracy(zero_shot_right.right, zero_shot_right.total),
        near_chance=guessing,
        mean_source=None if context.answers is None else f"{context.answers_rows}, every class with equal weight",
        placebo=placebo,
        level=context.level,
        sources=tuple(
            SourceFacts(
                name=test.name,
                levels=test.levels,
                icc=test.icc,
                p=test.p,
                used=test is context.source,
                rows=test.rows,
            )
            for test in context.sources
        ),
        embedding_share=explained / total if total > 0 else 0.0,
        limits=tuple(limits),
    )


def _of_sources(context: Context) -> list[str]:
    """What was found of sources, on how many images it was looked for, and whether splits are mixed (S2b)."""
    sentences = []
    n, source = len(context.facts), context.source
    if source is not None:
        name = source.name.removeprefix("attributes.")
        sentences.append(
            f"Images of one {name} are alike beyond their class (intraclass correlation {source.icc:.3f},"
            f" {p_text(source.p)}, {source.rows:,} images): intervals are those of {source.levels} different ones, and"
            " with fewer than eight nothing is decided."
        )
    sampled = [test for test in context.sources if test.rows < 0.5 * n]
    if sampled:
        most = max(test.rows for test in sampled)
        sentences.append(f"Sources of images that are alike were looked for in {most:,} of {n:,} images.")
    split = context.facts.attributes.get(SPLIT)
    if split is not None:
        counts = np.bincount(split.codes[split.codes >= 0], minlength=len(split.values))
        names = [name for name, count in zip(split.values, counts, strict=True) if count >= MIN_INDEPENDENT]
        if len(names) > 1:
            sentences.append(
                f"These images are of several splits ({', '.join(names)}), and all numbers are those of their mixture:"
                " --split measures ties on one and reliance on the other."
            )
    return sentences


def right_answers(context: Context) -> tuple[Ints, Bools] | None:
    """(n,) classes of the scored images, and whether zero-shot CLIP answers them; None where its answers are the
    classes."""
    if context.answers is None:
        return context.agreement
    return context.answers.truth, context.answers.right(context.answers.base)


def zero_shot(context: Context) -> Proportion | None:
    """Right answers over the scored images."""
    truth, right = right_answers(context) or ((), np.empty(0, np.bool_))
    return Proportion(right=int(right.sum()), total=len(truth)) if len(truth) else None
