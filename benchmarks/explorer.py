"""The explorer over large runs: what-if in CPU seconds, and the page over 10^6 rows in headless Chromium.

python benchmarks/explorer.py what-if         a tick at 50,000 images x 48 heads x 10 classes: 300 ms are allowed
python benchmarks/explorer.py --smoke         small sizes, to see that it runs

The run is synthetic: `place` goes with one class, two heads see it, texts have vectors drawn from their names.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.schema import Sample, TableSpec, head_label
from clipaudit.shards.listing import expand
from tests.make_runs import make_basis, make_manifest, write_attempt
from tests.make_shards import write_photos

CLASSES = 10
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


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=["all", "what-if"])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--heads", type=int, default=48)
    parser.add_argument("--ticks", type=int, default=24)
    parser.add_argument("--folder", type=Path, help="where runs are written, and kept")
    asked = parse(parser, rows=600, heads=16, ticks=3)
    with tempfile.TemporaryDirectory(prefix="clipaudit-explorer-") as scratch:
        folder = asked.folder or Path(scratch)
        if asked.part in ("all", "what-if"):
            what_if(folder, asked.rows, asked.heads, asked.ticks)


if __name__ == "__main__":
    main()
