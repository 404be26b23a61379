"""`clipaudit heads` and `clipaudit ablate` as a user runs them: on a run of a tiny model that can read."""

import json
import shutil

import pytest

from tests.make_shards import write_photos
from tests.make_texts import make_pool, write_pool
from tests.worded_models import write_worded_model


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A directory with a model, three shards, their run, class names and a text file."""
    import threading

    from clipaudit.cli.console.job import ConsoleReporter
    from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
    from clipaudit.job.driver import run_job
    from clipaudit.job.engine_local import LocalPool

    directory = tmp_path_factory.mktemp("audited")
    write_worded_model(directory / "model", context=32, layers=3, image_size=32)
    for number in range(3):
        write_photos(directory / f"s-{number}.tar", 30, prefix=f"p{number}")
    config = JobConfig(
        shards=(f"{directory}/s-*.tar",),
        out=str(directory / "run"),
        model=ModelConfig(name=str(directory / "model")),
        fields=FieldsConfig(label="cls", attributes=("json:place",)),
        store=StoreConfig(layers="2", components=True),
        execution=ExecutionConfig(engine="local"),
    )
    with ConsoleReporter(config) as reporter:
        run_job(config, LocalPool(config), reporter, threading.Event())
    (directory / "classnames.txt").write_text("land\nsea\n")
    write_pool(directory / "pool.tsv", make_pool(60))
    (directory / "plain.txt").write_text("\n".join(make_pool(30).texts))
    return directory


@pytest.fixture
def command(clipaudit, audited):
    """`command("heads", ...)` on the run; the texts are few, so that it is quick."""

    def run(name, *arguments, texts="pool.tsv", target="run"):
        options = ["--texts", audited / texts] if texts else []
        return clipaudit(name, audited / target, *arguments, *options)

    return run


def sentence(result):
    """The one sentence of a mistake."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("clipaudit: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_heads_are_told_in_words_and_written(command, audited):
    shown = command("heads", "--stability", "--steps", "5", "--top", "2")
    assert shown.returncode == 0, shown.stderr
    assert "L02H01" in shown.stdout
    assert "animal number" in shown.stdout
    assert "again" in shown.stdout
    written = json.loads((audited / "run/heads/all/heads.json").read_text())
    assert [len(head["texts"]) for head in written["heads"]] == [5] * 4
    # the texts are known by now: neither model nor torch is needed
    model = (audited / "model").rename(audited / "away")
    try:
        again = command("heads", "--steps", "5", "--json", "--stability")
    finally:
        model.rename(audited / "model")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == written
    assert "loading" in shown.stderr
    assert "loading" not in again.stderr


def test_heads_of_some_rows_and_plain_texts(command, audited, tmp_path):
    some = command("heads", "--where", "place=sea", "--head", "L01H00,L02H00", "--steps", "3")
    assert some.returncode == 0, some.stderr
    assert "45 rows, attributes.place = sea" in " ".join(some.stdout.split())
    assert (audited / "run/heads/attributes.place=sea/heads.json").exists()
    plain = command("heads", "--label", "1", "--out", tmp_path / "out", "--steps", "3", texts="plain.txt")
    assert plain.returncode == 0, plain.stderr
    assert "roles need a text file with at least two properties" in plain.stdout
    assert [head["role"] for head in json.loads((tmp_path / "out/heads.json").read_text())["heads"]] == [None] * 4


def test_ablate_shows_a_table_and_writes_a_figure(command, audited):
    options = ["--attribute", "place", "--templates", "single", "--head", "L02H01", "--mlps", "all"]
    shown = command("ablate", *options, "--random", "20")
    assert shown.returncode == 0, shown.stderr
    own = command("ablate", "--templates", "single", "--components", "self-attention")
    assert "replaced by their means: self_attention_L01, self_attention_L02" in " ".join(own.stdout.split()), own.stderr
    for words in ("worst group ablated", "replaced by their means: L02H01, mlp_L01, mlp_L02", "of 20 random sets"):
        assert words in " ".join(shown.stdout.split())
    written = json.loads((audited / "run/ablations/ablation/ablation.json").read_text())
    assert written["classes"]["source"].endswith("classnames.txt")
    assert written["base"]["accuracy"]["total"] == 90
    assert (audited / "run/ablations/ablation/ablation.svg").read_bytes().startswith(b"<?xml")


def test_untrained_weights_are_near_chance_and_it_says_so(command):
    result = command("ablate", "--templates", "single", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    shown = command("ablate", "--templates", "single").stdout
    assert ("WARNING plain accuracy cannot be told from guessing one of 2 classes" in shown) is found["near_chance"]


@pytest.mark.parametrize("study", ["components", "layers", "heads", "texts"])
def test_studies(command, audited, study):
    result = command("ablate", "--study", study, "--templates", "single", "--seeds", "1", "--attribute", "place")
    assert result.returncode == 0, result.stderr
    assert "nothing replaced" in result.stdout
    rows = ("all stored MLPs", "class-token self-attention", "both")
    assert study != "components" or all(row in result.stdout for row in rows)
    folder = audited / "run/ablations" / study
    assert json.loads((folder / f"{study}.json").read_text())["study"] == study
    assert (folder / f"{study}.svg").exists()


def test_a_run_of_another_model_is_refused(command, audited):
    shutil.copytree(audited / "run", audited / "other")
    manifest = json.loads((audited / "other/run.json").read_text())
    manifest["model"]["fingerprint"] = "0123456789abcdef"
    (audited / "other/run.json").write_text(json.dumps(manifest))
    assert "other weights" in sentence(command("heads", target="other"))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("heads", ["--steps", "99"], "99 texts were asked for"),
        ("heads", ["--steps", "0"], "--steps"),
        ("heads", ["--top", "0"], "--top"),
        ("heads", ["--criterion", "best"], "--criterion must be explained or reference, not 'best'"),
        ("heads", ["--head", "L00H00"], "stores no head 'L00H00'"),
        ("heads", ["--where", "place=moon"], "has attributes.place = moon: there is land, sea"),
        ("heads", ["--where", "place"], "a comparison, such as"),
        ("heads", ["--label", "moon"], "label holds whole numbers from 0 to 1, and 'moon'"),
        ("ablate", ["--templates", "nosuch"], "no templates 'nosuch'"),
        ("ablate", ["--study", "colours"], "--study must be one of"),
        ("ablate", ["--study", "heads", "--head", "L02H00"], "leave out --heads"),
        ("ablate", ["--study", "heads", "--random", "9"], "--random has no use with --study heads"),
        ("ablate", ["--study", "heads", "--reconstruct", "9"], "--reconstruct has no use with --study heads"),
        ("ablate", ["--role", "smell"], "--role smell"),
        ("ablate", ["--random", "-1"], "--random"),
        ("ablate", ["--classes", "none.txt"], "none.txt"),
    ],
)
def test_a_users_mistake_is_one_sentence(command, name, arguments, words):
    assert words in sentence(command(name, *arguments))


def test_no_run_no_texts_and_texts_too_long(clipaudit, command, audited, tmp_path):
    assert "there is no run at" in sentence(clipaudit("heads", tmp_path))
    assert "nowhere.txt" in sentence(command("heads", texts="nowhere.txt"))
    (audited / "long.txt").write_text("a cat\n" + "word " * 60 + "\n")
    assert "longer than the 32 tokens" in sentence(command("heads", "--steps", "2", texts="long.txt"))
    assert "--device" in sentence(command("heads", "--steps", "2", "--device", "cuda:99", texts="long.txt"))
    (audited / "blank.txt").write_text("\n\n")
    assert "has no texts" in sentence(command("heads", texts="blank.txt"))


def test_blank_lines_and_duplicates_are_left_out_and_said(command, audited):
    (audited / "twice.txt").write_text("a cat\n\nA  Cat\na dog\n")
    result = command("heads", "--steps", "2", texts="twice.txt")
    assert result.returncode == 0, result.stderr
    assert "2 texts from" in " ".join(result.stdout.split())
    assert "1 duplicate left out" in " ".join(result.stdout.split())


def test_a_run_without_commits_has_nothing_to_describe(command, audited):
    shutil.copytree(audited / "run", audited / "empty", ignore=shutil.ignore_patterns("0*.json"))
    assert "has no rows" in sentence(command("heads", target="empty"))
