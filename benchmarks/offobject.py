"""Planted cues of the demo world: what share of each lies off the object, by the masks and by the model's estimate.

Place cues lie off the object, a tint lies everywhere, a black and white object lies on itself. Each pair of lines is a
finding of an audit of `birds` or `planted`; their verdicts (+ off, - on, 0 neither) should agree.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues import AuditOptions, audit_cues
from clipaudit.cues.report.heat import HeatMaps
from clipaudit.cues.report.off_object_shares import OffObjects
from clipaudit.cues.report.pictures import add_heat, read_pictures
from clipaudit.cues.result.off_object import NAME, with_off_object
from clipaudit.heads.texts.vectors import RunTexts
from tests.make_audits import audited_world

QUICK = {"negative_audits": 0, "positive_trials": 0, "permutations": 0, "random_sets": 200}
MARKS = {True: "+", False: "-", None: "0"}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--worlds", nargs="+", default=["birds", "planted"])
    options = parse(parser, seeds=[11], count=600, worlds=["birds"])
    same = wrong = total = 0
    seconds = {"heat maps": 0.0, "by masks": 0.0, "estimated": 0.0}
    for world in options.worlds:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                for exact, guess in findings(Path(folder), world, options.count, seed, seconds):
                    total += 1
                    same += exact == guess
                    wrong += exact != guess and guess is not None
    print(f"{total} findings: {same} with one verdict by both, {wrong} where the estimate is sure of another")
    print(", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()), "(models loaded)")


def findings(folder: Path, world: str, count: int, seed: int, seconds: dict[str, float]) -> list[tuple]:
    run = audited_world(folder, world, count, seed)
    result = audit_cues(run, AuditOptions(**QUICK, seed=seed))
    heat = HeatMaps(run, RunTexts(run, "cpu"), device="cpu")
    plain = read_pictures(result, [run])
    for finding in result.findings[:1]:
        heat.map_direction(finding)  # loads the text model
    found = []
    began = time.perf_counter()
    add_heat(result, plain, heat)
    seconds["heat maps"] += time.perf_counter() - began
    for name, masks in (("by masks", "seg.png"), ("estimated", "none")):
        began = time.perf_counter()
        measured = with_off_object(result, OffObjects(result, heat, masks))
        seconds[name] += time.perf_counter() - began
        found.append([next(item for item in f.evidence if item.name == NAME) for f in measured.findings])
    for finding, exact, guess in zip(result.findings, *found, strict=True):
        print(f"{world} {seed} {finding.class_name}: {finding.cue.name}")
        for item in (exact, guess):
            print(f"   {MARKS[item.supports]} {item.sentence}")
    return [(exact.supports, guess.supports) for exact, guess in zip(*found, strict=True)]


if __name__ == "__main__":
    main()
