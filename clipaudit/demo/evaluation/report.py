"""A whole evaluation as JSON and as a table: figures, the shortcut study, model, machine and training."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from rich.table import Table

from clipaudit.demo.evaluation.measured import Figure
from clipaudit.demo.evaluation.shortcut import Shortcut
from clipaudit.schema import VERSION

_CHECKPOINT, _LOG = "checkpoint.safetensors", "log.jsonl"


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """The result of one evaluation."""

    model: Mapping[str, Any]
    """`LoadedModel.description`."""
    figures: Sequence[Figure]
    shortcut: Shortcut
    seed: int
    images: int
    command: str
    machine: str
    seconds: float
    training: Mapping[str, Any] | None = None
    """`training_facts` of the training's directory."""
    note: str = ""
    """A remark for the card: how the model was chosen among several, what was tried without success."""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": 1,
            "clipaudit": VERSION,
            "model": dict(self.model),
            "command": self.command,
            "machine": self.machine,
            "seed": self.seed,
            "images_per_question": self.images,
            "seconds": round(self.seconds, 1),
            "figures": [figure.record() for figure in self.figures],
            "birds": self.shortcut.record(),
            "training": None if self.training is None else dict(self.training),
            "note": self.note,
        }

    def table(self) -> Table:
        """A table with a row a figure: target, measured value, interval, and whether the target was reached."""
        table = Table(
            title=f"demo model {self.model['fingerprint']}, {self.images} images a question, seed {self.seed}"
        )
        columns = list(self.figures[0].cells())
        for column in columns:
            table.add_column(column, justify="left" if column == "figure" else "right")
        part = self.figures[0].part
        for figure in self.figures:
            if figure.part != part:
                table.add_section()
                part = figure.part
            cells = figure.cells()
            table.add_row(*cells.values(), style={None: "", True: "green", False: "red"}[figure.reached])
        return table


def training_facts(folder: Path) -> dict[str, Any]:
    """The recipe, the seconds and the last line of the log from a training's directory.

    Empty when the directory holds neither a checkpoint nor a log.
    """
    facts: dict[str, Any] = {}
    if (folder / _CHECKPOINT).is_file():
        with safetensors.safe_open(folder / _CHECKPOINT, "np") as file:
            facts["recipe"] = json.loads(file.metadata()["state"])
    if (folder / _LOG).is_file():
        lines = [json.loads(line) for line in (folder / _LOG).read_text(encoding="utf-8").splitlines()]
        if lines:
            facts |= {"log": lines[-1], "seconds": _seconds(lines)}
    return facts


def machine() -> str:
    """Processor, cores, system and torch in one line."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = next(iter(names), processor)
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{processor}, {threads}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"


def _seconds(lines: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of a training over all its starts, each of which counts from zero."""
    seconds = [float(line["seconds"]) for line in lines]
    ends = [before for before, after in itertools.pairwise(seconds) if after < before]
    return sum(ends) + seconds[-1]
