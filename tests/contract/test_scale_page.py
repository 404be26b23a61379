"""docs/scale.md shows what benchmarks/scale.py computes: nobody edits one without the other."""

import subprocess
import sys

from tests.commands import ROOT


def test_the_tables_are_those_that_the_script_prints():
    command = [sys.executable, str(ROOT / "benchmarks/scale.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    page = (ROOT / "docs/scale.md").read_text()
    tables = [table for table in printed.strip().split("\n\n") if table]
    assert len(tables) == 4
    for table in tables:
        assert table in page, "python benchmarks/scale.py prints other numbers: copy its tables into docs/scale.md"


def test_a_commit_record_takes_the_bytes_that_the_page_states():
    code = "import sys; sys.path.insert(0, 'benchmarks'); import scale; print(f'{scale.COMMIT_BYTES:,} bytes a')"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    assert printed in (ROOT / "docs/scale.md").read_text()
