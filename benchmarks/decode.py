"""Time and exactness of image decoding: Pillow throughout, ours, and torchvision.io, on the JPEGs of given shards.

python benchmarks/decode.py '/data/coco-{000000..000001}.tar' --size 224
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tensor_steps

from clipaudit.config import DecodeConfig
from clipaudit.images import ImageDecoder, perceptual_hash
from clipaudit.shards import ShardReader, expand

Pixels = npt.NDArray[np.uint8]


def jpegs(patterns: Sequence[str], limit: int) -> list[bytes]:
    found: list[bytes] = []
    for shard in expand(patterns):
        with ShardReader(
            shard, wants={"jpg", "jpeg"}.__contains__, complete=lambda _: True, max_member_bytes=2**28
        ) as reader:
            found += [member.data for group in reader for member in group.members.values() if member.data]
    return found[:limit]


def methods(size: int) -> dict[str, Callable[[bytes], Pixels]]:
    transform = image_transform_v2(PreprocessCfg(size=size), is_train=False)
    ours = ImageDecoder(transform, DecodeConfig())

    def by_transform(data: bytes) -> Pixels:
        image = Image.open(io.BytesIO(data))
        for step in transform.transforms[:-2]:
            image = step(image)
        return np.asarray(image)

    def by_torchvision(data: bytes) -> Pixels:
        tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        tensor = tensor_steps.resize(tensor, [size], InterpolationMode.BICUBIC, antialias=True)
        return np.ascontiguousarray(tensor_steps.center_crop(tensor, [size, size]).permute(1, 2, 0).numpy())

    return {
        "open_clip's transform (Pillow)": by_transform,
        "clipaudit (Pillow, torch resize)": lambda data: ours(data).image,
        "torchvision.io, torch resize": by_torchvision,
    }


def seconds(method: Callable[[bytes], Pixels], files: list[bytes], threads: int) -> tuple[float, float]:
    """(wall, CPU) seconds for all files."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(method, files[: 2 * threads]))
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in pool.map(method, files):
            pass
        return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--limit", type=int, default=512, help="most images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    # torchvision 0.29 deprecates its decoders; here they are only compared with.
    warnings.filterwarnings("ignore", message="The image decoding", category=DeprecationWarning)
    files = jpegs(options.shards, options.limit)
    compared = methods(options.size)
    reference = [next(iter(compared.values()))(data) for data in files]
    kilobytes = sum(map(len, files)) / len(files) / 1000
    print(f"{len(files)} JPEGs, {kilobytes:.0f} kB each on average, to {options.size} px")
    for name, method in compared.items():
        pairs = zip(files, reference, strict=True)
        gaps = [np.abs(method(data).astype(int) - expected) for data, expected in pairs]
        largest, mean = max(gap.max() for gap in gaps), np.mean([gap.mean() for gap in gaps])
        print(f"{name:34} grey levels off: largest {largest}, mean {mean:.4f}")
    for threads in options.threads:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in compared}
        for _ in range(options.repeats):  # alternating, so that other load falls on all alike
            for name, method in compared.items():
                times[name].append(seconds(method, files, threads))
        for name, measured in times.items():
            wall, cpu = (statistics.median(column) / len(files) * 1000 for column in zip(*measured, strict=True))
            print(f"{name:34} {threads} threads: {wall:6.2f} ms an image ({cpu:.2f} ms of CPU)")
    started = time.perf_counter()
    for image in reference:
        perceptual_hash(image)
    print(f"perceptual hash {(time.perf_counter() - started) / len(reference) * 1000:.3f} ms an image")


if __name__ == "__main__":
    main()
