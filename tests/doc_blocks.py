"""The console and Python blocks of README and docs, and how each is run in a directory that holds `demo-out`.

A block that cannot run there has a comment on the line above it, with the reason: `<!-- not run: needs a GPU -->`; on
the second line of a page it counts for the whole page. One that would take minutes runs smaller: `<!-- run with: 1000
as 40 -->` replaces texts, several separated by semicolons. Commands are called one after another, as a user types them.
What a console block shows below a command is what it prints: line by line, where `...` stands for any lines; figures
may differ a little, since other processors and versions of torch round differently.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.commands import ROOT, call

_BLOCK = re.compile(r"(?:^<!-- (?P<comment>.+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.S | re.M)
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?")
_SMALLER = "run with: "
_REASON = re.compile(r"not run: .{10,}|ci:\w+")
LANGUAGES = ("bash", "console", "python")
GATES = ("report",)  # commands whose exit code 1 says that a gate failed, which is an answer


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    comment: str
    """Why it is not run; empty for blocks that are."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README and every page of docs but the generated one of commands, which its own test holds."""
    return [
        "README.md",
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "cli.md"),
    ]


def blocks(page: str) -> list[Block]:
    """The blocks of a page that show commands or Python, in order."""
    text = (ROOT / page).read_text()
    head = re.match(r"# .*\n<!-- (not run: .+?) -->\n", text)
    found = []
    for match in _BLOCK.finditer(text):
        comment, code = match["comment"] or (head[1] if head else ""), match["code"]
        if comment.startswith(_SMALLER):
            for pair in comment.removeprefix(_SMALLER).split("; "):
                code = code.replace(*pair.split(" as "))
            comment = ""
        line = text[: match.start("code")].count("\n")
        if match["language"] in LANGUAGES:
            found.append(Block(page=page, line=line, language=match["language"], code=code, comment=comment))
    return found


def has_reason(block: Block) -> bool:
    return _REASON.fullmatch(block.comment) is not None


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a console or bash block, one line each, with what the block shows of their output.

    Of a console block commands stand behind `$ `; a bash block shows no output.
    """
    lines = [line for line in block.code.replace("\\\n", " ").splitlines() if line.strip()]
    if block.language != "console":
        return [(line, []) for line in lines if not line.lstrip().startswith("#")]
    typed: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            typed.append((line[2:], []))
        else:
            typed[-1][1].append(line)
    return typed


def unlike(shown: list[str], printed: list[str]) -> str | None:
    """The first line that a page shows and the command did not print in its place; None where all are right."""
    place, anywhere = 0, False
    for line in shown:
        if line.strip() == "...":
            anywhere = True
            continue
        while place < len(printed) and anywhere and not _alike(line, printed[place]):
            place += 1
        if place == len(printed) or not _alike(line, printed[place]):
            return line
        place, anywhere = place + 1, False
    return None


def _alike(shown: str, printed: str) -> bool:
    """Whether words are the same and figures nearly so: within 5 % or 3 of their last unit, such as per cent."""
    if _NUMBER.sub("#", " ".join(shown.split())) != _NUMBER.sub("#", " ".join(printed.split())):
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    return all(abs(a - b) <= max(3, 0.05 * abs(a)) for a, b in ((_number(a), _number(b)) for a, b in pairs))


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def run_block(block: Block, folder: Path, names: dict[str, Any]) -> None:
    """Run a block in `folder`; Python blocks of one page share `names`. AssertionError with what went wrong."""
    if block.language == "python":
        exec(compile(block.code, str(block), "exec"), names)
        return
    for command, shown in commands(block):
        words = shlex.split(command, comments=True)
        if words[0] == "clipaudit":
            done = call(folder, *words[1:])
            code, said, printed = done.returncode, done.stderr, done.stdout
            fine = code == 0 or (code == 1 and words[1] in GATES and "\nGate failed: " in f"\n{printed}")
        else:
            plain = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, check=False
            )
            code, said, printed, fine = plain.returncode, plain.stderr, plain.stdout, plain.returncode == 0
        assert fine, f"{block}: `{command}` ended with exit code {code}: {said[-2000:]}"
        wrong = unlike(shown, [line for line in printed.splitlines() if line.strip()])
        assert wrong is None, f"{block}: `{command}` does not print {wrong!r} there, but\n{printed}"
    sys.stdout.flush()
