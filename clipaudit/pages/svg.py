"""SVG as safe markup, in pages and as files: elements whose texts are escaped, linear scales and round tick marks."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import Markup, escape

from clipaudit.pages.html import without_forbidden

Content: TypeAlias = "Markup | str"
Value: TypeAlias = "str | float | None"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear map from data to pixels (or percent), clamped to its ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        span = self.high - self.low
        share = 0.5 if span == 0 else (value - self.low) / span
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def tag(name: str, *content: Content, **attributes: Value) -> Markup:
    """One element; `class_` and `stroke_width` become `class` and `stroke-width`, None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(part) for part in content)
    return Markup(f"<{name}{written}>{inner}</{name}>")  # noqa: S704 - every part is escaped above


def join(parts: Sequence[Markup]) -> Markup:
    """Elements one after the other."""
    return Markup("").join(parts)


def drawing(width: float, height: float, title: str, *content: Markup, role: str | None = "img") -> Markup:
    """An image that is read aloud as its title and grows with the page up to 1.4 times its size.

    With links inside it has no role: the parts of an `img` cannot be reached.
    """
    return tag(
        "svg",
        tag("title", title),
        *content,
        class_="plot",
        role=role,
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        style=f"max-width:{_number(1.4 * width)}px",
    )


def svg_file(width: float, height: float, title: str, style: str, *content: Markup) -> bytes:
    """A file of its own, UTF-8: `style` is CSS for the elements' classes, `title` is read aloud."""
    image = tag(
        "svg",
        tag("title", title),
        tag("style", Markup(style)),  # noqa: S704 - CSS of the caller, no text from outside
        tag("rect", width="100%", height="100%", fill="#fff"),
        *content,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        width=width,
        height=height,
        viewBox=f"0 0 {_number(width)} {_number(height)}",
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{without_forbidden(image)}\n'.encode()


def text(x: float, y: float, content: str, kind: str = "", anchor: str | None = None, **more: Value) -> Markup:
    """A label; `anchor` is start, middle or end."""
    return tag("text", content, x=x, y=y, class_=kind or None, text_anchor=anchor, **more)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a CSS class."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def polygon(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A closed shape of a CSS class."""
    return tag("polygon", points=" ".join(f"{_number(x)},{_number(y)}" for x, y in points), class_=kind)


def polyline(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """An open line of a CSS class."""
    return tag("polyline", points=" ".join(f"{_number(x)},{_number(y)}" for x, y in points), class_=kind)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    if not math.isfinite(high - low) or high <= low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * number, 10) + 0.0 for number in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's number with a true minus sign and no needless zeros."""
    digits = f"{value:.10g}"
    return digits.replace("-", "−")


def text_width(words: str, size: float) -> float:
    """About how wide a text is, in pixels, in a sans-serif font of `size` pixels; East Asian letters are square."""
    return size * sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.56 for letter in words)


def cut_text(words: str, width: float, size: float) -> str:
    """A text, its end replaced by `…` where it would be wider than `width` pixels."""
    if text_width(words, size) <= width:
        return words
    while words and text_width(words, size) + size > width:
        words = words[:-1]
    return f"{words.rstrip()}…"


def _number(value: Value) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".") if value is not None else ""
