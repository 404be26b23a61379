"""The page of heads: extremes kept while rows stream by, and HTML that needs nothing else and believes nobody."""

import numpy as np
import pytest

from clipaudit.heads.description import DescribeConfig, describe
from clipaudit.heads.extremes import Extremes
from clipaudit.heads.page import extremes, render
from clipaudit.heads.texts.pool import TextPool
from clipaudit.run.reader import Run
from clipaudit.run.row import Row
from tests.make_runs import SPEC, make_run
from tests.make_texts import HashedTexts


def test_streaming_keeps_what_sorting_everything_finds():
    rng = np.random.default_rng(0)
    values, directions = rng.standard_normal((500, 4)) + 5, rng.standard_normal((3, 4))
    kept = Extremes(directions, 4)
    for start in range(0, 500, 64):
        kept.update(values[start : start + 64], start)
    ends = kept.ends({n: Row(shard_id=0, index=n, key=str(n)) for n in kept.numbers})
    along = values @ directions.T
    z = (along - along.mean(axis=0)) / along.std(axis=0)
    for place, found in enumerate(ends):
        order = np.argsort(-along[:, place])
        assert [one.row.index for one in found.high] == order[:4].tolist()
        assert [one.row.index for one in found.low] == order[::-1][:4].tolist()
        assert [one.value for one in found.high] == pytest.approx(z[order[:4], place])
    assert len(kept.numbers) <= 24


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    run = Run(make_run(str(tmp_path_factory.mktemp("gallery") / "run"), shards=2))
    texts = tuple(f"<script>alert({n})</script>" for n in range(12))
    pool = TextPool(texts=texts, properties=("p",) * 12, kinds=("core-like",) * 12, source="<b>here</b>")
    return describe(run, pool, HashedTexts(SPEC.embed_dim), DescribeConfig(steps=3, roles=False))


def test_extremes_are_rows_of_the_run(described):
    done = []
    found = extremes(described, texts=2, keep=3, on_rows=lambda *step: done.append(step))
    assert done[-1] == (described.rows, described.rows)
    head = described.heads[1]
    stored = described.run.heads(head.head, ["key", "label"], dtype=np.float64)
    order = np.argsort(-(stored.values @ head.span.directions[0]))[:3]
    high = found[head.head][0].high
    assert [(one.row.key, one.row.label) for one in high] == [(stored["key"][n], stored["label"][n]) for n in order]
    assert [one.row.shard_id for one in high] == stored.shard_id[order].tolist()


def test_the_page_escapes_and_says_what_is_missing(described):
    page = render(described, extremes(described, texts=1, keep=2))
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert "&lt;b&gt;here&lt;/b&gt;" in page
    assert "32 pictures are missing:" in page, "of one text and of what the texts leave, two at each end, in four heads"
    assert page.count("in no text: the main direction of the") == 4
    assert "the shard is not there any more" in page
    assert page.count('<section class="head"') == 4
    assert "http://" not in page
    assert "https://" not in page
