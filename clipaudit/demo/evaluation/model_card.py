"""The model card: what the demo model is, what it is for, how it was made, and every figure with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clipaudit.demo.evaluation.head_choice import PLACE, RULES, TOP, text_pool
from clipaudit.demo.evaluation.measured import RESAMPLES, Figure
from clipaudit.demo.evaluation.report import ModelEvaluation
from clipaudit.demo.evaluation.shortcut import RANDOM_SETS, TEMPLATES, Setting
from clipaudit.demo.training.data import ALIGNED
from clipaudit.demo.world import nouns

_TITLES = {
    "recognition": "Recognition",
    "birds": "The birds' shortcut, and heads ablated",
    "mask": "Where the noun's tokens lie",
    "footprint": "Footprint",
}
_SETTINGS = {"none": "nothing", "variance": "chosen heads", "majority": "chosen by majority", "all": "every head"}


def card(evaluation: ModelEvaluation) -> str:
    """The model card as Markdown; written by the evaluation's command, never by hand."""
    sections = [
        _what(evaluation.model),
        _use(),
        _training(evaluation.training),
        *([["## How it was chosen", "", evaluation.note]] if evaluation.note else []),
        _licences(),
        _figures(evaluation),
        _choice(evaluation),
        _limitations(),
    ]
    return "\n".join(line for section in sections for line in (*section, "")).rstrip("\n") + "\n"


def _prose(text: str) -> str:
    """A paragraph on one line."""
    return " ".join(text.split())


def _what(facts: Mapping[str, Any]) -> list[str]:
    return [
        "# clipaudit's demo model",
        "",
        _prose(f"""
            A very small CLIP ({facts["parameters"] / 1e6:.1f} M parameters: a ViT of 6 layers x 4 heads, width 128, on
            64 x 64 pixels in patches of 8, a text tower of 2 layers, joint dimension 128), trained from scratch on
            generated pictures of emoji art. It is an open_clip directory: `--model demo` in every clipaudit command.
        """),
        "",
        f"Fingerprint of weights and preprocessing: `{facts['fingerprint']}`.",
    ]


def _use() -> list[str]:
    return [
        "## Intended use",
        "",
        _prose(f"""
            To try clipaudit offline, and to test its methods against planted truth: every factor of its data is known,
            and training puts birds on their own background {100 * ALIGNED:.0f} % of the time, so that the model has
            learned a shortcut that an audit must find.
        """),
        "",
        _prose("""
            **Not for anything else.** It knows nothing of photographs, of people, or of any word outside its captions.
            Do not use it to classify, search, filter or label real images, and do not quote its figures as CLIP's.
        """),
    ]


def _training(facts: Mapping[str, Any] | None) -> list[str]:
    return [
        "## Training data and recipe",
        "",
        _prose(f"""
            Pictures are drawn while training goes on (`clipaudit.demo.training.data`): {len(nouns.NOUNS)} nouns in
            {len(nouns.ARTS)} arts ({", ".join(nouns.ARTS)}; `{nouns.HELD_OUT_ART}` is never seen), {len(nouns.SHAPES)}
            plain shapes in {len(nouns.COLOURS)} colours, {len(nouns.BACKGROUNDS)} procedural backgrounds,
            {len(nouns.STYLES)} photographic styles, {len(nouns.TINTS)} tints, counts, positions and sizes; captions
            name some of it. Waterbirds are on water and landbirds on land in {100 * ALIGNED:.0f} % of their
            pictures; everything else is uniform. There are no photographs and no people.
        """),
        "",
        *_recipe(facts or {}),
    ]


def _recipe(facts: Mapping[str, Any]) -> list[str]:
    recipe = facts.get("recipe")
    if recipe is None:
        return ["The training's directory was not given to the evaluation (`--training`), so no recipe stands here."]
    lines = [
        _prose(f"""
            Contrastive loss in both directions, captions that occur twice in a batch sharing their target; AdamW with a
            cosine schedule; {100 * recipe["patch_dropout"]:.0f} % of the patches dropped but for the last
            {100 * recipe["dense"]:.0f} % of the steps; averaged weights, stored as float16. Begun with
            `python -m clipaudit.demo.training.train --seed {recipe["seed"]} --images {recipe["images"]}
            --batch {recipe["batch"]} --lr {recipe["lr"]:g} --ema {recipe["ema"]:g}`:
        """),
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in recipe.items()),
    ]
    if "log" in facts:
        log = ", ".join(f"{name} {value:g}" for name, value in facts["log"].items())
        lines += ["", f"It took {facts['seconds'] / 60:.0f} minutes. The log's last line: {log}."]
    return lines


def _licences() -> list[str]:
    return [
        "## Licences",
        "",
        _prose("""
            Weights and generated data: Apache-2.0, as clipaudit. Art: Noto Emoji (Google, Apache-2.0) and Fluent Emoji
            (Microsoft, MIT). Names: emojibase-data (MIT). Byte pairs: those of OpenAI's CLIP (MIT) that the lexicon
            needs. `NOTICE.md` and `licenses/` beside the demo's code have the details.
        """),
    ]


def _figures(evaluation: ModelEvaluation) -> list[str]:
    lines = [
        "## Figures",
        "",
        f"`{evaluation.command}`",
        "",
        _prose(f"""
            {evaluation.machine}; {evaluation.seconds:.0f} s. Images are drawn from seeds that no training uses,
            {evaluation.images} for each question and art. Intervals are 95 %: Wilson's for shares of right
            answers; for worst groups, differences and AUC the bootstrap over images ({RESAMPLES} resamples, paired
            where settings are compared).
            `birds` and `things` go through the real pipeline (JPEG shards, audit, stored rows); the other questions
            take the pixels as drawn. Prompts are the captions' own phrases, all of them averaged.
        """),
    ]
    for part, title in _TITLES.items():
        lines += ["", f"### {title}", "", *_table(figure for figure in evaluation.figures if figure.part == part)]
    return lines


def _table(figures: Iterable[Figure]) -> list[str]:
    rows = [f"| {' | '.join(figure.cells().values())} | {figure.note} |" for figure in figures]
    return ["| figure | target | measured | 95 % interval | reached | |", "|---|---|---|---|---|---|", *rows]


def _choice(evaluation: ModelEvaluation) -> list[str]:
    """How the heads were chosen, which they are, and what they say."""
    study, pool = evaluation.shortcut, text_pool()
    first, second = RULES
    prompts = ", ".join(f"`{template}`" for template in TEMPLATES)
    return [
        "## How the heads were chosen",
        "",
        _prose(f"""
            By text alone. Each head's first {TOP} texts are TextSpan's (criterion `explained`), from its moments on the
            data set `things`, in which all factors are independent, over {len(pool)} phrases of the captions'
            grammar, {sum(name == PLACE for name in pool.values())} of them about places. A head is chosen when
            {RULES[first]}. The rule was written down before any model of this training had been looked at (that some
            such heads would matter was known from a prototype) and has not been changed since. No image, label or group
            of `birds` enters the choice, and the means that replace the heads are those of `things`. A second reading
            of the same texts, also fixed beforehand, is reported beside it: {RULES[second]}.
        """),
        "",
        _prose(f"""
            Classes are asked with {prompts}. The control: {RANDOM_SETS} random sets with as many heads in each layer as
            the chosen one, of which there are {study.possible[first]} different ones ({study.possible[second]} for the
            second rule), the chosen one among them; with few of them, the share that can be beaten has a ceiling.
        """),
        "",
        "| head | share of the variance | about places | by number | chosen | texts (what each explains) |",
        "|---|---|---|---|---|---|",
        *_heads(evaluation),
        "",
        *_groups(study.settings.values()),
    ]


def _heads(evaluation: ModelEvaluation) -> Iterable[str]:
    for words in evaluation.shortcut.words:
        texts = "; ".join(f"{text.text} ({100 * text.explained:.0f} %)" for text in words.texts)
        weights = " | ".join(f"{100 * words.weight(rule):.0f} %" for rule in RULES)
        chosen = "both" if all(words.chosen(rule) for rule in RULES) else ""
        chosen = chosen or ", ".join(_SETTINGS[rule] for rule in RULES if words.chosen(rule))
        yield f"| {words.head} | {100 * words.variance:.1f} % | {weights} | {chosen} | {texts} |"


def _groups(settings: Iterable[Setting]) -> list[str]:
    """Every group under every setting."""
    rows = list(settings)
    names = list(rows[0].groups)
    lines = [f"| ablated | heads | average | {' | '.join(names)} |", f"|---|---|---|{'---|' * len(names)}"]
    for setting in rows:
        values = " | ".join(f"{100 * setting.groups[name].value:.1f} %" for name in names)
        average = f"{100 * setting.accuracy.value:.1f} %"
        lines.append(f"| {_SETTINGS[setting.name]} | {len(setting.heads)} | {average} | {values} |")
    return lines


def _limitations() -> list[str]:
    return [
        "## Limitations",
        "",
        "- The world is small, drawn and balanced by construction: a figure here says that a method finds what was",
        "  planted, not how it fares on photographs.",
        "- Words of shape, count, position and size may be learned badly; their figures stand above without a target.",
        "- The unseen art is one older emoji set, not another medium, and lacks some nouns.",
        "- There is one shortcut, and it is strong; real ones are weaker, more, and entangled with each other.",
        "- With 6 layers x 4 heads, one head does several things, and matched random sets of heads are few.",
        "- The minimum over groups is biased downwards by noise, before and after ablation alike.",
    ]
