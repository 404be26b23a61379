"""Figures of ablations and studies as SVG: static, without a display or a browser, and the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipaudit.heads.experiment import Ablation
from clipaudit.heads.studies import Point, Study
from clipaudit.schema import parse_head_label

if TYPE_CHECKING:
    from clipaudit.statistics import Proportion

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
_GREY: Final = "#666666"
_STYLE: Final[Any] = {
    "svg.hashsalt": "clipaudit",
    "svg.fonttype": "none",  # text stays text, to be found and read aloud
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_MOST_BARS: Final = 40


def ablation_figure(found: Ablation) -> bytes:
    """Accuracy of every group, or class, before and after."""
    with rc_context(_STYLE):
        names = found.question.names.names
        if found.base.groups:
            keys = [f"{names[row]}, {value}" for row, value in found.base.groups]
            pairs = list(zip(found.base.groups.values(), found.ablated.groups.values(), strict=True))
        else:
            keys, pairs = list(names), list(zip(found.base.by_class, found.ablated.by_class, strict=True))
        shown = [n for n, (base, _) in enumerate(pairs) if base.total]
        # of many, those that change most
        shown = sorted(shown, key=lambda n: -abs(pairs[n][1].value - pairs[n][0].value))[:_MOST_BARS]
        shown = [*sorted(shown)]
        titles = ["all rows", *(keys[n] for n in shown)]
        bars = [(found.base.accuracy, found.ablated.accuracy), *(pairs[n] for n in shown)]
        figure, axes = _axes(6.4, 1.2 + 0.32 * len(bars))
        for place, label in enumerate(("as it is", "ablated")):
            _bars(axes, [pair[place] for pair in bars], 0.2 if place else -0.2, COLOURS[place], label)
        axes.set_yticks(range(len(bars)), titles)
        axes.invert_yaxis()
        axes.set_xlabel("accuracy, % (95 % interval)")
        axes.set_xlim(0, 100)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        return _svg(figure)


def study_figure(found: Study) -> bytes:
    """A study's figure: bars, lines or a map, as the study needs."""
    with rc_context(_STYLE):
        if found.name == "components":
            return _svg(_component_bars(found))
        if found.name == "heads":
            return _svg(_head_map(found))
        return _svg(_lines(found))


def _component_bars(found: Study) -> Figure:
    figure, axes = _axes(6.4, 1 + 0.32 * len(found.points))
    _bars(axes, [point.accuracy for point in found.points], 0, COLOURS[0], "")
    axes.set_yticks(range(len(found.points)), [point.name for point in found.points])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, % (95 % interval)")
    return figure


def _head_map(found: Study) -> Figure:
    """Change of accuracy by layer and head, in points."""
    places = [parse_head_label(point.name) for point in found.points[1:]]
    layers = sorted({layer for layer, _ in places})
    change = np.full((len(layers), 1 + max(head for _, head in places)), np.nan)
    for (layer, head), point in zip(places, found.points[1:], strict=True):
        change[layers.index(layer), head] = 100 * (point.accuracy.value - found.base.accuracy.value)
    figure, axes = _axes(1.6 + 0.34 * change.shape[1], 1.4 + 0.34 * len(layers))
    limit = max(float(np.nanmax(np.abs(change))), 0.1)
    image = axes.imshow(change, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_yticks(range(len(layers)), [f"L{layer:02d}" for layer in layers])
    axes.set_xlabel("head")
    figure.colorbar(image, ax=axes, label="accuracy when ablated, change in points")
    return figure


def _lines(found: Study) -> Figure:
    """Accuracy along x, a line a series, with the range over seeds, or the interval where there is one seed."""
    figure, axes = _axes(6.4, 4)
    axes.axhline(100 * found.base.accuracy.value, color=_GREY, linestyle="--", linewidth=1)
    axes.annotate("nothing replaced", (0.99, 100 * found.base.accuracy.value), xycoords=("axes fraction", "data"),
                  ha="right", va="bottom", color=_GREY)  # fmt: skip
    series = dict.fromkeys(point.series for point in found.points if point.series and point.x is not None)
    for name, colour, marker in zip_longest(series, COLOURS[: len(series)], MARKERS[: len(series)]):
        points = [point for point in found.points if point.series == name and point.x is not None]
        xs = sorted({point.x for point in points if point.x is not None})
        spans = [_span([point for point in points if point.x == x]) for x in xs]
        axes.plot(xs, [middle for _, middle, _ in spans], color=colour, marker=marker, markersize=4, label=name)
        axes.fill_between(xs, [low for low, _, _ in spans], [high for _, _, high in spans], color=colour, alpha=0.15)
    axes.set_xlabel("texts a head" if found.name == "texts" else "attention layers replaced")
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False)
    return figure


def _span(points: Sequence[Point]) -> tuple[float, float, float]:
    """(low, middle, high) in percent: mean and range over seeds; of one point, its share and interval."""
    values = [100 * point.accuracy.value for point in points]
    if len(values) > 1:
        return min(values), float(np.mean(values)), max(values)
    low, high = points[0].accuracy.interval()
    return 100 * low, values[0], 100 * high


def _bars(axes: Axes, found: Sequence[Proportion], shift: float, colour: str, label: str) -> None:
    values = np.array([100 * one.value for one in found])
    limits = 100 * np.array([one.interval() for one in found]).T
    errors = np.abs(limits - values)
    places = np.arange(len(found)) + shift
    height = 0.36 if shift else 0.6
    axes.barh(places, values, height, color=colour, label=label or None, xerr=errors, error_kw={"ecolor": _GREY})


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one plot; no pyplot, which keeps figures and may want a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
