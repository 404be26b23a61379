"""The command `rehearse`: what a model would learn from a run's images, and what mends it."""

from __future__ import annotations

from typing import Annotated

from clipaudit.cli.options import ROWS, JsonOption, RunArgument, SeedOption, listed, option, print_json
from clipaudit.cli.terminal import advise, tell

_ClassesOption = Annotated[
    str | None, option("Class names, one a line, or label, tab and name [classnames.txt beside the shards, or labels].")
]
_AttributeOption = Annotated[
    list[str] | None, option("Column that says which images have a cue, such as place; repeatable.")
]
_SplitOption = Annotated[
    str | None, option("Column whose rows with train train; all others are scored: split or json:split.", panel=ROWS)
]
_TestRunOption = Annotated[str | None, option("Another run of the same model to score.", panel=ROWS)]
_ClusterOption = Annotated[
    str | None, option("Column whose equal values are one source, such as photographer [equal pictures].", panel=ROWS)
]


def rehearse(
    run: RunArgument,
    attribute: _AttributeOption = None,
    split: _SplitOption = None,
    test_run: _TestRunOption = None,
    classes: _ClassesOption = None,
    cluster: _ClusterOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a linear probe on a run's images in five ways, and say what it learns from a column and what mends it.

    As it is, with the group weights, on the balanced subset, with the cue taken out, and with a last layer from a
    balanced part: the average, the group mean, the worst group and the gap of each, and how many images to collect.
    Where images have several labels, the presence of each is learned, and figures are AUCs.
    Reads stored embeddings, no image and no model; gives no verdict (`clipaudit report` does).

    Example: `clipaudit rehearse demo-out/birds-run --attribute place --split split`
    """
    from clipaudit.cli.console.rehearse import print_rehearsal
    from clipaudit.cues.options import AuditOptions
    from clipaudit.cues.rehearse_run import rehearse_run
    from clipaudit.cues.result.rehearsal_parts import rehearsal_json

    tell(f"training linear probes on the stored embeddings of {run}: seconds for thousands of images")
    panel = rehearse_run(
        run,
        AuditOptions(
            classes=classes,
            attributes=listed(attribute),
            split=None if split is None else split.removeprefix("json:").rpartition(".")[2],
            cluster=cluster,
            seed=seed,
        ),
        test_run=test_run,
    )
    if as_json:
        print_json(rehearsal_json(panel))
    else:
        print_rehearsal(panel)
    columns = [word for name in attribute or () for word in ("--attribute", name)]
    advise("clipaudit", "report", run, *columns, *(() if split is None else ("--split", split)))
