"""Heat maps drawn over pictures: single maps, and sheets of panels with titles and scales. Pure pixels, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from clipaudit.arrays import Float32s, Uint8s
from clipaudit.localize.colours import coloured
from clipaudit.localize.frames import Frame
from clipaudit.localize.lettering import TEXT_PIXELS, draw_text, text_width, wrapped

_HEAT, _RELIEF = 0.82, 0.5
"""Share of the heat's colour, the rest is the picture in grey; and how much darker the colour is where that is black.
Mixing alone would wash the colours out on bright pictures."""
_UNSEEN = 0.35
"""Brightness of what the model did not see."""
_GAP, _TEXT, _BAR = 10, TEXT_PIXELS, 8
_BOX, _LINE = 8, 2 * _TEXT + 14
"""A word's box is so much wider than the word; a line of boxes with their numbers is so high."""
_INK, _FAINT, _PAPER = (25, 25, 25), (110, 110, 110), (255, 255, 255)


@dataclass(frozen=True, eq=False, kw_only=True)
class MapPanel:
    """One map with its words."""

    title: str
    scores: Float32s
    """(rows, columns) of patches."""
    low: float
    high: float
    """What the darkest and the lightest colour stand for."""
    note: str = ""
    """A second line, such as the product with the text."""
    seen: bool = True
    """Whether the picture has what the panel is about; without it no map is drawn, for its brightest patch would say
    that it has."""


@dataclass(frozen=True, kw_only=True)
class WordStrip:
    """Words with numbers, drawn as a line of coloured boxes."""

    words: tuple[str, ...]
    values: tuple[float, ...]
    """The least is drawn in the darkest colour, the greatest in the lightest."""


def overlaid(
    picture: Uint8s,
    scores: Float32s,
    frame: Frame,
    *,
    low: float,
    high: float,
    marks: Sequence[tuple[int, int]] = (),
    smooth: bool = True,
) -> Uint8s:
    """A heat map over a picture, in the picture's own shape.

    Args:
        picture: (height, width, 3) uint8 RGB.
        scores: (rows, columns) float32 of the patches of what the model saw.
        frame: where that lies; for the picture at any size. What lies outside is drawn dark.
        low, high: the scores of the darkest and the lightest colour.
        marks: (row, column) of patches to outline, such as register-like tokens.
        smooth: interpolate between patches; otherwise show each as a square.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    here = frame.scaled((picture.shape[0], picture.shape[1]))
    heat = here.spread(scores, "bilinear" if smooth else "nearest")
    span = high - low
    colours = coloured((heat - low) / span if span > 0 else np.where(np.isnan(heat), np.nan, 0.0))
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    lit = 1 - _RELIEF + _RELIEF * grey[..., None] / 255
    # h c (1 - r + r g) + (1 - h) g: colour c and grey g, h = _HEAT, r = _RELIEF
    blend = _HEAT * lit * colours + (1 - _HEAT) * grey[..., None]
    out = np.where(np.isnan(heat)[..., None], _UNSEEN * picture, blend)
    image = Image.fromarray(np.rint(out).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    rows, columns = scores.shape
    for row, column in marks:
        box = (*here.place(row / rows, column / columns), *here.place((row + 1) / rows, (column + 1) / columns))
        draw.rectangle(box, outline=_PAPER, width=1)
    return np.asarray(image)


def sheet(
    picture: Uint8s,
    rows: Sequence[Sequence[MapPanel]],
    frame: Frame,
    *,
    caption: str = "",
    names: Sequence[str] = (),
    strips: Sequence[WordStrip] = (),
    marks: Sequence[tuple[int, int]] = (),
    smooth: bool = True,
) -> Image.Image:
    """The picture and, beside it, rows of panels: several texts, or heads x texts.

    Args:
        picture: (height, width, 3) uint8 RGB, as displayed.
        rows: panels; every row as long as the first. The picture and the titles stand in every row.
        frame: where what the model saw lies in the picture, see `overlaid`, as are marks and smooth.
        caption: lines below everything.
        names: what each row is (a head), written at its left.
        strips: lines of words below the panels.

    Returns:
        An RGB image, as large as the panels need.
    """
    height, width = picture.shape[:2]
    cell = max(width, 150)
    title = max(len(wrapped(panel.title, cell)) for panel in rows[0]) * (_TEXT + 4)
    margin = max((text_width(name) for name in names), default=0) + (_GAP if names else 0)
    across, step = len(rows[0]) + 1, title + (_TEXT + 5) + height + (_BAR + 2 * _TEXT + 5) + _GAP // 2
    across_all = margin + across * (cell + _GAP) + _GAP
    below = [line for part in caption.split("\n") for line in wrapped(part, across_all - 2 * _GAP)]
    boxes = [_boxes(strip, across_all - 2 * _GAP) for strip in strips]
    foot = _GAP + len(rows) * step + sum(map(_height, boxes))
    out = Image.new("RGB", (across_all, foot + len(below) * (_TEXT + 4) + _GAP // 2), _PAPER)
    draw = ImageDraw.Draw(out)
    for number, row in enumerate(rows):
        top = _GAP + number * step
        y = top + title + _TEXT + 5
        if names:
            draw_text(draw, (_GAP, y + height // 2), names[number], _INK, "lm")
        out.paste(Image.fromarray(picture), (margin + _GAP, y))
        for column, panel in enumerate(row, 1):
            at = (margin + _GAP + column * (cell + _GAP), y)
            for line, words in enumerate(wrapped(panel.title, cell)):
                draw_text(draw, (at[0], top + line * (_TEXT + 4)), words, _INK)
            out.paste(_with_scale(panel, picture, frame, marks, smooth), (at[0], y - _TEXT - 5))
    y = _GAP + len(rows) * step
    for strip, places in zip(strips, boxes, strict=True):
        _draw_strip(draw, strip, places, y)
        y += _height(places)
    for line, words in enumerate(below):
        draw_text(draw, (_GAP, foot + line * (_TEXT + 4)), words, _FAINT)
    return out


def _boxes(strip: WordStrip, width: int) -> list[tuple[int, int, int]]:
    """Of each word the left edge, the width and the line of its box, in lines of at most `width` pixels."""
    places: list[tuple[int, int, int]] = []
    x = line = 0
    for word, value in zip(strip.words, strip.values, strict=True):
        wide = max(text_width(word), text_width(_number(value))) + _BOX
        if x and x + wide > width:
            x, line = 0, line + 1
        places.append((x, wide, line))
        x += wide + 3
    return places


def _height(places: Sequence[tuple[int, int, int]]) -> int:
    return (places[-1][2] + 1) * _LINE + _GAP // 2 if places else 0


def _draw_strip(draw: ImageDraw.ImageDraw, strip: WordStrip, places: Sequence[tuple[int, int, int]], y: int) -> None:
    values = np.array(strip.values)
    span = values.max() - values.min() if len(values) else 0.0
    colours = coloured((values - values.min()) / span if span > 0 else np.zeros(len(values)))
    for word, value, colour, (x, wide, line) in zip(strip.words, strip.values, colours, places, strict=True):
        left, top = _GAP + x, y + line * _LINE
        draw.rectangle((left, top, left + wide, top + _TEXT + 5), fill=tuple(colour.tolist()))
        ink = _INK if colour @ np.array([0.299, 0.587, 0.114]) > 128 else _PAPER
        draw_text(draw, (left + wide // 2, top + 2), word, ink, "ma")
        draw_text(draw, (left + wide // 2, top + _TEXT + 7), _number(value), _FAINT, "ma")


def _number(value: float) -> str:
    return f"{value:.3f}"


def _with_scale(
    panel: MapPanel, picture: Uint8s, frame: Frame, marks: Sequence[tuple[int, int]], smooth: bool
) -> Image.Image:
    """A panel's note, its map, and below the colours with the numbers that they stand for, zero among them."""
    height, width = picture.shape[:2]
    out = Image.new("RGB", (max(width, 150), _TEXT + 5 + height + _BAR + 2 * _TEXT + 5), _PAPER)
    draw = ImageDraw.Draw(out)
    for line, words in enumerate(wrapped(panel.note, out.width, 1)):
        draw_text(draw, (0, line * (_TEXT + 4)), words, _FAINT)
    top = _TEXT + 5
    if not panel.seen:
        out.paste(Image.fromarray(_dimmed(picture)), (0, top))
        return out
    heat = overlaid(picture, panel.scores, frame, low=panel.low, high=panel.high, marks=marks, smooth=smooth)
    out.paste(Image.fromarray(heat), (0, top))
    bar = np.repeat(coloured(np.linspace(0, 1, width))[None], _BAR, axis=0)
    out.paste(Image.fromarray(bar), (0, top + height + 3))
    below = top + height + _BAR + 5
    draw_text(draw, (0, below), f"{panel.low:.3g}", _FAINT)
    draw_text(draw, (out.width if width < 150 else width, below), f"{panel.high:.3g}", _FAINT, "ra")
    if panel.low < 0 < panel.high:
        x = round(-panel.low / (panel.high - panel.low) * (width - 1))
        draw.line((x, top + height + 1, x, below + 1), fill=_INK, width=2)
        draw_text(draw, (min(max(x, 3), width - 4), below + _TEXT), "0", _INK, "ma")
    return out


def _dimmed(picture: Uint8s) -> Uint8s:
    """A picture in grey, as dark as the part of one that the model did not see."""
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(np.rint(_UNSEEN * grey)[..., None], 3, axis=2).astype(np.uint8)
