"""Heads chosen by their texts: a pool made of the captions' own phrases, and the rule that chooses.

The rule was written before any trained model was looked at and is not tuned: a head is a place head when at least half
of the variance that its first five TextSpan texts explain is explained by texts about places. A second rule on the same
texts, a plain majority of the five, is reported beside it. Neither uses a label, a group or an image of `birds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from clipaudit.arrays import Float64s
from clipaudit.demo.evaluation.measured import plain
from clipaudit.demo.world import nouns
from clipaudit.demo.world.captions import (
    GROUP_PLACES,
    GROUP_WORDS,
    PLACES,
    POSITION_PHRASES,
    STYLE_PREFIXES,
    TINT_PHRASES,
    article,
    joined,
    plural,
)
from clipaudit.heads.textspan import TextSpan

Rule: TypeAlias = Literal["variance", "majority"]

PLACE = "place"
"""The property of texts about places."""
TOP = 5
"""Texts of each head that the rules look at."""
MIN_WEIGHT = 0.5
"""Share of them that must be about places."""
RULES: Mapping[Rule, str] = {
    "variance": f"at least half of the variance that the first {TOP} texts explain is explained by texts about places",
    "majority": f"more than half of the first {TOP} texts are about places",
}
"""The first rule decides; the second is reported beside it."""


@dataclass(frozen=True, kw_only=True)
class HeadText:
    """One text of a head."""

    text: str
    property: str
    explained: float
    """What it adds, as a share of the head's variance."""


@dataclass(frozen=True, kw_only=True)
class HeadTexts:
    """A head's first texts, in the order of choice."""

    head: str
    variance: float
    """The head's variance over the images that describe it, relative to the embedding's."""
    texts: tuple[HeadText, ...]
    directions: Float64s | None = field(default=None, repr=False, compare=False)
    """(texts, dh) the texts' directions in the head's basis; None where nobody asks for pictures."""

    def weight(self, rule: Rule, subject: str = PLACE) -> float:
        """Share, 0..1, of the head's texts that is about `subject`: of the explained variance, or of their number."""
        weights = [text.explained if rule == "variance" else 1.0 for text in self.texts]
        matching = [weight for weight, text in zip(weights, self.texts, strict=True) if text.property == subject]
        return sum(matching) / sum(weights) if sum(weights) > 0 else 0.0

    def chosen(self, rule: Rule, subject: str = PLACE) -> bool:
        """Whether the rule chooses the head."""
        weight = self.weight(rule, subject)
        return weight >= MIN_WEIGHT if rule == "variance" else weight > MIN_WEIGHT

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "head": self.head,
            "variance_share": plain(self.variance),
            "place": {rule: plain(self.weight(rule)) for rule in RULES},
            "chosen": {rule: self.chosen(rule) for rule in RULES},
            "texts": [
                {"text": text.text, "property": text.property, "explained": plain(text.explained)}
                for text in self.texts
            ],
        }


def text_pool() -> dict[str, str]:
    """Text -> property: the phrases of captions, one property a text, each with and without `a photo of`."""
    phrases: dict[str, list[str]] = {
        PLACE: [
            *(f"a scene {way}" for ways in (*PLACES.values(), *GROUP_PLACES.values()) for way in ways),
            *(article(f"{background} background") for background in nouns.BACKGROUNDS),
        ],
        "noun": [article(word) for word in (*nouns.NOUNS, *(word for words in GROUP_WORDS.values() for word in words))],
        "colour": [article(f"{colour} shape") for colour in nouns.COLOURS],
        "shape": [article(shape) for shape in nouns.SHAPES],
        "count": [f"{number} {plural('object')}" for number in ("two", "three")],
        "position": [f"an object {way}" for ways in POSITION_PHRASES.values() for way in ways],
        "size": [article(f"{size} object") for size in nouns.SIZES],
        "tint": [f"a scene {way}" for ways in TINT_PHRASES.values() for way in ways],
    }
    pool = {
        joined(prefix, text): name for name, texts in phrases.items() for text in texts for prefix in ("", "a photo of")
    }
    prefixes = [prefix for name in nouns.STYLES for prefix in STYLE_PREFIXES[name]]
    pool |= {prefix.removesuffix(" of"): "style" for prefix in prefixes}
    return pool | {joined(prefix, "an object"): "style" for prefix in prefixes}


def head_words(
    spans: Mapping[str, TextSpan], shares: Mapping[str, float], texts: Sequence[str], properties: Sequence[str]
) -> tuple[HeadTexts, ...]:
    """The first texts of each head, from its TextSpan over a pool of `texts` and their `properties`.

    shares: each head's variance relative to the embedding's, 0..1.
    """
    return tuple(
        HeadTexts(
            head=head,
            variance=shares[head],
            texts=tuple(
                HeadText(text=texts[index], property=properties[index], explained=float(explained))
                for index, explained in zip(span.texts[:TOP].tolist(), span.explained[:TOP], strict=True)
            ),
            directions=span.directions[:TOP],
        )
        for head, span in spans.items()
    )
