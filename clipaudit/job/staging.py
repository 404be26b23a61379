"""Batches to the model's device and results back, overlapped: an accelerator waits neither for copies nor for hosts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipaudit.model.loading import Normaliser
from clipaudit.shards.decoder import perceptual_hash

_DEPTH: Final = 2
"""Batches in flight: one computes while the next is copied. A batch more would only take memory."""

Compute = Callable[[Tensor], dict[str, Tensor]]


class Decoder(Protocol):
    """What the staging needs to know of how images were decoded."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int]

    @property
    def resize(self) -> Callable[[Tensor], Tensor]:
        """(3, H, W) uint8 -> (3, height, width) uint8."""


@dataclass(eq=False)
class Batch:
    """A batch on its way; `wait()` in any thread."""

    _results: dict[str, Tensor]
    _finish: Callable[[], float]
    _resized: Tensor | None = None
    """(n, 3, height, width) uint8 on the host: the images that the device resized."""
    seconds: float = field(default=0.0, init=False)
    """Of the device for this batch, known after `wait()`."""

    def wait(self) -> dict[str, npt.NDArray[Any]]:
        """The results as numpy arrays; waits until they are on the host."""
        self.seconds = self._finish()
        return {name: value.numpy() for name, value in self._results.items()}

    def hashes(self) -> list[int]:
        """`perceptual_hash` of the images that the device resized, in order; after `wait()`."""
        if self._resized is None:
            return []
        return [perceptual_hash(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in self._resized]


class Staging:
    """Feeds `compute` with normalised batches. On a CUDA device nothing here waits for the device: images go over from
    pinned memory on a stream of their own, and results come back on another, while the next batch computes. On other
    devices `submit` computes at once.

    Args:
        decoder: says how pixels are normalised, and how images that were not resized yet are resized on the device.
        device: the model's.
        compute: (B, 3, height, width) float32 normalised images -> results by name, on the device.
        cuda: torch.cuda, or something that behaves like it.
    """

    def __init__(
        self,
        decoder: Decoder,
        device: torch.device,
        compute: Compute,
        *,
        cuda: Any = torch.cuda,  # noqa: ANN401
    ) -> None:
        self._normalise = Normaliser(decoder.mean, decoder.std, device)
        self._size, self._resize, self._device, self._compute = decoder.size, decoder.resize, device, compute
        self._cuda = cuda if device.type == "cuda" or cuda is not torch.cuda else None
        if self._cuda is not None:
            self._inward, self._outward = self._cuda.Stream(device), self._cuda.Stream(device)
            self._buffers = [_Pinned(self._cuda) for _ in range(_DEPTH)]
            self._turn = 0

    def submit(self, images: Sequence[npt.NDArray[np.uint8]]) -> Batch:
        """Begin to compute a batch of (H, W, 3) uint8 RGB images, at least one; of any size where `decoder` leaves the
        resizing to the device, else of the model's size. At most two batches may be waited for at a time."""
        if self._cuda is None:
            started = time.perf_counter()
            parts = [torch.from_numpy(np.stack(group)).to(self._device) for group in self._groups(images)]
            pixels, resized = self._arranged(parts)
            results = {name: value.cpu() for name, value in self._compute(self._normalise.tensor(pixels)).items()}
            seconds = time.perf_counter() - started
            return Batch(results, lambda: seconds, None if resized is None else resized.cpu())
        return self._submit_cuda(images, self._cuda)

    def _submit_cuda(self, images: Sequence[npt.NDArray[np.uint8]], cuda: Any) -> Batch:  # noqa: ANN401
        buffer = self._buffers[self._turn]
        self._turn = (self._turn + 1) % _DEPTH
        buffer.begin(sum(image.nbytes for image in images))
        computing = cuda.current_stream(self._device)
        started, done = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        with cuda.stream(self._inward):
            moved = [buffer.move(group, self._device) for group in self._groups(images)]
            buffer.copied.record(self._inward)
        computing.wait_event(buffer.copied)
        for part in moved:
            part.record_stream(computing)  # its memory is the other stream's: not to be given away before it was read
        started.record(computing)
        pixels, resized = self._arranged(moved)
        results = self._compute(self._normalise.tensor(pixels))
        self._outward.wait_stream(computing)
        with cuda.stream(self._outward):
            on_host = {name: self._fetch(value) for name, value in results.items()}
            back = None if resized is None else self._fetch(resized)
            done.record(self._outward)

        def finish() -> float:
            done.synchronize()
            return float(started.elapsed_time(done)) / 1000

        return Batch(on_host, finish, back)

    def _fetch(self, value: Tensor) -> Tensor:
        value.record_stream(self._outward)
        return value.to("cpu", non_blocking=True)  # into pinned memory, which torch allocates for it

    def _groups(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Sequence[npt.NDArray[np.uint8]]]:
        """The images in runs that move as one array: all together when all have the model's size, else one by one."""
        if all(image.shape[:2] == self._size for image in images):
            return [images]
        return [[image] for image in images]

    def _arranged(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Moved images as (B, 3, height, width) uint8 in their order, and those that were resized here."""
        planar = [part.permute(0, 3, 1, 2) for part in parts]  # (n, 3, H, W) each
        ready = [tuple(part.shape[2:]) == self._size for part in planar]
        if all(ready):
            return (planar[0] if len(planar) == 1 else torch.cat(planar)), None
        resized = [part if done else self._resize(part[0])[None] for part, done in zip(planar, ready, strict=True)]
        changed = [part for part, done in zip(resized, ready, strict=True) if not done]
        return torch.cat(resized), torch.cat(changed)


class _Pinned:
    """Page-locked memory for one batch, from which copies run beside everything else."""

    def __init__(self, cuda: Any) -> None:  # noqa: ANN401
        self.copied = cuda.Event()
        """The last batch has left this memory."""
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._pin = cuda is torch.cuda

    def begin(self, nbytes: int) -> None:
        self.copied.synchronize()
        self._used = 0
        if len(self._memory) < nbytes:
            self._memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._pin)

    def move(self, images: Sequence[npt.NDArray[np.uint8]], device: torch.device) -> Tensor:
        """n arrays (H, W, 3) -> (n, H, W, 3) on the device, once the current stream has come so far."""
        nbytes = len(images) * images[0].nbytes
        part = self._memory[self._used : self._used + nbytes].view(len(images), *images[0].shape)
        self._used += nbytes
        np.stack(images, out=part.numpy())
        return part.to(device, non_blocking=True)
