"""A candidate that people label: the draw, the answers and their estimates, the column, the verdict that follows."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from starlette.testclient import TestClient

from clipaudit.cues.statistics.stratified import difference, slip_rate, stratified_share
from clipaudit.errors import UsageError
from clipaudit.explorer.label_draw import cross_fitted, plain_word, rounds
from clipaudit.explorer.label_log import Drawn, LabelEvent, LabelLog, LabelStudy, Stratum, StudyState, Undo, stamp
from clipaudit.explorer.label_progress import Progress
from clipaudit.explorer.reaudit import report_options
from clipaudit.explorer.report_file import find_report
from clipaudit.run.reader import Run
from tests.make_audits import audited
from tests.make_explorers import TOKEN, damage_report, explorer_app, write_example_report

WRITES = {"x-clipaudit-token": TOKEN}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    run = audited(folder, index=False)
    report = write_example_report(run, folder / "report")
    return folder, run.directory.url, report


@pytest.fixture
def served(made, tmp_path):
    """(client, run, finding): a page over a run of its own, whose report has a candidate."""
    folder, _, report = made
    shutil.copytree(folder / "run", tmp_path / "run")
    run = Run(str(tmp_path / "run"))
    damage_report(shutil.copytree(report, tmp_path / "report"), short_cue)
    (tmp_path / "report/groups.parquet").unlink()  # the example's, which names few of these rows
    found = find_report(run, str(tmp_path / "report"))
    candidate = next(each["id"] for each in found.audit["findings"] if each["kind"] == "text")
    app = explorer_app(run, tmp_path, report=str(tmp_path / "report"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client, run, candidate


def short_cue(document):
    """The candidate's text is one that the tiny model can read."""
    for finding in document["audit"]["findings"]:
        if finding["kind"] == "text":
            finding["cue"]["name"] = "a cat"


def begin(client, finding, **more):
    answer = client.post(
        "/api/v1/labels", json={"finding": finding, "word": "sea", "session": "a", **more}, headers=WRITES
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def say(client, view, answer, session="a", **more):
    asked = {**view["next"][0], "answer": answer, "author": "ada", "session": session, **more}
    got = client.post(f"/api/v1/labels/{view['study']['id']}/answers", json=asked, headers=WRITES)
    assert got.status_code == 200, got.text
    return got.json()


def study(rows=40, rounds_of=10, strata=2):
    """A study of two sides with two strata each, all images drawn."""
    sides = [
        Stratum(class_name=n, has=n == "dog", part="both", number=k, rows=rows)
        for n in ("dog", "cat")
        for k in range(strata)
    ]
    draw = [
        Drawn(shard=place, index=number, key=f"{place}-{number}", stratum=place)
        for number in range(rounds_of)
        for place in range(len(sides))
    ]
    facts = {"author": "", "run": "r", "fingerprint": "f", "generation": 0, "finding": "x", "cue": "a", "word": "w"}
    return LabelStudy(**stamp(), **facts, column="w", delta=0.2, seed=1, strata=tuple(sides), draw=tuple(draw))


def answered(study, answers):
    """Progress after answers (shard, index, answer)."""
    labels = [
        LabelEvent(**stamp(), author="", study=study.id, shard=s, index=i, key=f"{s}-{i}", generation=0, answer=answer)
        for s, i, answer in answers
    ]
    return Progress(StudyState(study=study, labels=labels))


# -- the estimate ------------------------------------------------------------------------------------------------------


def test_a_share_by_strata_is_weighted_and_a_known_population_has_no_spread():
    estimate = stratified_share([300, 100], [10, 10], [0, 10])
    assert estimate.value == pytest.approx(0.25), "300 images without, 100 with"
    assert estimate.low < 0.25 < estimate.high
    whole = stratified_share([10, 10], [10, 10], [0, 10])
    assert (whole.low, whole.high) == (0.5, 0.5)
    assert stratified_share([10, 10], [0, 0], [0, 0]) is None


@pytest.mark.parametrize("shares", [(0.5,) * 5, (0.0, 0.0, 0.02, 0.3, 0.95), (0.9, 0.95, 1.0, 1.0, 1.0)])
@pytest.mark.parametrize("drawn", [5, 12])
def test_intervals_hold_the_truth(shares, drawn):
    """At least 93 % of 400 draws, seed 7300."""
    rng = np.random.default_rng(7300)
    populations = [np.arange(80) < round(80 * share) for share in shares]
    truth = float(np.mean(np.concatenate(populations)))
    held = 0
    for _ in range(400):
        having = [int(rng.choice(people, drawn, replace=False).sum()) for people in populations]
        estimate = stratified_share([80] * 5, [drawn] * 5, having)
        held += estimate.low <= truth <= estimate.high
    assert held >= 0.93 * 400


def test_the_difference_of_two_shares_has_an_interval_of_both():
    first, second = stratified_share([100], [50], [45]), stratified_share([100], [50], [5])
    d = difference(first, second)
    assert (d.value, d.n) == (pytest.approx(0.8), 100)
    assert first.low - second.high < d.low < 0.8 < d.high < first.high - second.low


def test_slips_are_half_of_what_two_answers_differ_by():
    assert slip_rate(0, 20) == 0
    rate = slip_rate(4, 20)
    assert 2 * rate * (1 - rate) == pytest.approx(0.2)


# -- the draw ----------------------------------------------------------------------------------------------------------


def test_rounds_draw_each_stratum_alike_at_any_end():
    codes = np.repeat(np.arange(5), 40)
    drawn = rounds(codes, 5, np.random.default_rng(0))
    assert len(drawn) == len(set(drawn.tolist())) == 200
    for end in (5, 50, 73):
        counts = np.bincount(codes[drawn[:end]], minlength=5)
        assert counts.max() - counts.min() <= 1
    first = [tuple(codes[drawn[start : start + 5]].tolist()) for start in range(0, 50, 5)]
    assert len(set(first)) > 1, "whoever labels cannot tell the stratum by the turn"


def test_every_image_of_a_stratum_is_drawn_with_the_same_chance():
    codes = np.repeat(np.arange(2), 10)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[rounds(codes, 2, np.random.default_rng(seed))[:6]] += 1
    # 3 of 10: 600 of 2,000, standard deviation 20
    assert np.all(np.abs(counts - 600) < 5 * 20.5)


def test_the_score_tells_the_cue_inside_each_class_and_not_the_class():
    rng = np.random.default_rng(3)
    classes, cue = rng.integers(0, 2, 600), rng.integers(0, 2, 600)
    vectors = rng.normal(size=(600, 12))
    vectors[:, 0] += 6 * classes
    vectors[:, 1] += 3 * cue
    text = np.zeros(12)
    text[[1, 2]] = 0.6, 0.8  # a text that is only near what the images have
    score = cross_fitted(vectors, text, classes, np.random.default_rng(0))
    raw = vectors @ text
    for k in (0, 1):
        own = classes == k
        assert auc(score[own], cue[own]) > auc(raw[own], cue[own]) + 0.02
    assert abs(auc(score[cue == 1], classes[cue == 1]) - 0.5) < 0.06


def auc(scores, positive):
    ranks = scores.argsort().argsort()
    n = positive.sum()
    return (ranks[positive == 1].sum() - n * (n - 1) / 2) / (n * (len(positive) - n))


@pytest.mark.parametrize(
    ("text", "word"),
    [("a photo of a scene at sea", "sea"), ("the snow", "snow"), ("water", "water"), ("a photo of ", "photo of")],
)
def test_a_text_becomes_a_word(text, word):
    assert plain_word(text) == word


def test_a_finding_of_many_classes_says_why_it_cannot_be_labelled(served, tmp_path):
    _, run, finding = served

    def many(document):
        part = next(each for each in document["audit"]["findings"] if each["id"] == finding)
        part["classes"] = [{**part["classes"][0], "label": label} for label in range(7)]

    damage_report(tmp_path / "report", many)
    app = explorer_app(run, tmp_path, report=str(tmp_path / "report"))
    with TestClient(app, base_url="http://127.0.0.1") as page:
        answer = page.post("/api/v1/labels", json={"finding": finding}, headers=WRITES)
    assert (answer.status_code, "compares 7 classes" in answer.text) == (400, True)


# -- what answers add up to --------------------------------------------------------------------------------------------


def test_first_answers_count_and_second_ones_measure_slips():
    progress = answered(study(), [(0, 0, "has"), (1, 0, "lacks"), (2, 0, "unsure"), (0, 0, "lacks"), (1, 0, "lacks")])
    assert (len(progress.first), progress.unsure, progress.repeats, progress.disagreements) == (3, 1, 2, 1)
    assert progress.first[0, 0].answer == "has"
    assert progress.error.value == pytest.approx(0.5)
    assert progress.sides[1].share is None, "what nobody can tell says nothing"


def test_every_tenth_image_is_one_of_before_and_stays_it():
    plan = study()
    order = [(image.shard, image.index) for image in plan.draw]
    progress = answered(plan, [(*place, "has") for place in order[:19]])
    shown = progress.upcoming(4)
    assert (shown[0].shard, shown[0].index) in order[:10]
    assert [(image.shard, image.index) for image in shown[1:]] == order[19:22]
    earlier = answered(plan, [(*place, "has") for place in order[:17]]).upcoming(4)
    assert (earlier[2].shard, earlier[2].index) == (shown[0].shard, shown[0].index)


def test_two_pages_get_other_images():
    plan = study()
    taken = frozenset((image.shard, image.index) for image in plan.draw[:4])
    other = answered(plan, []).upcoming(4, taken)
    assert not taken & {(image.shard, image.index) for image in other}


def test_classes_that_have_the_cue_alike_need_no_more_labels():
    plan = study(rows=100, rounds_of=100)
    order = [(image.shard, image.index) for image in plan.draw]
    alike = answered(plan, [(shard, index, "has" if index % 2 else "lacks") for shard, index in order[:400]])
    assert alike.refuted
    assert alike.more == 0
    few = answered(plan, [(shard, index, "has" if index % 2 else "lacks") for shard, index in order[:20]])
    assert not few.refuted
    assert few.more is None or few.more > 0


def test_fewer_labels_are_missing_the_more_there_are():
    plan = study(rows=200, rounds_of=200)
    order = [(image.shard, image.index) for image in plan.draw]
    truth = {0: 0.9, 1: 0.7, 2: 0.3, 3: 0.1}
    rng = np.random.default_rng(5)
    answers = [(s, i, "has" if rng.random() < truth[s] else "lacks") for s, i in order]
    missing = [answered(plan, answers[:count]).more for count in (20, 80, 400)]
    assert missing[0] > missing[1] > missing[2] == 0


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_is_only_added_to_and_strangers_lines_are_left_alone(tmp_path):
    log, plan = LabelLog(tmp_path / "labels.jsonl"), study()
    log.add(plan)
    event = {"author": "ada", "study": plan.id, "shard": 0, "index": 0, "key": "0-0", "generation": 0}
    label = LabelEvent(**stamp(), answer="has", **event)
    log.add(label)
    with log.path.open("a") as handle:
        handle.write('{"event": "label", "shard": 1e99}\n{"event": "label"\n{"event": "study", "draw": 3}\n')
        handle.write(json.dumps({"event": "label", **stamp(), "answer": "maybe", **event}) + "\n")
    assert (len(log.state().studies[plan.id].labels), log.state().damaged) == (1, 4)
    log.add(Undo(**stamp(), author="ada", undoes=label.id))
    assert log.state().studies[plan.id].labels == []
    assert len(log.path.read_text().splitlines()) == 7


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def test_labels_are_kept_counted_undone_and_survive_a_new_server(served, tmp_path):
    client, run, finding = served
    view = begin(client, finding)
    assert (view["answered"], view["study"]["column"], len(view["next"])) == (0, "sea", 4)
    assert view["more"] is None or view["more"] > 0
    view = say(client, view, "has")
    view = say(client, view, "lacks")
    assert view["answered"] == 2
    undone = client.post(
        f"/api/v1/labels/{view['study']['id']}/undo",
        json={"event": view["latest"]["id"], "session": "a"},
        headers=WRITES,
    )
    assert undone.json()["answered"] == 1
    again = client.post(
        f"/api/v1/labels/{view['study']['id']}/undo", json={"event": view["latest"]["id"]}, headers=WRITES
    )
    assert (again.status_code, "undone already" in again.text) == (400, True)
    app = explorer_app(run, tmp_path, report=str(tmp_path / "report"))
    with TestClient(app, base_url="http://127.0.0.1") as fresh:
        assert fresh.get(f"/api/v1/labels/{view['study']['id']}").json()["answered"] == 1
        assert begin(fresh, finding)["study"]["id"] == view["study"]["id"], "it goes on where it was left"
        assert [each["answered"] for each in fresh.get("/api/v1/labels").json()] == [1]


def test_the_table_has_the_probability_of_each_image_to_be_drawn(served, tmp_path):
    client, _, finding = served
    view = begin(client, finding)
    for _ in range(9):
        view = say(client, view, "has")
    lines = list(csv.DictReader(io.StringIO(client.get(f"/api/v1/labels/{view['study']['id']}/labels.csv").text)))
    assert len(lines) == 9
    assert {line["author"] for line in lines} == {"ada"}
    for line in lines:
        assert float(line["probability"]) * float(line["weight"]) == pytest.approx(1)
    # labelled images of a stratum, weighted, are its images
    log = json.loads((tmp_path / "labels.jsonl").read_text().splitlines()[0])
    for number, stratum in enumerate(log["strata"]):
        own = [float(line["weight"]) for line in lines if int(line["stratum"]) == number]
        assert not own or sum(own) == pytest.approx(stratum["rows"])


def test_two_browsers_label_other_images(served):
    client, _, finding = served
    first, second = begin(client, finding, session="a"), begin(client, finding, session="b")
    places = [{(each["shard"], each["index"]) for each in view["next"]} for view in (first, second)]
    assert not places[0] & places[1]
    say(client, first, "has")
    assert say(client, second, "lacks", session="b")["answered"] == 2


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("", {"finding": "none"}, WRITES, 400, "has no finding"),
        ("", {"finding": "CONFIRMED"}, WRITES, 400, "rests on a column already"),
        ("", {"finding": "CANDIDATE"}, {}, 403, "may not write"),
        ("", {"finding": "CANDIDATE", "other": 1}, WRITES, 422, "Extra inputs"),
        ("/nothing/answers", {"shard": 0, "index": 0, "answer": "has"}, WRITES, 404, "no labelling"),
        ("/STUDY/answers", {"shard": 0, "index": 0, "answer": "perhaps"}, WRITES, 422, "has"),
        ("/STUDY/answers", {"shard": 9, "index": 0, "answer": "has"}, WRITES, 400, "not one of those"),
        ("/STUDY/answers", {"shard": 2**31, "index": 0, "answer": "has"}, WRITES, 422, "less than or equal"),
        ("/STUDY/finish", {}, WRITES, 400, "first"),
    ],
)
def test_what_cannot_be_labelled(served, path, body, headers, status, words):
    client, run, finding = served
    given = begin(client, finding)["study"]["id"]
    report = find_report(run, client.get("/api/v1/run").json()["report"])
    confirmed = next(each["id"] for each in report.audit["findings"] if each["kind"] != "text")
    names = {"CANDIDATE": finding, "CONFIRMED": confirmed}
    body = {name: names.get(value, value) for name, value in body.items()}
    answer = client.post(f"/api/v1/labels{path.replace('STUDY', given)}", json=body, headers=headers)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_an_image_that_is_another_one_now_is_not_labelled(served, tmp_path):
    """The draw records keys; a run whose rows are others takes no answer for them."""
    client, _, finding = served
    view = begin(client, finding)
    path = tmp_path / "labels.jsonl"
    path.write_text(path.read_text().replace('"key": "p', '"key": "q'))
    answer = client.post(
        f"/api/v1/labels/{view['study']['id']}/answers", json={**view["next"][0], "answer": "has"}, headers=WRITES
    )
    assert (answer.status_code, "not one of those" in answer.text) == (400, True)


def test_answers_become_a_column_with_its_measured_error(served, monkeypatch):
    from clipaudit.explorer import labelling

    client, run, finding = served
    started = []
    monkeypatch.setattr(labelling, "Reaudit", lambda arguments, on_end: started.append(arguments) or Idle())
    view = begin(client, finding)
    for _ in range(20):
        view = say(client, view, "has" if view["next"][0]["index"] % 3 else "lacks")
    assert view["repeats"] >= 1
    answer = client.post(f"/api/v1/labels/{view['study']['id']}/finish", json={"author": "ada"}, headers=WRITES)
    assert answer.status_code == 200, answer.text
    record = Run(run.directory.url).joined["sea"]
    assert (record.rows, record.author, record.error_images) == (view["answered"], "ada", view["repeats"])
    assert record.error_rate == pytest.approx(view["error"]["value"])
    values = Run(run.directory.url).table("sea")["sea"].to_pylist()
    assert {value for value in values if value} == {"sea", "no sea"}
    assert started == [
        (run.directory.url, f"--out={run.directory.url}/reports/labelled-sea", "--attribute=sea")
    ] or started == [[run.directory.url, f"--out={run.directory.url}/reports/labelled-sea", "--attribute=sea"]]


class Idle:
    running, seconds, failure, command = False, 0, None, "clipaudit report"


def test_a_report_that_cannot_be_made_is_told(served):
    """The report's process ends with a sentence of its own: these labels have no names."""
    client, _, finding = served
    view = begin(client, finding)
    while view["answered"] < 12:
        view = say(client, view, ("has", "lacks")[view["next"][0]["index"] % 2])
    client.post(f"/api/v1/labels/{view['study']['id']}/finish", json={}, headers=WRITES)
    labelling = client.app.state.labelling
    labelling.audit(view["study"]["id"]).wait()
    seen = client.get(f"/api/v1/labels/{view['study']['id']}").json()
    assert (seen["audit"]["running"], seen["verdict"]) == (False, None)
    assert "there is no classnames.txt" in seen["audit"]["failure"]


# -- the report's own options ------------------------------------------------------------------------------------------


def test_the_options_of_a_report_are_taken_over_and_its_files_found_again(made, tmp_path):
    _, url, report = made
    out = shutil.copytree(report, tmp_path / "out" / "report")
    (tmp_path / "prompts.txt").write_text("a photo of a {}\n")
    command = "clipaudit report x --attribute place --split json:split --templates prompts.txt --seed 3 --clean-labels"
    damage_report(out, lambda document: document.update(command=command))
    options = report_options(find_report(Run(url), str(out)))
    assert options == [
        "--attribute=place",
        "--split=json:split",
        f"--templates={tmp_path / 'prompts.txt'}",
        "--seed=3",
        "--clean-labels",
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("clipaudit report x --templates http://evil.example/a.txt", "lies elsewhere"),
        ("clipaudit report x --templates gone.txt", "is not there"),
        ("clipaudit report x --out /etc", "does not know"),
        ("clipaudit report x --device=cuda; rm -rf /", "does not know"),
    ],
)
def test_a_strangers_report_starts_nothing_of_its_own(made, tmp_path, command, words):
    _, url, report = made
    out = shutil.copytree(report, tmp_path / "report")
    damage_report(out, lambda document: document.update(command=command))
    with pytest.raises(UsageError, match=words):
        report_options(find_report(Run(url), str(out)))


def test_a_joined_error_rate_is_what_an_audit_corrects_by(made, tmp_path):
    from clipaudit.cues.inputs import known_errors
    from clipaudit.run.column_join import JoinOptions, add_columns
    from clipaudit.run.column_list import list_columns

    folder, _, _ = made
    shutil.copytree(folder / "run", tmp_path / "run")
    table = tmp_path / "sea.csv"
    table.write_text("shard,key,sea\n0,p0_0001,yes\n0,p0_0002,no\n")
    add_columns(str(tmp_path / "run"), table, JoinOptions(error=(0.1, 30)))
    run = Run(str(tmp_path / "run"))
    error = known_errors(run, ("attributes.sea", "attributes.place"))
    assert {name: (each.rate, each.images) for name, each in error.items()} == {"attributes.sea": (0.1, 30)}
    assert "wrong in 10 %" in next(each.origin for each in list_columns(run) if each.name == "attributes.sea")
    with pytest.raises(UsageError, match="wrong values"):
        JoinOptions(error=(0.6, 30))
