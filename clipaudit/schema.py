"""The vocabulary of the tables: head labels, row statuses, sample records and the Parquet schema."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

    from clipaudit.arrays import Uint8s

VERSION = "0.2.0"
"""Of clipaudit, written into runs and reports; `clipaudit.__version__`."""
SCHEMA_VERSION = 1
"""Of a run's files."""
CLASSNAMES = "classnames.txt"
"""The file beside the shards with the names of class numbers, as in the WebDataset sets of CLIP benchmark (there one
directory up)."""

# A row's status. Everything but OK is a failure row: its vectors are null and it is counted by reason.
OK = "ok"
MISSING_IMAGE = "missing_image"  # the sample has no member of an image's extension
UNDECODABLE = "undecodable"  # the image bytes cannot be decoded
TOO_LARGE = "too_large"  # more pixels or bytes than the limit: refused before decoding
MISSING_LABEL = "missing_label"  # a label was asked for and the sample has none
BAD_LABEL = "bad_label"  # the sample has a label, but not of the declared type
BAD_METADATA = "bad_metadata"  # the json that has the sample's label cannot be read
DUPLICATE_KEY = "duplicate_key"  # a sample of this shard already had this key
BAD_NAME = "bad_name"  # a member name that escapes the archive (absolute, "..", NUL)
NOT_FINITE = "not_finite"  # the model produced inf or nan for this image
# Notes: counted beside the statuses, because they cost no image.
FURTHER_IMAGE = "further_image"  # a sample has more images than the one that is read
TRUNCATED_IMAGE = "truncated_image"  # decoded although its end is missing, as `--allow-truncated-images` asks
STATUSES = (
    OK,
    MISSING_IMAGE,
    UNDECODABLE,
    TOO_LARGE,
    MISSING_LABEL,
    BAD_LABEL,
    BAD_METADATA,
    DUPLICATE_KEY,
    BAD_NAME,
    NOT_FINITE,
)

Label: TypeAlias = int | str | None
SampleLabel: TypeAlias = "Label | tuple[int, ...] | tuple[str, ...]"
"""What one image has: one label, or in a run whose labels are lists each of its labels once; () for none of them."""
LabelKind: TypeAlias = Literal["int", "string", "ints", "strings"]
"""Type of the label column; `ints` and `strings` for lists of them."""


def labels_in(label: SampleLabel) -> tuple[int | str, ...]:
    """Every label of one image: none for None, and for an empty list."""
    return () if label is None else label if isinstance(label, tuple) else (label,)


def name_key(name: str) -> str:
    """A name as it is compared: without case, underscores as spaces, letters with accents in one spelling of Unicode.

    >>> name_key("Cafe\u0301_Noir") == name_key("caf\u00e9 noir")
    True
    """
    return unicodedata.normalize("NFC", " ".join(name.replace("_", " ").split()).casefold())


Names: TypeAlias = str | Sequence[str]
"""One name or several; see `as_names`."""
Several: TypeAlias = list[str] | tuple[str, ...]
"""Several names, where one gives another result: a text is a sequence of texts too."""

_HEAD_LABEL = re.compile(r"L(\d{2,})H(\d{2,})")


def as_names(names: Names) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def as_paths(options: object, *names: str) -> None:
    """Make fields of a frozen dataclass texts where they hold a `pathlib.Path`; None stays None."""
    for name in names:
        value = getattr(options, name)
        if isinstance(value, os.PathLike):
            object.__setattr__(options, name, os.fspath(value))


def as_tuples(options: object, *names: str) -> None:
    """Make fields of a frozen dataclass tuples: one name, which would be taken for its letters, or several."""
    for name in names:
        value = getattr(options, name)
        if value is not None:
            object.__setattr__(options, name, as_names(value))


def head_label(layer: int, head: int) -> str:
    """Name of an attention head, `L22H05`: 0-based layer and head, at least two digits each."""
    return f"L{layer:02d}H{head:02d}"


def parse_head_label(label: str) -> tuple[int, int]:
    """(layer, head), both 0-based, of a head label. Raises ValueError when the text is not one."""
    match = _HEAD_LABEL.fullmatch(label)
    if match is None:
        raise ValueError(f"{label!r} is not a head label such as L22H05")
    return int(match[1]), int(match[2])


def attention_column(layer: int) -> str:
    """Column of a layer's summed attention contribution (all heads and the output bias), `--components`."""
    return f"attention_L{layer:02d}"


def mlp_column(layer: int) -> str:
    """Column of a layer's MLP contribution, `--components`."""
    return f"mlp_L{layer:02d}"


def self_attention_column(layer: int) -> str:
    """Column of what the class token's attention to itself adds in a layer, all heads together, `--components`."""
    return f"self_attention_L{layer:02d}"


IMAGE_PROPERTIES = (
    "brightness",
    "contrast",
    "sharpness",
    "saturation",
    "border",
    "aspect",
    "megapixels",
    "kilobytes",
    "jpeg_quality",
)
"""Fields of the column `image`, measured while decoding; `shards.image_properties` and docs/columns.md define them."""

RESIDUAL_MEANS = "residual_means"
"""Column of the residual stream's means by component, `--components`; see `TableSpec.residual_means`."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One WebDataset tar: the unit of work, retry and commit."""

    id: int
    """Position in the run's ordered shard list."""
    url: str
    """Absolute path or fsspec URL."""
    size: int
    """Bytes."""
    etag: str
    """Changes when the file changes: the store's ETag, or the modification time of a local file."""


@dataclass(kw_only=True, slots=True)
class Sample:
    """One image of a shard with its metadata; a failure has a `status` other than `ok` and no image."""

    key: str
    """WebDataset key: the member's path up to the first dot of its file name."""
    index: int
    """Position of the sample in its shard, 0-based, failures included."""
    status: str = OK
    detail: str = ""
    """Why the status is not `ok`, one sentence; the commit record holds the first few of each status."""
    image: Uint8s | None = None
    """(H, W, 3) uint8 RGB at the model's input size, before normalisation."""
    label: SampleLabel = None
    caption: str | None = None
    attributes: dict[str, str | None] = field(default_factory=dict)
    width: int | None = None
    """Pixels of the image as displayed (after EXIF orientation)."""
    height: int | None = None
    image_properties: tuple[float, ...] | None = None
    """Of `IMAGE_PROPERTIES`, nan for one that the image does not have; None for an image that was not decoded."""
    phash: int | None = None
    """64-bit perceptual hash, as a signed int64."""
    offset: int | None = None
    """Byte offset of the image's data in the tar, so that the image can be read again without a scan of the shard."""
    nbytes: int | None = None
    """Bytes of the image's data."""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """What one run's table holds beside the fixed columns."""

    heads: tuple[str, ...]
    """Labels of the stored heads in column order."""
    head_dim: int
    """Coordinates of a head (dh)."""
    embed_dim: int
    """Entries of the image embedding (D)."""
    label_kind: LabelKind | None = None
    """Type of the label column; None for a table without one."""
    attributes: tuple[str, ...] = ()
    """Names of the attribute columns."""
    caption: bool = False
    """Whether there is a caption column."""
    components: tuple[str, ...] = ()
    """Columns of `embed_dim` numbers: layers' attention sums, MLP terms and class-token self-attention
    (`--components`)."""
    image_properties: tuple[str, ...] = ()
    """Fields of the column `image`, of `IMAGE_PROPERTIES`; empty in runs of before they were measured."""
    residual_means: int = 0
    """Length of the column `residual_means`, 0 without one: s times the mean over the residual stream's entries of
    what each stored component adds to it. For each layer its heads, its self-attention and its MLP, and at the end the
    whole stream. With it the rows can be put into the published code's allocation."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.label_kind in ("ints", "strings")

    @property
    def vectors(self) -> dict[str, int]:
        """Every vector column with its length, in column order: those of `measured`, residual means."""
        means = {RESIDUAL_MEANS: self.residual_means} if self.residual_means else {}
        return {**self.measured, **means}

    @property
    def measured(self) -> dict[str, int]:
        """The vector columns that moments are taken of, with their lengths: embedding, heads, components."""
        return {
            "embedding": self.embed_dim,
            **dict.fromkeys(self.heads, self.head_dim),
            **dict.fromkeys(self.components, self.embed_dim),
        }

    @property
    def vector_bytes(self) -> int:
        """Bytes of a row's vectors as stored (float16)."""
        return 2 * sum(self.vectors.values())


def arrow_schema(spec: TableSpec) -> pa.Schema:
    """The Parquet schema of a projections file: scalar columns, then each vector as fixed_size_binary float16."""
    import pyarrow as pa

    fields = [
        pa.field("shard_id", pa.int32(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
    ]
    if spec.label_kind is not None:
        kind = pa.int64() if spec.label_kind in ("int", "ints") else pa.string()
        fields.append(pa.field("label", pa.list_(kind) if spec.multi_label else kind))
    if spec.caption:
        fields.append(pa.field("caption", pa.string()))
    if spec.attributes:
        fields.append(pa.field("attributes", pa.struct([pa.field(name, pa.string()) for name in spec.attributes])))
    fields += [
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("phash", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("nbytes", pa.int32()),
    ]
    if spec.image_properties:
        fields.append(pa.field("image", pa.struct([pa.field(name, pa.float32()) for name in spec.image_properties])))
    fields += [
        pa.field("scale", pa.float32()),
        pa.field("norm", pa.float32()),
        pa.field("remainder", pa.float32()),
    ]
    fields += [pa.field(name, pa.binary(2 * length)) for name, length in spec.vectors.items()]
    return pa.schema(fields)
