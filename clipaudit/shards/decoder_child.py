"""The program behind `decoder_processes`: a process that loads the decoder once and forks those that decode."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from clipaudit.config import DecodeConfig
from clipaudit.shards.decoder import DecodedImage, ImageDecoder, ImageTooLarge, ImageUndecodable

Decode: TypeAlias = Callable[[bytes], DecodedImage]

FAULT: Final = 70
"""Exit status of a decoding process that raised an unexpected exception, a bug; its traceback is on stderr."""


def main(arguments: Sequence[str], wrap: Callable[[Decode], Decode] = lambda decode: decode) -> None:
    """Answer the requests of the owner, until it closes the socket. `arguments` holds the socket's file descriptor.

    Requests and answers are lines of one JSON value each. The first is `{"preprocess": ..., "config": ...}`, answered
    by null. Then `{"pixels_at": ...}`, sent with three file descriptors (memory, inbox, outbox), forks a decoding
    process and is answered by its process id; `{"wait": id}` is answered by the exit status of that process, negative
    for a signal. `wrap` lets a test replace the decoder.
    """
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the owner decides what ends
    torch.set_num_threads(1)  # a fork of a process with threads may inherit a lock that nobody releases
    with socket.socket(fileno=int(arguments[0])) as owner:
        decode: Decode | None = None
        while True:
            line, descriptors, _, _ = socket.recv_fds(owner, 65536, 3)
            if not line:
                return
            request = json.loads(line)
            answer: int | None = None
            if decode is None:
                transform = image_transform_v2(PreprocessCfg(**request["preprocess"]), is_train=False)
                decode = wrap(ImageDecoder(transform, DecodeConfig(**request["config"])))
            elif "wait" in request:
                answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            else:
                answer = _fork(owner, decode, descriptors, request["pixels_at"])
            owner.sendall(json.dumps(answer).encode() + b"\n")


def _fork(owner: socket.socket, decode: Decode, descriptors: Sequence[int], pixels_at: int) -> int:
    """Fork a decoding process and return its id; in that process this function never returns."""
    process_id = os.fork()
    if process_id:
        for descriptor in descriptors:
            os.close(descriptor)
        return process_id
    try:
        owner.close()
        _serve(decode, descriptors, pixels_at)
    finally:
        failed = sys.exc_info()[0] is not None
        if failed:
            traceback.print_exc()
        os._exit(FAULT if failed else 0)  # without the parent's exit handlers and buffered output


def _serve(decode: Decode, descriptors: Sequence[int], pixels_at: int) -> None:
    """Decode images until the inbox is closed.

    A line of the inbox is the length of an image's bytes, which begin at offset 0 of the shared memory; its pixels go
    to offset `pixels_at`, and what else is known of it to the outbox.
    """
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
    facts: dict[str, Any] = {
        "width": decoded.width,
        "height": decoded.height,
        "phash": decoded.phash,
        "truncated": decoded.truncated,
    }
    facts["properties"] = decoded.properties  # Python's json writes and reads NaN
    return {"shape": [height, width], **facts}


if __name__ == "__main__":
    main(sys.argv[1:])
