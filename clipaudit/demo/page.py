"""The demo's second page: the heads in words, and the birds without those that look at places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipaudit.demo.evaluation.head_choice import RULES, HeadTexts
from clipaudit.demo.evaluation.shortcut import Shortcut
from clipaudit.heads.extremes import extremes_along
from clipaudit.heads.pictures import KEEP, SIDE, STYLE, HeadPictures
from clipaudit.pages.html import render_page, template_environment
from clipaudit.run.reader import Run
from clipaudit.run.thumbnails import Thumbnails
from clipaudit.schema import VERSION
from clipaudit.statistics import Proportion


def write_page(
    path: Path,
    study: Shortcut,
    *,
    report: str,
    things: Run,
    seed: int,
    commands: Sequence[str],
    alike: tuple[str, str] | None,
) -> None:
    """Write a study as one HTML file that links to `report`; `things` holds the images that describe heads.

    alike: address of the sheet of images that are alike in one respect, and its caption.
    """
    rule = next(iter(RULES))
    before, after = study.settings["none"], study.settings[rule]
    page = render_page(
        template_environment("clipaudit.demo").get_template("heads.html"),
        title="What the model’s heads look at",
        report=report,
        alike=alike,
        percent=percent,
        images=before.accuracy.total,
        things=len(things),
        before=before,
        after=after,
        worst_name=worst_group(study),
        worst_before=_worst(before.groups),
        worst_after=_worst(after.groups),
        all_worst=_worst(study.settings["all"].groups),
        groups=_groups(study),
        heads=_heads(study.words, things),
        picture_style=STYLE,
        chosen=after.heads,
        control=study.controls[rule],
        rule=RULES[rule],
        commands=commands,
        version=VERSION,
        seed=seed,
    )
    path.write_text(page, encoding="utf-8")


def _heads(words: Sequence[HeadTexts], things: Run) -> list[dict[str, Any]]:
    """Every head, largest share of the variance first, each text with the images at both its ends."""
    directions = {head.head: head.directions for head in words if head.directions is not None}
    ends = extremes_along(things, directions, KEEP)
    thumbnails, missing = Thumbnails(things, 2 * SIDE), dict[str, int]()
    heads = []
    for head in sorted(words, key=lambda head: -head.variance):
        pictures = HeadPictures(thumbnails, ends.get(head.head, []), missing)
        strips = [pictures.strip(pair) for pair in ends.get(head.head, [])]
        heads.append(
            {
                "head": head.head,
                "variance": head.variance,
                "texts": [
                    {"words": text, "pictures": strips[place] if place < len(strips) else ""}
                    for place, text in enumerate(head.texts)
                ],
                "rule": pictures.rule(head.head),
            }
        )
    return heads


def headline(study: Shortcut) -> str:
    """The study's result in one sentence."""
    gap = study.settings["none"].accuracy.value - study.settings["none"].worst
    if gap < 0.1:
        return "The model recognises birds about equally well everywhere"
    return f"The model knows birds by their place: {worst_group(study)} are often taken for the other kind"


def worst_group(study: Shortcut) -> str:
    """The group with the lowest accuracy before anything is ablated, in the plural: `landbirds on water`."""
    groups = study.settings["none"].groups
    bird, _, where = min(groups, key=lambda name: groups[name].value).partition(" ")
    return f"{bird}s {where}"


def percent(share: Proportion) -> str:
    """`43.2 %`."""
    return f"{100 * share.value:.1f} %"


def _worst(groups: dict[str, Proportion]) -> Proportion:
    return min(groups.values(), key=lambda group: group.value)


def _groups(study: Shortcut) -> list[dict[str, Any]]:
    before, after = study.settings["none"].groups, study.settings[next(iter(RULES))].groups
    ordered = sorted(before, key=lambda name: before[name].value)
    return [
        {"name": name, "before": before[name], "after": after[name], "worst": name == ordered[0]} for name in ordered
    ]
