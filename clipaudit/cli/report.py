"""The command `report`: an audit for spurious cues as a page, JSON, exports and an exit code; nothing heavy here."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipaudit.cli.options import JsonOption, RunArgument, listed, option, print_json
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.cues.options import AuditOptions
    from clipaudit.cues.report.document import Report
    from clipaudit.cues.result.result import AuditResult
    from clipaudit.run.reader import Run

_SHOWN = 10
ROWS, CUES, GATE, PAGE = "Rows", "Cues", "Gate", "Page"


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
    option("Column with train and test: ties from train, reliance from test; json:split or split.", panel=ROWS),
]
TestRunOption = Annotated[str | None, option("Another run of the same model to measure reliance on.", panel=ROWS)]
ClusterOption = Annotated[
    str | None, option("Column whose equal values are one source, such as photographer [equal pictures].", panel=ROWS)
]
EnvironmentOption = Annotated[
    str | None, option("Column over which a finding must be stable, such as camera [shards].", panel=ROWS)
]
CoreOption = Annotated[
    list[str] | None, option("A value or column that is part of the class, and no shortcut; repeatable.", panel=CUES)
]
MarginOption = Annotated[float, option("Least gap in accuracy that counts, as a share [0.05].", panel=CUES)]
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
SeedOption = Annotated[int, option("Of everything that is drawn at random [0].")]
DeviceOption = Annotated[str, option("Where the model runs: auto, cpu, cuda, cuda:N or mps [auto].")]


def report(
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
    command = _command(locals())
    from clipaudit.cues.report.gate import parse_fail_on
    from clipaudit.cues.report.save import illustrated
    from clipaudit.cues.report.waivers import load_waivers, unknown_waiver
    from clipaudit.cues.report.write import ReportConfig, check_out, write_report
    from clipaudit.run.reader import Run

    opened, tested = Run(run), None if test_run is None else Run(test_run)
    config = ReportConfig(
        out=out or f"{opened.directory.url}/reports/report",
        fail_on=parse_fail_on(listed(fail_on) or ("confirmed",)),
        require_evidence=require_evidence,
        waivers=load_waivers(waivers),
        command=command,
    )
    check_out(config.out)
    found = _audit(opened, tested, locals())
    runs = [opened] if tested is None else [opened, tested]
    say = partial(typer.echo, err=True)
    found, shown = illustrated(found, runs, heat, device, say, pictures=pictures, masks=masks)
    made = write_report(found, config, shown)
    _show(made, config.out, as_json)
    if (problem := unknown_waiver(made.waivers, found)) is not None:
        raise UsageError(problem)
    raise typer.Exit(made.gate.exit_code)


def _audit(run: Run, test_run: Run | None, given: dict[str, Any]) -> AuditResult:
    """The audit that the options ask for, with its progress on stderr."""
    from clipaudit.cli.console.heads import Progress
    from clipaudit.cues import audit_cues
    from clipaudit.heads.texts.vectors import RunTexts

    with Progress("") as progress:
        texts = RunTexts(run, given["device"], progress.loading)
        return audit_cues(
            run,
            audit_options(given),
            texts=texts,
            test_run=test_run,
            on_progress=lambda what, done, total: progress(done, total),
        )


def audit_options(given: dict[str, Any]) -> AuditOptions:
    """The command's options as the audit's; `--split json:split` is train for the ties and test for the reliance."""
    from clipaudit.cues.options import AuditOptions

    split = None if given["split"] is None else given["split"].removeprefix("json:").rpartition(".")[2]
    return AuditOptions(
        classes=given["classes"],
        classes_from=given["classes_from"],
        templates=given["templates"],
        texts=given["texts"],
        user_texts=tuple(given["text"] or ()),
        attributes=listed(given["attribute"]),
        core=tuple(given["core"] or ()),
        margin=given["margin"],
        clean_labels=given["clean_labels"],
        cluster=given["cluster"],
        environment=given["environment"],
        where=() if split is None else (f"{split}=train",),
        test_where=() if split is None else (f"{split}=test",),
        seed=given["seed"],
    )


def _show(made: Report, out: str, as_json: bool) -> None:
    from clipaudit.cues.report.files import one_line
    from clipaudit.cues.report.first_screen import plain_sentences, to_do
    from clipaudit.cues.report.words import cue_word, headline

    if as_json:
        print_json(made.to_json())
        return
    shown = [
        f"  {f.rank}. {f.verdict}: {f.class_name} and {cue_word(f)} [{f.id}]" for f in made.audit.findings[:_SHOWN]
    ]
    for line in (
        f"{headline(made.audit)}.",
        *plain_sentences(made),
        f"What to do: {to_do(made)}",
        *shown,
        made.gate.sentence,
        f"Open {out.rstrip('/')}/index.html",
    ):
        typer.echo(one_line(line))


def _command(given: dict[str, Any]) -> str:
    """The command line that makes the same report, wherever it was written: every option that is not at its default."""
    words = ["clipaudit", "report", str(given["run"])]
    for name in (
        "classes",
        "classes_from",
        "attribute",
        "core",
        "split",
        "test_run",
        "cluster",
        "environment",
        "text",
        "texts",
        "fail_on",
        "waivers",
    ):
        for value in given[name] if isinstance(given[name], list) else [given[name]]:
            if value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
    if given["templates"] != "imagenet":
        words += ["--templates", given["templates"]]
    words += ["--margin", str(given["margin"])] * (given["margin"] != 0.05)
    words += ["--clean-labels"] * given["clean_labels"]
    words += ["--masks", given["masks"]] * (given["masks"] != "seg.png")
    words += ["--seed", str(given["seed"])]
    words += ["--require-evidence"] * given["require_evidence"]
    words += [f"--no-{name}" for name in ("pictures", "heat") if not given[name]]
    return shlex.join(words)
