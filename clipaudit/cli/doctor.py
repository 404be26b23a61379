"""The command `doctor`; imports nothing heavy until it runs."""

from __future__ import annotations

from pathlib import Path

import typer

from clipaudit.cli.options import JsonOption, print_json


def doctor(as_json: JsonOption = False) -> None:
    """Look at this machine and its packages: versions, cores, GPU, disk, Ray, weights, and what to do.

    Writes nothing. Exit code 0, or 2 where something is broken, so that commands would fail.

    Example: `clipaudit doctor`
    """
    from dataclasses import asdict

    from clipaudit.cli.console.doctor import DoctorReporter
    from clipaudit.cli.installation import examine

    reporter = DoctorReporter(quiet=as_json)
    conditions = []
    for condition in examine(Path.cwd()):
        reporter.condition(condition)
        conditions.append(condition)
    problems = sum(condition.state == "problem" for condition in conditions)
    if as_json:
        print_json({"problems": problems, "conditions": [asdict(condition) for condition in conditions]})
    else:
        reporter.finished(problems)
    if problems:
        raise typer.Exit(2)
