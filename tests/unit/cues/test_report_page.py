"""The report's page: self-contained, valid, safe from what the data say, and clear about what it does not know."""

import re
from dataclasses import replace
from datetime import date

import pytest
import tinyhtml5.parser

from clipaudit.cues.findings.sentences import Words, action
from clipaudit.cues.report.document import File, Report
from clipaudit.cues.report.first_screen import finding_in_words, plain_sentences
from clipaudit.cues.report.gate import judge
from clipaudit.cues.report.page import Link, render
from clipaudit.cues.report.pictures import InlinePicture, Pictures, identity, strips, within_budget
from clipaudit.cues.report.reliance_words import numbers
from clipaudit.cues.report.words import MEANING, headline
from clipaudit.cues.result.finding_parts import Verdict
from tests.audit_examples import around, candidate, confirmed, example_result, inconclusive, observed, unlabelled_result

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e\x00\x1b[31m{{ 7*7 }}"
FILES = (File(name="collect.csv", about="what to collect", rows=2),)


def report_of(audit, waivers=()):
    gate = judge(audit, waivers, fail_on=("confirmed",), require_evidence=False)
    return Report(audit=audit, gate=gate, waivers=waivers, files=FILES, command="clipaudit report RUN --seed 0")


def with_findings(*findings):
    result = example_result()
    ids = {finding.id for finding in findings}
    points = tuple(point for point in result.map if point.finding is None or point.finding in ids)
    first = findings[0] if findings else None
    return replace(
        result,
        findings=findings,
        map=points,
        verdict=first and first.verdict,
        sentence=first.sentence if first else "Nothing was found.",
    )


def hostile():
    result = example_result()
    text = HOSTILE
    finding = confirmed()
    words = tuple(replace(word, text=text) for word in finding.cue.words)
    sample = replace(finding.gallery.aligned[0], key=text, class_name=text, value=text, predicted=text)
    finding = replace(
        finding,
        class_name=text,
        sentence=text,
        action=text,
        false_alarm=(text,),
        cue=replace(finding.cue, name=text, value=text, words=words, opposite=text),
        gallery=replace(finding.gallery, aligned=(sample,)),
    )
    classes = tuple(replace(facts, class_name=text) for facts in result.classes)
    part = result.errors[0].slices[0]
    part = replace(part, class_name=text, name=text, description=text, sentence=text, same=(text,))
    errors = replace(result.errors[0], answerer=f"given:{text}", sentence=text, slices=(part,))
    pairs = tuple(replace(pair, label=text, looks_like=text) for pair in result.labels.pairs)
    labels = replace(result.labels, sentence=text, pairs=pairs)
    return replace(
        result, findings=(finding,), sentence=text, run=text, classes=classes, errors=(errors,), labels=labels
    )


def pictures_of(audit):
    picture = InlinePicture(url="data:image/webp;base64,UklGRg==", width=112, height=84)
    samples = [sample for finding in audit.findings for sample in finding.gallery.aligned + finding.gallery.conflicting]
    found = {identity(sample): picture for sample in samples}
    return Pictures(plain=found, heat={(audit.findings[0].id, name): picture for name in found})


def parse_errors(page):
    parser = tinyhtml5.parser.HTMLParser()
    parser.parse(page)
    return parser.errors


PAGES = {
    "everything": example_result,
    "candidate": lambda: with_findings(candidate()),
    "inconclusive": lambda: with_findings(inconclusive()),
    "nothing": with_findings,
    "hostile": hostile,
    "no shift, no groups": lambda: replace(example_result(), shift=None, groups=(), attributes=(), predictability=()),
    "by captions": lambda: unlabelled_result("caption", observed()),
    "by captions, nothing": unlabelled_result,
    "by CLIP": lambda: unlabelled_result("clip", observed()),
    "not valid": lambda: replace(
        example_result(), trust=replace(example_result().trust, valid=False, problems=("The control failed.",))
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_it_is_one_valid_file_that_asks_for_nothing(name):
    audit = PAGES[name]()
    page = render(report_of(audit), pictures_of(audit) if audit.findings else None)
    assert parse_errors(page) == []
    assert len(page.encode()) < 3_000_000
    addresses = re.findall(r"(?:src|href|action|data|poster)\s*=\s*\"([^\"]*)\"", page)
    assert all(a.startswith(("#", "data:image/")) or a in ("collect.csv", "report.json") for a in addresses)
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page
    assert "biased" not in page.lower()


@pytest.mark.parametrize("name", PAGES)
def test_its_anchors_lead_somewhere_and_ids_are_unique(name):
    page = render(report_of(PAGES[name]()))
    ids = re.findall(r"\sid=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"href=\"#([^\"]+)\"", page)) <= set(ids)


def test_what_the_data_say_is_shown_and_never_run():
    page = render(report_of(hostile()))
    tree = tinyhtml5.parser.HTMLParser().parse(page)
    names = {str(element.tag).rpartition("}")[2] for element in tree.iter()}
    assert not names & {"script", "iframe", "object", "embed", "form", "link"}
    assert not any(name.startswith("on") for element in tree.iter() for name in element.attrib)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert "\x00" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page, "it would turn the rest of the sentence around"


def test_hostile_keys_of_samples_are_shown():
    assert "&lt;script&gt;alert(&#39;key&#39;)&lt;/script&gt;" in render(report_of(example_result()))


def test_sections_stand_in_the_order_of_the_specification():
    page = render(report_of(example_result()))
    sections = ("map", "findings", "cards", "groups", "errors", "shift", "hygiene", "actions", "trust", "method")
    places = [page.index(f'id="{name}"') for name in sections]
    assert page.index("<h1>") < places[0]
    assert places == sorted(places)
    assert places[-1] < page.index("clipaudit report RUN --seed 0")


def test_the_trust_section_says_how_often_shuffled_columns_are_believed_and_on_which_sample():
    audit = example_result()
    page = render(report_of(audit)).replace("\u00a0", " ")
    trust = page[page.index('id="trust"') :]
    assert "1 of 398 permuted columns" in trust  # 199 draws of 2 cues
    assert "on a sample of 4,000 of 5,794 scored images" in trust
    assert f"on {audit.controls.negative.rows:,} images" in trust
    assert "CLIP 1 of 398 permuted columns" in trust
    assert "A model trained on these images 0 of 398 permuted columns" in trust
    without = render(report_of(replace(audit, trust=replace(audit.trust, placebo=None))))
    assert "permuted column" not in without[without.index('id="trust"') :]


def test_the_first_screen_says_what_is_wrong_and_what_to_do():
    audit = example_result()
    page = render(report_of(audit))
    first = page[page.index("<h1>") : page.index("<nav")]
    first = first.replace("\u00a0", " ")
    assert "CLIP takes “water” for “waterbird”" in first
    assert "95 % of “waterbird” images come with “water”, 5 % of others." in first
    assert (
        "The image model CLIP recognises only 51 % of “waterbird” with “land” (95 % interval 48 % to 54 %, 642" in first
    )
    assert "but 96 % of “waterbird” with “water”." in first
    assert "closes 30 of the 40 points" in first, "the effect net of its controls"
    assert re.search(r"0\.90 <span class=\"limits\">\[0\.88, 0\.91\]", first), "number, interval"
    assert "4,795 images" in first, "and n"
    assert "Collect 1,001 images of waterbird without water" in first
    assert 'href="collect.csv"' in first, "what is needed for it is at hand"


def _plain(page):
    """The page with ordinary spaces and without tags."""
    return " ".join(re.sub("<[^>]+>", "", page.replace("\u00a0", " ")).split())


def test_intervals_that_are_wider_than_95_percent_say_so():
    """What was chosen among many has wider limits, which the JSON states."""
    first = confirmed()
    d = replace(first.association.d, level=0.995)
    chosen = replace(first, association=replace(first.association, d=d))
    audit = replace(example_result(), findings=(chosen,))
    page = _plain(render(report_of(audit)))
    assert "images, 99.5 % interval" in page
    assert "Brackets: 95 % intervals, of D 99.5 % ones" in page
    plain = replace(audit, findings=(first,), trust=replace(audit.trust, level=0.95))
    assert "99.5" not in _plain(render(report_of(plain)))


def test_of_more_than_two_values_the_first_screen_compares_with_the_cue_and_without():
    """The worst of several other bins looks worse than images without the cue are."""
    found = confirmed()
    middle = replace(found.groups.groups[0], value="harbour", accuracy=around(0.11, 0.02, 200))
    several = replace(found, groups=replace(found.groups, groups=(*found.groups.groups, middle)))
    clip = several.by("clip")
    against = min(cell.accuracy.value for cell in clip.cells if cell.conflicting)
    said = " ".join(finding_in_words(several))
    assert f"The image model CLIP answers only {100 * against:.0f} %" in said
    assert "harbour" not in said
    assert "Taking the cue out of the model closes" in said


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_file_that_the_action_names_is_linked_beside_it(verdict):
    words = Words(classes=("waterbird",), cue="water", side="has", others=("landbird",), column="place")
    said = action(verdict, words, 40)
    page = render(report_of(with_findings(replace(confirmed(), verdict=verdict, action=said))))
    first = page[page.index("<h1>") : page.index("<nav")]
    assert ('href="collect.csv"' in first) or "collect.csv" not in said


def test_a_columns_word_is_not_called_the_nearest_of_the_pool():
    for finding, said in ((confirmed(), "is the column’s word"), (candidate(), "is only the nearest")):
        page = _plain(render(report_of(replace(example_result(), findings=(replace(finding, no_good_word=True),)))))
        assert said in page


def test_values_that_say_nothing_alone_bring_their_column():
    bare = replace(confirmed(), cue=replace(confirmed().cue, attribute="attributes.hat", value="yes"))
    assert headline(with_findings(bare)) == "CLIP takes “hat yes” for “waterbird”"


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_is_said_in_plain_words(verdict):
    finding = replace(confirmed(), verdict=verdict)
    words = " ".join(plain_sentences(report_of(with_findings(finding))))
    images = "the images that count as “waterbird”" if verdict == Verdict.OBSERVED else "“waterbird” images"
    assert f"95 % of {images} come with “water”" in words
    reliant = verdict in (Verdict.CONFIRMED, Verdict.FAILS_WHERE, Verdict.MODEL_ONLY)
    assert ("Taking the cue out of the model closes" in words) == reliant
    assert (MEANING[verdict] in words) != reliant


def test_a_class_with_too_few_images_is_no_pass_on_the_page():
    result = with_findings()
    few = tuple(replace(facts, tested=False) for facts in result.classes)
    audit = replace(result, classes=few, verdict=Verdict.INCONCLUSIVE, sentence="Images still needed: dog: 9.")
    page = render(report_of(audit))
    first = page.partition("<nav")[0]
    assert "Nothing has to be done" not in page
    assert "Too few images: nothing could be tested" in first
    assert "Images still needed: dog: 9." in first
    assert "this is no pass" in first
    assert "No shortcut found" not in first


def test_one_left_out_sample_of_each_reason_is_shown():
    page = render(report_of(example_result()))
    assert "Such as, image cannot be decoded" in page
    assert "birds-000000.tar: 000017: it is empty" in page


def test_what_is_missing_is_said_on_the_first_screen():
    first = render(report_of(with_findings(inconclusive()))).partition("<nav")[0]
    assert "Missing: 93 more images, landbird with water." in first


def test_a_guessed_cue_is_never_shown_as_measured():
    """Where only a text says which images have the cue, no reliance is shown."""
    page = render(report_of(with_findings(candidate())))
    first, _, rest = page.partition("<nav")
    assert "points of the gap" not in first
    assert "accuracy with and without the cue" not in rest


def test_no_sample_is_shown_twice_on_a_card():
    finding = confirmed()
    again = replace(finding.gallery, least_spurious=finding.gallery.conflicting + finding.gallery.least_spurious)
    shown = [item.key for strip in strips(replace(finding, gallery=again), Pictures()) for item in strip.pictures]
    lacking = [sample for sample in again.conflicting if sample.class_name == finding.class_name]
    assert all(shown.count(sample.key) == 1 for sample in lacking)


def test_other_pages_are_linked():
    page = render(report_of(example_result()), see_also=(Link(title="<heads>", address="../heads.html"),))
    assert '<a href="../heads.html">&lt;heads&gt;</a>' in page


def test_without_attributes_it_never_says_more_than_candidate():
    page = render(report_of(with_findings(candidate())))
    first = page[page.index("<h1>") : page.index("<nav")]
    assert "Candidate shortcut" in first
    assert (
        "Confirmed"
        not in page[: page.index('id="method"')]
        .replace("Strongest verdict this input allows", "")
        .split('id="trust"')[0]
    )
    assert "cannot be told from class labels alone" in first.replace("\n", " ")


@pytest.mark.parametrize(
    ("source", "title", "how"),
    [
        (
            "caption",
            "Observed: “water” goes with what captions call “waterbird”",
            "an image counts as the class that its caption names. Of 6,085 images 4,795 are compared; 1,234 are left"
            " out because their caption names no class, 56 because it names more than one.",
        ),
        (
            "clip",
            "Observed: “water” goes with what CLIP calls “waterbird”",
            "an image counts as the class that CLIP itself answers. So this says what CLIP’s answers go with, right or"
            " wrong, and not what the classes go with. 56 images with an answer that several classes share are left"
            " out.",
        ),
    ],
)
def test_without_labels_the_first_screen_says_how_classes_were_got(source, title, how):
    audit = unlabelled_result(source, observed())
    page = render(report_of(audit)).replace("\u00a0", " ")
    first, _, rest = page.partition("<nav")
    assert title in first
    assert f"Labels were not used: {how}" in first
    assert "Label 100 of the images that count as waterbird and as many others by hand." in first
    assert "Gate undecided" in first
    assert "so nothing here is more than observed: only labels can decide." in rest
    assert "CLIP agrees" in rest
    assert "classes shuffled" in rest
    assert "1,234 without a class, 56 with more than one" in rest
    assert ("78.6 % [77.5, 79.7]" in rest) == (source == "caption")
    assert ("not measured: its answers are the classes" in rest) == (source == "clip")
    assert ("That is circular" in rest) == (source == "clip")
    assert "There are no attribute columns" not in rest
    assert not re.search(r"\b(nan|None)\b", page[page.index("<body") :])


def test_nothing_found_without_labels_is_no_pass():
    for source, called in (("caption", "captions call"), ("clip", "CLIP calls")):
        first = render(report_of(unlabelled_result(source))).partition("<nav")[0]
        assert f"No cue found that goes with what {called} a class" in first
        assert "No shortcut found" not in first
        assert "only labels can decide" in first
    strangers = unlabelled_result("caption")
    strangers = replace(strangers, trust=replace(strangers.trust, near_chance=True))
    first = render(report_of(strangers)).partition("<nav")[0]
    assert "match captions no more than by chance" in first


def test_with_labels_nothing_is_said_of_captions():
    page = render(report_of(example_result()))
    body = page[: page.index("<h3>The verdicts")]
    assert "Labels were not used" not in page
    assert "caption" not in re.sub(r"</?caption>", "", body[body.index("<body") :]).replace("<caption", "")


def test_nothing_found_says_what_would_have_been_found():
    page = render(report_of(with_findings()))
    assert "No shortcut found" in page
    assert "644 combinations of cue and class were tested on 4,795 images" in page
    assert "of 20 with strength 0.3, 19 were found; of 20 with strength 0.5, 20 were found." in page


def test_an_invalid_audit_says_so_before_anything_else():
    page = render(report_of(PAGES["not valid"]()))
    assert page.index("This audit is not valid") < page.index("The control failed.") < page.index('id="map"')
    first = page[: page.index("<nav")]
    assert "Do not act on this report" in first
    assert "Confirmed" not in first


def test_headlines_name_class_and_cue():
    both = replace(confirmed(), id="other", class_name="landbird", cue=replace(confirmed().cue, value="land"))
    assert headline(with_findings(confirmed(), both)) == "CLIP takes “water” for “waterbird”, and “land” for “landbird”"
    assert headline(with_findings(confirmed(), both, both)).endswith("– and 2 more")
    for verdict in Verdict:
        words = headline(with_findings(replace(confirmed(), verdict=verdict)))
        assert "water" in words
        assert "waterbird" in words or verdict is Verdict.TIED  # a column belongs to all classes


def test_no_number_is_shown_as_nan():
    audit = example_result()
    empty = replace(audit.findings[0].association.d, value=None, low=None, high=None)
    finding = replace(audit.findings[0], association=replace(audit.findings[0].association, d=empty))
    points = tuple(replace(point, association=empty, reliance=empty) for point in audit.map)
    page = render(report_of(replace(audit, findings=(finding,), map=points)))
    assert not re.search(r"\b(nan|None)\b", page[page.index("<body") :])


def test_many_findings_and_classes_stay_small():
    result = example_result()
    many = tuple(replace(confirmed(), id=f"{n:012x}", rank=n + 1, class_name=f"class {n}") for n in range(60))
    classes = tuple(replace(result.classes[0], class_name=f"class {n}") for n in range(1000))
    groups = tuple(replace(g, groups=g.groups * 400) for g in result.groups)
    points = tuple(replace(result.map[0], finding=finding.id) for finding in many) + result.map[3:] * 5000
    audit = replace(result, findings=many, classes=classes, groups=groups, map=points)
    page = render(report_of(audit))
    assert parse_errors(page) == []
    assert len(page) < 1_000_000
    assert page.count("<article") == 10
    assert "50 more findings are in" in page
    assert "The 10 most important of 60" in page


def test_pictures_stop_at_the_budget():
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = buffer.getvalue()
    length = len("data:image/png;base64,") + 4 * -(-len(data) // 3)
    kept = within_budget(((("shard", n), data) for n in range(10)), budget=3 * length)
    assert list(kept) == [("shard", 0), ("shard", 1), ("shard", 2)]
    assert kept["shard", 0].url.startswith("data:image/png;base64,")


def test_waivers_are_shown():
    from clipaudit.cues.report.waivers import Waiver, apply_waivers

    audit = example_result()
    waiver = Waiver(finding=confirmed().id, owner="<b>jo</b>", reason="studio shots", expires=date(2027, 1, 1))
    page = render(report_of(audit, apply_waivers((waiver,), audit, date(2026, 11, 21))))
    assert "waived until 2027-01-01" in page
    assert "&lt;b&gt;jo&lt;/b&gt;" in page


def test_the_table_of_findings_has_a_column_for_every_answerer():
    page = render(report_of(with_findings(confirmed())))
    table = page[page.index('<section id="findings">') : page.index("</table>", page.index('<section id="findings">'))]
    for heading in ("In the data, D", "Learned when trained on it", "CLIP", "Your model"):
        assert f">{heading}</th>" in table
    assert table.count("not measured") == 2, "nothing was trained, and no predictions were given"
    assert "+30.0" in table, "CLIP's effect net of controls"


def test_a_card_has_a_row_a_class_and_the_gap_before_and_after():
    finding = confirmed()
    page = render(report_of(with_findings(finding)))
    rows = page[page.index("Class by class") :]
    rows = rows[: rows.index("</table>")]
    for row in finding.classes:
        assert f"<bdi>{row.class_name}</bdi>" in rows
        assert ("has it" if row.has else "lacks it") in rows
    assert "CLIP's gap in points: as it is 40" in page.replace("&#39;", "'")


def test_a_model_that_cannot_tell_the_classes_is_named_on_the_first_screen():
    result = with_findings(confirmed())
    weak = replace(result, trust=replace(result.trust, near_chance=True))
    assert "this model cannot judge them" in render(report_of(weak))
    assert "this model cannot judge them" not in render(report_of(result))


@pytest.mark.parametrize(("p", "ending"), [(0.005, "does as much"), (0.094, "does as much; not significant")])
def test_the_p_value_of_a_card_says_when_it_is_not_significant(p, ending):
    finding = confirmed()
    reliance = tuple(replace(part, effect=part.effect and replace(part.effect, p=p)) for part in finding.reliance)
    assert numbers(replace(finding, reliance=reliance))[-1].about.endswith(ending)


def test_what_a_sample_is_of_is_said():
    result = example_result()
    negative = replace(result.controls.negative, rows=2000)
    placebo = replace(result.trust.placebo, rows=4000)
    sampled = replace(
        result,
        controls=replace(result.controls, negative=negative),
        trust=replace(result.trust, placebo=placebo),
        data=replace(result.data, rows=4795, counterfactual_rows=5794),
    )
    page = render(report_of(sampled))
    assert "on a sample of 2,000 of 4,795 images" in page
    assert "on a sample of 4,000 of 5,794 scored images" in page
    whole = replace(sampled, trust=replace(sampled.trust, placebo=replace(placebo, rows=5794)))
    assert "on 5,794 scored images" in render(report_of(whole))


def test_a_leak_between_train_and_test_names_both_images():
    ((trained, scored),) = example_result().hygiene.leaked_examples
    page = render(report_of(example_result()))
    first, second = (part.url.rpartition("/")[2] for part in (trained, scored))
    assert f"{trained.key} of {first} and {scored.key} of {second}" in page


def test_a_value_that_no_text_describes_is_not_listed_with_the_nearest_texts():
    def table(finding):
        page = render(report_of(with_findings(finding)))
        return page[page.index('<section id="findings">') :].partition("</table>")[0]

    text = confirmed().cue.words[1].text
    assert text in table(confirmed())
    without = table(replace(confirmed(), no_good_word=True))
    assert text not in without
    assert "no good word" in without
