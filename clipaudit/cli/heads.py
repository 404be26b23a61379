"""The commands `heads` and `ablate`: options to stages, results to files and the terminal; nothing heavy at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipaudit.cli.options import JsonOption, RunArgument, listed, one_of, option, print_json, where_option
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.heads.description import Description
    from clipaudit.heads.experiment import Choice, Experiment, ExperimentConfig
    from clipaudit.heads.textspan import Criterion

ROWS, TEXTS, REPLACED = "Rows", "Texts", "What is replaced"

TextsOption = Annotated[
    str | None, option("Texts, one a line, or text, tab, property; a path or URL [our own pool].", panel=TEXTS)
]
StepsOption = Annotated[int, option("Texts chosen for each head [20].", panel=TEXTS)]
CriterionOption = Annotated[
    str,
    option("explained (variance that a text adds) or reference (the published code's) [explained].", panel=TEXTS),
]
HeadOption = Annotated[list[str] | None, option("Heads such as L22H05,L22H06 [all stored].", "--head", "--heads")]
AblatedOption = Annotated[
    list[str] | None, option("Heads such as L22H05,L22H06; repeatable.", "--head", "--heads", panel=REPLACED)
]
LabelOption = Annotated[str | None, option("Only rows with this label.", panel=ROWS)]
WhereOption = Annotated[list[str] | None, where_option("Only rows", panel=ROWS)]
DeviceOption = Annotated[str, option("Where the text encoder runs: auto, cpu, cuda, cuda:N or mps [auto].")]
SeedOption = Annotated[int, option("Of everything that is drawn at random [0].")]
ClassesOption = Annotated[
    str | None,
    option("Class names, one a line, or label, tab, name [classnames.txt beside the shards, or the labels]."),
]
TemplatesOption = Annotated[str, option("imagenet, simple, single or a file of prompts with {} [imagenet].")]
AttributeOption = Annotated[str | None, option("Groups are classes by this attribute: the worst one is shown.")]
FitOption = Annotated[
    list[str] | None,
    option("Rows that means, roles and texts are taken from: filters as in --where, repeatable [all].", panel=ROWS),
]
MeansOption = Annotated[
    str | None,
    option("Other means: balanced, another run, or rows by a filter: split=fit [the --fit rows].", panel=ROWS),
]
LayersOption = Annotated[
    str | None, option("All heads of these layers: a number of last ones, or 8,10 or 8-11.", panel=REPLACED)
]
MlpsOption = Annotated[str | None, option("MLPs: all, or layers as in --layers.", panel=REPLACED)]
RoleOption = Annotated[
    list[str] | None, option("Heads with this role: a property or a kind of the texts; repeatable.", panel=REPLACED)
]
ReconstructOption = Annotated[
    int | None, option("Replace heads by what so many texts span, not by their means.", panel=REPLACED)
]
RandomOption = Annotated[int, option("Also draw so many sets of as many heads of the same layers [0].")]
StudyOption = Annotated[
    str | None, option("components, layers, heads or texts: a table and figure of the paper.", panel="Study")
]
SeedsOption = Annotated[int, option("Draws of the candidates of --study texts [3].", panel="Study")]
GroupOption = Annotated[int, option("Smaller groups cannot be the worst [10].", "--min-group")]
OutOption = Annotated[str | None, option("Directory for the results, a path or URL [inside the run].")]


def heads(
    run: RunArgument,
    texts: TextsOption = None,
    steps: StepsOption = 20,
    top: Annotated[int | None, option("Texts shown of each head [3; all of a --head].")] = None,
    head: HeadOption = None,
    label: LabelOption = None,
    where: WhereOption = None,
    criterion: CriterionOption = "explained",
    roles: Annotated[bool, typer.Option("--roles/--no-roles", help="Find each head's role.")] = True,
    stability: Annotated[
        bool, typer.Option("--stability", help="Draw shards again: how often is each text chosen again?")
    ] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: OutOption = None,
    html: Annotated[str | None, option("Also write a page with the most extreme images along each text.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what each attention head looks at: the texts that span most of its variance, and its role.

    Reads the stored moments and the run's own model's text encoder, no image. The result also goes to
    `RUN/heads/NAME/heads.json`, NAME being `all`, or the rows that were chosen.

    Example: `clipaudit heads runs/train --head L11H05 --where attributes.place=water`
    """
    from clipaudit.cli.console import heads as console
    from clipaudit.heads.description import FILE, FOLDER, DescribeConfig, describe, description_json
    from clipaudit.heads.texts.pool import load_pool
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.run.derived import publish
    from clipaudit.run.filters import equal_to
    from clipaudit.run.reader import Run
    from clipaudit.run.rows import chosen_rows

    if top is not None and top < 1:
        raise UsageError(f"--top must be at least 1, not {top}")
    opened, pool = Run(run), load_pool(texts)
    config = DescribeConfig(
        heads=listed(head) or None,
        rows=chosen_rows(opened, [*(where or ()), *([equal_to("label", label)] if label is not None else ())]),
        steps=steps,
        criterion=_criterion(criterion),
        roles=roles,
        stability=stability,
        seed=seed,
    )
    with console.Progress("heads") as progress:
        found = describe(opened, pool, RunTexts(opened, device, progress.loading), config, progress)
    plain = description_json(found)
    place = publish(opened, f"{FOLDER}/{found.name}", {FILE: plain}, out)
    if html is not None:
        _gallery(found, html)
    if as_json:
        print_json(plain)
    else:
        console.print_heads(found, top if top is not None else steps if head else 3, place)


def _gallery(found: Description, path: str) -> None:
    """Write the page; a path or URL."""
    from clipaudit.cli.console.heads import Progress
    from clipaudit.heads.page import extremes, render
    from clipaudit.run.derived import publish

    parent, _, name = path.rpartition("/")
    if not name:
        raise UsageError(f"--html names a file to write, and {path!r} is a directory")
    with Progress("rows") as progress:
        ends = extremes(found, on_rows=progress)
    publish(found.run, "", {name: render(found, ends)}, parent or ("/" if path.startswith("/") else "."))


def compare(
    run: Annotated[str, typer.Argument(help="Run to compare with.", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="RUN2", help="Run of the same model.", show_default=False)],
    texts: TextsOption = None,
    top: Annotated[int, option("Texts shown of each head, towards and away [3].")] = 3,
    where: WhereOption = None,
    device: DeviceOption = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how each head's mean moved and its spread changed from one run to another of the same model.

    Reads the stored moments and the model's text encoder, no image. The result also goes to `RUN2/compare/`.

    Example: `clipaudit compare runs/january runs/june --top 5`
    """
    from clipaudit.cli.console.compare import print_comparison
    from clipaudit.cli.console.heads import Progress
    from clipaudit.heads.comparison import FILE, comparison_json
    from clipaudit.heads.comparison import compare as compare_runs
    from clipaudit.heads.texts.pool import load_pool
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.run.derived import finite, publish
    from clipaudit.run.reader import Run
    from clipaudit.run.rows import chosen_rows

    if top < 1:
        raise UsageError(f"--top must be at least 1, not {top}")
    before, after, pool = Run(run), Run(other), load_pool(texts)
    rows = chosen_rows(before, where or ()), chosen_rows(after, where or ())
    with Progress("heads") as progress:
        found = compare_runs(before, after, pool, RunTexts(after, device, progress.loading), rows, progress)
    plain = comparison_json(found)
    place = publish(after, found.name, {FILE: plain}, out)
    if as_json:
        print_json(finite(plain))
    else:
        print_comparison(found, top, place)


def ablate(
    run: RunArgument,
    classes: ClassesOption = None,
    templates: TemplatesOption = "imagenet",
    attribute: AttributeOption = None,
    head: AblatedOption = None,
    layers: LayersOption = None,
    mlps: MlpsOption = None,
    role: RoleOption = None,
    reconstruct: ReconstructOption = None,
    where: WhereOption = None,
    fit: FitOption = None,
    means: MeansOption = None,
    random: RandomOption = 0,
    study: StudyOption = None,
    seeds: SeedsOption = 3,
    texts: TextsOption = None,
    criterion: CriterionOption = "explained",
    min_group: GroupOption = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace heads, layers or MLPs by their means, classify every stored row again, and show what changes.

    Without a choice of what to replace, only the plain accuracy. No image is read and no image model runs. Table and
    figure also go to `RUN/ablations/NAME/`.

    Example: `clipaudit ablate runs/train --attribute place --role location --fit split=val --where split=test
    --random 1000`
    """
    from clipaudit.heads.experiment import Choice, ExperimentConfig

    config = ExperimentConfig(
        classes=classes,
        templates=templates,
        attribute=attribute,
        where=tuple(where or ()),
        fit=tuple(fit or ()),
        means=means,
        texts=texts,
        criterion=_criterion(criterion),
        min_group=min_group,
        seed=seed,
    )
    choice = Choice(heads=listed(head), layers=layers, mlps=mlps, roles=listed(role))
    if study is not None:
        _study(_question(run, config, device), choice, study, seeds, out, as_json)
    else:
        _ablation(_question(run, config, device), choice, reconstruct, random, out, as_json)


def _criterion(given: str) -> Criterion:
    one_of("--criterion", given, ("explained", "reference"))
    return "reference" if given == "reference" else "explained"


def _question(run: str, config: ExperimentConfig, device: str) -> Experiment:
    from clipaudit.cli.console.heads import Progress
    from clipaudit.heads.experiment import Experiment
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.run.reader import Run

    opened = Run(run)
    with Progress("") as progress:
        return Experiment(opened, RunTexts(opened, device, progress.loading), config)


def _ablation(
    question: Experiment, choice: Choice, reconstruct: int | None, random: int, out: str | None, as_json: bool
) -> None:
    from clipaudit.cli.console import heads as console
    from clipaudit.heads.experiment import ablation, ablation_json
    from clipaudit.heads.plots import ablation_figure
    from clipaudit.run.derived import publish

    if random < 0:
        raise UsageError(f"--random must be at least 0, not {random}")
    with console.Progress("heads") as progress:
        found = ablation(question, choice, reconstruct=reconstruct, random=random, on_head=progress)
    plain = ablation_json(found)
    files = {"ablation.json": plain, "ablation.svg": ablation_figure(found)}
    place = publish(question.run, "ablations/ablation", files, out)
    if as_json:
        print_json(plain)
    else:
        console.print_ablation(found, place)


def _study(question: Experiment, choice: Choice, name: str, seeds: int, out: str | None, as_json: bool) -> None:
    from clipaudit.cli.console import heads as console
    from clipaudit.heads.plots import study_figure
    from clipaudit.heads.studies import study, study_json
    from clipaudit.run.derived import publish

    if choice:
        raise UsageError(f"--study {name} chooses what it replaces: leave out --heads, --layers, --mlps and --role")
    with console.Progress("variants") as progress:
        found = study(question, name, seeds=seeds, on_step=progress)
    plain = study_json(found)
    files = {f"{name}.json": plain, f"{name}.svg": study_figure(found)}
    place = publish(question.run, f"ablations/{name}", files, out)
    if as_json:
        print_json(plain)
    else:
        console.print_study(found, place)
