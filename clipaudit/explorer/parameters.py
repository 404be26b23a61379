"""Parameters of an address that a path has not, or that stand twice: neither would count, and nobody would be told."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

PREFIX: Final = "/api/v1"
"""Of every path of this version of the interface."""


def known_parameters(http: HttpRequest) -> None:
    """422 for a parameter that the description of the interface has not, and for one that is given again and takes one
    value.
    """
    names = [name for name, _ in http.query_params.multi_items()]
    if not names:
        return
    several = _described(http)
    for name in names:
        if name not in several:
            there = f"there is {', '.join(several)}" if several else "this path takes none"
            raise HTTPException(422, f"there is no parameter {name[:64]!r}: {there}")
        if names.count(name) > 1 and not several[name]:
            raise HTTPException(422, f"the parameter {name} is given {names.count(name)} times, and it takes one value")


def _described(http: HttpRequest) -> dict[str, bool]:
    """Name -> whether it takes several values, of the parameters of the path that is asked."""
    app, route = http.app, http.scope["route"]
    assert isinstance(app, FastAPI)
    assert isinstance(route, APIRoute)
    paths: dict[str, Any] = app.openapi()["paths"]
    # some versions of FastAPI give the path of a route as it was included, others as it was written
    described = paths.get(route.path) or paths.get(PREFIX + route.path, {})
    parameters = described.get(http.method.lower(), {}).get("parameters", ())
    return {each["name"]: "array" in str(each["schema"]) for each in parameters if each["in"] == "query"}
