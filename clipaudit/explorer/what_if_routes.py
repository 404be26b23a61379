"""What if over HTTP: groups without some heads, the same as code, and arms that are kept for `clipaudit ablate`."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
from fastapi import APIRouter, Body, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.explorer.as_code import AsCode
from clipaudit.explorer.column_facts import column_facts, column_names
from clipaudit.explorer.finding_cards import cell_filters, label_filter
from clipaudit.explorer.head_logits import MAX_BYTES, most_images
from clipaudit.explorer.problems import PROBLEMS, NotThereError
from clipaudit.explorer.wall import ViewRequest
from clipaudit.explorer.wall_routes import Filters
from clipaudit.explorer.what_if import SETS, WhatIf, groups_of
from clipaudit.explorer.workspace import Workspace
from clipaudit.explorer.write_access import WriteAccess
from clipaudit.heads.experiment import ablation
from clipaudit.heads.experiment_json import ablation_json
from clipaudit.heads.named_columns import Choice
from clipaudit.run.derived import finite
from clipaudit.run.records import now
from clipaudit.storage.text_file import parse_json

ARMS: Final = "explorer/arms"
"""Directory of a run."""
MAX_GROUPS: Final = 60
"""Of one answer, those that change most."""
MAX_VALUES: Final = 50
_NAME: Final = re.compile(r"[\w][\w-]{0,59}")
_Out: TypeAlias = Annotated[list[Annotated[str, Field(max_length=64)]] | None, Query(max_length=2048)]
_Text: TypeAlias = Annotated[str | None, Query(max_length=300)]


class NewArm(BaseModel):
    """What is taken out, and of which images the accuracy is asked."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=60)
    out: list[str] = Field(max_length=2048)
    along: str | None = Field(default=None, max_length=300)
    by: str | None = Field(default=None, max_length=300)
    where: list[str] = Field(default_factory=list, max_length=16)


def add_what_if(router: APIRouter, workspace: Workspace, writing: WriteAccess) -> None:
    """Groups of images without heads, and arms."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (403, 404, 409, 422)}
    what_if = WhatIf(workspace)

    @router.get("/what-if/options", responses=problems)
    def options() -> dict[str, Any]:
        """Columns that make groups, findings to begin with, and how many images fit into memory; or what is missing."""
        try:
            heads, classes = len(workspace.run.head_labels), len(what_if.question.names)
        except UsageError as error:
            return {"missing": str(error), "command": _remedy(workspace)}
        return {
            "missing": None,
            "columns": group_columns(workspace),
            "findings": list(_findings(workspace).values()),
            "classes": classes,
            "megabytes": MAX_BYTES // 2**20,
            "most_images": most_images(heads, classes),
            "sets": SETS,
        }

    @router.get("/what-if", responses=problems)
    def change(
        out: _Out = None, along: _Text = None, by: _Text = None, finding: _Text = None, where: Filters = None
    ) -> dict[str, Any]:
        """Accuracy by group without the heads `out`, or without the text `along` in them, and the gap of a column."""
        return _change(workspace, what_if, tuple(out or ()), along or None, by or None, finding, tuple(where or ()))

    @router.get("/what-if/arms", responses=problems)
    def arms() -> list[dict[str, Any]]:
        """The arms that were kept, by name."""
        return _arms(workspace)

    @router.post("/what-if/arms", responses=problems, dependencies=[Depends(writing)])
    def keep(arm: Annotated[NewArm, Body()]) -> dict[str, Any]:
        """Measure an arm on all its images as `clipaudit ablate` does, and keep it under a name."""
        return _keep(workspace, what_if, arm)


def _remedy(workspace: Workspace) -> str:
    """The command for a run whose answers cannot be right or wrong as it is."""
    run, url = workspace.run, shlex.quote(workspace.run.directory.url)
    if run.spec.label_kind is None:
        return "clipaudit audit SHARDS --out RUN --label cls"
    if run.spec.multi_label:
        return f"clipaudit ablate {url} --head {run.head_labels[-1]}"
    return f"clipaudit report {url} --classes FILE --out report"


def group_columns(workspace: Workspace) -> list[dict[str, str]]:
    """Columns whose values are groups, as filters name them: those of a few values."""
    wall = workspace.wall()
    facts = [column_facts(wall, name, workspace) for name in column_names(wall, workspace)]
    return [
        {"name": each.name, "short": each.short}
        for each in facts
        if each.kind != "number" and 2 <= each.distinct <= MAX_VALUES and each.name not in ("label", "shard_id")
    ]


def _findings(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """What a finding of the report takes out, by id; those of a column alone have groups."""
    if workspace.report is None:
        return {}
    try:
        return {
            str(finding["id"]): {
                "id": str(finding["id"]),
                "name": finding["cue"]["name"],
                "class_name": finding["class_name"],
                "heads": list(finding["cue"]["heads"]),
                "attribute": finding["cue"]["attribute"],
                "value": finding["cue"]["value"],
                "classes": finding["classes"],
                "text": next((word["text"] for word in finding["cue"]["words"]), None),
                "among": _measured_on(workspace, finding["groups"]),
            }
            for finding in workspace.report.audit["findings"]
        }
    except (KeyError, TypeError) as error:
        where = workspace.report.storage.full("report.json")
        raise IntegrityError(f"{where} is damaged, or of another version: make the report again") from error


def _measured_on(workspace: Workspace, groups: dict[str, Any] | None) -> str | None:
    """The filter of the images that a finding was measured on, which stands behind the run's name; None for all."""
    where = "" if groups is None else str(groups["rows"]).partition(", ")[2]
    try:
        return where if where and workspace.plain_rows().mask((where,)).any() else None
    except UsageError:
        return None


def _change(
    workspace: Workspace,
    what_if: WhatIf,
    out: tuple[str, ...],
    along: str | None,
    by: str | None,
    finding: str | None,
    where: tuple[str, ...],
) -> dict[str, Any]:
    chosen = None
    if finding:
        chosen = _findings(workspace).get(finding)
        if chosen is None:
            raise NotThereError(f"the report has no finding {finding[:80]!r}")
        by = chosen["attribute"]
    request = ViewRequest(where=where, group=by)
    wall = workspace.wall(request)
    values = None if by is None else wall.values(by).to_pylist()
    if by is not None and by not in {each["name"] for each in group_columns(workspace)}:
        raise UsageError(f"{by[:80]} makes no groups: it takes a column of at most {MAX_VALUES} values")
    groups = wall.fact(f"groups {by} {finding}", lambda: groups_of(what_if, values, chosen))
    passing = np.zeros(len(wall.rows), np.bool_)
    passing[wall.view(ViewRequest(where=where)).order] = True
    if not passing.any():
        raise UsageError(f"no image passes the filter: none has {wall.rows.why_empty(where) or 'a row'}")
    change = asdict(what_if.change(out, along, groups, passing))
    run = workspace.run
    listed = sorted(change["groups"], key=_by_change)[:MAX_GROUPS]
    for group in change["groups"]:
        label, value = group["label"], group["value"]
        group["where"] = [label_filter(run, label)] if value is None else cell_filters(run, label, str(by), value)
    return {
        **change,
        "groups": [group for group in change["groups"] if group in listed],
        "more_groups": len(change["groups"]) - len(listed),
        "by": by,
        "code": asdict(_code(workspace, what_if, out, along, by, where)),
    }


def _by_change(group: dict[str, Any]) -> float:
    accuracy = group["accuracy"]
    return -abs(float(accuracy["after"] or 0.0) - float(accuracy["before"] or 0.0))


def _code(
    workspace: Workspace,
    what_if: WhatIf,
    out: tuple[str, ...],
    along: str | None,
    by: str | None,
    where: tuple[str, ...],
) -> AsCode:
    """`clipaudit ablate` with the classes and prompts of the page."""
    config, url = what_if.question.config, workspace.run.directory.url
    options: list[tuple[str, str | None]] = [
        ("classes", None if config.classes is None else str(config.classes)),
        ("templates", None if config.templates == "imagenet" else config.templates),
        ("attribute", by),
        ("direction", along),
    ]
    given = [(name, value) for name, value in options if value is not None]
    words = ["clipaudit", "ablate", url, *(["--heads", ",".join(out)] if out else [])]
    for name, value in given:
        words += [f"--{name}", value]
    for condition in where:
        words += ["--where", condition]
    heads = [f"    {list(out)!r},"] if out else []
    lines = [f"    {name}={value!r}," for name, value in given]
    lines += [f"    where={list(where)!r},"] if where else []
    body = "\n".join([f"    {url!r},", *heads, *lines])
    named = workspace.page_only(ViewRequest(where=tuple(where), group=by))
    note = f"{', '.join(named)}: known to this page alone." if named else None
    return AsCode(command=shlex.join(words), python=f"import clipaudit\n\nclipaudit.ablate(\n{body}\n)", note=note)


# -- arms --------------------------------------------------------------------------------------------------------------


def _keep(workspace: Workspace, what_if: WhatIf, arm: NewArm) -> dict[str, Any]:
    """UsageError for a name that is taken, a column that only the page has, and as `ablation`."""
    if not _NAME.fullmatch(arm.name):
        raise UsageError("an arm's name has letters, digits, - and _, 60 at most")
    if not arm.out:
        raise UsageError("an arm takes out at least one head")
    where = tuple(text for text in arm.where if text.strip())
    result = ablation(what_if.asked(arm.by, where), Choice(heads=tuple(arm.out)), direction=arm.along)
    document: dict[str, Any] = {
        "name": arm.name,
        "time": now(),
        "out": arm.out,
        "along": arm.along,
        "by": arm.by,
        "where": list(where),
        **asdict(_code(workspace, what_if, tuple(arm.out), arm.along, arm.by, where)),
        "result": ablation_json(result),
    }
    data = json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False).encode()
    storage = workspace.run.directory.storage
    storage.make_directories([ARMS])
    if not storage.create(f"{ARMS}/{arm.name}.json", data):
        raise UsageError(f"there is an arm {arm.name} already: take another name")
    return {"file": storage.full(f"{ARMS}/{arm.name}.json"), **_line(document)}


def _arms(workspace: Workspace) -> list[dict[str, Any]]:
    storage = workspace.run.directory.storage
    listed = []
    for name in sorted(storage.names(ARMS)):
        if name.endswith(".json") and _NAME.fullmatch(name.removesuffix(".json")):
            where = storage.full(f"{ARMS}/{name}")
            try:
                document: Any = parse_json(storage.read(f"{ARMS}/{name}").decode())
                listed.append(_line(document))
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(f"{where} is damaged: remove it") from error
    return listed


def _line(document: dict[str, Any]) -> dict[str, Any]:
    result = document["result"]
    return {
        **{name: document[name] for name in ("name", "time", "out", "along", "by", "where", "command")},
        "accuracy": [result[side]["accuracy"]["share"] for side in ("base", "ablated")],
        "worst": [(result[side]["worst_group"] or {}).get("share") for side in ("base", "ablated")],
    }
