"""From a declaration to a task family."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arpo_env.errors import ToolUnavailable
from arpo_env.suites.ciphers import CIPHERS
from arpo_env.suites.sources import locate
from arpo_env.suites.suite import Programs, Questions, Suite
from arpo_env.tasks.base import TaskFamily
from arpo_env.tasks.dataset import DatasetFamily

if TYPE_CHECKING:
    from arpo_env.suites.programs import ProgramFamily
    from arpo_env.tasks.dataset import Judge

#: Metric -> the verifier that replaces a suite's own.
_VERIFIERS = {"paper": "paper", "f1": "qa_f1"}


def questions(
    name: str,
    suite: Suite,
    source: Questions,
    data_dir: str | Path | None,
    on_broken: Literal["error", "skip"],
    metric: str,
    judge: Judge | None,
) -> DatasetFamily:
    found = locate(suite.name, source, data_dir, access=suite.access)
    layout = found.layout
    kinds = [layout.verifier] if isinstance(layout.verifier, str) else layout.verifier.values()
    if metric == "default" and {"math", "mixed"} & set(kinds) and importlib.util.find_spec("math_verify") is None:
        # Many an answer is decided without it; the first that is not would otherwise stop the run in its middle.
        raise ToolUnavailable(
            f"{suite.name} is judged by Math-Verify, which is not installed: pip install 'arpo[suites]'"
        )
    replaced = _VERIFIERS.get(metric)
    family = DatasetFamily(
        found.files,
        name=name,
        question=layout.question,
        answer=layout.answer,
        answer_style=layout.answer_style,
        verifier=layout.verifier if replaced is None else replaced,
        verifier_field=layout.verifier_field if replaced is None else None,
        where=layout.where,
        decode=None if layout.cipher is None else CIPHERS[layout.cipher],
        tools=suite.tools,
        split="test",
        on_broken=on_broken,
        judge=judge,
    )
    family.provenance = found.provenance
    return family


def programs(
    name: str,
    suite: Suite,
    source: Programs,
    data_dir: str | Path | None,
    on_broken: Literal["error", "skip"],
    sandbox: str,
) -> ProgramFamily:
    from arpo_env.suites.programs import ProgramFamily

    found = locate(suite.name, source, data_dir, access=suite.access)
    family = ProgramFamily(found.files, name=name, form=source.form, on_broken=on_broken, sandbox=sandbox)
    family.provenance = found.provenance
    return family


def generated(env_id: str, sandbox: str) -> TaskFamily:
    from arpo_env.tasks.generated import generated_family

    family = generated_family(env_id)
    return family(sandbox=sandbox) if "sandbox" in inspect.signature(family).parameters else family()
