"""Which texts a model tells apart: synonyms are confused, wordings of one text are not, made-up words are named."""

import hashlib

import numpy as np
import pytest

from clipaudit.errors import UsageError
from clipaudit.heads.texts.check import WORDINGS, check_json, check_texts
from clipaudit.heads.texts.fit import made_up_texts
from clipaudit.heads.texts.pool import TextPool, subject_of

DIM = 48
MEANING = {"a couch": "a sofa", "blorx": "nonsense"}
"""What the model below takes some texts for."""


class Model:
    """The vector of a text is what it means, what its wording adds to every text, and a little noise."""

    def __init__(self, noise):
        self.noise = noise

    def vectors(self, texts):
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text):
        subject, wording = subject_of(text), "none"
        for each in WORDINGS:
            before, _, after = each.partition("{}")
            if text.startswith(before) and text.endswith(after):
                subject, wording = text.removeprefix(before).removesuffix(after), each
                break
        if text in made_up_texts():
            subject = "blorx"
        meaning = MEANING.get(subject, subject)
        vector = 4 * self._draw("common") + 2 * self._draw(meaning) + self._draw(wording)
        vector += self.noise * self._draw(text)
        return vector / np.linalg.norm(vector)

    @staticmethod
    def _draw(name):
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        vector = np.random.default_rng(seed).normal(size=DIM)
        return vector / np.linalg.norm(vector)


TEXTS = ["a dog", "a photo of a dog", "a cat", "a sofa", "a couch", "snow", "a street at night", "blorx"]
POOL = TextPool.of(TEXTS, ["animal"] * 3 + ["furniture"] * 2 + ["place"] * 3)


def test_synonyms_are_confused_and_wordings_of_one_text_are_not():
    check = check_texts(POOL, Model(noise=0.6))
    pairs = {(each.text, each.taken_for) for each in check.confusions}
    assert pairs
    assert pairs <= {("a sofa", "a couch"), ("a couch", "a sofa")}
    assert check.told_apart.right == len(TEXTS) - len(pairs)
    assert check.properties[0].property == "furniture", "the worst first"
    assert check.properties[-1].told_apart.value == 1


def test_a_clear_model_confuses_nothing():
    clear = TextPool.of([text for text in TEXTS if text != "a couch"])
    check = check_texts(clear, Model(noise=0.1))
    assert (check.told_apart.value, check.confusions, check.properties) == (1, (), ())


def test_texts_like_made_up_words_are_named():
    assert check_texts(POOL, Model(noise=0.3)).unknown == ("blorx",)


def test_json_has_all_confusions():
    check = check_texts(POOL, Model(noise=0.6))
    value = check_json(check, "some model")
    assert value["told_apart"]["right"] == check.told_apart.right
    assert len(value["confusions"]) == len(check.confusions)
    assert value["told_apart"]["low"] < value["told_apart"]["value"] < value["told_apart"]["high"]


def test_one_text_has_nothing_to_be_told_apart_from():
    with pytest.raises(UsageError, match="has one text only"):
        check_texts(TextPool.of(["a dog", "a photo of a dog"]), Model(noise=0.1))
