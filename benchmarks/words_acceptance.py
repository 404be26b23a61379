"""Whether a cue gets the right word, and one that no text describes none (docs/method.md, section 7).

python benchmarks/words_acceptance.py                  every cue, three worlds each; about 20 s a world
python benchmarks/words_acceptance.py --cues border    some of them
python benchmarks/words_acceptance.py --smoke          one small world, to see that it runs

Pictures of four things with the demo model. 90 % of one class's images show the cue, 5 % of the others'. Named cues are
things the model has words for; a border, a sticker, a watermark, a date stamp and a logo are not. Each line is one
world: the word of the finding of the declared column (`column`) and of class labels alone (`labels`), and whether the
report says that no text describes it well.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit import AuditOptions, audit_cues
from tests.cue_pictures import MARKS, NAMED, NOUNS, UNNAMED, run_of_pictures


def words_of(run: str, cue: str, options: AuditOptions) -> dict[str, Any]:
    """The findings of the class that has the cue, or of the cue's column: their words, whether one is right, and
    whether the report says of all that no text describes them well."""
    findings = [
        finding
        for finding in audit_cues(run, options).findings
        if (finding.cue.attribute is not None if options.attributes else finding.class_name == NOUNS[0])
    ]
    words = {
        next(word.text for word in finding.cue.words if word.property != "attribute"): finding.no_good_word
        for finding in findings
    }
    right = [word for word, poor in words.items() if not poor and fits(cue, word)]
    return {"words": words, "right": bool(right), "no_good_word": all(words.values())}


def fits(cue: str, text: str) -> bool:
    """Whether a text says what a named cue is."""
    return cue in NAMED and any(word in text.casefold() for word in NAMED[cue][1])


def measure(cue: str, count: int, seed: int) -> dict[str, Any]:
    """One world: a job, and two audits of it."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_of_pictures(Path(folder), cue, count, seed)
        quick: dict[str, Any] = {"negative_audits": 0, "positive_trials": 0}
        return {
            "cue": cue,
            "seed": seed,
            "column": words_of(run, cue, AuditOptions(attributes=("cue",), **quick)),
            "labels": words_of(run, cue, AuditOptions(**quick)),
        }


def main() -> None:
    """Print a line a world, and the shares."""
    parser = parser_for(__doc__)
    parser.add_argument("--cues", nargs="+", choices=[*NAMED, *UNNAMED, *MARKS], default=[*NAMED, *UNNAMED, *MARKS])
    parser.add_argument("--count", type=int, default=1200, help="pictures a world")
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=500)
    options = parse(parser, cues=["snow"], count=200, worlds=1)
    rows = []
    for cue in options.cues:
        for number in range(options.worlds):
            rows.append(measure(cue, options.count, options.seed + number))
            print(json.dumps(rows[-1]), flush=True)
    for way in ("column", "labels"):
        named = [row[way] for row in rows if row["cue"] in NAMED and row[way]["words"]]
        unnamed = [row[way] for row in rows if row["cue"] not in NAMED and row[way]["words"]]
        right, said = sum(entry["right"] for entry in named), sum(entry["no_good_word"] for entry in unnamed)
        print(f"{way}: {right} of {len(named)} named cues have the right word; {said} of {len(unnamed)} others are said"
              " to have no good word")  # fmt: skip


if __name__ == "__main__":
    main()
