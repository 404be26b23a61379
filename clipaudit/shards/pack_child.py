"""A process that writes shards for `pack`: a task a line on standard input, an answer a line on standard output."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict

from clipaudit.shards.pack_writer import ImageEntry, ShardTask, write_shard


def task_line(task: ShardTask) -> bytes:
    """The task as a line of json."""
    return json.dumps(task.__dict__).encode() + b"\n"  # ASCII: also for names that are not UTF-8


def main() -> None:
    """Write shards until standard input ends. An OSError is answered by its number, text and file."""
    # Ctrl-C reaches the whole group of processes; the one that asks decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        fields = json.loads(line)
        fields["entries"] = [ImageEntry(*entry) for entry in fields["entries"]]
        try:
            answer: object = asdict(write_shard(ShardTask(**fields)))
        except OSError as error:
            answer = [error.errno, error.strerror, error.filename]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
