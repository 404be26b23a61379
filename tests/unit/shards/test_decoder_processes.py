"""Decoding in other processes: the same results, and one image at most is lost to a process that dies."""

import gc
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from clipaudit.config import DecodeConfig, FieldsConfig
from clipaudit.shards.fields import parse_fields
from clipaudit.shards.listing import expand
from tests.commands import ROOT
from tests.make_shards import huge_png_bytes, jpeg_bytes, png_bytes, webp_bytes, write_members


@pytest.fixture(scope="module", autouse=True)
def _imports():
    import_heavy_modules()


def import_heavy_modules():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global PreprocessCfg, image_transform_v2, ImageDecoder, ImageTooLarge, ImageUndecodable, ProcessDecoder
    global ShardFeed

    from open_clip.transform import PreprocessCfg, image_transform_v2

    from clipaudit.shards.decoder import ImageDecoder, ImageTooLarge, ImageUndecodable
    from clipaudit.shards.decoder_processes import ProcessDecoder
    from clipaudit.shards.feed import ShardFeed


# A decoder that images can harm: it ends, hangs or takes no notice, as their bytes say.
FRAGILE = """
import os, signal, sys, time
from clipaudit.shards.decoder_child import main
def wrap(decode):
    def fragile(data):
        if data.startswith(b"KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        if data.startswith(b"HANG"):
            time.sleep(600)
        if data.startswith(b"EXIT"):
            os._exit(3)
        if data.startswith(b"BUG"):
            raise ZeroDivisionError("a bug")
        return decode(data)
    return fragile
main(sys.argv[1:], wrap)
"""


def here(config):
    return ImageDecoder(image_transform_v2(PreprocessCfg(size=32), is_train=False), config)


def elsewhere(config=None, program=None):
    config = config or DecodeConfig(decode_processes=1)
    options = {} if program is None else {"program": (sys.executable, "-c", program)}
    return ProcessDecoder(here(config), {"size": 32}, config, **options)


@pytest.fixture(scope="module")
def processes():
    made = elsewhere(DecodeConfig(decode_processes=2, max_image_pixels=10_000, max_decode_seconds=2), FRAGILE)
    yield made
    made.close()


def decoders(made):
    """Its decoding processes, and the one that starts them."""
    nursery = psutil.Process(made._fork_server._process.pid)
    return [*nursery.children(), nursery]


def test_results_are_those_of_this_process(processes):
    files = [jpeg_bytes(90, 61), png_bytes(40, 90), webp_bytes(50, 50), jpeg_bytes(64, 20, mode="CMYK")] * 5
    decode = here(DecodeConfig())
    with ThreadPoolExecutor(2) as pool:
        for decoded, data in zip(pool.map(processes, files), files, strict=True):
            expected = decode(data)
            assert np.array_equal(decoded.image, expected.image)
            assert (decoded.width, decoded.height, decoded.phash) == (expected.width, expected.height, expected.phash)


def test_limits_and_faults_are_those_of_this_process(processes):
    with pytest.raises(ImageTooLarge, match="100 x 101 pixels are more than the limit of 10000"):
        processes(jpeg_bytes(100, 101))
    with pytest.raises(ImageTooLarge, match="more than the limit"):
        processes(huge_png_bytes())
    with pytest.raises(ImageUndecodable, match="it is a GIF that cannot be read"):
        processes(b"GIF89a")
    with pytest.raises(ImageUndecodable, match="it is empty"):
        processes(b"")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"KILL", "its decoder was ended by SIGKILL, 2 times"),
        (b"EXIT", "its decoder ended with status 3, 2 times"),
        pytest.param(b"HANG", r"its decoder took more than 2 s, 2 times", marks=pytest.mark.full),
    ],
)
def test_an_image_that_ends_its_decoder_is_undecodable_and_the_next_is_not(processes, data, why):
    with pytest.raises(ImageUndecodable, match=why):
        processes(data)
    assert processes(jpeg_bytes(40, 40)).width == 40


@pytest.mark.full
def test_a_bug_of_the_decoder_is_no_fault_of_the_image(capfd):
    made = elsewhere(program=FRAGILE)
    with pytest.raises(RuntimeError, match="a decoding process failed"):
        made(b"BUG")
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err
    made.close()


def test_a_process_that_somebody_else_kills_costs_nothing(processes):
    processes(jpeg_bytes(40, 40))
    for child in decoders(processes)[:-1]:
        os.kill(child.pid, signal.SIGKILL)
    with ThreadPoolExecutor(2) as pool:
        assert [image.width for image in pool.map(processes, [jpeg_bytes(40, 40)] * 6)] == [40] * 6


def test_a_shard_loses_the_one_image_and_nothing_else(tmp_path, processes):
    good = [jpeg_bytes(50, 40, seed=n) for n in range(12)]
    files = [*good[:5], b"KILL", *good[5:]]
    path = write_members(tmp_path / "a.tar", ((f"{n:03d}.jpg", data) for n, data in enumerate(files)))
    with ShardFeed(
        expand([str(path)])[0], parse_fields(FieldsConfig()), processes, DecodeConfig(decode_processes=2)
    ) as feed:
        samples = list(feed)
    assert [sample.status for sample in samples] == ["ok"] * 5 + ["undecodable"] + ["ok"] * 7
    assert feed.report.details == {"undecodable": ["005: its decoder was ended by SIGKILL, 2 times"]}
    expected = [here(DecodeConfig())(data).image for data in good]
    images = [sample.image for sample in samples if sample.image is not None]
    assert all(np.array_equal(image, other) for image, other in zip(images, expected, strict=True))


def test_a_program_that_cannot_start_is_no_fault_of_the_image():
    with pytest.raises(RuntimeError, match="the process that starts decoders ended with status 7"):
        elsewhere(program="raise SystemExit(7)")


def test_a_program_that_does_not_answer_is_ended(monkeypatch):
    monkeypatch.setattr("clipaudit.shards.decoder_processes._START_SECONDS", 0.5)
    with pytest.raises(RuntimeError, match="the process that starts decoders ended with status -9"):
        elsewhere(program="import time; time.sleep(600)")


@pytest.mark.full
def test_images_that_the_device_resizes_come_whole_and_processes_end_with_their_owner():
    config = DecodeConfig(decode_processes=1, resize="device")
    made = elsewhere(config)
    decoded = made(jpeg_bytes(300, 200, quality=95))
    assert decoded.image.shape == (200, 300, 3)
    assert decoded.phash is None
    assert np.array_equal(decoded.image, here(config)(jpeg_bytes(300, 200, quality=95)).image)
    running = decoders(made)
    assert len(running) == 2
    close = made.close
    del made
    gc.collect()
    assert not psutil.wait_procs(running, timeout=120)[1]
    close()


@pytest.mark.full
def test_processes_end_when_their_owner_is_killed():
    script = f"""
import time, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.unit.shards import test_decoder_processes as tests
tests.import_heavy_modules()
made = tests.elsewhere()
made(tests.jpeg_bytes(40, 40))
print("ready", flush=True)
time.sleep(600)
"""
    owner = psutil.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"ready\n"
    running = owner.children(recursive=True)
    assert len(running) == 2
    owner.kill()
    owner.communicate()
    end = time.monotonic() + 120
    # Orphans may stay as zombies where nobody reaps them.
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in running):
        assert time.monotonic() < end
        time.sleep(0.05)
