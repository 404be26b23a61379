"""Public functions that take or return arrays say the shapes in their docstrings."""

import ast
import re

from tests.commands import ROOT

DIMENSION = r"(?:\.\.\.|\w+(?: ?[-+*/] ?\w+)*)"
SHAPE = re.compile(rf"\({DIMENSION}(?:, ?{DIMENSION})+\)|\({DIMENSION},\)|\bscalars?\b|\bany shape\b")
"""`(n, D)`, `(n,)`, `(..., 3)`, `(n, layers * heads)`, or that word."""
ARRAY = re.compile(r"\b(?:Bools|Uint8s|Ints|Floats|Float16s|Float32s|Float64s|NDArray|ndarray|Tensor)\b")


def annotations(function):
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [part for part in (*(parameter.annotation for parameter in parameters), function.returns) if part]


def takes_or_returns_arrays(function):
    return any(ARRAY.search(ast.unparse(annotation)) for annotation in annotations(function))


def public_functions(tree):
    """Module-level functions and methods of public classes, by the names that users write."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f"{node.name}.{part.name}", part) for part in node.body if isinstance(part, ast.FunctionDef))


def needs_a_shape(name, function):
    public = not any(part.startswith("_") for part in name.split("."))
    overload = any(ast.unparse(decorator) == "overload" for decorator in function.decorator_list)
    return public and not overload and takes_or_returns_arrays(function)


def without_shape(path):
    for name, function in public_functions(ast.parse(path.read_text())):
        if needs_a_shape(name, function) and not SHAPE.search(ast.get_docstring(function) or ""):
            yield f"{path.relative_to(ROOT)}:{function.lineno} {name}"


def test_a_shape_is_told_from_a_remark():
    for text in ("(n,)", "(n, D)", "of (..., 3) pixels", "(heads, n * d)", "a scalar", "of any shape"):
        assert SHAPE.search(text), text
    for text in ("(see there)", "(n)", "()", "(the first, and then the others)", "scalarly"):
        assert not SHAPE.search(text), text


def test_functions_on_arrays_say_their_shapes():
    paths = sorted((ROOT / "clipaudit").rglob("*.py"))
    assert [line for path in paths for line in without_shape(path)] == []
