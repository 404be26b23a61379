"""The explorer over large runs: what-if in CPU seconds, and the page over 10^6 rows in headless Chromium.

python benchmarks/explorer.py what-if         a tick at 50,000 images x 48 heads x 10 classes: 300 ms are allowed
python benchmarks/explorer.py page            10^6 images x 8 heads: server's CPU, a page in Chromium (after `npm ci`)
python benchmarks/explorer.py requests        20,000 mixed requests and 200 idle connections: refusals, memory
python benchmarks/explorer.py --smoke         small sizes, to see that it runs

The run is synthetic: `place` goes with one class, two heads see it, texts have vectors drawn from their names.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.schema import Sample, TableSpec, head_label
from clipaudit.shards.listing import expand
from tests.make_runs import make_basis, make_manifest, write_attempt
from tests.make_shards import write_photos

CLASSES = 10
WEB = Path(__file__).resolve().parent.parent / "clipaudit/explorer/web"
PHOTOS = 64
"""Different pictures of a shard; its rows show them in turn."""


class Texts:
    """In place of a run's texts: a unit vector of its own for every text, from its name."""

    wide = 512

    def __init__(self, *given: object, **options: object) -> None:
        """As `RunTexts`."""

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(T, D) unit."""
        drawn = np.stack(
            [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(self.wide) for text in texts]
        )
        unit: npt.NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> npt.NDArray[np.float32]:
        """(C, D) unit."""
        return self.vectors(names)


def spec_of(heads: int, dim: int, wide: int) -> TableSpec:
    """Heads of the last layers, eight in each."""
    labels = tuple(head_label(12 - heads // 8 + place // 8, place % 8) for place in range(heads))
    return TableSpec(heads=labels, head_dim=dim, embed_dim=wide, label_kind="int", attributes=("place", "light"))


def write_run(folder: Path, rows: int, heads: int, *, dim: int = 64, wide: int = 512, shard_rows: int = 62_500) -> str:
    """A run of labelled images over shards of a few real photographs, and the classes' names beside them."""
    spec = spec_of(heads, dim, wide)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("".join(f"class {k}\n" for k in range(CLASSES)))
    for number in range(-(-rows // shard_rows)):
        write_photos(folder / f"photos-{number:03d}.tar", PHOTOS, prefix=f"p{number}")
    shards = expand([f"{folder}/photos-*.tar"])
    places = [picture_places(shard.url) for shard in shards]
    directory = RunDirectory(str(folder / "run"))
    directory.create_or_resume(make_manifest(spec, tuple(shards)))
    basis = make_basis(spec)
    write_basis(directory, basis, {"tower": "synthetic"})
    Q = basis["Q"].reshape(heads, dim, wide)
    toward = Texts().vectors([f"class {k}" for k in range(CLASSES)])
    for shard in shards:
        count = min(shard_rows, rows - shard.id * shard_rows)
        rng = np.random.default_rng(shard.id)
        labels = rng.integers(0, CLASSES, count)
        water = np.where(labels == 0, rng.random(count) < 0.9, rng.random(count) < 0.1)
        vectors = {name: rng.standard_normal((count, dim), dtype=np.float32) / 200 for name in spec.heads}
        misled = Q[1] @ toward[0]
        vectors[spec.heads[1]] += 0.15 * water[:, None] * (misled / np.linalg.norm(misled))
        vectors[spec.heads[-1]][:, 1] += 0.08 * water
        embedding = rng.standard_normal((count, wide), dtype=np.float32) / 40 + 0.1 * toward[labels]
        for place, name in enumerate(spec.heads):
            embedding += vectors[name] @ Q[place]
        samples = [
            Sample(
                key=f"{shard.id}/{index:08d}",
                index=index,
                label=int(labels[index]),
                attributes={"place": "water" if water[index] else "land", "light": str(index % 97 / 97)},
                width=64,
                height=48,
                offset=places[shard.id][index % PHOTOS][0],
                nbytes=places[shard.id][index % PHOTOS][1],
            )
            for index in range(count)
        ]
        ones = np.ones(count, np.float32)
        scalars = {"scale": ones, "norm": ones, "remainder": ones * 1e-8}
        values = {"embedding": embedding, **vectors}
        directory.commit(write_attempt(directory, shard, spec, samples, values, scalars, batch=4096))
        print(f"wrote shard {shard.id + 1} of {len(shards)}", file=sys.stderr, flush=True)
    return str(folder / "run")


def picture_places(path: str) -> list[tuple[int, int]]:
    """(offset, bytes) of the pictures of a tar."""
    import tarfile

    with tarfile.open(path) as tar:
        return [(member.offset_data, member.size) for member in tar if member.name.endswith(".jpg")]


# -- what if -----------------------------------------------------------------------------------------------------------


def what_if(folder: Path, rows: int, heads: int, ticks: int) -> None:
    """CPU seconds of a tick: the first one, which makes the table, then others, each with a band of its own."""
    from starlette.testclient import TestClient

    from clipaudit.explorer.server import ExplorerOptions, create_app

    run = write_run(folder / f"what-if-{rows}", rows, heads)
    with (
        patch("clipaudit.explorer.what_if.RunTexts", Texts),
        patch("clipaudit.explorer.workspace.RunTexts", Texts),
        TestClient(create_app(run, explorer=ExplorerOptions()), base_url="http://127.0.0.1") as client,
    ):
        names = spec_of(heads, 64, 512).heads

        def tick(chosen: Sequence[str], **more: str) -> float:
            began = time.process_time()
            asked = {"out": list(chosen), "by": "attributes.place", **more}
            answer = client.get("/api/v1/what-if", params=asked)
            spent = time.process_time() - began
            assert answer.status_code == 200, answer.text
            return spent

        first = tick(names[:1])
        rng = np.random.default_rng(1)
        new = [tick(rng.choice(names, 1 + place % 8, replace=False)) for place in range(ticks)]
        again = [tick(rng.choice(names[:8], 1, replace=False)) for _ in range(ticks)]
        filtered = [tick(names[:3], where=f"light > {place / 100:.2f}") for place in range(min(ticks, 90))]
        along = [tick(names[:3], along="a photo of water"), tick(names[:2], along="a photo of water")]
    print(f"what if: {rows:,} images x {heads} heads x {CLASSES} classes, CPU ms (median, most)")
    print(f"  the first tick, with the table      {1000 * first:6.0f}")
    for name, spent in (("a tick, new random sets", new), ("a tick, sets known", again), ("another filter", filtered)):
        print(f"  {name:34}  {1000 * float(np.median(spent)):6.0f} {1000 * max(spent):6.0f}")
    print(f"  a text's first tick, and the next   {1000 * along[0]:6.0f} {1000 * along[1]:6.0f}")


# -- the page ----------------------------------------------------------------------------------------------------------


def serve(run: str, port: int) -> None:
    """The page over a run whose texts have vectors from their names, until the process ends."""
    from clipaudit.explorer.server import ExplorerOptions, serve_api

    with ExitStack() as patched:
        for module in ("workspace", "what_if", "map_routes"):
            patched.enter_context(patch(f"clipaudit.explorer.{module}.RunTexts", Texts))
        options = ExplorerOptions(write=True, token="bench", tags=Path(run).parent / "tags.jsonl")
        serve_api(run, port=port, device="cpu", on_start=lambda url: print(url, flush=True), explorer=options)


@contextmanager
def served(run: str) -> Iterator[tuple[str, psutil.Process]]:
    """(address, process) of a server of its own."""
    command = [sys.executable, __file__, "serve", "--folder", run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.kill()


def page(folder: Path, rows: int) -> None:
    """What a person waits for, in seconds as they pass, and the server's memory."""
    run = folder / f"page-{rows}" / "run"
    if not run.exists():
        write_run(run.parent, rows, 8, shard_rows=min(62_500, rows))
    server_seconds(str(run), rows)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None or shutil.which("node") is None or not (WEB / "node_modules").is_dir():
        print("page: Chromium, Node or explorer/web/node_modules is missing")
        return
    with served(str(run)) as (url, process):
        command = ["node", str(Path(__file__).with_suffix(".mjs")), url, chromium, str(WEB)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        print(f"page: {rows:,} images x 8 heads, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        print(ended.stdout or ended.stderr)
        times = process.cpu_times()
        print(f"  server: {times.user + times.system:.1f} CPU s, {process.memory_info().rss / 2**30:.2f} GiB")


ASKED = (
    ("the run, its columns", "columns"),
    ("first rows", "rows?limit=200"),
    ("filter place = water", "rows?where=place+%3D+water&limit=200"),
    ("filter light > 0.5", "rows?where=light+%3E+0.5&limit=200"),
    ("sorted by light", "rows?sort=-light&limit=200"),
    ("grouped by label", "rows?group=label&limit=200"),
    ("rows in the middle", "rows?offset=500000&limit=200"),
    ("map of one head", "map/points?space=L11H03&colour=place"),
    ("map of the whole embedding", "map/points?colour=label"),
    ("wall of a region", "rows?inside=embedding:pca:9,9;30000,9;30000,65000;9,65000&limit=200"),
    ("what sets it apart", "map/apart?inside=embedding:pca:9,9;30000,9;30000,65000;9,65000"),
    ("what if, the first tick", "what-if?out=L11H01&by=attributes.place"),
    ("what if, another tick", "what-if?out=L11H02&by=attributes.place"),
)


def server_seconds(run: str, rows: int) -> None:
    """CPU seconds of the server a request, one after another from its start: what load on the machine leaves alone."""
    with served(run) as (url, process):
        print(f"server: {rows:,} images x 8 heads, CPU s and seconds that passed, load {os.getloadavg()[0]:.1f}")
        for name, path in ASKED:
            times, began = process.cpu_times(), time.monotonic()
            with urlopen(f"{url}/api/v1/{path}", timeout=300) as answer:
                answer.read()
            now = process.cpu_times()
            spent = now.user + now.system - times.user - times.system
            print(f"  {name:28} {spent:6.2f} {time.monotonic() - began:7.2f}")
        print(f"  memory {process.memory_info().rss / 2**30:.2f} GiB")


def requests(folder: Path, rows: int, count: int) -> None:
    """Mixed requests from eight threads while 200 connections send nothing: statuses, and memory as it goes."""
    run = folder / f"page-{rows}" / "run"
    if not run.exists():
        write_run(run.parent, rows, 8, shard_rows=min(62_500, rows))
    with served(str(run)) as (url, process):
        host, port = urlsplit(url).hostname, urlsplit(url).port
        assert host is not None
        assert port is not None
        idle = [socket.create_connection((host, port)) for _ in range(200)]
        statuses: Counter[int] = Counter()
        lock, places = threading.Lock(), itertools.count()
        memory: list[float] = []

        def work() -> None:
            connection, rng = http.client.HTTPConnection(host, port, timeout=600), np.random.default_rng()
            while (number := next(places)) < count:
                path, body = mixed(number, rng, rows)
                headers = {"x-clipaudit-token": "bench", "content-type": "application/json"}
                connection.request("POST" if body else "GET", path, body, headers if body else {})
                answer = connection.getresponse()
                answer.read()
                with lock:
                    statuses[answer.status] += 1
                    if sum(statuses.values()) % max(1, count // 10) == 0:
                        memory.append(process.memory_info().rss / 2**20)

        began = time.monotonic()
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in idle:
            each.close()
    seconds = time.monotonic() - began
    print(f"requests: {count:,} in {seconds:.0f} s beside 200 idle connections: {dict(sorted(statuses.items()))}")
    print(f"  server's memory by tenths, MiB: {', '.join(f'{each:.0f}' for each in memory)}")


def mixed(number: int, rng: np.random.Generator, rows: int) -> tuple[str, str | None]:
    """The path and body of a request: what the page asks for, and now and then what it must refuse."""
    head = f"L11H{rng.integers(0, 8):02d}"
    light, offset = rng.integers(0, 40) / 40, int(rng.integers(0, rows))
    square = ";".join(f"{x},{y}" for x, y in ((9, 9), (9, 40_000), (40_000, 40_000), (40_000, int(rng.integers(9)))))
    kinds = [
        f"rows?offset={offset}&limit=200",
        f"rows?where=light+%3E+{light}&limit=50",
        f"rows?where=place+%3D+water&sort=-light&limit=50&offset={offset // 100}",
        f"rows/0/{rng.integers(0, rows // 20)}",
        f"thumbnails/0/{rng.integers(0, 64)}?size=96",
        f"what-if?out={head}&by=attributes.place",
        f"map/points?space={head}&colour=place" if number % 50 == 0 else "heads",
        f"rows?inside={head}:pca:{square}&limit=10",
        "state",
        f"rows?where=nothing+%3D+{number}",
        "rows?where=place+%3D",
        f"rows/99999/{number}",
    ]
    if number % 97 == 0:
        return f"/api/v1/{'tags'}", json.dumps({"tag": "t", "images": [{"shard": 0, "index": number % 64}]})
    return f"/api/v1/{kinds[number % len(kinds)]}", None


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=["all", "what-if", "page", "requests", "serve"])
    parser.add_argument("--rows", type=int, default=50_000, help="of what-if")
    parser.add_argument("--page-rows", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--heads", type=int, default=48)
    parser.add_argument("--ticks", type=int, default=24)
    parser.add_argument("--folder", type=Path, help="where runs are written, and kept")
    asked = parse(parser, rows=600, heads=16, ticks=3, page_rows=3000, requests=300)
    if asked.part == "serve":
        serve(str(asked.folder), 0)
        return
    with tempfile.TemporaryDirectory(prefix="clipaudit-explorer-") as scratch:
        folder = asked.folder or Path(scratch)
        if asked.part in ("all", "what-if"):
            what_if(folder, asked.rows, asked.heads, asked.ticks)
        if asked.part in ("all", "page"):
            page(folder, asked.page_rows)
        if asked.part in ("all", "requests"):
            requests(folder, asked.page_rows, asked.requests)


if __name__ == "__main__":
    main()
