"""The birds' shortcut, through the real pipeline: shards, audit, heads in words, mean-ablation, random controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
from clipaudit.demo.evaluation.head_choice import PLACE, RULES, TOP, HeadTexts, Rule, head_words, text_pool
from clipaudit.demo.evaluation.measured import Figure, Interval, Target, percentiles, plain, resampled_groups, share
from clipaudit.demo.evaluation.recognition import ImageEncoder
from clipaudit.demo.world.captions import STYLE_PREFIXES, joined
from clipaudit.demo.world.datasets import write_world
from clipaudit.heads.ablation import ZeroShot, mean_ablation, replacement_means, stream_logits
from clipaudit.heads.column_sets import as_set, random_sets
from clipaudit.heads.texts.encoder import encode_classes
from clipaudit.heads.textspan import textspans, variance_share
from clipaudit.heads.zeroshot import Control, LogitBatch, control, score, score_sets
from clipaudit.job.driver import run_job
from clipaudit.run.classes import load_classes
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows
from clipaudit.schema import Label, parse_head_label
from clipaudit.statistics import Proportion

TEMPLATES = tuple(joined(prefix, "a {}") for prefix in STYLE_PREFIXES["photo"])
"""Prompts of the classes."""
RANDOM_SETS = 1000
"""Random head sets of each control."""
_TEST = Rows(where=("split = test",))
_SETTINGS = ("none", "variance", "majority", "all")
"""What is ablated: nothing, the heads of either rule, every head."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Zero-shot accuracy on the birds' test split with some heads ablated."""

    name: str
    heads: tuple[str, ...]
    accuracy: Proportion
    groups: dict[str, Proportion]
    """`waterbird on land` and so on."""

    @property
    def worst(self) -> float:
        """The lowest group's accuracy."""
        return min(group.value for group in self.groups.values())


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """Accuracies on `birds` with and without heads chosen by their texts, with controls and intervals."""

    words: tuple[HeadTexts, ...]
    """Every head."""
    settings: dict[str, Setting]
    """`none`, `variance` and `majority` (the two rules), `all`."""
    controls: dict[Rule, Control]
    """The worst group among random sets of the same size and layers."""
    possible: dict[Rule, int]
    """How many different sets of that size and layers there are."""
    intervals: dict[str, Interval]
    """Bootstrap over images, paired: `gap`, and for each setting `... worst`, `... rise`, `... average rise`."""

    @property
    def figures(self) -> list[Figure]:
        """All figures of the study."""
        return _figures(self)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""

        def group(proportion: Proportion) -> dict[str, Any]:
            interval = [plain(end) for end in proportion.interval()]
            return {
                "right": proportion.right,
                "total": proportion.total,
                "value": plain(proportion.value),
                "interval": interval,
            }

        return {
            "rules": dict(RULES),
            "heads": [words.record() for words in self.words],
            "settings": {
                name: {
                    "heads": list(setting.heads),
                    "accuracy": group(setting.accuracy),
                    "worst_group": plain(setting.worst),
                    "groups": {words: group(proportion) for words, proportion in setting.groups.items()},
                }
                for name, setting in self.settings.items()
            },
            "intervals": {name: [plain(end) for end in ends] for name, ends in self.intervals.items()},
            "controls": {
                rule: {**asdict(self.controls[rule]), "different_sets": self.possible[rule]} for rule in self.controls
            },
        }


def shortcut(encoder: ImageEncoder, work: Path, *, birds: int, things: int, seed: int) -> Shortcut:
    """Draw `birds` and `things` under `work`, audit both, choose heads by `things` and texts, ablate them on `birds`.

    The choice is complete before the birds' run is opened.
    """
    factors = ("noun", "background", "style", "tint")
    others = audited(encoder.config, "things", work, count=things, seed=seed, attributes=factors)
    words = described(encoder, others)
    run = audited(encoder.config, "birds", work, count=birds, seed=seed)
    classes = load_classes(str(work / "birds" / "classnames.txt"))
    class_of: dict[Label, int] = dict(classes.rows(run.label_counts()).items())
    question = ZeroShot(
        classes=encode_classes(encoder.loaded, encoder.tokenizer, classes.names, TEMPLATES),
        class_of=class_of,
        attribute="attributes.place",
        rows=_TEST,
    )
    heads = run.head_labels
    means = replacement_means(others, heads)
    batches = list(stream_logits(run, question, mean_ablation(run, heads, means)))
    return studied(words, heads, batches, classes.names, seed)


def audited(
    model: ModelConfig,
    world: str,
    work: Path,
    *,
    count: int,
    seed: int,
    attributes: Sequence[str] = ("place", "split"),
) -> Run:
    """Write a world as shards and audit it with the local engine, every layer stored."""
    shards = write_world(world, work / world, count=count, seed=seed)
    config = JobConfig(
        shards=tuple(str(path) for path in shards),
        out=str(work / f"{world}-run"),
        fields=FieldsConfig(label="cls", attributes=tuple(f"json:{name}" for name in attributes)),
        model=model,
        store=StoreConfig(layers="all"),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config)
    return Run(config.out)


def described(encoder: ImageEncoder, run: Run) -> tuple[HeadTexts, ...]:
    """Every head of a run in words: its TextSpan over the captions' own phrases."""
    pool = text_pool()
    texts, properties = tuple(pool), tuple(pool.values())
    moments = run.moments()
    spans = textspans(moments, run.basis(), encoder.texts(texts), TOP)
    shares = {head: variance_share(moments, head) for head in spans}
    return head_words(spans, shares, texts, properties)


def studied(
    words: Sequence[HeadTexts], heads: Sequence[str], batches: Sequence[LogitBatch], names: Sequence[str], seed: int
) -> Shortcut:
    """The study from every head's words and the logits of every test image."""
    chosen: dict[str, tuple[str, ...]] = {"none": (), "all": tuple(heads)}
    chosen |= {rule: tuple(head.head for head in words if head.chosen(rule)) for rule in RULES}
    settings = {
        name: Setting(
            name=name,
            heads=chosen[name],
            accuracy=answers.accuracy,
            groups={f"{names[row]} on {place}": right for (row, place), right in answers.groups.items()},
        )
        for name, answers in zip(
            _SETTINGS, score(batches, [as_set(heads, chosen[name]) for name in _SETTINGS]), strict=True
        )
    }
    controls = {
        rule: control(
            settings[rule].worst,
            score_sets(batches, random_sets(heads, chosen[rule], RANDOM_SETS, seed)).worst_group(),
        )
        for rule in RULES
    }
    intervals = _intervals([right_answers(batches, as_set(heads, chosen[name])) for name in _SETTINGS], batches, seed)
    return Shortcut(
        words=tuple(words),
        settings=settings,
        controls=controls,
        possible={rule: matched_sets(heads, chosen[rule]) for rule in RULES},
        intervals=intervals,
    )


def right_answers(batches: Sequence[LogitBatch], ablated: Bools) -> Bools:
    """(n,) mask of the rows answered right with a mask (P,) of columns ablated."""
    logits = [batch.base - batch.removed[ablated].sum(axis=0) for batch in batches]
    right: Bools = np.concatenate(logits).argmax(axis=1) == np.concatenate([batch.truth for batch in batches])
    return right


def matched_sets(heads: Sequence[str], chosen: Sequence[str]) -> int:
    """How many different sets have as many heads in each layer as `chosen` has."""
    layers = [parse_head_label(head)[0] for head in heads]
    of_chosen = [parse_head_label(head)[0] for head in chosen]
    return math.prod(math.comb(layers.count(layer), of_chosen.count(layer)) for layer in sorted(set(of_chosen)))


def _group_codes(batches: Sequence[LogitBatch]) -> Ints:
    """(n,) group of each row, 0..G-1; every bird has a place."""
    codes: dict[tuple[Label, Any], int] = {}
    rows = [pair for batch in batches for pair in zip(batch.truth.tolist(), batch.values, strict=True)]
    return np.array([codes.setdefault(row, len(codes)) for row in rows], np.int64)


def _intervals(right: Sequence[Bools], batches: Sequence[LogitBatch], seed: int) -> dict[str, Interval]:
    """Bootstrap intervals over images: the gap, and every setting's worst group and rises."""
    average, groups = resampled_groups(right, _group_codes(batches), seed=seed)
    worst = np.nanmin(groups, axis=2)  # (R, S)
    intervals = {"gap": percentiles(average[:, 0] - worst[:, 0])}
    for place, name in enumerate(_SETTINGS):
        intervals[f"{name} worst"] = percentiles(worst[:, place])
        intervals[f"{name} rise"] = percentiles(worst[:, place] - worst[:, 0])
        intervals[f"{name} average rise"] = percentiles(average[:, place] - average[:, 0])
    return intervals


def _figures(study: Shortcut) -> list[Figure]:
    intervals, plain_setting, all_heads = study.intervals, study.settings["none"], study.settings["all"]
    figure = partial(Figure, part="birds", count=plain_setting.accuracy.total)
    gap = plain_setting.accuracy.value - plain_setting.worst
    figures = [
        share("birds", "zero-shot average", plain_setting.accuracy),
        *(share("birds", f"zero-shot, {name}", group) for name, group in plain_setting.groups.items()),
        figure(name="worst group", value=plain_setting.worst, interval=intervals["none worst"]),
        figure(
            name="worst group below the average",
            value=gap,
            unit="points",
            interval=intervals["gap"],
            target=Target(limit=0.2),
        ),
    ]
    for rule in RULES:
        figures += _ablated(study, rule, figure)
    label = f"all {len(all_heads.heads)} heads"
    return [
        *figures,
        figure(name=f"{label}: worst group", value=all_heads.worst, interval=intervals["all worst"]),
        share("birds", f"{label}: average", all_heads.accuracy),
    ]


def _ablated(study: Shortcut, rule: Rule, figure: Callable[..., Figure]) -> list[Figure]:
    """One rule's figures; the targets are the first rule's."""
    first, setting, random = rule == next(iter(RULES)), study.settings[rule], study.controls[rule]
    label = f"{len(setting.heads)} {PLACE} heads" + ("" if first else " (by majority)")
    return [
        figure(name=f"{label}: worst group", value=setting.worst, interval=study.intervals[f"{rule} worst"]),
        share("birds", f"{label}: average", setting.accuracy),
        figure(
            name=f"{label}: rise of the worst group",
            value=setting.worst - study.settings["none"].worst,
            unit="points",
            interval=study.intervals[f"{rule} rise"],
            target=Target(limit=0.2) if first else None,
        ),
        figure(
            name=f"{label}: worst group with random sets",
            value=random.mean,
            note=f"standard deviation {100 * random.deviation:.1f} points",
        ),
        figure(
            name=f"{label}: random sets beaten",
            value=random.beaten,
            target=Target(limit=0.95) if first else None,
            note=f"{random.sets} random sets of {study.possible[rule]} different ones, p = {random.p:.4f}",
        ),
    ]
