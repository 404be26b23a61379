"""Heat maps drawn over pictures: single maps, and sheets of panels with titles and scales. Pure pixels, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipaudit.arrays import Float32s, Uint8s
from clipaudit.localize.colours import coloured
from clipaudit.localize.frames import Frame

_HEAT, _RELIEF = 0.82, 0.5
"""Share of the heat's colour, the rest is the picture in grey; and how much darker the colour is where that is black.
Mixing alone would wash the colours out on bright pictures."""
_UNSEEN = 0.35
"""Brightness of what the model did not see."""
_GAP, _TEXT, _BAR = 10, 13, 8
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
        rows: panels; every row as long as the first, whose titles stand above.
        frame: where what the model saw lies in the picture, see `overlaid`, as are marks and smooth.
        caption: lines below everything.
        names: what each row is (a head), written at its left.
        strips: lines of words below the panels.

    Returns:
        An RGB image, as large as the panels need.
    """
    height, width = picture.shape[:2]
    cell = max(width, 150)
    title = max(len(_wrapped(panel.title, cell)) for panel in rows[0]) * (_TEXT + 4)
    margin = max((_width(name) for name in names), default=0) + (_GAP if names else 0)
    across, step = len(rows[0]) + 1, (_TEXT + 5) + height + (_BAR + _TEXT + 8) + _GAP // 2
    across_all = margin + across * (cell + _GAP) + _GAP
    below = [line for part in caption.split("\n") for line in _wrapped(part, across_all - 2 * _GAP)]
    boxes = [_boxes(strip, across_all - 2 * _GAP) for strip in strips]
    foot = _GAP + title + len(rows) * step + sum(map(_height, boxes))
    total = (across_all, foot + len(below) * (_TEXT + 4) + _GAP // 2)
    out = Image.new("RGB", total, _PAPER)
    draw = ImageDraw.Draw(out)
    for number, row in enumerate(rows):
        y = _GAP + title + number * step + _TEXT + 5
        if names:
            draw.text((_GAP, y + height // 2), names[number], fill=_INK, font=_font(), anchor="lm")
        if number == 0:
            out.paste(Image.fromarray(picture), (margin + _GAP, y))
        for column, panel in enumerate(row, 1):
            at = (margin + _GAP + column * (cell + _GAP), y)
            for line, words in enumerate(_wrapped(panel.title, cell) if number == 0 else []):
                draw.text((at[0], _GAP + line * (_TEXT + 4)), words, fill=_INK, font=_font())
            out.paste(_with_scale(panel, picture, frame, marks, smooth), (at[0], y - _TEXT - 5))
    y = _GAP + title + len(rows) * step
    for strip, places in zip(strips, boxes, strict=True):
        _draw_strip(draw, strip, places, y)
        y += _height(places)
    for line, words in enumerate(below):
        draw.text((_GAP, foot + line * (_TEXT + 4)), words, fill=_FAINT, font=_font())
    return out


def _boxes(strip: WordStrip, width: int) -> list[tuple[int, int, int]]:
    """Of each word the left edge, the width and the line of its box, in lines of at most `width` pixels."""
    places: list[tuple[int, int, int]] = []
    x = line = 0
    for word, value in zip(strip.words, strip.values, strict=True):
        wide = max(_width(word), _width(_number(value))) + _BOX
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
        draw.text((left + wide // 2, top + 2), word, fill=ink, font=_font(), anchor="ma")
        draw.text((left + wide // 2, top + _TEXT + 7), _number(value), fill=_FAINT, font=_font(), anchor="ma")


def _number(value: float) -> str:
    return f"{value:.3f}"


def _with_scale(
    panel: MapPanel, picture: Uint8s, frame: Frame, marks: Sequence[tuple[int, int]], smooth: bool
) -> Image.Image:
    """A panel's note, its map, and below the colours with the numbers that they stand for."""
    height, width = picture.shape[:2]
    heat = overlaid(picture, panel.scores, frame, low=panel.low, high=panel.high, marks=marks, smooth=smooth)
    out = Image.new("RGB", (max(width, 150), _TEXT + 5 + height + _BAR + _TEXT + 8), _PAPER)
    draw = ImageDraw.Draw(out)
    draw.text((0, 0), panel.note, fill=_FAINT, font=_font())
    top = _TEXT + 5
    out.paste(Image.fromarray(heat), (0, top))
    bar = np.repeat(coloured(np.linspace(0, 1, width))[None], _BAR, axis=0)
    out.paste(Image.fromarray(bar), (0, top + height + 3))
    below = top + height + _BAR + 5
    draw.text((0, below), f"{panel.low:.3g}", fill=_FAINT, font=_font())
    draw.text((out.width if width < 150 else width, below), f"{panel.high:.3g}", fill=_FAINT, font=_font(), anchor="ra")
    return out


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)


def _width(text: str) -> int:
    return round(_font().getlength(text))


def _wrapped(text: str, width: int, max_lines: int = 3) -> list[str]:
    """The text in at most `max_lines` lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split() or [""]:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    wrapped = [_cut(line, width) for line in lines[:max_lines]]
    if len(lines) > max_lines:
        wrapped[-1] = _cut(f"{wrapped[-1]} ...", width)
    return wrapped


def _cut(line: str, width: int) -> str:
    while line and _width(line) > width:
        line = f"{line[:-2]}…" if line.endswith("…") else f"{line[:-1]}…"
    return line
