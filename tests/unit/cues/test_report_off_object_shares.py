"""How much of a cue lies off the object, on the demo's birds, whose masks are known: the evidence of a report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clipaudit.cues.report import save_report
from clipaudit.cues.report.save import illustrated
from clipaudit.cues.result.off_object import NAME
from clipaudit.heads.texts.pool import pool_for
from clipaudit.heads.texts.vectors import RunTexts
from tests.audit_examples import confirmed, example_result
from tests.make_audits import audited_world

HEADS = ("L03H01", "L05H00", "L05H03", "L05H01")
"""The first that an audit of 4000 birds finds for water."""


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Waterbirds and their cue as an audit finds it, without the audit: its heads, its text, the class's scores."""
    run = audited_world(tmp_path_factory.mktemp("birds"), "birds", 450, 0)
    table = run.table(["shard_id", "index", "key", "label"])
    table = table.filter(pa.compute.equal(table["label"], 1)).drop_columns(["label"])
    text = RunTexts(run, "cpu").vectors(["a photo of a scene on the water"])[0]
    scores = run.embedding().values[run.labels() == 1].astype(np.float64) @ text
    cue = replace(confirmed().cue, heads=HEADS, opposite="a photo of a scene in a forest on land")
    word = replace(cue.words[1], text="a photo of a scene on the water", head=None)
    finding = replace(confirmed(), cue=replace(cue, words=(cue.words[0], word)))
    table = table.append_column("finding", pa.array([finding.id] * len(table)))
    settings = replace(example_result().settings, pool_fingerprint=pool_for("demo").fingerprint, templates="simple")
    result = replace(
        example_result(),
        run=run.directory.url,
        test_run=None,
        findings=(with_pictures(finding, run),),
        settings=settings,
        rows={**example_result().rows, "spuriosity": table.append_column("score", pa.array(scores))},
    )
    return run, result


def with_pictures(finding, run):
    """The finding with one sample of the run in its gallery."""
    row = run.table(["shard_id", "index", "key", "offset", "nbytes"]).slice(0, 1).to_pylist()[0]
    sample = replace(finding.gallery.aligned[0], url=run.manifest.shards[0].url, **row)
    return replace(finding, gallery=replace(finding.gallery, aligned=(sample,), conflicting=(), least_spurious=()))


def said(result, run, **options):
    found, _ = illustrated(result, [run], options.pop("heat", True), "cpu", **options)
    (item,) = [item for item in found.findings[0].evidence if item.name == NAME]
    rest = [one for one in found.findings[0].evidence if one is not item]
    assert rest == [one for one in result.findings[0].evidence if one.name != NAME]
    return item


def test_water_lies_off_the_birds_by_their_masks_and_by_estimate(birds):
    run, result = birds
    exact, again = said(result, run), said(result, run)
    assert exact == again, "the same seed gives the same numbers"
    assert exact.supports is True
    assert exact.sentence.endswith(
        "images of the class with the cue; the masks in the shards say where the object is)."
    )
    assert "'a photo of a scene on the water'" in exact.sentence
    guess = said(result, run, masks="other.png")
    assert guess.sentence.endswith("the model's other heads guess where the object is).")
    assert guess.supports is not False
    assert guess.value == pytest.approx(exact.value, abs=0.1)


def test_the_share_is_that_of_the_maps_on_the_masks(birds, monkeypatch):
    """Against the images read in order with their masks, all of the class."""
    from clipaudit.cues.report import off_object_shares
    from clipaudit.cues.report.heat import HeatMaps
    from clipaudit.localize.masks import MaskedShards, covered
    from clipaudit.localize.off_object import off_shares

    run, result = birds
    monkeypatch.setattr(off_object_shares, "IMAGES", 10**6)
    monkeypatch.setattr(off_object_shares, "otsu", lambda scores: -np.inf)
    exact = said(result, run)
    heat = HeatMaps(run, RunTexts(run, "cpu"), device="cpu")
    shown = heat.map_direction(result.findings[0])
    everything = MaskedShards([shard.url for shard in run.manifest.shards], heat.maps._reader, label="cls")
    own = [sample for sample in everything if sample.label == 1]
    scores, outliers = heat.maps.scorer(shown.heads, shown.direction)([sample.seen for sample in own])
    cover = np.stack([covered(sample.mask, scores.shape[1:]) for sample in own])
    share, _, mass = off_shares(scores.reshape(len(own), -1), cover, outliers.reshape(len(own), -1))
    assert exact.value == pytest.approx(np.nansum(share * mass) / mass[np.isfinite(share)].sum(), abs=1e-3)
    assert f"{np.isfinite(share).sum()} images" in exact.sentence
    texts = heat.texts.vectors(["a duck", "grass"])
    seen, several = [sample.seen for sample in own[:20]], ("L05H01", "L02H00")
    both = heat.maps.two(seen, (HEADS, texts[:1]), (several, texts[1:]))
    apart = [heat.maps.scorer(heads, text[None])(seen)[0] for heads, text in zip((HEADS, several), texts, strict=True)]
    np.testing.assert_allclose(both[:2], apart, atol=1e-6)


def test_what_was_not_measured_says_why(birds, monkeypatch):
    run, result = birds
    assert said(result, run, heat=False).sentence == "Not measured: the report was made without heat maps."
    assert said(result, run, pictures=False).sentence == "Not measured: the report was made without heat maps."
    few = result.rows["spuriosity"].slice(0, 9)
    item = said(replace(result, rows={**result.rows, "spuriosity": few}), run)
    assert "are too few, 10 are needed" in item.sentence
    wordless = replace(result.findings[0], cue=replace(result.findings[0].cue, words=()))
    item = said(replace(result, findings=(wordless,)), run)
    assert item.sentence == "Not measured: no text names the cue."
    headless = replace(result.findings[0], cue=replace(result.findings[0].cue, heads=()))
    item = said(replace(result, findings=(headless,)), run)
    assert item.sentence == "Not measured: no head is known to carry the cue."
    many = tuple(replace(result.findings[0], id=f"{number:012x}") for number in range(11))
    found, _ = illustrated(replace(result, findings=many), [run], True, "cpu")
    assert "only the first 10 findings" in str(found.findings[10].evidence)
    monkeypatch.setitem(run.manifest.model, "fingerprint", "another")
    heard = []
    item = said(result, run, note=heard.append)
    assert "other weights" in item.sentence
    assert heard == [f"no heat maps: {item.sentence.removeprefix('Not measured: ').rstrip('.')}"]
    assert item.supports is None
    assert item.value is None


def test_an_unreadable_shard_is_the_reason(birds):
    run, result = birds
    path = Path(run.manifest.shards[0].url)
    pictures = said(result, run)
    moved = path.rename(path.with_suffix(".gone"))
    try:
        assert said(result, run).sentence == "Not measured: no image of the findings can be read from the shards."
    finally:
        moved.rename(path)
    assert said(result, run) == pictures


def test_the_report_says_it_on_the_page_and_in_the_json(birds, tmp_path):
    run, result = birds
    item = said(result, run)
    save_report(result, tmp_path / "out", device="cpu")
    found = json.loads((tmp_path / "out/report.json").read_text())["audit"]["findings"][0]["evidence"]
    assert [one["sentence"] for one in found if one["name"] == NAME] == [item.sentence]
    assert "lies off the object; spread evenly it would be" in (tmp_path / "out/index.html").read_text()
