"""The command `explore`: what it hands to the server, and what it prints."""

import json

import pytest


@pytest.fixture
def served(monkeypatch):
    """What the command asks the server for; the browser is not opened."""
    asked, opened = {}, []

    def serve_api(run, *, on_start, **options):
        asked.update(options, run=run)
        on_start("http://127.0.0.1:1")

    monkeypatch.setattr("clipaudit.explorer.server.serve_api", serve_api)
    monkeypatch.setattr("webbrowser.open", opened.append)
    return asked, opened


def test_it_reads_only_unless_told_and_opens_the_browser(clipaudit, served):
    asked, opened = served
    ended = clipaudit("explore", "run")
    assert (ended.returncode, opened) == (0, ["http://127.0.0.1:1/"])
    assert "Open http://127.0.0.1:1/ " in ended.stderr
    assert (asked["run"], asked["explorer"].write, asked["explorer"].token) == ("run", False, "")


def test_the_token_of_a_writing_page_stands_behind_the_number_sign(clipaudit, served):
    asked, opened = served
    ended = clipaudit("explore", "run", "--write", "--no-browser", "--json", "--report", "here")
    address = json.loads(ended.stdout)["url"]
    assert (address, opened) == (f"http://127.0.0.1:1/#token={asked['explorer'].token}", [])
    assert len(asked["explorer"].token) >= 32
    assert asked["explorer"].report == "here"


def test_a_port_that_is_none_is_refused(clipaudit):
    ended = clipaudit("explore", "run", "--port", "70000")
    assert (ended.returncode, "--port must lie in" in ended.stderr) == (2, True)
