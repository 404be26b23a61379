"""The front door: the public names, what importing them costs, and their examples, which run."""

import ast
import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib

import pytest

import clipaudit
from clipaudit.moved import MODULES, MOVED
from tests.commands import ROOT

NAMES = [
    *("JobConfig", "ModelConfig", "FieldsConfig", "DecodeConfig", "StoreConfig", "ExecutionConfig", "run_job"),
    *("Run", "Rows", "Moments", "Basis", "export"),
    *("load_model", "Decomposer", "Decomposition", "Tower", "describe_tower", "token_scores"),
    *("TextPool", "describe_heads", "describe_concepts", "textspan", "ablate", "ablate_presence", "compare_runs"),
    *("explain", "localiser", "METHODS", "HeadIndex", "Retriever"),
    *("AuditOptions", "AuditResult", "audit_cues", "save_report"),
    *("ClipauditError", "UsageError", "RunNotFound", "IntegrityError", "__version__"),
]
"""Removing or renaming one of these needs a line in CHANGELOG.md."""
WITH_EXAMPLES = [name for name in NAMES if name not in ("METHODS", "__version__")]
HEAVY = {"torch", "pyarrow", "numpy", "ray", "open_clip", "faiss", "fsspec", "pydantic", "typer"}


def test_the_public_names_are_these():
    assert sorted(clipaudit.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(clipaudit))
    with pytest.raises(AttributeError, match="module 'clipaudit' has no attribute 'Picture'"):
        _ = clipaudit.Picture


def test_type_checkers_know_the_same_names_in_the_same_places():
    tree = ast.parse((ROOT / "clipaudit/__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in block.body for alias in node.names}
    assert imports == dict(clipaudit._PLACES)
    assert {*imports, "__version__"} == set(NAMES)
    assert (ROOT / "clipaudit/py.typed").is_file()


def test_importing_the_package_loads_nothing_heavy():
    code = f"import clipaudit, json, sys; print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(found.stdout) == []


def test_the_version_is_the_packages_the_citations_and_the_changelogs():
    assert clipaudit.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    version, date = re.search(r"^version: (.+)\ndate-released: (.+)$", citation, re.M).groups()
    releases = re.findall(r"^## (\d.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert (version, releases[0]) == (clipaudit.__version__, f"{version} ({date})")


def test_the_packages_own_modules_use_neither_the_front_door_nor_an_old_path():
    """Else a room would reach every other through it, and no import rule would notice."""
    wrong = []
    for path in sorted((ROOT / "clipaudit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
            for module in modules:
                still_there = module in ("clipaudit.model", "clipaudit.run")
                old = module in MOVED and (not still_there or names & set(MOVED[module]))
                door = module == "clipaudit" and path != ROOT / "clipaudit/__init__.py"
                wrong += [f"{path.relative_to(ROOT)}: {module}"] if old or door else []
    assert wrong == []


# -- examples ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with what the examples name: a run of the demo's birds with two indexes, and a photograph."""
    from clipaudit.demo.world.datasets import write_world
    from clipaudit.retrieval.plan import IndexConfig, build_indexes
    from clipaudit.run.reader import Run
    from clipaudit.run.thumbnails import Thumbnails
    from tests.make_runs import MEMORY

    place = tmp_path_factory.mktemp("examples")
    write_world("birds", place / "demo-out/birds", count=240, seed=0, shard_size=40)
    config = clipaudit.JobConfig(
        shards=(str(place / "demo-out/birds/*.tar"),),
        out=str(place / "demo-out/birds-run"),
        model=clipaudit.ModelConfig(name="demo"),
        fields=clipaudit.FieldsConfig(label="cls", attributes=("json:place", "json:split")),
        store=clipaudit.StoreConfig(layers="4,5"),
        execution=clipaudit.ExecutionConfig(engine="local"),
    )
    clipaudit.run_job(config)
    build_indexes(IndexConfig(run=config.out, heads=("L05H00", "embedding"), memory=MEMORY))
    run = Run(config.out)
    row = clipaudit.HeadIndex.open(run, "L05H00").rows([0])[0]
    (place / "photo.jpg").write_bytes(Thumbnails(run).data(row))
    return place


def example(name):
    """The examples in a public object's own docstring, with every public name at hand."""
    import numpy
    import PIL.Image
    import torch

    names = {public: getattr(clipaudit, public) for public in NAMES} | {"np": numpy, "torch": torch, "PIL": PIL}
    text = inspect.getdoc(getattr(clipaudit, name)) or ""
    return doctest.DocTestParser().get_doctest(text, names, name, None, 0)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_example_in_its_docstring_runs(name, world, monkeypatch):
    monkeypatch.chdir(world)
    test = example(name)
    assert test.examples, f"{name} has no example"
    output = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=output.append)
    assert results.failed == 0, "".join(output)


def test_the_block_about_reading_runs_as_it_stands(world, monkeypatch):
    monkeypatch.chdir(world)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/files.md").read_text(), re.S | re.M)
    (reading,) = (block for block in blocks if "import Run\n" in block)
    exec(compile(reading, "docs/files.md", "exec"), {})


def test_results_do_not_print_their_arrays(world, monkeypatch):
    import PIL.Image

    monkeypatch.chdir(world)
    loaded = clipaudit.load_model("demo")
    decomposer = clipaudit.Decomposer(loaded.model, tokens=True)
    texts = clipaudit.TextPool.of(["a photo of water", "a photo of a forest", "a photo of a bird"])
    results = {
        "model": loaded,
        "tower": decomposer.tower,
        "readout": decomposer.readout,
        "decomposition": decomposer(loaded.transform(PIL.Image.open("photo.jpg"))[None]),
        "explanation": clipaudit.explain("photo.jpg", "a bird", "demo", method="patches"),
        "words": clipaudit.describe_heads("demo-out/birds-run", heads="L05H00", texts=texts, steps=2, roles=False),
        "ablation": clipaudit.ablate("demo-out/birds-run", "L05H00"),
    }
    for name, result in results.items():
        text = repr(result)
        assert "array(" not in text, name
        assert "tensor(" not in text, name
        assert "Parameter containing" not in text, name
        assert len(text) < 6000, name


# -- the paths of version 0.1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in MOVED.items() for name in names])
def test_an_old_path_warns_and_gives_the_object_of_the_new_one(module, name):
    place = MOVED[module][name]
    home, _, new = place.rpartition(".")
    if place == "clipaudit.export":
        home = "clipaudit.run.export"
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} has moved: use {place}") as warned:
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), new)
    assert warned[0].filename == __file__


def test_old_imports_as_they_were_written():
    code = """
from clipaudit.audit import AuditOptions, AuditResult, Verdict, audit
from clipaudit.decomposer import Decomposer, describe
from clipaudit.export import export
from clipaudit.report import save_report
from clipaudit.retrieval.head import HeadIndex
from clipaudit.run import Run
from clipaudit.localize import METHODS, localiser
import clipaudit, clipaudit.run, clipaudit.export
assert callable(clipaudit.export) and callable(export)
assert clipaudit.Run is Run and clipaudit.audit_cues is audit
try:
    clipaudit.export("nowhere", "out")
except clipaudit.RunNotFound:
    called = True
"""
    names = {}
    with pytest.warns(DeprecationWarning, match="has moved: use clipaudit"):
        exec(code, names)
    assert names["called"]


def test_the_other_modules_of_before_give_the_names_that_they_kept():
    assert all(
        (ROOT / f"clipaudit/{new.replace('.', '/')}").exists()
        or (ROOT / f"clipaudit/{new.replace('.', '/')}.py").exists()
        for new in MODULES.values()
    )
    assert not any((ROOT / f"clipaudit/{old.replace('.', '/')}.py").exists() for old in MODULES)
    with pytest.warns(DeprecationWarning, match=r"has moved: use clipaudit\.cues\.statistics\.groups\.grouping"):
        from clipaudit.audit.groups import grouping
    from clipaudit.cues.statistics.groups import grouping as at_its_new_place

    assert grouping is at_its_new_place


@pytest.mark.parametrize("module", ["clipaudit.audit", "clipaudit.audit.groups", "clipaudit.model", "clipaudit.run"])
def test_a_name_that_never_was_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Picture'"):
        _ = importlib.import_module(module).Picture


def test_modules_that_never_were_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("clipaudit.nothing")
