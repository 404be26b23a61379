"""The demo model's BPE file: the merges of CLIP's that a lexicon needs, in order, so that its pieces stay CLIP's."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

_HEADER = "#version: 0.2, the merges of CLIP's bpe_simple_vocab_16e6 that clipaudit's demo lexicon uses"
_STOCK_MERGES = 49152 - 256 - 2
"""How many lines after the header open_clip reads."""
_COMMON_MERGES = 4000
"""Merges are in order of frequency: the whole words among the first so many are CLIP's commonest."""

Pair = tuple[str, str]


def lexicon(phrases: Iterable[str], emojibase: Path) -> list[str]:
    """Every phrase whose words must be read as stock CLIP reads them.

    `phrases` are the generator's own (`captions.vocabulary()`), `emojibase` is emojibase-data's `en/data.json` (MIT):
    labels and tags; ImageNet's class names and OpenAI's templates come with open_clip (MIT), and CLIP's own list of
    merges gives the commonest words of captions.
    """
    collected = list(phrases)
    for record in json.loads(emojibase.read_text(encoding="utf-8")):
        collected.append(record["label"])
        collected.extend(record.get("tags", ()))
    collected.extend(IMAGENET_CLASSNAMES)
    collected.extend(template("") for template in OPENAI_IMAGENET_TEMPLATES)
    collected.extend(_common_words())
    return collected


def used_merges(phrases: Iterable[str]) -> list[Pair]:
    """The merges that stock CLIP applies somewhere in `phrases`, in stock order.

    Every step of BPE applies the present pair of lowest rank. Keeping all applied pairs in their order leaves each
    step's choice as it was, so every word of `phrases` gets the same pieces from the shorter list.
    """
    ranks = _stock_ranks()
    used: set[Pair] = set()
    for word in _words(phrases):
        used |= _applied(word, ranks)
    return sorted(used, key=ranks.__getitem__)


def write_bpe(path: Path, merges: list[Pair]) -> None:
    """Write merges as a file for open_clip's `SimpleTokenizer(bpe_path)`; the same merges give the same bytes."""
    # No newline at the end: open_clip would read the empty line as one more token.
    text = "\n".join([_HEADER, *(f"{first} {second}" for first, second in merges)])
    path.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0))


def vocab_size(path: Path) -> int:
    """Number of tokens of a BPE file: 256 bytes, each also as a word's end, the merges and two special tokens."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    return 2 * 256 + len(lines[1 : _STOCK_MERGES + 1]) + 2


@functools.cache
def _stock() -> SimpleTokenizer:
    return SimpleTokenizer()


def _stock_ranks() -> Mapping[Pair, int]:
    ranks: Mapping[Pair, int] = _stock().bpe_ranks
    return ranks


def _common_words() -> list[str]:
    joined = ("".join(pair) for pair in itertools.islice(_stock_ranks(), _COMMON_MERGES))
    return [word.removesuffix("</w>") for word in joined if word.endswith("</w>") and word[:-4].isascii()]


def _words(phrases: Iterable[str]) -> set[str]:
    """Words as the tokeniser splits them, in its byte alphabet."""
    alphabet = bytes_to_unicode()
    words: set[str] = set()
    for phrase in phrases:
        for word in _stock().pat.findall(_stock().clean_fn(phrase)):
            words.add("".join(alphabet[byte] for byte in word.encode("utf-8")))
    return words


def _applied(word: str, ranks: Mapping[Pair, int]) -> set[Pair]:
    """The merges that BPE applies to one word."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    applied: set[Pair] = set()
    while present := [pair for pair in itertools.pairwise(pieces) if pair in ranks]:
        pair = min(present, key=ranks.__getitem__)
        applied.add(pair)
        pieces = _merged(pieces, pair)
    return applied


def _merged(pieces: list[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    index = 0
    while index < len(pieces):
        if index + 1 < len(pieces) and (pieces[index], pieces[index + 1]) == pair:
            joined.append(pieces[index] + pieces[index + 1])
            index += 2
        else:
            joined.append(pieces[index])
            index += 1
    return joined


if (
    __name__ == "__main__"
):  # python -m clipaudit.demo.training.tokenizer .../emojibase-data/en/data.json model/bpe.txt.gz
    from clipaudit.demo.world.captions import vocabulary

    write_bpe(Path(sys.argv[2]), used_merges(lexicon(vocabulary(), Path(sys.argv[1]))))
    print(f"{sys.argv[2]}: {vocab_size(Path(sys.argv[2]))} tokens")
