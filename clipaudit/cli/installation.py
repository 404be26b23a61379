"""What `doctor` looks at: this machine and what is installed on it, one line a subject."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from clipaudit.schema import VERSION

State: TypeAlias = Literal["ok", "note", "problem"]

_PACKAGES: Final = ("open_clip_torch", "faiss-cpu", "pyarrow", "webdataset", "scikit-learn", "numpy", "pillow")
_MODULES: Final = ("open_clip", "faiss", "pyarrow", "webdataset", "sklearn", "numpy", "PIL")
_EXTRAS: Final = (("s3", "s3fs"), ("gcs", "gcsfs"), ("fast", "simplejpeg"))
_HUB: Final = "https://huggingface.co"
_CONNECT_SECONDS: Final = 2.0
_SMALL_DISK: Final = 5e9
"""Bytes: weights of ViT-L-14 are 1.7e9, an audit of a million images 1e10."""
_SMALL_MEMORY: Final = 8e9
"""Bytes: a worker with ViT-L-14 holds about 4e9."""
_NVIDIA: Final = (Path("/proc/driver/nvidia/gpus"), Path("/dev/nvidia0"), Path("/dev/dxg"))
"""One of them is there where the kernel has an NVIDIA card (the last: in WSL)."""
_MODEL_FILES: Final = "open_clip"
"""What the names of open_clip's weights and settings begin with in the hub's repositories."""
_MODEL_NAMES: Final = ("clip", "siglip")
_CGROUP_CPUS: Final = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_MEMORY: Final = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One line of `doctor`."""

    subject: str
    """What was looked at, such as `torch`."""
    state: State
    """`ok`; `note` where something is missing that not everybody needs; `problem` where commands will fail."""
    text: str
    """What is there."""
    remedy: str = ""
    """What to do, for a note or a problem."""


def examine(folder: Path) -> Iterator[Condition]:
    """All conditions, the cheap ones first; `folder` is where runs would be written.

    Imports torch, torchvision, open_clip and the rest to see that they load, and asks the hub's host for a connection
    (at most 2 s). Writes nothing.
    """
    yield Condition(subject="clipaudit", state="ok", text=f"{VERSION}, in {Path(__file__).parents[1]}")
    yield _python()
    yield _cores()
    yield _memory()
    for subject, place in (("disk", folder), ("temporary", Path(tempfile.gettempdir()))):
        yield _disk(subject, place)
    yield _torch()
    yield _packages()
    yield _ray()
    yield _weights()
    yield _hub()
    yield _extras()


def _python() -> Condition:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if Path(sys.prefix, "conda-meta").is_dir():
        return Condition(subject="python", state="ok", text=f"{text}; conda environment {Path(sys.prefix).name}")
    if sys.prefix == sys.base_prefix:
        remedy = "python3 -m venv .venv && . .venv/bin/activate keeps its packages apart from the system's"
        return Condition(subject="python", state="note", text=f"{text}; no virtual environment", remedy=remedy)
    return Condition(subject="python", state="ok", text=text)


def _cores() -> Condition:
    cores: float = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    cores = min(cores, _container_cpus())
    return Condition(subject="cores", state="ok", text=f"{cores:g} CPU cores for this process")


def _container_cpus() -> float:
    """Cores that a container's quota allows (cgroup v2: microseconds of CPU a period); infinity without one."""
    try:
        quota, period = _CGROUP_CPUS.read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):  # no cgroup v2, or `max`
        return float("inf")


def _memory() -> Condition:
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or `max`
        total = min(total, float(_CGROUP_MEMORY.read_text()))
    text = f"{total / 1e9:.1f} GB"
    if total < _SMALL_MEMORY:
        remedy = "use a small model (ViT-B-32) and --batch-size 8, or a larger machine"
        return Condition(subject="memory", state="note", text=text, remedy=remedy)
    return Condition(subject="memory", state="ok", text=text)


def _disk(subject: str, place: Path) -> Condition:
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free in {place}"
    if free < _SMALL_DISK:
        remedy = "an audit prints what it will store before it starts; choose another --out"
        if subject == "temporary":
            remedy = "set TMPDIR to a directory with more room"
        return Condition(subject=subject, state="note", text=text, remedy=remedy)
    return Condition(subject=subject, state="ok", text=text)


def _torch() -> Condition:
    """torch, torchvision and the accelerator: a torchvision of another build than torch's fails when it is imported."""
    try:
        import torch
        import torchvision  # noqa: F401 - whether it loads is what is asked
    except (ImportError, RuntimeError, OSError) as error:
        remedy = (
            "install the two together, from one index: pip install --force-reinstall torch torchvision"
            " (for CPUs: --index-url https://download.pytorch.org/whl/cpu)"
        )
        text = f"torch {_version('torch')}, torchvision {_version('torchvision')}: {_first_line(error)}"
        return Condition(subject="torch", state="problem", text=text, remedy=remedy)
    text = f"torch {torch.__version__}, torchvision {_version('torchvision')}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Condition(subject="torch", state="ok", text=f"{text}; {len(names)} GPU: {', '.join(sorted(set(names)))}")
    if torch.backends.mps.is_available():
        return Condition(subject="torch", state="ok", text=f"{text}; Apple GPU (--device mps)")
    text += f" (built for CUDA {torch.version.cuda})" if torch.version.cuda else ""
    if any(path.exists() for path in _NVIDIA):
        return _unused_card(text, torch.version.cuda)
    remedy = "a ViT-B-32 audits about 20 images a second on two cores; use --precision int8, or a machine with a GPU"
    return Condition(subject="torch", state="note", text=f"{text}; no GPU", remedy=remedy)


def _unused_card(text: str, cuda: str | None) -> Condition:
    """An NVIDIA card that this torch does not use: it was built for CPUs (`cuda` None), or the driver is too old."""
    if cuda is None:
        text += ", built for CPUs, beside an NVIDIA card"
        remedy = "install both for CUDA: pip install --force-reinstall torch torchvision"
        remedy += " (from https://pypi.org/simple, or an index that https://pytorch.org names)"
    else:
        text += "; an NVIDIA card that it cannot use"
        remedy = f"see that nvidia-smi runs here and its driver knows CUDA {cuda}; in a container give it the GPU"
    return Condition(subject="torch", state="note", text=text, remedy=remedy)


def _packages() -> Condition:
    broken = {name: error for name, module in zip(_PACKAGES, _MODULES, strict=True) if (error := _import(module))}
    if broken:
        text = "; ".join(f"{name} {_version(name)}: {error}" for name, error in broken.items())
        remedy = f"pip install --force-reinstall {' '.join(broken)}"
        return Condition(subject="packages", state="problem", text=text, remedy=remedy)
    text = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return Condition(subject="packages", state="ok", text=text)


def _ray() -> Condition:
    """Ray's version, and the one setting that makes clients fail without a word: a token that only one side uses."""
    if _version("ray") == "missing":
        remedy = "pip install 'ray[default]', or --engine local"
        return Condition(subject="ray", state="problem", text="missing", remedy=remedy)
    text = f"ray {_version('ray')}"
    if address := os.environ.get("RAY_ADDRESS"):
        text += f", RAY_ADDRESS={address}"
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and os.environ.get("RAY_AUTH_MODE") != "token":
        remedy = "export RAY_AUTH_MODE=token for head, workers and clients alike (docs/cluster.md)"
        return Condition(
            subject="ray", state="note", text=f"{text}; {token} turns token authentication on", remedy=remedy
        )
    return Condition(subject="ray", state="ok", text=text)


def _weights() -> Condition:
    """Cached weights that open_clip reads: by their files, or by the repository's name."""
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError as error:
        remedy = "pip install --force-reinstall huggingface_hub: weights of the hub are downloaded and found by it"
        return Condition(subject="weights", state="problem", text=_first_line(error), remedy=remedy)
    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda repository: repository.repo_id)
    except CacheNotFound:
        repositories = []
    models = [
        repository
        for repository in repositories
        if any(name in repository.repo_id.lower() for name in _MODEL_NAMES)
        or any(file.file_name.startswith(_MODEL_FILES) for revision in repository.revisions for file in revision.files)
    ]
    if not models:
        remedy = "none is needed for --model demo; others are downloaded once, when they are first named"
        return Condition(subject="weights", state="note", text="no CLIP weights in the hub's cache", remedy=remedy)
    text = ", ".join(f"{model.repo_id} ({model.size_on_disk / 1e9:.1f} GB)" for model in models)
    return Condition(subject="weights", state="ok", text=text)


def _hub() -> Condition:
    """Whether the hub, or the mirror of HF_ENDPOINT, can be reached; where a proxy is set, whether that can be."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return Condition(
            subject="hub", state="note", text="HF_HUB_OFFLINE is set", remedy="unset it to download weights"
        )
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or _HUB)
    host = hub.hostname or ""
    proxy = None if proxy_bypass(host) else getproxies().get(hub.scheme)
    place = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else hub
    port = place.port or (443 if place.scheme == "https" else 80)
    # credentials of a proxy's address are in neither
    text = f"the proxy {place.hostname}:{port} to {host}" if proxy else host
    try:
        socket.create_connection((place.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        remedy = "give --pretrained FILE or --model DIR, fetched elsewhere; a mirror is named by HF_ENDPOINT"
        remedy += ", a proxy by HTTPS_PROXY"
        return Condition(subject="hub", state="note", text=f"{text} cannot be reached: {error}", remedy=remedy)
    return Condition(subject="hub", state="ok", text=f"{text} can be reached")


def _extras() -> Condition:
    missing = [(extra, package) for extra, package in _EXTRAS if _version(package) == "missing"]
    there = [
        f"{extra} ({package} {_version(package)})" for extra, package in _EXTRAS if (extra, package) not in missing
    ]
    text = ", ".join([*there, *(f"{extra} missing" for extra, _ in missing)])
    if missing:
        packages = " ".join(package for _, package in missing)
        remedy = f"pip install {packages}: s3 and gcs are for object stores, fast for JPEGs"
        return Condition(subject="extras", state="note", text=text, remedy=remedy)
    return Condition(subject="extras", state="ok", text=text)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _import(module: str, load: Callable[[str], object] = importlib.import_module) -> str:
    """Why the module does not load, in one line; empty when it does."""
    try:
        load(module)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:  # what a binary of another build raises
        return _first_line(error)
    return ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
