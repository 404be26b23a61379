"""Text on pictures: measured, broken into lines, and drawn in a font that has its letters, or in Latin ones."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Final

from PIL import ImageDraw, ImageFont

TEXT_PIXELS: Final = 13
"""Height of the letters."""
_FONTS: Final = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
)
"""Fonts of the system that are looked for, the first that has all letters of a text is taken."""
_NO_CHARACTER: Final = "\U000f1234"
"""Of a private plane: every font draws its box for it."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, fill: tuple[int, int, int], anchor: str = "la"
) -> None:
    """Draw one line at (x, y) pixels; letters that no font here has become Latin ones, or question marks."""
    words, font = _lettered(text)
    draw.text(at, words, fill=fill, font=font, anchor=anchor)


def text_width(text: str) -> int:
    """Pixels that one line takes."""
    words, font = _lettered(text)
    return round(font.getlength(words))


def is_drawable(text: str) -> bool:
    """Whether a font here has all letters of a text."""
    return _lettered(text)[0] == text


def wrapped(text: str, width: int, max_lines: int = 3) -> list[str]:
    """The text in at most `max_lines` lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split() or [""]:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    result = [_cut(line, width) for line in lines[:max_lines]]
    if len(lines) > max_lines:
        result[-1] = _cut(f"{result[-1]} ...", width)
    return result


def _cut(line: str, width: int) -> str:
    while line and text_width(line) > width:
        line = f"{line[:-2]}…" if line.endswith("…") else f"{line[:-1]}…"
    return line


@cache
def _lettered(text: str) -> tuple[str, Font]:
    """The text as it can be drawn, and the font for it."""
    own = _own_font()
    if _has(own, text):
        return text, own
    for name in _FONTS:
        font = _system_font(name)
        if font is not None and _has(font, text):
            return text, font
    # accents fall off their letters; what has no Latin letter in it becomes a question mark
    latin = unicodedata.normalize("NFKD", text)
    spelled = "".join(
        each if _has(own, each) else "?" for each in latin if not unicodedata.combining(each) or _has(own, each)
    )
    return spelled, own


@cache
def _has(font: Font, text: str) -> bool:
    missing = bytes(font.getmask(_NO_CHARACTER))
    return all(each.isspace() or bytes(font.getmask(each)) != missing for each in set(text))


@cache
def _own_font() -> Font:
    return ImageFont.load_default(TEXT_PIXELS)


@cache
def _system_font(name: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, TEXT_PIXELS)
    except OSError:
        return None
