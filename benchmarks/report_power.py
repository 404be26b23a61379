"""How often a whole report believes a real column: generated birds through the demo's model (docs/method.md, 10).

python benchmarks/report_power.py                       20 worlds, 200 training and 200 scored images a class
python benchmarks/report_power.py --images 100          100 of each a class
python benchmarks/report_power.py --seed 8000           other worlds

In each world the birds of three training sets stand before their home background in 80, 90 and 95 % of the images, in
the scored set in half of them. Each line is one share: how often each answerer's verdict of `place` is which, by the
report's own options; what stops CLIP where it is not confirmed, and whether its 24 heads had enough matched sets.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues import AuditOptions, audit_cues
from clipaudit.demo.world import nouns
from clipaudit.demo.world.scenes import draw_scene, pick, render

SHARES = (80, 90, 95)
"""Percent of a class before its home background."""
CLASSES = ("landbird", "waterbird")
HOME = ("land", "water")


def main() -> None:
    """Print what became of `place`, by share and answerer."""
    parser = parser_for(__doc__)
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--images", type=int, default=200, help="training, and scored, images a class")
    parser.add_argument("--seed", type=int, default=7300)
    options = parse(parser, worlds=1, images=60)
    verdicts: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for number in range(options.worlds):
        with tempfile.TemporaryDirectory() as folder:
            run = audited_birds(Path(folder), options.images, [options.seed, 11, number])
            for share in SHARES:
                for answerer, verdict, why in verdicts_of_place(run, share):
                    verdicts[share, answerer][verdict] += 1
                    print(f"seed {options.seed}/{number}, {share} %, {answerer}: {verdict}; {why}", flush=True)
    for (share, answerer), counts in sorted(verdicts.items()):
        print(f"cue at {share} %, {answerer}: {', '.join(f'{count} {name}' for name, count in counts.most_common())}")


def audited_birds(folder: Path, images: int, seed: list[int]) -> str:
    """The run of one world: `images` a class for each training set and the scored one."""
    rng = np.random.default_rng(seed)
    shard = folder / "birds-000000.tar"
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for split, share in [*((f"train{share}", share) for share in SHARES), ("test", 50)]:
            for label, name in enumerate(CLASSES):
                at_home = rng.permutation(images) < round(images * share / 100)
                for index, home in enumerate(at_home.tolist()):
                    place = HOME[label if home else 1 - label]
                    backgrounds = nouns.BACKGROUND_GROUPS[place]
                    scene = draw_scene(rng, noun=pick(rng, nouns.GROUPS[name]), backgrounds=backgrounds, photo=1.0)
                    picture = io.BytesIO()
                    Image.fromarray(render(scene, rng)[0]).save(picture, "JPEG", quality=95)
                    facts = json.dumps({"split": split, "place": place}).encode()
                    members = (("jpg", picture.getvalue()), ("cls", str(label).encode()), ("json", facts))
                    for suffix, data in members:
                        member = tarfile.TarInfo(f"{split}-{label}-{index:05d}.{suffix}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    job = ["audit", str(shard), "--out", str(folder / "run"), "--model", "demo", "--engine", "local"]
    job += ["--label", "cls", "--attributes", "json:place,json:split"]
    subprocess.run([sys.executable, "-m", "clipaudit", *job], check=True, capture_output=True)
    return str(folder / "run")


def verdicts_of_place(run: str, share: int) -> list[tuple[str, str, str]]:
    """Answerer, verdict and what is known of the effect, of the report's finding of `place`."""
    options = AuditOptions(
        attributes=("place",),
        where=(f"split=train{share}",),
        test_where=("split=test",),
        classes=str(Path(run).parent / "classnames.txt"),
    )
    finding = next((f for f in audit_cues(run, options).findings if f.cue.attribute == "attributes.place"), None)
    if finding is None:
        return [(answerer, "no finding", "") for answerer in ("clip", "rehearsed")]
    lines = []
    for part in finding.reliance:
        effect = part.effect
        controls = "" if effect is None else f"; control: {effect.control} ({effect.control_sets})"
        lines.append((part.answerer, str(part.verdict), part.sentence + controls))
    return lines


if __name__ == "__main__":
    main()
