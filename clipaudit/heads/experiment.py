"""Zero-shot experiments on stored rows: what is asked, what is replaced, by which means, and what that changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from clipaudit.arrays import Bools, Floats
from clipaudit.config import parse_layers
from clipaudit.errors import UsageError
from clipaudit.heads.ablation import (
    Means,
    Replacement,
    ZeroShot,
    check_stored,
    component_columns,
    direction_ablation,
    layer_heads,
    mean_ablation,
    replacement_means,
    span_reconstruction,
    stream_logits,
)
from clipaudit.heads.allocation import INITIAL, Allocation, PublishedAllocation, published_moments
from clipaudit.heads.column_sets import as_set, random_sets
from clipaudit.heads.description import find_roles
from clipaudit.heads.named_columns import Choice, check_roles, heads_with, named_components
from clipaudit.heads.roles import Role
from clipaudit.heads.texts.pool import TextPool, pool_for
from clipaudit.heads.texts.prompts import load_templates
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.heads.textspan import Criterion, TextSpan, textspans
from clipaudit.heads.zeroshot import Control, Score, control, score, score_sets
from clipaudit.run.basis import Basis
from clipaudit.run.classes import ClassNames, find_classes
from clipaudit.run.filters import is_filter
from clipaudit.run.moments import Moments
from clipaudit.run.number_bins import number_bins
from clipaudit.run.reader import Run
from clipaudit.run.rows import ALL, Rows, check_rows, chosen_rows, group_column, moments_over, require_rows
from clipaudit.schema import Label, as_paths, as_tuples, mlp_column, parse_head_label

BALANCED: Final = "balanced"


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What is asked of the rows, and from which rows replacements are learnt."""

    classes: str | None = None
    """File of class names; None for `classnames.txt` beside the shards, or the run's labels."""
    templates: str = "imagenet"
    attribute: str | None = None
    """Groups are classes by its values."""
    where: tuple[str, ...] = ()
    """Filters of the rows that are classified, `split = test`; see `clipaudit.run.filters`."""
    fit: tuple[str, ...] = ()
    """Filters of the rows that roles, texts and means are taken from."""
    means: str | None = None
    """Other means: `balanced` (the fit rows, every label with equal weight), another run, or a filter of rows."""
    texts: str | None = None
    """Text file for roles and reconstructions; None for our own pool."""
    criterion: Criterion = "explained"
    allocation: Allocation = "own"
    """Whose parts are replaced: ours, or those of the published code; see `PublishedAllocation`."""
    min_group: int = 10
    """Groups with fewer rows cannot be the worst."""
    seed: int = 0

    def __post_init__(self) -> None:
        as_tuples(self, "where", "fit")
        as_paths(self, "classes", "templates", "means", "texts")
        if self.min_group < 1:
            raise UsageError(f"--min-group must be at least 1, not {self.min_group}")


class Experiment:
    """A run with what is asked of it; class vectors and moments are made once.

    UsageError when labels have no class names, there are no labels or no such rows, or fewer than two classes.
    """

    def __init__(self, run: Run, texts: RunTexts, config: ExperimentConfig) -> None:
        self.run, self.texts, self.config = run, texts, config
        self.published = PublishedAllocation.of(run) if config.allocation == "published" else None
        self._rows = chosen_rows(run, config.where)
        self.fit: Rows = chosen_rows(run, config.fit)
        self._attribute = None if config.attribute is None else group_column(run, config.attribute)
        labels = run.class_labels()
        self.names: ClassNames = find_classes(config.classes, [shard.url for shard in run.manifest.shards], labels)
        if len(self.names) < 2 and not run.spec.multi_label:
            raise UsageError(f"accuracy needs at least two classes, and {self.names.source} has {len(self.names)}")
        self._class_of: dict[Label, int] = dict(self.names.rows(labels).items())
        self._templates = load_templates(config.templates)
        for rows in dict.fromkeys((self._rows, self.fit)):
            check_rows(run, rows)

    def require_single_labels(self, what: str) -> None:
        """UsageError where images have several labels, for what counts right answers."""
        if self.run.spec.multi_label:
            raise UsageError(
                f"{what} counts right answers, and images of the run at {self.run.directory.url} have several labels:"
                " average precision of each is what `clipaudit ablate` and `ablate_presence` give"
            )

    @cached_property
    def asked(self) -> ZeroShot:
        """The question to each row, with the classes' vectors."""
        return ZeroShot(
            classes=self.texts.classes(self.names.names, self._templates),
            class_of=self._class_of,
            attribute=self._attribute,
            bins=None if self._attribute in (None, "label") else number_bins(self.run, self._attribute, self._rows),
            rows=self._rows,
            published=self.published,
        )

    @cached_property
    def pool(self) -> TextPool:
        """Texts for roles and reconstructions."""
        return pool_for(self.run.manifest.identity["model"], self.config.texts)

    @cached_property
    def moments(self) -> Moments:
        """Of the fit rows, in the allocation asked for."""
        if self.published is None:
            moments = moments_over(self.run, self.fit)
        else:
            moments = published_moments(self.run, self.published, self.run.head_labels, self.fit)
        require_rows(self.run, self.fit, moments.count)
        return moments

    def means(self, columns: Sequence[str]) -> Means:
        """What replaced columns become, as `config.means` says; UsageError as in `replacement_means`."""
        run, rows = self.means_rows
        published = PublishedAllocation.of(run) if self.published is not None else None
        balanced = self.config.means == BALANCED
        return replacement_means(run, columns, rows, balanced=balanced, published=published)

    @cached_property
    def means_rows(self) -> tuple[Run, Rows]:
        """The run and the rows that means are taken of, as `config.means` says; UsageError when there are none."""
        given = self.config.means
        if given is None or given == BALANCED:
            return self.run, self.fit
        if is_filter(given) and not Path(given).exists() and "://" not in given:
            run, rows = self.run, chosen_rows(self.run, given)
        else:
            run, rows = Run(given), ALL
        check_rows(run, rows)
        return run, rows

    @property
    def basis(self) -> Basis:
        """Of the stored heads, in the allocation asked for."""
        return self.run.basis() if self.published is None else self.published.basis

    def spans(self, heads: Sequence[str], texts: int) -> dict[str, TextSpan]:
        """The first `texts` texts of each head, from the fit rows; UsageError when the pool has fewer."""
        self.pool.require(texts)
        return self.spans_of(self.texts.vectors(self.pool.texts), heads, texts)

    def spans_of(self, vectors: Floats, heads: Sequence[str], texts: int) -> dict[str, TextSpan]:
        """The same of candidates (T, D) in the joint space."""
        project = None if self.published is None else self.published.spanned
        return textspans(self.moments, self.basis, vectors, texts, self.config.criterion, heads, project)

    def ablated(self, columns: Sequence[str], means: Means) -> tuple[Replacement, ...]:
        """Each of the columns replaced by its mean; UsageError as in `mean_ablation`."""
        return mean_ablation(self.run, columns, means, self.published)

    def without_direction(self, heads: Sequence[str], direction: str, means: Means) -> tuple[Replacement, ...]:
        """Each of the heads without what it holds along a text; UsageError as in `mean_ablation`."""
        vector = self.texts.vectors([direction])[0]
        return direction_ablation(self.run, heads, vector, means, self.published)

    def mlps(self) -> tuple[str, ...]:
        """Every stored MLP; in the published allocation with the class token's embedding, which that code counts as
        the first MLP. UsageError when none is stored."""
        return (*([INITIAL] if self.published is not None else []), *component_columns(self.run, "mlp"))

    def roles(self, on_head: Callable[[int, int], None] = lambda done, total: None) -> list[Role]:
        """Every stored head's role, from the fit rows; UsageError when the pool has fewer than two properties."""
        return find_roles(self.run, self.pool, self.texts, self.run.head_labels, self.moments, self.basis, on_head)


# -- which columns -----------------------------------------------------------------------------------------------------


def chosen_columns(question: Experiment, choice: Choice, roles: Sequence[Role]) -> tuple[str, ...]:
    """The columns of a choice, each once; UsageError when a column is not stored or no head has a role."""
    run = question.run
    total = 1 + max(parse_head_label(head)[0] for head in run.head_labels)
    check_stored(run, choice.heads)
    columns = [*choice.heads]
    if choice.layers is not None:
        columns += layer_heads(run, parse_layers(choice.layers, total))
    if choice.mlps is not None and choice.mlps != "all":
        columns += [mlp_column(layer) for layer in parse_layers(choice.mlps, total)]
    elif choice.mlps is not None:
        columns += question.mlps()
    for name in choice.components:
        columns += question.mlps() if name == "mlp" else named_components(run, name)
    if choice.roles:
        columns += heads_with(choice.roles, roles)
    check_stored(run, [name for name in columns if name != INITIAL])
    return tuple(dict.fromkeys(columns))


def check_choice(run: Run, choice: Choice, study: str | None = None) -> None:
    """UsageError when the run does not store what a choice or a study names; before any text is encoded."""
    check_stored(run, choice.heads)
    if study == "components" or choice.mlps is not None:
        component_columns(run, "mlp")
    for name in choice.components:
        check_stored(run, named_components(run, name))


# -- one ablation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Ablation:
    """What replacing some columns does to zero-shot accuracy."""

    question: Experiment = field(repr=False)
    columns: tuple[str, ...]
    reconstructed: int | None
    """Heads were replaced by what so many texts span; None: everything was replaced by its mean."""
    direction: str | None
    """Heads lost what they hold along this text alone; None: they were replaced as a whole."""
    means: Means
    base: Score
    ablated: Score
    roles: dict[str, Role]
    """Of the replaced heads, when they were chosen by role."""
    accuracy_control: Control | None
    worst_control: Control | None
    """Among random sets of as many heads of the same layers: accuracy, and the worst group's."""


def ablation(
    question: Experiment,
    choice: Choice,
    *,
    reconstruct: int | None = None,
    direction: str | None = None,
    random: int = 0,
    on_head: Callable[[int, int], None] = lambda done, total: None,
) -> Ablation:
    """Replace the chosen columns and classify every row again, with a control of `random` sets of heads.

    `random` is how many sets of as many heads of the same layers are drawn; with `direction` the chosen heads and
    those of the sets lose what they hold along that text, and nothing else. UsageError as in `Experiment` and
    `chosen_columns`, and when there are no other heads to draw. Source: arXiv 2310.05916 (docs/method.md 5).
    """
    question.require_single_labels("accuracy")
    prepared = prepare(question, choice, reconstruct=reconstruct, direction=direction, random=random, on_head=on_head)
    chosen = prepared.chosen
    base, ablated = score(stream_logits(question.run, question.asked, prepared.replacements), [chosen & False, chosen])
    drawn = None
    if random:
        sets = random_sets(prepared.everything, prepared.columns, random, question.config.seed)
        drawn = score_sets(stream_logits(question.run, question.asked, prepared.replacements), sets)
    worst = ablated.worst_group(question.config.min_group)
    return Ablation(
        question=question,
        columns=prepared.columns,
        reconstructed=reconstruct,
        direction=direction,
        means=prepared.means,
        base=base,
        ablated=ablated,
        roles=prepared.roles,
        accuracy_control=None if drawn is None else control(ablated.accuracy.value, drawn.accuracy),
        worst_control=None
        if drawn is None or worst is None
        else control(worst[1].value, drawn.worst_group(question.config.min_group)),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What an ablation replaces, by what."""

    columns: tuple[str, ...]
    """The chosen ones."""
    everything: tuple[str, ...]
    """Those, and the heads that random sets may take instead."""
    chosen: Bools
    """(P,) which of `everything` are chosen."""
    means: Means
    replacements: tuple[Replacement, ...]
    """Of `everything`, in its order."""
    roles: dict[str, Role]
    """Of the replaced heads, when they were chosen by role."""


def prepare(
    question: Experiment,
    choice: Choice,
    *,
    reconstruct: int | None,
    random: int,
    on_head: Callable[[int, int], None],
    direction: str | None = None,
) -> Prepared:
    """Choose columns and make their replacements; UsageError as in `ablation`."""
    if random < 0:
        raise UsageError(f"random must be at least 0, not {random}")
    _check(question, choice, reconstruct, random)
    roles = question.roles(on_head) if choice.roles else []
    columns = chosen_columns(question, choice, roles)
    if direction is not None:
        _check_direction(question, columns, reconstruct)
    others = _rivals(question.run, columns) if random else ()
    everything = (*columns, *others)
    means = question.means(everything)
    return Prepared(
        columns=columns,
        everything=everything,
        chosen=as_set(everything, columns),
        means=means,
        replacements=_replacements(question, everything, means, reconstruct)
        if direction is None
        else question.without_direction(everything, direction, means),
        roles={role.head: role for role in roles if role.head in columns},
    )


def _check(question: Experiment, choice: Choice, reconstruct: int | None, random: int) -> None:
    """What can be told of an ablation before texts are encoded; UsageError as in `ablation`."""
    if reconstruct is not None and reconstruct < 0:
        raise UsageError(f"--reconstruct must be at least 0, not {reconstruct}")
    if reconstruct:
        question.pool.require(reconstruct)
    check_roles(question.pool if choice.roles else None, choice.roles)
    columns = chosen_columns(question, replace(choice, roles=()), [])
    if reconstruct is not None and not choice.roles and not any(name in question.run.head_labels for name in columns):
        raise UsageError("--reconstruct replaces heads by what texts span, and no head is chosen (--heads, --layers)")
    if random and not choice.roles:
        _rivals(question.run, columns)
    check_stored(question.means_rows[0], [name for name in columns if name != INITIAL])


def _check_direction(question: Experiment, columns: Sequence[str], reconstruct: int | None) -> None:
    """UsageError where a text's direction is to be taken out of what is no head, or of a reconstruction."""
    if reconstruct is not None:
        raise UsageError("--direction and --reconstruct are two ways to replace a head: give one")
    other = next((name for name in columns if name not in question.run.head_labels), None)
    if other is not None or not columns:
        raise UsageError(f"--direction is taken out of heads{f', and {other} is none' if other else ': name some'}")


def _replacements(
    question: Experiment, columns: Sequence[str], means: Means, reconstruct: int | None
) -> tuple[Replacement, ...]:
    """Means, or for heads what their texts span where a reconstruction is asked for; in the columns' order."""
    if reconstruct is None:
        return question.ablated(columns, means)
    heads = [name for name in columns if name in question.run.head_labels]
    spans = question.spans(heads, reconstruct) if reconstruct else {}
    rest = [name for name in columns if name not in spans]
    spanned = span_reconstruction(question.run, spans, means, published=question.published)
    replacements = [*spanned, *question.ablated(rest, means)]
    return tuple(sorted(replacements, key=lambda replacement: list(columns).index(replacement.column)))


def _rivals(run: Run, columns: Sequence[str]) -> tuple[str, ...]:
    """The heads that could have been chosen instead: all others of the same layers."""
    heads = [name for name in columns if name in run.head_labels]
    if not heads:
        raise UsageError("--random draws heads of the same layers instead, and no head is ablated")
    layers = {parse_head_label(head)[0] for head in heads}
    others = tuple(name for name in layer_heads(run, sorted(layers)) if name not in heads)
    if not others:
        raise UsageError("--random draws other heads of the same layers, and all of them are ablated already")
    return others
