"""The boundary where options and configuration files become a checked JobConfig."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from clipaudit.config import JobConfig
from clipaudit.errors import UsageError

OptionTree: TypeAlias = "Mapping[str, str | int | float | bool | Sequence[str] | OptionTree | None]"
"""Fields of JobConfig by name, those of its stages one level below; None for an option that was not given."""

_SPELLED: Final = {"max_lost_samples": "max_lost", "image": "image_key", "name": "model"}
"""Fields that are not called as their options are."""


def job_config(options: OptionTree, file: Path | None = None) -> JobConfig:
    """The configuration from command-line options over those of a TOML or YAML file.

    Raises UsageError with one sentence that names the option at fault.
    """
    from pydantic import TypeAdapter, ValidationError

    merged = _merge(_load(file) if file else {}, _given(options))
    for name, spelled in (("shards", "SHARDS"), ("out", "--out")):
        if not merged.get(name):
            raise UsageError(f"{spelled} is missing: clipaudit audit SHARDS --out RUN")
    try:
        return TypeAdapter(JobConfig).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        where = _option(path) if _at(_given(options), path) is not None else f"{file}: {'.'.join(path)}"
        problem = str(first["msg"])
        wanted = problem.removeprefix("Input should be ")
        sentence = f" must be {wanted}, not {first['input']!r:.80}" if wanted != problem else f": {problem.lower()}"
        raise UsageError(f"{where}{sentence}") from error


def _option(path: Sequence[str]) -> str:
    """The option that gives a field of JobConfig."""
    name = next(part for part in reversed(path) if not part.isdecimal())
    return f"--{_SPELLED.get(name, name).replace('_', '-')}"


def _at(tree: object, path: Sequence[str]) -> object:
    """What a tree has at a path of names and positions; None where it ends before."""
    for part in path:
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, Sequence) and not isinstance(tree, str):
            return tree
    return tree


def _load(file: Path) -> Mapping[str, object]:
    """The table of options in a file, unchecked. Raises UsageError when it cannot be read."""
    import yaml

    from clipaudit.storage.text_file import parse_yaml

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--config {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {file} is not UTF-8 throughout: save it as UTF-8") from error
    try:
        value = tomllib.loads(text) if file.suffix == ".toml" else parse_yaml(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UsageError(f"--config {file} is not valid {file.suffix.lstrip('.') or 'YAML'}: {reason}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--config {file} holds no options: write lines such as `label: cls` (TOML: `label = 'cls'`)")
    return value


def _given(options: OptionTree) -> Mapping[str, object]:
    """The options that were given, without stages for which none was."""
    values = {name: _given(value) if isinstance(value, Mapping) else value for name, value in options.items()}
    return {name: value for name, value in values.items() if value is not None and value != {}}


def _merge(base: Mapping[str, object], overrides: Mapping[str, object]) -> Mapping[str, object]:
    """Both trees in one; where both have a value, that of `overrides`."""
    merged = dict(base)
    for name, value in overrides.items():
        below = merged.get(name)
        merged[name] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
