"""The import paths of version 0.1: they work for one release, warn, and name the new place.

One finder with a table instead of a file for each old module. Remove this module with the release after next.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

MOVED: Final[Mapping[str, Mapping[str, str]]] = {
    "clipaudit.audit": {
        "AuditOptions": "clipaudit.AuditOptions",
        "AuditResult": "clipaudit.AuditResult",
        "Verdict": "clipaudit.cues.Verdict",
        "audit": "clipaudit.audit_cues",
    },
    "clipaudit.decomposer": {
        "Decomposer": "clipaudit.Decomposer",
        "Decomposition": "clipaudit.Decomposition",
        "Readout": "clipaudit.model.Readout",
        "TokenValues": "clipaudit.model.TokenValues",
        "Tower": "clipaudit.Tower",
        "describe": "clipaudit.describe_tower",
        "resized": "clipaudit.model.resized",
        "token_map": "clipaudit.model.token_map",
        "token_scores": "clipaudit.model.token_scores",
    },
    "clipaudit.export": {"export": "clipaudit.export"},
    "clipaudit.model": {
        "LoadedModel": "clipaudit.model.loading.LoadedModel",
        "load_model": "clipaudit.model.loading.load_model",
    },
    "clipaudit.report": {"save_report": "clipaudit.save_report"},
    "clipaudit.retrieval.head": {"HeadIndex": "clipaudit.HeadIndex"},
    "clipaudit.run": {
        "Basis": "clipaudit.Basis",
        "Coverage": "clipaudit.run.summary.Coverage",
        "Run": "clipaudit.Run",
        "Vectors": "clipaudit.run.vectors.Vectors",
        "write_basis": "clipaudit.run.basis.write_basis",
    },
}
"""Old module -> name -> where it is now. `clipaudit.model` and `clipaudit.run` are packages and ask `moved_name`."""
MODULES: Final[Mapping[str, str]] = {
    "ablation": "heads.ablation",
    "actorview": "job.engine_ray_actor",
    "agreement": "job.agreement",
    "audit": "cues",
    "audit.answers": "cues.measure.answers",
    "audit.attributefindings": "cues.findings.by_attribute",
    "audit.attributes": "cues.statistics.attributes",
    "audit.building": "cues.findings.parts",
    "audit.candidates": "cues.findings.candidates",
    "audit.context": "cues.measure.context",
    "audit.controls": "cues.measure.controls",
    "audit.directions": "cues.measure.directions",
    "audit.environments": "cues.statistics.environments",
    "audit.exports": "cues.row_tables",
    "audit.groups": "cues.statistics.groups",
    "audit.hygiene": "cues.measure.hygiene",
    "audit.imagefacts": "cues.measure.image_facts",
    "audit.intervals": "cues.statistics.intervals",
    "audit.multiplicity": "cues.statistics.multiplicity",
    "audit.naming": "cues.measure.naming",
    "audit.offobject": "cues.result.off_object",
    "audit.options": "cues.options",
    "audit.panels": "cues.result.panels",
    "audit.parts": "cues.result.finding_parts",
    "audit.pipeline": "cues.pipeline",
    "audit.predictability": "cues.statistics.predictability",
    "audit.pseudo": "cues.statistics.pseudo",
    "audit.result": "cues.result.result",
    "audit.scan": "cues.measure.scan",
    "audit.screen": "cues.statistics.screen",
    "audit.shift": "cues.measure.shift",
    "audit.strength": "cues.statistics.strength",
    "audit.summary": "cues.summary",
    "audit.tables": "cues.result.result",
    "audit.textfindings": "cues.findings.by_text",
    "audit.toolittle": "cues.inconclusive",
    "audit.unlabelled": "cues.measure.unlabelled",
    "audit.verdicts": "cues.findings.verdicts",
    "basis": "run.basis",
    "cli_demo": "cli.demo",
    "cli_heads": "cli.heads",
    "cli_index": "cli.index",
    "cli_localize": "cli.localize",
    "cli_options": "cli.options",
    "cli_query": "cli.query",
    "cli_report": "cli.report",
    "cluster": "job.engine_ray",
    "comparison": "heads.comparison",
    "config_file": "cli.config_file",
    "console": "cli.console.job",
    "console_compare": "cli.console.compare",
    "console_heads": "cli.console.heads",
    "console_index": "cli.console.index",
    "console_watch": "cli.console.watch",
    "decodechild": "shards.decoder_child",
    "decodeprocess": "shards.decoder_processes",
    "decomposer": "model",
    "decomposer.attention_pool": "model.attention_pool",
    "decomposer.decomposer": "model.decomposer",
    "decomposer.linears": "model.linears",
    "decomposer.readout": "model.readout",
    "decomposer.sizes": "model.sizes",
    "decomposer.spatial": "model.token_scores",
    "decomposer.taps": "model.taps",
    "decomposer.towers": "model.towers",
    "demo.architecture": "model.bundled",
    "demo.backgrounds": "demo.world.backgrounds",
    "demo.batches": "demo.training.batches",
    "demo.captions": "demo.world.captions",
    "demo.evaluate": "demo.evaluation.__main__",
    "demo.evaluation.card": "demo.evaluation.model_card",
    "demo.evaluation.choice": "demo.evaluation.head_choice",
    "demo.evaluation.figures": "demo.evaluation.measured",
    "demo.nouns": "demo.world.nouns",
    "demo.render_sprites": "demo.training.render_sprites",
    "demo.scenes": "demo.world.scenes",
    "demo.styles": "demo.world.styles",
    "demo.tokenizer": "demo.training.tokenizer",
    "demo.train": "demo.training.train",
    "demo.training_data": "demo.training.data",
    "demo.worlds": "demo.world.datasets",
    "description": "heads.description",
    "drift": "heads.drift",
    "experiment": "heads.experiment",
    "feed": "shards.feed",
    "fields": "shards.fields",
    "figures": "heads.plots",
    "gallery": "heads.page",
    "imagefiles": "shards.image_file",
    "imageheaders": "shards.image_header",
    "images": "shards.decoder",
    "indexes": "retrieval.vector_index",
    "joblog": "cli.console.job_log",
    "local": "job.engine_local",
    "localfiles": "storage.local",
    "localize.beside": "run.stored_images",
    "localize.evaluate": "localize.evaluation.evaluate",
    "localize.inside": "localize.evaluation.head_places",
    "localize.localisers": "localize.methods",
    "localize.maps": "localize.token_maps",
    "localize.metrics": "localize.evaluation.metrics",
    "localize.multilabel": "localize.evaluation.multilabel",
    "localize.offobject": "localize.off_object",
    "localize.runmaps": "localize.run_maps",
    "localize.segmentation": "localize.evaluation.segmentation",
    "localize.texttokens": "localize.text_tokens",
    "localize.waterbirds": "localize.evaluation.waterbirds",
    "moments": "run.moments",
    "progress": "job.progress",
    "projections": "run.projections",
    "recompute": "job.recompute",
    "records": "run.records",
    "remote": "storage.remote",
    "report": "cues.report",
    "report.__main__": "cues.report.__main__",
    "report.cards": "cues.report.cards",
    "report.document": "cues.report.document",
    "report.exports": "cues.report.files",
    "report.firstscreen": "cues.report.first_screen",
    "report.gallery": "cues.report.pictures",
    "report.gate": "cues.report.gate",
    "report.heat": "cues.report.heat",
    "report.junit": "cues.report.junit",
    "report.markdown": "cues.report.markdown",
    "report.page": "cues.report.page",
    "report.plots": "cues.report.plots",
    "report.publish": "cues.report.write",
    "report.save": "cues.report.save",
    "report.waivers": "cues.report.waivers",
    "report.words": "cues.report.words",
    "results": "run.derived",
    "retrieval.ask": "retrieval.request",
    "retrieval.files": "run.derived",
    "retrieval.head": "retrieval.head_index",
    "retrieval.maps": "retrieval.sheet_maps",
    "retrieval.server": "explorer.server",
    "retrieval.server_limits": "explorer.server_limits",
    "retrieval.thumbnails": "run.thumbnails",
    "roles": "heads.roles",
    "rows": "run.rows",
    "rundir": "run.directory",
    "scheduler": "job.scheduler",
    "shardlist": "shards.listing",
    "sizing": "job.sizing",
    "stages": "job.driver",
    "staging": "job.staging",
    "storedshards": "shards.stored",
    "studies": "heads.studies",
    "tar": "shards.tar",
    "tasks": "job.protocol",
    "textencoder": "heads.texts.encoder",
    "texts": "heads.texts",
    "texts.classes": "run.classes",
    "texts.commonwords": "heads.texts.commonwords",
    "texts.mentions": "heads.texts.mentions",
    "texts.pool": "heads.texts.pool",
    "texts.textfile": "storage.text_file",
    "textvectors": "heads.texts.vectors",
    "upkeep": "run.upkeep",
    "watch": "job.watch",
    "worker": "job.worker",
    "zeroshot": "heads.zeroshot",
}
"""Old module -> the module that has its names now, both inside `clipaudit`. Names in MOVED go where MOVED says."""
_EXPORT: Final = "clipaudit.run.export"
"""`clipaudit.export` is the module of this name for whoever imports it as a module, and the function for all others."""


def moved_name(module: str, name: str) -> Any:  # noqa: ANN401 - any public object
    """The object that `module` had under `name` in version 0.1, with a DeprecationWarning in its user's line.

    AttributeError when there was none. For a module's `__getattr__`.
    """
    place = MOVED.get(module, {}).get(name) or _same_name(module, name)
    if place is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} has moved: use {place}", DeprecationWarning, stacklevel=3)
    home, _, new_name = place.rpartition(".")
    # once `clipaudit.export` is imported as a module, the front door's name is that module
    return getattr(importlib.import_module(_EXPORT if place == "clipaudit.export" else home), new_name)


def _same_name(module: str, name: str) -> str | None:
    """Where the object of `module` stands that kept its name; None when there is none."""
    home = MODULES.get(module.removeprefix("clipaudit."))
    if home is None or not hasattr(importlib.import_module(f"clipaudit.{home}"), name):
        return None
    return f"clipaudit.{home}.{name}"


class _MovedModule(ModuleType):
    """A module of version 0.1."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return moved_name(self.__name__, name)

    def __call__(self, *values: Any, **options: Any) -> Any:  # noqa: ANN401
        """`clipaudit.export(...)` still works after `import clipaudit.export` has put the module in its place."""
        if self.__name__ != "clipaudit.export":
            raise TypeError(f"module {self.__name__!r} is not callable")
        return importlib.import_module(_EXPORT).export(*values, **options)


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of MOVED and MODULES, after every finder of modules that are there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old module, None for any other."""
        if fullname not in MOVED and fullname.removeprefix("clipaudit.") not in MODULES:
            return None
        # each may be a package: `clipaudit.audit.strength` is looked up below `clipaudit.audit`
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module that looks its names up."""
        return _MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def install() -> None:
    """Make the old modules importable; once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
