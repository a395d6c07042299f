"""An OpenAI-compatible server on loopback whose replies a test writes by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """``body``: a JSON value, or text sent as it is; ``None`` closes the connection without a word."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def completion(text: str | None, *, finish_reason: str = "stop", usage: bool = True, **choice: Any) -> Reply:
    """A well-formed answer with the content ``text``."""
    message = choice.pop("message", {"role": "assistant", "content": text})
    body: dict[str, Any] = {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}],
    }  # fmt: skip
    if usage:
        body["usage"] = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return Reply(body)


def refusal(status: int, message: str, **error: Any) -> Reply:
    """An error in OpenAI's shape; a retry may follow at once."""
    return Reply({"error": {"message": message, **error}}, status, {"retry-after-ms": "1"})


@dataclass
class ChatServer:
    """``answer(request)`` makes each reply; ``requests`` keeps the decoded bodies, ``keys`` their credentials."""

    url: str
    answer: Callable[[dict[str, Any]], Reply]
    models: tuple[str, ...] = ("m",)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@contextmanager
def chat_server(answer: Callable[[dict[str, Any]], Reply] | list[Reply]) -> Iterator[ChatServer]:
    """Serve ``answer`` (or a list of replies, the last of which is repeated) at ``server.url``."""
    if isinstance(answer, list):
        script = list(answer)
        lock = threading.Lock()

        def answer(request: dict[str, Any]) -> Reply:
            with lock:
                return script.pop(0) if len(script) > 1 else script[0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._send(Reply({"object": "list", "data": [{"id": m, "object": "model"} for m in server.models]}))
            else:
                self._send(Reply("not here", 404))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self._send(Reply("not here", 404))
                return
            server.requests.append(request)
            server.keys.append(self.headers.get("Authorization", ""))
            self._send(server.answer(request))

        def _send(self, reply: Reply) -> None:
            if reply.body is None:
                self.close_connection = True
                return
            text = isinstance(reply.body, str)
            data = (reply.body if text else json.dumps(reply.body)).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/html" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = ChatServer(f"http://127.0.0.1:{httpd.server_address[1]}/v1", answer)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
