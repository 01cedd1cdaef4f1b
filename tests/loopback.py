"""A server on the loopback that speaks the protocol, as well or as badly as it is told."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(content, finish="stop", refusal=None):
    """The body of a chat completion."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "toy",
        "choices": [{"index": 0, "finish_reason": finish, "message": message, "logprobs": None}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
    }


def says(content, **more):
    """A reply with some text of the model."""
    return lambda handler: handler.reply(200, json.dumps(completion(content, **more)).encode())


def rates(accuracy, completeness):
    """A reply that a judge can read."""
    return says(json.dumps({"accuracy": accuracy, "completeness": completeness}))


def fails(status, message="no", headers=(), code=None):
    """An error as the protocol has it."""
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return lambda handler: handler.reply(status, body, headers)


def raw(body):
    """Any bytes, said to be JSON."""
    return lambda handler: handler.reply(200, body)


def breaks_off(handler):
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "1", "choi')
    handler.close_connection = True


def sleeps(seconds, then):
    """Takes its time."""

    def reply(handler):
        time.sleep(seconds)
        then(handler)

    return reply


class Server:
    """``script``: what the next requests get; after them ``otherwise`` answers, by the material."""

    def __init__(self, otherwise=None):
        self.script = []
        self.otherwise = otherwise or (lambda material: rates(0, 0))
        self.requests = []  # (headers, body) of each
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def materials(self):
        """What was asked, as it was sent, request by request."""
        return [json.loads(body["messages"][1]["content"]) for _, body in self.requests]

    @contextmanager
    def running(self, port=0):
        self.http = ThreadingHTTPServer(("127.0.0.1", port), handler_of(self))
        self.http.daemon_threads = True
        thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.http.shutdown()
            self.http.server_close()
            thread.join()


def handler_of(server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append((headers, body))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
                scripted = server.script.pop(0) if server.script else None
            try:
                (scripted or server.otherwise(json.loads(body["messages"][1]["content"])))(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client waited no longer
            finally:
                with server.lock:
                    server.at_once -= 1

        def reply(self, status, body, headers=()):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    return Handler
