"""The dependency audit of CI: it fails for what can be fixed, and never for want of a database."""

import os
import subprocess
import sys

import pytest

from tests.commands import ROOT

FAKE = """
import json, sys
answers = {answers!r}
if "--version" in sys.argv:
    sys.exit(0)
service = sys.argv[sys.argv.index("-s") + 1]
found = answers.get((service, "canary" if "-r" in sys.argv else "environment"))
if found is None:
    sys.exit("no route to host")
vulnerable = [{{"name": "x", "version": "1", "vulns": [{{"id": "CVE-1", "fix_versions": fix}} for fix in found]}}]
print(json.dumps({{"dependencies": [*vulnerable, {{"name": "y", "version": "2", "vulns": []}}]}}))
"""
KNOWN = {("pypi", "canary"): [["2.20"]]}


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        ({}, 0, "skipped: no advisory database can be reached"),
        ({("osv", "canary"): [], ("pypi", "canary"): []}, 0, "skipped: no advisory database can be reached"),
        (KNOWN, 0, "skipped: pypi stopped answering"),
        ({**KNOWN, ("pypi", "environment"): []}, 0, "0 packages with known vulnerabilities (pypi)"),
        ({**KNOWN, ("pypi", "environment"): [["1.1"]]}, 1, "x 1: CVE-1, fixed in 1.1"),
        ({**KNOWN, ("pypi", "environment"): [[]]}, 0, "x 1: CVE-1, fixed in no version yet"),
    ],
)
def test_what_the_audit_says_and_how_it_ends(tmp_path, answers, code, words):
    (tmp_path / "pip_audit.py").write_text(FAKE.format(answers=answers))
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "dependency_audit.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert words in done.stdout
