"""The boundary where options and configuration files become a checked AuditConfig."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from clipaudit.config import JobConfig
from clipaudit.errors import UsageError


def job_config(options: dict[str, Any], file: Path | None = None) -> JobConfig:
    """AuditConfig from command-line options (None = not given) over those of a TOML or YAML file.

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
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{file or 'command line'}: {where}: {first['msg'].lower()}") from error


def _load(file: Path) -> dict[str, Any]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file} cannot be read: {error}") from error
    try:
        value = tomllib.loads(text) if file.suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        first = str(error).replace("\n", " ")
        raise UsageError(f"--config {file} is not valid {file.suffix.lstrip('.') or 'YAML'}: {first}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--config {file} must hold a table of options, not {type(value).__name__}")
    return value


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Drop options that were not given, and sections that are then empty."""
    kept = {name: _given(value) if isinstance(value, dict) else value for name, value in options.items()}
    return {name: value for name, value in kept.items() if value is not None and value != {}}


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
