"""The guided demo: make data, audit it, put heads into words, ablate and search by those of places, report."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from clipaudit.config import ModelConfig
from clipaudit.cues import AuditOptions, audit_cues
from clipaudit.cues.report.document import Report
from clipaudit.cues.report.first_screen import plain_sentences, to_do
from clipaudit.cues.report.page import Link
from clipaudit.cues.report.save import illustrated
from clipaudit.cues.report.words import headline as report_headline
from clipaudit.cues.report.write import ReportConfig, write_report
from clipaudit.demo.alike import IMAGES, Alike, alike
from clipaudit.demo.evaluation.head_choice import RULES
from clipaudit.demo.evaluation.recognition import ImageEncoder
from clipaudit.demo.evaluation.shortcut import TEMPLATES, Shortcut, shortcut
from clipaudit.demo.page import headline, percent, worst_group, write_page
from clipaudit.demo.world.captions import article
from clipaudit.errors import UsageError
from clipaudit.run.reader import Run

_REPORT = "report"
_HEADS = "heads.html"
_ALIKE = "like.html"
_PROMPTS = "prompts.txt"


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
    found = shortcut(ImageEncoder.load(ModelConfig(name="demo")), out, birds=birds, things=things, seed=seed)
    page = out / _REPORT / "index.html"
    same = alike(str(out / "things-run"), found.words, out / _ALIKE)
    write_page(
        out / _HEADS,
        found,
        report=f"{_REPORT}/index.html",
        things=things,
        seed=seed,
        commands=_commands(out, seed, same),
        alike=None if same is None else (_ALIKE, _alike(same)),
    )
    for line in _findings(found):
        say(line)
    say("Looking for the shortcut from the other side, from the birds' labels and places ...")
    made = _report(out, seed)
    for line in (f"{report_headline(made.audit)}.", *plain_sentences(made), f"What to do: {to_do(made)}"):
        say(line)
    say(f"The heads in words: {out / _HEADS}")
    if same is not None:
        say(f"Images alike in one respect: {out / _ALIKE}\n  {_alike(same)}")
    return page


def _report(out: Path, seed: int) -> Report:
    """What `clipaudit report` writes of the birds, with the prompts of the evaluation before it."""
    prompts = out / _PROMPTS
    prompts.write_text("".join(f"{template}\n" for template in TEMPLATES), encoding="utf-8")
    options = AuditOptions(
        templates=str(prompts),
        attributes=("place",),
        where=("split=train",),
        test_where=("split=test",),
        seed=seed,
    )
    run = Run(str(out / "birds-run"))
    result, shown = illustrated(audit_cues(run, options), [run], heat=True, device="cpu")
    config = ReportConfig(
        out=str(out / _REPORT),
        fail_on=("confirmed",),
        command=_report_command(out, seed),
        see_also=(Link(title="The model’s heads in words", address=f"../{_HEADS}"),),
    )
    return write_report(result, config, shown)


def _report_command(out: Path, seed: int) -> str:
    words = ["clipaudit", "report", out / "birds-run", "--attribute", "place", "--split", "json:split"]
    return shlex.join(map(str, [*words, "--templates", out / _PROMPTS, "--seed", seed]))


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


def _alike(same: Alike) -> str:
    """What the contact sheet shows, in one sentence."""
    return (
        f"Of the {IMAGES} images most like one of {article(str(same.query['noun']))} on the background"
        f" “{same.query['background']}”, by {same.head.head}, whose texts are about places,"
        f" {same.by_head['background']} have that background and {same.by_head['noun']} that thing;"
        f" by the whole embedding {same.by_everything['background']} and {same.by_everything['noun']}."
    )


def _commands(out: Path, seed: int, same: Alike | None) -> list[str]:
    asked = []
    if same is not None:
        options = ["--key", same.key, "-k", IMAGES, "--compare", "--maps", "--html", "like.html"]
        asked = [shlex.join(map(str, ["clipaudit", "query", out / "things-run", "--head", same.head.head, *options]))]
    return [
        _report_command(out, seed),
        *asked,
        f"clipaudit status {out / 'birds-run'}",
        f"clipaudit check {out / 'birds-run'} --model",
        "clipaudit demo-data planted shards/planted",
        "clipaudit audit 'shards/planted/*.tar' --out planted-run --model demo --label cls --engine local",
    ]
