"""The lines of a small text file, local or on any fsspec file system, each with its number."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.redact import public_url

MAX_BYTES: Final = 64 * 2**20
"""Of a file. A list of words is far smaller; a larger file was named by mistake."""
MAX_CHARACTERS: Final = 1000
"""Of one line. No text of 77 tokens is as long."""


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line that is not blank."""

    number: int
    """From 1, as editors count."""
    columns: tuple[str, ...]
    """What tabs separate, at least one; outer spaces gone and inner ones single."""


def read_lines(path: str) -> list[TextLine]:
    """The lines of a UTF-8 file that are not blank; every other line is data, also one that begins with `#`.

    Raises UsageError naming the file, and the line at fault: missing, unreadable, not UTF-8, too long a line.
    """
    data = read_if_there(path)
    if data is None:
        raise UsageError(f"there is no file {path}{', or it may not be read' if is_remote(path) else ''}")
    return parse_lines(data, path)


def parse_lines(data: bytes, path: str) -> list[TextLine]:
    """The same as `read_lines`, from the content of the file; `path` is for messages."""
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}, line {data[: error.start].count(10) + 1}: not UTF-8; save the file as UTF-8"
        ) from None
    lines: list[TextLine] = []
    # not splitlines(), which also splits where no editor does
    for number, text in enumerate(content.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if "\0" in text:
            raise UsageError(f"{path}, line {number}: not plain text (a zero byte); save the file as UTF-8")
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"{path}, line {number}: {len(text):,} characters, more than {MAX_CHARACTERS:,}")
        if text.strip():
            columns = text.strip().split("\t")
            lines.append(TextLine(number, tuple(" ".join(column.split()) for column in columns)))
    return lines


def read_if_there(path: str) -> bytes | None:
    """The content of a file; None when there is none of this name. UsageError when it is unreadable or too large.

    Without the right to list, object stores refuse to say whether a name exists: a refusal there is None as well.
    """
    try:
        data = _read_remote(path) if is_remote(path) else _read_local(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory: name a file") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MiB: is it a list of texts?")
    return data


class RepeatedKeyError(ValueError):
    """A key stands twice in one object of a JSON text: the last would count in silence."""


def parse_json(text: str | bytes) -> object:
    """The value of a JSON text; RepeatedKeyError for a key that stands twice in an object, ValueError for no JSON."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values: dict[str, object] = {}
        for name, value in pairs:
            if name in values:
                raise RepeatedKeyError(f"{name} is given twice")
            values[name] = value
        return values

    return json.loads(text, object_pairs_hook=once)


def parse_yaml(text: str) -> object:
    """The value of a YAML (or JSON) text; yaml.YAMLError also for a key that stands twice in a table, of which the
    last would count in silence.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
            names = [(name.tag, name.value) for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
            again = next((name for tag, name in names if names.count((tag, name)) > 1), None)
            if again is not None:
                raise yaml.MarkedYAMLError(problem=f"{again} is given twice", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    loader = Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def is_remote(path: str) -> bool:
    """Whether the text is a URL rather than a path on this machine."""
    return "://" in path or "::" in path


def _read_local(path: str) -> bytes:
    with Path(path).expanduser().open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _read_remote(url: str) -> bytes:
    from clipaudit.storage.remote import open_filesystem, remote_errors  # `clipaudit heads --help` does without fsspec

    faults: tuple[type[Exception], ...] = (ImportError, ValueError, *remote_errors())
    try:
        filesystem, path = open_filesystem(public_url(url))
        with filesystem.open(path, "rb") as file:
            return bytes(file.read(MAX_BYTES + 1))
    except PermissionError:
        raise FileNotFoundError from None
    except OSError:
        raise
    except faults as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{url} cannot be read: {reason}") from None
