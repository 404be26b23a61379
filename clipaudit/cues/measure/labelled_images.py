"""Images with several labels: which image has which, and the lists of labels as classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.run.classes import ClassNames
from clipaudit.schema import labels_in


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImages:
    """n images with their labels, of C classes."""

    facts: ImageFacts
    """Whose classes are not used."""
    names: ClassNames
    present: sparse.csc_array = field(repr=False)
    """(n, C) which image has which label."""
    raw: Mapping[str, Attribute] = field(repr=False)
    """The declared columns, and image properties, before they were cut into bins, by their full names."""
    ranges: Mapping[str, str]
    """What the ends of image properties hold; see `measure.context.Context`."""
    scored: LabelledImages | None = None
    """The images that are scored, when they are others."""

    def of_label(self, label: int) -> ImageFacts:
        """The images in two classes: 0 with a label, 1 without it."""
        return self.facts.of_classes(np.where(self.has(label), 0, 1).astype(np.int64))

    def has(self, label: int) -> Bools:
        """(n,) which images have a label."""
        mask = np.zeros(len(self.facts), np.bool_)
        mask[self.present.indices[self.present.indptr[label] : self.present.indptr[label + 1]]] = True
        return mask

    @cached_property
    def counts(self) -> Ints:
        """(C,) images that have each label."""
        counts: Ints = np.diff(self.present.indptr).astype(np.int64)
        return counts

    def independent(self, mask: Bools) -> int:
        """Near-duplicate clusters among some images (n,)."""
        return len(np.unique(self.facts.cluster[mask]))

    @cached_property
    def lists(self) -> tuple[str, ...]:
        """(n,) each image's labels in words, `none` for an empty list."""
        rows, names = self.present.tocsr(), self.names.names
        parts = [rows.indices[rows.indptr[n] : rows.indptr[n + 1]] for n in range(len(self.facts))]
        return tuple(", ".join(names[code] for code in sorted(part.tolist())) or "none" for part in parts)

    @cached_property
    def list_names(self) -> ClassNames:
        """The different lists of labels as classes."""
        texts = tuple(dict.fromkeys(self.lists))
        return ClassNames(labels=texts, names=texts, source=self.names.source)

    @cached_property
    def by_list(self) -> ImageFacts:
        """The images with the list of their labels as class, of `list_names`."""
        place = {text: number for number, text in enumerate(self.list_names.names)}
        return replace(self.facts, truth=np.array([place[text] for text in self.lists], np.int64))


def labelled_images(
    facts: ImageFacts, names: ClassNames, raw: Mapping[str, Attribute], ranges: Mapping[str, str]
) -> LabelledImages:
    """The images with the labels that the run has of them; UsageError when a label has no class."""
    lists = facts.run.labels()[facts.position]
    several = [labels_in(labels) for labels in lists]
    class_of = names.rows({label for labels in several for label in labels})
    columns = np.array([class_of[label] for labels in several for label in labels], np.int64)
    rows = np.repeat(np.arange(len(several)), [len(labels) for labels in several])
    # two labels of one image may be names of one class: duplicates add up, and only what is there counts
    present = sparse.coo_array((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(facts), len(names))).tocsc()
    return LabelledImages(facts=facts, names=names, present=present, raw=raw, ranges=ranges)
