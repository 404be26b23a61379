"""Faults of every kind at random moments on several Ray nodes: nothing lost, nothing twice, nothing mislabelled."""

import json
import subprocess
import sys

import pytest

from tests.cluster.chaos import ON_MACHINES, compare
from tests.cluster.faults import IN_WORKERS
from tests.commands import ROOT


def trial(folder, model, *options, timeout):
    """What a trial survived; it judges itself and fails with what was wrong."""
    command = [sys.executable, "-m", "tests.cluster.chaos", "--model", model, "--folder", str(folder), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    survived = json.loads(result.stdout[result.stdout.index("{") :])
    print(json.dumps(survived))
    wrong = ("lost", "invented", "repeated", "mislabelled", "other vectors")
    assert {name: survived[name] for name in wrong} == dict.fromkeys(wrong, 0)
    return survived


@pytest.mark.full
def test_a_few_faults_cost_nothing(tmp_path, tiny_model):
    kinds = (
        "killed in mid shard",
        "read error",
        "node killed",
        "driver asked to stop",
        "second driver of the same run",
        "killed after its files were written",
    )
    survived = trial(tmp_path / "t", tiny_model, "--kinds", ",".join(kinds), "--workers", "2", timeout=600)
    assert survived["survived"] == dict.fromkeys(kinds, 1)
    assert survived["drivers"].get("exit code 4", 0) >= 1, "a driver that is asked to stop says so"


@pytest.mark.slow
def test_sixty_faults_of_every_kind_cost_nothing(tmp_path, tiny_model):
    survived = trial(tmp_path / "t", tiny_model, "--seed", "1", "--faults", "60", timeout=3600)
    assert survived["faults"] >= 60
    assert set(survived["survived"]) == {*ON_MACHINES, *IN_WORKERS}


def test_the_judge_sees_every_kind_of_damage():
    import numpy as np

    def table(*rows):
        found = {(0, key, number): (label, value) for number, (key, label, value) in enumerate(rows)}
        count = dict.fromkeys(found, 1)
        facts = {identity: {"label": label} for identity, (label, _) in found.items()}
        return count, facts, {identity: np.array([value], np.float16) for identity, (_, value) in found.items()}

    true = table(("a", 1, 0.25), ("b", 2, 0.5), ("c", 3, 0.75))
    assert not any(compare(true, true).values())
    assert compare(true, table(("a", 1, 0.25), ("b", 2, 0.5)))["lost"] == 1
    assert compare(table(("a", 1, 0.25)), true)["invented"] == 2
    assert compare(true, table(("a", 1, 0.25), ("b", 3, 0.5), ("c", 2, 0.75)))["mislabelled"] == 2
    assert compare(true, table(("a", 1, 0.25), ("b", 2, 0.75), ("c", 3, 0.5)))["other vectors"] == 2
    twice = dict.fromkeys(true[0], 2), true[1], true[2]
    assert compare(true, twice)["repeated"] == 3
