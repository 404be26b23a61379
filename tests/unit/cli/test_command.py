"""Every option of every command: a list, or refused when it is given again."""

from __future__ import annotations

import json

import pytest
import typer

from clipaudit.cli.app import app
from clipaudit.errors import UsageError
from clipaudit.storage.text_file import parse_json, parse_yaml


def commands(command, name):
    """Every command with its full name."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for each, below in inner.items():
        yield from commands(below, f"{name} {each}")


COMMANDS = dict(commands(typer.main.get_command(app), "clipaudit"))
OPTIONS = [
    pytest.param(name, option, id=f"{name} {option.opts[0]}")
    for name, command in COMMANDS.items()
    for option in command.params
    if option.param_type_name == "option" and not option.is_eager
]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_takes_several_values_or_refuses_the_second(name, option):
    if option.multiple:
        return
    again = [option.opts[-1]] if option.is_flag else [option.opts[-1], "1"]
    with pytest.raises(UsageError) as caught:
        COMMANDS[name].make_context(name, [*again, *again])
    assert option.opts[0] in str(caught.value)
    assert "is given twice" in str(caught.value)


def test_both_sides_of_a_switch_and_two_names_of_an_option_are_one_option():
    with pytest.raises(UsageError, match=r"--heat or --no-heat is given twice"):
        COMMANDS["clipaudit report"].make_context("report", ["run", "--heat", "--no-heat"])
    with pytest.raises(UsageError, match=r"--seed is given 3 times, and it takes one value"):
        COMMANDS["clipaudit heads"].make_context("heads", ["run", "--seed=1", "--seed", "2", "--seed=3"])


def test_a_refusal_ends_with_exit_code_2_and_one_sentence(clipaudit):
    ended = clipaudit("query", "nowhere", "--role", "colour", "--role", "shape", "--text", "a dog")
    assert ended.returncode == 2
    assert ended.stderr == "clipaudit: --role is given twice, and it takes one value: keep one of them\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [("job.yaml", "out: a\nmodel: {name: demo}\nout: b\n"), ("job.toml", 'out = "a"\nout = "b"\n')],
)
def test_an_option_that_stands_twice_in_a_file_is_refused(clipaudit, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    ended = clipaudit("audit", "x.tar", "--config", name)
    assert ended.returncode == 2
    assert f"--config {name} is not valid" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--gpus-per-worker", "-1"], "--gpus-per-worker must be a number of at least 0, not -1.0"),
        (["--gpus-per-worker", "inf"], "--gpus-per-worker must be a number of at least 0, not inf"),
        (["--cpus-per-worker", "0"], "--cpus-per-worker must be a number above 0, not 0.0"),
        (["--cpus-per-worker", "nan"], "--cpus-per-worker must be a number above 0, not nan"),
        (["--max-lost-shards", "-1"], "--max-lost-shards must be at least 0, not -1"),
        (["--engine", "locall"], "--engine must be 'ray' or 'local', not 'locall'"),
        (["--precision", "int3"], "--precision must be 'fp32', 'bf16', 'fp16' or 'int8', not 'int3'"),
        (["--config", "job.yaml"], "job.yaml: store.label_moments must be 'auto', 'all' or 'none', not 'some'"),
        (["--config", "text.yaml"], "--config text.yaml holds no options: write lines such as `label: cls`"),
        (["--config", "none.yaml"], "--config none.yaml cannot be read: No such file or directory"),
        (["--config", "bytes.yaml"], "--config bytes.yaml is not UTF-8 throughout: save it as UTF-8"),
    ],
)
def test_a_wrong_value_names_its_option_or_its_place_in_the_file(clipaudit, tmp_path, options, sentence):
    (tmp_path / "job.yaml").write_text("store: {label_moments: some}\n")
    (tmp_path / "text.yaml").write_text("hello\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xff")
    ended = clipaudit("audit", "x.tar", "--out", "run", *options)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"clipaudit: {sentence}")


@pytest.mark.parametrize(
    "words",
    [
        ["demo-data", "nulls", "out"],
        ["demo", "out"],
        *([name, "run"] for name in ("heads", "ablate", "index", "report", "rehearse")),
    ],
)
def test_a_seed_below_0_is_refused_before_anything_is_done(clipaudit, tmp_path, words):
    ended = clipaudit(*words, "--seed", "-1")
    assert ended.returncode == 2
    assert "Invalid value for '--seed'" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["status", ""], ["check", ""], ["query", "", "--text", "a"]])
def test_an_empty_run_is_not_the_root_of_the_disk(clipaudit, words):
    ended = clipaudit(*words)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (
        2,
        "clipaudit: an empty text names no directory: give a path or a URL",
    )


def test_a_key_that_stands_twice_in_json_is_refused():
    with pytest.raises(ValueError, match="owner is given twice"):
        parse_json('[{"owner": "a", "owner": "b"}]')
    assert parse_json('{"a": {"b": 1}, "b": 2}') == {"a": {"b": 1}, "b": 2}
    assert parse_yaml("base: &x {a: 1}\nother: {<<: *x, b: 2}") == {"base": {"a": 1}, "other": {"a": 1, "b": 2}}


def test_serve_prints_its_address_for_people_or_as_json(clipaudit, monkeypatch):
    def serve_api(run, *, on_start, **_):
        on_start("http://127.0.0.1:1")

    monkeypatch.setattr("clipaudit.explorer.server.serve_api", serve_api)
    ended = clipaudit("serve", "run", "--api", "--json")
    assert json.loads(ended.stdout)["url"] == "http://127.0.0.1:1"
    assert "the page over a run is `clipaudit explore run`" in clipaudit("serve", "run").stderr
    assert clipaudit("serve", "run", "--api").stderr == "http://127.0.0.1:1/openapi.json\n"
