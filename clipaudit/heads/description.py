"""The heads of a run in words: moments, text vectors, TextSpan, roles and stability put together, and their JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Float64s
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.heads.allocation import Allocation, PublishedAllocation, published_moments
from clipaudit.heads.roles import ALPHA, MIN_CONFIDENCE, Role, RoleFinder
from clipaudit.heads.texts.fit import fit_remark
from clipaudit.heads.texts.pool import UNSPECIFIED, TextPool
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.heads.textspan import (
    Criterion,
    PickStability,
    Rest,
    TextSpan,
    fold,
    rest_of,
    shared_texts,
    stability,
    textspan,
    variance_share,
)
from clipaudit.run.basis import Basis
from clipaudit.run.moments import Moments, merge
from clipaudit.run.reader import Run
from clipaudit.run.rows import ALL, Rows, moments_over, require_rows
from clipaudit.schema import as_tuples

FOLDER: Final = "heads"
FILE: Final = "heads.json"
DEFAULT_STEPS: Final = 20
_EQUALITY: Final = re.compile(r"[^\s<>=!]+\s*=\s*(?:'(?:[^']|'')*'|[^\s']+)")
_GROUPS: Final = 64
"""Most groups of shards that stability resamples: all heads' moments of each are held."""


@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """What a description of heads is to hold."""

    heads: tuple[str, ...] | None = None
    """Head labels; None for all that the run stores."""
    rows: Rows = ALL
    steps: int = DEFAULT_STEPS
    """Texts chosen for each head."""
    criterion: Criterion = "explained"
    allocation: Allocation = "own"
    """Whose head outputs are described: ours, or those of the published code; see `PublishedAllocation`."""
    roles: bool = True
    """Also find roles, where the pool has properties."""
    stability: bool = False
    """Also draw shards again, and count how often each text is chosen again."""
    stability_top: int = 10
    resamples: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        as_tuples(self, "heads")
        if self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadWords:
    """One head in words."""

    head: str
    share: float
    """Its variance relative to the embedding's; see `textspan.variance_share`."""
    span: TextSpan
    rest: Rest | None
    """What the texts leave; None where that is nothing."""
    role: Role | None
    """None when roles were not asked for, or the pool has no properties."""
    stability: PickStability | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Description:
    """A run's heads in words."""

    run: Run = field(repr=False)
    config: DescribeConfig
    published: PublishedAllocation | None = field(repr=False, default=None)
    """What the heads' directions are coordinates of; None for the run's own basis."""
    pool: TextPool
    rows: int
    heads: tuple[HeadWords, ...]
    """In the run's order."""
    roles_missing: str | None
    """Why there are no roles, in words; None when there are."""
    texts_remark: str | None = None
    """That few of the texts fit the model, in a sentence; None when they do."""

    @property
    def shared(self) -> dict[int, tuple[str, ...]]:
        """Texts that several heads have, with those heads."""
        return shared_texts({words.head: words.span for words in self.heads})

    def words(self, head: str, top: int | None = None) -> tuple[str, ...]:
        """The first `top` texts of a head (default: all), in the order of choice; UsageError for another head."""
        for words in self.heads:
            if words.head == head:
                return tuple(self.pool.texts[text] for text in words.span.texts[:top].tolist())
        raise UsageError(f"{head} is not described: {', '.join(words.head for words in self.heads)}")

    @property
    def name(self) -> str:
        """Of the directory under `heads/`: which rows are described."""
        return directory_name(self.config.rows)


def directory_name(rows: Rows) -> str:
    """A directory name for results over some rows: `all`, or `attributes.place=water`."""
    text = ",".join(sorted(re.sub(r"\s*=\s*", "=", condition).replace("'", "") for condition in rows.where)) or "all"
    # conditions such as `light < 9` and `light > 9` would have one name without their signs
    digest = "" if all(map(_EQUALITY.fullmatch, rows.where)) else f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return re.sub(r"[^\w.,=-]+", "_", text) + digest


def describe(
    run: Run,
    pool: TextPool,
    texts: RunTexts,
    config: DescribeConfig,
    on_head: Callable[[int, int], None] = lambda done, total: None,
) -> Description:
    """The run's heads in words of the pool; `on_head(done, total)` after each.

    UsageError when there are no rows, the run lacks a head, or the pool has fewer texts than are asked for. Source:
    arXiv 2310.05916, Algorithm 1 (docs/method.md 3).
    """
    pool.require(config.steps)
    heads = run.head_labels if config.heads is None else config.heads
    run.moments(heads=heads, shards=())  # a head that is not stored is an error before any work
    published = PublishedAllocation.of(run) if config.allocation == "published" else None
    parts = _parts(run, config, published, heads)
    moments = merge(parts)
    require_rows(run, config.rows, moments.count)
    vectors, basis = texts.vectors(pool.texts), run.basis() if published is None else published.basis
    finder, missing = _finder(pool, config)
    words = []
    for done, head in enumerate(heads, 1):
        candidates = fold(basis.Q(head), vectors)
        candidates = candidates if published is None else published.spanned(candidates, moments, head)
        words.append(_head(head, parts, moments, candidates, finder, config))
        on_head(done, len(heads))
    return Description(
        run=run,
        config=config,
        published=published,
        pool=pool,
        rows=moments.count,
        heads=tuple(words),
        roles_missing=missing,
        texts_remark=fit_remark(pool, vectors, texts),
    )


def find_roles(
    run: Run,
    pool: TextPool,
    texts: RunTexts,
    heads: Sequence[str],
    moments: Moments,
    basis: Basis,
    on_head: Callable[[int, int], None] = lambda done, total: None,
) -> list[Role]:
    """The roles of some heads, from moments over any rows; UsageError when the pool has no properties."""
    finder = RoleFinder(pool.properties, pool.kinds, unspecified=UNSPECIFIED)
    vectors = texts.vectors(pool.texts)
    roles = []
    for done, head in enumerate(heads, 1):
        roles.append(finder.find(head, moments.covariance(head), fold(basis.Q(head), vectors)))
        on_head(done, len(heads))
    return roles


def _parts(
    run: Run, config: DescribeConfig, published: PublishedAllocation | None, heads: Sequence[str]
) -> list[Moments]:
    """Moments of all rows asked for; in groups of shards when stability draws them again."""

    def over(rows: Rows) -> Moments:
        return moments_over(run, rows) if published is None else published_moments(run, published, heads, rows)

    if not config.stability:
        return [over(config.rows)]
    shards = list(run.records)
    if len(shards) < 2:
        raise UsageError(f"--stability draws shards again, and the run at {run.directory.url} has {len(shards)}")
    groups = np.array_split(shards, min(_GROUPS, len(shards)))
    return [over(Rows(shards=tuple(group.tolist()), where=config.rows.where)) for group in groups]


def _finder(pool: TextPool, config: DescribeConfig) -> tuple[RoleFinder | None, str | None]:
    if not config.roles:
        return None, "not asked for"
    try:
        return RoleFinder(pool.properties, pool.kinds, seed=config.seed, unspecified=UNSPECIFIED), None
    except UsageError as error:
        return None, str(error)


def _head(
    head: str,
    parts: list[Moments],
    moments: Moments,
    candidates: Float64s,
    finder: RoleFinder | None,
    config: DescribeConfig,
) -> HeadWords:
    """candidates: (T, dh) the pool in the head's coordinates."""
    covariance = moments.covariance(head)
    again = None
    if config.stability:
        top = min(config.stability_top, config.steps)
        again = stability(
            parts,
            head,
            candidates,
            top=top,
            resamples=config.resamples,
            seed=config.seed,
            criterion=config.criterion,
        )
    span = textspan(covariance, candidates, config.steps, config.criterion)
    return HeadWords(
        head=head,
        share=variance_share(moments, head),
        span=span,
        rest=rest_of(covariance, span),
        role=None if finder is None else finder.find(head, covariance, candidates),
        stability=again,
    )


# -- JSON --------------------------------------------------------------------------------------------------------------


def stored_description(run: Run) -> tuple[str, dict[str, Any]] | None:
    """What `clipaudit heads` wrote of all rows of this state of a run: its file, and its JSON of each head by name.

    None where the heads were not described; IntegrityError when the file is damaged.
    """
    storage, folder = run.directory.storage, f"{run.folder(f'{FOLDER}/all')}/{FILE}"
    for path in (folder, f"{FOLDER}/{FILE}") if run.moment is None else (folder,):  # the second: of version 0.1
        try:
            document = json.loads(storage.read(path))
            return storage.full(path), {words["head"]: words for words in document["heads"]}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{storage.full(path)} is damaged: run `clipaudit heads {run.url}` again") from error
    return None


def description_json(description: Description) -> dict[str, Any]:
    """Plain JSON values: what was asked, and each head's share, role and texts."""
    run, config, pool = description.run, description.config, description.pool
    shared = description.shared
    return {
        "run": run.url,
        "fingerprint": run.manifest.fingerprint,
        "model": run.manifest.model["fingerprint"],
        "rows": description.rows,
        "where": list(config.rows.where),
        "texts": {"source": pool.source, "count": len(pool), "fingerprint": pool.fingerprint},
        "texts_remark": description.texts_remark,
        "criterion": config.criterion,
        "allocation": config.allocation,
        "steps": config.steps,
        "seed": config.seed,
        "roles": {"p_at_most": ALPHA, "confidence_at_least": MIN_CONFIDENCE, "missing": description.roles_missing},
        "heads": [_head_json(words, pool, shared) for words in description.heads],
    }


def _head_json(words: HeadWords, pool: TextPool, shared: dict[int, tuple[str, ...]]) -> dict[str, Any]:
    again = words.stability
    return {
        "head": words.head,
        "variance": words.span.variance,
        "share": words.share,
        "role": None if words.role is None else role_json(words.role),
        "rest": None if words.rest is None else {"left": words.rest.left, "explained": words.rest.explained},
        "texts": [
            {
                "text": pool.texts[text],
                "property": pool.properties[text],
                "kind": pool.kinds[text],
                "explained": explained,
                "cumulative": cumulative,
                "also_in": [head for head in shared.get(text, ()) if head != words.head],
                "chosen_again": None if again is None or place >= again.top else float(again.frequency[text]),
            }
            for place, (text, explained, cumulative) in enumerate(
                zip(
                    words.span.texts.tolist(),
                    words.span.explained.tolist(),
                    words.span.cumulative.tolist(),
                    strict=True,
                )
            )
        ],
    }


def role_json(role: Role) -> dict[str, Any]:
    """Plain JSON values of a role and of every property behind it."""
    return {
        "label": role.label,
        "kind": role.kind,
        "confidence": role.confidence,
        "kind_confidence": role.kind_confidence,
        "p": role.first.p,
        "properties": [
            {
                "name": share.name,
                "kind": share.kind,
                "explained": share.explained,
                "others": share.others,
                "p": share.p,
            }
            for share in role.properties
        ],
    }
