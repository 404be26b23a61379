"""What is known of a run over HTTP: the run itself, its heads, and one image's score in parts."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
from fastapi import APIRouter, Path, Query
from fastapi import Request as HttpRequest

from clipaudit.arrays import Float64s
from clipaudit.errors import UsageError
from clipaudit.explorer.head_words import head_table
from clipaudit.explorer.problems import PROBLEMS, NotThereError
from clipaudit.explorer.wall import ViewRequest
from clipaudit.explorer.wall_routes import Filters, Number, row_list, row_number
from clipaudit.explorer.workspace import Workspace
from clipaudit.retrieval.parts import QueryPart
from clipaudit.run.filter_columns import value_text
from clipaudit.run.stored_images import StoredImages
from clipaudit.schema import VERSION

MAX_STRIP: Final = 24
"""Images of one end of a strip."""
_Class: TypeAlias = Annotated[str | None, Query(max_length=300)]


def add_study(router: APIRouter, workspace: Workspace, options: tuple[str, ...] = ()) -> None:
    """The run, heads and parts of scores; options: those that the server was started with."""
    problems: dict[int | str, dict[str, Any]] = {code: PROBLEMS[code] for code in (404, 409, 422)}
    images = StoredImages(workspace.run)

    @router.get("/run", responses=problems)
    def run(http: HttpRequest) -> dict[str, Any]:
        """What the page must know of the run before it shows anything."""
        return run_facts(workspace, images) | {"commands": _commands(workspace, options, http.url.port)}

    @router.get("/state")
    def state() -> dict[str, Any]:
        """What may change while the page is open: tags, the report, columns, and shards that were committed since."""
        new_shards = workspace.new_shards()  # first: it may find other columns, which are another revision
        return {
            "revision": workspace.revision,
            "tags": 0 if workspace.tag_log is None else workspace.tag_log.version,
            "new_shards": new_shards,
        }

    @router.get("/heads", responses=problems)
    def heads() -> dict[str, Any]:
        """Every stored head: share of the variance, role and words, or the command that finds the words."""
        facts, source = head_table(workspace.run, workspace.scores.moments)
        url = shlex.quote(workspace.run.directory.url)
        return {
            "heads": [asdict(each) for each in facts],
            "source": source,
            "command": f"clipaudit heads {url}",
            "python": f"import clipaudit\n\nclipaudit.describe_heads({workspace.run.directory.url!r})",
            "missing": None if source else "The heads have no words yet.",
        }

    @router.get("/heads/{head}/strips", responses=problems)
    def strips(
        head: Annotated[str, Path(max_length=64)],
        text: Annotated[list[str], Query(max_length=8)],
        where: Filters = None,
        size: Annotated[int, Query(ge=1, le=MAX_STRIP)] = 10,
    ) -> list[dict[str, Any]]:
        """The images at both ends of each text in one head, among the rows that pass the filters."""
        return [_strip(workspace, head, words, tuple(where or ()), size) for words in text]

    _add_parts(router, workspace, problems)


def _add_parts(router: APIRouter, workspace: Workspace, problems: dict[int | str, dict[str, Any]]) -> None:
    @router.get("/classes", responses=problems)
    def classes() -> list[dict[str, Any]]:
        """The run's classes, as bars may be asked for; UsageError's sentence where it has none."""
        names = workspace.class_prompts.names
        return [
            {"label": value_text(label), "name": name} for label, name in zip(names.labels, names.names, strict=True)
        ]

    @router.get("/rows/{shard}/{index}/parts", responses=problems)
    def parts(
        shard: Number,
        index: Number,
        text: Annotated[str | None, Query(max_length=2000)] = None,
        label: _Class = None,
        against: _Class = None,
        average: Annotated[bool, Query()] = True,
    ) -> dict[str, Any]:
        """What each head and stored component adds to an image's score for a text or a class; the values sum to it.

        With `against` the score of one class less that of another, with `average` less the average image's.
        """
        direction, words = _direction(workspace, text, label, against)
        result = workspace.scores.parts_of(row_number(workspace, shard, index), direction, centred=average)
        facts = {each.head: each for each in head_table(workspace.run, workspace.scores.moments)[0]}
        listed = [
            {**asdict(part), "words": [text.text for text in facts[part.name].texts[:3]] if part.name in facts else []}
            for part in result.parts
        ]
        return {"of": words, "score": result.score, "parts": listed}


def run_facts(workspace: Workspace, images: StoredImages) -> dict[str, Any]:
    """The run's name, size and model, and what is missing beside it."""
    run = workspace.run
    first = next(iter(run.records), None)
    fault = None if first is None else images.fault(first)
    names = workspace.class_names
    return {
        "url": run.directory.url,
        "name": run.directory.url.rstrip("/").rpartition("/")[2],
        "pictures": workspace.picture_version,
        "tags_column": workspace.tags_column,
        "model": str(run.manifest.identity.get("model", "")),
        "version": VERSION,
        "rows": len(run),
        "skipped": run.coverage().skipped,
        "heads": list(run.head_labels),
        "labels": run.spec.label_kind is not None,
        "classes": None if names is None else len(names),
        "components": list(run.spec.components),
        "write": workspace.write,
        "tags_file": None if workspace.tag_log is None else str(workspace.tag_log.path),
        "report": None if workspace.report is None else workspace.report.storage.url,
        "pictures_missing": None if fault is None or first is None else f"{run.manifest.shards[first].url}: {fault}",
    }


def _commands(workspace: Workspace, options: tuple[str, ...], port: int | None) -> dict[str, str]:
    """Commands that the page shows, for a shell."""
    url = workspace.run.directory.url
    write = ["--write"] if workspace.write else []
    return {
        "restart": shlex.join(
            ["clipaudit", "explore", url, *options, *write, "--port", str(port or 80), "--no-browser"]
        ),
        "write": shlex.join(["clipaudit", "explore", url, *options, "--write"]),
        "columns": shlex.join(["clipaudit", "columns", "add", url, "tags.jsonl"]),
    }


def _strip(workspace: Workspace, head: str, text: str, where: tuple[str, ...], size: int) -> dict[str, Any]:
    request = ViewRequest(where=where, parts=(QueryPart(text=text),), weights=((head, 1.0),), sort="-score")
    wall = workspace.wall(request)
    view = wall.view(request)
    top = view.order[:size].tolist()
    bottom = view.order[len(top) :][-size:][::-1].tolist()
    return {
        "text": text,
        "top": row_list(workspace, wall, view, top, request),
        "bottom": row_list(workspace, wall, view, bottom, request),
    }


def _direction(workspace: Workspace, text: str | None, label: str | None, against: str | None) -> tuple[Float64s, str]:
    """(D,) of what bars are asked for, and its words; UsageError unless it is one text or one class."""
    if (text is None) == (label is None):
        raise UsageError("give a text or the label of a class")
    if text is not None:
        if against is not None:
            raise UsageError("a text is compared with no class: give a label")
        return workspace.encoder.text(text).astype(np.float64), f"“{text}”"
    vector, name = _class_vector(workspace, str(label))
    if against is None:
        return vector, name
    other, other_name = _class_vector(workspace, against)
    return vector - other, f"{name} rather than {other_name}"


def _class_vector(workspace: Workspace, label: str) -> tuple[Float64s, str]:
    names = workspace.class_prompts.names
    for place, known in enumerate(names.labels):
        if value_text(known) == label:
            return workspace.class_vectors([place])[0].astype(np.float64), names.names[place]
    raise NotThereError(f"the run has no class with the label {label[:80]!r}")
