"""The configuration of each stage of a job: frozen dataclasses, checked when they are made."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

from clipaudit.errors import UsageError
from clipaudit.redact import private_url, public_url

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
EngineName: TypeAlias = Literal["ray", "local"]
LabelMoments: TypeAlias = Literal["auto", "all", "none"]


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UsageError(sentence)


def _several(given: object) -> tuple[str, ...]:
    """Several texts or paths, or one, which is not a list of its letters, as a tuple of texts."""
    texts = [given] if isinstance(given, str | os.PathLike) else cast("Iterable[str | os.PathLike[str]]", given)
    return tuple(os.fspath(text) for text in texts)


@dataclass(frozen=True, kw_only=True)
class FieldsConfig:
    """Which parts of a sample become columns.

    >>> FieldsConfig(label="cls", attributes=("json:place", "light=json:meta.light")).label
    'cls'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    label: str | None = None
    """`cls` (integers, or names where the first are names), `txt`, another extension as text (`cls:text`), a json path
    such as `json:attrs.class_name` (a string, or a list of labels), `path:N` (folder N of the member's name, 0 the
    first, -1 the last), or `shard` (the shard's name without `.tar`)."""
    attributes: tuple[str, ...] = ()
    """json paths `json:attrs.place`, or `NAME=json:attrs.place`; the default column name is the last part. Likewise
    `shard`, `NAME=path:N` and `EXTENSION:text`."""
    caption: str | None = None
    """`txt` or a json path."""
    image: tuple[str, ...] = ()
    """Extensions of the image, all that follows the first dot of the file's name, `*` allowed: `input.jpg`, `*.jpg`;
    default: jpg, jpeg, jpe, jfif, png, webp, gif, bmp, tif, tiff and avif."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", _several(self.attributes))
        object.__setattr__(self, "image", _several(self.image))


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How images are read and decoded.

    >>> DecodeConfig(decode_processes=4).decoders
    4
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    decode_threads: int = 2
    """Threads of one worker that decode images."""
    decode_processes: int = 0
    """Processes of one worker that decode instead of threads: for more cores than one process can use, and for images
    that may crash a decoder. 0: threads decode."""
    max_decode_seconds: float = 60.0
    """A decoding process that takes longer for one image is killed, and the image is `undecodable`."""
    resize: Literal["host", "device"] = "host"
    """Where images are resized: on the `device` it costs no time of the CPUs, but whole images are copied there."""
    queue_images: int = 64
    """Largest number of decoded images that wait for the model; it bounds the worker's memory."""
    max_image_pixels: int = 178_956_970
    """Images with more pixels are refused before decoding (status `too_large`); Pillow's own bomb limit by default."""
    max_member_bytes: int = 256 * 2**20
    """Files in a tar that are larger are not read; such an image is `too_large`."""
    allow_truncated_images: bool = False
    """Whether JPEGs that lack their end are decoded, the rest grey, and counted; else they are `undecodable`."""

    def __post_init__(self) -> None:
        _require(self.decode_threads >= 1, f"--decode-threads must be at least 1, not {self.decode_threads}")
        _require(self.decode_processes >= 0, f"--decode-processes must not be negative: {self.decode_processes}")
        _require(self.max_decode_seconds > 0, f"max_decode_seconds must be positive, not {self.max_decode_seconds}")
        _require(self.resize in ("host", "device"), f"--resize must be host or device, not {self.resize!r}")
        _require(self.queue_images >= 1, f"queue_images must be at least 1, not {self.queue_images}")
        _require(self.max_image_pixels >= 1, f"--max-image-pixels must be at least 1, not {self.max_image_pixels}")

    @property
    def decoders(self) -> int:
        """Images that are decoded at the same time."""
        return self.decode_processes or self.decode_threads


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model, and how it computes.

    >>> ModelConfig(name="ViT-L-14", pretrained="laion2b_s32b_b82k", precision="bf16").batch_size
    32
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = "ViT-B-32"
    """open_clip model name, `local-dir:PATH` or a directory, `hf-hub:ORG/NAME`, or `demo`."""
    pretrained: str | None = None
    """open_clip weight tag, checkpoint file, or `random-seed-N` for untrained weights drawn from seed N."""
    precision: Precision = "fp32"
    """`bf16` and `fp16` compute under autocast; `int8` rounds the blocks' large projections, on CPUs only."""
    compile: bool = False
    """Run the forward pass through torch.compile, which makes it no faster on a CPU."""
    min_agreement: float = 0.999
    """Lower limit, -1..1, of the cosine between an image's embedding by `--precision int8` or `--resize device` and the
    one by fp32 with the image resized on the host. Checked on images of the first shard before the job starts."""
    image_mean: tuple[float, ...] | None = None
    """Of red, green and blue in 0..1, subtracted from images; None: as the weights say. For checkpoint files, which do
    not say it, the same holds for the next three."""
    image_std: tuple[float, ...] | None = None
    """Of red, green and blue in 0..1, by which images are divided."""
    image_resize: Literal["shortest", "longest", "squash"] | None = None
    """Which side becomes the model's size, or both."""
    image_interpolation: Literal["bicubic", "bilinear"] | None = None
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
    batch_size: int = 32
    """Images a forward pass."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", os.fspath(self.name))
        if self.pretrained is not None:
            object.__setattr__(self, "pretrained", os.fspath(self.pretrained))
        _require(self.batch_size >= 1, f"--batch-size must be at least 1, not {self.batch_size}")
        _require(
            self.precision in get_args(Precision),
            f"--precision must be fp32, bf16, fp16 or int8, not {self.precision!r}",
        )
        _require(-1 <= self.min_agreement <= 1, f"--min-agreement must lie in -1..1, not {self.min_agreement:g}")
        for name, numbers in (("mean", self.image_mean), ("std", self.image_std)):
            _require(
                numbers is None or (len(numbers) == 3 and all(0 <= number <= 1 for number in numbers)),
                f"--image-{name} must be three numbers in 0..1 such as 0.5,0.5,0.5, not {numbers}",
            )
        _require(self.image_std is None or min(self.image_std) > 0, "--image-std must not be 0")
        for option, value, choices in (
            ("resize", self.image_resize, ("shortest", "longest", "squash")),
            ("interpolation", self.image_interpolation, ("bicubic", "bilinear")),
        ):
            _require(value in (None, *choices), f"--image-{option} must be {' or '.join(choices)}, not {value!r}")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The settings of `image_mean`, `image_std`, `image_resize`, `image_interpolation` that are given, by
        open_clip's names (`PreprocessCfg`)."""
        given = {
            "mean": self.image_mean,
            "std": self.image_std,
            "resize_mode": self.image_resize,
            "interpolation": self.image_interpolation,
        }
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def of_run(cls, identity: dict[str, Any], *, device: str = "auto", precision: Precision = "fp32") -> ModelConfig:
        """The model of a stored run, from its `Manifest.identity`."""
        mean, std = (tuple(value) if (value := identity.get(name)) else None for name in ("image_mean", "image_std"))
        return cls(
            name=identity["model"],
            pretrained=identity.get("pretrained"),
            device=device,
            precision=precision,
            image_mean=mean,
            image_std=std,
            image_resize=identity.get("image_resize"),
            image_interpolation=identity.get("image_interpolation"),
        )


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """What is written for each image.

    >>> StoreConfig(layers="8-11", components=True).label_moments
    'auto'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    layers: str = "4"
    """`all`, the number of last layers, or a list such as `8,10,11` or `8-11`."""
    components: bool = False
    """Also store each stored layer's attention sum, MLP term and class-token self-attention, and the means that the
    published code's allocation needs."""
    label_moments: LabelMoments = "auto"
    """For which labels a shard's file holds moments; `auto`: for those with enough rows that the moments take little
    space beside the rows."""

    def __post_init__(self) -> None:
        check_layers(self.layers)


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Where the job runs, with how many workers, and what it does about failures; nothing here changes a result.

    >>> ExecutionConfig(engine="local").max_lost_samples
    0.05
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    engine: EngineName = "ray"
    """`ray`: workers on a cluster; `local`: one worker in this process."""
    workers: int | None = None
    """Number of workers; default: one per GPU of the cluster, else one per four CPUs. The local engine has one."""
    address: str | None = None
    """Ray cluster to join; default: the cluster that the job runs in, else a new local one."""
    gpus_per_worker: float | None = None
    """GPUs that Ray reserves for a worker, fractions allowed; default: 1 where the model runs on a GPU, else 0."""
    cpus_per_worker: float | None = None
    """CPUs that Ray reserves for a worker; default: its share of the cluster, 4 at most."""
    max_attempts: int = 3
    """Attempts at a shard before it is recorded under _failed/."""
    max_shard_seconds: float = 3600.0
    """How long an attempt may make no progress; one that is silent for longer is ended and counts as an attempt."""
    max_init_failures: int = 3
    """How often in a row a worker may fail to start before it is given up."""
    max_lost_samples: float = 0.05
    """Largest share of samples, 0..1, that may be skipped before the run is called invalid."""
    max_lost_shards: int = 0
    """Largest number of shards that may fail before the run is called invalid."""
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
        gpus, cpus = self.gpus_per_worker, self.cpus_per_worker
        _require(gpus is None or 0 <= gpus < math.inf, f"--gpus-per-worker must be a number of at least 0, not {gpus}")
        _require(cpus is None or 0 < cpus < math.inf, f"--cpus-per-worker must be a number above 0, not {cpus}")
        _require(self.max_lost_shards >= 0, f"--max-lost-shards must be at least 0, not {self.max_lost_shards}")
        _require(self.max_attempts >= 1, f"--max-attempts must be at least 1, not {self.max_attempts}")
        _require(self.max_shard_seconds > 0, f"--max-shard-seconds must be positive, not {self.max_shard_seconds}")
        _require(0 <= self.max_lost_samples <= 1, f"--max-lost must lie in 0..1, not {self.max_lost_samples:g}")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """The whole configuration of `clipaudit audit`; each stage gets its own part only.

    >>> config = JobConfig(shards=("train-{000000..000146}.tar",), out="runs/train", model=ModelConfig(name="demo"))
    >>> config.fields.label is None  # no label, attributes or captions unless they are asked for
    True
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    shards: tuple[str, ...]
    """Paths or URLs with brace ranges and globs."""
    out: str
    """Run directory, a local path or any fsspec URL."""
    append: bool = False
    """Add the shards that the run does not have, and finish those that it has."""
    moved: tuple[str, ...] = ()
    """`FROM=TO`: shards that the run recorded below FROM are below TO now."""
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        # No credential is visible in this process from here on. Only what is sent to a Ray worker holds them, because
        # that process has to learn them: __getstate__ puts them in, __setstate__ takes them out again.
        object.__setattr__(self, "shards", tuple(public_url(url) for url in _several(self.shards)))
        object.__setattr__(self, "out", public_url(os.fspath(self.out)))
        object.__setattr__(self, "moved", _several(self.moved))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shards": tuple(map(private_url, self.shards)), "out": private_url(self.out)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def identity(self) -> dict[str, Any]:
        """The options that change what is stored, by name, as plain JSON values; a run is bound to them."""
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
            # Left out at its default: runs that were started before the option existed can still be resumed.
            **({"resize": self.decode.resize} if self.decode.resize != "host" else {}),
            **({"image_key": list(self.fields.image)} if self.fields.image else {}),
            **({"allow_truncated_images": True} if self.decode.allow_truncated_images else {}),
            **{
                name: list(value) if isinstance(value, tuple) else value
                for name in ("image_mean", "image_std", "image_resize", "image_interpolation")
                if (value := getattr(self.model, name)) is not None
            },
        }


def fingerprint(value: dict[str, Any]) -> str:
    """The first 16 hex digits of the sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def parse_layers(spec: str, total: int) -> tuple[int, ...]:
    """Layers (0-based, ascending) that a `--layers` value names in a tower of `total` layers.

    `all`; `4` for the last four; a list, which has a comma or a dash in it: `8,10`, `8-11`, `5,` (layer 5 alone).
    Raises UsageError naming --layers for anything else, and for a layer that the tower does not have.
    """
    check_layers(spec)
    text = spec.strip().lower()
    if text == "all":
        return tuple(range(total))
    if text.isdecimal():
        _require(1 <= int(text) <= total, f"--layers {spec}: the tower has {total} layers, so give 1 to {total}")
        return tuple(range(total - int(text), total))
    layers: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, dash, last = part.partition("-")
        chosen = range(int(first), int(last if dash else first) + 1)
        _require(
            len(chosen) > 0 and chosen[-1] < total,
            f"--layers {spec}: {part!r} is not within the tower's layers 0 to {total - 1}",
        )
        layers.update(chosen)
    return tuple(sorted(layers))


def check_layers(spec: str) -> None:
    """UsageError naming --layers for a value that `parse_layers` understands for no tower; before one is loaded."""
    parts = [piece.strip().partition("-") for piece in spec.split(",") if piece.strip()]
    _require(bool(parts), f"--layers {spec!r} names no layer")
    _require(
        spec.strip().lower() == "all"
        or all(first.isdecimal() and (last.isdecimal() or not dash) for first, dash, last in parts),
        f"--layers {spec!r} is not understood: use all, a number of last layers, or a list such as 8,10 or 8-11",
    )
