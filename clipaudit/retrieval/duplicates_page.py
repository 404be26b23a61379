"""Near-duplicates as a page: the largest clusters with their pictures, one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.pages.html import render_page, template_environment
from clipaudit.retrieval.duplicates import Duplicates
from clipaudit.run.reader import Run
from clipaudit.run.row import Row, label_text
from clipaudit.run.stored_images import StoredImages
from clipaudit.run.thumbnails import NoPicture, Thumbnails

_CLUSTERS: Final = 30
_IMAGES: Final = 12
"""Shown of a cluster."""


def duplicates_page(duplicates: Duplicates, runs: Sequence[Run], table: pa.Table) -> str:
    """The page's HTML: the largest clusters of a table of `find_duplicates` in one or two runs, with pictures."""
    sizes = Counter(table["cluster"].to_pylist())
    largest = [number for number, _ in sizes.most_common(_CLUSTERS)]
    clusters = [_cluster(table.filter(pc.equal(table["cluster"], number)), runs) for number in largest]
    compared = " and ".join(f"{count:,}" for count in duplicates.images)
    about = (
        f"{compared} images of {' and '.join(duplicates.runs)}; near-duplicates have a cosine of at least"
        f" {duplicates.similarity:g} and differ in at most {duplicates.bits} of 64 bits of their perceptual hashes."
    )
    if len(sizes) > _CLUSTERS:
        about += f" The {_CLUSTERS} largest clusters are shown; the table has all."
    noun = "cluster" if duplicates.clusters == 1 else "clusters"
    title = f"{duplicates.clusters:,} {noun} of near-duplicates"
    template = template_environment("clipaudit.retrieval").get_template("duplicates.html")
    return render_page(template, title=title, about=about, clusters=clusters)


def _cluster(rows: pa.Table, runs: Sequence[Run]) -> dict[str, Any]:
    members = rows.to_pylist()
    labels = {_label(row) for row in members if row.get("label") is not None}
    more = f", {_IMAGES} of them shown" if len(members) > _IMAGES else ""
    return {
        "title": f"{len(members):,} images{more}",
        "differ": len(labels) > 1,
        "images": [_image(row, runs[row["run"]]) for row in members[:_IMAGES]],
    }


def _label(row: dict[str, Any]) -> str:
    """The label of a row of the table as it is shown; several in the order of their names."""
    label = row["label"]
    return label_text(tuple(sorted(label, key=str)) if isinstance(label, list) else label)


def _image(row: dict[str, Any], run: Run) -> dict[str, Any]:
    picture, reason = None, ""
    place = StoredImages(run).places([(row["shard_id"], row["index"])]).get((row["shard_id"], row["index"]))
    try:
        if place is None:
            raise NoPicture("its place in the shard is not stored")
        picture = Thumbnails(run)(
            Row(shard_id=row["shard_id"], index=row["index"], key=row["key"], offset=place.offset, nbytes=place.nbytes)
        )
    except NoPicture as error:
        reason = str(error)
    return {
        "picture": picture,
        "reason": reason,
        "key": f"{row['shard_id']}/{row['key']}",
        "label": None if row.get("label") is None else _label(row),
        "cosine": f"{row['cosine']:.3f}",
        "bits": row["bits"],
        "keep": row["keep"],
    }
