"""A chat endpoint over real HTTP that answers as a test says."""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def said(content: Any, finish: str = "stop", **usage: int) -> dict:
    message = {"role": "assistant", "content": content}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        **({"usage": usage} if usage else {}),
    }


class Endpoint:
    """A chat endpoint. `script(number, body)` says what to answer: a text, a JSON body, (status, body[, headers]),
    raw bytes, "CLOSE" for a connection that breaks, or "HANG" for an answer that never comes."""

    def __init__(self, script: Callable[[int, dict], Any]) -> None:
        self.script, self.bodies, self.keys, self.lock = script, [], [], threading.Lock()
        self.busy = self.most = 0
        self.released = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                endpoint.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert handler.path == "/v1/chat/completions"
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.keys.append(handler.headers["Authorization"])
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            what = self.script(number, body)
        finally:
            with self.lock:
                self.busy -= 1
        if what == "HANG":
            self.released.wait()
        if what in ("HANG", "CLOSE"):
            handler.connection.close()
            return
        what = said(what) if isinstance(what, str) else what
        status, content, *more = what if isinstance(what, tuple) else (200, what)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json" if data[:1] != b"<" else "text/html")
        handler.send_header("Content-Length", str(len(data)))
        for name, value in (more[0] if more else {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows asked for, in order."""
        return [row_of(body) for body in self.bodies]


def row_of(body: dict) -> int:
    return int(re.search(r"answer (\d+) ends", body["messages"][0]["content"])[1])
