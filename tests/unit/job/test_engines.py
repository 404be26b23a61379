"""The table of engines: one for each value of `--engine`, each with what an engine must have."""

import ast
import importlib.util
from pathlib import Path
from typing import get_args

import pytest

from clipaudit.config import EngineName, ExecutionConfig, JobConfig
from clipaudit.job.engines import ENGINES, load_engine, make_pool


@pytest.mark.parametrize("name", get_args(EngineName))
def test_every_engine_has_a_module_with_what_is_asked_of_it(name):
    """Parsed, not imported: a unit test loads no Ray."""
    tree = ast.parse(Path(importlib.util.find_spec(ENGINES[name]).origin).read_text())
    functions = {
        node.name: [argument.arg for argument in node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    assigned = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
    assert functions["make_pool"] == ["config"]
    assert functions["map_items"] == ["function", "items", "execution"]
    assert "IN_THIS_PROCESS" in assigned


def test_the_table_holds_no_other_engine():
    assert sorted(ENGINES) == sorted(get_args(EngineName))


def test_the_configuration_chooses_the_pool():
    config = JobConfig(shards=("a.tar",), out="run", execution=ExecutionConfig(engine="local"))
    pool = make_pool(config)
    assert type(pool).__name__ == "LocalPool"
    pool.close()


def test_the_local_engine_maps_in_this_process_and_in_order():
    engine = load_engine("local")
    marks = []

    def note(item, threads, callers):
        marks.append((item, callers))
        assert threads >= 1
        return 2 * item

    assert engine.IN_THIS_PROCESS
    assert list(engine.map_items(note, [3, 1, 2], ExecutionConfig(engine="local"))) == [6, 2, 4]
    assert marks == [(3, 1), (1, 1), (2, 1)]
