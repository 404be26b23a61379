"""The guided demo: make data, audit it, describe the heads, ablate those that look at the place, write a page."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from clipaudit.config import ModelConfig
from clipaudit.demo.evaluation.choice import RULES
from clipaudit.demo.evaluation.recognition import Encoder
from clipaudit.demo.evaluation.shortcut import Shortcut, shortcut
from clipaudit.demo.page import headline, percent, worst_group, write_page
from clipaudit.demo.worlds import samples
from clipaudit.errors import UsageError

_PAGE = "index.html"
_SHOWN_FROM = 1500
"""How many birds, from the test split's start, are looked through for pictures of every group."""


def showcase(out: Path, *, birds: int, things: int, seed: int, say: Callable[[str], None]) -> Path:
    """Run the whole demo under `out`, telling each step through `say`; returns the page to open.

    Raises UsageError when `out` holds something already, or when there are too few images for every group.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: give another directory, or remove it first")
    if birds < 200 or things < 200:
        raise UsageError("the demo needs at least 200 birds and 200 things, or some group would be empty")
    out.mkdir(parents=True, exist_ok=True)
    say(f"Drawing {birds:,} birds and {things:,} other things, and auditing both with the demo model ...")
    found = shortcut(Encoder.load(ModelConfig(name="demo")), out, birds=birds, things=things, seed=seed)
    page = out / _PAGE
    tests = (sample for sample in samples("birds", count=birds, seed=seed) if sample.split == "test")
    write_page(page, found, islice(tests, _SHOWN_FROM), things=things, seed=seed, commands=_commands(out))
    for line in _findings(found):
        say(line)
    return page


def _findings(found: Shortcut) -> list[str]:
    rule = next(iter(RULES))
    before, after, control = found.settings["none"], found.settings[rule], found.controls[rule]
    worst = min(before.groups, key=lambda name: before.groups[name].value)
    lines = [f"{headline(found)}."]
    lines += [f"  {name:<20} {percent(group)} right" for name, group in sorted(before.groups.items())]
    lines.append(f"Heads whose texts are about places ({len(after.heads)} of {len(found.words)}):")
    for head in found.words:
        if head.head in after.heads:
            lines.append(f"  {head.head}  {'; '.join(text.text for text in head.texts[:3])}")
    lines += [
        f"With those heads replaced by their mean over the other things, {worst_group(found)} are at"
        f" {percent(after.groups[worst])} (before: {percent(before.groups[worst])}),",
        f"  the worst group at {100 * after.worst:.1f} % (before: {100 * before.worst:.1f} %),"
        f" the average at {percent(after.accuracy)} (before: {percent(before.accuracy)}).",
        f"  {control.sets:,} random sets of as many heads from the same layers: worst group"
        f" {100 * control.mean:.1f} +- {100 * control.deviation:.1f} %, p = {control.p:.4f}.",
    ]
    return lines


def _commands(out: Path) -> list[str]:
    return [
        f"clipaudit status {out / 'birds-run'}",
        f"clipaudit check {out / 'birds-run'} --model",
        "clipaudit demo-data planted shards/planted",
        "clipaudit audit 'shards/planted/*.tar' --out planted-run --model demo --label cls --engine local",
    ]
