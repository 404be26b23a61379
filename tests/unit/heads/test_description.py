"""Heads in words, put together: a run's moments, a pool, spans, roles, stability, and what goes to JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clipaudit.errors import UsageError
from clipaudit.heads.description import DescribeConfig, describe, description_json, directory_name
from clipaudit.heads.texts.pool import load_pool
from clipaudit.heads.textspan import fold, textspan, variance_share
from clipaudit.run.derived import finite
from clipaudit.run.reader import Run
from clipaudit.run.rows import ALL, Rows, moments_over
from tests.make_runs import SPEC, make_run
from tests.make_texts import HashedTexts, make_pool

WATER = Rows(where=("attributes.place = water",))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(make_run(str(tmp_path_factory.mktemp("description") / "run"), shards=3))


def described(run, pool=None, **config):
    return describe(run, pool or make_pool(), HashedTexts(SPEC.embed_dim), DescribeConfig(**{"steps": 3, **config}))


@pytest.mark.parametrize("rows", [ALL, WATER, Rows(where=("label = 1",))])
@pytest.mark.parametrize("stability", [False, True])
def test_heads_are_described_over_the_rows_asked_for(run, rows, stability):
    done = []
    pool, texts = make_pool(), HashedTexts(SPEC.embed_dim)
    config = DescribeConfig(rows=rows, steps=3, stability=stability, resamples=5)
    found = describe(run, pool, texts, config, lambda *step: done.append(step))
    moments = moments_over(run, rows)
    assert done == [(n, 4) for n in (1, 2, 3, 4)]
    assert found.rows == moments.count
    for words in found.heads:
        plain = textspan(moments.covariance(words.head), fold(run.basis().Q(words.head), texts.vectors(pool.texts)), 3)
        assert words.span.texts.tolist() == plain.texts.tolist()
        assert np.allclose(words.span.explained, plain.explained)
        assert words.share == pytest.approx(variance_share(moments, words.head))
        assert words.role is not None
        assert (words.stability is not None) == stability


def test_the_default_number_of_texts_is_what_there_is(run, tmp_path):
    from clipaudit import TextPool, describe_heads

    pool = TextPool.of([f"a text {n}" for n in range(5)])
    vectors = HashedTexts(SPEC.embed_dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipaudit.heads.calls.RunTexts", lambda *_: vectors)
        few = describe_heads(run, texts=pool, heads="L00H00", roles=False)
        assert few.config.steps == 5
        with pytest.raises(UsageError, match="6 texts were asked for"):
            describe_heads(run, texts=pool, heads="L00H00", steps=6)


def test_json_says_everything_and_is_plain(run):
    found = described(run, stability=True, resamples=4, stability_top=2, heads=("L01H00", "L00H01"))
    plain = json.loads(json.dumps(description_json(found), allow_nan=False))
    assert [head["head"] for head in plain["heads"]] == ["L01H00", "L00H01"]
    assert plain["texts"] == {"source": "test", "count": 40, "fingerprint": make_pool().fingerprint}
    assert plain["model"] == "feed"
    for head, words in zip(plain["heads"], found.heads, strict=True):
        assert [text["text"] for text in head["texts"]] == [make_pool().texts[i] for i in words.span.texts]
        assert [text["cumulative"] for text in head["texts"]] == words.span.cumulative.tolist()
        assert [text["chosen_again"] is None for text in head["texts"]] == [False, False, True]
        assert {share["name"] for share in head["role"]["properties"]} == {"colour", "animal"}
        assert head["role"]["label"] == words.role.label


def test_shared_texts_are_marked_in_both_heads(run):
    pool = make_pool(4)  # so few that heads must share
    found = described(run, pool, roles=False)
    plain = description_json(found)
    assert found.shared
    for text, heads in found.shared.items():
        for head in plain["heads"]:
            for entry in head["texts"]:
                if entry["text"] == pool.texts[text]:
                    assert {head["head"], *entry["also_in"]} == set(heads)


def test_no_roles_says_why(run):
    assert described(run, roles=False).roles_missing == "not asked for"
    found = described(run, make_pool(40, ["only one"]))
    assert "two properties" in found.roles_missing
    assert found.heads[0].role is None
    assert description_json(found)["heads"][0]["role"] is None


def test_names_of_directories():
    assert directory_name(ALL) == "all"
    assert directory_name(WATER) == "attributes.place=water"
    assert directory_name(Rows(where=("label = '../a b'",))) == "label=.._a_b"
    assert directory_name(Rows(where=("split = test", "label = 3"))) == "label=3,split=test"
    less, more = (directory_name(Rows(where=(f"light {sign} 9",))) for sign in "<>")
    assert less != more
    assert less.startswith("light_9-")


def test_mistakes(run, tmp_path):
    with pytest.raises(UsageError, match="50 texts were asked for, there are 40 in test"):
        described(run, steps=50)
    with pytest.raises(UsageError, match="--steps must be at least 1"):
        DescribeConfig(steps=0)
    with pytest.raises(UsageError, match="stores no head 'L09H00'"):
        described(run, heads=("L09H00",))
    with pytest.raises(UsageError, match=r"no row .* has attributes.place = moon"):
        described(run, rows=Rows(where=("attributes.place = moon",)))
    single = Run(make_run(str(tmp_path / "run"), shards=1))
    with pytest.raises(UsageError, match=r"--stability draws shards again, and the run at .* has 1"):
        described(single, stability=True)


def test_numbers_that_json_lacks_are_null():
    assert finite({"a": [float("nan"), 1.5, (float("inf"), "x")], 2: None}) == {
        "a": [None, 1.5, [None, "x"]],
        "2": None,
    }


def test_our_own_pool_gives_roles_to_choose_from():
    pool = load_pool()
    assert len(set(pool.properties)) > 20
