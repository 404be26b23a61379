"""The layout: who may import what, how long files are, what the top level holds."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.commands import ROOT

PACKAGE = sorted((ROOT / "clipaudit").rglob("*.py"))
NEVER = {"pickle", "cloudpickle", "marshal", "shelve"}
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_COMMAND = 400, 60, 120
"""Lines. A command has a parameter an option, which makes it long without making it hard."""


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def broken_rules(path):
    source = path.read_text()
    tree = ast.parse(source)
    name = path.relative_to(ROOT)
    if not ast.get_docstring(tree):
        yield f"{name}: a file says its role in its first line"
    if source.count("\n") > LONGEST_FILE:
        yield f"{name}: {source.count(chr(10))} lines"
    for module in NEVER & set(imports(tree)):
        yield f"{name}: imports {module}"
    limit = LONGEST_COMMAND if path.parent == ROOT / "clipaudit/cli" else LONGEST_FUNCTION
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= limit:
            yield f"{name}: {node.name} has {node.end_lineno - node.lineno + 1} lines"


def test_files_keep_the_rules():
    assert [line for path in PACKAGE for line in broken_rules(path)] == []


def rooms():
    return [path for path in (ROOT / "clipaudit").iterdir() if path.is_dir() and any(path.glob("*.py"))]


def test_no_stem_is_used_twice_inside_a_room():
    """`cli/console/` mirrors `cli/`: there a name means the same command."""
    for room in rooms():
        stems = [path.stem for path in room.rglob("*.py") if not path.stem.startswith("__")]
        repeated = {stem for stem in stems if stems.count(stem) > 1}
        assert room.name == "cli" or not repeated, (room.name, repeated)


def test_the_hall_is_small():
    assert len(list((ROOT / "clipaudit").glob("*.py"))) <= 10
    assert len(rooms()) <= 14


def test_no_two_public_classes_have_one_name():
    places = {}
    for path in PACKAGE:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['clipaudit', 'audit', '--help'];"
        "from clipaudit.cli.app import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'open_clip', 'fsspec'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


def test_collecting_tests_loads_nothing_heavy(collected_modules):
    """Modules that take seconds are imported where a test runs: every worker collects all tests."""
    heavy = {"torch", "open_clip", "timm", "torchvision", "moto", "schemathesis"}
    assert collected_modules & heavy == set()


def test_contributing_names_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [room.name for room in rooms() if f"`{room.name}/`" not in text] == []


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
        "constraints.txt",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "mkdocs.yml",
    }
