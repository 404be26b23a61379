"""Whether what the rehearsed probe says of weights and a balanced subset holds for a model that knows nothing of CLIP.

python benchmarks/small_cnn.py            the demo's birds, 3 seeds; a minute of one core a seed, half of it the probe
python benchmarks/small_cnn.py --smoke    one small world, to see that it runs

A small convolutional network (four layers, pixels only) is trained on the training split of the demo's birds: as it is,
with images drawn by the weights that a report exports, and on the balanced subset that it exports; as many steps each.
Beside it stand the same three arms of the report's linear probe on CLIP embeddings. Both are scored on the test split
by class x place; `worst` is the lowest of the four accuracies.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit import AuditOptions, audit_cues
from clipaudit.cues.statistics.balance import balanced_subset, balanced_weights
from clipaudit.demo.world.datasets import DrawnSample, samples
from tests.make_audits import audited_world

ARMS = ("as it is", "group weights", "balanced subset")
BATCH = 64


def network() -> nn.Module:
    """Pictures at half their size, four strided convolutions, mean over the picture, one linear layer."""
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    for before, after in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))


def trained(pixels: Tensor, labels: Tensor, chance: npt.NDArray[np.float64], steps: int, seed: int) -> nn.Module:
    """A network after `steps` batches drawn with chances (n,), half of the pictures mirrored."""
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    rng = np.random.default_rng([seed, 60])
    for _ in range(steps):
        rows = torch.from_numpy(rng.choice(len(chance), BATCH, p=chance / chance.sum()))
        batch = pixels[rows]
        if rng.random() < 0.5:
            batch = batch.flip(3)
        loss = torch.nn.functional.cross_entropy(model(batch), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def groups_of(drawn: list[DrawnSample]) -> npt.NDArray[np.int64]:
    """(n,) class x place."""
    return np.array([2 * sample.label + (sample.scene.factors()["place"] == "water") for sample in drawn], np.int64)


def accuracies(
    model: nn.Module, pixels: Tensor, labels: Tensor, groups: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """(4,) by group."""
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(dim=1) for part in pixels.split(500)])
    right = (answers == labels).numpy()
    return np.array([right[groups == group].mean() for group in range(4)])


def of_cnn(count: int, seed: int, steps: int) -> dict[str, tuple[float, float]]:
    """Worst group and mean over groups of each arm."""
    drawn = list(samples("birds", count=count, seed=seed))
    train, test = ([sample for sample in drawn if sample.split == split] for split in ("train", "test"))
    pixels, labels = {}, {}
    for name, part in (("train", train), ("test", test)):
        stacked = np.stack([sample.pixels for sample in part]).transpose(0, 3, 1, 2).astype(np.float32)
        pixels[name] = torch.from_numpy(stacked / 127.5 - 1)
        labels[name] = torch.tensor([sample.label for sample in part])
    groups = groups_of(train)
    subset = np.zeros(len(train))
    subset[balanced_subset(groups)] = 1.0
    chances = (np.ones(len(train)), balanced_weights(groups)[0], subset)
    result = {}
    for arm, chance in zip(ARMS, chances, strict=True):
        model = trained(pixels["train"], labels["train"], chance, steps, seed)
        by_group = accuracies(model, pixels["test"], labels["test"], groups_of(test))
        result[arm] = (float(by_group.min()), float(by_group.mean()))
    return result


def of_probe(count: int, seed: int) -> dict[str, tuple[float, float]]:
    """The same of the arms that a report rehearses."""
    with tempfile.TemporaryDirectory() as folder:
        run = audited_world(Path(folder), "birds", count, seed, attributes=("place", "split"), layers="1")
        options = AuditOptions(
            attributes=("place",), split="split", negative_audits=0, positive_trials=0, permutations=0
        )
        panel = audit_cues(run, options).rehearsal
    assert panel is not None
    arms = {arm.name: arm for column in panel.columns for arm in column.arms}
    return {arm: (arms[arm].worst_group.value or 0.0, arms[arm].group_mean.value or 0.0) for arm in ARMS if arm in arms}


def main() -> None:
    """A line a seed and model, then the means and the signs."""
    parser = parser_for(__doc__)
    parser.add_argument("--count", type=int, default=4000, help="pictures a world, half of them for training")
    parser.add_argument("--steps", type=int, default=400, help="batches of 64")
    parser.add_argument("--seeds", type=int, nargs="+", default=[70, 71, 72])
    parser.add_argument("--no-probe", action="store_true", help="the network alone")
    options = parse(parser, count=400, steps=10, seeds=[70])
    worst: dict[str, list[list[float]]] = {"small CNN": [], "linear probe": []}
    for seed in options.seeds:
        measured = {"small CNN": of_cnn(options.count, seed, options.steps)}
        if not options.no_probe:
            measured["linear probe"] = of_probe(options.count, seed)
        for model, arms in measured.items():
            worst[model].append([arms[arm][0] for arm in ARMS if arm in arms])
            said = ", ".join(f"{arm} {low:.2f} (mean {mean:.2f})" for arm, (low, mean) in arms.items())
            print(f"seed {seed}, {model}: worst group {said}", flush=True)
    for model, rows in worst.items():
        if not rows:
            continue
        means = np.mean(rows, axis=0)
        better = [sum(row[place] > row[0] for row in rows) for place in range(1, len(means))]
        gains = ", ".join(f"{arm} better in {n} of {len(rows)}" for arm, n in zip(ARMS[1:], better, strict=False))
        print(f"{model}: worst group {', '.join(f'{a} {m:.2f}' for a, m in zip(ARMS, means, strict=False))}; {gains}")


if __name__ == "__main__":
    main()
