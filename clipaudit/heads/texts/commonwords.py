"""The most common English words, a control for text pools: whole words in the order that CLIP's tokenizer has them."""

from __future__ import annotations

import gzip
import importlib.util
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Final

_MERGES: Final = 49152 - 256 - 2
"""As many lines of the vocabulary file as open_clip reads."""
_ENDINGS: Final = 3
"""What ends so many other pieces is a suffix (`ing`, `ers`), and a few words are lost with those."""


@cache
def common_words() -> tuple[str, ...]:
    """About 30,000 words of three letters or more, most frequent first.

    Byte-pair merges are learnt most frequent first, so their order in open_clip's vocabulary file is that of frequency
    in the captions and web pages that CLIP's tokenizer was made from.
    """
    spec = importlib.util.find_spec("open_clip")  # its path alone: importing it would bring torch
    assert spec is not None
    assert spec.origin is not None
    data = gzip.decompress((Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes())
    merges = [line.split() for line in data.decode().split("\n")[1 : _MERGES + 1]]
    endings = Counter(pair[1] for pair in merges)
    pieces = ["".join(pair) for pair in merges]
    words = [piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>") and endings[piece] < _ENDINGS]
    return tuple(dict.fromkeys(word for word in words if word.isascii() and word.isalpha() and len(word) > 2))
