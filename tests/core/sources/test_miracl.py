"""The download as it is, from a small server on loopback that speaks the hub's file protocol."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from core.collection import Collection
from core.errors import InputError
from core.sources import miracl

ROOT = Path(__file__).parent.parent.parent.parent
FILES = {
    "miracl/miracl": {
        "README.md": b"card",
        "miracl-v1.0-yo/topics/topics.miracl-v1.0-yo-dev.tsv": b"1\tKenya?\n2\tOslo?\n",
        "miracl-v1.0-yo/topics/topics.miracl-v1.0-yo-test-b.tsv": b"9\tx\n",
        "miracl-v1.0-yo/qrels/qrels.miracl-v1.0-yo-dev.tsv": b"1\tQ0\ta#0\t1\n"
        b"2\tQ0\tb#0\t1\n2\tQ0\ta#0\t0\n",
        "miracl-v1.0-ar/topics/topics.miracl-v1.0-ar-dev.tsv": b"1\tx\n",
    },
    "miracl/miracl-corpus": {
        f"miracl-corpus-v1.0-yo/docs-{i}.jsonl.gz": gzip.compress(
            json.dumps({"docid": f"{c}#0", "title": "", "text": c}).encode() + b"\n", mtime=0
        )
        for i, c in enumerate("abc")
    },
}


class Hub(BaseHTTPRequestHandler):
    """``server.broken``: names whose transfer breaks off; ``server.token``: what it wants;
    ``server.served``: names of whole transfers."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(
                401,
                b'{"error": "Invalid username or password."}',
                X_Error_Code="GatedRepo",
                X_Error_Message="Access is restricted",
            )
        for repository, files in FILES.items():
            if path.startswith(f"/api/datasets/{repository}/tree/"):
                listing = [
                    {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for n, c in files.items()
                ]
                return self.answer(
                    200, json.dumps(listing).encode(), Content_Type="application/json"
                )
            if path.startswith(f"/datasets/{repository}/resolve/"):
                name = path.removeprefix(f"/datasets/{repository}/resolve/").split("/", 1)[1]
                if name not in files:
                    return self.answer(404, X_Error_Code="EntryNotFound")
                content, headers = (
                    files[name],
                    {
                        "ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"',
                        "X_Repo_Commit": "c" * 40,
                        "Accept_Ranges": "bytes",
                    },
                )
                if self.command == "GET" and name in self.server.broken:
                    self.server.broken.remove(name)
                    self.send_response(500)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                if self.command == "GET":
                    self.server.served.append(name)
                return self.answer(200, content, **headers)
        return self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.broken, server.token, server.served = set(), None, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def download(hub, out, *more, token=None):
    """The command, in a process of its own: HF_ENDPOINT is read when the library is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(out.parent / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **({"HF_TOKEN": token} if token else {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "core.sources.miracl", str(out), "--languages", "yo", *more],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_download_under_the_hubs_names_and_counts(hub, tmp_path):
    done = download(hub, tmp_path / "m")
    assert (
        done.returncode == 2
        and "yo: dev queries: found 2, expected 119; dev judgments: found 3, expected 1188; "
        "testB queries: found 1, expected 288; passages: found 3, expected 49043; "
        "download again, or go on with --allow counts"
        in done.stderr
    )
    assert set(hub.served) == {n for files in FILES.values() for n in files if "-yo/" in n}
    done = download(hub, tmp_path / "m", "--allow", "counts")
    assert (
        done.returncode == 0
        and "yo: 3 passages, 2 dev queries, 3 dev judgments, 1 testB queries (allowed: "
        in done.stdout
    )
    collection = Collection(tmp_path / "m")
    assert [d.docid for d in collection.documents("yo")] == [
        "a#0",
        "b#0",
        "c#0",
    ] and collection.judgments("yo", "dev") == {"1": {"a#0": 1}, "2": {"b#0": 1, "a#0": 0}}
    assert collection.has("yo", "testB")


def test_a_download_that_broke_off_keeps_what_is_finished(hub, tmp_path):
    hub.broken.add("miracl-corpus-v1.0-yo/docs-1.jsonl.gz")
    done = download(hub, tmp_path / "m", "--allow", "counts")
    assert done.returncode == 2
    assert (
        "miracl/miracl-corpus: the hub answers 500, a fault of its own; "
        "what was fetched is kept, start again to go on" in done.stderr
    )
    assert (tmp_path / "m" / "miracl-corpus-v1.0-yo" / "docs-0.jsonl.gz").exists() and not (
        tmp_path / "m" / "miracl-corpus-v1.0-yo" / "docs-1.jsonl.gz"
    ).exists()
    assert download(hub, tmp_path / "m", "--allow", "counts").returncode == 0
    assert sorted(hub.served) == sorted(
        n for files in FILES.values() for n in files if "-yo/" in n
    ), "each file was sent once"
    assert len(list((tmp_path / "m" / "miracl-corpus-v1.0-yo").glob("docs-*.jsonl.gz"))) == 3


def test_a_hub_that_wants_a_token(hub, tmp_path):
    hub.token = "secret"
    done = download(hub, tmp_path / "m")
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == (
        "error: miracl/miracl: the hub answers 401: there is none of this name, or it is not open "
        "to all; look the name up, accept the terms on its page, make a token there, "
        "and set HF_TOKEN to it"
    )
    assert download(hub, tmp_path / "m", "--allow", "counts", token="secret").returncode == 0


def test_table_of_counts():
    found = miracl.counts()
    assert len(found) == 18 and found["ar"] == {
        "train queries": 3495,
        "train judgments": 25382,
        "dev queries": 2896,
        "dev judgments": 29197,
        "testA queries": 936,
        "testB queries": 1405,
        "passages": 2061414,
    }
    assert "train queries" not in found["yo"] and found["de"]["passages"] == 15866222
    assert [
        miracl.language_of(n)
        for n in (
            "miracl-corpus-v1.0-ar/docs-0.jsonl.gz",
            "miracl-v1.0-zh/topics/x.tsv",
            "README.md",
        )
    ] == ["ar", "zh", None]


def test_counts_that_differ(folder, monkeypatch, capsys):
    monkeypatch.setattr(miracl, "counts", lambda: {"en": {"train queries": 2, "passages": 6}})
    with pytest.raises(
        InputError, match="small: en: passages: found 5, expected 6; download again"
    ):
        miracl.check_counts(Collection(folder), "en", False)
    miracl.check_counts(Collection(folder), "en", True)
    assert "(allowed: passages: found 5, expected 6)" in capsys.readouterr().out
