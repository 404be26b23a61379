"""Figures of ablations and studies: what is drawn, where, and that names may hold anything."""

import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest

from clipaudit.heads.plots import ablation_figure, study_figure
from clipaudit.statistics import Proportion

NAMESPACE = "{http://www.w3.org/2000/svg}"
LONG = "a class whose <name> & description go on for much longer than there is room beside the bars"


def of(share, total=200):
    return Proportion(right=round(share * total), total=total)


def ablation(groups, names=("landbird", "waterbird")):
    return SimpleNamespace(
        question=SimpleNamespace(names=SimpleNamespace(names=names)),
        base=SimpleNamespace(accuracy=of(0.6), groups={key: of(before) for key, (before, _) in groups.items()}),
        ablated=SimpleNamespace(accuracy=of(0.8), groups={key: of(after) for key, (_, after) in groups.items()}),
    )


def study(name, *points):
    given = [SimpleNamespace(name=n, series=series, x=x, accuracy=of(share)) for n, series, x, share in points]
    return SimpleNamespace(name=name, points=given, base=given[0])


PLAIN = ("nothing replaced", "", None, 0.7)


def parsed(picture):
    return ET.fromstring(picture)


def shapes(root, kind, css=None):
    return [node for node in root.iter(NAMESPACE + kind) if css is None or css in (node.get("class") or "").split()]


def texts(root):
    return ["".join(node.itertext()) for node in root.iter(NAMESPACE + "text")]


def test_bars_are_as_long_as_accuracies_are_high():
    root = parsed(ablation_figure(ablation({(0, "land"): (1.0, 0.5), (1, LONG): (0.25, 0.75)})))
    before, after = shapes(root, "rect", "s0"), shapes(root, "rect", "s1")
    lengths = [float(bar.get("width")) for bar in before[:3]]
    assert np.allclose(np.array(lengths) / lengths[1], [0.6, 1.0, 0.25], atol=1e-3)
    assert len(before) == len(after) - 1 == 3, "and a square in the legend"
    assert {"60.0 → 80.0", "100.0 → 50.0", "25.0 → 75.0"} <= set(texts(root))
    assert any(LONG in words for words in texts(root)), "names that are cut have a title"
    assert max(float(bar.get("x")) + float(bar.get("width")) for bar in before) < float(root.get("width"))


def test_of_many_groups_those_that_change_most_are_drawn():
    groups = {(n % 2, f"value {n}"): (0.5, 0.5 + 0.005 * n) for n in range(60)}
    named = " ".join(texts(parsed(ablation_figure(ablation(groups)))))
    assert "value 59" in named
    assert "value 20" in named
    assert "value 19" not in named


def test_a_map_of_heads_has_a_cell_a_head():
    changes = {"L10H00": 0.0, "L10H02": -0.2, "L11H01": 0.1}
    root = parsed(study_figure(study("heads", PLAIN, *((head, "one head", 0, 0.7 + d) for head, d in changes.items()))))
    cells = {cell.find(f"{NAMESPACE}title").text: cell.get("fill") for cell in shapes(root, "rect", "cell")}
    assert set(cells) == {"L10H00: +0.0 points", "L10H02: −20.0 points", "L11H01: +10.0 points"}
    assert cells["L10H00: +0.0 points"] == "#f7f7f7"
    assert cells["L10H02: −20.0 points"] == "#7f3b08"
    assert {"L10", "L11", "0", "1", "2", "head"} <= set(texts(root))


def test_no_change_at_all_is_a_pale_map():
    root = parsed(study_figure(study("heads", PLAIN, ("L00H00", "one head", 0, 0.7))))
    assert [cell.get("fill") for cell in shapes(root, "rect", "cell")] == ["#f7f7f7"]


@pytest.mark.parametrize(("name", "words"), [("texts", "texts a head"), ("layers", "attention layers replaced")])
def test_lines_have_a_marker_a_point_and_a_band(name, words):
    points = [
        ("", series, x, 0.3 + 0.1 * x + 0.02 * seed) for series in ("a", "b", "c") for x in (1, 2, 3) for seed in (0, 1)
    ]
    root = parsed(study_figure(study(name, PLAIN, ("alone", "", 0, 0.1), *points)))
    assert len(shapes(root, "polyline", "line")) == len(shapes(root, "polygon", "band")) == 3
    first = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in shapes(root, "circle", "s0")]
    assert len(first) == 4, "with the one in the legend"
    x, y = np.array(first[1:]).T
    assert np.allclose(np.diff(x), x[1] - x[0], atol=0.1)
    assert (np.diff(y) < 0).all(), "higher accuracies lie above"
    assert words in texts(root)
    assert "nothing replaced" in texts(root)


def test_one_seed_has_its_interval():
    root = parsed(study_figure(study("layers", PLAIN, ("", "from the last", 1, 0.6), ("", "from the last", 2, 0.5))))
    [band] = shapes(root, "polygon", "band")
    heights = [float(place.split(",")[1]) for place in band.get("points").split()]
    assert heights[0] > heights[-1]


def test_components_are_bars_without_a_legend():
    root = parsed(study_figure(study("components", PLAIN, ("mlp_L01", "one MLP", None, 0.0))))
    assert len(shapes(root, "rect", "s0")) == 2
    assert {"nothing replaced", "mlp_L01", "70.0", "0.0"} <= set(texts(root))
