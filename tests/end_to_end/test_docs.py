"""README and docs as a user types them: every console and Python block runs against `demo-out`, in order."""

import shutil

import pytest

from tests.commands import call
from tests.doc_blocks import blocks, has_reason, pages, run_block

DEMO = "clipaudit demo demo-out"


@pytest.mark.parametrize("page", pages())
def test_blocks_that_are_not_run_say_why(page):
    unexplained = [str(block) for block in blocks(page) if block.comment and not has_reason(block)]
    assert unexplained == [], "`<!-- not run: REASON -->` is what the comment above a block may say"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A directory in which the README's first command has been run."""
    folder = tmp_path_factory.mktemp("docs")
    done = call(folder, *DEMO.split()[1:])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.full
@pytest.mark.parametrize("page", [page for page in pages() if any(not block.comment for block in blocks(page))])
def test_every_block_of_a_page_runs(page, demo, tmp_path, monkeypatch):
    shutil.copytree(demo / "demo-out", tmp_path / "demo-out")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.comment and DEMO not in block.code:  # the fixture has run that one
            run_block(block, tmp_path, names)
