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
from clipaudit.demo.photos import write_photos
from clipaudit.demo.world.captions import article
from clipaudit.errors import UsageError
from clipaudit.run.reader import Run
from clipaudit.statistics import SIGNIFICANT, p_text
from clipaudit.storage.faults import making

_REPORT = "report"
_HEADS = "heads.html"
_ALIKE = "like.html"
_PROMPTS = "prompts.txt"


def showcase(out: Path, *, birds: int, things: int, seed: int, say: Callable[[str], None]) -> Path:
    """Run the whole demo under `out`, telling each step through `say`; return the page to open.

    Raises UsageError when `out` is not empty or cannot be made, or when there are too few images for every group.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a directory")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: give another directory, or remove it first")
    if birds < 200 or things < 200:
        raise UsageError("the demo needs at least 200 birds and 200 things, or some group would be empty")
    with making(str(out)):
        out.mkdir(parents=True, exist_ok=True)
    say(f"Drawing {birds:,} birds and {things:,} other things, and auditing both with the demo model ...")
    study = shortcut(ImageEncoder.load(ModelConfig(name="demo")), out, birds=birds, things=things, seed=seed)
    write_photos(sorted((out / "birds").glob("*.tar")), out / "photos")
    page = out / _REPORT / "index.html"
    similar = alike(str(out / "things-run"), study.words, out / _ALIKE)
    write_page(
        out / _HEADS,
        study,
        report=f"{_REPORT}/index.html",
        things=Run(str(out / "things-run")),
        seed=seed,
        commands=_commands(out, seed, similar),
        alike=None if similar is None else (_ALIKE, _alike(similar)),
    )
    for line in _findings(study):
        say(line)
    say("Looking for the shortcut from the other side, from the birds' labels and places ...")
    written = _report(out, seed)
    for line in (f"{report_headline(written.audit)}.", *plain_sentences(written), f"What to do: {to_do(written)}"):
        say(line)
    say(f"The heads in words: {out / _HEADS}")
    if similar is not None:
        say(f"Images alike in one respect: {out / _ALIKE}\n  {_alike(similar)}")
    return page


def _report(out: Path, seed: int) -> Report:
    """Write the report that `clipaudit report` would write of the birds, with the evaluation's prompts."""
    prompts = out / _PROMPTS
    prompts.write_text("".join(f"{template}\n" for template in TEMPLATES), encoding="utf-8")
    options = AuditOptions(
        templates=str(prompts),
        attributes=("place",),
        split="split",
        seed=seed,
    )
    run = Run(str(out / "birds-run"))
    result, pictures = illustrated(audit_cues(run, options), [run], heat=True, device="cpu")
    config = ReportConfig(
        out=str(out / _REPORT),
        fail_on=("confirmed",),
        command=_report_command(out, seed),
        see_also=(Link(title="The model’s heads in words", address=f"../{_HEADS}"),),
    )
    return write_report(result, config, pictures)


def _report_command(out: Path, seed: int) -> str:
    words = ["clipaudit", "report", out / "birds-run", "--attribute", "place", "--split", "json:split"]
    return shlex.join(map(str, [*words, "--templates", out / _PROMPTS, "--seed", seed]))


def _findings(study: Shortcut) -> list[str]:
    rule = next(iter(RULES))
    before, after, control = study.settings["none"], study.settings[rule], study.controls[rule]
    worst = min(before.groups, key=lambda name: before.groups[name].value)
    lines = [f"{headline(study)}."]
    lines.append(f"Of the {before.accuracy.total:,} birds of the test split, where bird and place are not tied:")
    lines += [f"  {name:<20} {percent(group)} right" for name, group in sorted(before.groups.items())]
    lines.append(f"Heads whose texts are about places ({len(after.heads)} of {len(study.words)}):")
    for head in study.words:
        if head.head in after.heads:
            lines.append(f"  {head.head}  {'; '.join(text.text for text in head.texts[:3])}")
    lines += [
        f"With those heads replaced by their mean over the other things, {worst_group(study)} are at"
        f" {percent(after.groups[worst])} (before: {percent(before.groups[worst])}),",
        f"  the worst group at {100 * after.worst:.1f} % (before: {100 * before.worst:.1f} %),"
        f" the average at {percent(after.accuracy)} (before: {percent(before.accuracy)}).",
        f"  {control.sets:,} random sets of as many heads from the same layers: worst group"
        f" {100 * control.mean:.1f} +- {100 * control.deviation:.1f} %, {p_text(control.p)}.",
    ]
    if control.p >= SIGNIFICANT:
        lines.append("  So words alone do not single these heads out; the report tests the cue itself, on these birds.")
    return lines


def _alike(similar: Alike) -> str:
    """The contact sheet's caption, in one sentence."""
    return (
        f"Of the {IMAGES} images most like one of {article(str(similar.query['noun']))} on the background"
        f" “{similar.query['background']}”, by {similar.head.head}, whose texts are about places,"
        f" {similar.by_head['background']} have that background and {similar.by_head['noun']} that thing;"
        f" by the whole embedding {similar.by_everything['background']} and {similar.by_everything['noun']}."
    )


def _commands(out: Path, seed: int, similar: Alike | None) -> list[str]:
    queries = []
    if similar is not None:
        options = ["--key", similar.key, "-k", IMAGES, "--compare", "--maps", "--html", "like.html"]
        queries = [
            shlex.join(map(str, ["clipaudit", "query", out / "things-run", "--head", similar.head.head, *options]))
        ]
    return [
        _report_command(out, seed),
        *queries,
        f"clipaudit pack {out / 'photos'} shards/photos",
        f"clipaudit status {out / 'birds-run'}",
        f"clipaudit check {out / 'birds-run'} --model",
        "clipaudit demo-data planted shards/planted",
        "clipaudit audit 'shards/planted/*.tar' --out planted-run --model demo --label cls --engine local",
    ]
