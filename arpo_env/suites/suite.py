"""What a suite is: a name, where its rows come from, what judges them, and under which terms they may be used."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from arpo_env.errors import ConfigError, unknown
from arpo_env.tasks.base import TaskFamily

if TYPE_CHECKING:
    import gymnasium

    from arpo_env.suites.sources import Reach
    from arpo_env.tasks.dataset import Judge

Domain = Literal["math", "knowledge", "deep search", "code", "generated"]
#: What judges the answers: the suite's own verifier, the authors' word F1, token F1, or a language model.
METRICS = ("default", "paper", "f1", "judge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which fields of a file hold what; the options of :class:`~arpo_env.tasks.dataset.DatasetFamily`."""

    question: str = "question"
    answer: str = "answer"
    answer_style: Literal["plain", "hashes", "boxed"] = "plain"
    verifier: str | Mapping[str, str] = "qa"
    verifier_field: str | None = None
    where: Mapping[str, Collection[Any]] = field(default_factory=dict)
    #: Name of a cipher of :mod:`arpo_env.suites.ciphers`.
    cipher: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Files of a data set repository on the Hugging Face Hub.

    ``files`` is an ``fnmatch`` pattern. ``revision`` is a full commit where one is pinned; a branch is resolved when it
    is read, and the commit recorded in the family's ``provenance``.
    """

    repo: str
    files: str
    revision: str = "main"
    layout: Layout = Layout()
    gated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Questions in a folder of the published evaluation layout (``NAME/test.jsonl``), or on the Hub."""

    folders: tuple[str, ...]
    layout: Layout = Layout()
    hub: Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Functions to write, judged by hidden tests: from an installed package, a folder, or the Hub.

    ``form`` names how a row is read, see :mod:`arpo_env.suites.programs`.
    """

    form: Literal["humaneval", "mbpp"]
    folders: tuple[str, ...]
    #: (package, file inside it, the name to install)
    package: tuple[str, str, str] | None = None
    hub: Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A generated family of this package, by its environment id; ``tasks``: how many an evaluation takes.

    ``needs``: a module that it cannot do without, and what to install.
    """

    env_id: str
    tasks: int = 200
    needs: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One benchmark.

    Attributes:
        title: the full name, for tables.
        size: tasks of the published set as the Hub or the package gives it; None where tasks never end.
        tools: tags of the tools it is meant for.
        max_tool_calls: the evaluation's budget (the published one: 5 Python calls, 10 searches).
        paper: one of the thirteen that the ARPO paper reports.
        licence: of the data. ``access``: how to get them where that takes more than a download.
    """

    name: str
    title: str
    domain: Domain
    source: Questions | Programs | Generated
    size: int | None
    tools: tuple[str, ...]
    licence: str
    max_tool_calls: int = 5
    paper: bool = False
    access: str = ""

    @property
    def env_id(self) -> str:
        """What ``gymnasium.make`` takes."""
        return self.source.env_id if isinstance(self.source, Generated) else f"ARPO/{self.name}-v0"

    def missing(self, data_dir: str | Path | None = None) -> str | None:
        """Why the suite is not on this machine; None when it is. Never asks the network.

        Args:
            data_dir: as :meth:`family` takes it.
        """
        return self._obstacle(data_dir, "here")

    def available(self, data_dir: str | Path | None = None) -> str | None:
        """As :meth:`missing`, but a suite that the Hub would give counts as available. Downloads nothing."""
        return self._obstacle(data_dir, "ask")

    def _obstacle(self, data_dir: str | Path | None, reach: Reach) -> str | None:
        if isinstance(self.source, Generated):
            module, install = self.source.needs or ("arpo_env", "")
            missing = importlib.util.find_spec(module) is None
            return f"{self.name} needs {module}, which is not installed: pip install {install}" if missing else None
        from arpo_env.suites.sources import locate

        try:
            locate(self.name, self.source, data_dir, access=self.access, reach=reach)
        except ConfigError as error:
            return str(error)
        return None

    def family(
        self,
        data_dir: str | Path | None = None,
        *,
        metric: str = "default",
        judge: Judge | None = None,
        on_broken: Literal["error", "skip"] = "error",
        sandbox: str = "auto",
    ) -> TaskFamily:
        """The suite's tasks.

        Args:
            data_dir: a folder in the published evaluation layout; default the environment variable ``ARPO_DATA``,
                else the Hub. ``"hub"`` asks the Hub even when the variable is set.
            metric: a name of :data:`METRICS`.
            judge: for ``metric="judge"``: a :class:`~arpo_env.rewards.judge.LLMJudge`.
            on_broken: ``skip`` goes on without broken rows (they are counted in the family's ``report``).
            sandbox: isolation tier that runs the tests of code suites.

        Raises:
            ConfigError: the data are not there (and how to get them), a broken row, an unknown metric.
        """
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
        if (metric == "judge") != (judge is not None):
            raise ConfigError(f"metric={metric!r} and judge={judge!r} do not fit: a judge goes with metric='judge'")
        if metric != "default" and not isinstance(self.source, Questions):
            raise ConfigError(f"{self.name} is judged by its own tests or verifier; metric={metric!r} is for questions")
        from arpo_env.suites import loading

        name = f"ARPO/{self.name}"
        match self.source:
            case Generated(env_id=env_id):
                return loading.generated(env_id, sandbox)
            case Programs() as source:
                return loading.programs(name, self, source, data_dir, on_broken, sandbox)
            case Questions() as source:
                return loading.questions(name, self, source, data_dir, on_broken, metric, judge)

    def task_ids(
        self, limit: int | None = None, *, seed: int = 0, data_dir: str | Path | None = None, **options: Any
    ) -> list[str]:
        """The ids of the first ``limit`` tasks of stream ``seed`` (default: all; of endless ones, ``source.tasks``).

        Streams of a finite suite are its permutations: a limited run takes a random sample that ``seed`` names.
        ``options``: as :meth:`family` takes them. An environment made with options of its own may have another family:
        give that one to :meth:`first_tasks`.
        """
        return self.first_tasks(self.family(data_dir, **options), limit, seed=seed)

    def first_tasks(self, family: TaskFamily, limit: int | None = None, *, seed: int = 0) -> list[str]:
        """:meth:`task_ids` of the family of an environment: its options may be part of its name, and so of every id.

        Raises:
            ConfigError: a ``limit`` less than 1.
        """
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be >= 1 (or None for all), got {limit}")
        size = family.size("test")
        if size is None:
            assert isinstance(self.source, Generated)
            size = self.source.tasks if limit is None else limit
        return family.task_ids("test", seed, 0, size if limit is None else min(size, limit))

    def make(self, **options: Any) -> gymnasium.Env[str, str]:
        """``gymnasium.make(self.env_id, …)`` on the test split."""
        import gymnasium

        return gymnasium.make(self.env_id, **({"split": "test"} | options))
