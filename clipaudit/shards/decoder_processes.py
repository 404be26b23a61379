"""Image decoding in processes of its own, over shared memory: more cores than one process can use, and a wall around
decoders that crash or hang."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clipaudit.config import DecodeConfig
from clipaudit.shards.decoder import DEVICE_PIXELS, DecodedImage, ImageDecoder, ImageTooLarge, ImageUndecodable
from clipaudit.shards.decoder_child import FAULT

_ATTEMPTS: Final = 2  # of one image: the first process may have died of something else
_START_SECONDS: Final = 300.0
_KEPT_BYTES: Final = 32 * 2**20  # shared memory that a process keeps after a large image
_PROGRAM: Final = (sys.executable, "-m", "clipaudit.shards.decoder_child")


class ProcessDecoder:
    """`ImageDecoder` in processes: called by as many threads as there are processes, each call is one image.

    An image whose process dies or takes too long is tried once more in a new process, and then is `undecodable`; no
    other image is concerned. The processes are forks of one that has loaded the decoder, so that a new one takes
    milliseconds and their memory is shared. They end with `close()` and when their owner is gone, however it ended.
    """

    def __init__(
        self, decoder: ImageDecoder, preprocess: dict[str, Any], config: DecodeConfig, program: Sequence[str] = _PROGRAM
    ) -> None:
        """Start `config.decode_processes` processes; `preprocess` is open_clip's configuration of the transform.

        Raises RuntimeError when none can be started.
        """
        pixels = DEVICE_PIXELS if config.resize == "device" else decoder.size[0] * decoder.size[1]
        self._config, self._sizes = config, (config.max_member_bytes, 3 * pixels)
        self._fork_server = _ForkServer(program, {"preprocess": preprocess, "config": asdict(config)})
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self.close = weakref.finalize(self, _close_all, self._idle, self._fork_server)
        """End the processes; may be called twice, and is called when nobody needs them any more."""
        for _ in range(config.decode_processes):
            self._idle.put(self._new())

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode one file. Raises ImageUndecodable or ImageTooLarge."""
        process = self._idle.get()
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return process.decode(data, self._config.max_decode_seconds)
                except _Ended as ended:
                    why = str(ended)
                    process.close()
                    process = self._new()
            raise ImageUndecodable(f"its decoder {why}, {_ATTEMPTS} times")
        finally:
            self._idle.put(process)

    def _new(self) -> _Process:
        return _Process(self._fork_server, *self._sizes)


def _close_all(idle: queue.LifoQueue[_Process], fork_server: _ForkServer) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            idle.get_nowait().close()
    fork_server.close()


class _Ended(Exception):
    """A process died or was ended while it had an image."""


class _ForkServer:
    """The process that loads the decoder and forks the others; see `decodechild`."""

    def __init__(self, program: Sequence[str], first: dict[str, Any]) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_START_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [*program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            )
        try:
            self._ask(first)
        except RuntimeError:
            self._socket.close()
            raise

    def fork(self, descriptors: Sequence[int], pixels_at: int) -> int:
        """Id of a new decoding process on memory, inbox and outbox."""
        return int(self._ask({"pixels_at": pixels_at}, descriptors))

    def wait(self, number: int) -> int:
        """How a decoding process ended that has ended: its status, negative for a signal."""
        return int(self._ask({"wait": number}))

    def close(self) -> None:
        self._socket.close()  # which it takes as its end
        self._process.wait()

    def _ask(self, question: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:  # noqa: ANN401
        with self._lock:
            answer = b""
            try:
                socket.send_fds(self._socket, [json.dumps(question).encode()], list(descriptors))
                while not answer.endswith(b"\n"):
                    part = self._socket.recv(4096)
                    if not part:
                        break
                    answer += part
            except TimeoutError:
                self._process.kill()  # a late answer would be taken for that to the next question
            except (BrokenPipeError, ConnectionResetError):
                pass
            if not answer.endswith(b"\n"):
                raise RuntimeError(f"the process that starts decoders ended with status {self._process.wait()}")
            return json.loads(answer)


class _Process:
    """One decoding process: a pipe each way, and memory for an image's bytes, then its pixels."""

    def __init__(self, fork_server: _ForkServer, data_bytes: int, pixel_bytes: int) -> None:
        # Not linked anywhere, and sparse: only what is written takes memory, and nothing can be left behind.
        self._fork_server, self._pixels_at, self._size = fork_server, data_bytes, data_bytes + pixel_bytes
        self._file = _anonymous_file(self._size)
        self._memory = mmap.mmap(self._file, self._size)
        inbox, self._to_child = os.pipe()
        self._from_child, outbox = os.pipe()
        try:
            self._number = fork_server.fork((self._file, inbox, outbox), data_bytes)
        finally:
            os.close(inbox)
            os.close(outbox)
        self._status: int | None = None

    def decode(self, data: bytes, seconds: float) -> DecodedImage:
        self._memory[: len(data)] = data
        with contextlib.suppress(BrokenPipeError):  # it has died; the answer that does not come says so
            os.write(self._to_child, f"{len(data)}\n".encode())
        reply = json.loads(self._receive(seconds))
        try:
            return self._image(reply)
        finally:
            if len(data) > _KEPT_BYTES:
                os.ftruncate(self._file, 0)
                os.ftruncate(self._file, self._size)

    def close(self) -> None:
        if self._status is None:
            os.kill(self._number, signal.SIGKILL)  # it has nothing to lose
            self._wait()
        for descriptor in (self._to_child, self._from_child, self._file):
            os.close(descriptor)
        self._memory.close()

    def _wait(self) -> int:
        self._status = self._fork_server.wait(self._number)
        return self._status

    def _image(self, reply: dict[str, Any]) -> DecodedImage:
        if reply.get("error") == "undecodable":
            raise ImageUndecodable(reply["detail"])
        if reply.get("error") == "too_large":
            raise ImageTooLarge(reply["detail"])
        height, width = reply["shape"]
        pixels: npt.NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8, height * width * 3, self._pixels_at)
        return DecodedImage(pixels.reshape(height, width, 3).copy(), reply["width"], reply["height"], reply["phash"])

    def _receive(self, seconds: float) -> bytes:
        """The process's next line. Raises _Ended."""
        line, end = b"", time.monotonic() + seconds
        waiting = select.poll()  # select() knows no descriptors above 1023
        waiting.register(self._from_child, select.POLLIN)
        while not line.endswith(b"\n"):
            if not waiting.poll(1000 * max(0.0, end - time.monotonic())):
                os.kill(self._number, signal.SIGKILL)
                self._wait()
                raise _Ended(f"took more than {seconds:g} s")
            part = os.read(self._from_child, 65536)
            if not part:
                code = self._wait()
                if code == FAULT:
                    raise RuntimeError("a decoding process failed, see its traceback on stderr")
                raise _Ended(f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}")
            line += part
        return line


def _anonymous_file(size: int) -> int:
    """Descriptor of a sparse file in memory that has no name."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("clipaudit-decode")
    else:  # macOS
        with tempfile.TemporaryFile() as opened:
            file = os.dup(opened.fileno())
    os.ftruncate(file, size)
    return file
