"""`clipaudit pack` beside GNU tar on many small files: alternating, medians; and memory by the number of files.

python benchmarks/pack.py --files 20000
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from options import parse, parser_for

_MEASURED = (
    "import json, resource, sys, time\n"
    "from pathlib import Path\n"
    "from clipaudit.shards.pack import PackConfig, pack\n"
    "def main():\n"
    "    source, out, workers, shard_mb = sys.argv[1:]\n"
    "    start = time.perf_counter()\n"
    "    pack(PackConfig(source=source, out=Path(out), workers=int(workers), shard_mb=float(shard_mb)))\n"
    "    seconds = time.perf_counter() - start\n"
    "    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))\n"
    "if __name__ == '__main__': main()\n"
)


def write_files(root: Path, count: int, size: int) -> None:
    """`count` files of about `size` bytes in ten class folders."""
    generator = random.Random(0)
    for number in range(count):
        path = root / f"class_{number % 10}" / f"image_{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(generator.randbytes(generator.randrange(size // 2, size * 3 // 2)))


def pack_seconds(script: Path, source: Path, out: Path, workers: int, shard_mb: float) -> tuple[float, float, int]:
    """(seconds of the whole process, of `pack` alone, peak memory of the process in bytes)."""
    command = [sys.executable, str(script), str(source), str(out), str(workers), str(shard_mb)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    start = time.perf_counter()
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    inner, peak = json.loads(output)
    return time.perf_counter() - start, inner, peak


def tar_seconds(source: Path, out: Path) -> float:
    """Seconds of `tar --sort=name`, with its data on the disk, as pack's shards are."""
    out.mkdir()
    start = time.perf_counter()
    with (out / "all.tar").open("wb") as file:
        subprocess.run(["tar", "--sort=name", "-C", str(source), "-cf", "-", "."], check=True, stdout=file)
        os.fsync(file.fileno())
    return time.perf_counter() - start


def cpu_of_children() -> float:
    """User and system seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=4000, help="of a file, on average")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-mb", type=float, default=32)
    parser.add_argument("--memory-files", type=int, default=0, help="also pack so many files of 64 bytes; peak memory")
    options = parse(parser, files=200, rounds=1, shard_mb=0.3, memory_files=400)
    with tempfile.TemporaryDirectory() as work_name:
        work = Path(work_name)
        script = work / "measured.py"
        script.write_text(_MEASURED)
        source = work / "source"
        write_files(source, options.files, options.bytes)
        tars, packs, inners, peaks, cpus = [], [], [], [], []
        for _ in range(options.rounds):
            before = cpu_of_children()
            tars.append(tar_seconds(source, work / "tar"))
            between = cpu_of_children()
            seconds, inner, peak = pack_seconds(script, source, work / "packed", options.workers, options.shard_mb)
            packs.append(seconds)
            inners.append(inner)
            peaks.append(peak)
            cpus.append((between - before, cpu_of_children() - between))
            shutil.rmtree(work / "tar")
            shutil.rmtree(work / "packed")
        tar, pack, inner = (statistics.median(seconds) for seconds in (tars, packs, inners))
        print(f"{options.files:,} files of {options.bytes:,} bytes, median of {options.rounds}, alternating")
        print(f"tar   {tar:7.3f} s  {options.files / tar:9,.0f} files/s")
        print(f"pack  {pack:7.3f} s  {options.files / pack:9,.0f} files/s  ({options.workers} workers)")
        print(f"pack  {inner:7.3f} s  {options.files / inner:9,.0f} files/s  without the start of Python")
        print(f"pack's speed is {tar / pack:.2f} of tar's, {tar / inner:.2f} without the start of Python")
        tar_cpu, pack_cpu = (statistics.median(pair[side] for pair in cpus) for side in (0, 1))
        print(f"CPU seconds of all processes: tar {tar_cpu:.3f}, pack {pack_cpu:.3f}")
        print(f"peak memory {max(peaks) / 1e6:,.0f} MB")
        if options.memory_files:
            many = work / "many"
            write_files(many, options.memory_files, 64)
            _, _, peak = pack_seconds(script, many, work / "packed", 1, options.shard_mb)
            growth = (peak - max(peaks)) / max(1, options.memory_files - options.files)
            print(
                f"{options.memory_files:,} files: peak memory {peak / 1e6:,.0f} MB, {growth:,.0f} bytes a further file"
            )


if __name__ == "__main__":
    main()
