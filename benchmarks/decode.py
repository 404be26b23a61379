"""Time and exactness of image decoding on the JPEGs of given shards, and how it scales over threads and processes.

    python benchmarks/decode.py '/data/coco-{000000..000001}.tar' [--size 224] [--scale-to 4032] [--embed ViT-B-32]

Compared: open_clip's transform (Pillow throughout), Pillow's draft mode (JPEGs decoded at 1/2, 1/4 or 1/8 where twice
the model's size is left), torchvision.io, and ours: with and without simplejpeg, and without resizing (`--resize
device`). `--scale-to` enlarges the photos first, as cameras make them. `--embed` gives the difference of unit
embeddings (with untrained weights). Times are CPU time, which other load touches least; scaling is by wall time.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from options import SMALL_MODEL, parse, parser_for
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tensor_steps

from clipaudit.config import DecodeConfig, ModelConfig
from clipaudit.model import Decomposer
from clipaudit.model.loading import Normaliser, load_model
from clipaudit.shards import decoder as images_module
from clipaudit.shards.decoder import ImageDecoder, perceptual_hash
from clipaudit.shards.decoder_processes import ProcessDecoder
from clipaudit.shards.listing import expand
from clipaudit.shards.reader import ShardReader

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
    ours, whole = ImageDecoder(transform, DecodeConfig()), ImageDecoder(transform, DecodeConfig(resize="device"))
    simplejpeg = images_module.simplejpeg

    def by_ours(data: bytes) -> Pixels:
        images_module.simplejpeg = simplejpeg
        return ours(data).image

    def by_pillow(data: bytes) -> Pixels:
        images_module.simplejpeg = None
        return ours(data).image

    def by_device(data: bytes) -> Pixels:
        images_module.simplejpeg = simplejpeg
        return whole(data).image

    def by_draft(data: bytes) -> Pixels:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (2 * size, 2 * size))
        for step in transform.transforms[:-2]:
            image = step(image)
        return np.asarray(image)

    def by_transform(data: bytes) -> Pixels:
        image = Image.open(io.BytesIO(data))
        for step in transform.transforms[:-2]:
            image = step(image)
        return np.asarray(image)

    def by_torchvision(data: bytes) -> Pixels:
        tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        tensor = tensor_steps.resize(tensor, [size], InterpolationMode.BICUBIC, antialias=True)
        return np.ascontiguousarray(tensor_steps.center_crop(tensor, [size, size]).permute(1, 2, 0).numpy())

    found = {
        "open_clip's transform (Pillow)": by_transform,
        "Pillow, draft": by_draft,
        "torchvision.io, torch resize": by_torchvision,
        "clipaudit, Pillow": by_pillow,
        "clipaudit, device resize": by_device,
    }
    return found | ({"clipaudit, simplejpeg": by_ours} if simplejpeg else {})


def larger(data: bytes, side: int) -> bytes:
    """The photo enlarged to `side` pixels on its long side."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = side / max(image.size)
    file = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()


def embeddings(name: str, pixels: Sequence[Pixels]) -> torch.Tensor:
    """(n, D) unit embeddings of model-size images, by untrained weights of seed 0."""
    loaded = load_model(ModelConfig(name=name, pretrained="random-seed-0", device="cpu"))
    decoder = ImageDecoder(loaded.transform, DecodeConfig())
    normalise, decomposer = Normaliser(decoder.mean, decoder.std, loaded.device), Decomposer(loaded.model, layers=[0])
    parts = [decomposer(normalise(list(pixels[at : at + 32]))).embedding for at in range(0, len(pixels), 32)]
    return torch.cat(parts)


def seconds(method: Callable[[bytes], object], files: list[bytes], threads: int) -> tuple[float, float]:
    """(wall, CPU) seconds for all files."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(method, files[: 2 * threads]))
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in pool.map(method, files):
            pass
        return time.perf_counter() - wall, time.process_time() - cpu


def exactness(compared: dict[str, Callable[[bytes], Pixels]], files: list[bytes], size: int, model: str | None) -> None:
    """Largest and mean difference in grey levels from open_clip's transform, and in unit embeddings."""
    reference = [next(iter(compared.values()))(data) for data in files]
    vectors = embeddings(model, reference) if model else None
    for name, method in compared.items():
        pixels = [method(data) for data in files]
        if pixels[0].shape[:2] != (size, size):
            continue  # not resized yet
        pairs = zip(pixels, reference, strict=True)
        gaps = [np.abs(one.astype(int) - expected) for one, expected in pairs]
        largest, mean = max(gap.max() for gap in gaps), np.mean([gap.mean() for gap in gaps])
        line = f"{name:32} grey levels off: largest {largest}, mean {mean:.4f}"
        if model and vectors is not None:
            found = embeddings(model, pixels)
            cosine = (found * vectors).sum(dim=-1).min()
            line += f"; embeddings: largest {(found - vectors).abs().max():.1e}, least cosine {cosine:.6f}"
        print(line)


def scaling(files: list[bytes], size: int, threads: Sequence[int], repeats: int) -> None:
    """Images/s of the job's decoder in threads and in processes."""
    transform = image_transform_v2(PreprocessCfg(size=size), is_train=False)
    decoder = ImageDecoder(transform, DecodeConfig())
    speeds: dict[tuple[str, int], list[float]] = {}
    for count in threads:
        processes = ProcessDecoder(decoder, {"size": size}, DecodeConfig(decode_processes=count))
        for _ in range(repeats):
            for name, decode in (("threads", decoder), ("processes", processes)):
                wall, _ = seconds(decode, files, count)
                speeds.setdefault((name, count), []).append(len(files) / wall)
        processes.close()
    for (name, count), found in sorted(speeds.items()):
        print(f"{count} {name:10} {statistics.median(found):7.1f} images/s")


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("shards", nargs="*")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--limit", type=int, default=128, help="most images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--scale-to", type=int, help="enlarge the photos to this many pixels first")
    parser.add_argument("--embed", help="open_clip model for the difference of embeddings")
    options = parse(parser, needs_shards=True, limit=4, repeats=1, embed=SMALL_MODEL)
    torch.set_num_threads(1)
    # torchvision 0.29 deprecates its decoders; here they are only compared with.
    warnings.filterwarnings("ignore", message="The image decoding", category=DeprecationWarning)
    files = jpegs(options.shards, options.limit)
    if options.scale_to:
        files = [larger(data, options.scale_to) for data in files]
    compared = methods(options.size)
    kilobytes = sum(map(len, files)) / len(files) / 1000
    print(f"{len(files)} JPEGs, {kilobytes:.0f} kB each on average, to {options.size} px")
    exactness(compared, files, options.size, options.embed)
    times: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(options.repeats):  # alternating, so that other load falls on all alike
        for name, method in compared.items():
            times[name].append(seconds(method, files, 1)[1])
    for name, measured in times.items():
        print(f"{name:32} {statistics.median(measured) / len(files) * 1000:6.2f} ms of CPU an image")
    pictures = [compared["clipaudit, Pillow"](data) for data in files]
    started = time.process_time()
    for image in pictures:
        perceptual_hash(image)
    taken = (time.process_time() - started) / len(pictures) * 1000
    print(f"{'perceptual hash, part of ours':32} {taken:6.2f} ms of CPU an image")
    images_module.simplejpeg = sys.modules.get("simplejpeg")
    scaling(files, options.size, options.threads, options.repeats)


if __name__ == "__main__":
    main()
