"""What a stranger's shards, runs and weights must not do: reach out, write elsewhere, run code, eat the memory."""

import ast
import functools
import http.server
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import pytest
import tinyhtml5.parser

from clipaudit.config import ModelConfig
from clipaudit.errors import ClipauditError, IntegrityError, ShardUnreadable, UsageError
from clipaudit.heads.description import DescribeConfig, describe
from clipaudit.heads.page import extremes, render
from clipaudit.heads.texts.pool import TextPool
from clipaudit.redact import HIDDEN, private_url, public_url, redact
from clipaudit.retrieval.retriever import Answer, Hit
from clipaudit.retrieval.sheet import SheetPanel, SheetQuery, contact_sheet
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.row import Row
from clipaudit.run.thumbnails import Thumbnails
from clipaudit.run.upkeep import gc
from clipaudit.schema import Shard
from clipaudit.shards.stored import ALLOWED, check_shard, read_piece
from clipaudit.storage.directory import Storage
from tests.commands import ROOT
from tests.make_runs import SPEC, make_manifest, make_run
from tests.make_shards import jpeg_bytes, png_bytes, png_chunk, webp_bytes
from tests.make_texts import HashedTexts
from tests.unit.run.test_run_directory import make_record

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}\u202e\x1b[31m</title><style>*{}</style>"


# -- addresses that a stored run names ---------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves 100 bytes by ranges on one loopback address, redirects `/away`, and counts what it is asked."""

    def __init__(self, host, away=""):
        self.asked = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.asked += 1
                if self.path == "/away":
                    self.send_response(302)
                    self.send_header("Location", away)
                    self.end_headers()
                    return
                first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "bytes=0-99")).groups()
                data = bytes(range(100))[int(first) : int(last) + 1]
                self.send_response(206 if "Range" in self.headers else 200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/100")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else data)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        super().__init__((host, 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return "http://{}:{}".format(*self.server_address)


@pytest.fixture
def servers():
    """A server, and another one to which the first redirects, on two loopback addresses."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: no http:// shards")
    inner = Server("127.0.0.2")
    outer = Server("127.0.0.1", away=f"{inner.url}/x.tar")
    yield outer, inner
    for server in (outer, inner):
        server.shutdown()
        server.server_close()


def test_a_stored_run_makes_nobody_ask_a_private_address(servers, monkeypatch):
    outer, inner = servers
    shard = Shard(id=0, url=f"{outer.url}/x.tar", size=100, etag="64")
    for url in (shard.url, shard.url.replace("127.0.0.1", "localhost"), shard.url.replace("127.0.0.1", "2130706433")):
        with pytest.raises(ShardUnreadable, match=f"not a public address.*{ALLOWED}"):
            read_piece(url, 10, 5)
    with pytest.raises(ShardUnreadable, match="not a public address"):
        check_shard(shard)
    assert outer.asked == 0
    monkeypatch.setenv(ALLOWED, "example.org, 127.0.0.1")
    check_shard(shard)
    assert read_piece(shard.url, 10, 5) == bytes(range(10, 15))
    with pytest.raises(ShardUnreadable, match=r"127\.0\.0\.2"):
        read_piece(f"{outer.url}/away", 10, 5)
    assert inner.asked == 0
    monkeypatch.setenv(ALLOWED, "127.0.0.0/8")
    assert read_piece(f"{outer.url}/away", 10, 5) == bytes(range(10, 15))


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1%25eth0]/x.tar",
        "http://[::1]/x.tar",
        "http://[::ffff:169.254.169.254]/x.tar",
        "http://[64:ff9b::a9fe:a9fe]/x.tar",
        "http://[2002:7f00:1::]/x.tar",
        "https://10.1.2.3/x.tar",
        "https://192.168.0.1:8443/x.tar",
        "http://100.64.0.1/x.tar",
        "http://0.0.0.0/x.tar",
        "http://224.0.0.1/x.tar",
        "ftp://example.org/x.tar",
        "sftp://example.org/x.tar",
        "simplecache::http://example.org/x.tar",
        "simplecache::/etc/hostname",
        "github://owner:repository@/x.tar",
        "reference://x.tar",
        "/dev/zero",
        "file:///dev/zero",
        "/tmp",
    ],
)
def test_what_a_stored_run_may_not_name(url):
    with pytest.raises(ShardUnreadable):
        read_piece(url, 0, 5)
    with pytest.raises(ShardUnreadable):
        check_shard(Shard(id=0, url=url, size=100, etag=""))


def test_a_pipe_in_place_of_a_shard_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "s.tar")
    with pytest.raises(ShardUnreadable, match="not a regular file"):
        read_piece(str(tmp_path / "s.tar"), 0, 5)


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 5), (0, 0), (0, -1), (0, 2**31)])
def test_places_that_no_image_has_are_refused(tmp_path, offset, nbytes):
    (tmp_path / "s.tar").write_bytes(bytes(100))
    with pytest.raises(ShardUnreadable, match="cannot be an image"):
        read_piece(str(tmp_path / "s.tar"), offset, nbytes)


# -- files and links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "projections/../../secret.parquet",
        "projections/000001-a.parquet",
        "projections/000000-a.parquet\n",
        "projections/000000-../x.parquet",
        "run.json",
    ],
)
def test_a_commit_record_names_files_of_its_own_shard_only(tmp_path, name):
    directory = make_run(str(tmp_path / "run"), shards=1, rows=5, failures=())
    record = directory.committed()[0]
    (moments,) = (path for path in record.files if path.startswith("moments/"))
    forged = make_record(
        0, record.attempt, files={name: record.files[record.projections], moments: record.files[moments]}
    )
    directory.storage.replace(directory.commit_path(0), forged.to_json())
    with pytest.raises(IntegrityError, match=r"000000\.json is damaged: it "):
        directory.committed()


def test_links_in_a_run_lead_nowhere_when_it_is_written(tmp_path):
    directory = RunDirectory(str(tmp_path / "run"))
    directory.create_or_resume(make_manifest())
    other = tmp_path / "other"
    other.mkdir()
    (other / "000000-x.parquet").write_text("somebody else's")
    (other / "victim").write_text("somebody else's")
    (tmp_path / "run" / "_committed" / "000000.json").symlink_to(other / "victim")
    assert not directory.storage.create("_committed/000000.json", b"new")
    directory.storage.replace("_committed/000000.json", b"new")
    assert (tmp_path / "run" / "_committed" / "000000.json").read_bytes() == b"new"
    (tmp_path / "run" / "_committed" / "000000.json").unlink()
    (tmp_path / "run" / "projections").rmdir()
    (tmp_path / "run" / "projections").symlink_to(other)
    assert gc(directory, min_age_seconds=0) == []
    with directory.publish("heads") as aside:
        Path(aside, "heads.json").write_text("{}")
    (tmp_path / "run" / "indexes").symlink_to(other)
    directory.storage.remove_tree("heads")
    assert {path.name: path.read_text() for path in other.iterdir()} == {
        "000000-x.parquet": "somebody else's",
        "victim": "somebody else's",
    }


def test_what_waits_for_its_upload_is_for_this_user_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    sink = Storage(f"memory://{tmp_path}/run").open_new("moments/000000-a.safetensors")
    assert os.fstat(sink._handle.fileno()).st_mode & 0o777 == 0o600
    named = list(tmp_path.iterdir())
    assert len(named) == (sys.platform != "linux"), "a process that is killed would leave it behind"
    sink.write(b"1")
    sink.finish()
    assert Storage(f"memory://{tmp_path}/run").read("moments/000000-a.safetensors") == b"1"
    assert list(tmp_path.iterdir()) == []
    Storage(f"memory://{tmp_path}/run").open_new("b").discard()
    assert list(tmp_path.iterdir()) == []


# -- pages -------------------------------------------------------------------------------------------------------------


def assert_inert(page):
    """No element of the page runs, loads or leads anywhere, and nothing was evaluated."""
    tree = tinyhtml5.parser.HTMLParser().parse(page)
    elements = [(str(element.tag).rpartition("}")[2], dict(element.attrib)) for element in tree.iter()]
    names = [name for name, _ in elements]
    assert not set(names) & {"script", "iframe", "object", "embed", "form", "link", "base", "svg:script"}
    assert names.count("title") <= 1 + names.count("svg")
    assert names.count("style") == 1
    for _, attributes in elements:
        for name, value in attributes.items():
            local = str(name).rpartition("}")[2].lower()
            assert not local.startswith("on"), f"{local}={value}"
            if local in ("src", "href", "action", "data", "srcset", "formaction"):
                assert value.startswith(("#", "data:image/")) or "/" not in value, value
                assert not re.match(r"\s*(javascript|vbscript|data:text)", value, re.IGNORECASE)
    assert "default-src 'none'" in page
    assert "\x1b" not in page
    assert "<script" not in page


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """A run whose keys are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    return Run(make_run(str(folder / "run"), shards=1, rows=30, failures=()))


def test_the_gallery_of_heads_is_inert(hostile_run):
    pool = TextPool(texts=tuple(f"{n}{HOSTILE}" for n in range(8)), properties=(HOSTILE,) * 8, kinds=("core-like",) * 8,
                    source=HOSTILE)  # fmt: skip
    found = describe(hostile_run, pool, HashedTexts(SPEC.embed_dim), DescribeConfig(steps=2, roles=False))
    ends = extremes(found, texts=1, keep=2)
    for pairs in ends.values():
        for pair in pairs:
            for extreme in (*pair.high, *pair.low):
                object.__setattr__(extreme.row, "key", HOSTILE)
                object.__setattr__(extreme.row, "label", HOSTILE)
    page = render(found, ends)
    assert_inert(page)
    assert page.count("&lt;script&gt;alert(1)") > 8


def test_a_contact_sheet_is_inert(hostile_run):
    row = Row(shard_id=0, index=0, key=HOSTILE, label=HOSTILE, attributes={HOSTILE: HOSTILE}, offset=5, nbytes=9)
    hits = (Hit(rank=1, score=0.5, row=row, parts={"L00H00": 0.25}),)
    panels = [SheetPanel(title=HOSTILE, about=HOSTILE, answer=Answer(hits=hits, notes=(HOSTILE,)))]
    page = contact_sheet(
        hostile_run, SheetQuery(words=HOSTILE, row=row, where=HOSTILE), panels, Thumbnails(hostile_run)
    )
    assert_inert(page)
    assert "&lt;script&gt;alert(1)" in page


def test_the_report_is_inert():
    from clipaudit.cues.report.page import render as render_report
    from tests.unit.cues.test_report_page import hostile, pictures_of, report_of

    assert_inert(render_report(report_of(hostile()), pictures_of(hostile())))


# -- code in data ------------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("form", ["legacy", "zip"])
def test_a_checkpoint_that_is_a_program_is_not_run(tmp_path, tiny_model, form):
    import torch

    from clipaudit.model.loading import load_model

    checkpoint, witness = tmp_path / "open_clip_pytorch_model.bin", tmp_path / "witness"
    shutil.copy(Path(tiny_model, "open_clip_config.json"), tmp_path)
    if form == "zip":
        torch.save({"state_dict": Bomb(witness)}, checkpoint)
    else:
        checkpoint.write_bytes(pickle.dumps({"state_dict": Bomb(witness)}, protocol=2))
    with pytest.raises(UsageError, match="code in a checkpoint is never run"):
        load_model(ModelConfig(name=str(tmp_path), device="cpu"))
    assert not witness.exists()


FORBIDDEN = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "runs text as code",
    "__import__": "imports by name",
    "os.system": "a shell",
    "os.popen": "a shell",
    "yaml.load": "makes objects",
    "yaml.unsafe_load": "makes objects",
    "torch.load": "may unpickle: open_clip loads weights, with weights_only",
    "tarfile.open": "follows links and extracts: clipaudit.shards.tar reads",
    "shutil.unpack_archive": "extracts",
}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@functools.cache
def sources():
    files = [*(ROOT / "clipaudit").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}


def test_no_source_evaluates_unpickles_or_calls_a_shell():
    # the demo's own writer and trainer may make tars; nothing else does
    found = []
    for name, tree in sources().items():
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        imported |= {
            (node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        found += [
            f"{name}: imports {module}"
            for module in imported & {"pickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"}
        ]
        for call, node in calls(tree):
            words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if call in FORBIDDEN and not (call == "tarfile.open" and name.startswith("clipaudit/demo/")):
                found.append(f"{name}:{node.lineno}: {call} {FORBIDDEN[call]}")
            if (
                words.get("shell") == "True"
                or words.get("allow_pickle") == "True"
                or words.get("weights_only") == "False"
            ):
                found.append(f"{name}:{node.lineno}: {call}({words})")
            if call in ("np.load", "numpy.load") and words.get("allow_pickle") != "False":
                found.append(f"{name}:{node.lineno}: {call} without allow_pickle=False")
    assert found == []


def test_only_the_driver_commits():
    """On a store without conditional writes this is what keeps two writers of one commit apart."""
    committers = {
        name
        for name, tree in sources().items()
        for call, _ in calls(tree)
        if re.fullmatch(r".*run_dir\.commit|.*directory\.commit", call)
    }
    assert committers <= {"clipaudit/job/scheduler.py"}


# -- bombs -------------------------------------------------------------------------------------------------------------


@functools.cache
def zeros(mebibytes):
    """A zlib stream of that many MiB of zeros; a thousandth of it in size."""
    squeeze = zlib.compressobj(9)
    return b"".join(squeeze.compress(bytes(2**20)) for _ in range(mebibytes)) + squeeze.flush()


def text_bombs():
    data = png_bytes(48, 48)
    at = 8 + 12 + 13  # behind the header chunk
    stream = zeros(300)
    chunks = [
        (b"zTXt", b"comment\0\0" + stream),
        (b"iTXt", b"comment\0\1\0\0\0" + stream),
        (b"iCCP", b"profile\0\0" + stream),
    ]
    return data[:at] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[at:]


def lying_png():
    """Its header says 48 x 48 pixels, its data are those of a far larger image."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 48, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zeros(300)) + png_chunk(b"IEND", b"")


def lying_jpeg(side=65_500):
    data = bytearray(jpeg_bytes(48, 48))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def lying_webp():
    """An extended file whose canvas is 8 x 8 and whose frame is 48 x 48."""
    plain = webp_bytes(48, 48)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (7).to_bytes(3, "little") * 2
    body = b"WEBP" + canvas + plain[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


MEASURED = """
    import io, resource, sys
    from open_clip.transform import image_transform_v2, PreprocessCfg
    from clipaudit.config import DecodeConfig
    from clipaudit.shards.decoder import ImageDecoder, ImageTooLarge, ImageUndecodable
    decoder = ImageDecoder(image_transform_v2(PreprocessCfg(size=(32, 32)), is_train=False), DecodeConfig())
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    before = peak()
    for path in sys.argv[1:]:
        data = open(path, "rb").read()
        try:
            decoder(data)
            end = "decoded"
        except (ImageTooLarge, ImageUndecodable) as error:
            end = type(error).__name__
        print(path.rpartition("/")[2], end)
    print("grew", peak() - before)
"""


@pytest.mark.full
def test_bombs_cost_neither_memory_nor_a_crash(tmp_path):
    bombs = {
        "text.png": text_bombs(),
        "lying.png": lying_png(),
        "lying.jpg": lying_jpeg(),
        "lying.webp": lying_webp(),
        "small.jpg": lying_jpeg(4_000),
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURED), *(str(tmp_path / name) for name in bombs)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    ends = dict(line.split() for line in result.stdout.splitlines())
    assert ends["text.png"] == "decoded"
    assert ends["lying.jpg"] == "ImageTooLarge"
    assert ends["lying.webp"] == "ImageUndecodable"
    assert int(ends["grew"]) < 250  # MiB; each of the bombs unpacks to 300


# -- credentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("s3://bucket/k.tar", "s3://bucket/k.tar"),
        ("/data/a b@c:d.tar", "/data/a b@c:d.tar"),
        ("https://user:pa/ss+w0rd@host:80/x.tar", "https://host:80/x.tar"),
        ("https://host:8080/a@b.tar", "https://host:8080/a@b.tar"),
        ("https://one/x.tar?X-Amz-Signature=abcd&X-Amz-Date=1&version=2", "https://one/x.tar?version=2"),
        ("https://two/x.tar?sv=1&sig=zzz&se=2", "https://two/x.tar"),
        ("https://three/x.tar?st=1&version=2", "https://three/x.tar?st=1&version=2"),
        ("https://four/x.tar?Expires=1&Signature=2&GoogleAccessId=me", "https://four/x.tar"),
        ("simplecache::https://user:secret-word@five/x.tar", "simplecache::https://five/x.tar"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
    ],
)
def test_a_url_goes_without_its_credentials_and_gets_them_back(url, public):
    assert public_url(url) == public
    assert private_url(public) == url


@pytest.mark.parametrize(
    "piece", ["api_key-", "a-", "token", "x", "s3://a:", "token='", "a=AWS;", "key=", "?sig", "pw "]
)
def test_hiding_takes_time_in_proportion_to_the_text(piece):
    """Names in a stranger's run and tar stand in our messages; a pattern that looks back would never come to an end."""
    text = piece * (400_000 // len(piece)) + "."
    assert len(redact(text)) >= len(text) // 4
    assert redact(f"{text} secret=planted-secret").endswith(f"secret={HIDDEN}")


def test_errors_hold_no_secret_whoever_made_their_text(monkeypatch):
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "planted-in-the-environment")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json")
    public_url("https://me:planted-password@host/x.tar")
    text = (
        "403, url='https://me:planted-password@host/x?X-Amz-Signature=planted1&X-Amz-Credential=planted2'"
        " of planted-password"
        " {'key': 'AKIA', 'secret': 'planted-secret', 'aws_session_token': \"planted-session\"}"
        " Authorization: Bearer planted.jwt"
        " planted-in-the-environment; see /home/me/key.json and s3://bucket/x.tar, token expired"
    )
    shown = str(ClipauditError(text))
    assert "planted" not in shown
    assert "/home/me/key.json and s3://bucket/x.tar, token expired" in shown
    assert redact(shown) == shown
