"""Heat maps against a plain `encode_image`, side by side in alternating rounds, and the memory of feature surgery.

    python benchmarks/localize.py [--models ViT-B-16] [--batch 8] [--texts 100] [--json FILE]

Random weights: only the arithmetic counts. Rounds alternate the order of the sides, so that drift of the machine's
clock falls on all alike; ratios are medians of each round's ratio to plain. Like `benchmarks/decomposer.py` the script
starts itself again with malloc told to keep freed memory. Memory is the largest tensor of feature surgery, as torch's
dispatcher sees it, against the form that multiplies features out (N x T x D).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from decomposer import KEEP, require_fast_path, timed
from options import SMALL_MODEL, parse, parser_for
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipaudit.localize import Surgery, TokenDecomposition, feature_surgery, similarities, text_weights
from clipaudit.localize.surgery import PatchFeatures


def main() -> None:
    options = command_line()
    if not KEEP.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP)
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} threads, batch {options.batch}, "
        f"{options.texts} texts, load {os.getloadavg()[0]:.1f}, alternating rounds, median ratio to plain (quartiles)"
    )
    rows = [row for model in options.models for row in measure(model, options)]
    rows += [memory(options)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def command_line() -> argparse.Namespace:
    parser = parser_for(__doc__)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-B-16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30, help="time for each model's rounds (default 30)")
    parser.add_argument("--rounds", type=int, default=5, help="fewest timed rounds (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parse(parser, models=[SMALL_MODEL], batch=2, texts=5, seconds=0, rounds=2)


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = open_clip.create_model(name, device=options.device).eval()
    images = torch.randn(options.batch, 3, *model.visual.image_size, device=options.device)
    texts = F.normalize(torch.randn(options.texts, model.visual.output_dim, device=options.device), dim=-1)
    tokens, surgery = TokenDecomposition(model), Surgery(model)

    def plain() -> Tensor:
        with torch.inference_mode():
            return model.encode_image(images, normalize=True)

    @torch.inference_mode()
    def surgical() -> Tensor:
        K, whole = similarities(surgery(images), texts)
        return feature_surgery(K, text_weights(whole))

    sides: dict[str, Callable[[], object]] = {
        "plain": plain,
        f"token maps of {options.texts} texts": lambda: tokens(images, texts),
        f"surgery, last {surgery.blocks} blocks": surgical,
    }
    if options.device == "cpu":
        require_fast_path(plain)
    times = rounds_of(sides, options)
    rows = []
    for side in list(sides)[1:]:
        ratios = [other / base for other, base in zip(times[side], times["plain"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        rows.append({"model": name, "side": side, "ratio": statistics.median(ratios), "rounds": len(ratios)})
        milliseconds = 1000 * statistics.median(times["plain"])
        print(
            f"{name:10} plain {milliseconds:8.1f} ms  {side:26} {rows[-1]['ratio']:.3f} ({low:.3f}-{high:.3f})"
            f"  {len(ratios)} rounds",
            flush=True,
        )
    return rows


def rounds_of(sides: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {side: [] for side in sides}
    for run in sides.values():
        timed(run, options.device)  # warms up
    turn, end = 0, time.monotonic() + options.seconds
    while turn < options.rounds or time.monotonic() < end:
        for side in sides if turn % 2 else reversed(sides):
            times[side].append(timed(sides[side], options.device))
        turn += 1
    return times


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    nbytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() * leaf.element_size() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.nbytes = max([self.nbytes, *sizes])
        return out


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """One ViT-B/16 image, 196 patches, D 512."""
    features = PatchFeatures(whole=torch.randn(1, 512), patches=torch.randn(1, 196, 512), grid=(14, 14))
    texts = F.normalize(torch.randn(options.texts, 512), dim=-1)
    with Largest() as ours:
        K, whole = similarities(features, texts)
        closed = feature_surgery(K, text_weights(whole))
    with Largest() as plain:
        unit = F.normalize(features.patches, dim=-1)
        w = text_weights(F.normalize(features.whole, dim=-1) @ texts.T)
        products = unit[:, :, None] * texts
        multiplied = (products - (products * w[:, None, :, None]).mean(dim=2, keepdim=True)).sum(dim=-1)
    difference = (closed - multiplied).abs().max().item()
    print(
        f"feature surgery of 196 tokens and {options.texts} texts: largest tensor {ours.nbytes / 2**20:.2f} MiB, "
        f"multiplied out {plain.nbytes / 2**20:.1f} MiB ({plain.nbytes / ours.nbytes:.0f} times); "
        f"largest difference {difference:.1e}"
    )
    return {"closed_bytes": ours.nbytes, "multiplied_bytes": plain.nbytes, "difference": difference}


if __name__ == "__main__":
    main()
