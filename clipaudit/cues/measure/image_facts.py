"""What is known of each image that an audit uses: identity, class, attributes, near-duplicate cluster, hash half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.measure.near_duplicates import detailed, near_duplicates
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.columns import blank_values
from clipaudit.cues.statistics.design import halves_of
from clipaudit.cues.statistics.multiplicity import hash_order
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows, row_filter
from clipaudit.schema import OK, Label

_BATCH: Final = 65_536


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageFacts:
    """n images of a run, in the order of its ok rows."""

    run: Run = field(repr=False)
    rows: Rows
    position: Ints
    """(n,) place among all ok rows of the run, as `Run.heads` gives them."""
    shard_id: npt.NDArray[np.int32]
    index: npt.NDArray[np.int32]
    key: pa.ChunkedArray = field(repr=False)
    offset: Ints
    """(n,) first byte in the shard, -1 when unknown."""
    nbytes: Ints
    truth: Ints
    """(n,) class, as a row of the class vectors; -1 without a label."""
    attributes: dict[str, Attribute]
    phash: Ints
    """(n,) perceptual hash."""
    phash_known: Bools
    """(n,) the hash is that of an image with enough detail to be told from others."""
    cluster: Ints
    """(n,) near-duplicate cluster (or source) of each image, 0..G-1."""
    order: Float64s
    """(n,) hash of the first image of each image's cluster, 0..1: in this order clusters go on the halves."""
    discovery: Bools
    """(n,) on the discovery half; whole clusters are on one half, of each class every second one."""
    named_sources: bool = False
    """`cluster` holds the values of a column that the user named (`--cluster`), and no near duplicates."""
    source: Ints | None = None
    """(n,) sources that the audit found by itself, 0..S-1, which widen errors; None where there are none."""

    def __len__(self) -> int:
        return len(self.position)

    @property
    def groups(self) -> Ints:
        """(n,) what errors and permutations count as one: sources where the audit found any, else clusters."""
        return self.cluster if self.source is None else self.source

    @property
    def sources(self) -> Ints | None:
        """(n,) sources, found by the audit or named by the user; None where there are none."""
        return self.cluster if self.named_sources else self.source

    def take(self, chosen: Bools | Ints) -> ImageFacts:
        """Some of the images, by a mask (n,) or their places (m,)."""
        places = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else np.asarray(chosen, np.int64)
        _, cluster = np.unique(self.cluster[places], return_inverse=True)
        return ImageFacts(
            run=self.run,
            rows=self.rows,
            position=self.position[places],
            shard_id=self.shard_id[places],
            index=self.index[places],
            key=self.key.take(pa.array(places)),
            offset=self.offset[places],
            nbytes=self.nbytes[places],
            truth=self.truth[places],
            attributes={name: attribute.take(places) for name, attribute in self.attributes.items()},
            phash=self.phash[places],
            phash_known=self.phash_known[places],
            cluster=cluster.astype(np.int64),
            order=self.order[places],
            discovery=self.discovery[places],
            named_sources=self.named_sources,
            source=None
            if self.source is None
            else np.unique(self.source[places], return_inverse=True)[1].astype(np.int64),
        )

    def of_classes(self, truth: Ints) -> ImageFacts:
        """The same images with other classes (n,), put on the halves anew."""
        first = np.unique(self.cluster, return_index=True)[1]
        return replace(self, truth=truth, discovery=halves_of(truth, self.cluster, self.order[first]))


def image_facts(
    run: Run,
    rows: Rows,
    class_of: Mapping[Label, int],
    attributes: Sequence[str] = (),
    cluster: str | None = None,
) -> ImageFacts:
    """Facts of the ok rows that `rows` chooses.

    class_of: label -> class; other labels are -1. attributes: columns (`attributes.place`). cluster: a column whose
    equal values are one source (patient, camera, page); None takes the near duplicates that `clipaudit duplicates` has
    found in the run, and where that has not been run, those that `near_duplicates` finds.
    """
    table, position = _table(run, rows, [*attributes, *([cluster] if cluster is not None else [])])
    shard_id, index = _ints(table["shard_id"], np.int32), _ints(table["index"], np.int32)
    key = table["key"]
    phash = _ints(table["phash"], np.int64)
    known, truth = detailed(phash), _truth(table, class_of)
    groups = _column_groups(table[cluster]) if cluster is not None else _found_duplicates(run, shard_id, index)
    if groups is None:
        groups = near_duplicates(run, position, truth, phash, known)
    first = np.unique(groups, return_index=True)[1]
    keys = key.take(pa.array(first)).to_pylist()
    order = hash_order(shard_id[first], keys)
    return ImageFacts(
        run=run,
        rows=rows,
        position=position,
        shard_id=shard_id,
        index=index,
        key=key,
        offset=_ints(table["offset"], np.int64),
        nbytes=_ints(table["nbytes"], np.int64),
        truth=truth,
        attributes={name: _attribute(table[name], name) for name in attributes},
        phash=phash,
        phash_known=known,
        cluster=groups,
        order=order[groups],
        discovery=halves_of(truth, groups, order),
        named_sources=cluster is not None,
    )


def _table(run: Run, rows: Rows, extra: Sequence[str]) -> tuple[pa.Table, Ints]:
    """The chosen ok rows' plain columns, attributes by their full names, and their places among all ok rows."""
    labelled = run.spec.label_kind is not None
    condition = row_filter(run, rows)
    needed = list(dict.fromkeys(extra))
    plain = ["status", "shard_id", "index", "key", "phash", "offset", "nbytes", *(["label"] if labelled else [])]
    structs = [name.partition(".")[0] for name in needed if "." in name]
    stored = list(dict.fromkeys([*plain, *structs, *(column.path[0] for column in condition.columns)]))
    names = list(dict.fromkeys([*plain[1:], *needed]))
    parts: list[pa.Table] = []
    positions: list[Ints] = []
    done = 0
    for batch in run.batches(stored, _BATCH, rows.shards):
        table = pa.Table.from_batches([batch])
        table = table.filter(pc.equal(table["status"], OK))
        chosen = condition.mask(table)
        for name in needed:
            outer, _, inner = name.partition(".")
            if inner:
                table = table.append_column(name, pc.struct_field(table[outer], inner))
        positions.append(done + np.flatnonzero(chosen))
        parts.append(table.select(names).filter(pa.array(chosen)))
        done += len(table)
    if not parts:
        return pa.table({name: pa.array([], pa.string()) for name in names}), np.empty(0, np.int64)
    return pa.concat_tables(parts), np.concatenate(positions).astype(np.int64)


def _truth(table: pa.Table, class_of: Mapping[Label, int]) -> Ints:
    if "label" not in table.column_names or not len(table) or pa.types.is_list(table.schema.field("label").type):
        return np.full(len(table), -1, np.int64)
    encoded = table["label"].combine_chunks().dictionary_encode()
    # the extra last place is that of rows without a label
    classes = np.array([class_of.get(label, -1) for label in encoded.dictionary.to_pylist()] + [-1], np.int64)
    codes = np.asarray(encoded.indices.fill_null(len(classes) - 1).to_numpy(zero_copy_only=False), np.int64)
    truth: Ints = classes[codes]
    return truth


def _attribute(column: pa.ChunkedArray, name: str) -> Attribute:
    if pa.types.is_float32(column.type):
        return measured_attribute(np.asarray(column.to_numpy(), np.float32), name)
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    values: list[Any] = encoded.dictionary.to_pylist()
    blank = blank_values([str(value) for value in values])
    # by name: codes must not depend on which row comes first
    order = sorted(np.flatnonzero(~blank).tolist(), key=lambda place: str(values[place]))
    renumbered = np.full(len(values) + 1, -1, np.int64)
    renumbered[order] = np.arange(len(order))
    codes = np.asarray(encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False), np.int64)
    return Attribute(column=name, values=tuple(str(values[place]) for place in order), codes=renumbered[codes])


def measured_attribute(numbers: Float32s, name: str) -> Attribute:
    """An image property, (n,) with nan for none, to four significant digits, or each image had its own."""
    known = np.isfinite(numbers)
    exponent = np.floor(np.log10(np.maximum(np.abs(numbers[known].astype(np.float64)), 1e-30)))
    unit = 10.0 ** (exponent - 3)
    values, codes = np.unique(np.round(numbers[known] / unit) * unit, return_inverse=True)
    texts = [f"{value:.4g}" for value in values.tolist()]
    # sorted by name, as those of other columns
    place = {text: number for number, text in enumerate(sorted(set(texts)))}
    every = np.full(len(numbers), -1, np.int64)
    every[known] = np.array([place[text] for text in texts], np.int64)[codes]
    return Attribute(column=name, values=tuple(place), codes=every)


def _column_groups(column: pa.ChunkedArray) -> Ints:
    """Clusters of equal values; rows without a value stand for themselves."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    missing = codes < 0
    # a number of its own for each
    codes[missing] = codes.max(initial=-1) + 1 + np.arange(int(missing.sum()))
    _, groups = np.unique(codes, return_inverse=True)
    return groups.astype(np.int64)


def _found_duplicates(run: Run, shard_id: npt.NDArray[np.int32], index: npt.NDArray[np.int32]) -> Ints | None:
    """The clusters of the run's table of near duplicates; images that are in none stand for themselves."""
    clusters = duplicate_clusters(run, shard_id, index)
    if clusters is None:
        return None
    alone = np.arange(len(clusters)) + clusters.max(initial=-1) + 1
    return np.unique(np.where(clusters >= 0, clusters, alone), return_inverse=True)[1].astype(np.int64)


def duplicate_clusters(run: Run, shard_id: npt.NDArray[np.int32], index: npt.NDArray[np.int32]) -> Ints | None:
    """(n,) number of each image's cluster in the run's table of near duplicates, -1 for images in none; None where
    `clipaudit duplicates` has not been run."""
    from clipaudit.retrieval.duplicates import read_clusters  # faiss comes with it

    table = read_clusters(run)
    if table is None:
        return None
    if not len(table):
        return np.full(len(shard_id), -1, np.int64)
    # shard and index as one number, to be looked up in the sorted table
    place = shard_id.astype(np.int64) << 32 | index
    clustered = _ints(table["shard_id"], np.int64) << 32 | _ints(table["index"], np.int64)
    order = np.argsort(clustered, kind="stable")
    nearest = np.minimum(np.searchsorted(clustered[order], place), len(clustered) - 1)
    clusters = _ints(table["cluster"], np.int64)[order][nearest]
    return np.where(clustered[order][nearest] == place, clusters, -1)


def _ints(column: pa.ChunkedArray, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    filled = pc.fill_null(column, -1) if column.null_count else column
    return np.asarray(filled.to_numpy(), dtype)
