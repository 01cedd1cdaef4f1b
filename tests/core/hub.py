"""A small server on loopback that speaks the model hub's file protocol, for models and data."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parent.parent.parent
COMMIT = "c" * 40
ERROR_CODES = {401: "GatedRepo", 404: "RepoNotFound"}


class Hub(BaseHTTPRequestHandler):
    """``server.models`` and ``server.datasets``: repository -> folder, or revision -> folder;
    ``server.commits``: repository -> what its main branch is at; ``server.asked``: the paths asked
    for, in order. ``server.faults``: part of a path -> what is answered: a status, ``short`` (the
    transfer ends before its announced end) or ``spoilt`` (other bytes than the file's), as a list
    that is used up, or as it is, for ever."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", sent=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if sent is None else sent)
            self.close_connection = self.close_connection or sent is not None

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def fault(self, path):
        """What is wrong with this answer, if anything."""
        for part, faults in self.server.faults.items():
            if part not in path:
                continue
            if not isinstance(faults, list):
                return faults
            is_head_of_transfer = faults[:1] in (["short"], ["spoilt"]) and self.command == "HEAD"
            if faults and not is_head_of_transfer:
                return faults.pop(0)
        return None

    def do_GET(self):
        path = unquote(self.path.split("?")[0])
        self.server.asked.append(path)
        fault = self.fault(path)
        if isinstance(fault, int):
            code = ERROR_CODES.get(fault, "")
            return self.answer(fault, b"{}", X_Error_Code=code, Retry_After="0")
        kinds = (("api/models", "", "models"), ("api/datasets", "datasets/", "datasets"))
        for listing, prefix, kind in kinds:
            for repository in getattr(self.server, kind):
                if f"{path}/".startswith(f"/{listing}/{repository}/"):
                    rest = path.removeprefix(f"/{listing}/{repository}")
                    return self.answer_about(kind, repository, rest.strip("/").split("/"))
                if path.startswith(f"/{prefix}{repository}/resolve/"):
                    rest = path.removeprefix(f"/{prefix}{repository}/resolve/")
                    return self.answer_file(kind, repository, *rest.split("/", 1), fault)
        return self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def found(self, kind, repository, revision):
        """(commit, folder) of a revision; None if there is none."""
        commit = self.server.commits.get(repository, COMMIT)
        folder = getattr(self.server, kind)[repository]
        if isinstance(folder, dict):
            by_commit = {commit_of(name): path for name, path in folder.items()}
            commit = commit_of(revision) if revision in folder else revision
            return (commit, by_commit[commit]) if commit in by_commit else None
        return (commit, folder) if revision in ("main", commit) else None

    def answer_about(self, kind, repository, rest):
        """What is known of a repository, or its files."""
        what, revision, inner = (*rest, "", "", "")[:3]
        found = self.found(kind, repository, revision or "main")
        if found is None:
            return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
        commit, folder = found
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        sizes = [path.stat().st_size for path in files]
        if what == "tree":
            if inner or kind == "models":
                return self.answer(404, b"{}", X_Error_Code="EntryNotFound")
            listed = []
            for name, size in zip(names, sizes, strict=True):
                listed.append({"type": "file", "path": name, "size": size, "oid": "0" * 40})
            return self.answer_json(listed)
        siblings = []
        for name, size in zip(names, sizes, strict=True):
            siblings.append({"rfilename": name, "size": size})
        return self.answer_json({"id": repository, "sha": commit, "siblings": siblings})

    def answer_file(self, kind, repository, revision, name, fault):
        """A file of a repository, as it is or with a fault."""
        found = self.found(kind, repository, revision)
        if found is None:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        commit, folder = found
        if not (folder / name).is_file():
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = (folder / name).read_bytes()
        sent = None
        if fault == "short":
            sent = content[: len(content) // 2]
        if fault == "spoilt":
            sent = bytes(byte ^ 255 for byte in content)
        return self.answer(
            200,
            content,
            sent,
            ETag=f'"{hashlib.sha1(content).hexdigest()}"',
            X_Repo_Commit=commit,
            Accept_Ranges="none",
        )


def commit_of(revision):
    """A made-up commit of a branch or tag."""
    return COMMIT if revision == "main" else hashlib.sha1(revision.encode()).hexdigest()


def serve(models, datasets=None):
    """A hub of ``models`` and data sets; end it with ``shutdown()`` and ``server_close()``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.models, server.datasets, server.asked = models, datasets or {}, []
    server.commits, server.faults = {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def environment(server, home, **more):
    """That of a process that asks this hub and keeps its cache in ``home``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    # set by pytest's plugins of transformers, if at all, and no part of a user's environment
    kept.pop("DISABLE_SAFETENSORS_CONVERSION", None)
    return kept | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def run(server, home, code, **more):
    """Python ``code`` in a process of its own: HF_ENDPOINT is read when the library is imported."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(server, home, **more),
        capture_output=True,
        text=True,
        timeout=300,
    )
