"""Training batches made ahead of time by background processes; every batch depends on the seed and its number only."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipaudit.model.bundled import CONTEXT_LENGTH

Generator = Callable[[int, int, int], tuple[npt.NDArray[np.uint8], list[str]]]


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """One step's images and captions; captions that occur several times are held once."""

    images: npt.NDArray[np.uint8]
    """(B, H, W, 3) RGB."""
    tokens: npt.NDArray[np.int32]
    """(U, L) token ids of the U different captions, padded with 0 to the longest."""
    caption: npt.NDArray[np.int64]
    """(B,) which of the U captions each image has."""


@dataclass(frozen=True, kw_only=True)
class BatchMaker:
    """Makes batch `step` from scratch, in any process."""

    generator: str
    """`module:function` of a `Generator`."""
    bpe: Path
    """The tokeniser's merges."""
    seed: int
    size: int
    """Images in a batch."""

    def __call__(self, step: int) -> TrainingBatch:
        """The batch of one step."""
        images, captions = _generator(self.generator)(self.seed, step, self.size)
        numbers: dict[str, int] = {}
        caption = np.array([numbers.setdefault(text, len(numbers)) for text in captions], dtype=np.int64)
        encode = _encoder(self.bpe)
        rows = [encode(text) for text in numbers]
        tokens = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        return TrainingBatch(images=images, tokens=tokens, caption=caption)


@functools.cache
def _generator(name: str) -> Generator:
    module, _, function = name.partition(":")
    generator: Generator = getattr(importlib.import_module(module), function)
    return generator


@functools.cache
def _encoder(bpe: Path) -> Callable[[str], list[int]]:
    """Caption to token ids between the start and end tokens, at most CONTEXT_LENGTH, as open_clip's tokeniser does."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(str(bpe), context_length=CONTEXT_LENGTH)

    @functools.lru_cache(maxsize=200_000)
    def encode(text: str) -> list[int]:
        ids = [tokenizer.sot_token_id, *tokenizer.encode(text)][: CONTEXT_LENGTH - 1]
        return [*ids, tokenizer.eot_token_id]

    return encode


@contextmanager
def batches(
    make: BatchMaker, first: int, last: int, *, workers: int, ahead: int = 3
) -> Iterator[Iterator[TrainingBatch]]:
    """Batches `first` to `last - 1` in order, made by `workers` processes, each up to `ahead` of them in advance.

    Without workers they are made in this process, one at a time as they are taken.
    """
    if workers == 0:
        yield (make(step) for step in range(first, last))
        return
    context = multiprocessing.get_context("spawn")
    lines: list[queue.Queue[TrainingBatch | BaseException]] = []
    processes, connections = [], []
    try:
        for number in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            steps = range(first + number, last, workers)
            process = context.Process(target=_work, args=(make, steps, sender), daemon=True)
            process.start()
            sender.close()  # while this end is open, a worker's end is no end of file
            line: queue.Queue[TrainingBatch | BaseException] = queue.Queue(maxsize=ahead)
            threading.Thread(target=_receive, args=(receiver, line, len(steps)), daemon=True).start()
            processes.append(process)
            connections.append(receiver)
            lines.append(line)
        yield _in_turn(lines, first, last)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _in_turn(lines: list[queue.Queue[TrainingBatch | BaseException]], first: int, last: int) -> Iterator[TrainingBatch]:
    for step in range(first, last):
        batch = lines[(step - first) % len(lines)].get()
        if isinstance(batch, BaseException):
            raise RuntimeError(f"no batch for step {step}: {batch}") from batch
        yield batch


def _receive(connection: Connection[Any, Any], line: queue.Queue[TrainingBatch | BaseException], count: int) -> None:
    """Move batches from a worker's pipe to its queue, so that the worker need not wait for the training step."""
    try:
        for _ in range(count):
            line.put(connection.recv())
    except (EOFError, OSError):
        line.put(RuntimeError("its worker process has ended"))


def _work(make: BatchMaker, steps: range, connection: Connection[Any, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle
    if hasattr(os, "nice"):
        os.nice(5)  # the training step's threads wait for each other, so they go first
    try:
        for step in steps:
            connection.send(make(step))
    except BrokenPipeError:
        return  # the trainer is gone
    except Exception as error:  # noqa: BLE001 - raised again in the training process
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))
