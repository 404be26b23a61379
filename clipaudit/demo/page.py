"""The demo's second page: the heads in words, and the birds without those that look at places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from clipaudit.demo.evaluation.head_choice import RULES
from clipaudit.demo.evaluation.shortcut import Shortcut
from clipaudit.schema import VERSION
from clipaudit.statistics import Proportion


def write_page(
    path: Path,
    found: Shortcut,
    *,
    report: str,
    things: int,
    seed: int,
    commands: Sequence[str],
    alike: tuple[str, str] | None,
) -> None:
    """Write what `found` says as one HTML file that leads to `report`; `things` images describe heads.

    `alike`: address of the sheet of images that are alike in one respect, and what it shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipaudit.demo"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    rule = next(iter(RULES))
    before, after = found.settings["none"], found.settings[rule]
    page = environment.get_template("heads.html").render(
        title="What the model’s heads look at",
        report=report,
        alike=alike,
        percent=percent,
        images=before.accuracy.total,
        things=things,
        before=before,
        after=after,
        worst_name=worst_group(found),
        worst_before=_worst(before.groups),
        worst_after=_worst(after.groups),
        all_worst=_worst(found.settings["all"].groups),
        groups=_groups(found),
        heads=sorted(found.words, key=lambda head: -head.variance),
        chosen=after.heads,
        control=found.controls[rule],
        rule=RULES[rule],
        commands=commands,
        version=VERSION,
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


def _groups(found: Shortcut) -> list[dict[str, Any]]:
    before, after = found.settings["none"].groups, found.settings[next(iter(RULES))].groups
    ordered = sorted(before, key=lambda name: before[name].value)
    return [
        {"name": name, "before": before[name], "after": after[name], "worst": name == ordered[0]} for name in ordered
    ]
