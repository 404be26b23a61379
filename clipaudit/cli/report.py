"""The command `report`: an audit for spurious cues as a page, JSON, exports and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, cast

import typer

from clipaudit.cli.options import (
    ROWS,
    DeviceOption,
    JsonOption,
    RunArgument,
    SeedOption,
    command_line,
    listed,
    option,
    print_json,
)
from clipaudit.cli.terminal import advise, note, tell
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.cues.answerers.predictions import Scale
    from clipaudit.cues.options import AuditOptions
    from clipaudit.cues.report.document import Report
    from clipaudit.cues.result.finding_parts import ClassesFrom
    from clipaudit.cues.result.result import AuditResult
    from clipaudit.run.reader import Run

_PRINTED_FINDINGS = 10
CUES, GATE, PAGE = "Cues", "Gate", "Page"


ClassesOption = Annotated[
    str | None, option("Class names, one a line, or label, tab and name [classnames.txt beside the shards, or labels].")
]
ClassesFromOption = Annotated[
    str | None,
    option("What says which class an image is: label, caption or clip (its own answer) [labels, else captions]."),
]
AttributeOption = Annotated[
    list[str] | None,
    option(
        "Column that says which images have a cue, such as place; place:error=0.1 where a share of it is wrong;"
        " repeatable.",
        panel=CUES,
    ),
]
SplitOption = Annotated[
    str | None,
    option(
        "Column whose rows with train train and give the ties; all others are scored: split or json:split.", panel=ROWS
    ),
]
TestRunOption = Annotated[
    str | None, option("Another run of the same model to score: reliance is measured on it.", panel=ROWS)
]
RehearseOption = Annotated[
    bool,
    typer.Option(
        "--rehearse/--no-rehearse", help="Train a linear probe: what would a model learn here?", rich_help_panel=CUES
    ),
]
PredictionsOption = Annotated[
    list[str] | None,
    option(
        "Your model's answers: NAME=FILE, a table with key (or shard and key) and label, or score:CLASS of each class;"
        " repeatable.",
        panel=CUES,
    ),
]
ScoresOption = Annotated[
    str | None, option("What those scores are: probability, percent or logit [probability].", panel=CUES)
]
ClusterOption = Annotated[
    str | None, option("Column whose equal values are one source, such as photographer [equal pictures].", panel=ROWS)
]
EnvironmentOption = Annotated[
    str | None, option("Column over which a finding must be stable, such as camera [shards].", panel=ROWS)
]
CoreOption = Annotated[
    list[str] | None, option("A value or column that is part of the class, and no shortcut; repeatable.", panel=CUES)
]
MarginOption = Annotated[float, option("Minimum gap in accuracy that counts, as a share [0.05].", panel=CUES)]
CleanLabelsOption = Annotated[
    bool, typer.Option("--clean-labels", help="The labels are right: a gap alone is evidence.", rich_help_panel=CUES)
]
OutOption = Annotated[str | None, option("Directory for the report, a path or URL [RUN/reports/report].")]
TextOption = Annotated[list[str] | None, option("A cue of your own to test, in words; repeatable.", panel=CUES)]
TextsOption = Annotated[
    str | None,
    option("Texts that name cues, one a line; a path or URL [our own pool; with --model demo its words].", panel=CUES),
]
TemplatesOption = Annotated[str, option("imagenet, simple, single or a file of prompts with {} [imagenet].")]
FailOnOption = Annotated[
    list[str] | None,
    option(
        "confirmed, fails-where, needed, model-only, data-only, tied, candidate, or never; repeatable [confirmed].",
        panel=GATE,
    ),
]
EvidenceOption = Annotated[
    bool, typer.Option("--require-evidence", help="Exit 3 when it cannot be decided.", rich_help_panel=GATE)
]
WaiversOption = Annotated[
    str | None, option("TOML, YAML or JSON: finding, owner, reason, expires of each.", panel=GATE)
]
PicturesOption = Annotated[
    bool, typer.Option("--pictures/--no-pictures", help="Show samples on the page.", rich_help_panel=PAGE)
]
HeatOption = Annotated[
    bool, typer.Option("--heat/--no-heat", help="Show where the cues sit; runs the model.", rich_help_panel=PAGE)
]
MasksOption = Annotated[
    str, option("Extension of masks in the shards that say where the object is [seg.png].", panel=PAGE)
]


def report(
    context: typer.Context,
    run: RunArgument,
    classes: ClassesOption = None,
    classes_from: ClassesFromOption = None,
    attribute: AttributeOption = None,
    core: CoreOption = None,
    split: SplitOption = None,
    test_run: TestRunOption = None,
    cluster: ClusterOption = None,
    environment: EnvironmentOption = None,
    out: OutOption = None,
    text: TextOption = None,
    texts: TextsOption = None,
    templates: TemplatesOption = "imagenet",
    margin: MarginOption = 0.05,
    clean_labels: CleanLabelsOption = False,
    rehearse: RehearseOption = True,
    predictions: PredictionsOption = None,
    scores: ScoresOption = None,
    fail_on: FailOnOption = None,
    require_evidence: EvidenceOption = False,
    waivers: WaiversOption = None,
    pictures: PicturesOption = True,
    heat: HeatOption = True,
    masks: MasksOption = "seg.png",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say which shortcuts the classes have, with evidence and what to do: one page, JSON, exports, an exit code.

    Exit codes: 0 passed (or inconclusive), 1 the gate failed, 2 an option or the waiver file is wrong, 3 inconclusive
    with --require-evidence, 4 the audit is not valid, 5 a fault of clipaudit.

    Example: `clipaudit report runs/train --classes classnames.txt --attribute place --split json:split --out report`
    """
    command = command_line(context, always=("seed",), never=("out", "device", "as_json"))
    from clipaudit.cli.console.format import count
    from clipaudit.cues.options import AuditOptions
    from clipaudit.cues.report.gate import parse_fail_on
    from clipaudit.cues.report.save import illustrated
    from clipaudit.cues.report.waivers import load_waivers, unknown_waiver
    from clipaudit.cues.report.write import ReportConfig, check_out, write_report
    from clipaudit.run.reader import Run

    opened_run, opened_test_run = Run(run), None if test_run is None else Run(test_run)
    config = ReportConfig(
        out=out or f"{opened_run.directory.url}/{opened_run.folder('reports/report')}",
        fail_on=parse_fail_on(listed(fail_on) or ("confirmed",)),
        require_evidence=require_evidence,
        waivers=load_waivers(waivers),
        command=command,
    )
    check_out(config.out)
    tell(
        f"auditing {count(len(opened_run), 'image')}: thousands take half a minute on two cores, a million two minutes;"
        f" {config.out} is written at the end"
    )
    column = None if split is None else split.removeprefix("json:").rpartition(".")[2]
    options = AuditOptions(
        classes=classes,
        classes_from=cast("ClassesFrom | None", classes_from),
        templates=templates,
        texts=texts,
        user_texts=tuple(text or ()),
        attributes=listed(attribute),
        core=tuple(core or ()),
        margin=margin,
        clean_labels=clean_labels,
        rehearse=rehearse,
        predictions=tuple(predictions or ()),
        scores=cast("Scale | None", scores),
        cluster=cluster,
        environment=environment,
        # associations are taken from the training rows, the reliance on a cue from the others
        split=column,
        seed=seed,
    )
    result = _audit(opened_run, opened_test_run, options, device)
    runs = [opened_run] if opened_test_run is None else [opened_run, opened_test_run]
    result, page_pictures = illustrated(result, runs, heat, device, note, pictures=pictures, masks=masks)
    written = write_report(result, config, page_pictures)
    _print_report(written, config.out, as_json)
    advise("clipaudit", "explore", run, "--report", config.out)
    if (problem := unknown_waiver(written.waivers, result)) is not None:
        raise UsageError(problem)
    raise typer.Exit(written.gate.exit_code)


def _audit(run: Run, test_run: Run | None, options: AuditOptions, device: str) -> AuditResult:
    """Audit a run for spurious cues, with the progress on stderr; `device` is that of the text encoder."""
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.cues import audit_cues
    from clipaudit.heads.texts.vectors import RunTexts

    with ProgressBar("") as progress:
        texts = RunTexts(run, device, progress.loading)
        return audit_cues(
            run,
            options,
            texts=texts,
            test_run=test_run,
            on_progress=lambda what, done, total: progress(done, total),
        )


def _left_out(report: Report) -> Iterator[str]:
    """One line for each reason for which samples have no row, with an example."""
    from clipaudit.cues.report.words import STATUS

    hygiene = report.audit.hygiene
    for name, count in hygiene.unreadable.items():
        example = hygiene.unreadable_examples.get(name)
        yield f"Left out, {STATUS.get(name, name)}: {count:,}" + (f", such as {example}" if example else "")


def _print_report(report: Report, out: str, as_json: bool) -> None:
    """Print the report on stdout: all of it as JSON, or the first screen's sentences with the first findings."""
    from clipaudit.cues.report.first_screen import plain_sentences, to_do
    from clipaudit.cues.report.words import cue_word, headline
    from clipaudit.pages.text import one_line

    if as_json:
        print_json(report.to_json())
        return
    findings = [
        f"  {finding.rank}. {finding.verdict}: {finding.class_name} and {cue_word(finding)} [{finding.id}]"
        for finding in report.audit.findings[:_PRINTED_FINDINGS]
    ]
    for line in (
        f"{headline(report.audit)}.",
        *plain_sentences(report),
        *_left_out(report),
        f"What to do: {to_do(report)}",
        *findings,
        report.gate.sentence,
        f"Open {out.rstrip('/')}/index.html",
    ):
        typer.echo(one_line(line))
