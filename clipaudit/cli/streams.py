"""Standard output and error of the command: readers that go away, full disks and closed streams."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TextIO

from clipaudit.errors import StorageFull


class _Descriptor(io.FileIO):
    """An open file descriptor for writing. What cannot be written any more is dropped."""

    def __init__(self, descriptor: int, *, loud: bool) -> None:
        """`loud`: the first error other than a reader that has gone is raised, as StorageFull."""
        super().__init__(descriptor, "w", closefd=False)
        self._loud = loud
        self.lost = False
        """Whether something could not be written."""

    def write(self, data: object) -> int:
        """Write a bytes-like object; returns its length in bytes. Raises StorageFull once, see `loud`."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if self.lost:
            return view.nbytes
        left = view
        try:
            while left:
                left = left[super().write(left) or 0 :]
            return view.nbytes
        except BrokenPipeError:  # `clipaudit ... | head`: the reader has what it wanted
            self.lost = True
            return view.nbytes
        except OSError as error:
            self.lost = True
            if self._loud:
                raise StorageFull(f"standard output cannot be written: {error.strerror}") from error
            return view.nbytes


def guard_streams() -> None:
    """Make writing to standard output and standard error safe for the rest of the process.

    A reader of a pipe that goes away (`| head`) changes neither the command's work nor its exit code. An error of
    standard output, such as a full disk, is raised once as StorageFull; one of standard error has nowhere to be told.
    Streams that are closed or that are no files (in tests) stay as they are, or become the null device.
    """
    sys.stdout = _guarded(sys.stdout, loud=True)
    sys.stderr = _guarded(sys.stderr, loud=False)


def flush_streams() -> None:
    """Write what is buffered. Raises StorageFull."""
    sys.stdout.flush()
    sys.stderr.flush()


def reader_is_gone() -> bool:
    """Whether nobody reads standard output any more; for commands that would print without end."""
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    return isinstance(raw, _Descriptor) and raw.lost


def _raw(stream: TextIO) -> object:
    """The lowest layer of a stream; unbuffered ones (PYTHONUNBUFFERED) have no layer between it and the text."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _guarded(stream: TextIO | None, *, loud: bool) -> TextIO:
    if stream is None:  # closed by `>&-`
        return Path(os.devnull).open("w", encoding="utf-8")
    raw = _raw(stream)
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.FileIO) or isinstance(raw, _Descriptor):
        return stream
    stream.flush()
    descriptor = _Descriptor(raw.fileno(), loud=loud)
    return io.TextIOWrapper(
        descriptor if stream.buffer is raw else io.BufferedWriter(descriptor),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
