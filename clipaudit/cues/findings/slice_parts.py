"""The error slices of an audit's answerers, as the result holds them, and the rows of `slices.csv` (S15)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.answerers.answerer import Answerer
from clipaudit.cues.answerers.panel import Panel
from clipaudit.cues.findings.sentences import answerer_words, listed
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.naming import NO_GOOD_WORD
from clipaudit.cues.measure.sample_refs import sample_ref
from clipaudit.cues.mistakes import error_slices
from clipaudit.cues.mistakes.trait_search import Trait, Traits
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Estimate, SampleRef
from clipaudit.cues.result.mistake_parts import AnswererErrors, ErrorSlice
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.columns import column_kind, numbers_of
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.right import answered, right_answers

EXAMPLES: Final = 8
_SAME: Final = 6
_TAKEN_FOR: Final = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class SliceParts:
    """What goes with the errors of every answerer but CLIP, and the images of each slice."""

    errors: tuple[AnswererErrors, ...]
    rows: pa.Table


def errors_of(context: Context, panel: Panel | None, raw: ImageFacts) -> SliceParts:
    """Error slices of the rehearsed model and of given ones; nothing without labels or without such answerers.

    raw: the images that were scored (or more of them), with their columns as they were before numbers were put into
    bins.
    """
    answers = context.answers
    answerers = [] if panel is None else [part for part in panel.answerers if part.name != "clip"]
    if answers is None or not answerers:
        return SliceParts(errors=(), rows=_SLICES.empty_table())
    traits = _traits(context, answers, raw)
    asked = [_asked(context, answers.facts, part, traits) for part in answerers]
    tests = [error_slices.slice_tests(part.traits, part.wrong, part.design, context.options.seed) for part in asked]
    accepted = error_slices.accepted_slices(
        tests,
        [part.wrong for part in asked],
        [part.design for part in asked],
        alpha=context.options.alpha,
        margin=context.options.margin,
    )
    errors, tables = [], []
    for part, own, passed in zip(asked, tests, accepted, strict=True):
        writer = _Slices(context, part)
        slices = tuple(writer.part(entry) for entry in passed)
        errors.append(_of_answerer(context, part, len(own), slices))
        tables += [writer.rows(entry, made) for entry, made in zip(passed, slices, strict=True)]
    return SliceParts(errors=tuple(errors), rows=pa.concat_tables([_SLICES.empty_table(), *tables]))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Asked:
    """The m images that one answerer answers: what it does not answer is neither right nor wrong."""

    name: str
    facts: ImageFacts
    given: Ints
    """(m,) class that it answers."""
    wrong: Bools
    """(m,)"""
    design: Design
    traits: Traits


def _asked(context: Context, facts: ImageFacts, answerer: Answerer, traits: Traits) -> _Asked:
    rows = np.flatnonzero(answered(answerer.logits))
    logits = answerer.logits[rows]
    if len(rows) < len(facts):
        facts, traits = facts.take(rows), traits.take(rows)
    return _Asked(
        name=answerer.name,
        facts=facts,
        given=logits.argmax(axis=1).astype(np.int64),
        wrong=~right_answers(logits, facts.truth),
        design=_design(context, facts),
        traits=traits,
    )


def _design(context: Context, facts: ImageFacts) -> Design:
    repeated = int(facts.cluster.max(initial=-1)) + 1 < len(facts)
    # a named column of sources widens errors as the sources do that the audit finds by itself
    return Design(facts.truth, len(context.names), facts.cluster if repeated else None, facts.sources, facts.discovery)


def _traits(context: Context, answers: Answers, raw: ImageFacts) -> Traits:
    """Texts of context, values of columns, and numbers with image properties among them, of the scored images."""
    namer, facts = context.namer, answers.facts
    # no things: errors always go with looking like what other classes are
    texts, axes = namer.context_axes()
    place = np.searchsorted(raw.position, facts.position)
    columns: list[Attribute] = []
    numbers: list[tuple[str, Float64s]] = []
    used = {screen.attribute.column for screen in context.attributes} | {*context.measured}
    for name in sorted(used):
        whole = raw.attributes[name]
        if column_kind(whole.values) == "number":
            numbers.append((name, np.append(numbers_of(whole.values), np.nan)[whole.codes[place]]))
        else:
            columns.append(facts.attributes[name])
    return Traits(
        texts=texts,
        axes=axes,
        embedding=answers.embedding,
        subspace=namer.subspace,
        columns=tuple(columns),
        numbers=tuple(numbers),
    )


def _of_answerer(context: Context, asked: _Asked, tests: int, slices: tuple[ErrorSlice, ...]) -> AnswererErrors:
    classes = error_slices.searched_classes(asked.wrong, asked.design)
    present = np.bincount(asked.design.truth, minlength=asked.design.classes) > 0
    searched = tuple(context.names.names[k] for k in classes.searched)
    too_few = tuple(context.names.names[k] for k in classes.too_few if present[k])
    errors = AnswererErrors(
        answerer=asked.name,
        images=len(asked.wrong),
        wrong=int(asked.wrong.sum()),
        searched=searched,
        too_few=too_few,
        tests=tests,
        slices=slices,
        sentence="",
    )
    return replace(errors, sentence=_sentence(errors, context.few_sources))


def _sentence(errors: AnswererErrors, few_sources: bool) -> str:
    """What was learned of an answerer's errors."""
    who = answerer_words(errors.answerer)
    who = who[0].upper() + who[1:]
    head = f"{who} is wrong on {errors.wrong:,} of {errors.images:,} images"
    if few_sources:
        return f"{head}; they come from too few sources to say what goes with that."
    if not errors.searched:
        least = int(error_slices.MIN_WRONG)
        return (
            f"{head}; no class has {least} wrong and {least} right answers on both halves of its images, so nothing can"
            " be said of what goes with them."
        )
    inside = "" if not errors.too_few else f" of {listed(errors.searched)} (the others have too few errors to search)"
    if not errors.slices:
        return (
            f"{head}. The errors{inside} look random: none of {errors.tests} texts, values and numbers that were most"
            " likely to go with them does so on the images that did not choose them."
        )
    count = "One kind of image is" if len(errors.slices) == 1 else f"{len(errors.slices)} kinds of images are"
    return f"{head}. {count} wrong more often than the rest of their class."


# -- one slice ---------------------------------------------------------------------------------------------------------


class _Slices:
    """The parts of one answerer's slices."""

    def __init__(self, context: Context, asked: _Asked) -> None:
        self._context, self._facts = context, asked.facts
        self._answerer, self._given, self._wrong = asked.name, asked.given, asked.wrong

    def part(self, entry: error_slices.AcceptedSlice) -> ErrorSlice:
        """A slice as the result holds it."""
        names, test = self._context.names, entry.test
        trait = test.chosen.trait
        text = next((other for other in (trait, *test.chosen.same) if other.kind == "text"), None)
        class_name = names.names[test.k]
        value = {"text": None, "value": trait.value}.get(trait.kind, f"{trait.cut:.4g}")
        identity = "\0".join((self._answerer, class_name, trait.kind, trait.name, value or ""))
        having = test.having
        others = np.flatnonzero((self._facts.truth == test.k) & ~self._wrong)
        others = np.setdiff1d(others, having)
        rng = np.random.default_rng([self._context.options.seed, 33])
        drawn = rng.permutation(others)[:EXAMPLES]
        part = ErrorSlice(
            id=hashlib.sha256(identity.encode()).hexdigest()[:12],
            answerer=self._answerer,
            class_name=class_name,
            label=names.labels[test.k],
            kind=trait.kind,
            name=trait.name,
            value=value,
            description=f"“{class_name}” {having_words(trait)}",
            sentence="",
            same=_other_names(trait, test.chosen.same),
            fit=None if text is None else text.fit,
            no_good_word=trait.kind == "text" and (trait.fit or 0.0) < NO_GOOD_WORD,
            images=len(having),
            wrong=entry.wrong,
            others=entry.others,
            difference=entry.difference,
            lift=entry.lift,
            share_of_errors=entry.share_of_errors,
            taken_for=self._taken_for(having),
            q=entry.q,
            wrong_examples=self._refs(having[self._wrong[having]][:EXAMPLES]),
            right_examples=self._refs(drawn),
        )
        return replace(part, sentence=slice_sentence(part))

    def rows(self, entry: error_slices.AcceptedSlice, part: ErrorSlice) -> pa.Table:
        """All images of a slice, most of the trait first."""
        facts, having = self._facts, entry.test.having
        taken = facts.take(having)
        names = np.array(self._context.names.names, object)
        count = len(having)
        return pa.table(
            {
                "answerer": pa.array([part.answerer] * count, pa.string()),
                "slice": pa.array([part.id] * count, pa.string()),
                "images": pa.array([part.description] * count, pa.string()),
                "shard_id": pa.array(taken.shard_id, pa.int32()),
                "index": pa.array(taken.index, pa.int32()),
                "key": taken.key.combine_chunks() if isinstance(taken.key, pa.ChunkedArray) else taken.key,
                "class": pa.array(names[taken.truth], pa.string()),
                "answer": pa.array(names[self._given[having]], pa.string()),
                "wrong": pa.array(self._wrong[having]),
                "rank": pa.array(np.arange(1, count + 1)),
            },
            schema=_SLICES,
        )

    def _taken_for(self, having: Ints) -> tuple[tuple[str, int], ...]:
        answers = self._given[having[self._wrong[having]]]
        counts = np.bincount(answers, minlength=len(self._context.names))
        order = np.argsort(-counts, kind="stable")[:_TAKEN_FOR]
        return tuple((self._context.names.names[k], int(counts[k])) for k in order.tolist() if counts[k])

    def _refs(self, places: Ints) -> tuple[SampleRef, ...]:
        names = self._context.names
        return tuple(
            replace(sample_ref(self._facts, place, names), predicted=names.names[int(self._given[place])])
            for place in places.tolist()
        )


def having_words(trait: Trait) -> str:
    """What images with a trait have in common, after the name of their class."""
    column = column_in_words(trait.name)
    words: Mapping[str, str] = {
        "text": f"that looks like “{trait.name}”",
        "value": f"with {column} “{trait.value}”",
        "above": f"with {column} above {trait.cut:.4g}",
        "below": f"with {column} below {trait.cut:.4g}",
    }
    return words[trait.kind]


def _other_names(trait: Trait, same: Sequence[Trait]) -> tuple[str, ...]:
    """Names of the traits that are the same images, texts that differ in `a photo of` once."""
    cores = {_core(trait.name)}
    names: list[str] = []
    for other in same:
        name = other.name if other.kind == "text" else having_words(other).removeprefix("with ")
        if _core(name) not in cores:
            cores.add(_core(name))
            names.append(name)
    return tuple(names[:_SAME])


def _core(text: str) -> str:
    return (
        text.casefold().removeprefix("a photo of ").removeprefix("a ").removeprefix("an ").removesuffix(" of an object")
    )


def slice_sentence(part: ErrorSlice) -> str:
    """“Of 412 images of “dog” that look like ... 61 % are wrong, of the others 9 %”, with interval and lift."""
    words = part.description.partition("” ")[2].replace("that looks like", "that look like")
    many = "" if part.lift.value is None else f", {part.lift.value:.1f} times as often"
    taken = "" if not part.taken_for else f"; most are taken for “{part.taken_for[0][0]}”"
    return (
        f"Of {part.wrong.n:,} images of “{part.class_name}” {words} {_percent(part.wrong)} are wrong, of the"
        f" {part.others.n:,} others {_percent(part.others)}{many}{taken}."
    )


def _percent(share: Estimate) -> str:
    return f"{100 * (share.value or 0):.0f} % [{100 * (share.low or 0):.0f}, {100 * (share.high or 0):.0f}]"


_SLICES: Final[Any] = pa.schema(
    [
        ("answerer", pa.string()),
        ("slice", pa.string()),
        ("images", pa.string()),
        ("shard_id", pa.int32()),
        ("index", pa.int32()),
        ("key", pa.string()),
        ("class", pa.string()),
        ("answer", pa.string()),
        ("wrong", pa.bool_()),
        ("rank", pa.int64()),
    ]
)
