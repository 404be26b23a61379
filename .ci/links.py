"""Follow every link of the built site and of the pages beside it, as far as they stay here: `links.py SITE`.

mkdocs --strict sees links between pages; this sees also those to files that it did not copy, those that a notebook
holds, and README.md's and its neighbours'. Exit code 1 names what leads nowhere.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
MARKDOWN = re.compile(r"\]\(([^)\s]+)\)")


class Page(HTMLParser):
    """The links of a page, and what a link can lead to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element's id, and where it leads."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def lost(source: Path, link: str, pages: dict[Path, Page]) -> bool:
    """Whether a link leads to no file, or to no place in a page; those to other hosts are not followed."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (source.parent / unquote(parts.path)).resolve() if parts.path else source
    if target.is_dir() and target / "index.html" in pages:
        target = target / "index.html"
    if not target.exists():
        return True
    # Material's own marks, such as the switch of the palette, begin with two underscores
    anchor = unquote(parts.fragment)
    return target in pages and not anchor.startswith("__") and anchor not in pages[target].anchors


def main() -> int:
    """Print what leads nowhere; the exit code."""
    site = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    links = [(path, link) for path, page in pages.items() for link in page.links]
    for path in sorted(ROOT.glob("*.md")):
        links += [(path, link) for link in MARKDOWN.findall(path.read_text(encoding="utf-8"))]
    broken = sorted({f"{source}: {link}" for source, link in links if lost(source, link, pages)})
    print("\n".join(broken) or f"links: {len(links)} on {len(pages)} pages")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
