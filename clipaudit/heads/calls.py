"""The room's questions for Python, one call each with defaults: `describe_heads`, `describe_concepts`, `ablate` and
`compare_runs`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from clipaudit.heads.allocation import Allocation
from clipaudit.heads.comparison import Comparison, compare
from clipaudit.heads.concepts import PENALTY, SAMPLE, ConceptConfig, Concepts, concepts_of
from clipaudit.heads.description import DEFAULT_STEPS, DescribeConfig, Description, describe
from clipaudit.heads.experiment import Ablation, Experiment, ExperimentConfig, ablation
from clipaudit.heads.named_columns import Choice
from clipaudit.heads.presence_ablation import PresenceAblation, presence_ablation
from clipaudit.heads.texts.pool import TextPool, pool_for
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.heads.textspan import Criterion
from clipaudit.run.reader import Run, RunPlace, opened
from clipaudit.run.rows import chosen_rows
from clipaudit.schema import Names, as_names

Progress: TypeAlias = Callable[[int, int], None]
"""Told `(done, total)`."""


def _silent(done: int, total: int) -> None:
    """Nothing."""


def describe_heads(
    run: RunPlace,
    *,
    heads: Names | None = None,
    where: Names = (),
    texts: str | os.PathLike[str] | TextPool | None = None,
    steps: int | None = None,
    criterion: Criterion = "explained",
    allocation: Allocation = "own",
    roles: bool = True,
    stability: bool = False,
    seed: int = 0,
    device: str = "auto",
    on_head: Progress = _silent,
) -> Description:
    """Say in words what attention heads look at: the texts that span most of each head's variance, and its role.

    No image is read: the run's moments and its model's text encoder are enough. TextSpan of Gandelsman, Efros and
    Steinhardt, ICLR 2024, Algorithm 1 (docs/method.md 3).

    Args:
        run: a run or its path.
        heads: one head label or several; default: all that the run stores.
        where: filters that rows must pass, such as `place = water`; default: all ok rows.
        texts: the texts to choose from, a file of them, or a `TextPool`; default: clipaudit's own pool, for
            the demo model the words that it knows.
        steps: texts chosen for each head; default: 20, or all where there are fewer.
        criterion: `explained`, the paper's objective, or `reference`, the published code's.
        allocation: `own`, or `published` for the published code's outputs of heads (of runs with `--components`).
        roles: whether to find each head's role, such as `location`, where the texts have properties.
        stability: whether to draw shards again and count how often each text is chosen.
        seed: of everything that is drawn at random.
        device: where the text encoder runs: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        on_head: told `(done, total)` after each head.

    Raises UsageError when the run lacks a head, no rows pass, or there are fewer texts than steps.

    >>> texts = TextPool.of(["a photo of water", "a photo of a forest", "a photo of a bird"])
    >>> described = describe_heads("demo-out/birds-run", heads="L05H00", texts=texts, steps=2)
    >>> set(described.words("L05H00")) < set(texts.texts)
    True
    """
    reader = opened(run)
    pool = _pool(reader, texts)
    config = DescribeConfig(
        heads=None if heads is None else as_names(heads),
        rows=chosen_rows(reader, as_names(where)),
        steps=min(DEFAULT_STEPS, len(pool)) if steps is None else steps,
        criterion=criterion,
        allocation=allocation,
        roles=roles,
        stability=stability,
        seed=seed,
    )
    return describe(reader, pool, RunTexts(reader, device), config, on_head)


def describe_concepts(
    run: RunPlace,
    by: str | None = None,
    *,
    where: Names = (),
    texts: str | os.PathLike[str] | TextPool | None = None,
    penalty: float = PENALTY,
    sample: int = SAMPLE,
    seed: int = 0,
    device: str = "auto",
    on_images: Progress = _silent,
) -> Concepts:
    """Say what images are made of, as sparse sums of texts: of all of them, or of those of each label or value.

    SpLiCE of Bhalla, Oesterling, Srinivas, Calmon and Lakkaraju, NeurIPS 2024 (docs/method.md 3).

    Args:
        run: a run or its path.
        by: `label`, or a column whose values part the images; default: all images as one group.
        where: filters that rows must pass.
        texts: the texts to choose from, a file of them, or a `TextPool`; default: clipaudit's own pool, for
            the demo model the words that it knows.
        penalty: least cosine of a concept with what the others leave, above 0 and below 1; higher gives fewer.
        sample: images that are drawn at most, as many of each group.
        seed: of the images that are drawn.
        device: where the text encoder runs.
        on_images: told `(done, total)` as it goes.

    Raises UsageError when the run lacks the column, no row passes, or one row alone does.

    >>> made_of = describe_concepts("demo-out/birds-run", by="place", sample=200)
    >>> [group.name for group in made_of.groups]
    ['land', 'water']
    """
    reader = opened(run)
    config = ConceptConfig(by=by, rows=chosen_rows(reader, as_names(where)), penalty=penalty, sample=sample, seed=seed)
    return concepts_of(reader, _pool(reader, texts), RunTexts(reader, device), config, on_images)


def ablate(
    run: RunPlace,
    heads: Names = (),
    *,
    layers: str | None = None,
    mlps: str | None = None,
    components: Names = (),
    roles: Names = (),
    reconstruct: int | None = None,
    direction: str | None = None,
    attribute: str | None = None,
    where: Names = (),
    fit: Names = (),
    means: str | None = None,
    random: int = 0,
    classes: str | None = None,
    templates: str = "imagenet",
    texts: str | None = None,
    criterion: Criterion = "explained",
    allocation: Allocation = "own",
    min_group: int = 10,
    seed: int = 0,
    device: str = "auto",
    on_head: Progress = _silent,
) -> Ablation:
    """Replace heads, layers or MLPs by their means, classify every stored row again: what changes (docs/method.md 5).

    Args:
        run: a run with labels, or its path; with nothing to replace, the result is its plain zero-shot accuracy.
        heads, layers, mlps, components, roles: what is replaced, as by the options of the command.
        reconstruct, direction: replace heads by what so many of their texts span; take out this text's direction alone.
        attribute, min_group: groups are classes by this column's values, those with enough rows can be the worst.
        where, fit: filters for the rows that are classified, and for those that means, roles and texts come from.
        means, random: other means (`balanced`, another run, a filter); how many random sets of heads are a control.
        classes, templates, texts, criterion, allocation, device: as the command's.
        seed, on_head: of everything drawn at random; told `(done, total)` while roles are found.

    Raises UsageError when a column is not stored, the run has no labels, no rows pass, or no head has a role.

    >>> result = ablate("demo-out/birds-run", ["L04H01", "L05H00"], attribute="place")
    >>> 0 <= result.ablated.accuracy.value <= 1
    True
    """
    config = ExperimentConfig(
        classes=classes,
        templates=templates,
        attribute=attribute,
        where=as_names(where),
        fit=as_names(fit),
        means=means,
        texts=texts,
        criterion=criterion,
        allocation=allocation,
        min_group=min_group,
        seed=seed,
    )
    choice = _choice(heads, layers, mlps, components, roles)
    reader = opened(run)
    experiment = Experiment(reader, RunTexts(reader, device), config)
    return ablation(experiment, choice, reconstruct=reconstruct, direction=direction, random=random, on_head=on_head)


def ablate_presence(
    run: RunPlace,
    heads: Names = (),
    *,
    layers: str | None = None,
    mlps: str | None = None,
    components: Names = (),
    roles: Names = (),
    reconstruct: int | None = None,
    where: Names = (),
    fit: Names = (),
    means: str | None = None,
    random: int = 0,
    classes: str | None = None,
    templates: str = "imagenet",
    texts: str | None = None,
    criterion: Criterion = "explained",
    allocation: Allocation = "own",
    seed: int = 0,
    device: str = "auto",
    on_head: Progress = _silent,
) -> PresenceAblation:
    """`ablate` where images have several labels: how well each label's cosine ranks the images that have it.

    Arguments as of `ablate`. The result has average precision (C,) and AUC (C,) of each label, float64 in 0..1, before
    and after, and their means with intervals. Raises UsageError as `ablate`, and for a run of single labels.

    >>> ablate_presence("demo-out/birds-run", "L05H00")
    Traceback (most recent call last):
    ...
    clipaudit.errors.UsageError: images of the run at ... have one label each: presence needs lists of them
    """
    config = ExperimentConfig(
        classes=classes,
        templates=templates,
        where=as_names(where),
        fit=as_names(fit),
        means=means,
        texts=texts,
        criterion=criterion,
        allocation=allocation,
        seed=seed,
    )
    reader = opened(run)
    experiment = Experiment(reader, RunTexts(reader, device), config)
    choice = _choice(heads, layers, mlps, components, roles)
    return presence_ablation(experiment, choice, reconstruct=reconstruct, random=random, on_head=on_head)


def _choice(heads: Names, layers: str | None, mlps: str | None, components: Names, roles: Names) -> Choice:
    return Choice(
        heads=as_names(heads), layers=layers, mlps=mlps, components=as_names(components), roles=as_names(roles)
    )


def compare_runs(
    before: RunPlace,
    after: RunPlace,
    *,
    where: Names = (),
    texts: str | os.PathLike[str] | TextPool | None = None,
    device: str = "auto",
    on_head: Progress = _silent,
) -> Comparison:
    """Say how each head's mean moved and its spread changed from one run to another of the same model, in words.

    Args:
        before: a run or its path.
        after: the run that is compared with it.
        where: filters that the rows of both must pass.
        texts: the texts to say it in, a file of them, or a `TextPool`; default: clipaudit's own pool, for
            the demo model the words that it knows.
        device: where the text encoder runs.
        on_head: told `(done, total)` after each head.

    Raises RunMismatch when the runs are of different models, and UsageError when they share no head or have too few
    rows.

    >>> texts = TextPool.of(["a photo of water", "a photo of a forest", "a photo of a bird"])
    >>> compared = compare_runs("demo-out/birds-run", "demo-out/birds-run", texts=texts)
    >>> any(head.moved for head in compared.heads)
    False
    """
    first, second = opened(before), opened(after)
    rows = tuple(chosen_rows(reader, as_names(where)) for reader in (first, second))
    texts_of_run = RunTexts(second, device, keep=False)
    return compare(first, second, _pool(second, texts), texts_of_run, (rows[0], rows[1]), on_head)


def _pool(run: Run, texts: str | os.PathLike[str] | TextPool | None) -> TextPool:
    if isinstance(texts, TextPool):
        return texts
    return pool_for(run.manifest.identity["model"], None if texts is None else os.fspath(texts))
