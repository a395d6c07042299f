"""The view of the host: what is bound, and that an interpreter may live anywhere."""

from __future__ import annotations

import pytest

from arpo_env.sandbox import view


def test_tmp_is_the_sessions_own_unless_the_interpreter_lives_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = ["link", "/home/agent/tmp", "/tmp"]
    monkeypatch.setattr(view, "interpreter_paths", lambda: ["/opt/venv"])
    assert link in view.plan()
    # A checkout below /tmp (as CI systems make them): a link over the bound directory would stop the sandbox.
    monkeypatch.setattr(view, "interpreter_paths", lambda: ["/tmp/clone/.venv"])
    assert link not in view.plan()
    assert ["ro", "/tmp/clone/.venv", "/tmp/clone/.venv"] in view.plan()
