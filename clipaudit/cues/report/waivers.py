"""Waivers: findings that somebody answers for until a date, read from a TOML, YAML or JSON file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from clipaudit.cues.result.finding_parts import Documented
from clipaudit.cues.result.result import AuditResult
from clipaudit.errors import UsageError
from clipaudit.storage.text_file import parse_json, parse_yaml

_EXAMPLE: Final = "waivers: [{finding: 3f2a…, owner: …, reason: …, expires: 2027-03-31}]"
_SHOWN: Final = 5


class Waiver(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    finding: Annotated[str, Field(min_length=1)]
    owner: Annotated[str, Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)]
    expires: date


@dataclass(frozen=True, kw_only=True)
class Applied(Documented):
    """A waiver and what became of it."""

    finding: str
    """Finding id."""
    owner: str
    reason: str
    expires: date
    """Last day on which it counts."""
    status: Literal["active", "expired", "unknown"]
    """`unknown`: the audit has no finding of this id, nor one that takes the place of it."""
    matches: str | None
    """The id of the finding that it is about now; another than `finding` where that one was merged into it."""


def load_waivers(path: str | Path | None) -> tuple[Waiver, ...]:
    """The entries of a waiver file; UsageError, naming file and entry, when it cannot be read or is malformed."""
    if path is None:
        return ()
    file = Path(path)
    content = _parsed(file)
    entries = content.get("waivers") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise UsageError(f"--waivers {file} must hold a list of waivers: {_EXAMPLE}")
    try:
        waivers = TypeAdapter(tuple[Waiver, ...]).validate_python(entries)
    except ValidationError as error:
        first = error.errors()[0]
        number, *path_ = first["loc"] or (0,)
        field = ".".join(map(str, path_)) or "entry"
        raise UsageError(
            f"--waivers {file}: waiver {int(number) + 1}, {field}: {first['msg'].lower()}; each needs finding, owner,"
            " reason and expires (YYYY-MM-DD)"
        ) from error
    names = [waiver.finding for waiver in waivers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--waivers {file}: the finding {twice} is waived twice; keep one entry")
    return waivers


def apply_waivers(waivers: tuple[Waiver, ...], result: AuditResult, today: date) -> tuple[Applied, ...]:
    """What each waiver does to this audit on this day."""
    current = {former: finding.id for finding in result.findings for former in finding.former_ids}
    current |= {finding.id: finding.id for finding in result.findings}

    def applied(waiver: Waiver) -> Applied:
        matches = current.get(waiver.finding)
        in_time: Literal["active", "expired"] = "expired" if waiver.expires < today else "active"
        return Applied(
            finding=waiver.finding,
            owner=waiver.owner,
            reason=waiver.reason,
            expires=waiver.expires,
            status="unknown" if matches is None else in_time,
            matches=matches,
        )

    return tuple(applied(waiver) for waiver in waivers)


def former_waivers(applied: Sequence[Applied]) -> tuple[str, ...]:
    """One sentence about each waiver of a finding of an earlier version that is part of another one now."""
    return tuple(
        f"The waiver of {waiver.finding} counts for {waiver.matches}, which that finding is part of now: name this one."
        for waiver in applied
        if waiver.matches is not None and waiver.matches != waiver.finding
    )


def unknown_waiver(applied: tuple[Applied, ...], result: AuditResult) -> str | None:
    """One sentence about a waiver of a finding that is not there; None when there is none."""
    unknown = [waiver.finding for waiver in applied if waiver.status == "unknown"]
    if not unknown:
        return None
    finding_ids = [finding.id for finding in result.findings]
    listing = (
        ", ".join(finding_ids[:_SHOWN]) + (", ..." if len(finding_ids) > _SHOWN else "") if finding_ids else "none"
    )
    return (
        f"--waivers: this audit has no finding {unknown[0]!r} (its findings: {listing}); remove or correct that waiver"
    )


def _parsed(file: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--waivers {file} cannot be read: {error}") from error
    try:
        if file.suffix == ".toml":
            return tomllib.loads(text)
        return parse_json(text) if file.suffix == ".json" else parse_yaml(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, ValueError) as error:
        first = " ".join(str(error).split())
        raise UsageError(f"--waivers {file} is not valid {file.suffix.lstrip('.') or 'YAML'}: {first}") from error
