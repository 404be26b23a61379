"""Whether it is said that a model knows few of the texts that its heads are described by."""

import numpy as np
import pytest

from clipaudit.errors import RunMismatch
from clipaudit.heads.texts.fit import fit_remark, made_up_texts, share_unknown
from clipaudit.heads.texts.pool import TextPool

POOL = TextPool.of([f"text {n}" for n in range(40)])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Encoder:
    """Known texts point anywhere; made-up ones, and the last `unknown` texts of the pool, lie around one direction."""

    def __init__(self, unknown):
        self.unknown = unknown

    def vectors(self, texts):
        rng = np.random.default_rng(len(texts))
        centre = np.eye(32)[0] * 3
        rows = rng.normal(size=(len(texts), 32))
        noisy = 0.4 * rng.normal(size=(len(texts), 32)) + centre
        made_up = texts == made_up_texts()
        return unit(
            np.where(np.arange(len(texts))[:, None] >= (0 if made_up else len(texts) - self.unknown), noisy, rows)
        )


@pytest.mark.parametrize(("unknown", "said"), [(0, False), (8, False), (20, True), (40, True)])
def test_texts_like_those_of_made_up_words_are_counted(unknown, said):
    encoder = Encoder(unknown)
    vectors = encoder.vectors(POOL.texts)
    assert share_unknown(vectors, encoder.vectors(made_up_texts())) == pytest.approx(unknown / 40, abs=0.25)
    remark = fit_remark(POOL, vectors, encoder)
    assert (remark is not None) == said
    if remark:
        assert remark.startswith("few of these texts fit: to this model ")
        assert "--texts FILE" in remark


def test_without_the_model_nothing_is_said():
    class Gone:
        def vectors(self, texts):
            raise RunMismatch("the model has other weights")

    assert fit_remark(POOL, Encoder(0).vectors(POOL.texts), Gone()) is None


def test_the_demo_model_knows_its_own_words_and_few_of_the_general_pool():
    from clipaudit.config import ModelConfig
    from clipaudit.heads.texts.encoder import encode_texts, load_tokenizer
    from clipaudit.heads.texts.pool import load_pool, pool_for
    from clipaudit.model.loading import load_model

    config = ModelConfig(name="demo", device="cpu")
    loaded, tokenizer = load_model(config), load_tokenizer(config)
    made_up = encode_texts(loaded, tokenizer, made_up_texts())
    known = encode_texts(loaded, tokenizer, pool_for("demo").texts)
    general = encode_texts(loaded, tokenizer, load_pool().texts[::10])
    assert share_unknown(known, made_up) < 0.05
    assert share_unknown(general, made_up) > 0.4


def test_heads_and_comparisons_take_the_words_of_the_demo_model():
    from clipaudit.heads.texts.pool import BUNDLED, pool_for

    assert pool_for("demo").source == "the words of --model demo"
    assert pool_for("ViT-B-32").source == BUNDLED
