"""Decomposition against plain `encode_image`, side by side: time in alternating rounds, and peak memory.

    python benchmarks/decomposer.py [--precision int8] [--json FILE]

Random weights: only the arithmetic counts. The baseline is `encode_image` under `inference_mode`, where
`nn.MultiheadAttention` takes its fused inference path; the script counts its calls, and stops when there are none.
The script starts itself again with malloc told to keep freed memory (glibc; `--malloc default` leaves it alone):
otherwise whole arrays are given back and faulted in anew at each layer, or not, as the heap's layout has it that day,
which moves either side's time by up to a tenth.
Memory is the growth of the process's peak during a pass after a first one, each side in a fresh process whose malloc
gives freed arrays back at once, so that arrays are counted and not the allocator's habits (CUDA: peak allocated); the
readout's matrices, which stay, are a column of their own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from options import SMALL_MODEL, parse, parser_for
from torch import Tensor

from clipaudit.model import Decomposer

SIDES = ("plain", "decomposed")
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


def main() -> None:
    options = command_line()
    if options.malloc == "keep" and not options.memory_of and not KEEP.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP)
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    if options.memory_of:
        side, model, batch = options.memory_of
        print(peak_memory(side, model, int(batch), options))
        return
    rows = []
    print(
        f"torch {torch.__version__}, open_clip {open_clip.__version__}, {options.device}, {options.threads} threads, "
        f"{options.precision}, malloc {options.malloc}, all heads, alternating rounds, medians"
    )
    print("model      batch rounds  plain ms   ours ms  ratio     quartiles plain MiB  ours MiB   readout remainder")
    for model in options.models:
        for batch in options.batches:
            row = measure(model, batch, options)
            rows.append(row)
            low, high = row["ratio_quartiles"]
            print(
                f"{model:10} {batch:5d} {row['rounds']:6d} {row['plain_ms']:9.1f} {row['decomposed_ms']:9.1f} "
                f"{row['ratio']:6.3f}   {low:.3f}-{high:.3f} {row['plain_mib']:9.1f} {row['decomposed_mib']:9.1f} "
                f"{row['readout_mib']:9.1f} {row['remainder']:9.1e}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def command_line() -> argparse.Namespace:
    parser = parser_for(__doc__)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-B-16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--seconds", type=float, default=12, help="time for each line's rounds (default 12)")
    parser.add_argument("--rounds", type=int, default=3, help="fewest timed rounds of each line (default 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of torch")
    parser.add_argument("--malloc", default="keep", choices=["keep", "default"], help="see above (default keep)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16", "fp16", "int8"],
        help="autocast, both sides; int8 against plain fp32",
    )
    parser.add_argument("--json", type=Path, help="write the table to this file")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    return parse(parser, models=[SMALL_MODEL], batches=[2], seconds=0, rounds=1)


def measure(model_name: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    sides, decomposer, images = build(model_name, batch, options)
    if options.device == "cpu" and options.precision == "fp32":
        require_fast_path(sides["plain"])
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for side in SIDES:
        timed(sides[side], options.device)  # warms up
    turn, end = 0, time.monotonic() + options.seconds
    while turn < options.rounds or time.monotonic() < end:
        # Each round runs both, in turns first: drift of the machine's clock falls on both alike.
        for side in SIDES if turn % 2 else reversed(SIDES):
            times[side].append(timed(sides[side], options.device))
        turn += 1
    ratios = [ours / plain for plain, ours in zip(times["plain"], times["decomposed"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    plain, ours = (1000 * statistics.median(times[side]) for side in SIDES)
    remainder = decomposer(images).remainder.max().item()
    readout = sum(array.nbytes for array in decomposer.readout.arrays().values()) * 3 / 2**20  # float64 and float32
    return {
        "model": model_name,
        "batch": batch,
        "rounds": turn,
        "plain_ms": plain,
        "decomposed_ms": ours,
        "ratio": ours / plain,
        "ratio_quartiles": [quartiles[0], quartiles[2]],
        "remainder": remainder,
        "readout_mib": readout,
        **{f"{side}_mib": memory_in_fresh_process(side, model_name, batch) for side in SIDES},
    }


def build(
    model_name: str, batch: int, options: argparse.Namespace
) -> tuple[dict[str, Callable[[], object]], Decomposer, Tensor]:
    torch.manual_seed(0)
    model = open_clip.create_model(model_name, device=options.device).eval()
    images = torch.randn(batch, 3, *model.visual.image_size, device=options.device)
    decomposer = Decomposer(model, precision=options.precision)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)

    def plain() -> Tensor:
        with torch.inference_mode(), torch.autocast(options.device, dtype=autocast, enabled=autocast is not None):
            return model.encode_image(images, normalize=True)

    return {"plain": plain, "decomposed": lambda: decomposer(images)}, decomposer, images


def require_fast_path(plain: Callable[[], object]) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        plain()
    if not any(event.key == "aten::_native_multi_head_attention" for event in profile.key_averages()):
        sys.exit("the baseline does not take nn.MultiheadAttention's inference path; the comparison would flatter us")


def timed(run: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def memory_in_fresh_process(side: str, model: str, batch: int) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", side, model, str(batch)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def peak_memory(side: str, model: str, batch: int, options: argparse.Namespace) -> float:
    """MiB by which the peak grew in a pass."""
    sides, _, _ = build(model, batch, options)
    sides[side]()
    if options.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
        before = resident("VmRSS")
    sides[side]()
    after = torch.cuda.max_memory_allocated() if options.device.startswith("cuda") else resident("VmHWM")
    return (after - before) / 2**20


def resident(field: str) -> int:
    """Bytes of the process's resident memory: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
