"""Which CLIP model: open_clip name and tag, checkpoint, directory, `hf-hub:` or the demo, ready for inference."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from clipaudit.config import ModelConfig
from clipaudit.errors import UsageError
from clipaudit.model.bundled import CONFIG
from clipaudit.model.checkpoints import mended_copy, mismatch, not_finite, weight_file
from clipaudit.model.names import LOCAL, SCHEMES, require_reachable, resolve, spelled
from clipaudit.model.preprocessing import chosen

# What `torch.load(weights_only=True)` raises; no module of ours imports the one that defines it.
_MORE_THAN_TENSORS = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A CLIP model in evaluation mode with its own preprocessing."""

    model: torch.nn.Module = field(repr=False)
    """open_clip `CLIP` or `CustomTextCLIP`, float32, on `device`."""
    transform: Any = field(repr=False)
    """The model's validation transform, a torchvision `Compose`: PIL image -> normalised (3, H, W) float32."""
    device: torch.device
    fingerprint: str
    """Hash of every weight and of the preprocessing; two models with the same fingerprint give the same vectors."""
    description: dict[str, Any]
    """Plain facts for run.json: name, pretrained, preprocessing, parameters."""


def load_model(model: ModelConfig | str, pretrained: str | None = None, *, device: str = "auto") -> LoadedModel:
    """Load a CLIP model, ready for inference on its device, with its own preprocessing.

    Args:
        model: open_clip model name, `local-dir:PATH` or a directory, `hf-hub:ORG/NAME`, or `demo`; or a ModelConfig,
            which says the rest too.
        pretrained: open_clip weight tag, checkpoint file, or `random-seed-N` for untrained weights drawn from seed N.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        UnknownModel: a name, tag, checkpoint or directory that does not exist.
        UsageError: weights that cannot be downloaded or do not fit the architecture, or a device that is not there.

    >>> loaded = load_model("demo")
    >>> image = loaded.transform(PIL.Image.open("photo.jpg"))[None]  # (1, 3, 64, 64)
    >>> loaded.model.encode_image(image).shape
    torch.Size([1, 128])
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig(name=model, pretrained=pretrained, device=device)
    name, pretrained, seed = resolve(config)
    place = resolve_device(config.device)
    settings = chosen(name, pretrained, config)
    if seed is None:
        require_reachable(name, pretrained, config)
    with quiet_open_clip(), torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = _network(name, pretrained, settings, config, trained=seed is None)
    network = network.eval().requires_grad_(False)
    if bad := list(not_finite(network)):
        raise UsageError(
            f"{spelled(config)} has weights that are not finite numbers, in {bad[0]}"
            f"{f' and {len(bad) - 1} others' if len(bad) > 1 else ''}: the training diverged, or the file is damaged"
        )
    preprocess = dict(network.visual.preprocess_cfg)
    digest = _weights_digest(network, preprocess)
    return LoadedModel(
        model=network.to(place),
        transform=image_transform_v2(PreprocessCfg(**preprocess), is_train=False),
        device=place,
        fingerprint=digest,
        description={
            "name": config.name,
            "pretrained": config.pretrained,
            "fingerprint": digest,
            "preprocess": json.loads(json.dumps(preprocess)),
            "parameters": sum(p.numel() for p in network.parameters()),
        },
    )


def _network(name: str, pretrained: str | None, settings: dict[str, Any], config: ModelConfig, *, trained: bool) -> Any:  # noqa: ANN401 - open_clip's models share no type
    """The model as open_clip makes it; from a mended copy where the weight file does not load as it is."""

    def create(name: str, pretrained: str | None) -> Any:  # noqa: ANN401
        return open_clip.create_model(
            name,
            pretrained,
            precision="fp32",
            load_weights=trained,
            force_quick_gelu=_wants_quick_gelu(name, pretrained),
            force_preprocess_cfg=settings,
            pretrained_image=False,
            pretrained_text=False,
            require_pretrained=trained,
        )

    try:
        try:
            return create(name, pretrained)
        except RuntimeError:
            source = weight_file(name, pretrained) if trained else None
            if source is None:
                raise
            with tempfile.TemporaryDirectory(prefix="clipaudit-") as folder:
                copy = mended_copy(source, Path(folder))
                if copy is None:
                    raise
                if pretrained is not None:
                    return create(name, str(copy))
                shutil.copy(Path(name.removeprefix(LOCAL), CONFIG), folder)
                return create(f"{LOCAL}{folder}", None)
    except _MORE_THAN_TENSORS as error:
        raise UsageError(
            f"{spelled(config)} cannot be loaded: the checkpoint holds more than tensors, and code in a checkpoint"
            " is never run; save its tensors as safetensors"
        ) from error
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, EOFError) as error:
        reason = mismatch(error)
        sentence = f"its weights do not fit the model: {reason}" if reason else first_line(error)
        raise UsageError(f"{spelled(config)} cannot be loaded: {sentence}") from error


class Normaliser:
    """Turns 8-bit pixels into the model's normalised input, on the model's device (4 times fewer bytes to move)."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        # ToTensor divides by 255 and Normalize subtracts and divides: the same, as one multiply-add.
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self._device = device

    def __call__(self, images: list[npt.NDArray[np.uint8]]) -> torch.Tensor:
        """B arrays (H, W, 3) uint8 RGB -> (B, 3, H, W) float32, normalised."""
        pixels = torch.from_numpy(np.stack(images)).to(self._device)
        return self.tensor(pixels.permute(0, 3, 1, 2))  # (B, H, W, 3) -> (B, 3, H, W)

    def tensor(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 on the device -> (B, 3, H, W) float32, normalised, in the same memory format: decoded
        images come channels last, and the patch embedding takes a third less time for that."""
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` -> a device that exists; UsageError otherwise."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name!r} is not a device: use auto, cpu, cuda, cuda:N or mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise UsageError(f"--device {name}: this machine has no such device")
    return device


def _wants_quick_gelu(name: str, pretrained: str | None) -> bool:
    """Whether the weights were trained with QuickGELU, whatever the architecture's name says.

    open_clip only warns when tag and name disagree (`ViT-B-32` with `openai`), and every vector is then slightly wrong.
    """
    if pretrained is None or name.startswith(SCHEMES):
        return False
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    trained, built = bool(tag.get("quick_gelu")), bool((open_clip.get_model_config(name) or {}).get("quick_gelu"))
    if tag and built and not trained:
        raise UsageError(f"--pretrained {pretrained} was not trained with QuickGELU: use the model without -quickgelu")
    return trained


def _weights_digest(model: torch.nn.Module, preprocess: dict[str, Any]) -> str:
    """Hex sha256 (first 16 digits) over every tensor of the state dict and the preprocessing."""
    digest = hashlib.sha256(json.dumps(preprocess, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def quiet_open_clip() -> Iterator[None]:
    """Keep open_clip's root-logger remarks off a user's terminal; what matters is raised as an error above."""
    root = logging.getLogger()
    level, handler = root.level, logging.NullHandler()
    root.addHandler(handler)  # without any handler logging.warning() would install one for good
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(timm|open_clip|huggingface_hub)\..*")
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def first_line(error: BaseException) -> str:
    """An error's first line, or its type's name when it says nothing."""
    return str(error).strip().split("\n", 1)[0].rstrip(". ") or type(error).__name__
