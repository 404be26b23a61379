"""One picture explained: which parts of it speak for which texts, through which heads; numbers first, then pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipaudit.arrays import ArrayHolder, Float32s
from clipaudit.config import ModelConfig
from clipaudit.heads.texts.encoder import Tokenizer, encode_texts, load_tokenizer
from clipaudit.localize.frames import FramedPicture, PictureReader
from clipaudit.localize.heatmaps import ends_of_parts, points
from clipaudit.localize.lettering import is_drawable
from clipaudit.localize.methods import METHODS, Options, localiser
from clipaudit.localize.overlay import MapPanel, WordStrip, sheet
from clipaudit.localize.question import BY_TOKENS, check_picture, check_question, parse_heads
from clipaudit.localize.seen import unrelated_cosine, unrelated_texts
from clipaudit.localize.tensors import embed
from clipaudit.localize.text_tokens import TokenScore, token_scores
from clipaudit.localize.token_maps import TokenDecomposition
from clipaudit.model import Positions, describe_tower, with_positions
from clipaudit.model.loading import LoadedModel, Normaliser, load_model
from clipaudit.schema import Names, as_names


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Explanation(ArrayHolder):
    """Maps of one picture. R rows: 1, or the heads that were named; T texts."""

    picture: FramedPicture
    method: str
    texts: tuple[str, ...]
    rows: tuple[str, ...]
    """Heads by name; a single empty string where maps are not of single heads."""
    scores: Float32s
    """(R, T, grid rows, grid columns) in the method's own units."""
    products: Float32s
    """(T,): cosines of the image with the texts."""
    totals: Float32s | None
    """(R, T), decomposition only: what these heads add to each cosine, class token included."""
    outliers: tuple[tuple[int, int], ...]
    """(row, column) of register-like patches; decomposition only."""
    model: str
    whole: bool
    words: tuple[tuple[tuple[str, float], ...], ...] = ()
    """Where asked for: of each text its words, each with the cosine of the text less that of the text without it."""
    unrelated: float = -1.0
    """The cosine that 9 in 10 unrelated texts do not exceed with this picture: a text below it is not seen."""
    tokens: tuple[tuple[TokenScore, ...], ...] = ()
    """Where asked for: of each text its tokens with the image's cosine with each, see `token_scores`."""

    @property
    def seen(self) -> tuple[bool, ...]:
        """(T,) whether the picture has what each text says, by its cosine against those of unrelated texts."""
        return tuple(bool(product > self.unrelated) for product in self.products)

    def numbers(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        frame = self.picture.frame
        return {
            "image": self.picture.name,
            "height": frame.size[0],
            "width": frame.size[1],
            "model": self.model,
            "method": self.method,
            "whole": self.whole,
            "seen": {"top": frame.top, "left": frame.left, "bottom": frame.bottom, "right": frame.right},
            "grid": list(self.scores.shape[2:]),
            "unrelated_cosine": self.unrelated,
            "register_like": [list(mark) for mark in self.outliers],
            "words": [[{"word": word, "adds": adds} for word, adds in text] for text in self.words],
            "tokens": [[asdict(score) for score in text] for text in self.tokens],
            "maps": [self._map(row, text) for row in range(len(self.rows)) for text in range(len(self.texts))],
        }

    def draw(self, *, smooth: bool = True) -> Image.Image:
        """The sheet of panels as an RGB image, all maps on one scale; of a text that is not seen there is no map.

        smooth: interpolate between patches.
        """
        low, high = self._scale()
        rows = [
            [
                MapPanel(
                    title=text,
                    scores=self.scores[row, column],
                    low=low,
                    high=high,
                    note=self._note(row, column),
                    seen=self.seen[column],
                )
                for column, text in enumerate(self.texts)
            ]
            for row in range(len(self.rows))
        ]
        remarks = [METHODS[self.method].about, "one scale for all maps", "whole picture" if self.whole else ""]
        remarks.append(self.picture.frame.crop)
        remarks.append("" if all(self.seen) else "not seen: the cosine is below that of unrelated texts")
        remarks.append("" if all(map(is_drawable, self.texts)) else "?: a letter that no font here has")
        remarks.append("outlined: register-like tokens" if self.outliers else "")
        remarks.append("boxes: the image's cosine with each token of a text" if self.tokens else "")
        caption = "\n".join(["; ".join(filter(None, [self.model, *remarks])), *map(_spelled, self.words)])
        return sheet(
            self.picture.display,
            rows,
            self.picture.frame,
            caption=caption,
            names=self.rows if self.rows != ("",) else (),
            strips=[
                WordStrip(words=tuple(score.token for score in text), values=tuple(score.cosine for score in text))
                for text in self.tokens
            ],
            marks=self.outliers,
            smooth=smooth,
        )

    def _scale(self) -> tuple[float, float]:
        """What the darkest and the lightest colour stand for: the range of the maps that are drawn, with zero in it
        where scores are parts of a sum.
        """
        # a map that is not drawn must not stretch the scale of the others
        drawn = self.scores[:, list(self.seen)] if any(self.seen) else self.scores
        return ends_of_parts(drawn) if self.method in BY_TOKENS else (float(drawn.min()), float(drawn.max()))

    def _note(self, row: int, text: int) -> str:
        if not self.seen[text]:
            return f"not seen: {self.products[text]:.3f}, unrelated texts reach {self.unrelated:.3f}"
        if self.totals is None or not self.rows[row]:
            return f"cosine {self.products[text]:.3f}"
        whole = "over the mean" if self.method == "contrast" else f"of {self.products[text]:.3f}"
        return f"adds {self.totals[row, text]:+.4f} {whole}"

    def _map(self, row: int, text: int) -> dict[str, Any]:
        scores = self.scores[row, text]
        peak_row, peak_column = np.unravel_index(int(scores.argmax()), scores.shape)
        x, y = self.picture.frame.place((peak_row + 0.5) / scores.shape[0], (peak_column + 0.5) / scores.shape[1])
        plain: dict[str, Any] = {"text": self.texts[text], "cosine": float(self.products[text])}
        plain["seen"] = self.seen[text]
        if self.rows[row]:
            plain["head"] = self.rows[row]
        if self.totals is not None:
            plain |= {"heads_add": float(self.totals[row, text]), "patches_add": float(scores.sum())}
        return plain | {
            "min": float(scores.min()),
            "max": float(scores.max()),
            "peak": {"x": round(x, 1), "y": round(y, 1)},
            "points": self._points(scores),
            "scores": [[float(f"{value:.6g}") for value in line] for line in scores],
        }

    def _points(self, scores: Float32s) -> dict[str, list[list[int]]]:
        """Point prompts [x, y] in the picture's pixels, for a segmenter such as SAM."""
        frame = self.picture.frame
        size = (max(round(frame.bottom - frame.top), 1), max(round(frame.right - frame.left), 1))
        prompts = points(torch.from_numpy(scores), size)
        xy = [frame.place(y / size[0], x / size[1]) for x, y in prompts.xy.tolist()]
        placed = [[round(x), round(y)] for x, y in xy]
        # positive points come first
        half = int(prompts.labels.sum())
        return {"positive": placed[:half], "negative": placed[half:]}


def _spelled(words: tuple[tuple[str, float], ...]) -> str:
    return "words: " + "  ".join(f"{word} {adds:+.3f}" for word, adds in words)


class Explainer:
    """Explains any number of pictures with one model.

    Args:
        config: which model.
        whole, side: show the model whole pictures, see `PictureReader`.
        positions: how position embeddings are resized for them, `bicubic` or `bilinear`; see `with_positions`.
        loaded: the model and its tokenizer, where they are loaded already.

    Raises:
        The errors of `load_model` and `describe_tower`.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        whole: bool = False,
        side: int | None = None,
        positions: Positions = "bicubic",
        loaded: tuple[LoadedModel, Tokenizer] | None = None,
    ) -> None:
        self._config = config
        self._loaded, self._tokenizer = loaded or (load_model(config), load_tokenizer(config))
        self.tower = describe_tower(with_positions(self._loaded.model, positions))
        self._pool: Tensor | None = None
        self._whole = whole or side is not None
        self._reader = PictureReader(self._loaded.transform, self.tower, whole=whole, side=side)
        self._normalise = Normaliser(self._reader.mean, self._reader.std, self._loaded.device)

    def explain(
        self,
        path: str,
        texts: Sequence[str],
        *,
        method: str = "decomposition",
        heads: Sequence[str] = (),
        options: Options | None = None,
        words: bool = False,
        tokens: bool = False,
    ) -> Explanation:
        """Where each text is in the picture.

        Args:
            path: an image file.
            texts: at least one.
            method: a name of METHODS.
            heads: head labels such as L11H05; one row of maps for each (decomposition only).
            options: for the method; its heads, empty text and precision are filled in here.
            words: also say what each word of each text adds to the cosine, by leaving it out.
            tokens: also say how close the image is to each token of each text.

        Raises:
            UsageError: no text, an unknown method, heads for a method that has none, and what the parts raise.
        """
        options = options or Options()
        check_question(texts, method, heads, layers=options.layers is not None, blocks=options.blocks is not None)
        picture = self._reader.open(path)
        images = self._normalise([picture.seen])
        vectors = self.encode(texts)
        if method in BY_TOKENS:
            explanation = self._by_tokens(picture, images, method, texts, vectors, heads, options)
        else:
            explanation = self._by_method(picture, images, method, texts, vectors, options)
        explanation = replace(explanation, unrelated=self._unrelated(images))
        if words:
            explanation = replace(explanation, words=tuple(self._words(images, text) for text in texts))
        return replace(explanation, tokens=self._tokens(images, texts)) if tokens else explanation

    def _by_method(
        self,
        picture: FramedPicture,
        images: Tensor,
        method: str,
        texts: Sequence[str],
        vectors: Tensor,
        options: Options,
    ) -> Explanation:
        # one text has no others to compare with: the empty one takes their place (docs/method.md 4)
        empty = self.encode([""])[0] if len(texts) == 1 else None
        chosen = Options(blocks=options.blocks, form=options.form, empty=empty, precision=self._config.precision)
        scores = localiser(method, self.tower.visual, chosen)(images, vectors)
        return self._explanation(picture, method, texts, ("",), scores, self._products(images, vectors))

    def _words(self, images: Tensor, text: str) -> tuple[tuple[str, float], ...]:
        """What each word of a text adds: its cosine with the image less that of the text without the word."""
        words = text.split()
        without = [" ".join(words[:number] + words[number + 1 :]) for number in range(len(words))]
        cosines = self._products(images, self.encode([text, *without]))[0].tolist()
        return tuple((word, cosines[0] - other) for word, other in zip(words, cosines[1:], strict=True))

    def _unrelated(self, images: Tensor) -> float:
        """The cosine that 9 in 10 unrelated texts do not exceed with the image."""
        if self._pool is None:
            self._pool = self.encode(unrelated_texts(self._config.name))
        return unrelated_cosine(self._products(images, self._pool).float().cpu().numpy())

    def _tokens(self, images: Tensor, texts: Sequence[str]) -> tuple[tuple[TokenScore, ...], ...]:
        image = embed(self.tower, images, self._config.precision)[0]
        return tuple(token_scores(self._loaded, self._tokenizer, image, text) for text in texts)

    def _products(self, images: Tensor, vectors: Tensor) -> Tensor:
        """(1, T) cosines of the image with the texts."""
        return embed(self.tower, images, self._config.precision) @ vectors.T

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(T, D) float32 unit vectors on the model's device; UsageError for a text that is too long."""
        return torch.from_numpy(encode_texts(self._loaded, self._tokenizer, texts)).to(self._loaded.device)

    def _by_tokens(
        self,
        picture: FramedPicture,
        images: Tensor,
        method: str,
        texts: Sequence[str],
        vectors: Tensor,
        heads: Sequence[str],
        options: Options,
    ) -> Explanation:
        chosen, contrast = parse_heads(heads) or None, method == "contrast"
        tokens = TokenDecomposition(self.tower.visual, chosen, options.layers, self._config.precision)
        rows: tuple[str, ...] = ("",)
        if chosen is None:
            maps = tokens(images, vectors, contrast=contrast)
            scores, totals = maps.patches, maps.heads
        else:
            maps = tokens.by_head(images, vectors, contrast=contrast)
            scores, totals, rows = maps.patches[0], maps.heads[0], tokens.labels
        outliers = [(int(row), int(column)) for row, column in maps.outliers[0].nonzero().tolist()]
        # With contrast the texts that were multiplied are differences; the cosine is still that of the text itself.
        products = self._products(images, vectors) if contrast else maps.products
        return self._explanation(picture, method, texts, rows, scores, products, totals, tuple(outliers))

    def _explanation(
        self,
        picture: FramedPicture,
        method: str,
        texts: Sequence[str],
        rows: tuple[str, ...],
        scores: Tensor,
        products: Tensor,
        totals: Tensor | None = None,
        outliers: tuple[tuple[int, int], ...] = (),
    ) -> Explanation:
        weights = f" {self._config.pretrained}" if self._config.pretrained else ""
        return Explanation(
            picture=picture,
            method=method,
            texts=tuple(texts),
            rows=rows,
            scores=scores.float().cpu().numpy(),
            products=products[0].float().cpu().numpy(),
            totals=None if totals is None else totals.float().cpu().numpy(),
            outliers=outliers,
            model=f"{self._config.name}{weights}",
            whole=self._whole,
        )


def explain(
    image: str | os.PathLike[str],
    texts: Names,
    model: ModelConfig | str,
    pretrained: str | None = None,
    *,
    method: str = "decomposition",
    heads: Names = (),
    options: Options | None = None,
    whole: bool = False,
    side: int | None = None,
    positions: Positions = "bicubic",
    words: bool = False,
    tokens: bool = False,
    device: str = "auto",
) -> Explanation:
    """Where texts are in a picture: heat maps, whose sum with `decomposition` is what the heads add to the cosine.

    Loads the model at each call; for many pictures make one `clipaudit.localize.explain.Explainer`.

    Args:
        image: an image file.
        texts: one text or several.
        model, pretrained: which model, as for `load_model`.
        method: a name of METHODS.
        heads: head labels such as L11H05: a row of maps for each (`decomposition` and `contrast` only).
        options: for the method.
        whole: show the model the whole picture, not what its preprocessing keeps.
        side: show the whole picture with about so many pixels on the shorter side.
        positions: how position embeddings are resized for that: `bicubic`, or `bilinear` as CLIP Surgery's code does.
        words: also say what each word of each text adds to the cosine.
        tokens: also say how close the image is to each token of each text.
        device: where the model runs: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises UsageError for a picture that cannot be read, no text, or an option that the method does not have, and what
    `load_model` raises.

    >>> explanation = explain("photo.jpg", ["a bird", "water"], "demo")
    >>> explanation.scores.shape  # (rows of heads, texts, patches down, patches across)
    (1, 2, 8, 8)
    >>> explanation.draw().save("maps.png")
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig(name=model, pretrained=pretrained, device=device)
    given = options or Options()
    check_question(
        as_names(texts), method, as_names(heads), layers=given.layers is not None, blocks=given.blocks is not None
    )
    check_picture(os.fspath(image))
    explainer = Explainer(config, whole=whole, side=side, positions=positions)
    return explainer.explain(
        os.fspath(image),
        as_names(texts),
        method=method,
        heads=as_names(heads),
        options=options,
        words=words,
        tokens=tokens,
    )
