"""Whether the rehearsal of one label of several can be trusted: worlds of known truth, each with four labels an image.

python benchmarks/rehearse_labels.py planted     a cue at 95 % that pixels show: confirmed, and the weights rank better
python benchmarks/rehearse_labels.py ghosts      columns that no pixel shows, and cues that go with nothing: believed?
python benchmarks/rehearse_labels.py ability     labels that no pixel shows, and labels without errors: acquitted?
python benchmarks/rehearse_labels.py coverage    the AUC gap's interval, with few images, copies and sources
python benchmarks/rehearse_labels.py birds       generated birds, labels `waterbird` and `small bird`: whole reports

Worlds are `tests.label_worlds`: 1,000 training images and 1,000 scored ones, where cue and label are untied; out of
fold 1,000 where they are tied. --worlds and --seed choose how many, and which. Shares have Clopper and Pearson's
one-sided 95 % limit.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for
from rehearse import say, word_of

from clipaudit.cues import AuditOptions, audit_cues
from clipaudit.cues.reliance.ranking import Rankings
from tests.label_worlds import LabelWorld, label_world, measured, scored_label, tied

SHARES = (0.25, 0.1)
"""Of images that have a label."""


def world_of(seed: list[int], split: bool, tie: float, share: float, **how: float) -> LabelWorld:
    """A world with a split, or one of tied images alone."""
    rng = np.random.default_rng(seed)
    return label_world(rng, 2000, tie=tie, share=share, **how) if split else label_world(
        rng, 1000, tie=tie, scored_tie=tie, share=share, **how
    )  # fmt: skip


def planted(worlds: int, seed: int) -> None:
    """A cue at 95 %."""
    for split in (True, False):
        for share in SHARES:
            counts: Counter[str] = Counter()
            better = 0
            for number in range(worlds):
                world = world_of([seed, 1, number, int(split), int(100 * share)], split, 0.95, share)
                (part,) = measured(world, {"cue": world.cue}, split=split)
                counts[word_of(part)] += 1
                effect = part.training
                better += effect is not None and (effect.group_mean_change.low or 0.0) > 0
            name = f"{100 * share:.0f} % have the label, {'split' if split else 'out of fold'}"
            say(f"{name}; not confirmed", counts, ("open", "acquitted", "fails where"))
            print(f"{'':60} weights rank better, interval above 0: {better} of {worlds}", flush=True)


def ghosts(worlds: int, seed: int) -> None:
    """Columns drawn from the label alone, beside a cue, without one, with wrong labels; one that goes with nothing."""
    kinds = (("beside a cue", 0.9, 0.0), ("no cue", 0.5, 0.0), ("3 % wrong labels", 0.9, 0.03))
    for split in (True, False):
        for name, tie, wrong in kinds:
            counts: Counter[str] = Counter()
            untied: Counter[str] = Counter()
            for number in range(worlds):
                key = [seed, 2, number, int(split), int(100 * tie), int(100 * wrong)]
                world = world_of(key, split, tie, SHARES[0])
                rng = np.random.default_rng([*key, 1])
                own = world.labels[:, 0]
                tied_in = world.train if split else np.ones(len(own), np.bool_)
                columns = {f"ghost {at}": tied(rng, own, np.where(tied_in, at, 0.5)) for at in (0.9, 0.75)}
                labels = world.labels.copy()
                labels[:, 0] = np.where(rng.random(len(own)) < wrong, ~own, own)
                told = LabelWorld(embedding=world.embedding, labels=labels, cue=world.cue, train=world.train)
                coin = {"cue": world.cue} if tie == 0.5 else {"coin": rng.integers(0, 2, len(own))}
                parts = measured(told, columns | coin, split=split)
                counts.update(word_of(part) for part in parts[:2])
                untied.update(word_of(part) for part in parts[2:])
            where = "split" if split else "out of fold"
            say(f"ghosts, {name}, {where}: believed", counts, ("confirmed", "fails where"))
            say(f"untied, {name}, {where}: believed", untied, ("confirmed", "fails where"))


def ability(worlds: int, seed: int) -> None:
    """A probe that cannot tell the label, and one that never errs, whose log-odds hang on a cue all the same."""
    kinds = (
        ("pixels show the cue alone", {"core": 0.0}),
        ("pixels show nothing", {"core": 0.0, "shown": 0.0}),
        ("never errs", {"core": 8.0, "shown": 3.0}),
    )
    for kind, (name, how) in enumerate(kinds):
        counts: Counter[str] = Counter()
        for number in range(worlds):
            world = world_of([seed, 3, number, kind], True, 0.95, SHARES[0], **how)
            counts[word_of(measured(world, {"cue": world.cue})[0])] += 1
        say(f"{name}: acquitted", counts, ("acquitted",))


SETTINGS = (
    ("no gap", {"label": 1.5, "cue": 0.0, "share": 0.5, "tie": 0.5}),
    ("moderate", {"label": 1.5, "cue": 1.0, "share": 0.25, "tie": 0.9}),
    ("large, few against it", {"label": 1.5, "cue": 2.0, "share": 0.2, "tie": 0.95}),
    ("near the ceiling", {"label": 2.5, "cue": 2.5, "share": 0.3, "tie": 0.9}),
    ("rare label", {"label": 1.5, "cue": 1.0, "share": 0.06, "tie": 0.85}),
    ("copies x5", {"label": 1.5, "cue": 1.0, "copies": 5}),
    ("8 sources", {"label": 1.5, "cue": 0.0, "tie": 0.8, "sources": 8}),
    ("10 sources", {"label": 1.5, "cue": 1.0, "tie": 0.8, "sources": 10}),
    ("40 sources", {"label": 1.5, "cue": 1.0, "tie": 0.8, "sources": 40}),
)


def coverage(worlds: int, seed: int) -> None:
    """Scores are normal, so that the true AUC gap is known; 800 images, scored by a model that is given."""
    for name, how in SETTINGS:
        label, cue = float(how["label"]), float(how["cue"])
        true = stats.norm.cdf((label + cue) / 2**0.5) - stats.norm.cdf((label - cue) / 2**0.5)
        inside, told, shown, shown_inside = 0, 0, 0, 0
        for number in range(worlds):
            comparison, scores = scored_label(np.random.default_rng([seed, 4, number]), 800, **how)
            gap = Rankings(comparison=comparison).gap(scores)
            if gap.low is None or gap.high is None:
                continue
            covered = gap.low <= true <= gap.high
            told, inside = told + 1, inside + covered
            if gap.low > 0:
                shown, shown_inside = shown + 1, shown_inside + covered
        where_shown = f"; above 0 in {shown}"
        if cue and shown:
            where_shown = f"; where above 0 {100 * shown_inside / shown:.1f} % of {shown}"
        print(
            f"{name:24} gap {true:.2f}: covered {100 * inside / max(told, 1):.1f} % of {told}{where_shown}", flush=True
        )


def birds(worlds: int, seed: int) -> None:
    """Reports on the demo's birds; waterbirds are at home on water in 95 % of the training images, small birds not."""
    for number in range(worlds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            run_command("demo-data", "birds", str(place / "birds"), "--count", "2000", "--seed", str(seed + number))
            shards = [with_lists(path) for path in sorted((place / "birds").glob("*.tar"))]
            columns = ["--label", "json:objects", "--attributes", "json:place,json:split"]
            run_command("audit", *shards, "--out", str(place / "run"), "--model", "demo", "--engine", "local", *columns)
            result = audit_cues(str(place / "run"), AuditOptions(attributes=("place",), split="split"))
        for finding in result.findings:
            for part in finding.reliance:
                aucs = "" if part.ranking is None else (
                    f"AUC {part.ranking.conflicting.value or 0:.2f} against {part.ranking.aligned.value or 0:.2f}"
                )  # fmt: skip
                print(f"seed {seed + number}: {finding.cue.value}, {finding.class_name}: {part.verdict}, {aucs}")
        for column in result.rehearsal.columns if result.rehearsal else ():
            lower = {arm.name: round(arm.worst_group.value or 0.0, 2) for arm in column.arms}
            print(f"    {column.label}, {column.value}: lower AUC {lower}", flush=True)


def run_command(*words: str) -> None:
    """A command of clipaudit."""
    subprocess.run([sys.executable, "-m", "clipaudit", *words], check=True, capture_output=True)


def with_lists(shard: Path) -> str:
    """A copy of a shard of birds, away from its class names, with the list `objects` in its json."""
    copy = shard.parents[1] / "lists" / shard.name
    copy.parent.mkdir(exist_ok=True)
    with tarfile.open(shard) as members, tarfile.open(copy, "w") as out:
        for member in members:
            stream = members.extractfile(member)
            content = stream.read() if stream is not None else b""
            if member.name.endswith(".json"):
                facts = json.loads(content)
                kinds = {"waterbird": facts["group"] == "waterbird", "small bird": facts["size"] == "small"}
                content = json.dumps({**facts, "objects": [kind for kind, is_it in kinds.items() if is_it]}).encode()
            info = tarfile.TarInfo(member.name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return str(copy)


def main() -> None:
    """Run what is asked for."""
    parser = parser_for(__doc__)
    kinds = {"planted": planted, "ghosts": ghosts, "ability": ability, "coverage": coverage, "birds": birds}
    parser.add_argument("what", nargs="?", choices=[*kinds, "all"], default="all")
    parser.add_argument("--worlds", type=int, default=None, help="worlds of a kind [20; of coverage 1,000, of birds 3]")
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser, worlds=1)
    usual = {"coverage": 1000, "birds": 3}
    for what, run in kinds.items():
        if options.what in (what, "all"):
            run(options.worlds or usual.get(what, 20), options.seed)


if __name__ == "__main__":
    main()
