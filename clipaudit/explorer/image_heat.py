"""Where texts are in one image of a run: maps of texts x heads on one scale, by the run's own model."""

from __future__ import annotations

import shlex
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from clipaudit.errors import UsageError
from clipaudit.explorer.problems import NotThereError
from clipaudit.explorer.workspace import SIDES, Workspace
from clipaudit.retrieval.card import EMBEDDING, check_columns
from clipaudit.run.row import Row
from clipaudit.run.thumbnails import NoPicture

if TYPE_CHECKING:
    from clipaudit.localize.frames import Frame
    from clipaudit.localize.run_maps import RunMaps, SetMaps

MAX_TEXTS: Final = 4
MAX_HEADS: Final = 6
"""Of one answer, the whole embedding among them."""
_ANSWERS: Final = 32
"""That stay in memory."""
_COLOURS: Final = 64
"""Steps of the scale of colours."""


class ImageHeat:
    """Maps of a run's images. For any number of threads: one image is computed at a time, for it takes all cores."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._maps: RunMaps | None = None
        self._answers: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, row: Row, number: int, texts: Sequence[str], heads: Sequence[str]) -> dict[str, Any]:
        """The maps of a row, `number` among the run's rows, for 1 to 4 texts and up to 6 heads; `embedding` is all
        heads of the model together.

        UsageError for a text or head that cannot be used, or twice the same, and where the run's model cannot be
        loaded; NotThereError where the picture is not at hand, or is none any more.
        """
        check_columns(self._workspace.run, heads)
        for what, given in (("text", texts), ("head", heads)):
            if len(set(given)) < len(given):
                raise UsageError(f"a {what} is given twice")
        key = (row.shard_id, row.index, tuple(texts), tuple(heads))
        with self._lock:
            if key not in self._answers:
                self._answers[key] = self._new(row, number, texts, heads)
                if len(self._answers) > _ANSWERS:
                    self._answers.popitem(last=False)
            self._answers.move_to_end(key)
            return self._answers[key]

    def _new(self, row: Row, number: int, texts: Sequence[str], heads: Sequence[str]) -> dict[str, Any]:
        data = self._data(row)  # before a model is loaded
        directions = np.stack([self._workspace.encoder.text(text) for text in texts])
        maps = self._loaded()
        try:
            seen, frame = maps.see(data, f"{row.shard_id:06d}/{row.key}")
        except UsageError as error:
            raise NotThereError(f"{error}: `{self._command('check')}` compares shards and run") from error
        found = maps.by_sets([seen], [None if head == EMBEDDING else [head] for head in heads], directions)
        return self._plain(found, frame, self._unrelated(number), texts, heads)

    def _data(self, row: Row) -> bytes:
        try:
            return self._workspace.thumbnails[SIDES[-1]].data(row)
        except NoPicture as error:
            url = self._workspace.run.manifest.shards[row.shard_id].url
            raise NotThereError(
                f"the picture is not at hand, {url}: {error}; where the shards lie elsewhere now,"
                f" `clipaudit audit SHARDS --out {shlex.quote(self._workspace.run.directory.url)} --moved FROM=TO`"
                " says so to the run"
            ) from error

    def _loaded(self) -> RunMaps:
        from clipaudit.localize.run_maps import RunMaps  # brings torch

        if self._maps is None:
            try:
                self._maps = RunMaps(self._workspace.run, side=SIDES[-1], device=self._workspace.device)
            except UsageError as error:
                check = f"{self._command('check')} --model"
                raise UsageError(f"maps need the run's own model: {error}; `{check}` looks into it") from error
        return self._maps

    def _command(self, name: str) -> str:
        return shlex.join(["clipaudit", name, self._workspace.run.directory.url])

    def _unrelated(self, number: int) -> float | None:
        """The cosine of a row that unrelated texts do not exceed, by its stored embedding; None where the model reads
        fewer words than they have.
        """
        from clipaudit.localize.seen import unrelated_cosine, unrelated_texts

        texts = unrelated_texts(str(self._workspace.run.manifest.identity.get("model", "")))
        try:
            vectors = self._workspace.encoder.texts(texts)
        except UsageError:
            return None
        return unrelated_cosine(vectors @ self._workspace.scores.vectors(EMBEDDING)[number].astype(np.float32))

    def _plain(
        self, found: SetMaps, frame: Frame, unrelated: float | None, texts: Sequence[str], heads: Sequence[str]
    ) -> dict[str, Any]:
        from clipaudit.localize.colours import coloured
        from clipaudit.localize.heatmaps import ends_of_parts

        scores, products = found.scores[0], found.products[0]  # (S, T, rows, columns), (T,)
        seen = products > (-np.inf if unrelated is None else unrelated)
        # a map that is not drawn must not stretch the scale of the others
        low, high = ends_of_parts(scores[:, seen] if seen.any() else scores)
        listed = [
            {"text": text, "cosine": float(product), "seen": bool(is_seen)}
            for text, product, is_seen in zip(texts, products, seen, strict=True)
        ]
        maps = [
            {
                "head": head,
                "text": text,
                "adds": float(found.totals[0, row, column]),
                "patches_add": float(scores[row, column].sum()),
                "scores": [[float(f"{value:.6g}") for value in line] for line in scores[row, column]],
            }
            for row, head in enumerate(heads)
            for column, text in enumerate(texts)
        ]
        return {
            "texts": listed,
            "heads": list(heads),
            "maps": maps,
            "grid": list(scores.shape[2:]),
            "frame": {**asdict(frame), "kept": frame.kept},
            "scale": {"low": low, "high": high},
            "colours": [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in coloured(np.linspace(0, 1, _COLOURS)).tolist()],
            "unrelated_cosine": unrelated,
            "register_like": [list(map(int, place)) for place in np.argwhere(found.outliers[0])],
        }
