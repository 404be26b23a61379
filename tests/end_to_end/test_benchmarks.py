"""Every script in benchmarks/ runs to its end at its smallest sizes: a figure in the docs can be taken again.

Those that take long even so are started here, and run by `.ci/matrix benchmarks` before a release.
"""

import json

import pytest

from tests.commands import ROOT
from tests.forked import Forked, run_script

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name not in ("gpu.py", "options.py"))
LONG = (
    *(
        "audit.py",
        "decode.py",
        "decomposer.py",
        "extremes.py",
        "index.py",
        "localize.py",
        "offobject.py",
        "peers.py",
        "rehearse_labels.py",
        "report.py",
        "roles.py",
    ),
)
"""More than ten seconds of a core."""


def ran(script, folder, *options):
    """What it printed. AssertionError with its end when it fails."""
    process = Forked(folder, run_script, f"benchmarks/{script}", *options)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, (out + err)[-4000:]
    return out + err


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.slow if name in LONG else pytest.mark.full) for name in SCRIPTS]
)
def test_a_benchmark_runs_at_its_smallest_sizes(script, tmp_path):
    assert ran(script, tmp_path, "--smoke").strip(), "a benchmark prints its figures"


@pytest.mark.full
@pytest.mark.parametrize("script", LONG)
def test_one_that_takes_long_finds_what_it_imports(script, tmp_path):
    assert script in ran(script, tmp_path, "--help")


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gpu_benchmark_runs_anywhere(tmp_path, precision):
    out = tmp_path / "gpu.json"
    ran("gpu.py", tmp_path, "--smoke", "--precision", precision, "--json", str(out))
    [row] = json.loads(out.read_text())["rows"]
    assert {"plain_autocast", "decomposed", "staged"} <= row["images_per_second"].keys()
    assert all(speed > 0 for speed in row["images_per_second"].values())
    # The published method, written anew, gives the same heads.
    assert row["published"]["largest_difference"] <= (1e-6 if precision == "fp32" else 2e-2)
    assert row["remainder"] <= (5e-6 if precision == "fp32" else 2e-2)
