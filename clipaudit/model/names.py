"""Which model a user names: open_clip's names and tags, checkpoints, directories, and the spellings of other places."""

from __future__ import annotations

import difflib
import re
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import huggingface_hub.constants
import open_clip

from clipaudit.config import ModelConfig
from clipaudit.errors import UnknownModel, UsageError
from clipaudit.model.bundled import unpack

LOCAL: Final = "local-dir:"
HUB: Final = "hf-hub:"
SCHEMES: Final = (LOCAL, HUB)
_RANDOM: Final = re.compile(r"random-seed-(\d+)")
_HUB_CONFIG: Final = "open_clip_config.json"
_WEIGHT_FILES: Final = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")
_CONNECT_SECONDS: Final = 5.0
# transformers' names of OpenAI's models: the same weights as open_clip's tag `openai`.
_TRANSFORMERS: Final = {
    "openai/clip-vit-base-patch32": "ViT-B-32",
    "openai/clip-vit-base-patch16": "ViT-B-16",
    "openai/clip-vit-large-patch14": "ViT-L-14",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336",
}


def resolve(config: ModelConfig) -> tuple[str, str | None, int | None]:
    """(open_clip model name, weights or None, random seed or None), checked without touching the network.

    Takes other places' spellings too: `ViT-B/32`, `ViT-L/14@336px`, `vit-b-32`, `openai/clip-vit-base-patch32`,
    `laion/CLIP-ViT-B-32-laion2B-s34B-b79K`. Raises UnknownModel with the names that are close, and UsageError where
    weights are missing or have no meaning.
    """
    name, pretrained = _known(config.name), config.pretrained
    random = _RANDOM.fullmatch(pretrained or "")
    seed = int(random[1]) if random else None
    if name.startswith(LOCAL):
        _check_directory(Path(name.removeprefix(LOCAL)))
    if name.startswith(SCHEMES):
        if pretrained is not None and seed is None:
            raise UsageError(f"--pretrained {pretrained!r} has no meaning beside --model {config.name!r}: leave it out")
        return name, None, seed
    name, tag = name.rsplit(":", 1) if ":" in name else (name, None)
    pretrained = pretrained or tag
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise UsageError(
            f"--model {name} needs --pretrained: one of {_some(tags)},"
            " a checkpoint file, or random-seed-0 for untrained weights"
        )
    if seed is None and not open_clip.is_pretrained_cfg(name, pretrained) and not Path(pretrained).is_file():
        raise UnknownModel(
            f"--pretrained {pretrained!r} is neither a file nor a weight tag of {name}; its tags are {_some(tags)}"
        )
    return name, pretrained if seed is None else None, seed


def spelled(config: ModelConfig) -> str:
    """The options that name this model, for messages."""
    return f"--model {config.name}" + (f" --pretrained {config.pretrained}" if config.pretrained else "")


def require_reachable(name: str, pretrained: str | None, config: ModelConfig) -> None:
    """Raise UsageError at once where weights would have to be downloaded and their server cannot be reached.

    The hub's client tries for half a minute before it says so. Weights that have been downloaded before are in its
    cache, and nothing is asked then.
    """
    if name.startswith(LOCAL) or (pretrained is not None and Path(pretrained).is_file()):
        return
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
    else:
        repository = str(open_clip.get_pretrained_cfg(name, pretrained or "").get("hf_hub", "")).strip("/")
    parts = repository.split("/")[:2]
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    if len(parts) < 2 or (cache / f"models--{'--'.join(parts)}").is_dir():
        return
    reason = "HF_HUB_OFFLINE is set" if huggingface_hub.constants.HF_HUB_OFFLINE else _unreachable()
    if reason:
        raise UsageError(
            f"{spelled(config)} cannot be downloaded: {reason}, and {'/'.join(parts)} is not in {cache}; copy that"
            " folder from a machine that has it, or give a directory with open_clip_config.json and weights as --model"
        )


def _unreachable() -> str | None:
    """Why the hub cannot be reached, or None when it can, or when a proxy is asked instead."""
    address = urlsplit(huggingface_hub.constants.ENDPOINT)
    if _proxied(address.scheme):
        return None
    host = address.hostname or ""
    try:
        port = address.port or {"http": 80}.get(address.scheme, 443)
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return f"{host} cannot be reached from here ({error.strerror or error})"
    return None


def _proxied(scheme: str) -> bool:
    import urllib.request

    return any(name in (scheme, "all") for name in urllib.request.getproxies())


def _known(name: str) -> str:
    """open_clip's spelling of a model: its name, `NAME:TAG` where the name given says the weights too, or a scheme.

    Raises UnknownModel.
    """
    if name == "demo":
        return f"{LOCAL}{unpack()}"
    if name.startswith(SCHEMES):
        return name
    if (Path(name) / _HUB_CONFIG).is_file():
        return f"{LOCAL}{name}"
    if Path(name).suffix.lower() in _WEIGHT_FILES:
        raise _weights_alone(name)
    if name.lower() in _TRANSFORMERS:
        return f"{_TRANSFORMERS[name.lower()]}:openai"
    by_lower = {known.lower(): known for known in open_clip.list_models()}
    plain = re.sub(r"@(\d+)px$", r"-\1", name).replace("/", "-").lower()
    if plain in by_lower:
        return str(by_lower[plain])
    if "/" in name:
        for known, tag in open_clip.list_pretrained():
            if str(open_clip.get_pretrained_cfg(known, tag).get("hf_hub", "")).strip("/").lower() == name.lower():
                return f"{known}:{tag}"
    raise _unknown(name, plain, by_lower)


def _unknown(name: str, plain: str, by_lower: dict[str, str]) -> UnknownModel:
    if Path(name).exists():
        return UnknownModel(f"--model {name!r} is not an open_clip directory: it has no {_HUB_CONFIG}")
    close = [by_lower[match] for match in difflib.get_close_matches(plain, by_lower, n=3, cutoff=0.5)]
    hints = [f"did you mean {', '.join(close)}?" if close else "see open_clip.list_models()"]
    if name.count("/") == 1 and not name.startswith(("/", ".", "~")):
        hints.append(f"a repository of the hub is spelled hf-hub:{name}")
    if "/" in name:
        hints.append(f"as a directory it would have an {_HUB_CONFIG}")
    return UnknownModel(f"--model {name!r} is not a model that open_clip knows; {'; '.join(hints)}")


def _weights_alone(name: str) -> UnknownModel:
    """For a weight file given as --model."""
    folder = Path(name).parent
    if (folder / _HUB_CONFIG).is_file():
        return UnknownModel(f"--model {name} is a weight file: give its directory, --model {folder}")
    return UnknownModel(
        f"--model {name} is a weight file, which does not say which model it is of: --model ViT-B-32 (its architecture)"
        f" --pretrained {name}"
    )


def _check_directory(path: Path) -> None:
    if not (path / _HUB_CONFIG).is_file():
        raise UnknownModel(f"--model {str(path)!r} is not an open_clip directory: it has no {_HUB_CONFIG}")


def _some(names: list[str], most: int = 6) -> str:
    listed = ", ".join(names[:most])
    return f"{listed} and {len(names) - most} more" if len(names) > most else listed or "(none)"
