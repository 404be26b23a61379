"""Which rule keeps a real cue from being confirmed, by how unevenly it lies (docs/method.md, section 10).

python benchmarks/reliance_power.py                      20 worlds, 100 images a class
python benchmarks/reliance_power.py --images 200         200 images a class
python benchmarks/reliance_power.py --seed 7000          other worlds

The worlds of `reliance_acceptance.py real`: 24 heads, 2, 3 or 10 classes, a model that relies on the cue. Each line is
one share of the cue: how many worlds are confirmed, how many have enough matched sets of heads, which rules the others
miss, and how many miss one rule alone. `still needed` is the median of the conflicting images that the report asks for.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for
from reliance_acceptance import column, images_of, make_world, random_model, tied

from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.findings.verdicts import images_needed
from clipaudit.cues.reliance.rules import MeasuredReliance
from clipaudit.cues.reliance.specific_effect import MEAN_LOSS, SpecificEffect
from clipaudit.cues.result.finding_parts import Estimate

SHARES = (0.5, 0.75, 0.9)


def missed(reliance: MeasuredReliance) -> list[str]:
    """The rules of `confirmed shortcut` that do not hold."""
    gap, effect = reliance.gap, reliance.effect
    rules = {
        "both sides of the gap (S9)": not gap.both_sides,
        "gap above the margin (S9)": not (
            gap.above_margin(reliance.options) or gap.hangs_at_the_ceiling(reliance.options)
        ),
        "no head shrinks the gap (S10)": effect is None,
    }
    if effect is not None:
        rules |= missed_effect(effect)
        rules["heads show the cue (S10b)"] = not reliance.visible
        rules["permuted columns (S10c)"] = reliance.effect_p >= reliance.options.alpha
    return [name for name, fails in rules.items() if fails]


def missed_effect(effect: SpecificEffect) -> dict[str, bool]:
    """Which parts of S10 do not hold."""
    alone = next((arm.net_did for arm in effect.arms if arm.name == "direction only"), None)
    return {
        "DiD above 0 (S10)": not above(effect.did) or not above(effect.net_did),
        "rise on conflicting images above 0 (S10)": not above(effect.net_conflict_rise),
        "direction against random ones, too few sets of heads (S10c)": not effect.testable
        and (alone is None or not above(alone)),
        "group mean keeps (S10)": (effect.group_mean_change.value or 0.0) < -MEAN_LOSS,
    }


def above(estimate: Estimate) -> bool:
    """Whether the whole interval is above 0."""
    return estimate.low is not None and estimate.low > 0


def main() -> None:
    """Print a line a share, and its rules."""
    parser = parser_for(__doc__)
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--images", type=int, default=100, help="images a class")
    parser.add_argument("--seed", type=int, default=5000)
    options = parse(parser, worlds=1, images=50)
    rows: dict[float, list[MeasuredReliance]] = {share: [] for share in SHARES}
    for number in range(options.worlds):
        rng = np.random.default_rng([options.seed, 6, number])
        model = random_model(rng, reliance=float(rng.uniform(0.6, 1.2)), core=float(rng.uniform(0.9, 1.5)))
        classes = np.repeat(np.arange(model.classes), options.images)
        for share in SHARES:
            world = make_world(rng, model, classes, tied(rng, classes, share))
            cue = column("real", world.place, model.classes)
            rows[share].append(reliance_of([world.answerer], [cue], images_of(rng, world)).findings[0][0])
    for share, measured in rows.items():
        show(share, measured)


def show(share: float, measured: list[MeasuredReliance]) -> None:
    """The lines of one share."""
    by_world = [missed(reliance) for reliance in measured]
    testable = sum(reliance.effect is not None and reliance.effect.testable for reliance in measured)
    gaps = sum(reliance.fails_where and not reliance.relies_on_it for reliance in measured)
    confirmed = sum(not rules for rules in by_world)
    print(f"cue at {100 * share:.0f} %: {confirmed} of {len(measured)} confirmed, {gaps} more fail where it is missing;"
          f" enough matched sets in {testable}", flush=True)  # fmt: skip
    alone = Counter(rules[0] for rules in by_world if len(rules) == 1)
    for rule, count in Counter(rule for rules in by_world for rule in rules).most_common():
        print(f"    {rule}: missed by {count}, alone by {alone[rule]}")
    needed = [
        images_needed(reliance.effect.net_conflict_rise, 0.0)
        for reliance, rules in zip(measured, by_world, strict=True)
        if rules and reliance.effect is not None and (reliance.effect.net_conflict_rise.value or 0.0) > 0
    ]
    known = [count for count in needed if count is not None]
    if known:
        print(f"    still needed: {int(np.median(known))} conflicting images (median of {len(known)})")


if __name__ == "__main__":
    main()
