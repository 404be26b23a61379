"""The command `ablate`: zero-shot accuracy of stored rows without some heads, and the first paper's studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from clipaudit.cli.options import (
    ROWS,
    AllocationOption,
    CriterionOption,
    JsonOption,
    OutOption,
    RunArgument,
    SeedOption,
    TextDeviceOption,
    TextsOption,
    WhereOption,
    at_least,
    listed,
    one_of,
    option,
    print_json,
)
from clipaudit.cli.saving import save
from clipaudit.errors import UsageError

if TYPE_CHECKING:
    from clipaudit.heads.experiment import Experiment, ExperimentConfig
    from clipaudit.heads.named_columns import Choice

REPLACED = "What is replaced"

ClassesOption = Annotated[
    str | None,
    option("Class names, one a line, or label, tab, name [classnames.txt beside the shards, or the labels]."),
]
TemplatesOption = Annotated[str, option("imagenet, simple, single or a file of prompts with {} [imagenet].")]
AttributeOption = Annotated[str | None, option("Groups are classes by this attribute: the worst one is shown.")]
HeadsOption = Annotated[
    list[str] | None, option("Heads such as L22H05,L22H06; repeatable.", "--head", "--heads", panel=REPLACED)
]
LayersOption = Annotated[
    str | None, option("All heads of these layers: a number of last ones, or 8,10 or 8-11.", panel=REPLACED)
]
MlpsOption = Annotated[str | None, option("MLPs: all, or layers as in --layers.", panel=REPLACED)]
ComponentsOption = Annotated[
    list[str] | None,
    option("self-attention (of the class token), attention or mlp, or columns as mlp_L11; repeatable.", panel=REPLACED),
]
RoleOption = Annotated[
    list[str] | None, option("Heads with this role: a property or a kind of the texts; repeatable.", panel=REPLACED)
]
ReconstructOption = Annotated[
    int | None, option("Replace heads by what so many texts span, not by their means.", panel=REPLACED)
]
DirectionOption = Annotated[
    str | None, option("Take only this text's direction out of the heads, not the whole heads.", panel=REPLACED)
]
FitOption = Annotated[
    list[str] | None,
    option("Rows that means, roles and texts are taken from: filters as in --where, repeatable [all].", panel=ROWS),
]
MeansOption = Annotated[
    str | None,
    option("Other means: balanced, another run, or rows by a filter: split=fit [the --fit rows].", panel=ROWS),
]
RandomOption = Annotated[int, option("Also draw so many sets of as many heads of the same layers [0].")]
StudyOption = Annotated[
    str | None, option("components, layers, heads or texts: a table and figure of the paper.", panel="Study")
]
SeedsOption = Annotated[int, option("Draws of the candidates of --study texts [3].", panel="Study")]
GroupOption = Annotated[int, option("Smaller groups cannot be the worst [10].", "--min-group")]


def ablate(
    run: RunArgument,
    classes: ClassesOption = None,
    templates: TemplatesOption = "imagenet",
    attribute: AttributeOption = None,
    head: HeadsOption = None,
    layers: LayersOption = None,
    mlps: MlpsOption = None,
    components: ComponentsOption = None,
    role: RoleOption = None,
    reconstruct: ReconstructOption = None,
    direction: DirectionOption = None,
    where: WhereOption = None,
    fit: FitOption = None,
    means: MeansOption = None,
    random: RandomOption = 0,
    study: StudyOption = None,
    seeds: SeedsOption = 3,
    texts: TextsOption = None,
    criterion: CriterionOption = "explained",
    allocation: AllocationOption = "own",
    min_group: GroupOption = 10,
    seed: SeedOption = 0,
    device: TextDeviceOption = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace heads, layers or other components by their means, classify every stored row again, and show what changes.

    Where images have several labels, average precision and AUC of each label instead of accuracy. Without a choice of
    what to replace, only the plain figures. No image is read and no image model runs. Table and
    figure also go to `RUN/ablations/NAME/`.

    Example: `clipaudit ablate demo-out/birds-run --attribute place --role place --fit split=train --where split=test
    --random 100`
    """
    one_of("--criterion", criterion, ("explained", "reference"))
    one_of("--allocation", allocation, ("own", "published"))
    at_least("--random", random, 0)
    from clipaudit.heads.experiment import ExperimentConfig
    from clipaudit.heads.named_columns import Choice

    config = ExperimentConfig(
        classes=classes,
        templates=templates,
        attribute=attribute,
        where=tuple(where or ()),
        fit=tuple(fit or ()),
        means=means,
        texts=texts,
        criterion="reference" if criterion == "reference" else "explained",
        allocation="published" if allocation == "published" else "own",
        min_group=min_group,
        seed=seed,
    )
    choice = Choice(heads=listed(head), layers=layers, mlps=mlps, components=listed(components), roles=listed(role))
    if study is not None:
        at_least("--seeds", seeds, 1)
    if study is not None and choice:
        raise UsageError(
            f"--study {study} chooses what it replaces: leave out --heads, --layers, --mlps, --components and --role"
        )
    for name, given in (
        ("--random", random > 0),
        ("--reconstruct", reconstruct is not None),
        ("--direction", direction is not None),
    ):
        if study is not None and given:
            raise UsageError(
                f"{name} has no use with --study {study}, which says itself what it compares: leave it out"
            )
    experiment = _experiment(run, config, choice, study, device)
    if study is not None:
        _run_study(experiment, study, seeds, out, as_json)
    else:
        _run_ablation(experiment, choice, reconstruct, direction, random, out, as_json)


def _experiment(run: str, config: ExperimentConfig, choice: Choice, study: str | None, device: str) -> Experiment:
    """The rows, classes and texts of an ablation; loads the run's text encoder once it is known to be of use."""
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.heads.experiment import Experiment, check_choice
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.run.reader import Run

    opened_run = Run(run)
    check_choice(opened_run, choice, study)
    with ProgressBar("") as progress:
        return Experiment(opened_run, RunTexts(opened_run, device, progress.loading), config)


def _run_ablation(
    experiment: Experiment,
    choice: Choice,
    reconstruct: int | None,
    direction: str | None,
    random: int,
    out: str | None,
    as_json: bool,
) -> None:
    """Ablate once, write table and figure, and print the result."""
    if experiment.run.spec.multi_label:
        if direction is not None:
            experiment.require_single_labels("--direction")
        _run_presence(experiment, choice, reconstruct, random, out, as_json)
        return
    from clipaudit.cli.console.ablate import print_ablation
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.heads.experiment import ablation
    from clipaudit.heads.experiment_json import ablation_json
    from clipaudit.heads.plots import ablation_figure

    with ProgressBar("heads") as progress:
        result = ablation(
            experiment, choice, reconstruct=reconstruct, direction=direction, random=random, on_head=progress
        )
    json_value = ablation_json(result)
    if as_json:
        print_json(json_value)
    else:
        print_ablation(result)
    files = {"ablation.json": json_value, "ablation.svg": ablation_figure(result)}
    save(experiment.run, "ablations/ablation", files, out)


def _run_presence(
    experiment: Experiment, choice: Choice, reconstruct: int | None, random: int, out: str | None, as_json: bool
) -> None:
    """The same where images have several labels: write and print average precisions."""
    from clipaudit.cli.console.ablate import print_presence
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.heads.presence_ablation import presence_ablation, presence_json

    with ProgressBar("heads") as progress:
        result = presence_ablation(experiment, choice, reconstruct=reconstruct, random=random, on_head=progress)
    json_value = presence_json(result)
    if as_json:
        print_json(json_value)
    else:
        print_presence(result)
    save(experiment.run, "ablations/ablation", {"ablation.json": json_value}, out)


def _run_study(experiment: Experiment, name: str, seeds: int, out: str | None, as_json: bool) -> None:
    """Run one of the paper's studies, write table and figure, and print the result."""
    from clipaudit.cli.console.ablate import print_study
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.heads.plots import study_figure
    from clipaudit.heads.studies import study, study_json

    with ProgressBar("variants") as progress:
        result = study(experiment, name, seeds=seeds, on_step=progress)
    json_value = study_json(result)
    if as_json:
        print_json(json_value)
    else:
        print_study(result)
    files = {f"{name}.json": json_value, f"{name}.svg": study_figure(result)}
    save(experiment.run, f"ablations/{name}", files, out)
