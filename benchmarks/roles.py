"""Roles against the truth: two runs over generated data sets of the same kind, audited with the demo model.

    clipaudit demo-data things things-1 --seed 1 && clipaudit demo-data things things-2 --seed 2
    A='--model demo --engine local --layers all --label cls --attributes json:noun,json:background,json:style,json:tint'
    clipaudit audit 'things-1/*.tar' --out run-1 $A && clipaudit audit 'things-2/*.tar' --out run-2 $A
python benchmarks/roles.py run-1 run-2

For every head: the share of its variance that each true factor explains (a linear probe: the classes' means, held out
by halves), and how much the pool's properties of that factor span beyond all other texts. Printed: rank correlation
over heads for each factor and agreement of the first factor, each with a permutation null (heads permuted), and how
many roles are equal in the two runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import made_runs, parse, parser_for

from clipaudit.heads.description import find_roles
from clipaudit.heads.roles import Role
from clipaudit.heads.texts.pool import TextPool, load_pool
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.heads.textspan import variance_share
from clipaudit.run.reader import Run

FACTORS = {
    "noun": {"noun", "animals", "food", "vehicles", "objects", "plants"},
    "background": {"place", "location", "geography", "time_weather", "interiors", "buildings", "lighting"},
    "style": {"style", "style_medium", "image_quality"},
    "tint": {"tint", "colour"},
}
"""The worlds' factors, each with the properties that speak of it: of our own pool, and of the captions' own phrases."""
PERMUTATIONS = 10_000


def caption_pool() -> TextPool:
    """The demo captions' own phrases, by property: words that the demo model has learnt."""
    from clipaudit.demo.evaluation.head_choice import text_pool

    pool = text_pool()
    return TextPool(
        texts=tuple(pool), properties=tuple(pool.values()), kinds=("unspecified",) * len(pool), source="captions"
    )


def probe(values: npt.NDArray[np.float64], factor: npt.NDArray[np.object_], half: npt.NDArray[np.bool_]) -> float:
    """Held-out share of a head's variance that the factor's class means explain, both ways of halving averaged."""
    shares = []
    for fit in (half, ~half):
        test, centre = ~fit, values[fit].mean(axis=0)
        means = {level: values[fit & (factor == level)].mean(axis=0) for level in set(factor[fit])}
        predicted = np.stack([means.get(level, centre) for level in factor[test]])
        shares.append(1 - ((values[test] - predicted) ** 2).sum() / ((values[test] - centre) ** 2).sum())
    return max(0.0, float(np.mean(shares)))


def truth(run: Run) -> npt.NDArray[np.float64]:
    """(heads, factors) held-out shares."""
    rows = [row for row in run.table(["status", "attributes"]).to_pylist() if row["status"] == "ok"]
    half = np.random.default_rng(0).random(len(rows)) < 0.5
    factors = [np.array([str(row["attributes"][name]) for row in rows], object) for name in FACTORS]
    found = []
    for head in run.head_labels:
        values = run.heads(head, (), dtype=np.float64).values
        found.append([probe(values, factor, half) for factor in factors])
    return np.array(found)


def spoken(role: Role) -> list[float]:
    """By factor: what its best property spans beyond all other texts."""
    gains = {share.name: share.explained - share.others for share in role.properties}
    return [max((gain for name, gain in gains.items() if name in names), default=0.0) for names in FACTORS.values()]


def factor_of(role: Role) -> int:
    """The factor that a role's label speaks of; -1 for none."""
    return next((n for n, names in enumerate(FACTORS.values()) if role.label in names), -1)


def report(run: Run, pool: TextPool, true: npt.NDArray[np.float64]) -> list[Role]:
    """Print the agreement of one run and one pool."""
    moments = run.moments()
    roles = find_roles(run, pool, RunTexts(run), run.head_labels, moments, run.basis())
    said, rng = np.array([spoken(role) for role in roles]), np.random.default_rng(0)
    for column, name in enumerate(FACTORS):
        rho = float(spearmanr(true[:, column], said[:, column]).statistic)
        null = [
            spearmanr(rng.permutation(true[:, column]), said[:, column]).statistic for _ in range(PERMUTATIONS // 10)
        ]
        print(
            f"  {name:12s} rank correlation {rho:5.2f}   p = {(1 + sum(r >= rho for r in null)) / (1 + len(null)):.4f}"
        )
    first, named = true.argmax(axis=1), np.array([factor_of(role) for role in roles])
    asked = named >= 0
    right = int((first[asked] == named[asked]).sum())
    null = [int((rng.permutation(first)[asked] == named[asked]).sum()) for _ in range(PERMUTATIONS)]
    p = (1 + sum(count >= right for count in null)) / (1 + len(null))
    others = sum(role.label is not None for role in roles) - int(asked.sum())
    print(f"  first factor: {right} of {int(asked.sum())} heads with a role agree, p = {p:.4f}")
    print(f"  {others} roles of other properties, {sum(role.label is None for role in roles)} heads without a role")
    for head, role, shares in zip(run.head_labels, roles, true, strict=True):
        factor, share = list(FACTORS)[int(shares.argmax())], variance_share(moments, head)
        print(f"    {head} {100 * share:4.1f} %  {factor:10s} {shares.max():.2f}   {role.label or '-'}")
    return roles


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("runs", nargs="*", help="two runs; --smoke makes small ones")
    options = parse(parser)
    if options.smoke and not options.runs:
        options.runs = made_runs()
    if len(options.runs) != 2:
        parser.error("two runs are needed")
    runs = [Run(path) for path in options.runs]
    true = truth(runs[0])
    for pool in (load_pool(), caption_pool()):
        print(pool.summary)
        first = report(runs[0], pool, true)
        second = find_roles(runs[1], pool, RunTexts(runs[1]), runs[1].head_labels, runs[1].moments(), runs[1].basis())
        pairs = [(a.label, b.label) for a, b in zip(first, second, strict=True)]
        named = [(a, b) for a, b in pairs if a or b]
        print(f"  equal in both data sets: {sum(a == b for a, b in pairs)} of {len(pairs)} heads;"
              f" of those with a role in either: {sum(a == b for a, b in named)} of {len(named)}")  # fmt: skip


if __name__ == "__main__":
    main()
