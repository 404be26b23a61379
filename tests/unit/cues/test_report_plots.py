"""Figures: scales, ticks, marks that cover no other, texts that are escaped."""

import math
import re

import pytest
from markupsafe import Markup

from clipaudit.cues.report.plots import (
    Curve,
    Mark,
    cue_map,
    distributions,
    dose_response,
    icon,
    interval_row,
)
from clipaudit.cues.report.words import decimal, p_value, points, share, with_limits
from clipaudit.cues.result.finding_parts import Estimate, Verdict
from clipaudit.pages.svg import Scale, tag, tick_text, ticks
from tests.audit_examples import around


def mark(number, d=0.9, effect=0.3, verdict=Verdict.CONFIRMED, name="waterbird and water"):
    return Mark(
        number=number,
        name=name,
        verdict=verdict,
        anchor=f"finding-{number}",
        strength=around(d, 0.02, 100),
        effect=None if effect is None else around(effect, 0.02, 100),
    )


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-4, 37, [0, 10, 20, 30]), (0.5, 0.5, [0.5]), (-0.001, 0.001, None)],
)
def test_ticks_are_round_and_inside(low, high, wanted):
    found = ticks(low, high, 5)
    assert wanted is None or found == wanted
    assert all(low <= tick <= high for tick in found)
    assert not any("e-" in tick_text(tick) and abs(tick) > 1e-3 for tick in found)
    assert math.copysign(1, ticks(-1, 1, 2)[1]) == 1, "no minus zero"


def test_scales_clamp():
    scale = Scale(low=0, high=1, start=10, end=110)
    assert [scale(value) for value in (-1, 0, 0.5, 2)] == [10, 10, 60, 110]
    assert Scale(low=3, high=3, start=0, end=10)(3) == 5


def test_texts_are_escaped():
    found = tag("text", "<b>&", Markup("<i>ok</i>"), data_x='"<')
    assert found == '<text data-x="&#34;&lt;">&lt;b&gt;&amp;<i>ok</i></text>'
    assert "<script" not in cue_map([mark(1, name="<script>")], 0.2, 0.05)


def test_marks_cover_no_other():
    for effect in (0.3, None):
        drawn = cue_map([mark(number, effect=effect) for number in range(1, 11)], 0.2, 0.05)
        shapes = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="18" height="18"', drawn)
        assert len(shapes) == 10
        places = [(float(x), float(y)) for x, y in shapes]
        assert all(math.dist(a, b) > 18 for n, a in enumerate(places) for b in places[:n])


def test_every_finding_is_on_the_map_with_a_link_and_a_name():
    marks = [mark(n, d=0.1 * n, effect=-0.05 * n, verdict=verdict) for n, verdict in enumerate(Verdict, 1)]
    drawn = cue_map([*marks, mark(None, 0.05, 0.0, None)], 0.2, 0.05)
    assert re.findall(r'href="#([\w-]+)"', drawn) == [f"finding-{n}" for n in range(1, 10)]
    assert drawn.count('class="tested"') == 1
    for name in ("data and model: a shortcut", "data only: not learned", "neither"):
        assert name in drawn


def test_each_verdict_has_its_own_look():
    assert len({str(icon(verdict)) for verdict in Verdict}) == len(Verdict)


def test_a_negative_tie_is_shown_by_its_size():
    assert cue_map([mark(1, d=-0.5)], 0.2, 0.05) == cue_map([mark(1, d=0.5)], 0.2, 0.05)


def test_figures_of_a_card_draw_what_they_are_given():
    curve = Curve(name="waterbird", kind="one", ys=[0.2, 0.8], lows=[0.1, None], highs=[0.3, None])
    assert "waterbird" in distributions([0, 1, 2], [curve], "score")
    dose = dose_response([0, 1], [curve], "taken away", "accuracy")
    assert dose.count("<circle") == 3  # two values and the legend's
    assert "100 %" in dose


def test_rows_leave_out_what_is_not_known():
    unknown = Estimate(value=None, low=None, high=None, n=0)
    drawn = interval_row([("before", around(0.5, 0.1, 100)), ("after", unknown), ("after", None)], 0, 1, 0.8)
    assert drawn.count("<circle") == 1
    assert "<rect" not in drawn
    assert 'cx="50.00%"' in drawn


def test_numbers_in_words():
    assert (share(0.412), share(None), points(0.23), points(-0.0001), decimal(-0.001)) == (
        "41.2 %",
        "–",
        "+23.0",
        "0.0",
        "0.00",
    )
    assert (points(-0.05), decimal(-0.5)) == ("−5.0", "−0.50")
    assert (p_value(1e-9), p_value(0.0123), p_value(None)) == ("< 0.001", "0.012", "–")
    assert with_limits(around(0.5, 0.1, 9)) == "0.50 [0.40, 0.60]"
    assert with_limits(around(0.5, 0.1, 9), "share") == "50.0 % [40.0, 60.0]"
    assert with_limits(None) == "–"
