"""A small server on loopback that speaks the model hub's file protocol, for models."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """``server.models``: repository -> folder; ``server.asked``: the paths asked for, in order."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        for repository, folder in self.server.models.items():
            if path in (f"/api/models/{repository}", f"/api/models/{repository}/revision/main"):
                about = json.dumps({"id": repository, "sha": COMMIT, "siblings": []})
                return self.answer(200, about.encode(), Content_Type="application/json")
            if path.startswith(f"/api/models/{repository}/tree/"):
                return self.answer(404, b"{}", X_Error_Code="EntryNotFound")
            if path.startswith(f"/{repository}/resolve/"):
                name = path.removeprefix(f"/{repository}/resolve/").split("/", 1)[1]
                file = folder / name
                if not file.is_file():
                    return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                content = file.read_bytes()
                return self.answer(
                    200,
                    content,
                    ETag=f'"{hashlib.sha1(content).hexdigest()}"',
                    X_Repo_Commit=COMMIT,
                    Accept_Ranges="bytes",
                )
        return self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


def serve(models):
    """A hub of ``models``; end it with ``shutdown()`` and ``server_close()``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.models, server.asked = models, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def run(server, home, code, **more):
    """Python ``code`` in a process of its own: HF_ENDPOINT is read when the library is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    # set by pytest's plugins of transformers, if at all, and no part of a user's environment
    kept.pop("DISABLE_SAFETENSORS_CONVERSION", None)
    environment = kept | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
