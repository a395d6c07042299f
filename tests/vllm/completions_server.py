"""A stand-in for ``vllm serve``: speaks the same routes, generates bytes from a seed (real: test_server_vllm.py).

As a command (``completions_server.py PORT``) it is a process that can be killed.
"""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


class FakeServer(ThreadingHTTPServer):
    """``script``: token ids that every request gets; ``flaw`` names what goes wrong."""

    daemon_threads = True

    def __init__(self, port: int = 0, holds: int = 128) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.holds = holds
        self.script: list[int] = list(range(65, 91))
        self.flaw = ""
        self.calls: list[tuple[str, Any]] = []
        self.weights: dict[str, Any] = {}
        self.version = "none"
        self.hung_up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def logprobs(self, token: int, k: int) -> dict[str, float]:
        """The k likeliest and the token, which has a quarter of all mass."""
        rest = {f"token_id:{(token + 1 + i) % 256}": math.log(0.5 / 2 ** (i + 1)) for i in range(k - 1)}
        return {f"token_id:{token}": math.log(0.25), **rest}


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._json({"data": [{"id": "toy", "max_model_len": self.server.holds}]})
        elif self.path == "/health":
            self.send_error(503) if self.server.flaw == "engine dead" else self._json(None)
        elif self.path == "/weight_info":
            self._json({"weight_version": self.server.version})
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.calls.append((self.path, body))
        if self.path == "/v1/completions":
            self._stream(body) if body.get("stream") else self._first(body)
            return
        if self.server.flaw == "no weight routes":
            self.send_error(404)
            return
        if self.server.flaw == "broken update" and self.path == "/update_weights":
            self.send_error(500, "out of memory")
            return
        if self.path == "/update_weights":
            self.server.weights = load_file(Path(body["update_info"]["path"]))
        if self.path == "/finish_weight_update" and self.server.flaw != "update forgotten":
            self.server.version = body["weight_version"]
        self._json({"message": "done"})

    def _first(self, body: Any) -> None:
        said = -1.0 if self.server.flaw == "raw log-probs" else 0.0
        choice: dict[str, Any] = {"token_ids": [65], "logprobs": {"token_logprobs": [said], "top_logprobs": [{}]}}
        if self.server.flaw == "no token ids":
            choice = {"text": "A", "logprobs": None}
        self._json({"choices": [choice]})

    def _stream(self, body: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        rng = np.random.default_rng(body["seed"])
        script = self.server.script or rng.integers(65, 91, 1000).tolist()
        try:
            for i, token in enumerate(script[: body["max_tokens"]]):
                if self.server.flaw in ("breaks off", "engine dead") and i == 2:
                    return
                if self.server.flaw == "reports an error" and i == 2:
                    self._event({"error": {"message": "engine died"}})
                    return
                said: float | None = None if self.server.flaw == "NaN" else math.log(0.25)
                tops = self.server.logprobs(token, body["logprobs"])
                logprobs = {"token_logprobs": [said], "top_logprobs": [tops]}
                self._event({"choices": [{"token_ids": [token], "logprobs": logprobs, "finish_reason": None}]})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.hung_up.set()

    def _event(self, data: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def _json(self, data: Any) -> None:
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def serving() -> Iterator[FakeServer]:
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with FakeServer(int(sys.argv[1]), holds=4096) as made:
        made.script = []
        print(made.url, flush=True)
        made.serve_forever()
