"""A view of the page as a command and as Python, to have the same in a terminal or a notebook."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipaudit.explorer.wall import SCORE, ViewRequest
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.parts import QueryPart

DEFAULT_SHOWN: Final = 60
"""Images that the command of a question asks for."""


@dataclass(frozen=True, kw_only=True)
class AsCode:
    """The same elsewhere."""

    command: str
    """For a shell."""
    python: str
    note: str | None = None
    """What the command line cannot do as the page does; None where it does the same."""


def code_of_view(run: str, request: ViewRequest, page_only: Sequence[str]) -> AsCode:
    """A wall as `clipaudit query` or `clipaudit export`, and in Python.

    run: its path or URL. page_only: the columns that the view names and only the page has.
    """
    note = _note(request, page_only)
    if request.parts:
        return AsCode(command=_query_command(run, request), python=_query_python(run, request), note=note)
    words = ["clipaudit", "export", run, "--out", "chosen", "--format", "csv"]
    for condition in request.where:
        words += ["--where", condition]
    where = f", where={_tuple(request.where)}" if request.where else ""
    python = f"import clipaudit\n\nclipaudit.export({run!r}, 'chosen', file_format='csv'{where})"
    return AsCode(command=shlex.join(words), python=python, note=note)


def code_of_maps(model: str, pretrained: str | None, texts: Sequence[str], heads: Sequence[str]) -> AsCode:
    """The maps of an image as `clipaudit explain`, and in Python; heads with `embedding` for all of them together.

    model, pretrained: of the run, as `--model` and `--pretrained` name them.
    """
    single = [head for head in heads if head != EMBEDDING]
    words = ["clipaudit", "explain", "PICTURE.jpg"]
    for text in texts:
        words += ["--text", text]
    for head in single:
        words += ["--head", head]
    words += ["--model", model, *(["--pretrained", pretrained] if pretrained else []), "--out", "maps.png"]
    given = [repr("PICTURE.jpg"), repr(list(texts)), repr(model), *([repr(pretrained)] if pretrained else [])]
    given += [f"heads={single!r}"] if single else []
    both = EMBEDDING in heads and bool(single)
    note = "Save the picture first, and give its name." + (
        " Without heads it draws all of them together." if both else ""
    )
    python = f"import clipaudit\n\nclipaudit.explain({', '.join(given)}).draw().save('maps.png')"
    return AsCode(command=shlex.join(words), python=python, note=note)


def _note(request: ViewRequest, page_only: Sequence[str]) -> str | None:
    if request.inside is not None:
        return "The region of the map is this page's. Export the list of keys to go on elsewhere."
    if page_only:
        return f"{', '.join(page_only)}: known to this page alone. Export the list of keys to go on elsewhere."
    if request.sort is not None and request.sort.lstrip("-") != SCORE:
        return f"The order by {request.sort.lstrip('-')} is this page's."
    if any(part.image is not None for part in request.parts):
        return "In place of the picture's number, name its file."
    return None


def _is_end(request: ViewRequest) -> bool:
    """Whether the images least like the question come first."""
    return request.sort == SCORE


def _query_command(run: str, request: ViewRequest) -> str:
    words = ["clipaudit", "query", run]
    heads = [name if weight == 1 else f"{name}={weight:g}" for name, weight in request.weights]
    if heads and heads != [EMBEDDING]:
        words += ["--head", ",".join(heads)]
    for part in request.parts:
        words += _option(part)
    for condition in request.where:
        words += ["--where", condition]
    words += ["--end", "min"] if _is_end(request) else []
    return shlex.join([*words, "-k", str(DEFAULT_SHOWN)])


def _option(part: QueryPart) -> list[str]:
    size = abs(part.weight)
    suffix = "" if size == 1 else f"={size:g}"
    if part.text is not None and part.weight < 0:
        return ["--minus", part.text + suffix]
    suffix = "" if part.weight == 1 else f"={part.weight:g}"
    if part.text is not None:
        return ["--text", part.text + suffix]
    if part.key is not None:
        return ["--key", f"{part.key[0]}/{part.key[1]}{suffix}"]
    return ["--image", part.name + suffix]


def _query_python(run: str, request: ViewRequest) -> str:
    texts = {part.text: part.weight for part in request.parts if part.text is not None and part.weight > 0}
    minus = {part.text: -part.weight for part in request.parts if part.text is not None and part.weight < 0}
    keys = {f"{part.key[0]}/{part.key[1]}": part.weight for part in request.parts if part.key is not None}
    images = {part.name: part.weight for part in request.parts if part.image is not None}
    lines = [
        f"    {name}={values!r},\n"
        for name, values in (("text", texts), ("minus", minus), ("key", keys), ("image", images))
        if values
    ]
    if request.weights:
        lines.append(f"    heads={dict(request.weights)!r},\n")
    if request.where:
        lines.append(f"    where={_tuple(request.where)},\n")
    lines.append(f"    end={'min' if _is_end(request) else 'max'!r},\n")
    lines.append(f"    k={DEFAULT_SHOWN},\n")
    return f"from clipaudit import Retriever\n\nanswer = Retriever({run!r}).search(\n{''.join(lines)})"


def _tuple(texts: Sequence[str]) -> str:
    return repr(list(texts))
