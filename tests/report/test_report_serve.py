"""The live view: this machine only, and never an old page."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_runs import make_run

from arpo_algo.errors import ConfigError
from arpo_algo.report.data import RunFolderError
from arpo_algo.report.serve import ReportServer, serve


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReportServer]:
    make_run(tmp_path / "run", steps=1, trees=1, tasks=2)
    with ReportServer(tmp_path / "run") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: ReportServer, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_page_follows_the_run(server: ReportServer) -> None:
    status, page = get(server, "/")
    assert status == 200
    assert "24 cold start steps, 1 training step<" in page
    version = get(server, "/version")[1]
    assert f'<meta name="arpo-live" content="{version}">' in page
    assert get(server, "/version") == (200, version)
    with (server.run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"phase": "train", "step": 1, "reward": 1.0}) + "\n")
    assert get(server, "/version")[1] != version
    assert "2 training steps" in get(server, "/?x=1")[1]


def test_a_broken_run_is_told_in_the_browser(server: ReportServer) -> None:
    (server.run / "eval.jsonl").write_text("<b>\n")
    status, page = get(server, "/")
    assert status == 500
    assert "eval.jsonl, line 1: not JSON" in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:99", 200),
        ("[::1]:8000", 200),
        ("evil.example:80", 403),
        ("10.0.0.1", 403),
        ("", 403),
    ],
)
def test_other_host_names_are_refused(server: ReportServer, host: str, status: int) -> None:
    assert get(server, "/version", host)[0] == status


def test_only_the_report_is_there(server: ReportServer) -> None:
    for path in ("/config.json", "/../config.json", "/%2e%2e/config.json"):
        assert get(server, path)[0] == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.com", ""])
def test_only_loopback_is_served(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="loopback only"):
        ReportServer(tmp_path, host=host)


def test_a_port_in_use_and_a_missing_run_are_clear(server: ReportServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another port"):
        ReportServer(tmp_path, port=server.server_address[1])
    with pytest.raises(RunFolderError, match="not a folder"):
        ReportServer(tmp_path / "nowhere")


def test_serve_says_where_and_stops_on_interrupt(tmp_path: Path) -> None:
    said = []

    def ready(url: str) -> None:
        said.append(url)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve(tmp_path, on_ready=ready)
    assert said[0].startswith("http://127.0.0.1:")
