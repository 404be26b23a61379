"""docs/reproduction.md cannot rot: its packers pack stand-ins of the data sets, and its commands run on them."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from clipaudit.cli.app import app
from tests.commands import ROOT

PAGE = (ROOT / "docs/reproduction.md").read_text()
RNG = np.random.default_rng(0)

STAND_INS = {
    r"--model \S+ --pretrained \S+": "--model demo",
    r"(?<=evaluate waterbirds) (.*)": r" \1 --head L04H00,L05H01 --templates single",
    r"(?<=clipaudit ablate) (.*)": r" \1 --templates single",
    r"--heads \S+": "--heads L04H00,L05H01",
    r"--role location": "--heads L05H00",  # roles take twenty seconds; test_heads.py asks for them
    r"--templates imagenet": "--templates single",
    r"--layers 0-19": "--layers 0-1",
    r"--layers 20-23 --reconstruct 60": "--layers 4-5 --reconstruct 6",
    r"--study texts": "--study texts --seeds 1",
    r"--random 1000": "--random 10",
    r"--side 512": "--side 64",
    r"--precision fp16 --batch-size 256": "--batch-size 8",
    r"(?<=clipaudit audit) (.*)": r" \1 --engine local",
}
"""What stands in for weights, data and patience; everything else of a command is as on the page."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("clipaudit ")]


OTHERS = [(ROOT / "docs" / name).read_text() for name in ("localize.md", "questions.md")]
EVERY = [*commands(PAGE), *(line for page in OTHERS for line in commands(page))]


@pytest.mark.parametrize("line", EVERY)
def test_a_command_of_the_docs_parses(line):
    command, words = get_command(app), shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    assert command.make_context(command.name, words).params


def test_the_pages_heads_are_the_published_ones():
    from clipaudit.localize.evaluation.waterbirds import PUBLISHED_HEADS

    named = re.findall(r"--heads (\S+)", PAGE)
    assert [tuple(heads.split(",")) for heads in named] == [PUBLISHED_HEADS["ViT-L-14"]]
    assert [len(heads) for heads in PUBLISHED_HEADS.values()] == [7, 15, 9]


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 255, shape, dtype=np.uint8)


def save(path: str, array: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def mask(numbers: int) -> np.ndarray:
    return np.repeat([[0] * 10 + [1] * 15 + [numbers - 1] * 15], 30, axis=0).astype(np.uint8)


def write_data_sets() -> None:
    """The data sets of the page, a few pictures each, as their owners lay them out."""
    h5py = pytest.importorskip("h5py", reason="ImageNet-Segmentation comes as HDF5")
    with h5py.File("gtsegs_ijcv.mat", "w") as file:
        images = [file.create_dataset(f"i{n}", data=pixels(30, 40, 3).transpose(2, 1, 0)).ref for n in range(6)]
        truths = []
        for n in range(6):
            truth = file.create_dataset(f"t{n}", data=(mask(2) if n else np.zeros((30, 40), np.uint8)).T).ref
            cell = file.create_dataset(f"c{n}", (1, 1), dtype=h5py.ref_dtype)
            cell[0, 0] = truth
            truths.append(cell.ref)
        for name, refs in (("value/img", images), ("value/gt", truths)):
            table = file.create_dataset(name, (6, 1), dtype=h5py.ref_dtype)
            table[:, 0] = refs
    birds, rows = "waterbird_complete95_forest2water2", ["img_id,img_filename,y,split,place,place_filename"]
    for n in range(48):
        save(f"{birds}/a/{n}.jpg", pixels(30, 40, 3))
        rows.append(f"{n},a/{n}.jpg,{n % 2},{2 if n > 3 else 0},{n // 2 % 2},x")
    Path(birds, "metadata.csv").write_text("\n".join(rows) + "\n")
    for n in range(24):
        save(f"val/n0144{n % 3}/{n}.JPEG", pixels(30, 40, 3))
    for n in range(3):
        save(f"VOC2010/JPEGImages/{n}.jpg", pixels(30, 40, 3))
        save(f"VOC2010/SegmentationClassContext/{n}.png", mask(3))
        save(f"coco/val2017/{n}.jpg", pixels(30, 40, 3))
        save(f"coco/stuff/{n}_labelTrainIds.png", mask(3))
        save(f"leftImg8bit/val/bonn/{n}_leftImg8bit.png", pixels(30, 60, 3))
        save(f"gtFine/val/bonn/{n}_gtFine_labelTrainIds.png", np.resize(mask(3), (30, 60)))
        save(f"NUS-WIDE/Flickr/sky/{n}.jpg", pixels(30, 40, 3))
    Path("NUS-WIDE/ImageList").mkdir()
    Path("NUS-WIDE/ImageList/TestImagelist.txt").write_text("sky\\0.jpg\nsky\\1.jpg\nsky\\2.jpg\n")
    Path("NUS-WIDE/Groundtruth/TrainTestLabels").mkdir(parents=True)
    for name, truth in {"fish": "1\n0\n0\n", "snow": "0\n1\n1\n"}.items():
        Path(f"NUS-WIDE/Groundtruth/TrainTestLabels/Labels_{name}_Test.txt").write_text(truth)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A directory with every data set's shards, made by the page's own code, and the files that its commands name."""
    directory = tmp_path_factory.mktemp("reproduction")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        write_data_sets()
        scope: dict[str, object] = {}
        for block in blocks(PAGE, "python"):
            exec(compile(block, "docs/reproduction.md", "exec"), scope)
        names = Path("imagenet.txt").read_text().splitlines()
        assert len(names) == 1000
        Path("imagenet.txt").write_text("\n".join(names[:3]) + "\n")  # as many classes as the stand-in has
        for name in ("context59", "cocostuff171", "cityscapes19"):
            Path(f"{name}.txt").write_text("0\tfish\n1\tsnow\n2\ta city\n")
        Path("image_descriptions_general.txt").write_text("\n".join(f"a photo of {n} fish" for n in range(40)) + "\n")
    return directory


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def test_the_packers_pack(packed):
    segmented = members(packed / "gtsegs-000000.tar")
    assert len(segmented) == 12
    with Image.open(io.BytesIO(segmented["00001.png"])) as image:
        assert (image.size, image.mode) == ((40, 30), "RGB")
    with Image.open(io.BytesIO(segmented["00001.seg.png"])) as image:
        assert np.array_equal(np.asarray(image) > 0, mask(2) > 0)
    birds = members(packed / "waterbirds-test-000000.tar")
    assert len(birds) == 44 * 3
    assert (birds["7.cls"], birds["7.json"]) == (b"1", b'{"place": "water"}')
    assert members(packed / "imagenet-val-000000.tar")["5.cls"] == b"2"
    assert members(packed / "cityscapes-000000.tar").keys() == {
        f"{n}.{e}" for n in range(3) for e in ("png", "seg.png")
    }
    assert members(packed / "nuswide-000000.tar")["000001.json"] == b'{"objects": ["snow"]}'


@pytest.mark.full
def test_the_commands_run(packed, monkeypatch, capfd):
    monkeypatch.chdir(packed)
    for line in commands(PAGE):
        for pattern, stand_in in STAND_INS.items():
            line = re.sub(pattern, stand_in, line)
        code = get_command(app)(shlex.split(line)[1:], standalone_mode=False)
        printed = capfd.readouterr()
        assert not code, f"{line}\n{printed.err}"
        if "evaluate" in line or "ablate" in line:
            figures = re.findall(r"\d+\.\d", printed.out)
            assert figures, f"{line}\n{printed.out}"
