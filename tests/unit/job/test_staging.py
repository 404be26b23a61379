"""Batches to the device and back: the same numbers in the same order, and an accelerator that never waits too late."""

import contextlib

import numpy as np
import pytest

from clipaudit.config import DecodeConfig
from tests.make_shards import jpeg_bytes, photo, png_bytes


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, PreprocessCfg, image_transform_v2, Staging, Normaliser, ImageDecoder, perceptual_hash, CPU

    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from clipaudit.job.staging import Staging
    from clipaudit.model.loading import Normaliser
    from clipaudit.shards.decoder import ImageDecoder, perceptual_hash

    CPU = torch.device("cpu")


def decoder(resize="host"):
    return ImageDecoder(image_transform_v2(PreprocessCfg(size=32), is_train=False), DecodeConfig(resize=resize))


def pictures(count, seed=0, side=32):
    return [photo(side, side, seed * 100 + n) for n in range(count)]


def echo(images):
    return {"pixels": images, "mean": images.mean(dim=(1, 2, 3))}


class Recorder:
    """torch.cuda's streams and events on the CPU: everything happens at once, and the calls are written down."""

    def __init__(self):
        self.calls = []
        self.current = Stream(self, "compute")
        names = iter(("in", "out"))
        self.Stream = lambda device: Stream(self, next(names))
        self.Event = lambda enable_timing=False: Event(self)

    def current_stream(self, device):
        return self.current

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


class Stream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_event(self, event):
        self.cuda.calls.append((self.name, "waits for", event.recorded))

    def wait_stream(self, other):
        self.cuda.calls.append((self.name, "waits for", other.name))


class Event:
    def __init__(self, cuda):
        self.cuda, self.recorded = cuda, None

    def record(self, stream):
        self.recorded = stream.name

    def synchronize(self):
        self.cuda.calls.append(("host", "waits for", self.recorded))

    def elapsed_time(self, other):
        return 1500.0


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)  # known to CUDA tensors alone
    return Recorder()


@pytest.mark.parametrize("streams", [False, True])
def test_results_are_those_of_the_batch(streams, recorder):
    options = {"cuda": recorder} if streams else {}
    staging, made = Staging(decoder(), CPU, echo, **options), decoder()
    normalise = Normaliser(made.mean, made.std, CPU)
    batches = [pictures(count, seed) for seed, count in enumerate((4, 2, 7, 1, 4))]
    before = None
    for number, images in enumerate(batches):
        following = staging.submit(images)
        for taken, batch in ((number - 1, before),) if before else ():
            results = batch.wait()
            expected = normalise(batches[taken])
            assert np.array_equal(results["pixels"], expected.numpy())
            assert np.array_equal(results["mean"], expected.mean(dim=(1, 2, 3)).numpy())
            assert batch.seconds == 1.5 if streams else batch.seconds > 0
            assert batch.hashes() == []
        before = following


def test_the_order_of_waits(recorder):
    staging = Staging(decoder(), CPU, echo, cuda=recorder)

    def compute(images):
        recorder.calls.append(("computes on", recorder.current.name))
        return {"mean": images.mean(dim=(1, 2, 3))}

    staging._compute = compute
    first = staging.submit(pictures(2))
    # Nothing on the host but for a buffer that nothing used before; the device waits for its images, results for it.
    assert recorder.calls == [
        ("host", "waits for", None),
        ("compute", "waits for", "in"),
        ("computes on", "compute"),
        ("out", "waits for", "compute"),
    ]
    recorder.calls.clear()
    staging.submit(pictures(2))
    assert recorder.calls[0] == ("host", "waits for", None), "the second buffer is another"
    recorder.calls.clear()
    staging.submit(pictures(2))
    assert recorder.calls[0] == ("host", "waits for", "in"), "a buffer is filled anew only when its copy is done"
    recorder.calls.clear()
    first.wait()
    assert recorder.calls == [("host", "waits for", "out")]


@pytest.mark.parametrize("streams", [False, True])
def test_images_that_the_device_resizes(streams, recorder):
    files = [jpeg_bytes(90, 61), jpeg_bytes(32, 32), png_bytes(40, 200), jpeg_bytes(50, 70, mode="L"), jpeg_bytes(9, 7)]
    host, device = decoder(), decoder("device")
    on_host, raw = [host(data) for data in files], [device(data) for data in files]
    assert [image.phash is None for image in raw] == [True, False, True, True, True], "32 x 32 needs no resizing"
    assert raw[0].image.shape == (61, 90, 3)
    options = {"cuda": recorder} if streams else {}
    batch = Staging(device, CPU, echo, **options).submit([image.image for image in raw])
    expected = Staging(host, CPU, echo).submit([image.image for image in on_host])
    assert np.array_equal(batch.wait()["pixels"], expected.wait()["pixels"]), "on a CPU it is the same code"
    assert batch.hashes() == [image.phash for image, late in zip(on_host, raw, strict=True) if late.phash is None]
    assert on_host[1].phash == raw[1].phash == perceptual_hash(raw[1].image)


def test_large_images_are_resized_on_the_host(monkeypatch):
    monkeypatch.setattr("clipaudit.shards.decoder.DEVICE_PIXELS", 60 * 60)
    assert decoder("device")(jpeg_bytes(60, 61)).image.shape == (32, 32, 3)
    assert decoder("device")(jpeg_bytes(60, 60)).image.shape == (60, 60, 3)


@pytest.mark.parametrize("resize", ["host", "device"])
def test_on_a_cuda_device_the_numbers_are_the_cpus(resize):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: real streams and pinned memory")
    made, device = decoder(resize), torch.device("cuda")
    staging, reference = Staging(made, device, echo), Staging(decoder(), CPU, echo)
    batches = [[jpeg_bytes(64 + n + seed, 50, seed=n) for n in range(16)] for seed in range(6)]
    waiting = []
    for files in batches:
        waiting.append((files, staging.submit([made(data).image for data in files])))
        if len(waiting) == 2:
            files, batch = waiting.pop(0)
            expected = reference.submit([decoder()(data).image for data in files]).wait()["pixels"]
            assert np.abs(batch.wait()["pixels"] - expected).max() <= (0.04 if resize == "device" else 1e-6)
            assert batch.seconds > 0
