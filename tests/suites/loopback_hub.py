"""A Hugging Face Hub on loopback: one data set repository, served the way ``huggingface_hub`` asks for it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repo: str, files: Mapping[str, bytes], *, gated: bool = False) -> Iterator[str]:
    """Serve ``files`` as the data set ``repo``; yields the endpoint's address. ``gated`` refuses everybody."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(body=True)

        def do_HEAD(self) -> None:
            self._serve(body=False)

        def _serve(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            what, _, rest = path.partition(f"/datasets/{repo}")
            kind, _, below = rest.strip("/").partition("/")
            revision, _, name = below.partition("/")
            commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else COMMIT
            if gated and (kind == "resolve" or kind == "auth-check"):
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            elif what == "/api" and kind in ("", "revision"):
                self._json({"_id": "1", "id": repo, "sha": commit, "siblings": [{"rfilename": n} for n in files]}, body)
            elif what == "/api" and kind == "tree":
                rows = [{"type": "file", "path": n, "oid": "1", "size": len(data)} for n, data in files.items()]
                self._json(rows, body)
            elif what == "/api" and kind == "auth-check":
                self._json({}, body)
            elif kind == "resolve" and name in files:
                etag = hashlib.sha256(files[name]).hexdigest()
                self._send(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, body)
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

        def _json(self, value: Any, body: bool) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

        def _send(self, status: int, data: bytes, headers: Mapping[str, str], body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
