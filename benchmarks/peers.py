"""The same images through clipaudit, clip-retrieval and a plain Ray Data pipeline: speed, and what damage does.

    python benchmarks/peers.py PHOTOS.tar ... --clip-retrieval VENV/bin/python --ray-data VENV/bin/python [--json FILE]

Each runs as its users run it, in a process of its own, with the same untrained ViT-B-32 (weights of seed 0, saved as a
checkpoint), the same batch size and as many preprocessing workers. clip-retrieval and Ray Data store embeddings only,
clipaudit stores the heads of four layers and moments too. The photos are taken out of the given shards and packed anew,
each with a json that names it.

images/s: the time for --images photos less the time for a third of them, so that starting up counts for nobody.
Damage: a shard cut within an image; an image with its second half overwritten, and one that is no image; `kill -9` at
85 % of the undisturbed time, then the same command again. Rows are matched by key with embeddings of the untouched
photos: lost (readable, but not there), duplicated, mislabelled (another photo's embedding, or another's json). The
half image counts neither as lost nor as found: libraries differ in what they make of it. Ray Data runs as it comes,
where an error ends the job, and with `max_errored_blocks = -1`, its setting to go on.

How to make the environments (clip-retrieval wants numpy < 2 and an older pyarrow than Ray does):
    python -m venv cr && cr/bin/pip install clip-retrieval 'setuptools<80'
    python -m venv rd && rd/bin/pip install 'ray[data]' 'pandas<3' open_clip_torch
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from options import SMALL_MODEL, parse, parser_for

from clipaudit import __version__

ROOT = Path(__file__).resolve().parent.parent
BATCH, WORKERS = 32, 2
KILLED_AT = 0.85  # of the undisturbed time: most of it is starting up

RAY_DATA = """
import json, os, sys
import numpy as np, open_clip, ray, torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
shards, (out, name, checkpoint) = sys.argv[1].split(","), sys.argv[2:5]
batch, workers, tolerated = map(int, sys.argv[5:])
ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
ray.data.DataContext.get_current().max_errored_blocks = tolerated

class Preprocess:
    def __init__(self):
        self.transform = image_transform_v2(PreprocessCfg(), is_train=False)
    def __call__(self, row):
        image = Image.fromarray(row["jpg"])
        return {"key": row["__key__"], "label": json.dumps(row["json"]), "image": self.transform(image).numpy()}

class Encode:
    def __init__(self):
        torch.set_num_threads(os.cpu_count())  # Ray would leave it one, and the others have all cores
        self.model = open_clip.create_model(name, pretrained=checkpoint).eval()
    def __call__(self, rows):
        with torch.inference_mode():
            vectors = self.model.encode_image(torch.from_numpy(rows["image"]), normalize=True)
        return {"key": rows["key"], "label": rows["label"], "embedding": vectors.half().numpy()}

data = ray.data.read_webdataset(shards, suffixes=["jpg", "json"])
data = data.map(Preprocess, concurrency=workers, num_cpus=0.25)
data = data.map_batches(Encode, batch_size=batch, concurrency=1, num_cpus=0.5)
data.write_parquet(out)
"""


@dataclass(frozen=True)
class Peer:
    """One contestant."""

    name: str
    command: Callable[[Sequence[Path], Path], list[str]]
    """Shards and output directory to its command."""
    read: Callable[[Path], tuple[list[str], list[str], npt.NDArray[np.float32]]]
    """Output directory to keys, labels and embeddings."""


def main() -> None:
    options = command_line()
    with tempfile.TemporaryDirectory(prefix="peers", dir="/tmp") as directory:
        work = Path(directory)
        photos = unpack(options.shards)
        checkpoint = work / "weights.pt"
        expected = reference(options.model, photos, checkpoint)
        peers = contestants(options, checkpoint)
        result: dict[str, Any] = {"versions": versions(options), "load": os.getloadavg()}
        print(json.dumps(result["versions"]))
        if not options.no_speed:
            result["images_per_second"] = speeds(peers, photos, work, options)
        if not options.no_damage:
            few = photos[: options.damaged]
            result["damage"] = {name: damage(name, peers, few, expected, work) for name in options.kinds}
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def command_line() -> argparse.Namespace:
    parser = parser_for(__doc__)
    parser.add_argument("shards", nargs="*", type=Path, help="local shards whose .jpg files are used")
    parser.add_argument("--model", default="ViT-B-32", help="open_clip name; the weights are untrained")
    parser.add_argument("--clip-retrieval", help="python of an environment with clip-retrieval")
    parser.add_argument("--ray-data", help="python of an environment with ray[data]")
    parser.add_argument("--images", type=int, default=384, help="photos of the longer run (default 384)")
    parser.add_argument("--damaged", type=int, default=96, help="photos of the runs with damage (default 96)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="names of the table's columns")
    parser.add_argument("--kinds", nargs="+", default=["intact", "cut", "corrupt", "kill -9"], help="of damage")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--no-damage", action="store_true")
    parser.add_argument("--json", type=Path)
    return parse(
        parser, needs_shards=True, model=SMALL_MODEL, images=12, damaged=6, only=["clipaudit local"], kinds=["cut"]
    )


def contestants(options: argparse.Namespace, checkpoint: Path) -> list[Peer]:
    def audit(engine: str) -> Callable[[Sequence[Path], Path], list[str]]:
        return lambda shards, out: [
            *(sys.executable, "-m", "clipaudit", "audit", *map(str, shards), "--out", str(out), "--engine", engine),
            *("--model", options.model, "--pretrained", str(checkpoint), "--label", "json:name", "--max-lost", "1"),
            *("--batch-size", str(BATCH), "--decode-threads", str(WORKERS), "--workers", "1"),
        ]

    peers = [
        Peer("clipaudit local", audit("local"), read_clipaudit),
        Peer("clipaudit ray", audit("ray"), read_clipaudit),
    ]
    if options.clip_retrieval:

        def inference(shards: Sequence[Path], out: Path) -> list[str]:
            folder = shards[0].parent
            return [
                *(options.clip_retrieval, "-m", "clip_retrieval.clip_inference.main"),
                *(
                    "--input_dataset",
                    f"{folder}/{{{shards[0].stem}..{shards[-1].stem}}}.tar",
                    "--output_folder",
                    str(out),
                ),
                *("--input_format", "webdataset", "--enable_text", "False", "--enable_metadata", "True"),
                *("--clip_model", f"open_clip:{options.model}/{checkpoint}", "--batch_size", str(BATCH)),
                *("--num_prepro_workers", str(WORKERS), "--output_partition_count", "1"),
            ]

        peers.append(Peer("clip-retrieval", inference, read_clip_retrieval))
    if options.ray_data:

        def pipeline(tolerated: int) -> Callable[[Sequence[Path], Path], list[str]]:
            return lambda shards, out: [
                *(options.ray_data, "-c", RAY_DATA, ",".join(map(str, shards))),
                *(str(out), options.model, str(checkpoint), str(BATCH), str(WORKERS), str(tolerated)),
            ]

        peers.append(Peer("Ray Data", pipeline(0), read_ray_data))
        peers.append(Peer("Ray Data, errors allowed", pipeline(-1), read_ray_data))
    wanted = options.only or [peer.name for peer in peers]
    return [peer for peer in peers if peer.name in wanted]


def read_clipaudit(out: Path) -> tuple[list[str], list[str], npt.NDArray[np.float32]]:
    from clipaudit.run.reader import Run

    run = Run(str(out))
    table = run.table(["key", "status", "label"]).to_pylist()
    good = [place for place, row in enumerate(table) if row["status"] == "ok"]
    vectors = run.vectors("embedding").values
    return [table[n]["key"] for n in good], [table[n]["label"] for n in good], np.asarray(vectors, np.float32)


def read_clip_retrieval(out: Path) -> tuple[list[str], list[str], npt.NDArray[np.float32]]:
    import pyarrow.parquet as pq

    keys: list[str] = []
    labels: list[str] = []
    vectors = []
    for file in sorted((out / "metadata").glob("*.parquet")):
        rows = pq.read_table(file)
        keys, labels = keys + rows["image_path"].to_pylist(), labels + rows["name"].to_pylist()
        vectors.append(np.load(out / "img_emb" / file.name.replace("metadata", "img_emb").replace("parquet", "npy")))
    return keys, labels, np.concatenate(vectors).astype(np.float32) if vectors else np.zeros((0, 1), np.float32)


def read_ray_data(out: Path) -> tuple[list[str], list[str], npt.NDArray[np.float32]]:
    import pyarrow.parquet as pq

    keys: list[str] = []
    labels: list[str] = []
    vectors = []
    for file in sorted(out.glob("*.parquet")):
        rows = pq.read_table(file)
        keys += rows["key"].to_pylist()
        labels += [json.loads(text)["name"] for text in rows["label"].to_pylist()]
        vectors += [np.asarray(value, np.float32) for value in rows["embedding"].to_pylist()]
    return keys, labels, np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)


def unpack(shards: Sequence[Path]) -> list[bytes]:
    photos = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            photos += [tar.extractfile(entry).read() for entry in tar if entry.name.endswith(".jpg")]  # type: ignore[union-attr]
    return photos


def pack(photos: Sequence[bytes], folder: Path, shards: int) -> list[Path]:
    """Photos to `shards` shards with unique keys; photo n is called `photo-000n`, in its json too."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:06d}.tar" for number in range(shards)]
    share = -(-len(photos) // shards)
    for number, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for place in range(number * share, min((number + 1) * share, len(photos))):
                name = key_of(place)
                for extension, data in (("jpg", photos[place]), ("json", json.dumps({"name": name}).encode())):
                    entry = tarfile.TarInfo(f"{name}.{extension}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return paths


def key_of(place: int) -> str:
    return f"photo-{place:05d}"


def reference(name: str, photos: Sequence[bytes], checkpoint: Path) -> npt.NDArray[np.float32]:
    """Unit embeddings of every photo by open_clip alone; saves the weights."""
    import open_clip
    import torch
    from PIL import Image

    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(name)
    torch.save(model.state_dict(), checkpoint)
    model.eval()
    vectors = []
    with torch.inference_mode():
        for first in range(0, len(photos), BATCH):
            images = [transform(Image.open(io.BytesIO(data))) for data in photos[first : first + BATCH]]
            vectors.append(model.encode_image(torch.stack(images), normalize=True).numpy())
    return np.concatenate(vectors)


def speeds(peers: Sequence[Peer], photos: list[bytes], work: Path, options: argparse.Namespace) -> dict[str, Any]:
    many = [photos[place % len(photos)] for place in range(options.images)]
    sets = [pack(many[: options.images // 3], work / "few", 2), pack(many, work / "many", 6)]
    found: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for turn in range(options.rounds):
        for peer in peers if turn % 2 == 0 else list(reversed(peers)):
            seconds = [run(peer, shards, work / "out")[0] for shards in sets]
            found[peer.name].append((options.images - options.images // 3) / (seconds[1] - seconds[0]))
            print(
                f"{peer.name}: {found[peer.name][-1]:.1f} images/s ({seconds[0]:.0f} s, {seconds[1]:.0f} s)", flush=True
            )
    return {name: {"median": statistics.median(values), "rounds": values} for name, values in found.items()}


def run(
    peer: Peer, shards: Sequence[Path], out: Path, kill_after: float | None = None, keep: bool = False
) -> tuple[float, int]:
    """(seconds, exit status) of the peer's command; its whole process group gets SIGKILL after `kill_after` seconds."""
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    with (out.parent / f"{out.name}.log").open("w") as log:
        process = subprocess.Popen(
            peer.command(shards, out), stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            status = process.wait(kill_after)
        except subprocess.TimeoutExpired:
            end_group(process.pid)
            status = process.wait()
    return time.perf_counter() - started, status


def end_group(leader: int) -> None:
    """SIGKILL to a process and all its descendants, those in sessions of their own too."""
    import psutil

    family = [psutil.Process(leader), *psutil.Process(leader).children(recursive=True)]
    for process in family:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def damage(
    kind: str, peers: Sequence[Peer], photos: list[bytes], expected: npt.NDArray[np.float32], work: Path
) -> dict[str, Any]:
    """What each makes of three shards with one kind of damage."""
    photos, readable = list(photos), set(map(key_of, range(len(photos))))
    folder = work / kind.replace(" ", "")
    if kind == "corrupt":
        half, none = len(photos) // 2, len(photos) // 2 + 7
        whole = photos[half]
        photos[half] = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
        photos[none] = b"not a picture at all"
        readable -= {key_of(half), key_of(none)}
    shards = pack(photos, folder, 3)
    if kind == "cut":
        readable -= cut(shards[1])
    found = {}
    for peer in peers:
        out = folder / "out"
        if kind == "kill -9":
            whole, _ = run(peer, shards, out)
            killed, _ = run(peer, shards, out, kill_after=KILLED_AT * whole)
            again, status = run(peer, shards, out, keep=True)
            times = {"undisturbed_s": whole, "killed_after_s": killed, "again_s": again}
        else:
            seconds, status = run(peer, shards, out)
            times = {"seconds": seconds}
        found[peer.name] = {"exit": status, **times, **account(peer, out, readable, expected)}
        if status:
            found[peer.name]["last_words"] = last_words(out)
        print(kind, peer.name, json.dumps(found[peer.name]), flush=True)
    return found


def last_words(out: Path) -> str:
    """The last error that a command's log names."""
    lines = (out.parent / f"{out.name}.log").read_text(errors="replace").splitlines()
    named = [line.strip() for line in lines if re.match(r"\s*[\w.]*(Error|Exception)\b.*:", line)]
    return (named or lines or [""])[-1][:300]


def cut(shard: Path) -> set[str]:
    """Cut a shard within the image at its middle; the keys that cannot be read any more."""
    with tarfile.open(shard) as tar:
        images = [entry for entry in tar if entry.name.endswith(".jpg")]
    entry = images[len(images) // 2]
    with shard.open("r+b") as file:
        file.truncate(entry.offset_data + entry.size // 2)
    return {Path(image.name).stem for image in images[len(images) // 2 :]}


def account(peer: Peer, out: Path, readable: set[str], expected: npt.NDArray[np.float32]) -> dict[str, Any]:
    try:
        keys, labels, vectors = peer.read(out)
    except (OSError, ValueError, KeyError) as error:
        keys, labels, vectors = [], [], np.zeros((0, expected.shape[1]), np.float32)
        print(f"{peer.name} left nothing that can be read: {type(error).__name__}")
    keys = [Path(key).name for key in keys]
    counts = Counter(keys)
    wrong = 0
    for key, label, vector in zip(keys, labels, vectors, strict=True):
        if key in readable:
            place = int(key.removeprefix("photo-"))
            cosine = expected @ (vector / np.linalg.norm(vector))
            wrong += label != key or int(cosine.argmax()) != place
    return {
        "rows": len(keys),
        "lost": len(readable - counts.keys()),
        "duplicated": sum(count - 1 for count in counts.values()),
        "mislabelled": wrong,
    }


def versions(options: argparse.Namespace) -> dict[str, str]:
    code = "import importlib.metadata as m; print(','.join(n + ' ' + m.version(n) for n in NAMES))"
    asked = {
        sys.executable: ["torch", "open_clip_torch", "ray"],
        options.clip_retrieval: ["clip-retrieval", "torch", "open_clip_torch", "webdataset", "numpy"],
        options.ray_data: ["ray", "torch", "open_clip_torch", "pandas", "pyarrow"],
    }
    found = {"clipaudit": __version__}
    for python, names in asked.items():
        if python:
            command = [python, "-c", code.replace("NAMES", repr(names))]
            found[names[0]] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return found


def show(result: dict[str, Any]) -> None:
    speed = result.get("images_per_second", {})
    names = list(speed or next(iter(result.get("damage", {"": {}}).values())))
    print("\n| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    if speed:
        print("| images/s | " + " | ".join(f"{speed[name]['median']:.1f}" for name in names) + " |")
    for kind, found in result.get("damage", {}).items():
        cells = (
            f"exit {one['exit']}: {one['lost']} lost, {one['duplicated']} duplicated, {one['mislabelled']} mislabelled"
            for one in (found[name] for name in names)
        )
        print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
