"""Write `docs/licences.md`: the licence of everything that clipaudit needs at run time.

python .ci/licences.py            print the page for the present environment
python .ci/licences.py --check    exit 1 for a package that the page lacks, or a licence that nobody has looked at
"""

import re
import sys
from importlib.metadata import distribution

from constraints import ROOT, closure, direct

PAGE = ROOT / "docs" / "licences.md"
# Looked at: an Apache-2.0 program may use and link all of them. MPL-2.0 binds changes to a package's own files.
PERMISSIVE = re.compile(
    r"MIT(-CMU|-0)?|BSD(-[0-9]-Clause)?|0BSD|Apache-2\.0( WITH LLVM-exception)?|ISC|PSF-2\.0|MPL-2\.0"
    r"|Zlib|CC0-1\.0|BSL-1\.0|CNRI-Python"
)
NVIDIA = "NVIDIA's own"
"""CUDA libraries, beside a CUDA build of torch only."""
SPELLINGS = (
    (r"LicenseRef-NVIDIA.*|NVIDIA Proprietary.*|Other/Proprietary.*", NVIDIA),
    (r"MIT License|MIT", "MIT"),
    (r"(3-Clause BSD|BSD 3-Clause).*|BSD-3-Clause", "BSD-3-Clause"),
    (r"BSD License|BSD", "BSD"),
    (r"Apache( Software License|[ -]2\.0.*| License.*)", "Apache-2.0"),
    (r"Mozilla Public License.*|MPL-2\.0", "MPL-2.0"),
    (r"ISC License.*", "ISC"),
    (r"Python Software Foundation License", "PSF-2.0"),
)
HEAD = """\
# Licences

clipaudit is Apache-2.0. What it needs at run time, extras `s3` and `fast` included. MPL-2.0 asks that changes to a
package's own files be published; {nvidia} licence is that of CUDA libraries, which only a CUDA build of torch installs.
The demo's art, the words of the text pools and the demo's model: `clipaudit/demo/NOTICE.md` in the package.

This page is made by `python .ci/licences.py`; CI fails for a package that it lacks or a licence that is none of these.

| package | licence |
|---|---|
"""


def licence(name: str) -> str:
    """The package's licence as an SPDX expression where its metadata allow one; empty where they say nothing."""
    metadata = distribution(name).metadata
    if expression := metadata.get("License-Expression"):
        return NVIDIA if "NVIDIA" in expression else expression
    classifiers = [
        text.rsplit("::", 1)[-1].strip() for text in metadata.get_all("Classifier") or () if "License ::" in text
    ]
    first_line = (metadata.get("License") or "").strip().partition("\n")[0]
    for text in (*classifiers, first_line):
        for pattern, spelling in SPELLINGS:
            if re.fullmatch(pattern, text):
                return spelling
        if text and all(re.fullmatch(PERMISSIVE, part) for part in re.split(r" AND | OR ", text)):
            return text
    return NVIDIA if name.startswith(("nvidia-", "cuda-toolkit")) else ""


def known(expression: str) -> bool:
    """Whether every part of it has been looked at."""
    return expression == NVIDIA or all(PERMISSIVE.fullmatch(part) for part in re.split(r" AND | OR ", expression))


def main() -> int:
    """Print the page or the problems; the exit code."""
    licences = {name: licence(name) for name in sorted(closure(direct()))}
    if sys.argv[1:] != ["--check"]:
        print(HEAD.format(nvidia=NVIDIA) + "\n".join(f"| {name} | {text} |" for name, text in licences.items()))
        return 0
    listed = set(re.findall(r"^\| ([\w.-]+) \|", PAGE.read_text(), re.MULTILINE))
    lines = [
        f"{name}: licence {text or 'unknown'!r} has not been looked at"
        for name, text in licences.items()
        if not known(text)
    ]
    lines += [f"{name} is not in docs/licences.md" for name in licences if name not in listed]
    print("\n".join(lines) or f"licences: {len(licences)} packages, all looked at")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
