"""``arpo view`` of a run that is going on, and of the same run when it has ended, in a real browser."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from test_report_browser import CHROMIUM, attribute, dump
from tiny_run import config, quiet, run

from arpo_algo.cli import main
from arpo_algo.errors import ConfigError
from arpo_algo.report.serve import ReportServer
from arpo_algo.runfolder import RunFolder
from arpo_algo.trainer import Trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
]


def test_running_and_finished(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"eval.before": True, "log.trees_every": 2, "steps": 4}
    run(tmp_path / "run", config(tiny_model, **{**changes, "steps": 2}))
    trainer = Trainer(config(tiny_model, **changes), tmp_path / "run", resume=True, console=quiet())
    with pytest.raises(ConfigError, match="in use"):
        RunFolder(tmp_path / "run")  # it is open, as in a run that goes on
    with ReportServer(tmp_path / "run") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            during = dump(server.url, tmp_path / "profile-1", budget=3000)
            trainer.run()
        finally:
            trainer.close()
            server.shutdown()
            thread.join()
    assert main(["view", str(tmp_path / "run")]) == 0
    after = dump((tmp_path / "run" / "report.html").as_uri(), tmp_path / "profile-2")
    for page in (during, after):
        assert attribute(page, "errors") == "0", attribute(page, "first-error")
        assert attribute(page, "ready") == "1"
    assert "train-000000" in during
    assert "train-000002" not in during
    assert "train-000002" in after, "every second step's trees are in the viewer"
    assert "train-000001" not in after
