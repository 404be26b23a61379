"""`clipaudit report` on data that are not as they should be: one clear sentence or an inconclusive report, no pass."""

import json
import threading
from pathlib import Path

import pytest
import tinyhtml5.parser

from clipaudit.__main__ import main
from clipaudit.cli.console.job import ConsoleReporter
from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
from clipaudit.job.driver import run_job
from clipaudit.job.engine_local import LocalPool
from tests.make_shards import jpeg_bytes, write_shard
from tests.worded_models import write_worded_model

IMAGES = 120
ATTRIBUTES = ("json:place", "json:constant", "json:number")
HOSTILE = "<script>alert(1)<\\script>&\"'{{ 7*7 }}<img src=x onerror=alert(2)>"
QUICK = ("--templates", "single", "--no-pictures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards whose labels are good, missing, of one class, and of a class with one sample; and a model that reads."""
    found = tmp_path_factory.mktemp("inputs")
    write_worded_model(found / "model", layers=2, image_size=32, context=77)
    samples = {
        f"photo_{i:04d}": {
            "jpg": jpeg_bytes(48, 48, seed=i),
            "cls": i % 2,
            "json": {
                "place": "sea" if i % 2 else "land", "constant": "day", "number": str(i), "only": "cat",
                "rare": "dog" if i == 7 else "cat", "name": "dog" if i % 2 else "cat",
            },
        }
        for i in range(IMAGES)
    }  # fmt: skip
    write_shard(found / "s-0.tar", samples)
    write_shard(found / "lost-0.tar", samples)
    (found / "lost-1.tar").write_bytes(b"this is no tar" * 1000)
    write_shard(found / "hostile-0.tar", {f"{i:03d}{HOSTILE}": hostile(i) for i in range(IMAGES)})
    for name, names in (("horses", "horse\nbird\n"), ("cats", "cat\n"), ("empty", "")):
        (found / f"{name}.txt").write_text(names)
    (found / "waivers.json").write_text('[{"finding": "feed", "owner": "jo", "reason": "r", "expires": "2030-01-01"}]')
    return found


def hostile(i):
    """A sample whose every text is an attack; half are of one class, and nearly all of those have one value."""
    name, place = (f"{number % 2} {HOSTILE}" for number in (i, i + (i % 12 < 2)))
    return {"jpg": jpeg_bytes(48, 48, seed=i), "txt": HOSTILE, "json": {"name": name, "place": place}}


def audited(folder: Path, name: str, label: str | None, shards: str) -> str:
    lacking = name == "hostile"
    config = JobConfig(
        shards=(f"{folder}/{shards}",),
        out=str(folder / name),
        model=ModelConfig(name=str(folder / "model"), device="cpu"),
        fields=FieldsConfig(
            label=label,
            attributes=ATTRIBUTES[:1] if lacking else ATTRIBUTES,
            caption="txt" if lacking else None,
        ),
        store=StoreConfig(layers="2"),
        execution=ExecutionConfig(engine="local", max_lost_shards=1),
    )
    if not (folder / name).exists():
        with ConsoleReporter(config) as reporter:
            run_job(config, LocalPool(config), reporter, threading.Event())
    return config.out


@pytest.fixture
def report(folder, tmp_path, monkeypatch, capsys):
    """Run the command in this process; returns exit code, stdout, stderr and report.json, None where it was not made.

    `name` is a run, which is made when it is first asked for.
    """

    def run(name, label, *arguments, shards="s-*.tar", quick=QUICK):
        target = audited(folder, name, label, shards)
        capsys.readouterr()
        monkeypatch.chdir(folder)
        command = ["clipaudit", "report", target, "--out", str(tmp_path / "out"), "--quiet", *quick, *arguments]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        shown, made = capsys.readouterr(), tmp_path / "out/report.json"
        return ended.value.code, shown.out, shown.err, json.loads(made.read_text()) if made.exists() else None

    return run


@pytest.mark.parametrize(
    ("name", "label", "arguments", "message"),
    [
        ("unlabelled", None, (), "has no labels and no captions: audit its shards again with --label or --caption"),
        ("only", "json:only", (), "an audit compares classes, and the run at"),
        ("cats and dogs", "json:name", ("--classes", "nowhere.txt"), "there is no file nowhere.txt"),
        ("cats and dogs", "json:name", ("--classes", "horses.txt"), "the run's labels 'cat', 'dog' have no name in"),
        ("cats and dogs", "json:name", ("--classes", "cats.txt"), "the run's label 'dog' has no name in cats.txt"),
        ("cats and dogs", "json:name", ("--classes", "empty.txt"), "empty.txt has no class names: write one a line"),
        ("numbers", "cls", (), "the run's labels are numbers (0, 1) and there is no classnames.txt beside its shards"),
        ("cats and dogs", "json:name", ("--split", "json:colour"), "has no column 'colour' to group"),
        ("cats and dogs", "json:name", ("--split", "json:place"), "has the value train; there is land, sea"),
        ("cats and dogs", "json:name", ("--attribute", "colour"), "has no column 'colour'"),
        (
            "cats and dogs",
            "json:name",
            ("--attribute", "place", "--core", "lan"),
            "--core 'lan' is no value, column or text of the audit: did you mean land? the columns and values are",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(report, name, label, arguments, message):
    code, out, err, made = report(name, label, *arguments)
    assert (code, out, made) == (2, "", None)
    assert message in err
    assert err.count("\n") == 1


def test_runs_with_other_classes_cannot_be_compared(report, folder):
    other = audited(folder, "numbers", "cls", "s-*.tar")
    code, _, err, _ = report("cats and dogs", "json:name", "--test-run", other)
    assert code == 2
    assert "the run's labels 0, 1 have no name" in err


def test_a_class_with_one_sample_is_inconclusive_and_says_what_is_missing(report):
    code, out, _, made = report("rare", "json:rare", "--require-evidence")
    assert (code, made["gate"]["outcome"]) == (3, "inconclusive")
    assert "Images still needed: dog: 9." in out


@pytest.mark.parametrize(
    ("column", "why"),
    [("constant", "every image has the value 'day'"), ("number", "every image has a value of its own")],
)
def test_a_column_that_says_nothing_is_named_and_no_pass(report, column, why):
    code, _, _, made = report("cats and dogs", "json:name", "--attribute", column, "--require-evidence")
    assert (code, made["gate"]["outcome"]) == (3, "inconclusive")
    assert f"The column {column} could not be tested: {why}." in made["gate"]["open_questions"]


def test_lost_shards_are_no_pass(report):
    code, _, _, made = report("lost", "json:name", "--require-evidence", shards="lost-*.tar")
    assert (code, made["gate"]["outcome"]) == (3, "inconclusive")
    assert made["audit"]["hygiene"]["failed_shards"] == 1
    assert made["audit"]["verdict"] == "inconclusive"
    assert "1 shard of the run could not be read." in made["gate"]["open_questions"]


def test_a_waiver_for_an_unknown_finding_is_named_after_the_report(report):
    code, _, err, made = report("cats and dogs", "json:name", "--waivers", "waivers.json")
    assert code == 2
    assert "--waivers: this audit has no finding 'feed'" in err
    assert made["waivers"][0]["status"] == "unknown"


def test_texts_of_the_data_are_shown_and_never_run(report, tmp_path):
    """Keys, labels, class names, attribute values and captions that try to be HTML, through the whole command."""
    code, out, err, made = report("hostile", "json:name", "--attribute", "place", shards="hostile-*.tar",
                                quick=("--templates", "single", "--no-heat"))  # fmt: skip
    assert code == 0, err
    assert made["audit"]["findings"], "one value goes with one class nearly always"
    page = (tmp_path / "out/index.html").read_text()
    parser = tinyhtml5.parser.HTMLParser()
    tree = parser.parse(page)
    assert parser.errors == []
    names = {str(element.tag).rpartition("}")[2] for element in tree.iter()}
    assert not names & {"script", "iframe", "object", "embed", "form", "link", "base"}
    assert not [key for element in tree.iter() for key in element.attrib if key.startswith("on")]
    assert page.count("data:image/webp") >= 8
    assert "&lt;script&gt;alert(1)" in page
    assert "{{ 7*7 }}" in page
    for line in (tmp_path / "out/summary.md").read_text().splitlines():
        assert "<" not in line.removeprefix("    ") or line.startswith("    ")
    assert "\x1b" not in out
