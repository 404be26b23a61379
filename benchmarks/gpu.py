"""What the decomposition costs on an accelerator, beside plain encoding and the published hooks. No Ray, no downloads.

    python benchmarks/gpu.py [--models ViT-B-32 ViT-L-14] [--batches 32 256] [--precision bf16] [--compile]
                             [--actors 1 2] [--json FILE]
    python benchmarks/gpu.py --smoke       # a tiny model on the CPU, seconds: does everything still run?

Untrained weights: only the arithmetic counts. For each model and batch, in alternating rounds:
- plain: `encode_image` of the same model under autocast, and with all weights in half precision; ratios are to the
  faster of the two;
- decomposed: embedding, all heads of all layers and the check of their sum; with --compile also through torch.compile;
- staged: the same from 8-bit images in the host's memory to arrays in the host's memory, as a worker of the job runs it
  (copies on streams of their own); its ratio to `decomposed` is what the copies still cost;
- published: the research code's method written anew from its mathematics, in which each token's contribution through
  each head is built in full, (B, layers, tokens, heads, D) numbers; at the largest batch that fits.
Then: share of the device's measured peak of a large bf16 product, memory, the same work shared by several processes
(--actors), and how many images/s the host's CPUs decode, which is what the device can be fed with.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from options import parse, parser_for
from PIL import Image
from torch import Tensor, nn

from clipaudit.config import DecodeConfig
from clipaudit.job.staging import Staging
from clipaudit.model import Decomposer, Tower
from clipaudit.shards.decoder import ImageDecoder

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    options = command_line()
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    if options.staged_of:
        name, batch = options.staged_of
        print(staged_alone(name, int(batch), options))
        return
    result: dict[str, Any] = {"machine": machine(options), "peak_tflops": matmul_peak(options)}
    print(json.dumps(result["machine"]))
    print(f"largest measured {options.precision} matrix product: {result['peak_tflops']:.1f} TFLOP/s")
    result["decode"] = decode_ceiling(options)
    print(
        f"decoding 640 x 480 JPEGs to 224 px: {result['decode']['one_thread']:.0f} images/s on one core,"
        f" {result['decode']['all_threads']:.0f} with {result['decode']['threads']} threads"
    )
    print(
        "images/s   model       batch    plain   decomposed  ratio  compiled    staged  published  % of peak"
        "  MiB plain/ours"
    )
    result["rows"] = []
    for name in options.models:
        for batch in options.batches:
            row = measure(name, batch, options, result["peak_tflops"])
            result["rows"].append(row)
            show(row)
            if options.device == "cuda":
                torch.cuda.empty_cache()
    advise(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def command_line() -> argparse.Namespace:
    parser = parser_for(__doc__)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128, 512])
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line's rounds (default 3)")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of the decomposed pass")
    parser.add_argument(
        "--actors", nargs="+", type=int, default=[], help="processes that share the device, such as 1 2 3"
    )
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--staged-of", nargs=2, help=argparse.SUPPRESS)
    return parse(parser, models=["tiny"], batches=[4], device="cpu", seconds=0.05)


def machine(options: argparse.Namespace) -> dict[str, Any]:
    found = {
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "cpus": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "precision": options.precision,
        "device": options.device,
    }
    if options.device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        found |= {"gpu": facts.name, "gpu_gib": round(facts.total_memory / 2**30), "cuda": torch.version.cuda}
    return found


def matmul_peak(options: argparse.Namespace) -> float:
    """TFLOP/s of the best of some square products, in the precision that is measured."""
    best = 0.0
    for size in (256,) if options.smoke else (1024, 2048) if options.device == "cpu" else (4096, 8192, 16384):
        a, b = (torch.randn(size, size, device=options.device, dtype=dtype_of(options)) for _ in range(2))
        seconds = min(timed(lambda a=a, b=b: a @ b, options) for _ in range(10))
        best = max(best, 2 * size**3 / seconds / 1e12)
    return best


def dtype_of(options: argparse.Namespace) -> torch.dtype:
    return HALVES.get(options.precision, torch.float32)


def build(name: str, options: argparse.Namespace, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY) if name == "tiny" else open_clip.create_model(name)
    return model.to(options.device, dtype).eval().requires_grad_(False)


def measure(name: str, batch: int, options: argparse.Namespace, peak: float) -> dict[str, Any]:
    model = build(name, options)
    decomposer = Decomposer(model, precision=options.precision)
    images = torch.randn(batch, 3, *decomposer.tower.image_size, device=options.device)
    images = images.contiguous(memory_format=torch.channels_last)  # as decoded images come
    sides: dict[str, Callable[[], object]] = {"plain_autocast": plain(model, images, options)}
    if options.precision in HALVES:
        half = build(name, options, dtype_of(options))
        sides["plain_half"] = plain(half, images.to(dtype_of(options)), options, autocast=False)
    sides["decomposed"] = lambda: decomposer(images)
    if options.compile:
        compiled = Decomposer(model, precision=options.precision, compiled=True)
        sides["compiled"] = lambda: compiled(images)
    sides["staged"] = staged_round(decomposer, batch, options)
    times = alternate(sides, options)
    speeds = {side: batch * (4 if side == "staged" else 1) / statistics.median(times[side]) for side in sides}
    best_plain = max(speed for side, speed in speeds.items() if side.startswith("plain"))
    flops = flops_of(decomposer.tower)
    row: dict[str, Any] = {
        "model": name,
        "batch": batch,
        "images_per_second": speeds,
        "decomposed / plain": best_plain / speeds["decomposed"],
        "staged / decomposed": speeds["staged"] / speeds["decomposed"],
        "gflop_an_image": flops / 1e9,
        "share_of_peak": speeds["decomposed"] * flops / (peak * 1e12),
        "remainder": decomposer(images).remainder.max().item(),
        "mib": {side: memory(run, options) for side, run in sides.items()},
        "published": published_row(model, decomposer, images, options),
    }
    row["actors"] = {count: several(count, name, batch, options) for count in options.actors}
    return row


def plain(model: nn.Module, images: Tensor, options: argparse.Namespace, autocast: bool = True) -> Callable[[], Tensor]:
    on = autocast and options.precision in HALVES

    def run() -> Tensor:
        with torch.inference_mode(), torch.autocast(options.device, dtype=dtype_of(options), enabled=on):
            return model.encode_image(images, normalize=True)

    return run


def staged_round(decomposer: Decomposer, batch: int, options: argparse.Namespace) -> Callable[[], object]:
    """Four batches from host to host, two in flight, as a worker runs them."""
    height, width = decomposer.tower.image_size
    transform = image_transform_v2(PreprocessCfg(size=(height, width)), is_train=False)
    keys = ("heads", "embedding", "scale", "norm", "remainder")

    def compute(pixels: Tensor) -> dict[str, Tensor]:
        out = decomposer(pixels)
        return {key: getattr(out, key) for key in keys}

    staging = Staging(ImageDecoder(transform, DecodeConfig()), torch.device(options.device), compute)
    images = list(np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8))

    def run() -> None:
        before = staging.submit(images)
        for _ in range(3):
            following = staging.submit(images)
            before.wait()
            before = following
        before.wait()

    return run


def alternate(sides: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {side: [] for side in sides}
    for run in sides.values():
        for _ in range(2):
            timed(run, options)
    turn, end = 0, time.monotonic() + options.seconds * len(sides)
    while turn < 3 or time.monotonic() < end:
        # In turns first, so that the clock's drift falls on all alike.
        for side in list(sides) if turn % 2 else list(reversed(sides)):
            times[side].append(timed(sides[side], options))
        turn += 1
    return times


def timed(run: Callable[[], object], options: argparse.Namespace) -> float:
    start = time.perf_counter()
    run()
    if options.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def memory(run: Callable[[], object], options: argparse.Namespace) -> float | None:
    """MiB allocated at the peak of a pass, beyond what was there before; on a CPU see benchmarks/decomposer.py."""
    if options.device != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def flops_of(tower: Tower) -> float:
    """Of the plain forward pass an image: products with weights, and attention."""
    weights = sum(p.numel() for block in tower.blocks for p in block.module.parameters() if p.ndim == 2)
    attention = 2 * tower.layers * tower.tokens**2 * tower.width
    patches = tower.visual.conv1.weight.numel() * (tower.tokens - tower.prefix_tokens)  # type: ignore[union-attr,operator]
    return 2.0 * (weights * tower.tokens + attention + patches)


def published_row(
    model: nn.Module, decomposer: Decomposer, images: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Speed, memory and agreement of the published method, at the largest part of the batch that fits."""
    batch = min(len(images), 64 if options.device == "cuda" else 8)
    while batch:
        part = images[:batch]
        try:
            heads = published(model, part, options)
            seconds = statistics.median(
                timed(lambda part=part: published(model, part, options), options) for _ in range(3)
            )
            taken = memory(lambda part=part: published(model, part, options), options)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            batch //= 2
            continue
        ours = decomposer.readout.expand(decomposer(part).heads)
        return {
            "batch": batch,
            "images_per_second": batch / seconds,
            "mib": taken,
            "largest_difference": (heads - ours).abs().max().item(),
        }
    return {"batch": 0, "images_per_second": 0.0, "mib": None, "largest_difference": None}


def published(model: nn.Module, images: Tensor, options: argparse.Namespace) -> Tensor:
    """(B, layers, heads, D) head contributions to the unit embedding, by every token's contribution in full.

    c_{l,i,h} = alpha_{l,h,i} v_{l,h,i} W_O^{l,h}, kept for all layers, tokens and heads, then each put through the last
    LayerNorm (centred by its own mean, divided by the class token's sigma) and the projection, and summed over tokens.
    """
    visual, width = model.visual, model.visual.conv1.out_channels
    kept = []
    on = options.precision in HALVES
    with torch.inference_mode(), torch.autocast(options.device, dtype=dtype_of(options), enabled=on):
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        token = visual.class_embedding.expand(len(x), 1, -1).to(x.dtype)
        x = visual.ln_pre(torch.cat([token, x], dim=1) + visual.positional_embedding)
        for block in visual.transformer.resblocks:
            heads = block.attn.num_heads
            qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
            # (B, N, 3 d) -> three of (B, H, N, dh)
            q, k, v = qkv.reshape(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            alpha = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)  # (B, H, N, N)
            by_head = block.attn.out_proj.weight.reshape(width, heads, -1)  # (d, H, dh)
            seen = alpha[:, :, 0, :, None] * v  # (B, H, N, dh): what the class token reads of each token
            kept.append(torch.einsum("bhnk,dhk->bnhd", seen, by_head))  # (B, N, H, d)
            out = (alpha @ v).transpose(1, 2).flatten(2)
            x = x + block.attn.out_proj(out)
            x = x + block.mlp(block.ln_2(x))
        x = x[:, 0].float()
        features = visual.ln_post(x) @ visual.proj
        sigma = (x.var(dim=-1, unbiased=False) + visual.ln_post.eps).sqrt()
        parts = torch.stack(kept, dim=1).float()  # (B, L, N, H, d)
        parts = (parts - parts.mean(dim=-1, keepdim=True)) / sigma[:, None, None, None, None]
        joint = (parts * visual.ln_post.weight) @ visual.proj  # (B, L, N, H, D)
        result: Tensor = joint.sum(dim=2).float() / features.float().norm(dim=-1)[:, None, None, None]
        return result


def several(count: int, name: str, batch: int, options: argparse.Namespace) -> float:
    """Images/s of `count` processes on the one device together."""
    command = [sys.executable, __file__, "--device", options.device, "--precision", options.precision]
    command += ["--seconds", str(options.seconds), "--staged-of", name, str(batch)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return sum(float(process.communicate()[0].split()[-1]) for process in running)


def staged_alone(name: str, batch: int, options: argparse.Namespace) -> float:
    """Images/s of the staged loop, started at a whole 20 seconds so that processes begin together."""
    run = staged_round(Decomposer(build(name, options), precision=options.precision), batch, options)
    run()
    if options.device == "cuda":
        time.sleep(20 - time.time() % 20)
    images, started = 0, time.perf_counter()
    while time.perf_counter() - started < options.seconds:
        run()
        images += 4 * batch
    return images / (time.perf_counter() - started)


def decode_ceiling(options: argparse.Namespace) -> dict[str, Any]:
    """Images/s from JPEG bytes to model-size pixels: one thread, and one for each CPU."""
    files = [photo(seed) for seed in range(4 if options.smoke else 32)]
    decode = ImageDecoder(image_transform_v2(PreprocessCfg(size=224), is_train=False), DecodeConfig())
    threads = os.cpu_count() or 1
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    speeds = {}
    for name, count in (("one_thread", 1), ("all_threads", threads)):
        work = files * (1 if options.smoke else 8 * count)
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(decode, files[:count]))
            started = time.perf_counter()
            list(pool.map(decode, work))
            speeds[name] = len(work) / (time.perf_counter() - started)
    torch.set_num_threads(before)
    return {**speeds, "threads": threads, "kilobytes": sum(map(len, files)) / len(files) / 1000}


def photo(seed: int) -> bytes:
    """A 640 x 480 JPEG of about a photograph's size: noise of all wavelengths."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((480, 640, 3))
    for octave in range(7):
        cells = generator.uniform(-1, 1, (480 // 2**octave + 1, 640 // 2**octave + 1, 3)).astype(np.float32)
        layer = [
            np.asarray(Image.fromarray(cells[..., c]).resize((640, 480), Image.Resampling.BICUBIC)) for c in range(3)
        ]
        picture += np.stack(layer, -1) * (8 + 2.0**octave)
    file = io.BytesIO()
    Image.fromarray(np.clip(128 + picture, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def show(row: dict[str, Any]) -> None:
    speed, mib = row["images_per_second"], row["mib"]
    best = max(value for side, value in speed.items() if side.startswith("plain"))
    compiled = f"{speed['compiled']:9.0f}" if "compiled" in speed else "        -"
    space = f"{mib['plain_autocast']:.0f}/{mib['decomposed']:.0f}" if mib["decomposed"] is not None else "-"
    published, share = row["published"]["images_per_second"], 100 * row["share_of_peak"]
    print(
        f"           {row['model']:11} {row['batch']:5d} {best:8.0f} {speed['decomposed']:12.0f}"
        f" {row['decomposed / plain']:6.3f} {compiled} {speed['staged']:9.0f} {published:10.1f} {share:9.1f}  {space}",
        flush=True,
    )
    for count, together in row["actors"].items():
        print(f"           {count} processes together: {together:.0f} images/s")


def advise(result: dict[str, Any]) -> None:
    """How many cores keep the device busy."""
    for row in best_rows(result["rows"]):
        speed, core = row["images_per_second"]["staged"], result["decode"]["one_thread"]
        print(f"{row['model']}: {speed:.0f} images/s want {speed / core:.1f} cores of this machine to decode")


def best_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        now = best.setdefault(row["model"], row)
        if row["images_per_second"]["staged"] > now["images_per_second"]["staged"]:
            best[row["model"]] = row
    return list(best.values())


if __name__ == "__main__":
    main()
