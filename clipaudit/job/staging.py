"""Batches of images to the model's device and results back; on CUDA copies overlap with computation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from clipaudit.arrays import Float32s, Uint8s
from clipaudit.model.loading import Normaliser
from clipaudit.shards.decoder import perceptual_hash

_DEPTH: Final = 2
"""Batches in flight: one computes while the next is copied. A third would only take memory."""

Compute: TypeAlias = Callable[[Tensor], dict[str, Tensor]]
"""(B, 3, height, width) float32 normalised images on the device -> results by name, on the device."""


class Decoder(Protocol):
    """What the staging needs of an ImageDecoder."""

    mean: tuple[float, float, float]
    """Per channel (RGB), for values in 0..1."""
    std: tuple[float, float, float]
    """Likewise."""
    size: tuple[int, int]
    """(height, width) of the model's input."""

    @property
    def resize(self) -> Callable[[Tensor], Tensor]:
        """(3, H, W) uint8 of any size -> (3, height, width) uint8 of the model's size, on the image's device."""


@dataclass(eq=False)
class Batch:
    """A batch that is being computed. `wait()` and then `hashes()` may be called in any thread."""

    _results: dict[str, Tensor]
    _finish: Callable[[], float]
    _resized: Tensor | None = None
    """(n, 3, height, width) uint8 on the host: the images that the device resized."""
    seconds: float = field(default=0.0, init=False)
    """That the device was busy with this batch; known after `wait()`."""

    def wait(self) -> dict[str, Float32s]:
        """Wait until the results of `Compute` are on the host; (B, ...) float32 arrays by name, B images each."""
        self.seconds = self._finish()
        return {name: value.numpy() for name, value in self._results.items()}

    def hashes(self) -> list[int]:
        """`perceptual_hash` of the images that the device resized, in their order; only after `wait()`."""
        if self._resized is None:
            return []
        return [perceptual_hash(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in self._resized]


class Staging:
    """Passes normalised batches to `compute`.

    On a CUDA device `submit` returns before the batch is computed. Three streams overlap: one copies images in from
    page-locked memory, the device's current one computes, one copies results out. Events order them: computing waits
    for the copy in, the copy out waits for computing, and page-locked memory is reused when its last copy has ended. On
    other devices `submit` computes at once.

    Args:
        decoder: says how pixels are normalised, and resizes images that were not resized on the host.
        device: the model's.
        compute: see `Compute`.
        cuda: torch.cuda, or an object with the same streams and events.
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

    def submit(self, images: Sequence[Uint8s]) -> Batch:
        """Start to compute a batch of (H, W, 3) uint8 RGB images, at least one.

        They have any size where the device resizes, else the model's. At most two batches may be in flight: call
        `wait()` of the first before a third is submitted.
        """
        if self._cuda is None:
            started = time.perf_counter()
            parts = [torch.from_numpy(np.stack(group)).to(self._device) for group in self._groups(images)]
            pixels, resized = self._arranged(parts)
            results = {name: value.cpu() for name, value in self._compute(self._normalise.tensor(pixels)).items()}
            seconds = time.perf_counter() - started
            return Batch(results, lambda: seconds, None if resized is None else resized.cpu())
        return self._submit_cuda(images, self._cuda)

    def _submit_cuda(self, images: Sequence[Uint8s], cuda: Any) -> Batch:  # noqa: ANN401
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
            # Allocated on the stream of copies: torch must not reuse the memory before this stream has read it.
            part.record_stream(computing)
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
        """Start to copy a result to the host, into page-locked memory that torch allocates."""
        value.record_stream(self._outward)
        return value.to("cpu", non_blocking=True)

    def _groups(self, images: Sequence[Uint8s]) -> list[Sequence[Uint8s]]:
        """The images in groups that are copied as one array: all when all have the model's size, else one by one."""
        if all(image.shape[:2] == self._size for image in images):
            return [images]
        return [[image] for image in images]

    def _arranged(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """(all images, those resized here) as (B, 3, height, width) uint8 in their order; `parts` are (n, H, W, 3)."""
        planar = [part.permute(0, 3, 1, 2) for part in parts]  # (n, 3, H, W) each
        ready = [tuple(part.shape[2:]) == self._size for part in planar]
        if all(ready):
            return (planar[0] if len(planar) == 1 else torch.cat(planar)), None
        resized = [part if done else self._resize(part[0])[None] for part, done in zip(planar, ready, strict=True)]
        changed = [part for part, done in zip(resized, ready, strict=True) if not done]
        return torch.cat(resized), torch.cat(changed)


class _Pinned:
    """Page-locked memory for one batch: from it the device copies while the host goes on."""

    def __init__(self, cuda: Any) -> None:  # noqa: ANN401
        self.copied = cuda.Event()
        """Recorded behind the copies of the last batch: when it is done, the memory may be overwritten."""
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._pin = cuda is torch.cuda

    def begin(self, nbytes: int) -> None:
        """Make room for a batch of `nbytes`; waits until the last batch was copied."""
        self.copied.synchronize()
        self._used = 0
        if len(self._memory) < nbytes:
            self._memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._pin)

    def move(self, images: Sequence[Uint8s], device: torch.device) -> Tensor:
        """Start to copy n arrays (H, W, 3) uint8 to the device, on the current stream -> (n, H, W, 3)."""
        nbytes = len(images) * images[0].nbytes
        part = self._memory[self._used : self._used + nbytes].view(len(images), *images[0].shape)
        self._used += nbytes
        np.stack(images, out=part.numpy())
        return part.to(device, non_blocking=True)
