"""Numbers and verdicts in plain words, the same on the page, in Markdown and in JUnit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from clipaudit.cues.result.column_words import value_word
from clipaudit.cues.result.finding_parts import ClassesFrom, Estimate, Verdict
from clipaudit.cues.result.panels import Settings
from clipaudit.cues.result.reliance_parts import Reliance
from clipaudit.cues.result.result import AuditResult, Finding

NONE: Final = "–"

SHORT: Final = {
    Verdict.CONFIRMED: "Confirmed shortcut",
    Verdict.MODEL_ONLY: "Model shortcut",
    Verdict.DATA_ONLY: "Data shortcut",
    Verdict.FAILS_WHERE: "Fails without the cue",
    Verdict.NEEDED: "Needed by the model",
    Verdict.TIED: "Tied column",
    Verdict.CANDIDATE: "Candidate",
    Verdict.OBSERVED: "Observed",
    Verdict.INCONCLUSIVE: "Inconclusive",
}
"""Each verdict as a label."""

MEANING: Final = {
    Verdict.CONFIRMED: "The cue goes with the class in your data, and the model leans on it, or on what goes with it:"
    " where the cue points the wrong way it errs more, and less so once the cue is taken away.",
    Verdict.FAILS_WHERE: "The cue goes with the class in your data, and the model errs more where the cue is missing or"
    " points the wrong way, inside the same class.",
    Verdict.NEEDED: "Without the cue the model answers images that have it worse. Part of the class, or a shortcut?"
    " Somebody has to decide.",
    Verdict.TIED: "The column as a whole goes with the classes, though no single value does strongly enough.",
    Verdict.MODEL_ONLY: "The model leans on the cue, but in these images it does not go with the class. It will show in"
    " data where it does.",
    Verdict.DATA_ONLY: "The cue goes with the class in your data, but the answers that were measured do not hang on it."
    " A model that is trained on these images may still learn it.",
    Verdict.CANDIDATE: "The cue goes with the class. Whether it is a shortcut or part of the class cannot be told from"
    " class labels alone: look at the pictures, or label the cue.",
    Verdict.OBSERVED: "The cue goes with images that captions, or CLIP itself, put into the class. Without labels"
    " nobody can say whether the class really comes with it, or whether a model leans on it.",
    Verdict.INCONCLUSIVE: "There is not enough data to say; the card says how much more is needed.",
}
_OF_SEVERAL: Final = {
    Verdict.CONFIRMED: "The cue goes with the label in your data, and a model trained on them leans on it, or on what"
    " goes with it: where the cue is missing or misleads it ranks the label worse, and less so once training balances"
    " the two.",
    Verdict.FAILS_WHERE: "The cue goes with the label in your data, and a model trained on them ranks the label worse"
    " where the cue is missing or misleads.",
    Verdict.TIED: "A column, or another label, goes with the label. A model may learn one from the other: whether it"
    " does was not measured, and the card says why.",
    Verdict.CANDIDATE: "The cue goes with the label. Whether it is a shortcut or part of what the label means cannot be"
    " told from labels alone: look at the pictures, or label the cue.",
}
"""`MEANING` where images may have several labels."""
"""What each verdict says, for readers who have not seen one."""

GLOSSARY: Final = (
    ("cue", "something visible, named by a text, that may or may not belong to the class: water, snow, a purple tint"),
    ("shortcut", "a cue that is not part of the class but goes with it, so that a model can be right for the wrong"
     " reason, and wrong where the cue is missing"),
    ("conflicting images", "images in which cue and class disagree: the class without its cue, another class with it."
     " A shortcut fails there"),
    ("D", "how well the cue alone tells the class from the others: 0 not at all, 1 perfectly. Below 0.1 is negligible,"
     " to 0.3 small, to 0.5 moderate, above strong. It does not change with how frequent the class is"),
    ("points", "percentage points of accuracy: from 40 % to 55 % is 15 points"),
    ("95 % interval", "where the true number would lie in 95 of 100 repetitions of such an audit with new images"),
    ("head", "one of the many small parts (attention heads) whose sum is CLIP’s image embedding. L10H03 is head 3 of"
     " layer 10"),
    ("replaced by its mean", "a head’s contribution is swapped for its average over images, so that it no longer says"
     " anything about this image; then every image is answered again"),
    ("worst group", "the class and cue combination with the lowest accuracy, among those with enough images"),
    ("gap", "inside a class, accuracy where the cue points to the class minus where it points elsewhere"),
    ("net of controls", "minus what taking other heads, alike in number, layers and influence, does to the same gap"),
    ("rehearsal", "a linear probe is trained on the stored embeddings of your own images, to see what a model would"
     " learn from them, and again in ways that may mend it"),
    ("group weights", "each image weighs so that every class and cue combination counts alike in training"),
    ("zero-shot", "CLIP compares each image with texts such as “a photo of a waterbird”; no training on your data"),
    ("near duplicates", "copies of one picture, also resized or saved again: together one independent image"),
)  # fmt: skip

STATUS: Final = {
    "missing_image": "no image",
    "undecodable": "image cannot be decoded",
    "too_large": "image too large",
    "missing_label": "no label",
    "bad_label": "label of the wrong type",
    "bad_metadata": "metadata cannot be read",
    "duplicate_key": "key used twice",
    "bad_name": "unsafe file name",
    "not_finite": "no finite result",
}
"""Row statuses in words."""


CLASSES: Final[dict[ClassesFrom, str]] = {
    "label": "Classes are those of the labels",
    "caption": "Classes are what captions name",
    "clip": "Classes are CLIP’s own answers",
}
"""Where images' classes come from."""
_CALLED: Final[dict[ClassesFrom, str]] = {"label": "", "caption": "what captions call ", "clip": "what CLIP calls "}


@dataclass(frozen=True, kw_only=True)
class Number:
    """One of the numbers that a finding rests on."""

    value: str
    limits: str
    about: str


def slug(verdict: Verdict) -> str:
    """A verdict as a CSS class and a command-line word: `confirmed`, `model-only`."""
    return verdict.name.lower().replace("_", "-")


def count(value: float) -> str:
    """`4,795`; corrected counts keep one decimal."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count(number)} {noun}" + ("" if number == 1 else "s")


def sample(number: int, total: int, noun: str) -> str:
    """`4,795 images`, or `a sample of 2,000 of 4,795 images`."""
    return counted(number, noun) if number >= total else f"a sample of {count(number)} of {counted(total, noun)}"


def share(value: float | None, digits: int = 1) -> str:
    """0.412 as `41.2 %`."""
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """0.23 as `+23.0`, with a true minus sign."""
    return NONE if value is None else _signed(100 * value, 1)


def decimal(value: float | None, digits: int = 2) -> str:
    """`0.53`, with a true minus sign."""
    return NONE if value is None else _minus(f"{value:.{digits}f}")


def level(value: float) -> str:
    """An interval's level as `97.5 %`; empty for the 95 % that every other interval has."""
    return "" if value <= 0.95 else f"{100 * value:.3g} %"


def p_value(value: float | None) -> str:
    """`0.003`, or `< 0.001`."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def limits(estimate: Estimate | None, kind: str = "decimal") -> str:
    """An interval as `[0.41, 0.62]`; `kind` is decimal, share or points. Empty when there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    if kind == "decimal":
        return f"[{decimal(estimate.low)}, {decimal(estimate.high)}]"
    if kind == "share":
        return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return f"[{points(estimate.low)}, {points(estimate.high)}]"


def with_limits(estimate: Estimate | None, kind: str = "decimal") -> str:
    """An estimate with its interval."""
    if estimate is None or estimate.value is None:
        return NONE
    value = {"decimal": decimal, "share": share, "points": points}[kind](estimate.value)
    return f"{value} {limits(estimate, kind)}".strip()


# -- findings ---------------------------------------------------------------------------------------------------------


def unit(part: Reliance | None) -> str:
    """What `limits` calls the unit of an answerer's gap and its falls: points of accuracy, or decimals of an AUC."""
    return "points" if part is None or part.ranking is None else "decimal"


def who(answerer: str) -> str:
    """Who answers, as a sentence's subject inside it: `your model resnet`."""
    kind, _, name = answerer.partition(":")
    words = {"clip": "CLIP", "rehearsed": "a model trained on these images", "given": "your model"}
    return f"{words.get(kind, kind)} {name}".rstrip()


def who_first(answerer: str) -> str:
    """The same at a sentence's beginning."""
    words = who(answerer)
    return words[0].upper() + words[1:]


def having_name(finding: Finding) -> str:
    """Those classes, joined; the finding's own name where it has no rows."""
    names = [row.class_name for row in finding.classes if row.has]
    return ", ".join(names) if names else finding.class_name


def cue_word(finding: Finding) -> str:
    """The cue in as few words as there are: the attribute's value, else the text that names it."""
    cue = finding.cue
    return cue.name if cue.value is None else value_word(cue.attribute, cue.value)


def shortened(result: AuditResult) -> Callable[[str], str]:
    """Descriptions of rows with the runs' last names for their whole addresses, which stand at the page's end."""
    short = {run: run.rstrip("/").rpartition("/")[2] for run in (result.run, result.test_run) if run}
    if len(set(short.values())) < len(short):
        short = {run: "/".join(run.rstrip("/").split("/")[-2:]) for run in short}
    runs = sorted(short.items(), key=lambda pair: -len(pair[0]))

    def shorten(described: str) -> str:
        for run, name in runs:
            described = described.replace(run, name)
        return described.replace("attributes.", "")

    return shorten


def headline(result: AuditResult) -> str:
    """What is wrong, short enough for a title."""
    if not result.trust.valid:
        return "This audit is not valid: a control failed"
    if not result.findings:
        return nothing(result)
    first, *others = result.findings
    same = [finding for finding in others if finding.verdict == first.verdict]
    part = first.relying
    title = _title(first, result.settings, who_first("clip" if part is None else part.answerer))
    if first.verdict == Verdict.CONFIRMED and len(same) == 1:
        return f"{title}, and {_pair(same[0], result.settings)}"
    return title + (f" – and {len(same)} more" if same else "")


def _pair(finding: Finding, settings: Settings) -> str:
    name = _label(finding) if settings.several_labels else f"“{finding.class_name}”"
    return f"“{cue_word(finding)}” for {name}"


def _label(finding: Finding) -> str:
    """The label of a finding where images have several, or its absence."""
    label = str(finding.label)
    without = label.removeprefix("not ")
    return f"“{label}”" if finding.class_name.startswith("images with `") else f"the absence of “{without}”"


def _title(first: Finding, settings: Settings, model: str) -> str:
    name, cue = f"“{first.class_name}”", f"“{cue_word(first)}”"
    match first.verdict:
        case Verdict.FAILS_WHERE if settings.several_labels:
            return f"{model} ranks {_label(first)} worse where {cue} is missing or misleads"
        case Verdict.DATA_ONLY if settings.several_labels:
            return f"In this data {cue} goes with {_label(first)}; what was measured does not hang on it"
        case Verdict.CONFIRMED:
            return f"{model} takes {_pair(first, settings)}"
        case Verdict.MODEL_ONLY:
            return f"{model} takes {_pair(first, settings)}, though not because of this data"
        case Verdict.DATA_ONLY:
            return f"In this data {cue} goes with {name}; what was measured does not hang on it"
        case Verdict.FAILS_WHERE:
            return f"{model} fails on {name} where {cue} is missing or misleads"
        case Verdict.NEEDED:
            return f"{model} needs {cue} for {name}: part of it, or a shortcut?"
        case Verdict.TIED if settings.several_labels:
            return f"{name} go with {cue}"
        case Verdict.TIED:
            return f"{cue} is tied to the classes"
        case Verdict.CANDIDATE:
            return f"Candidate shortcut: {cue} goes with {name}"
        case Verdict.OBSERVED:
            return f"Observed: {cue} goes with {_CALLED[settings.classes_from]}{name}"
        case Verdict.INCONCLUSIVE:
            return f"Not enough data: {cue} may go with {name}"


def nothing(result: AuditResult) -> str:
    """Why there is no finding."""
    classes_from = result.settings.classes_from
    if result.trust.near_chance:
        no_use = "are no better than guessing" if classes_from == "label" else "match captions no more than by chance"
        return f"Nothing can be said: CLIP’s answers {no_use} here"
    if not anything_tested(result):
        return "Too few images: nothing could be tested"
    if result.hygiene.failed_shards:
        return "No shortcut found in the images that could be read"
    if result.verdict == Verdict.INCONCLUSIVE:
        return "No shortcut found, but these images cannot decide"
    if classes_from != "label":
        return f"No cue found that goes with {_CALLED[classes_from]}a class"
    return "No shortcut found"


def unable(result: AuditResult) -> str:
    """A warning where the model cannot tell the classes, so that nothing can be said of its reliance; else empty."""
    right, classes = result.trust.accuracy, len(result.classes)
    if not result.trust.near_chance or right is None or result.settings.classes_from == "clip":
        return ""
    return (
        f"CLIP: {share(right.value, 0)} right of {count(classes)} classes: this model cannot judge them,"
        " so nothing is said of what it relies on. Use a larger model."
    )


def classes_in_words(result: AuditResult) -> str:
    """How images came by their classes where not by labels, and how many have none; empty for labels."""
    used, left_out = result.data.rows, result.data.left_out
    match result.settings.classes_from:
        case "label" if result.settings.several_labels:
            tested = sum(facts.tested for facts in result.classes)
            trained = "" if result.rehearsal is None else " A model trained on these images learns one label at a time."
            return (
                f"Images may have several labels: {tested} of {len(result.classes)} were each compared with the images"
                f" without it.{trained} What CLIP makes of a cue is not measured there."
            )
        case "label":
            return ""
        case "caption":
            several = f", {count(left_out.ambiguous)} because it names more than one" if left_out.ambiguous else ""
            return (
                f"Labels were not used: an image counts as the class that its caption names. Of"
                f" {counted(used + left_out.unnamed + left_out.ambiguous, 'image')} {count(used)} are compared;"
                f" {count(left_out.unnamed)} are left out because their caption names no class{several}."
            )
        case "clip":
            shared = f" {counted(left_out.ambiguous, 'image')} with an answer that several classes share are left out."
            also = shared if left_out.ambiguous else ""
            return (
                "Labels were not used: an image counts as the class that CLIP itself answers. So this says what CLIP’s"
                f" answers go with, right or wrong, and not what the classes go with.{also}"
            )


def meanings(several_labels: bool) -> dict[Verdict, str]:
    """What each verdict means, where images may have several labels or have one."""
    return {**MEANING, **_OF_SEVERAL} if several_labels else dict(MEANING)


def anything_tested(result: AuditResult) -> bool:
    """Whether there was a class to test."""
    return any(facts.tested for facts in result.classes)


def _signed(value: float, digits: int) -> str:
    return _minus(f"{value:+.{digits}f}")


def _minus(digits: str) -> str:
    """With a true minus sign, and none before a zero."""
    return digits.replace("-", "−") if any(digit in digits for digit in "123456789") else digits.lstrip("-+")
