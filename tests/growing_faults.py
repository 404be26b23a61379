"""Kills at every write of an append: what is left is finished by the same command, and nothing may be lost.

    python -m tests.growing_faults [--faults 48] [--seed 0] [--folder DIR]

Each trial begins with a copy of a run whose first part is unfinished, and appends shards to it. The process is killed
before or after one of its writes, in every second trial a second time, and then let finish. The table is compared with
that of a run over the same shards at once. Prints what was survived, as JSON.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from tests.cluster.chaos import compare, table_of
from tests.make_shards import cut, write_shard
from tests.synthetic_job import audit, kill_at

SHARDS, ROWS = 6, 5
FIRST, APPENDED = ("s-000.tar", "s-001.tar", "s-002.tar"), ("s-00[3-5].tar", "s-000.tar")
KILLED = 9


def in_child(call, *arguments):
    """The exit code of a forked process that makes one call: its kills leave this one whole."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        call(*arguments)
    except BaseException:  # noqa: BLE001 - told by the exit code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def make_data(folder):
    """Shards whose samples all differ; some labels are none, and one shard is cut."""
    for number in range(SHARDS):
        samples = {}
        for row in range(ROWS):
            unique = 100 * number + row
            label = "none" if unique % 203 == 2 else unique
            picture = b"\xff\xd8" + unique.to_bytes(60, "big")
            samples[f"s{unique:04d}"] = {"jpg": picture, "cls": label, "json": {"number": unique}}
        path = write_shard(folder / f"s-{number:03d}.tar", samples)
        if number == SHARDS - 1:
            cut(path, path.stat().st_size * 2 // 3)


def begin(folder):
    """The run before the append: of three shards one is not committed, as if its job had been killed."""
    audit(folder, *FIRST, out="begun")
    record = folder / "begun/_committed/000001.json"
    record.unlink()


def append(folder, number):
    if number:
        kill_at(number)
    audit(folder, *APPENDED, append=True)


def judge(folder):
    """The run holds each sample once, with its own label and vectors, checks well, and has no orphan."""
    from clipaudit.run.integrity import check
    from clipaudit.run.reader import Run
    from clipaudit.run.upkeep import gc

    wrong = compare(table_of(folder / "whole"), table_of(folder / "run"))
    problems = check(str(folder / "run")).problems
    generations = Counter(record.generation for record in Run(str(folder / "run")).records.values())
    gc(str(folder / "run"), min_age_seconds=0)
    names = {path.name.partition("-")[0] for path in (folder / "run/projections").iterdir()}
    whole = len(names) == len(list((folder / "run/projections").iterdir())) == SHARDS
    (folder / "verdict.json").write_text(
        json.dumps(
            {**wrong, "problems": len(problems), "wrong_generations": generations != {0: 3, 1: 3}, "orphans": not whole}
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="growing"))
    folder.mkdir(parents=True, exist_ok=True)
    make_data(folder)
    assert in_child(begin, folder) == in_child(lambda: audit(folder, "*.tar", out="whole")) == 0
    numbers, wrong, survived, trials = random.Random(options.seed), Counter(), 0, 0
    while survived < options.faults:
        trials += 1
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(folder / "begun", folder / "run")
        kills = [trials] + [numbers.randrange(1, 40)] * (trials % 2)
        for number in kills:
            code = in_child(append, folder, number)
            assert code in (0, KILLED), f"a bug ended the job at write {number}"
            survived += code == KILLED
        if code == 0 and len(kills) == 1:
            trials = 0  # there is no such write: begin again with other second kills
        assert in_child(append, folder, 0) == in_child(judge, folder) == 0
        wrong.update(json.loads((folder / "verdict.json").read_text()))
    print(json.dumps({"faults": survived, **wrong}))
    if options.folder is None:
        shutil.rmtree(folder)
    return int(wrong.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
