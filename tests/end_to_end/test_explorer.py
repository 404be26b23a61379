"""The explorer's page in a browser: Debian's Chromium, driven by playwright-core through `explorer.mjs`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.commands import ROOT
from tests.make_explorers import is_unreachable
from tests.make_shards import jpeg_bytes, write_shard

pytestmark = pytest.mark.full
WEB = ROOT / "clipaudit/explorer/web"
HOSTILE = "<img src=x onerror=hacked=1>"
SCRIPT = "<script>hacked=1</script>"


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """(chromium, a directory whose node_modules have playwright-core and axe-core)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    npm = shutil.which("npm")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node and npm are not installed")
    if (WEB / "node_modules/playwright-core").is_dir():
        return chromium, WEB
    web = tmp_path_factory.mktemp("web")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(WEB / name, web)
    command = [npm, "ci", "--no-audit", "--no-fund"]
    installed = subprocess.run(command, cwd=web, capture_output=True, text=True, check=False)
    if installed.returncode and is_unreachable(installed.stderr):
        pytest.skip("npm ci has no registry here")
    assert installed.returncode == 0, installed.stderr
    return chromium, web


class Served:
    """A page on a port of its own, that can be stopped and started again."""

    def __init__(self, app_of, port: int) -> None:
        self._app_of, self.port = app_of, port
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from clipaudit.explorer.server import make_server

        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self.app = self._app_of()
        self._server = make_server(self.app)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._listener = listener
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(300)
        self._listener.close()


@contextmanager
def page_over(run, folder, *, write=True, report=None):
    from tests.make_explorers import explorer_app

    served = Served(lambda: explorer_app(run, folder, write=write, report=report), 0)
    try:
        yield served
    finally:
        served.stop()


def config_of(tools, served, **more):
    from tests.make_explorers import TOKEN

    chromium, web = tools
    return json.dumps({"url": served.url, "token": TOKEN, "chromium": chromium, "modules": str(web), **more})


def play(scenario, tools, served, **more):
    """What a scenario saw; nothing on the page failed, and every request went to the page's own server."""
    command = ["node", str(Path(__file__).with_name("explorer.mjs")), scenario, config_of(tools, served, **more)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr[-3000:]
    seen = json.loads(ended.stdout.splitlines()[-1])
    check_requests(seen, served)
    return seen


def check_requests(seen, served):
    hosts = {urlsplit(url).netloc for url in seen["requests"] if not url.startswith(("data:", "blob:"))}
    assert hosts == {f"127.0.0.1:{served.port}"}
    assert seen["errors"] == []


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """(run, its report): birds of the demo world, with the heads in words."""
    from clipaudit.cues import AuditOptions, audit_cues
    from clipaudit.cues.report.write import ReportConfig, write_report
    from tests.commands import call
    from tests.make_audits import audited_world

    folder = tmp_path_factory.mktemp("birds")
    run = audited_world(folder, "birds", 1000, 0, attributes=("place", "split"), layers="all")
    quick = {"negative_audits": 0, "positive_trials": 0, "permutations": 199, "random_sets": 200}
    options = AuditOptions(attributes=("place",), where=("split=train",), test_where=("split=test",), **quick)
    config = ReportConfig(out=str(folder / "report"), fail_on=("confirmed",), command="clipaudit report")
    write_report(audit_cues(run, options), config)
    assert call(folder, "heads", "run").returncode == 0
    return run, str(folder / "report")


@pytest.fixture(scope="module")
def page(birds, tmp_path_factory):
    run, report = birds
    with page_over(run, tmp_path_factory.mktemp("tags"), report=report) as served:
        yield served


def test_from_a_finding_to_an_exported_list_in_six_clicks(tools, page):
    seen = play("flow", tools, page)
    assert seen["clicks"] <= 6
    assert len(seen["lines"]) == int(seen["matched"]) > 0
    assert all(line[:6].isdigit() and line[6] == "/" for line in seen["lines"])
    assert "fix-me" in seen["toast"]


def study_of(served):
    """Id of a labelling that is begun on the page, for its screen."""
    from clipaudit.explorer.label_draw import CandidateCue, new_study

    labelling = served.app.state.labelling
    sides = {0: ("landbird", False), 1: ("waterbird", True)}
    cue = CandidateCue(finding="seen", text="a photo of water", sides=sides, delta=0.2)
    study = new_study(labelling.workspace, cue, "water", "ada", 0)
    labelling.log.add(study)
    return study.id


def test_every_screen_is_whole_and_open_to_all_at_400_and_1280_pixels_light_and_dark(tools, page, tmp_path):
    """No serious finding of axe-core, nothing wider than the screen. CLIPAUDIT_SCREENSHOTS names where pictures go."""
    out = os.environ.get("CLIPAUDIT_SCREENSHOTS", str(tmp_path))
    seen = play("screens", tools, page, out=out, bypass=True, study=study_of(page))
    assert len(seen["result"]) == 4 * seen["screens"]
    faults = [
        f"{each['name']} {each['width']} {each['scheme']}: {each['wide']} pixels too wide, {each['serious']}"
        for each in seen["result"]
        if each["wide"] > 0 or each["serious"] or not each["tiles"]
    ]
    assert faults == []


def test_one_question_by_two_heads_side_by_side(tools, page):
    seen = play("beside", tools, page)
    assert seen["heads"][:2] == ["By L05H03", "By L05H00"]
    assert "High by L05H03, low by L05H00" in seen["heads"]
    assert seen["ranks"] == [str(rank) for rank in range(1, 25)]
    assert "1,000 images" in seen["headline"]
    assert seen["search"][:2] == ["By the whole embedding", "By L05H03"]
    assert "Rank correlation" in seen["filtered"]
    assert "1,000 images" not in seen["filtered"]
    assert seen["opened"] is not None


def test_where_texts_are_in_an_image_by_the_keyboard_and_its_address(tools, page):
    seen = play("where", tools, page)
    assert {"+ water", "+ a photo of a waterbird"} <= set(seen["offered"])
    assert (seen["head"][0], seen["outline"] != "none") == ("L", True)
    assert [label.rpartition(":")[0] for label in seen["one"]] == [
        "“water” through all heads",
        f"“water” through {seen['head']}",
    ]
    assert seen["drawn"] > 5, "patches have colours of their own"
    assert seen["here"].startswith("here ")
    assert "not seen" in seen["unseen"]
    assert seen["scale"] == 1
    assert seen["address"] == [["water", "grass"], ["embedding", seen["head"]]]
    assert (seen["next"]["open"] != "0/18", seen["next"]["maps"]) == (True, 4)
    assert seen["left"] == ["water"]
    assert "Near duplicates" in seen["near"]
    assert seen["bars"] == ["none", True]
    assert seen["weights"] == "PAR1"


@pytest.mark.parametrize("plain", [False, True], ids=["webgl", "canvas"])
def test_a_region_drawn_on_the_map_is_a_filter_and_told_apart(tools, page, plain):
    seen = play("map", tools, page, plain=plain)
    assert seen["by"] == "canvas" if plain else seen["by"] in ("webgl", "canvas")
    assert min(seen["colours"]["land"], seen["colours"]["water"]) > 100, "both places are drawn in their colours"
    assert seen["inside"].startswith("embedding:pca:")
    assert 0 < int(seen["matched"]) < 1000
    assert f"What sets these {seen['matched']} apart" in seen["apart"]
    assert "of the others" in seen["apart"]
    assert "“" in seen["apart"], "texts say it too"
    assert "=" in seen["where"]
    assert seen["back"] == [None, "1,000 images"]
    assert 0 < int(seen["byKeys"]) < 1000, "what is in view, by the keyboard alone"
    assert seen["zoomed"] != seen["whole"]
    assert seen["moved"] is None, "moving the map draws no region"
    assert seen["opened"] is not None, "a point opens its image"


@pytest.fixture(scope="module")
def candidate(birds, tmp_path_factory):
    """(run, report): the same birds, whose place nobody told the report."""
    from clipaudit.cues import AuditOptions, audit_cues
    from clipaudit.cues.report.write import ReportConfig, write_report
    from clipaudit.run.reader import Run

    folder = tmp_path_factory.mktemp("candidate")
    shutil.copytree(birds[0].directory.url, folder / "run")
    run = Run(str(folder / "run"))
    options = AuditOptions(split="split", negative_audits=0, positive_trials=0)
    command = "clipaudit report run --split split --no-heat --no-pictures"
    config = ReportConfig(out=str(folder / "report"), fail_on=("confirmed",), command=command)
    write_report(audit_cues(run, options), config)
    return run, str(folder / "report")


def test_a_candidate_becomes_a_verdict_by_200_labels(tools, candidate, tmp_path):
    """From the finding by two keys to a column, a report and the right verdict, labelled by the world itself."""
    from clipaudit.run.reader import Run

    run, report = candidate
    table = run.table(["shard_id", "index", "place"])
    places = zip(*(table[name].to_pylist() for name in ("shard_id", "index", "place")), strict=True)
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps([f"{shard}/{index}" for shard, index, place in places if place == "water"]))
    out = os.environ.get("CLIPAUDIT_SCREENSHOTS", str(tmp_path))
    with page_over(run, tmp_path, report=report) as served:
        seen = play("label", tools, served, truth=str(truth), out=out)
    assert "more" in seen["planned"]
    assert seen["undone"].startswith("0 labelled")
    assert seen["labels"] <= 200
    assert "waterbird" in seen["shares"]
    assert "Candidate → confirmed" in seen["outcome"], seen["outcome"]
    assert "labels alone" in seen["outcome"]
    assert any("Confirmed shortcut" in card and "water" in card for card in seen["cards"])
    column = Run(run.directory.url).joined["water"]
    assert (column.rows <= 200, column.error_rate, column.error_images > 5) == (True, 0, True)
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    assert len(lines) == seen["labels"] + 4, "the study, an answer that was undone, the undoing, and the verdict"


def test_mistakes_have_their_images_and_the_key_tags_no_more_than_the_button(tools, page):
    seen = play("mistakes", tools, page)
    assert "A model trained here" in seen["texts"]
    assert "Labels to look at" in seen["texts"]
    assert (seen["wrong"] > 0, seen["marks"] > 0, seen["pressed"]) == (True, True, "The wrong ones")
    assert seen["tag"] == f"Tag all {seen['wrong']}"
    assert {"wrong: CLIP", "right: a model trained here", "wrong: CLIP without “water”"} <= set(seen["answerers"])
    assert seen["where"] == "label = 0 and place = water and report.clip.right = false"
    assert seen["all"] == 1, "the cell stays chosen"
    assert (seen["dialogs"], "filter them" in seen["toast"]) == (0, True)


def test_what_if_answers_every_tick_and_keeps_arms(tools, page):
    seen = play("whatif", tools, page)
    assert len(seen["before"]) == 4
    assert seen["one"]["out"]
    assert seen["one"]["cells"] != seen["before"]
    assert "worst group goes from" in seen["one"]["headline"]
    assert len(seen["heads"]["out"]) > 1
    assert seen["heads"]["band"] == 4
    assert "random sets of as many heads" in seen["heads"]["text"]
    assert "“a photo of water” in" in seen["along"]
    assert "explorer/arms/no-water.json" in seen["toast"]
    assert seen["again"] == seen["along"], "an arm brings all of its question back"
    assert seen["where"] == "attributes.split = test and label = 0 and place = land", "where the finding was measured"
    assert int(seen["matched"].replace(",", "")) > 0
    assert "--direction 'a photo of water'" in seen["command"]


def test_the_keys_alone_do_it(tools, page):
    seen = play("keyboard", tools, page)
    assert seen["where"] == "place = water"
    assert int(seen["moved"]) > 1
    assert seen["outline"] != "none"
    assert seen["chosen"] == "2 chosen"
    assert "by-keys" in seen["toast"]
    assert "more like this image" in seen["help"]
    assert seen["opened"] is not None
    assert seen["closed"] is None


def test_back_and_forward_and_an_address_that_is_shared(tools, page):
    seen = play("history", tools, page)
    assert min(seen["grouped"], seen["forward"], seen["shared"]) >= 1
    assert seen["back"] == [seen["first"], 0, "place = water"]
    assert "1,000" in seen["all"]


def test_the_wall_scrolls_to_its_end_with_few_tiles_in_the_page(tools, page):
    seen = play("scroll", tools, page)
    assert (seen["last"], seen["empty"]) == (999, 0)
    assert seen["tiles"] < 300


def test_hostile_keys_captions_and_columns_are_shown_and_not_run(tools, tmp_path):
    run = hostile_run(tmp_path)
    with page_over(run, tmp_path) as served:
        seen = play("hostile", tools, served)
    assert (seen["hacked"], seen["blocked"], seen["scripts"]) == ("undefined", "undefined", 1)
    assert seen["refused"] == 1, "the script that the test itself put in, and no other"
    for text in (HOSTILE, SCRIPT):
        assert text in seen["text"], "it is shown as it is"


def hostile_run(folder):
    """A run whose keys, labels, captions and columns are markup."""
    import threading

    from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
    from clipaudit.job.driver import Reporter, run_job
    from clipaudit.job.engine_local import LocalPool
    from clipaudit.run.reader import Run
    from tests.worded_models import write_worded_model

    samples = {
        f"{HOSTILE}{number}": {
            "jpg": jpeg_bytes(seed=number),
            "cls": SCRIPT if number % 2 else HOSTILE,
            "txt": f"{SCRIPT} '\"><b>{number}",
            "json": {"evil": SCRIPT},
        }
        for number in range(8)
    }
    write_shard(folder / "s-0.tar", samples)
    model = write_worded_model(folder / "model", layers=2, image_size=32)
    config = JobConfig(
        shards=(f"{folder}/s-0.tar",),
        out=str(folder / "run"),
        model=ModelConfig(name=str(model), device="cpu"),
        fields=FieldsConfig(label="cls", caption="txt", attributes=("json:evil",)),
        store=StoreConfig(layers="2"),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config, LocalPool(config), Reporter(), threading.Event())
    return Run(config.out)


def test_what_is_missing_is_said_with_the_command_that_makes_it(tools, tmp_path):
    from tests.make_audits import audited

    run = audited(tmp_path, shards=1, index=False)
    (tmp_path / "s-0.tar").unlink()
    with page_over(run, tmp_path, write=False) as served:
        seen = play("missing", tools, served)
    assert f"clipaudit report {run.directory.url}" in seen["findings"]
    assert f"clipaudit heads {run.directory.url}" in seen["heads"]
    assert "there is no classnames.txt beside its shards" in seen["whatif"]
    assert f"clipaudit report {run.directory.url} --classes FILE" in seen["whatif"]
    assert "pip install 'clipaudit[map]'" in seen["map"]
    assert "--write" in seen["basket"]
    assert f"clipaudit audit SHARDS --out {run.directory.url} --moved FROM=TO" in seen["image"]
    assert "'nothing' is not in the run" in seen["refused"]
    assert seen["recovered"] == [None, "12 images"]
    assert any("pictures are not at hand" in banner for banner in seen["banner"])
    assert seen["tiles"] > 0


def test_a_lost_server_is_told_and_the_page_recovers(tools, tmp_path):
    from tests.make_audits import audited

    run = audited(tmp_path, shards=1, index=False)
    with page_over(run, tmp_path) as served:
        command = ["node", str(Path(__file__).with_name("explorer.mjs")), "lost", config_of(tools, served)]
        browser = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert browser.stdout.readline() == "open\n"
            served.stop()
            print("stopped", file=browser.stdin, flush=True)
            assert browser.stdout.readline() == "told\n"
            served.start()
            print("started", file=browser.stdin, flush=True)
            seen = json.loads(browser.stdout.readline())
        finally:
            browser.stdin.close()
            browser.wait(60)
            browser.stdout.close()
    check_requests(seen, served)
    assert "does not answer" in seen["told"]
    assert "clipaudit explore" in seen["told"]
    assert seen["tiles"] > 0
    labels = run.table("label")["label"].to_pylist()
    assert seen["after"] == str(labels.count(1))
