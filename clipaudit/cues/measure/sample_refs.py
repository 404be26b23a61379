"""References to images: where each is stored, so that a page can show it without reading its whole shard."""

from __future__ import annotations

import pyarrow as pa

from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.result.finding_parts import SampleRef
from clipaudit.run.classes import ClassNames


def sample_ref(facts: ImageFacts, place: int, names: ClassNames) -> SampleRef:
    """Where the image at `place` of `facts` is stored, and its class; neither answers nor a score."""
    k, shard = int(facts.truth[place]), int(facts.shard_id[place])
    key: pa.Scalar = facts.key[place]
    located = facts.offset[place] >= 0
    return SampleRef(
        shard_id=shard,
        index=int(facts.index[place]),
        key=str(key.as_py()),
        url=facts.run.manifest.shards[shard].url,
        offset=int(facts.offset[place]) if located else None,
        nbytes=int(facts.nbytes[place]) if located else None,
        label=names.labels[k] if k >= 0 else None,
        class_name=names.names[k] if k >= 0 else None,
        predicted=None,
        predicted_without=None,
        value=None,
        score=None,
    )
