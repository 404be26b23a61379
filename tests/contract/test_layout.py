"""The layout that DESIGN promises: who may import what, how long files are, what the top level holds."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = sorted((ROOT / "clipaudit").rglob("*.py"))
ONLY_IN = {"ray": {"cluster.py"}, "webdataset": {"shards.py"}, "faiss": {"indexes.py"}}
NEVER = {"pickle", "cloudpickle", "marshal", "shelve"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_the_rules(path):
    source = path.read_text()
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "a file says its role in its first line"
    assert source.count("\n") <= 420, "a file does one thing"
    for name in imports(path):
        assert name not in NEVER
        assert path.name in ONLY_IN.get(name, {path.name}), f"only {ONLY_IN[name]} may import {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name not in ("audit",):
            # a command has a parameter an option: there, what is done with them is the function
            first = node.body[0].lineno if path.name.startswith("cli") else node.lineno
            assert node.end_lineno - first < 60, f"{node.name} is too long"


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['clipaudit', 'audit', '--help'];"
        "from clipaudit.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'open_clip', 'fsspec'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


def test_the_table_of_contributing_names_every_file():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    missing = [
        path.name
        for path in (ROOT / "clipaudit").glob("*.py")
        if path.name not in text and path.name not in ("__init__.py", "__main__.py")
    ]
    assert missing == []


def test_open_clips_training_extra_is_not_used():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [project["dependencies"], *project["optional-dependencies"].values()]
    assert not [name for names in wanted for name in names if "open_clip_torch[" in name], (
        "it caps webdataset below 1.0"
    )


def test_the_cluster_file_passes_rays_validator():
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0, "the head does no work"
    workers = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert any(node["resources"].get("GPU") and node["min_workers"] == 0 for node in workers)
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = shlex.split(" ".join(config["setup_commands"]))
    name = re.compile(r"[\w-]+")
    assert {name.match(text)[0] for text in needed} <= {found[0] for word in installed if (found := name.match(word))}


def test_the_readmes_two_commands_are_there():
    for name in ("run", "test"):
        command = subprocess.run(
            [sys.executable, str(ROOT / ".ci/readme_command.py"), name], capture_output=True, text=True, check=True
        ).stdout
        assert "venv" in command
        assert "\n" not in command.strip(), "one line does it all"


def test_top_level_holds_what_the_design_names():
    listing = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True)
    top = {Path(name).parts[0] for name in listing.stdout.splitlines()}
    plain = {name for name in top if not name.startswith(".")}
    assert plain == {
        "jobs",
        "clipaudit",
        "tests",
        "benchmarks",
        "docs",
        "README.md",
        "pyproject.toml",
        "cluster.yaml",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    }
