"""The configuration of each stage: frozen dataclasses, checked where they are made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from clipaudit.errors import UsageError
from clipaudit.redact import private_url, public_url

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
EngineName: TypeAlias = Literal["ray", "local"]


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UsageError(sentence)


@dataclass(frozen=True, kw_only=True)
class FieldsConfig:
    """Which parts of a sample become columns."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    label: str | None = None
    """`cls` (an integer), `txt` (a string) or a json path such as `json:attrs.class_name` (a string)."""
    attributes: tuple[str, ...] = ()
    """json paths `json:attrs.place`, or `NAME=json:attrs.place`; the default column name is the last part."""
    caption: str | None = None
    """`txt` or a json path."""


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How images are read and decoded."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    decode_threads: int = 2
    """Threads that decode images for one worker."""
    decode_processes: int = 0
    """Processes that decode instead of threads: for more cores than one process can keep busy, and for images that
    may bring a decoder down. They are forks of one process."""
    max_decode_seconds: float = 60.0
    """A decoding process that takes longer for one image is ended, and the image is `undecodable`."""
    resize: Literal["host", "device"] = "host"
    """Where images are resized: `device` leaves the host's cores more time to decode, and moves more bytes."""
    queue_images: int = 64
    """Most decoded images that wait for the model; bounds memory."""
    max_image_pixels: int = 178_956_970
    """Images with more pixels are refused before decoding (status `too_large`); Pillow's own bomb limit by default."""
    max_member_bytes: int = 256 * 2**20
    """Members larger than this are refused without being read."""

    def __post_init__(self) -> None:
        _require(self.decode_threads >= 1, f"--decode-threads must be at least 1, not {self.decode_threads}")
        _require(self.decode_processes >= 0, f"--decode-processes must not be negative: {self.decode_processes}")
        _require(self.max_decode_seconds > 0, f"max_decode_seconds must be positive, not {self.max_decode_seconds}")
        _require(self.resize in ("host", "device"), f"--resize must be host or device, not {self.resize!r}")
        _require(self.queue_images >= 1, f"queue_images must be at least 1, not {self.queue_images}")
        _require(self.max_image_pixels >= 1, f"--max-image-pixels must be at least 1, not {self.max_image_pixels}")

    @property
    def decoders(self) -> int:
        """Images that are decoded at once."""
        return self.decode_processes or self.decode_threads


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model, and how it computes."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = "ViT-B-32"
    """open_clip model name, `local-dir:PATH` or a directory, `hf-hub:ORG/NAME`, or `demo`."""
    pretrained: str | None = None
    """open_clip weight tag, checkpoint file, or `random-seed-N` for untrained weights drawn from seed N."""
    precision: Precision = "fp32"
    """`bf16` and `fp16` compute under autocast; `int8` rounds the blocks' large projections, on CPUs only."""
    compile: bool = False
    """Run the forward pass through torch.compile; nothing is gained on a CPU."""
    min_agreement: float = 0.999
    """Least cosine, over images of the first shard, between the embeddings of `--precision int8` or `--resize device`
    and those of fp32 with images resized on the host; below it the job is refused."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
    batch_size: int = 32

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, f"--batch-size must be at least 1, not {self.batch_size}")
        _require(
            self.precision in get_args(Precision),
            f"--precision must be fp32, bf16, fp16 or int8, not {self.precision!r}",
        )
        _require(-1 <= self.min_agreement <= 1, f"--min-agreement must lie in -1..1, not {self.min_agreement}")


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """What is written for each image."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    layers: str = "4"
    """`all`, the number of last layers, or a list such as `8,10,11` or `8-11`."""
    components: bool = False
    """Also store each stored layer's attention sum and MLP term."""
    label_moments: Literal["auto", "all", "none"] = "auto"
    """Which labels' moments a shard's file holds; `auto`: those that cost little beside the rows themselves."""


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Where and how hard the job runs; nothing here changes a result."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    engine: EngineName = "ray"
    workers: int | None = None
    """Worker processes; default: one per GPU of the cluster, else one per four CPUs. The local engine has one."""
    address: str | None = None
    """Ray cluster to join; default: the cluster that the job runs in, else a new local one."""
    gpus_per_worker: float | None = None
    cpus_per_worker: float | None = None
    max_attempts: int = 3
    """Attempts at a shard before it is recorded under _failed/."""
    max_shard_seconds: float = 3600.0
    """An attempt that takes longer is ended and counted."""
    max_init_failures: int = 3
    """Workers that may fail to start, in a row, before the job gives up."""
    max_lost_samples: float = 0.05
    """Largest share of samples that may be skipped before the run is called invalid."""
    max_lost_shards: int = 0
    """Most shards that may fail before the run is called invalid."""
    log_format: Literal["text", "json"] = "text"
    """`json` writes one JSON object a line to stderr, one line an event, instead of sentences and a bar."""

    def __post_init__(self) -> None:
        _require(self.log_format in ("text", "json"), f"--log-format must be text or json, not {self.log_format!r}")
        _require(self.engine in get_args(EngineName), f"--engine must be ray or local, not {self.engine!r}")
        _require(self.workers is None or self.workers >= 1, f"--workers must be at least 1, not {self.workers}")
        _require(
            self.engine == "ray" or self.workers in (None, 1),
            f"--workers {self.workers} needs --engine ray: the local engine has one worker",
        )
        _require(self.max_attempts >= 1, f"--max-attempts must be at least 1, not {self.max_attempts}")
        _require(self.max_shard_seconds > 0, f"--max-shard-seconds must be positive, not {self.max_shard_seconds}")
        _require(0 <= self.max_lost_samples <= 1, f"--max-lost must lie in 0..1, not {self.max_lost_samples}")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """The whole configuration of `clipaudit audit`; each stage gets its own part only."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    shards: tuple[str, ...]
    """Paths or URLs with brace ranges and globs."""
    out: str
    """Run directory, a local path or any fsspec URL."""
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        # From here on nobody in this process sees a credential; a pickle (to a Ray worker, in memory) carries them on.
        object.__setattr__(self, "shards", tuple(public_url(url) for url in self.shards))
        object.__setattr__(self, "out", public_url(self.out))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shards": tuple(map(private_url, self.shards)), "out": private_url(self.out)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def identity(self) -> dict[str, Any]:
        """The options that change what is stored; a run is bound to them. Keys are the options' names."""
        return {
            "model": self.model.name,
            "pretrained": self.model.pretrained,
            "precision": self.model.precision,
            "label": self.fields.label,
            "attributes": list(self.fields.attributes),
            "caption": self.fields.caption,
            "layers": self.store.layers,
            "components": self.store.components,
            "label_moments": self.store.label_moments,
            "max_image_pixels": self.decode.max_image_pixels,
            "max_member_bytes": self.decode.max_member_bytes,
            # Left out at its default, so that runs from before there was a choice can be resumed.
            **({"resize": self.decode.resize} if self.decode.resize != "host" else {}),
        }


def as_dict(config: object) -> dict[str, Any]:
    """A configuration dataclass as plain JSON values."""
    return dict(json.loads(json.dumps(asdict(config))))  # type: ignore[call-overload]


def fingerprint(value: dict[str, Any]) -> str:
    """Hex sha256 (first 16 digits) of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def parse_layers(spec: str, total: int) -> tuple[int, ...]:
    """Layers (0-based, ascending) that a `--layers` value names in a tower of `total` layers.

    `all`; `4` for the last four; a list with a comma or dash in it: `8,10`, `8-11`, `5,` (layer 5 alone).
    Raises UsageError naming --layers.
    """
    text = spec.strip().lower()
    if text == "all":
        return tuple(range(total))
    if text.isdecimal():
        _require(1 <= int(text) <= total, f"--layers {spec}: the tower has {total} layers, so give 1 to {total}")
        return tuple(range(total - int(text), total))
    layers: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, dash, last = part.partition("-")
        _require(
            first.isdecimal() and (last.isdecimal() or not dash),
            f"--layers {spec!r} is not understood: use all, a number of last layers, or a list such as 8,10 or 8-11",
        )
        chosen = range(int(first), int(last if dash else first) + 1)
        _require(
            len(chosen) > 0 and chosen[-1] < total,
            f"--layers {spec}: {part!r} is not within the tower's layers 0 to {total - 1}",
        )
        layers.update(chosen)
    _require(bool(layers), f"--layers {spec!r} names no layer")
    return tuple(sorted(layers))
