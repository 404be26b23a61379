from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.demo.world.captions import vocabulary


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global SimpleTokenizer, IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES, lexicon, used_merges, vocab_size
    global write_bpe, bundled
    global STOCK, SHIPPED

    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    from clipaudit.demo.training.tokenizer import lexicon, used_merges, vocab_size, write_bpe
    from clipaudit.model import bundled

    STOCK = SimpleTokenizer()
    SHIPPED = SimpleTokenizer(str(bundled.PACKAGED / bundled.BPE), context_length=bundled.CONTEXT_LENGTH)


def pieces(tokenizer: SimpleTokenizer, text: str) -> list[str]:
    return [tokenizer.decoder[token] for token in tokenizer.encode(text)]


@pytest.fixture
def emojibase(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"label": "grinning cat", "tags": ["feline", "œuvre"]}, {"label": "flag: Åland"}]))
    return path


def test_shipped_file_reads_every_caption_as_stock_clip_does():
    templates = [template("duck") for template in OPENAI_IMAGENET_TEMPLATES]
    for phrase in [*vocabulary(), *IMAGENET_CLASSNAMES, *templates]:
        assert pieces(SHIPPED, phrase) == pieces(STOCK, phrase), phrase


@settings(deadline=None)
@given(st.lists(st.deferred(lambda: st.sampled_from([*vocabulary(), *IMAGENET_CLASSNAMES])), min_size=1, max_size=6))
def test_any_sentence_of_known_phrases_keeps_its_pieces(phrases):
    text = " ".join(phrases)
    assert pieces(SHIPPED, text) == pieces(STOCK, text)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5))
def test_any_lexicon_keeps_its_pieces(tmp_path_factory, phrases):
    path = tmp_path_factory.mktemp("bpe") / "bpe.txt.gz"
    write_bpe(path, used_merges(phrases))
    short = SimpleTokenizer(str(path))
    for phrase in phrases:
        assert pieces(short, phrase) == pieces(STOCK, phrase)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_at_all_can_be_read_back(text):
    assert SHIPPED.decode(SHIPPED.encode(text)).split() == STOCK.decode(STOCK.encode(text)).split()


def test_lexicon_takes_labels_and_tags(emojibase):
    assert {"kestrel", "grinning cat", "feline", "œuvre", "flag: Åland"} <= set(lexicon(["kestrel"], emojibase))


def test_merges_keep_the_stock_order(emojibase):
    merges = used_merges(lexicon([], emojibase))
    ranks = [STOCK.bpe_ranks[pair] for pair in merges]
    assert ranks == sorted(set(ranks))


def test_only_used_merges_are_kept():
    assert used_merges(["cat", "CAT cat"]) == [("a", "t</w>"), ("c", "at</w>")]
    assert used_merges(["", "a", "?"]) == []


def test_the_same_merges_give_the_same_bytes(tmp_path):
    merges = used_merges(["an owl in a forest"])
    first, second = tmp_path / "a.txt.gz", tmp_path / "b.txt.gz"
    write_bpe(first, merges)
    write_bpe(second, merges)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4), "no time of writing"
    assert first.name.encode() not in first.read_bytes()


@pytest.mark.parametrize("phrases", [[], ["an owl"], vocabulary()])
def test_vocab_size_is_what_open_clip_counts(tmp_path, phrases):
    path = tmp_path / "bpe.txt.gz"
    write_bpe(path, used_merges(phrases))
    tokenizer = SimpleTokenizer(str(path))
    assert vocab_size(path) == tokenizer.vocab_size
    assert tokenizer.eot_token_id == vocab_size(path) - 1, "the end token is the largest, which is how CLIP finds it"


def test_shipped_file_is_small_and_its_size_is_about_9000():
    assert 8_000 < SHIPPED.vocab_size < 10_000
    assert not gzip.decompress((bundled.PACKAGED / bundled.BPE).read_bytes()).endswith(b"\n")
