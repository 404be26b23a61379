"""The report's figures as inline SVG: the map, distributions, dose-response, control histogram and interval rows.

Colours are CSS classes of the page, so that figures follow dark mode and print; whatever colour says, a shape, a
number or a word says too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from markupsafe import Markup

from clipaudit.cues.report.words import SHORT, slug
from clipaudit.cues.result.finding_parts import Estimate, Verdict
from clipaudit.pages.svg import Scale, drawing, join, line, polygon, polyline, tag, text, tick_text, ticks

Place: TypeAlias = tuple[float, float]

WIDTH: Final = 340
_LEFT, _RIGHT, _TOP = 44, 8, 14
_RADIUS: Final = 9.0
_MAX_MOVES: Final = 64
"""Steps of half a mark by which a mark may be moved."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One finding on the map, or a tested cue that is none."""

    number: int | None
    """The finding's rank; None for a cue that is no finding."""
    name: str
    verdict: Verdict | None
    anchor: str
    strength: Estimate
    """D, -1..1; its size is shown."""
    effect: Estimate | None
    """delta_conflict, -1..1; None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line with an interval at each x, or a histogram's heights at its bins."""

    name: str
    kind: str
    """CSS class: `one`, `two`, `three`; each has its own dash and marker too."""
    ys: Sequence[float]
    lows: Sequence[float | None] = ()
    highs: Sequence[float | None] = ()


# -- the 2 x 2 map ---------------------------------------------------------------------------------------------------


def cue_map(marks: Sequence[Mark], delta: float, margin: float) -> Markup:
    """Association in the data against reliance of the model, with the four fields named; they meet at the least D and
    the least gap (0..1) that count."""
    effects = [100 * value for mark in marks if mark.effect for value in _values(mark.effect)]
    unknown = any(_centre(mark.effect) is None for mark in marks)
    bottom = 300.0
    x = Scale(low=0, high=1, start=_LEFT, end=WIDTH - _RIGHT)
    y = Scale(low=min([-4.0, *(1.12 * e for e in effects)]), high=max([160 * margin, *(1.12 * e for e in effects)]),
              start=bottom, end=_TOP)  # fmt: skip
    parts = [_fields(x, y, delta, 100 * margin), *_map_axes(x, y, bottom)]
    if unknown:
        parts.append(tag("rect", x=_LEFT, y=bottom + 36, width=WIDTH - _LEFT - _RIGHT, height=30, class_="strip"))
        parts.append(text(x.end, bottom + 78, "reliance not measured", "label", "end"))
    taken: list[Place] = []
    ordered = sorted(marks, key=lambda mark: (mark.number is not None, mark.number or 0))
    placed = [_placed(mark, x, y, bottom + 51, taken) for mark in ordered]
    parts += [lines for lines, _ in placed] + [marker for _, marker in placed]  # no line over a number
    title = "Map of findings: how strongly each cue goes with its class, against how much the model relies on it. "
    named = "; ".join(f"{mark.number}: {mark.name}" for mark in marks if mark.number is not None)
    return drawing(WIDTH, bottom + (84 if unknown else 34), title + named, *parts, role=None)


def _placed(mark: Mark, x: Scale, y: Scale, strip: float, taken: list[Place]) -> tuple[Markup, Markup]:
    """A mark's intervals, and the mark itself, moved aside where it would cover another; `taken` grows."""
    effect = _centre(mark.effect)
    place = (x(abs(mark.strength.value or 0.0)), strip if effect is None else y(100 * effect))
    if mark.number is None:
        return tag("circle", tag("title", mark.name), cx=place[0], cy=place[1], r=2.5, class_="tested"), Markup()
    position = _free(place, taken, x, None if effect is None else y)
    taken.append(position)
    leader = line(*place, *position, "leader") if position != place else Markup()
    return join([_whiskers(mark, x, y, place), leader]), _marker(mark, position)


def _fields(x: Scale, y: Scale, delta: float, margin: float) -> Markup:
    middle, edge, end = x(delta), y(margin), x.end
    fields = (
        # names stand on the left of their fields: findings lie far to the right
        ("alarm", middle, y.end, end, edge, "data and model: a shortcut"),
        ("caution", x.start, y.end, middle, edge, "model only"),
        ("calm", middle, edge, end, y.start, "data only: not learned"),
        ("quiet", x.start, edge, middle, y.start, "neither"),
    )
    parts = []
    for kind, left, top, right, low, words in fields:
        parts.append(tag("rect", x=left, y=top, width=right - left, height=low - top, class_=f"field {kind}"))
        pieces = words.split() if right - left < 7 * len(words) else [words]
        first = top + 14 if top == y.end else low - 6 - 12 * (len(pieces) - 1)
        parts += [text(left + 6, first + 12 * row, piece, "fieldname") for row, piece in enumerate(pieces)]
    return join(parts)


def _map_axes(x: Scale, y: Scale, bottom: float) -> list[Markup]:
    parts = [line(_LEFT, bottom, x.end, bottom, "axis"), line(_LEFT, _TOP, _LEFT, bottom, "axis")]
    parts += [text(x(value), bottom + 14, tick_text(value), "tick", "middle") for value in ticks(0, 1, 5)]
    for value in ticks(y.low, y.high, 5):
        parts += [
            line(_LEFT - 3, y(value), _LEFT, y(value), "axis"),
            text(_LEFT - 6, y(value) + 4, tick_text(value), "tick", "end"),
        ]
    parts.append(text(x.end, bottom + 28, "tie between cue and class in the data, |D| →", "label", "end"))
    side = text(0, 0, "model relies on it, points →", "label", "end", transform=f"translate(11 {_TOP}) rotate(-90)")
    return [*parts, side]


def _whiskers(mark: Mark, x: Scale, y: Scale, place: Place) -> Markup:
    parts = []
    across, up = mark.strength, mark.effect
    if across.low is not None and across.high is not None:
        low, high = sorted((abs(across.low), abs(across.high)))
        ends = (low if across.low * across.high > 0 else 0.0, high)
        parts.append(line(x(ends[0]), place[1], x(ends[1]), place[1], "whisker"))
    if up is not None and up.low is not None and up.high is not None:
        parts.append(line(place[0], y(100 * up.low), place[0], y(100 * up.high), "whisker"))
    return join(parts)


def _free(place: Place, taken: Sequence[Place], x: Scale, rows: Scale | None) -> Place:
    """The nearest place in the drawing, in steps of half a mark, where a mark covers no other.

    `rows` is the vertical extent; None for the strip, in which marks stay on one line.
    """
    step = _RADIUS / 2
    reach = range(-_MAX_MOVES, _MAX_MOVES + 1)
    shifts = sorted(((step * dx, step * dy) for dx in reach for dy in (reach if rows else (0,))), key=_by_distance)
    for dx, dy in shifts:
        candidate = (place[0] + dx, place[1] + dy)
        inside = x.start + _RADIUS <= candidate[0] <= x.end - _RADIUS and (
            rows is None or rows.end + _RADIUS <= candidate[1] <= rows.start - _RADIUS
        )
        if inside and all(math.dist(candidate, other) > 2.2 * _RADIUS for other in taken):
            return candidate
    return place


def _by_distance(shift: Place) -> tuple[float, float, float]:
    return round(math.hypot(*shift), 6), shift[0], shift[1]


def _marker(mark: Mark, place: Place) -> Markup:
    x, y = place
    number = text(x, y + 3.6, str(mark.number), "number", "middle")
    title = tag("title", f"{mark.number}: {mark.name}" + (f", {SHORT[mark.verdict]}" if mark.verdict else ""))
    kind = "" if mark.verdict is None else slug(mark.verdict)
    return tag("a", title, shape(mark.verdict, x, y, _RADIUS), number, href=f"#{mark.anchor}", class_=f"mark {kind}")


def shape(verdict: Verdict | None, x: float, y: float, r: float) -> Markup:
    """A shape for each verdict, so that no meaning hangs on colour alone."""
    match verdict:
        case Verdict.CONFIRMED:
            return tag("rect", x=x - r, y=y - r, width=2 * r, height=2 * r, rx=2, class_="shape")
        case Verdict.MODEL_ONLY:
            s = 1.25 * r
            return polygon([(x, y - s), (x + s, y), (x, y + s), (x - s, y)], "shape")
        case Verdict.DATA_ONLY:
            s = 1.15 * r
            return polygon([(x - s / 2, y - s), (x + s / 2, y - s), (x + s, y), (x + s / 2, y + s), (x - s / 2, y + s),
                            (x - s, y)], "shape")  # fmt: skip
        case Verdict.FAILS_WHERE | Verdict.NEEDED:
            return polygon([(x, y - 1.3 * r), (x + 1.25 * r, y + r), (x - 1.25 * r, y + r)], "shape")
        case _:
            return tag("circle", cx=x, cy=y, r=r, class_="shape")


def icon(verdict: Verdict) -> Markup:
    """The verdict's shape beside a word."""
    return tag("svg", shape(verdict, 8, 8, 5), class_=f"icon {slug(verdict)}", viewBox="0 0 16 16", aria_hidden="true")


# -- figures of a card -----------------------------------------------------------------------------------------------


def distributions(edges: Sequence[float], curves: Sequence[Curve], axis: str) -> Markup:
    """Histograms over one another as outlines, scaled to the same area; `edges` has one more entry than each curve."""
    top, bottom, height = 40.0, 150.0, 186.0
    x = Scale(low=edges[0], high=edges[-1], start=12, end=WIDTH - 12)
    highest = max([1e-12, *(value for curve in curves for value in curve.ys)])
    y = Scale(low=0, high=highest, start=bottom, end=top)
    parts = []
    for curve in curves:
        outline = [(x(edges[0]), bottom)]
        for left, right, value in zip(edges[:-1], edges[1:], curve.ys, strict=True):
            outline += [(x(left), y(value)), (x(right), y(value))]
        outline.append((x(edges[-1]), bottom))
        parts += [polygon(outline, f"area {curve.kind}"), polyline(outline, f"curve {curve.kind}")]
    parts += [_legend(curves), line(12, bottom, WIDTH - 12, bottom, "axis")]
    parts += [text(x(value), bottom + 14, tick_text(value), "tick", "middle") for value in ticks(x.low, x.high, 5)]
    parts.append(text(WIDTH - 12, bottom + 30, axis, "label", "end"))
    return drawing(WIDTH, height, f"{axis}: {' and '.join(curve.name for curve in curves)}", *parts)


def dose_response(xs: Sequence[float], curves: Sequence[Curve], axis: str, title: str) -> Markup:
    """Lines with intervals over the share of the cue that is taken away."""
    bottom, height = 170.0, 208.0
    values = [value for c in curves for group in (c.ys, c.lows, c.highs) for value in group if value is not None]
    low, high = _padded(values)
    x = Scale(low=0, high=1, start=_LEFT + 8, end=WIDTH - 16)
    y = Scale(low=low, high=high, start=bottom, end=44)
    parts = [line(_LEFT, bottom, WIDTH - 8, bottom, "axis")]
    for value in ticks(low, high, 4):
        parts += [line(_LEFT, y(value), WIDTH - 8, y(value), "gridline")]
        parts += [text(_LEFT - 6, y(value) + 4, tick_text(value), "tick", "end")]
    for curve in curves:
        places = [(x(a), y(b)) for a, b in zip(xs, curve.ys, strict=True)]
        for (px, _), lower, upper in zip(places, curve.lows, curve.highs, strict=False):
            if lower is not None and upper is not None:
                parts.append(line(px, y(lower), px, y(upper), f"curve {curve.kind} thin"))
        parts.append(polyline(places, f"curve {curve.kind}"))
        parts += [_dot(curve.kind, px, py) for px, py in places]
    parts += [text(x(value), bottom + 14, _share(value), "tick", "middle") for value in xs]
    parts += [_legend(curves), text(WIDTH - 8, bottom + 31, axis, "label", "end")]
    return drawing(WIDTH, height, title, *parts)


def gap_rows(rows: Sequence[tuple[str, str, Estimate]], band: tuple[float, float] | None) -> Markup:
    """Gaps in points as named rows on one axis; `rows` are (name, CSS class, gap), `band` that of the controls."""
    left, step, top = 96, 26, 8
    values = [100 * v for _, _, gap in rows for v in _values(gap)] + [100 * end for end in band or ()]
    x = Scale(low=min([0.0, *values]) - 3, high=max([0.0, *values]) + 3, start=left, end=WIDTH - 8)
    bottom = top + step * len(rows) + 4.0
    parts = [line(x(value), top, x(value), bottom, "gridline") for value in ticks(x.low, x.high, 5)]
    if band is not None:
        low, high = (x(100 * end) for end in band)
        parts.append(tag("rect", x=low, y=top, width=max(high - low, 1.5), height=bottom - top, class_="band"))
    for number, (name, kind, gap) in enumerate(rows):
        y = top + step * (number + 0.5)
        parts.append(text(left - 8, y + 4, name, "label", "end"))
        if gap.low is not None and gap.high is not None:
            parts.append(line(x(100 * gap.low), y, x(100 * gap.high), y, f"span {kind}"))
        if gap.value is not None:
            at = x(100 * gap.value)
            parts.append(
                tag("rect", x=at - 4, y=y - 4, width=8, height=8, class_="after")
                if kind == "after"
                else tag("circle", cx=at, cy=y, r=4, class_=kind)
            )
    parts += [line(x(0), top, x(0), bottom, "axis"), line(left, bottom, WIDTH - 8, bottom, "axis")]
    parts += [text(x(value), bottom + 14, tick_text(value), "tick", "middle") for value in ticks(x.low, x.high, 5)]
    parts.append(text(WIDTH - 8, bottom + 28, "gap in points of accuracy →", "label", "end"))
    gaps = "; ".join(f"{name} {100 * (gap.value or 0):.0f}" for name, _, gap in rows)
    return drawing(WIDTH, bottom + 34, f"CLIP's gap in points: {gaps}", *parts)


# -- rows of tables --------------------------------------------------------------------------------------------------


def interval_row(
    items: Sequence[tuple[str, Estimate | None]], low: float, high: float, mark: float | None = None
) -> Markup:
    """Dots with intervals on one line, in percent of its width, so that labels stay text of the table around it.

    `items` are (CSS class, estimate): `before` is a ring, `after` a filled square. `mark` is a reference line.
    """
    scale = Scale(low=low, high=high, start=2, end=98)
    height = 12 + 10 * len(items)
    parts = [line_percent(scale(tick), 0, scale(tick), height, "gridline") for tick in ticks(low, high, 2)]
    if mark is not None:
        parts.append(line_percent(scale(mark), 0, scale(mark), height, "mark"))
    for number, (kind, estimate) in enumerate(items):
        if estimate is None or estimate.value is None:
            continue
        y = 11 + 10 * number
        if estimate.low is not None and estimate.high is not None:
            parts.append(line_percent(scale(estimate.low), y, scale(estimate.high), y, f"span {kind}"))
        at = f"{scale(estimate.value):.2f}%"
        if kind == "after":
            parts.append(tag("rect", x=at, y=y - 4, width=8, height=8, transform="translate(-4 0)", class_="after"))
        else:
            parts.append(tag("circle", cx=at, cy=y, r=4, class_=kind))
    return tag("svg", *parts, class_="row", width="100%", height=height, aria_hidden="true")


def line_percent(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A line whose x are percent of the width."""
    return tag("line", x1=f"{x1:.2f}%", y1=y1, x2=f"{x2:.2f}%", y2=y2, class_=kind)


# -- helpers ---------------------------------------------------------------------------------------------------------


def _legend(curves: Sequence[Curve]) -> Markup:
    """Names of curves, in a second line where one is too short."""
    parts = []
    left, y = 12.0, 10.0
    for curve in curves:
        wide = 42 + 5.8 * len(curve.name)
        if left > 12 and left + wide > WIDTH + 12:
            left, y = 12.0, y + 15
        parts.append(line(left, y, left + 20, y, f"curve {curve.kind}"))
        parts.append(_dot(curve.kind, left + 10, y))
        parts.append(text(left + 26, y + 4, curve.name, "label"))
        left += wide
    return join(parts)


def _dot(kind: str, x: float, y: float) -> Markup:
    if kind == "two":
        return tag("rect", x=x - 3.5, y=y - 3.5, width=7, height=7, class_=f"dot {kind}")
    if kind == "three":
        return polygon([(x, y - 4.5), (x + 4, y + 3.5), (x - 4, y + 3.5)], f"dot {kind}")
    return tag("circle", cx=x, cy=y, r=3.5, class_=f"dot {kind}")


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _centre(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _values(estimate: Estimate) -> list[float]:
    return [value for value in (estimate.value, estimate.low, estimate.high) if value is not None]
