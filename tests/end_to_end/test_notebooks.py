"""The notebooks of the docs, cell by cell, beside a finished demo."""

import ast
import json
import shutil

import pytest

from tests.commands import ROOT, write_demo

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(path):
    """The code cells of a notebook."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]


def shown(code, names):
    """Run a cell as a kernel does; its last expression, as text and as HTML."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return "", ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    html = getattr(value, "_repr_html_", None)
    return repr(value), "" if html is None else html()


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_shows_something(path, tmp_path, monkeypatch, shared):
    shutil.copytree(shared("demo-out", write_demo) / "demo-out", tmp_path / "demo-out")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for code in cells(path):
        text, html = shown(code, names)
        assert text or html, code


def test_there_are_notebooks_and_each_has_been_executed():
    """Readers of the site see the outputs that are stored."""
    assert len(NOTEBOOKS) >= 2
    for path in NOTEBOOKS:
        document = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
        assert code
        assert all(cell["outputs"] for cell in code), path.name
