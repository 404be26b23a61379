"""README and docs as a user types them: every console and Python block runs against `demo-out`, in order."""

import shutil

import pytest

from tests.commands import write_demo
from tests.doc_blocks import blocks, has_reason, pages, run_block, unlike

DEMO = "clipaudit demo demo-out"


@pytest.mark.parametrize("page", pages())
def test_blocks_that_are_not_run_say_why(page):
    unexplained = [str(block) for block in blocks(page) if block.comment and not has_reason(block)]
    assert unexplained == [], "`<!-- not run: REASON -->` is what the comment above a block may say"


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        (["of 48 % right", "Gate failed."], None),
        (["of 47 % right"], None),
        (["of 40 % right"], "of 40 % right"),
        (["Gate failed."], "Gate failed."),
        (["...", "Gate failed."], None),
        (["of 48 % right", "...", "Gate passed."], "Gate passed."),
        (["of 48 % wrong"], "of 48 % wrong"),
    ],
)
def test_output_on_a_page_is_held_to_what_is_printed(shown, wrong):
    assert unlike(shown, ["of 48 %  right", "Gate failed."]) == wrong


@pytest.mark.full
@pytest.mark.parametrize("page", [page for page in pages() if any(not block.comment for block in blocks(page))])
def test_every_block_of_a_page_runs_and_prints_what_it_shows(page, shared, tmp_path, monkeypatch):
    shutil.copytree(shared("demo-out", write_demo) / "demo-out", tmp_path / "demo-out")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.comment and DEMO not in block.code:  # that has been run
            run_block(block, tmp_path, names)
