"""The page itself: what a browser is told about it, what it may load, and who may open it."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from clipaudit.explorer.page import STATIC
from tests.commands import ROOT
from tests.make_audits import audited
from tests.make_explorers import explorer_app, is_unreachable

WEB = ROOT / "clipaudit/explorer/web"
MAX_BYTES = 500_000
BUILD_AGAIN = "build again: `npm ci && npm run build` in clipaudit/explorer/web"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with TestClient(
        explorer_app(audited(folder, shards=1, index=False), folder), base_url="http://127.0.0.1"
    ) as client:
        yield client


def test_the_page_runs_no_inline_script_and_loads_from_nowhere_else(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    for name in ("app.js", "app.css", "icon.svg"):
        assert client.get(f"/assets/{name}").status_code == 200
    page = answer.text
    assert re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", page) == []
    assert re.findall(r'(?:src|href)="(?!/assets/)', page) == []


def test_every_other_answer_may_do_nothing_in_a_browser(client):
    for path in ("/api/v1/rows", "/api/v1/images/0/0", "/api/v1/nothing"):
        headers = client.get(path).headers
        assert "sandbox" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ("/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ("/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ("/", {"host": "evil.example"}, 400),
        (
            "/api/v1/rows",
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
            403,
        ),
        ("/api/v1/rows", {"origin": "http://127.0.0.1:9"}, 403),
        ("/assets/..%2fserver.py", {}, 404),
        ("/assets/server.py", {}, 404),
    ],
)
def test_who_may_open_what(client, path, headers, status):
    assert client.get(path, headers=headers).status_code == status


def test_the_page_is_asked_again_and_sent_once(client):
    first = client.get("/assets/app.js")
    again = client.get("/assets/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_bundle_is_small_and_names_no_other_host():
    files = list(STATIC.iterdir())
    assert {path.name for path in files} == {"index.html", "app.js", "app.css", "icon.svg"}
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    hosts = {host for path in files for host in re.findall(r"https?://([\w.-]+)", path.read_text())}
    assert hosts <= {"www.w3.org"}, "names of XML's own languages alone"


def test_the_licences_of_what_is_bundled_are_listed():
    notice = (WEB.parent / "NOTICE.md").read_text()
    assert "Preact" in notice
    assert "MIT" in notice


@pytest.mark.full
def test_the_bundle_is_what_the_source_builds(tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    web = tmp_path / "web"
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund"], cwd=web, capture_output=True, text=True, check=False, timeout=300
    )
    if installed.returncode and is_unreachable(installed.stderr):
        pytest.skip(f"npm ci has no registry here: {installed.stderr.strip().splitlines()[-1:]}")
    assert installed.returncode == 0, installed.stderr
    out = tmp_path / "static"
    subprocess.run(
        [npm, "run", "build"], cwd=web, check=True, timeout=300, env={**_environment(), "CLIPAUDIT_STATIC": str(out)}
    )
    committed = {name: (STATIC / name).read_bytes() for name in ("app.css", "app.js")}
    committed["bundle.sha256"] = (WEB / "bundle.sha256").read_bytes()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == committed, BUILD_AGAIN


def test_the_committed_bundle_belongs_to_the_source():
    """Without Node: the hashes that the last build wrote down are those of the source and of the bundle."""
    recorded = dict(reversed(line.split("  ")) for line in (WEB / "bundle.sha256").read_text().splitlines())
    sources = {f"src/{path.name}" for path in (WEB / "src").iterdir()}
    assert set(recorded) == sources | {"build.mjs", "package-lock.json", "tsconfig.json"} | {
        "../static/app.css",
        "../static/app.js",
    }, BUILD_AGAIN
    for name, sha256 in recorded.items():
        assert hashlib.sha256((WEB / name).read_bytes()).hexdigest() == sha256, f"{name}: {BUILD_AGAIN}"


def _environment():
    import os

    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def test_the_source_is_not_in_the_wheel():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "clipaudit/explorer/web" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]
    assert Path(WEB / "package-lock.json").is_file()


def test_the_token_reaches_the_browser_by_a_file_of_this_user_alone():
    """Arguments of a process can be read by everybody on the machine."""
    import stat

    from clipaudit.explorer.redirect import redirect_file

    path = redirect_file("http://127.0.0.1:1/#token=a'b&c")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "http://127.0.0.1:1/#token=a&#x27;b&amp;c" in path.read_text()
    path.unlink()


def test_whoever_is_told_the_address_is_answered(tmp_path, monkeypatch):
    """The socket listens before the address is given away: a browser that opens at once waits, and is not refused."""
    import socket

    from clipaudit.explorer import server

    seen = []

    def started(url):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5) as connection:
            seen.append(connection.getpeername())

    class Ended:
        def run(self, sockets):
            for each in sockets:
                each.close()

    monkeypatch.setattr(server, "make_server", lambda app: Ended())
    run = audited(tmp_path, shards=1, index=False)
    options = server.ExplorerOptions(tags=tmp_path / "tags.jsonl")
    server.serve_api(run.directory.url, port=0, device="cpu", on_start=started, explorer=options)
    assert len(seen) == 1


def test_a_browser_gets_no_token_in_its_arguments(monkeypatch, clipaudit):
    from clipaudit.explorer import server

    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(server, "serve_api", lambda run, **given: given["on_start"]("http://127.0.0.1:9"))
    clipaudit("explore", "run", "--write", "--browser")
    assert opened
    assert opened[0].startswith("file://")
    assert "token" not in opened[0]
