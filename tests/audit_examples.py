"""A realistic, filled audit result for tests of whatever shows one; its numbers are invented but consistent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from clipaudit.cues.findings.verdicts import VerdictCase
from clipaudit.cues.result.finding_parts import (
    Association,
    CellTable,
    ClassesFrom,
    ClassRow,
    Cue,
    CueWord,
    Distribution,
    Distributions,
    Estimate,
    Evidence,
    Gallery,
    GroupAccuracy,
    Groups,
    Need,
    Predictability,
    Rival,
    SampleRef,
    Stability,
    Verdict,
    strength_word,
)
from clipaudit.cues.result.mistake_parts import AnswererErrors, DoubtfulLabel, DoubtfulLabels, ErrorSlice, LabelPair
from clipaudit.cues.result.panels import (
    AttributeTable,
    ClassDifference,
    ClassFacts,
    Controls,
    Data,
    Dropped,
    HeadShift,
    Hygiene,
    LeftOut,
    MapPoint,
    NegativeControl,
    PositiveControl,
    Settings,
    Shift,
    ShiftRow,
    SourceFacts,
    StateRead,
    Trust,
)
from clipaudit.cues.result.reliance_parts import (
    AnswererPlacebo,
    Arm,
    CellAccuracy,
    CellExamples,
    Counterfactual,
    CueSide,
    DosePoint,
    LabelNoise,
    Placebo,
    Reliance,
)
from clipaudit.cues.result.result import SCHEMA_VERSION, AuditResult, Finding, finding_id

MODEL = "demo"
CLASSES = ("landbird", "waterbird")
PLACES = ("land", "water")
TRAIN, TEST = "attributes.split = train", "attributes.split = test"
_HOSTILE = "<script>alert('key')</script>"


def around(value: float, half: float, n: int, level: float = 0.95) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=n, level=level)


def sample(number: int, label: int = 1, value: str = "water", key: str | None = None) -> SampleRef:
    return SampleRef(
        shard_id=number % 3,
        index=number,
        key=key if key is not None else f"birds-{number:06d}",
        url=f"/data/birds-{number % 3:06d}.tar",
        offset=512 + 10_240 * number,
        nbytes=9_000 + number,
        label=label,
        class_name=CLASSES[label],
        predicted=CLASSES[PLACES.index(value)],
        predicted_without=CLASSES[label],
        value=value,
        score=0.31 - 0.01 * number,
    )


def error_slice(answerer: str = "rehearsed") -> ErrorSlice:
    return ErrorSlice(
        id="5ca1ab1e0000",
        answerer=answerer,
        class_name="waterbird",
        label=1,
        kind="text",
        name="a sketch",
        value=None,
        description="“waterbird” that looks like “a sketch”",
        sentence="Of 206 images of “waterbird” that look like “a sketch” 61 % [53, 69] are wrong, of 350 others 9 %.",
        same=("a pencil drawing",),
        fit=0.31,
        no_good_word=True,
        images=412,
        wrong=around(0.61, 0.08, 206),
        others=around(0.09, 0.03, 350),
        difference=around(0.52, 0.08, 556),
        lift=around(6.8, 1.9, 556),
        share_of_errors=0.8,
        taken_for=(("landbird", 250),),
        q=1e-12,
        wrong_examples=(sample(40, value="land"), sample(41, value="land")),
        right_examples=(sample(42),),
    )


def answerer_errors(answerer: str = "rehearsed", *slices: ErrorSlice) -> AnswererErrors:
    count = f"{len(slices)} kinds of images are wrong more often" if slices else "The errors look random"
    return AnswererErrors(
        answerer=answerer,
        images=2897,
        wrong=312,
        searched=CLASSES,
        too_few=(),
        tests=5,
        slices=slices,
        sentence=f"It is wrong on 312 of 2,897 images. {count}.",
    )


def doubtful_labels() -> DoubtfulLabels:
    image = replace(sample(50, value="land"), predicted="landbird")
    return DoubtfulLabels(
        images=4795,
        contradicted=60,
        listed=34,
        fdr=0.15,
        expected_wrong=28.9,
        wrong_share=0.01,
        pairs=(
            LabelPair(label="waterbird", looks_like="landbird", images=30),
            LabelPair(label="landbird", looks_like="waterbird", images=4),
        ),
        examples=(DoubtfulLabel(image=image, margin=-3.1, rate=0.02, duplicate_conflict=False),),
        sentence="34 of 4,795 labels to look at: about 29 of them are wrong (false-discovery rate 15 %).",
    )


def group(class_name: str, value: str, n: int, before: float, after: float | None) -> GroupAccuracy:
    return GroupAccuracy(
        class_name=class_name,
        value=value,
        n=n,
        independent=n,
        size="may gate" if n >= 100 else "shown" if n >= 30 else "greyed" if n >= 10 else "count only",
        accuracy=around(before, 0.03, n, 0.9875) if n >= 10 else None,
        without=around(after, 0.03, n, 0.9875) if after is not None and n >= 10 else None,
        change=around(after - before, 0.02, n) if after is not None and n >= 10 else None,
    )


def groups(replaced: bool) -> Groups:
    figures = {
        ("landbird", "land"): (2255, 0.97, 0.95),
        ("landbird", "water"): (2255, 0.62, 0.88),
        ("waterbird", "land"): (642, 0.51, 0.86),
        ("waterbird", "water"): (642, 0.96, 0.93),
    }
    found = tuple(group(*key, n, before, after if replaced else None) for key, (n, before, after) in figures.items())
    return Groups(
        attribute="attributes.place",
        rows=TEST,
        groups=found,
        plain_average=around(0.786, 0.011, 5794),
        train_weighted=0.943,
        group_mean=around(0.765, 0.013, 5794),
        worst=found[2],
        gap=0.276,
        gap_if_equal=0.019,
        n_min=30,
        left_out=("landbird, desert: 4 images",),
    )


def cue(value: str = "water") -> Cue:
    texts = {
        "water": ("a lake", "a photo of the ocean", "waves"),
        "land": ("a forest", "a photo of bamboo", "trees"),
    }[value]
    heads = ("L03H05", "L02H01", "L03H05")
    words = tuple(
        CueWord(text=text, property="location", kind="context-like", head=head, d=0.83 - 0.1 * place)
        for place, (text, head) in enumerate(zip(texts, heads, strict=True))
    )
    first = CueWord(text=value, property="attribute", kind="context-like", head=None, d=0.9)
    return Cue(
        name=f"{value}: {texts[0]}",
        words=(first, *words),
        opposite="a forest" if value == "water" else "a lake",
        heads=("L03H05", "L02H01"),
        attribute="attributes.place",
        value=value,
        class_part=0.82,
    )


def association(d: float = 0.898, **changes: object) -> Association:
    found = Association(
        rows=TRAIN,
        d=around(d, 0.014, 4795),
        d_plain=0.91,
        strength=strength_word(d),
        rivals=(Rival(class_name="waterbird", d=d, n=1113), Rival(class_name="landbird", d=-d, n=3682)),
        replication=0.891,
        replicated=True,
        corrected=None,
        p=1e-300,
        q=1e-299,
        p_family=0.005,
        delta=0.2,
        above_delta=True,
        within_delta=False,
        cramers_v=0.86,
        odds_ratio=Estimate(value=355.0, low=262.0, high=482.0, n=4795),
        alignment=0.95,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def counterfactual(net: float = 0.3) -> Counterfactual:
    arms: tuple[tuple[Any, float], ...] = (("whole heads", net), ("direction only", 0.22), ("text in all heads", 0.05))
    return Counterfactual(
        heads=("L03H05", "L02H01"),
        heads_named=True,
        gap_before=around(0.40, 0.03, 5794),
        gap_after=around(0.40 - net, 0.03, 5794),
        did=around(net + 0.01, 0.03, 5794),
        net_did=around(net, 0.03, 5794),
        conflict_rise=around(0.29, 0.02, 2897),
        net_conflict_rise=around(0.28, 0.02, 2897),
        aligned_change=around(-0.02, 0.01, 2897),
        group_mean_change=around(0.14, 0.015, 5794),
        p=0.005,
        control="matched head sets",
        control_sets=200,
        control_band=(0.35, 0.45),
        matched="as many heads of each layer, class margin variance within a factor of 2",
        visibility=around(0.91, 0.01, 2897),
        doses=tuple(
            DosePoint(
                alpha=alpha,
                gap=around(0.40 - net * alpha, 0.03, 5794),
                aligned=around(0.965 - 0.02 * alpha, 0.01, 2897),
                conflicting=around(0.565 + 0.29 * alpha, 0.02, 2897),
            )
            for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)
        ),
        arms=tuple(
            Arm(
                name=name,
                did=around(did, 0.03, 5794),
                net_did=around(did, 0.03, 5794),
                delta_conflict=around(0.29, 0.02, 2897) if name == "whole heads" else None,
            )
            for name, did in arms
        ),
    )


def cell_examples() -> tuple[CellExamples, ...]:
    """Scored images of the cells that show best what water does."""
    return (
        CellExamples(class_name="waterbird", conflicting=False, images=(sample(21), sample(22))),
        CellExamples(class_name="waterbird", conflicting=True, images=(sample(23, value="land"),)),
        CellExamples(class_name="landbird", conflicting=True, images=(sample(24, label=0),)),
    )


def reliance(verdict: Verdict = Verdict.CONFIRMED, **changes: Any) -> Reliance:
    """What CLIP makes of water and land."""
    figures = {
        ("landbird", False): (2255, 0.97),
        ("landbird", True): (2255, 0.62),
        ("waterbird", True): (642, 0.51),
        ("waterbird", False): (642, 0.96),
    }
    side = CueSide(d=around(0.61, 0.03, 2897), p=1e-9)
    base = Reliance(
        answerer="clip",
        verdict=verdict,
        sentence="waterbird goes with water, and CLIP relies on it.",
        state="able",
        cells=tuple(
            CellAccuracy(class_name=name, conflicting=conflicting, accuracy=around(value, 0.03, n, 0.9875))
            for (name, conflicting), (n, value) in figures.items()
        ),
        group_mean=around(0.765, 0.013, 5794),
        chance=0.5,
        gap=around(0.40, 0.03, 5794),
        gap_90=around(0.40, 0.025, 5794, 0.9),
        gap_p=0.005,
        margin_d=around(0.62, 0.02, 5794),
        margin_d_90=around(0.62, 0.017, 5794, 0.9),
        have=side,
        lack=side,
        both_sides=True,
        label_noise=LabelNoise(rate=None, rate_low=None, needed=0.03, counts=True),
        adjusted=(),
        explained_by=(),
        inseparable_from=(),
        does_not_hang_on_it=False,
        corrected_gap=None,
        effect=counterfactual(),
    )
    return replace(base, **changes)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the rules of reliance say of an answerer."""

    answerer: str = "clip"
    relies_on_it: bool = False
    fails_where: bool = False
    needed: bool = False
    does_not_hang_on_it: bool = False


def case(**changes: Any) -> VerdictCase:
    """A value that goes with its class and that the model relies on, but for some changes."""
    base = VerdictCase(
        kind="value",
        classes_from="label",
        association=association(),
        reliance=(Rules(relies_on_it=True, fails_where=True),),
    )
    return replace(base, **changes)


def class_rows(has: str = "waterbird", named: bool = True) -> tuple[ClassRow, ...]:
    value = PLACES[CLASSES.index(has)]
    counts = {"landbird": (184, 3498), "waterbird": (1057, 56)}
    return tuple(
        ClassRow(
            class_name=name,
            label=label,
            has=name == has,
            named=named,
            d=around(0.898 if name == has else -0.898, 0.014, 4795),
            n=(3682, 1113)[label],
            independent=(3680, 1110)[label],
            share=around((0.05, 0.95)[label], 0.01, (3682, 1113)[label]),
            with_cue=counts[name][0] if value == "water" else counts[name][1],
            without_cue=counts[name][1] if value == "water" else counts[name][0],
            collect=(3314, 1001)[label],
            collect_value=PLACES[1 - label],
        )
        for label, name in sorted(enumerate(CLASSES), key=lambda pair: pair[1] != has)
    )


def cells() -> CellTable:
    return CellTable(
        source="attributes.place",
        corrected=False,
        classes=CLASSES,
        values=PLACES,
        counts=((3498.0, 184.0), (56.0, 1057.0)),
        expected=((2729.1, 952.9), (824.9, 288.1)),
        missing=0,
    )


def distributions() -> Distributions:
    rng = np.random.default_rng(1)
    edges = np.linspace(-0.4, 0.4, 33)
    series = []
    for name, class_name, centre, n in (("waterbird", "waterbird", 0.12, 1113), ("all others", "landbird", -0.1, 3682)):
        counts, _ = np.histogram(rng.normal(centre, 0.08, n).clip(-0.39, 0.39), bins=edges)
        series.append(Distribution(name=name, class_name=class_name, value=None, n=n, counts=tuple(map(int, counts))))
    return Distributions(label="a lake (L03H05)", edges=tuple(map(float, edges)), series=tuple(series))


def evidence() -> tuple[Evidence, ...]:
    return (
        Evidence(
            name="semantic distance",
            supports=True,
            value=0.21,
            sentence="The text 'a lake' is no closer to the class name 'waterbird' than most texts are (cosine 0.21).",
        ),
        Evidence(name="off the object", supports=None, value=None, sentence="Not measured: the run stores no tokens."),
        Evidence(
            name="stability",
            supports=True,
            value=0.04,
            sentence="The association is the same in all 5 shards (I² = 4 %).",
        ),
    )


def gallery() -> Gallery:
    return Gallery(
        aligned=tuple(sample(number) for number in range(6)),
        conflicting=(
            *(sample(number, value="land") for number in range(6, 9)),
            *(sample(number, label=0) for number in range(9, 12)),
        ),
        least_spurious=tuple(sample(number, value="land") for number in range(12, 18)),
        drawn="Drawn at random from each cell, right and wrong answers in proportion.",
    )


def confirmed() -> Finding:
    return Finding(
        id=finding_id(MODEL, "waterbird", cue().name),
        former_ids=(finding_id(MODEL, "waterbird", "attributes.place=water"),),
        rank=1,
        verdict=Verdict.CONFIRMED,
        kind="value",
        sentence=(
            "waterbird goes with water (D = 0.90, 95 % interval 0.88 to 0.91, n = 4,795), and CLIP relies on it:"
            " without L03H05 and L02H01, accuracy on conflicting images rises by 30.0 points (28.0 to 32.0, n = 2,897)."
        ),
        action="Collect 1,001 images of waterbird without water, or use weights.parquet when you train.",
        class_name="waterbird",
        label=1,
        side="both",
        classes=class_rows(),
        cue=cue(),
        association=association(),
        reliance=(reliance(),),
        explained_by=(),
        inseparable_from=(),
        core=False,
        groups=groups(replaced=True),
        cells=cells(),
        distributions=distributions(),
        evidence=evidence(),
        false_alarm=(
            "If waterbirds will always be on water where the model is used, the cue is useful and no fault.",
            "The direct effect of these heads is measured; later layers that read them are not.",
        ),
        needs=(),
        stability=Stability(
            by="shard",
            environments=tuple(f"birds-{number:06d}.tar" for number in range(5)),
            d=tuple(around(0.89 + 0.005 * number, 0.03, 959) for number in range(5)),
            cochran_q=4.17,
            p=0.38,
            i_squared=0.04,
        ),
        gallery=gallery(),
        no_good_word=False,
        merged=7,
    )


def candidate() -> Finding:
    name = "a colorful photo <of> \"people\" & 'hats'"
    words = (CueWord(text=name, property="style_medium", kind="context-like", head="L01H02", d=0.41),)
    return Finding(
        id=finding_id(MODEL, "landbird", name),
        former_ids=(),
        rank=2,
        verdict=Verdict.CANDIDATE,
        kind="text",
        sentence=f"landbird goes with '{name}' (D = 0.41); whether that is a shortcut cannot be told from labels.",
        action="Add a column that says which images have it, and audit again with --attribute.",
        class_name="landbird",
        label=0,
        side="both",
        classes=tuple(
            replace(row, share=None, with_cue=None, without_cue=None, collect=0, collect_value=None)
            for row in class_rows("landbird")
        ),
        cue=Cue(
            name=name,
            words=words,
            opposite=None,
            heads=("L01H02",),
            attribute=None,
            value=None,
            class_part=0.95,
        ),
        association=association(0.41, cramers_v=None, odds_ratio=None, alignment=None, p_family=None, d_plain=0.44),
        reliance=(),
        explained_by=(),
        inseparable_from=(),
        core=False,
        groups=None,
        cells=replace(
            cells(),
            source=f"pseudo-attribute: {name}",
            corrected=True,
            values=("without cue", "with cue"),
            counts=((3301.5, 290.1), (80.2, 901.0)),
            missing=959,
            purity=0.61,
            error_rates=(0.08, 0.11),
        ),
        distributions=distributions(),
        evidence=evidence(),
        false_alarm=("It may belong to the class itself: only attribute labels can tell.",),
        needs=(Need(what="a column that says whether an image has the cue", images=None),),
        stability=None,
        gallery=Gallery(
            aligned=(sample(1, 0, key=_HOSTILE),), conflicting=(), least_spurious=(), drawn="Drawn at random."
        ),
        no_good_word=False,
        merged=1,
    )


def inconclusive() -> Finding:
    found = confirmed()
    return replace(
        found,
        id=finding_id(MODEL, "landbird", cue("land").name),
        rank=3,
        verdict=Verdict.INCONCLUSIVE,
        class_name="landbird",
        label=0,
        cue=cue("land"),
        sentence="landbird goes with land (D = 0.90), but 7 images of landbird on water are too few to say more.",
        action="Add at least 93 images of landbird with water to the rows that are scored.",
        former_ids=(),
        classes=class_rows("landbird"),
        reliance=(reliance(Verdict.INCONCLUSIVE, state="too few", effect=None),),
        needs=(Need(what="landbird with water", images=93),),
    )


def observed() -> Finding:
    return replace(
        confirmed(),
        verdict=Verdict.OBSERVED,
        sentence="Images whose captions name waterbird go with 'water' (D = 0.90); without labels nobody can say more.",
        action="Label 100 of the images that count as waterbird and as many others by hand.",
        reliance=(),
        groups=None,
        needs=(Need(what="class labels", images=None),),
    )


def unlabelled_result(classes_from: ClassesFrom = "caption", *findings: Finding) -> AuditResult:
    """Of a run without labels."""
    found = example_result()
    point = replace(found.map[0], verdict=Verdict.OBSERVED, reliance=None)
    return replace(
        found,
        verdict=Verdict.OBSERVED if findings else None,
        findings=findings,
        map=(point,) * len(findings),
        groups=(),
        errors=(),
        labels=None,
        trust=replace(found.trust, accuracy=found.trust.accuracy if classes_from == "caption" else None),
        data=replace(
            found.data,
            counterfactual=None,
            evidence=Verdict.OBSERVED,
            left_out=LeftOut(unnamed=1234, ambiguous=56),
            test_left_out=None,
        ),
        settings=replace(found.settings, classes_from=classes_from),
        rows={name: table for name, table in found.rows.items() if name not in ("weights", "balanced", "collect")},
    )


def example_result() -> AuditResult:
    findings = (confirmed(), candidate(), inconclusive())
    points = tuple(
        MapPoint(
            finding=found.id,
            class_name=found.class_name,
            cue=found.cue.name,
            verdict=found.verdict,
            association=found.association.d,
            reliance=None if found.counterfactual is None else found.counterfactual.net_did,
        )
        for found in findings
    )
    other = MapPoint(
        finding=None,
        class_name="landbird",
        cue="a red picture",
        verdict=None,
        association=around(0.05, 0.04, 4795),
        reliance=around(0.001, 0.01, 2897),
    )
    return AuditResult(
        schema_version=SCHEMA_VERSION,
        run="/runs/birds",
        test_run=None,
        model=MODEL,
        model_fingerprint="0f" * 32,
        run_fingerprint="a1" * 8,
        state=StateRead(generation=0, committed_at="2026-11-01T12:00:00+00:00"),
        test_state=None,
        verdict=Verdict.CONFIRMED,
        sentence=findings[0].sentence,
        findings=findings,
        map=(*points, other),
        classes=tuple(
            ClassFacts(
                class_name=name,
                label=label,
                n=(3682, 1113)[label],
                independent=(3680, 1110)[label],
                tested=True,
                accuracy=around((0.8, 0.735)[label], 0.02, 2000),
            )
            for label, name in enumerate(CLASSES)
        ),
        attributes=(
            AttributeTable(
                attribute="attributes.place",
                cells=cells(),
                cramers_v=0.86,
                p=0.002,
                kind="text",
                tied=True,
                multi_class_auc=None,
                d=None,
                decided=True,
                known_error=None,
            ),
        ),
        differences=(
            ClassDifference(
                having=("landbird",),
                lacking=("waterbird",),
                text="a red picture",
                head="L01H07",
                d=around(0.31, 0.05, 2397),
            ),
        ),
        groups=(groups(replaced=False),),
        predictability=(
            Predictability(
                head="L03H05",
                skill=around(0.71, 0.03, 4795),
                skill_class_free=around(0.66, 0.03, 4795),
                cue_share=0.93,
            ),
            Predictability(
                head="L00H00",
                skill=around(0.0, 0.01, 4795),
                skill_class_free=around(-0.002, 0.01, 4795),
                cue_share=None,
            ),
        ),
        shift=Shift(
            train=TRAIN,
            test=TEST,
            rows=(
                ShiftRow(
                    class_name="waterbird",
                    cue="water",
                    head=None,
                    train=around(0.898, 0.014, 4795),
                    test=around(0.0, 0.03, 5794),
                    difference=around(0.898, 0.033, 10_589),
                    p=1e-200,
                    q=1e-198,
                    shifted=True,
                ),
            ),
            heads=(HeadShift(head="L03H05", distance=0.31, toward="a lake", away="a forest"),),
        ),
        errors=(answerer_errors("rehearsed", error_slice()), answerer_errors("given:resnet")),
        labels=doubtful_labels(),
        rehearsal=None,
        given=(),
        hygiene=Hygiene(
            unreadable={"undecodable": 2},
            unreadable_examples={"undecodable": "birds-000000.tar: 000017: it is empty"},
            failed_shards=0,
            truncated_shards=1,
            duplicate_clusters=3,
            duplicate_images=7,
            mixed_label_clusters=1,
            leaked_clusters=1,
            leaked_examples=((sample(22), sample(23)),),
            examples=((sample(20), sample(21)),),
            balance=0.302,
        ),
        controls=Controls(
            negative=NegativeControl(
                audits=20, mean_findings=0.0, share_with_any=0.0, limit=0.05, rows=4795, valid=True
            ),
            positive=(
                PositiveControl(d=0.3, trials=20, detected=19, named=19, rows=4795),
                PositiveControl(d=0.5, trials=20, detected=20, named=20, rows=4795),
            ),
        ),
        trust=Trust(
            valid=True,
            problems=(),
            tests=644,
            directions=320,
            heads=16,
            accuracy=around(0.786, 0.011, 5794),
            near_chance=False,
            mean_source="/runs/birds, attributes.split = train, every label with equal weight",
            placebo=Placebo(
                draws=199,
                cues=2,
                answerers=2,
                rows=4000,
                believed=1,
                rate=0.00125,
                rate_of_any=0.005,
                by_answerer=(
                    AnswererPlacebo(answerer="clip", believed=1, tried=398, rate=0.0025),
                    AnswererPlacebo(answerer="rehearsed", believed=0, tried=398, rate=0.0),
                ),
            ),
            level=0.995,
            sources=(SourceFacts(name="shard", levels=3, icc=0.001, p=0.4, used=False, rows=4000),),
            embedding_share=0.64,
            limits=("Only direct effects of heads are measured.", "What CLIP does not see is not found."),
        ),
        dropped=(
            Dropped(what="a bird", head="L03H00", reason="indistinguishable from the class prompt"),
            Dropped(what="a tree", head="L03H01", reason="indistinguishable from the class prompt"),
        ),
        data=Data(
            association=TRAIN,
            counterfactual=TEST,
            rows=4795,
            counterfactual_rows=5794,
            discovery_rows=2897,
            confirmation_rows=2897,
            clusters=4790,
            attributes=("attributes.place",),
            evidence=Verdict.CONFIRMED,
            left_out=LeftOut(unnamed=0, ambiguous=0),
            test_left_out=LeftOut(unnamed=0, ambiguous=0),
        ),
        settings=Settings(
            alpha=0.05,
            delta_warn=0.2,
            delta_fail=0.4,
            directions_per_head=20,
            n_min=30,
            permutations=199,
            random_sets=1000,
            negative_audits=20,
            positive_trials=20,
            margin=0.05,
            core=(),
            clean_labels=False,
            seed=0,
            pool="clipaudit's own pool",
            pool_fingerprint="b2" * 32,
            classes="/data/classnames.txt",
            classes_from="label",
            templates="imagenet",
            user_texts=(),
        ),
        versions={"clipaudit": "0.1.0", "numpy": np.__version__, "scipy": "1.17.1"},
        started="2026-11-21T08:30:00+00:00",
        seconds=41.5,
        rows=example_rows(),
    )


def example_rows() -> dict[str, pa.Table]:
    """Small tables of the exports' columns."""
    number = np.arange(6)
    identity = {
        "shard_id": pa.array(number % 3, pa.int32()),
        "index": pa.array(number, pa.int32()),
        "key": pa.array([f"birds-{n:06d}" for n in number]),
        "class": pa.array([CLASSES[n % 2] for n in number]),
    }
    place = pa.array([PLACES[n % 2] for n in number])
    finding = pa.array([confirmed().id] * 6)
    reason = pa.array(["conflicts with the cue"] * 6)
    return {
        "groups": pa.table({**identity, "rows": pa.array(["association"] * 6), "attributes.place": place}),
        "weights": pa.table({**identity, "attributes.place": place, "weight": pa.array(np.linspace(0.3, 21.4, 6))}),
        "balanced": pa.table(identity),
        "collect": pa.table(
            {
                "class": pa.array(CLASSES),
                "attribute": pa.array(["attributes.place"] * 2),
                "value": pa.array(["water", "land"]),
                "have": pa.array([184, 56]),
                "collect": pa.array([3314, 1001]),
                "finding": pa.array([confirmed().id] * 2),
            }
        ),
        "spuriosity": pa.table(
            {"finding": finding, **identity, "score": pa.array(np.linspace(0.3, -0.2, 6)), "rank": pa.array(number + 1)}
        ),
        "review": pa.table({"finding": finding, **identity, "reason": reason}),
        "slices": pa.table(
            {
                "answerer": pa.array(["rehearsed"] * 6),
                "slice": pa.array([error_slice().id] * 6),
                **identity,
                "wrong": pa.array([True, False] * 3),
            }
        ),
        "answers": pa.table(
            {
                **identity,
                "clip": pa.array([CLASSES[0]] * 6),
                "rehearsed": pa.array([CLASSES[1]] * 6),
                f"clip.without.{confirmed().id}": pa.array([CLASSES[1]] * 6),
            }
        ),
    }
