"""Near duplicates of one image: those of the run's table, or those that an audit finds by itself (S2b)."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.cues.measure.image_facts import duplicate_clusters
from clipaudit.cues.measure.near_duplicates import copies_of, detailed, least_cosine, sample_of, unit_rows
from clipaudit.cues.statistics.near_hashes import BITS
from clipaudit.explorer.workspace import Workspace
from clipaudit.retrieval.card import EMBEDDING

MAX_FOUND: Final = 200
"""Images of one cluster that are looked for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NearImages:
    """The near duplicates of an image."""

    numbers: Ints
    """(m,) of their rows, the most alike first."""
    cosine: Float32s
    """(m,) of their embeddings with the image's."""
    bits: Ints
    """(m,) in which their perceptual hashes differ from the image's."""
    rule: str
    """What counts as near duplicates, to follow after `what counts: `."""


class NearFinder:
    """Finds near duplicates among a run's ok rows by the rule of its audits; for any number of threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @cached_property
    def _hashes(self) -> tuple[Ints, Bools]:
        """(n,) perceptual hashes, and which of them are of images that are not flat."""
        column = self._workspace.plain_rows().table["phash"].combine_chunks()
        phash: Ints = np.asarray(column.fill_null(-1).to_numpy(), np.int64)
        return phash, detailed(phash)

    @cached_property
    def _clusters(self) -> Ints | None:
        """(n,) numbers of the clusters of `clipaudit duplicates`, -1 for none; None where it has not been run."""
        table = self._workspace.plain_rows().table
        places = (np.asarray(table[name].to_numpy(), np.int32) for name in ("shard_id", "index"))
        return duplicate_clusters(self._workspace.run, *places)

    @cached_property
    def _limit(self) -> float:
        """The least cosine of copies whose hashes differ, as an audit of all rows would take it."""
        phash, known = self._hashes
        sample = sample_of(known)
        return least_cosine(self._unit(sample), _classes(self._workspace.plain_rows().table)[sample], phash[sample])

    def find(self, number: int) -> NearImages:
        """Those of a row; at most MAX_FOUND. IntegrityError when the run's table of duplicates is damaged."""
        phash, known = self._hashes
        if self._clusters is not None:
            own = self._clusters[number]
            members = np.flatnonzero(self._clusters == own) if own >= 0 else np.empty(0, np.int64)
            numbers, rule = members[members != number][:MAX_FOUND], "what `clipaudit duplicates` found in this run"
        elif not known[number]:
            numbers, rule = np.empty(0, np.int64), "nothing here, for the picture is too flat for its perceptual hash"
        else:
            numbers = copies_of(number, phash, known, self._unit, self._limit, MAX_FOUND)
            rule = (
                f"images with equal perceptual hashes, or at most {BITS} of 64 bits between them and a cosine of"
                f" {self._limit:.3f} or more; joined through each other, as an audit does"
            )
        cosine = self._unit(numbers) @ self._unit(np.array([number]))[0]
        bits = np.bitwise_count((phash[numbers] ^ phash[number]).view(np.uint64)).astype(np.int64)
        order = np.lexsort((-cosine, bits))
        return NearImages(numbers=numbers[order], cosine=cosine[order], bits=bits[order], rule=rule)

    @property
    def command(self) -> str:
        """What finds the clusters of the whole run."""
        return shlex.join(["clipaudit", "duplicates", self._workspace.run.directory.url])

    def _unit(self, numbers: Ints) -> Float32s:
        vectors: npt.NDArray[Any] = self._workspace.scores.vectors(EMBEDDING)
        return unit_rows(vectors[numbers])


def _classes(table: pa.Table) -> Ints:
    """(n,) a number for each label, -1 without one and where images have several."""
    if "label" not in table.column_names or pa.types.is_list(table.schema.field("label").type):
        return np.full(len(table), -1, np.int64)
    encoded = table["label"].combine_chunks().dictionary_encode()
    codes: Ints = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    return codes
