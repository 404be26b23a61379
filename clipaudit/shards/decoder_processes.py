"""Image decoding in processes of their own, over shared memory: on more cores than one process can use, and so that a
decoder that crashes or hangs costs one image only."""

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

from clipaudit.arrays import Uint8s
from clipaudit.config import DecodeConfig
from clipaudit.shards.decoder import DEVICE_PIXELS, DecodedImage, ImageDecoder, ImageTooLarge, ImageUndecodable
from clipaudit.shards.decoder_child import FAULT

_ATTEMPTS: Final = 2  # at one image: the first process may have died of another cause
_START_SECONDS: Final = 300.0
_RETAINED_BYTES: Final = 32 * 2**20  # after a larger image the process gives its shared memory back
_PROGRAM: Final = (sys.executable, "-m", "clipaudit.shards.decoder_child")


class ProcessDecoder:
    """An `ImageDecoder` whose calls run in processes; to be called by as many threads as there are processes.

    An image whose process dies or takes too long is tried once more in a new process, and then is undecodable; no other
    image is affected. The processes are forks of one that has loaded the decoder, so that a new one takes milliseconds
    and they share its memory. They end by `close()`, and when the process that made them is gone, however it ended:
    their pipes are closed then.
    """

    def __init__(
        self, decoder: ImageDecoder, preprocess: dict[str, Any], config: DecodeConfig, program: Sequence[str] = _PROGRAM
    ) -> None:
        """Start `config.decode_processes` processes.

        `preprocess` is open_clip's configuration of the transform that `decoder` uses, `program` the command of
        `decoder_child`. Raises RuntimeError when no process can be started.
        """
        pixels = DEVICE_PIXELS if config.resize == "device" else decoder.size[0] * decoder.size[1]
        self._config, self._sizes = config, (config.max_member_bytes, 3 * pixels)
        self._fork_server = _ForkServer(program, {"preprocess": preprocess, "config": asdict(config)})
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self.close = weakref.finalize(self, _close_all, self._idle, self._fork_server)
        """End the processes; may be called twice, and is called when this object is collected as garbage."""
        for _ in range(config.decode_processes):
            self._idle.put(self._new())

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode one image file's content. Raises ImageUndecodable or ImageTooLarge."""
        process = self._idle.get()
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return process.decode(data, self._config.max_decode_seconds)
                except _Ended as ended:
                    reason = str(ended)
                    process.close()
                    process = self._new()
            raise ImageUndecodable(f"its decoder {reason}, {_ATTEMPTS} times")
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
    """A process died or was killed while it had an image; the message says how, as in "its decoder ..."."""


class _ForkServer:
    """The process that loads the decoder and forks the others; see `decoder_child`. Its methods are thread-safe."""

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
        """Fork a decoding process on the descriptors of its memory, inbox and outbox; returns its process id."""
        return int(self._ask({"pixels_at": pixels_at}, descriptors))

    def wait(self, process_id: int) -> int:
        """Exit status of a decoding process that has ended or is about to; negative for a signal."""
        return int(self._ask({"wait": process_id}))

    def close(self) -> None:
        """End the process; those that it forked go on until their pipes are closed."""
        self._socket.close()  # it reads the end of the socket, and exits
        self._process.wait()

    def _ask(self, question: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:  # noqa: ANN401
        """Send a request and return the answer to it. Raises RuntimeError when the process has ended."""
        with self._lock:  # answers carry no number: the next request must wait for the answer to this one
            answer = b""
            try:
                socket.send_fds(self._socket, [json.dumps(question).encode()], list(descriptors))
                while not answer.endswith(b"\n"):
                    part = self._socket.recv(4096)
                    if not part:
                        break
                    answer += part
            except TimeoutError:
                self._process.kill()  # else a late answer would be taken for the answer to the next request
            except (BrokenPipeError, ConnectionResetError):
                pass
            if not answer.endswith(b"\n"):
                raise RuntimeError(f"the process that starts decoders ended with status {self._process.wait()}")
            return json.loads(answer)


class _Process:
    """One decoding process: a pipe in each direction, and shared memory for an image's bytes and then its pixels."""

    def __init__(self, fork_server: _ForkServer, data_bytes: int, pixel_bytes: int) -> None:
        # A file without a name leaves nothing behind; it is sparse, so that only what is written takes memory.
        self._fork_server, self._pixels_at, self._size = fork_server, data_bytes, data_bytes + pixel_bytes
        self._file = _anonymous_file(self._size)
        self._memory = mmap.mmap(self._file, self._size)
        inbox, self._to_child = os.pipe()
        self._from_child, outbox = os.pipe()
        try:
            self._process_id = fork_server.fork((self._file, inbox, outbox), data_bytes)
        finally:
            # Only the child may hold its ends: then its death closes them, and reading here ends instead of hanging.
            os.close(inbox)
            os.close(outbox)
        self._status: int | None = None

    def decode(self, data: bytes, seconds: float) -> DecodedImage:
        """Decode one image in at most `seconds`. Raises _Ended, ImageUndecodable or ImageTooLarge."""
        self._memory[: len(data)] = data
        with contextlib.suppress(BrokenPipeError):  # the process has died, which `_receive` finds out
            os.write(self._to_child, f"{len(data)}\n".encode())
        reply = json.loads(self._receive(seconds))
        try:
            return self._image(reply)
        finally:
            if len(data) > _RETAINED_BYTES:
                os.ftruncate(self._file, 0)  # frees the pages; the mapping stays valid once the size is back
                os.ftruncate(self._file, self._size)

    def close(self) -> None:
        """Kill the process, unless it has ended, and free its memory."""
        if self._status is None:
            os.kill(self._process_id, signal.SIGKILL)  # it holds no state that must be saved
            self._wait()
        for descriptor in (self._to_child, self._from_child, self._file):
            os.close(descriptor)
        self._memory.close()

    def _wait(self) -> int:
        self._status = self._fork_server.wait(self._process_id)
        return self._status

    def _image(self, reply: dict[str, Any]) -> DecodedImage:
        if reply.get("error") == "undecodable":
            raise ImageUndecodable(reply["detail"])
        if reply.get("error") == "too_large":
            raise ImageTooLarge(reply["detail"])
        height, width = reply["shape"]
        pixels: Uint8s = np.frombuffer(self._memory, np.uint8, height * width * 3, self._pixels_at)
        facts = reply["width"], reply["height"], reply["phash"], tuple(reply["properties"]), reply["truncated"]
        return DecodedImage(pixels.reshape(height, width, 3).copy(), *facts)

    def _receive(self, seconds: float) -> bytes:
        """The process's next line. Raises _Ended when it dies or needs more than `seconds`; then it is killed."""
        line, end = b"", time.monotonic() + seconds
        waiting = select.poll()  # select() cannot wait for descriptors above 1023
        waiting.register(self._from_child, select.POLLIN)
        while not line.endswith(b"\n"):
            if not waiting.poll(1000 * max(0.0, end - time.monotonic())):
                os.kill(self._process_id, signal.SIGKILL)
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
    """Descriptor of a sparse file of `size` bytes that has no name; in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("clipaudit-decode")
    else:  # macOS
        with tempfile.TemporaryFile() as opened:
            file = os.dup(opened.fileno())
    os.ftruncate(file, size)
    return file
