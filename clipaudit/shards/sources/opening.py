"""Which kind of source a path is, and its catalogue."""

from __future__ import annotations

import os
from pathlib import Path

from clipaudit.errors import UsageError
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.folders import read_folders
from clipaudit.shards.sources.options import SourceOptions


def open_source(source: str, options: SourceOptions, work: Path | None) -> Catalogue:
    """The images of a source. `work` as for Catalogue. Raises UsageError, one sentence, when it is not understood."""
    path = Path(source)
    if path.is_dir():
        catalogue = Catalogue(os.path.realpath(source), "class folders", work)
        read_folders(source, catalogue, options)
    else:
        raise UsageError(f"{source} is no directory")
    catalogue.finish()
    return catalogue
