"""Audit image data sets with the exact per-head decomposition of a CLIP image encoder.

The names below are all that the documentation promises; each is imported when it is first used, so that `import
clipaudit` is quick. In one line each:

    clipaudit.run_job(clipaudit.JobConfig(...))                  # decompose the images of shards into a run
    clipaudit.Run("runs/train").heads("L11H05")                  # read it
    clipaudit.describe_heads("runs/train")                       # heads in words
    clipaudit.ablate("runs/train", "L11H05")                     # accuracy without them
    clipaudit.explain("photo.jpg", "a dog", "demo")              # where in a picture
    clipaudit.Retriever("runs/train").search(text="snow")        # images alike in one respect
    clipaudit.audit_cues("runs/train")                           # which cues classes hang on
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from clipaudit import moved
from clipaudit.schema import VERSION as __version__  # noqa: N811

__all__ = [
    "METHODS",
    "AuditOptions",
    "AuditResult",
    "Basis",
    "ClipauditError",
    "DecodeConfig",
    "Decomposer",
    "Decomposition",
    "ExecutionConfig",
    "FieldsConfig",
    "HeadIndex",
    "IntegrityError",
    "JobConfig",
    "ModelConfig",
    "Moments",
    "Retriever",
    "Rows",
    "Run",
    "RunNotFound",
    "StoreConfig",
    "TextPool",
    "Tower",
    "UsageError",
    "__version__",
    "ablate",
    "ablate_presence",
    "audit_cues",
    "compare_runs",
    "describe_concepts",
    "describe_heads",
    "describe_tower",
    "explain",
    "export",
    "load_model",
    "localiser",
    "run_job",
    "save_report",
    "textspan",
    "token_scores",
]

_PLACES: Final[Mapping[str, str]] = {
    # the job
    "JobConfig": "clipaudit.config",
    "ModelConfig": "clipaudit.config",
    "FieldsConfig": "clipaudit.config",
    "DecodeConfig": "clipaudit.config",
    "StoreConfig": "clipaudit.config",
    "ExecutionConfig": "clipaudit.config",
    "run_job": "clipaudit.job.driver",
    # a run
    "Run": "clipaudit.run.reader",
    "Rows": "clipaudit.run.rows",
    "Moments": "clipaudit.run.moments",
    "Basis": "clipaudit.run.basis",
    "export": "clipaudit.run.export",
    # the model
    "load_model": "clipaudit.model.loading",
    "Decomposer": "clipaudit.model.decomposer",
    "Decomposition": "clipaudit.model.decomposer",
    "Tower": "clipaudit.model.towers",
    "describe_tower": "clipaudit.model.towers",
    "token_scores": "clipaudit.model.token_scores",
    # heads
    "TextPool": "clipaudit.heads.texts.pool",
    "describe_heads": "clipaudit.heads.calls",
    "describe_concepts": "clipaudit.heads.calls",
    "ablate": "clipaudit.heads.calls",
    "ablate_presence": "clipaudit.heads.calls",
    "compare_runs": "clipaudit.heads.calls",
    "textspan": "clipaudit.heads.textspan",
    # where in the image, and images alike in one respect
    "explain": "clipaudit.localize.explain",
    "localiser": "clipaudit.localize.methods",
    "METHODS": "clipaudit.localize.methods",
    "HeadIndex": "clipaudit.retrieval.head_index",
    "Retriever": "clipaudit.retrieval.retriever",
    # cues
    "AuditOptions": "clipaudit.cues.options",
    "AuditResult": "clipaudit.cues.result.result",
    "audit_cues": "clipaudit.cues.pipeline",
    "save_report": "clipaudit.cues.report.save",
    # errors
    "ClipauditError": "clipaudit.errors",
    "UsageError": "clipaudit.errors",
    "RunNotFound": "clipaudit.errors",
    "IntegrityError": "clipaudit.errors",
}
"""Public name -> the module that defines it."""

moved.install()

if TYPE_CHECKING:  # for type checkers and editors; the same names as in _PLACES
    from clipaudit.config import DecodeConfig, ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
    from clipaudit.cues.options import AuditOptions
    from clipaudit.cues.pipeline import audit_cues
    from clipaudit.cues.report.save import save_report
    from clipaudit.cues.result.result import AuditResult
    from clipaudit.errors import ClipauditError, IntegrityError, RunNotFound, UsageError
    from clipaudit.heads.calls import ablate, ablate_presence, compare_runs, describe_concepts, describe_heads
    from clipaudit.heads.texts.pool import TextPool
    from clipaudit.heads.textspan import textspan
    from clipaudit.job.driver import run_job
    from clipaudit.localize.explain import explain
    from clipaudit.localize.methods import METHODS, localiser
    from clipaudit.model.decomposer import Decomposer, Decomposition
    from clipaudit.model.loading import load_model
    from clipaudit.model.token_scores import token_scores
    from clipaudit.model.towers import Tower, describe_tower
    from clipaudit.retrieval.head_index import HeadIndex
    from clipaudit.retrieval.retriever import Retriever
    from clipaudit.run.basis import Basis
    from clipaudit.run.export import export
    from clipaudit.run.moments import Moments
    from clipaudit.run.reader import Run
    from clipaudit.run.rows import Rows
else:  # hidden from type checkers, which would otherwise take any name for a public one

    def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
        """Import a public name when it is first used (PEP 562)."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_PLACES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Public names, imported or not."""
        return sorted({*globals(), *__all__})
