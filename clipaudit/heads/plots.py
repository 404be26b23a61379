"""Figures of ablations and studies as SVG files: bars, lines and a map of heads; the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup

from clipaudit.heads.experiment import Ablation
from clipaudit.heads.studies import Point, Study
from clipaudit.pages.svg import (
    Scale,
    cut_text,
    join,
    line,
    polygon,
    polyline,
    svg_file,
    tag,
    text,
    text_width,
    tick_text,
    ticks,
)
from clipaudit.schema import parse_head_label
from clipaudit.statistics import Proportion

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind readers can tell apart; each series also has its own marker."""
_DIVERGING: Final = ("#7f3b08", "#e08214", "#fee0b6", "#f7f7f7", "#d8daeb", "#8073ac", "#2d004b")
"""ColorBrewer's PuOr: orange for less, purple for more, likewise told apart."""
_FONT: Final = 12.0
_WIDTH: Final = 680.0
_MAX_NAMES: Final = 240.0
"""Widest column of names, in pixels."""
_MAX_BARS: Final = 40
_STYLE: Final = (
    f"text {{ font-family: sans-serif; font-size: {_FONT:g}px; fill: #222; }} .dim {{ fill: #595959; }}"
    " .axis { stroke: #595959; } .grid { stroke: #e2e2e2; } .base { stroke: #595959; stroke-dasharray: 5 4; }"
    " .interval { stroke: #222; stroke-width: 1.3; } .cell { stroke: #fff; } .cell-number { font-size: 10px; }"
    " .light { fill: #fff; } .line { fill: none; stroke-width: 1.8; } .band { opacity: .15; stroke: none; }"
    + "".join(f" .s{n} {{ fill: {colour}; stroke: {colour}; }}" for n, colour in enumerate(COLOURS))
    + " .line { fill: none; }"
)


@dataclass(frozen=True, kw_only=True)
class _BarRow:
    """A name with one bar for each series."""

    name: str
    bars: tuple[Proportion, ...]


def ablation_figure(ablation: Ablation) -> bytes:
    """Accuracy of every group, or class, before and after, as an SVG file: of many, the 40 that change most."""
    names = ablation.question.names.names
    if ablation.base.groups:
        keys = [f"{names[row]}, {value}" for row, value in ablation.base.groups]
        pairs = list(zip(ablation.base.groups.values(), ablation.ablated.groups.values(), strict=True))
    else:
        keys, pairs = list(names), list(zip(ablation.base.by_class, ablation.ablated.by_class, strict=True))
    with_rows = [n for n, (base, _) in enumerate(pairs) if base.total]
    by_change = sorted(with_rows, key=lambda n: -abs(pairs[n][1].value - pairs[n][0].value))
    rows = [_BarRow(name="all rows", bars=(ablation.base.accuracy, ablation.ablated.accuracy))]
    rows += [_BarRow(name=keys[n], bars=pairs[n]) for n in sorted(by_change[:_MAX_BARS])]
    return _bars(rows, ("as it is", "ablated"))


def study_figure(study: Study) -> bytes:
    """A study's figure as an SVG file: bars, lines or a map, as the study needs."""
    if study.name == "components":
        return _bars([_BarRow(name=point.name, bars=(point.accuracy,)) for point in study.points], ())
    if study.name == "heads":
        return _head_map(study)
    return _lines(study)


# -- bars --------------------------------------------------------------------------------------------------------------


def _bars(rows: Sequence[_BarRow], series: Sequence[str]) -> bytes:
    """Accuracies in percent as horizontal bars with 95 % intervals, the numbers at their right."""
    names = [cut_text(row.name, _MAX_NAMES, _FONT) for row in rows]
    top, thick = (34.0, 9.0) if series else (12.0, 14.0)
    step = thick * max(len(series), 1) + 10
    left = 24 + max(text_width(name, _FONT) for name in names)
    numbers = [" → ".join(f"{100 * bar.value:.1f}" for bar in row.bars) for row in rows]
    x = Scale(low=0, high=100, start=left, end=_WIDTH - 24 - max(text_width(words, _FONT) for words in numbers))
    bottom = top + step * len(rows)
    parts = [_x_axis(x, bottom, top, "accuracy, % (95 % interval)"), _legend(series, left)]
    for place, (row, name, words) in enumerate(zip(rows, names, numbers, strict=True)):
        y = top + step * place + 5
        middle = y + (step - 10) / 2 + 4
        whole = [] if name == row.name else [tag("title", row.name)]
        parts.append(tag("text", *whole, name, x=left - 8, y=middle, text_anchor="end"))
        parts += [_bar(x, bar, y + thick * n, thick, n) for n, bar in enumerate(row.bars)]
        parts.append(text(_WIDTH - 12, middle, words, "dim", "end"))
    return svg_file(_WIDTH, bottom + 44, "Accuracy with 95 % intervals", _STYLE, *parts)


def _bar(x: Scale, bar: Proportion, y: float, thick: float, series: int) -> Markup:
    low, high = (x(100 * limit) for limit in bar.interval())
    middle = y + thick / 2
    return join([
        tag("rect", x=x(0), y=y, width=x(100 * bar.value) - x(0), height=thick - 1, class_=f"s{series}"),
        line(low, middle, high, middle, "interval"),
        *(line(end, middle - 3, end, middle + 3, "interval") for end in (low, high)),
    ])  # fmt: skip


# -- a map of heads ----------------------------------------------------------------------------------------------------


def _head_map(study: Study) -> bytes:
    """Change of accuracy when one head is ablated, by layer (down) and head (across), in points."""
    places = [parse_head_label(point.name) for point in study.points[1:]]
    layers = sorted({layer for layer, _ in places})
    heads = range(1 + max(head for _, head in places))
    changes = [100 * (point.accuracy.value - study.base.accuracy.value) for point in study.points[1:]]
    limit = max(*map(abs, changes), 0.1)
    wide, high, left, top = 42.0, 26.0, 48.0, 14.0
    bottom, right = top + high * len(layers), left + wide * len(heads)
    caption = "accuracy when the head is ablated, change in points"
    parts = [
        *(text(left - 8, top + high * (n + 0.5) + 4, f"L{layer:02d}", anchor="end") for n, layer in enumerate(layers)),
        *(text(left + wide * (head + 0.5), bottom + 16, str(head), "dim", "middle") for head in heads),
        text((left + right) / 2, bottom + 34, "head", "dim", "middle"),
        text(12, bottom + 56, caption),
    ]
    for (layer, head), change, point in zip(places, changes, study.points[1:], strict=True):
        x, y = left + wide * head, top + high * layers.index(layer)
        name = tag("title", f"{point.name}: {_signed(change)} points")
        parts.append(tag("rect", name, x=x, y=y, width=wide, height=high, fill=_colour(change / limit), class_="cell"))
        kind = "cell-number light" if abs(change) > 0.6 * limit else "cell-number"
        parts.append(text(x + wide / 2, y + high / 2 + 4, _signed(change), kind, "middle"))
    width = max(right + 16, 24 + text_width(caption, _FONT))
    return svg_file(width, bottom + 70, f"Heads: {caption}", _STYLE, *parts)


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")  # adding 0.0 makes -0.0 positive


def _colour(share: float) -> str:
    """-1..1 -> a colour of `_DIVERGING`, between whose entries it is linear in sRGB."""
    anchors = np.array([[int(code[at : at + 2], 16) for at in (1, 3, 5)] for code in _DIVERGING])
    place = (share + 1) / 2 * (len(anchors) - 1)
    red, green, blue = (round(float(np.interp(place, range(len(anchors)), anchors[:, n]))) for n in range(3))
    return f"#{red:02x}{green:02x}{blue:02x}"


# -- lines -------------------------------------------------------------------------------------------------------------


def _lines(study: Study) -> bytes:
    """Accuracy along x, a line a series, with the range over seeds, or the interval where there is one seed."""
    left, top, bottom = 56.0, 52.0, 332.0
    names = list(dict.fromkeys(point.series for point in study.points if point.series and point.x is not None))
    curves = {name: _curve(study.points, name) for name in names}
    base = 100 * study.base.accuracy.value
    ys = [y for curve in curves.values() for _, *span in curve for y in span] + [base]
    xs = [at for curve in curves.values() for at, *_ in curve] + [0.0]
    room = 0.06 * (max(ys) - min(ys)) or 1.0
    x = Scale(low=min(xs), high=max(xs), start=left, end=_WIDTH - 16)
    y = Scale(low=max(min(ys) - room, 0), high=min(max(ys) + room, 100), start=bottom, end=top)
    what = "texts a head" if study.name == "texts" else "attention layers replaced"
    parts = [_x_axis(x, bottom, None, what), _y_axis(y, left, x.end), _legend(names, left)]
    parts.append(line(left, y(base), x.end, y(base), "base"))
    parts.append(text(x.end, y(base) - 5, "nothing replaced", "dim", "end"))
    for n, curve in enumerate(curves.values()):
        lows, highs = [(x(at), y(low)) for at, low, _, _ in curve], [(x(at), y(high)) for at, _, _, high in curve]
        middles = [(x(at), y(middle)) for at, _, middle, _ in curve]
        parts += [polygon([*lows, *highs[::-1]], f"s{n} band"), polyline(middles, f"s{n} line")]
        parts += [_marker(n, *place) for place in middles]
    return svg_file(_WIDTH, bottom + 44, f"Accuracy by {what}", _STYLE, *parts)


def _curve(points: Sequence[Point], series: str) -> list[tuple[float, float, float, float]]:
    """(x, low, middle, high) of a series, in percent: mean and range over seeds; of one, its share and interval."""
    by_x: dict[float, list[Proportion]] = {}
    for point in points:
        if point.series == series and point.x is not None:
            by_x.setdefault(point.x, []).append(point.accuracy)
    curve = []
    for at, accuracies in sorted(by_x.items()):
        values = [100 * accuracy.value for accuracy in accuracies]
        low, high = (min(values), max(values)) if len(values) > 1 else (100 * v for v in accuracies[0].interval())
        curve.append((at, low, float(np.mean(values)), high))
    return curve


# -- axes --------------------------------------------------------------------------------------------------------------


def _x_axis(x: Scale, bottom: float, top: float | None, words: str) -> Markup:
    """The axis below a plot, with grid lines up to `top` where that is given."""
    parts = [line(x.start, bottom, x.end, bottom, "axis")]
    for value in ticks(x.low, x.high, 6):
        parts += [line(x(value), top, x(value), bottom, "grid")] if top is not None else []
        parts.append(text(x(value), bottom + 16, tick_text(value), "dim", "middle"))
    return join([*parts, text((x.start + x.end) / 2, bottom + 34, words, "dim", "middle")])


def _y_axis(y: Scale, left: float, right: float) -> Markup:
    parts = []
    for value in ticks(y.low, y.high, 6):
        parts += [
            line(left, y(value), right, y(value), "grid"),
            text(left - 8, y(value) + 4, tick_text(value), "dim", "end"),
        ]
    return join([*parts, text(12, y.end - 10, "accuracy, %", "dim")])


def _legend(series: Sequence[str], left: float) -> Markup:
    """Names with their markers, in a line above a plot."""
    parts = []
    for n, name in enumerate(series):
        parts += [_marker(n, left + 6, 14), text(left + 16, 18, name)]
        left += 40 + text_width(name, _FONT)
    return join(parts)


def _marker(series: int, x: float, y: float, r: float = 4) -> Markup:
    """A shape of each series' own, so that none hangs on colour alone."""
    match series % 4:
        case 0:
            return tag("circle", cx=x, cy=y, r=r, class_=f"s{series}")
        case 1:
            return tag("rect", x=x - r, y=y - r, width=2 * r, height=2 * r, class_=f"s{series}")
        case 2:
            return polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], f"s{series}")
        case _:
            return polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], f"s{series}")
