"""The other end of `decodeprocess`: a process that loads the decoder once, and forks those that decode."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

from clipaudit.config import DecodeConfig
from clipaudit.shards.decoder import DecodedImage, ImageDecoder, ImageTooLarge, ImageUndecodable

Decode = Callable[[bytes], DecodedImage]

FAULT: Final = 70
"""Exit status of a decoding process that met a bug of ours; its traceback is on stderr."""


def main(arguments: Sequence[str], wrap: Callable[[Decode], Decode] = lambda decode: decode) -> None:
    """Fork, and tell how forks ended, until the owner is gone. The argument is the descriptor of a socket to it.

    Lines come in and go out, one JSON value each: first `{"preprocess": ..., "config": ...}`, answered by null; then
    `{"pixels_at": ...}` with three descriptors (memory, inbox, outbox), answered by the new process's id, or
    `{"wait": id}`, answered by how it ended: its status, negative for a signal.
    """
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    torch.set_num_threads(1)  # a process with threads cannot be forked safely
    with socket.socket(fileno=int(arguments[0])) as owner:
        decode: Decode | None = None
        while True:
            line, descriptors, _, _ = socket.recv_fds(owner, 65536, 3)
            if not line:
                return
            asked = json.loads(line)
            answer: int | None = None
            if decode is None:
                transform = image_transform_v2(PreprocessCfg(**asked["preprocess"]), is_train=False)
                decode = wrap(ImageDecoder(transform, DecodeConfig(**asked["config"])))
            elif "wait" in asked:
                answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
            else:
                answer = _fork(owner, decode, descriptors, asked["pixels_at"])
            owner.sendall(json.dumps(answer).encode() + b"\n")


def _fork(owner: socket.socket, decode: Decode, descriptors: Sequence[int], pixels_at: int) -> int:
    """The new process's id; the new process never returns."""
    number = os.fork()
    if number:
        for descriptor in descriptors:
            os.close(descriptor)
        return number
    try:
        owner.close()
        _serve(decode, descriptors, pixels_at)
    finally:
        failed = sys.exc_info()[0] is not None
        if failed:
            traceback.print_exc()
        os._exit(FAULT if failed else 0)


def _serve(decode: Decode, descriptors: Sequence[int], pixels_at: int) -> None:
    """Decode images whose lengths come in, from the memory's beginning, until the inbox ends."""
    file, inbox, outbox = descriptors
    with os.fdopen(inbox, "rb") as requests, os.fdopen(outbox, "wb", buffering=0) as replies:
        memory = mmap.mmap(file, os.fstat(file).st_size)
        for line in requests:
            replies.write(json.dumps(_answer(decode, memory, int(line), pixels_at)).encode() + b"\n")


def _answer(decode: Decode, memory: mmap.mmap, length: int, pixels_at: int) -> dict[str, Any]:
    try:
        decoded = decode(memory[:length])
    except ImageUndecodable as error:
        return {"error": "undecodable", "detail": str(error)}
    except ImageTooLarge as error:
        return {"error": "too_large", "detail": str(error)}
    memory[pixels_at : pixels_at + decoded.image.nbytes] = decoded.image.data.cast("B")
    height, width = decoded.image.shape[:2]
    return {"shape": [height, width], "width": decoded.width, "height": decoded.height, "phash": decoded.phash}


if __name__ == "__main__":
    main(sys.argv[1:])
