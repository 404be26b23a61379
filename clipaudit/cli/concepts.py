"""The command `concepts`: what images are made of, as a few texts with weights."""

from __future__ import annotations

from typing import Annotated

from clipaudit.cli.options import (
    JsonOption,
    OutOption,
    RunArgument,
    SeedOption,
    TextDeviceOption,
    TextsOption,
    WhereOption,
    at_least,
    option,
    print_json,
)
from clipaudit.cli.saving import save
from clipaudit.cli.terminal import tell


def concepts(
    run: RunArgument,
    by: Annotated[
        str | None, option("Column whose values part the images, such as place [label, where each image has one].")
    ] = None,
    texts: TextsOption = None,
    penalty: Annotated[
        float, option("Least cosine of a concept with what the others leave of an image; higher: fewer [0.25].")
    ] = 0.25,
    sample: Annotated[int, option("Images drawn at most, as many of each group [2000].")] = 2000,
    top: Annotated[int, option("Concepts shown of each group [5].")] = 5,
    where: WhereOption = None,
    seed: SeedOption = 0,
    device: TextDeviceOption = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the images of each class, or of each value of a column, are made of: sparse sums of texts (SpLiCE).

    Reads stored embeddings and the run's own model's text encoder, no image. A concept is relative to the mean of all
    rows: what all images share is none. It describes; whether a class hangs on a concept is what `report` tests. The
    result also goes to `RUN/concepts/NAME/concepts.json`, NAME being `all`, or the rows that were chosen.

    Example: `clipaudit concepts demo-out/birds-run --by place --penalty 0.3`
    """
    at_least("--top", top, 1)
    from clipaudit.cli.console.concepts import print_concepts
    from clipaudit.cli.console.progress import ProgressBar
    from clipaudit.heads.concepts import FILE, FOLDER, ConceptConfig, concepts_json, concepts_of
    from clipaudit.heads.description import directory_name
    from clipaudit.heads.texts.pool import pool_for
    from clipaudit.heads.texts.vectors import RunTexts
    from clipaudit.run.reader import Run
    from clipaudit.run.rows import chosen_rows

    opened_run = Run(run)
    pool = pool_for(opened_run.manifest.identity["model"], texts)
    one_label = opened_run.spec.label_kind is not None and not opened_run.spec.multi_label
    config = ConceptConfig(
        by="label" if by is None and one_label else by,
        rows=chosen_rows(opened_run, where or ()),
        penalty=penalty,
        sample=sample,
        seed=seed,
    )
    tell(f"putting at most {sample:,} stored embeddings into concepts: no image is read")
    with ProgressBar("images") as progress:
        result = concepts_of(opened_run, pool, RunTexts(opened_run, device, progress.loading), config, progress)
    json_value = concepts_json(result, top)
    if as_json:
        print_json(json_value)
    else:
        print_concepts(result, top)
    save(opened_run, f"{FOLDER}/{directory_name(config.rows)}", {FILE: json_value}, out)
