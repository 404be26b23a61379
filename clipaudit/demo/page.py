"""The demo's page: what the birds show, in one self-contained HTML file."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from clipaudit import __version__
from clipaudit.demo.evaluation.choice import RULES
from clipaudit.demo.evaluation.shortcut import Shortcut
from clipaudit.demo.worlds import WORLDS, Sample
from clipaudit.zeroshot import Proportion

_PICTURES = 6


def write_page(
    path: Path, found: Shortcut, pictures: Iterable[Sample], *, things: int, seed: int, commands: Sequence[str]
) -> None:
    """Write what `found` says as one HTML file; `pictures` are birds to show, `things` images describe heads."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipaudit.demo"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    rule = next(iter(RULES))
    before, after = found.settings["none"], found.settings[rule]
    page = environment.get_template("demo.html").render(
        title=headline(found),
        percent=percent,
        images=before.accuracy.total,
        things=things,
        before=before,
        after=after,
        worst_name=worst_group(found),
        worst_before=_worst(before.groups),
        worst_after=_worst(after.groups),
        all_worst=_worst(found.settings["all"].groups),
        groups=_groups(found, pictures),
        heads=sorted(found.words, key=lambda head: -head.variance),
        chosen=after.heads,
        control=found.controls[rule],
        rule=RULES[rule],
        commands=commands,
        version=__version__,
        seed=seed,
    )
    path.write_text(page, encoding="utf-8")


def headline(found: Shortcut) -> str:
    """The finding in one sentence."""
    gap = found.settings["none"].accuracy.value - found.settings["none"].worst
    if gap < 0.1:
        return "The model recognises birds about equally well everywhere"
    return f"The model knows birds by their place: {worst_group(found)} are often taken for the other kind"


def worst_group(found: Shortcut) -> str:
    """The group that is classified worst before anything is ablated, in the plural."""
    groups = found.settings["none"].groups
    bird, _, where = min(groups, key=lambda name: groups[name].value).partition(" ")
    return f"{bird}s {where}"


def percent(share: Proportion) -> str:
    """`43.2 %`."""
    return f"{100 * share.value:.1f} %"


def _worst(groups: dict[str, Proportion]) -> Proportion:
    return min(groups.values(), key=lambda group: group.value)


def _groups(found: Shortcut, pictures: Iterable[Sample]) -> list[dict[str, Any]]:
    before, after = found.settings["none"].groups, found.settings[next(iter(RULES))].groups
    worst = min(before, key=lambda name: before[name].value)
    shown: dict[str, list[str]] = defaultdict(list)
    for sample in pictures:
        name = f"{WORLDS['birds'].classes[sample.label]} on {sample.scene.factors()['place']}"
        if len(shown[name]) < _PICTURES:
            shown[name].append(_data_url(sample))
    return [
        {"name": name, "before": before[name], "after": after[name], "worst": name == worst, "pictures": shown[name]}
        for name in sorted(before, key=lambda name: before[name].value)
    ]


def _data_url(sample: Sample) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(sample.pixels)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
