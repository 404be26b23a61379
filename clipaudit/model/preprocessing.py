"""How images are prepared for a checkpoint file, which does not say it: as all published weights of the name are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import open_clip
from open_clip.transform import PreprocessCfg

from clipaudit.config import ModelConfig
from clipaudit.errors import UsageError

_CHOICES: Final = ("mean", "std", "interpolation", "resize_mode")


def chosen(name: str, pretrained: str | None, config: ModelConfig) -> dict[str, Any]:
    """Settings of open_clip's `PreprocessCfg` that replace the loaded model's: those of the options, and, for a
    checkpoint file, what all published weights of this architecture agree on.

    Raises UsageError where they differ and the options do not say everything.
    """
    settings = config.preprocessing
    if pretrained is None or not Path(pretrained).is_file() or open_clip.is_pretrained_cfg(name, pretrained):
        return settings
    published = _published(name)
    differing = [choice for choice in _CHOICES if len({repr(each[choice]) for each in published.values()}) > 1]
    if open_questions := [choice for choice in differing if choice not in settings]:
        examples = {repr([each[choice] for choice in open_questions]): tag for tag, each in published.items()}
        listed = "; ".join(
            f"{tag}: " + ", ".join(f"{choice} {_plain(published[tag][choice])}" for choice in open_questions)
            for tag in examples.values()
        )
        options = " ".join(_OPTIONS[choice] for choice in open_questions)
        raise UsageError(
            f"the weights published for {name} are prepared in different ways ({listed}), and {pretrained} does not say"
            f" in which: give {options}"
        )
    agreed = next(iter(published.values()), {})
    return {**agreed, **settings}


_OPTIONS: Final = {
    "mean": "--image-mean",
    "std": "--image-std",
    "interpolation": "--image-interpolation",
    "resize_mode": "--image-resize",
}


def _published(name: str) -> dict[str, dict[str, Any]]:
    """Tag to settings of every published weight of this architecture."""
    defaults = asdict(PreprocessCfg())
    by_tag = {}
    for tag in open_clip.list_pretrained_tags_by_model(name):
        stated = open_clip.get_pretrained_cfg(name, tag)
        by_tag[tag] = {
            choice: tuple(value) if isinstance(value := stated.get(choice) or defaults[choice], list) else value
            for choice in _CHOICES
        }
    return by_tag


def _plain(value: object) -> str:
    """`0.5,0.5,0.5`, as the options are written."""
    return ",".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)
