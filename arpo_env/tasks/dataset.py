r"""Families over files: JSONL, Parquet and CSV, with declared fields, named verifiers, and faults counted.

A file is read once, when the family is made, so that a broken row stops a run before it begins and not in
the middle. What is certainly damaged is repaired and counted (``repair.py``); what is not certain is a broken row.
A training family can be held against evaluation questions (``overlap.py``).

``index`` walks a permutation of the rows drawn from the seed, so that every seed visits every row once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from arpo_env.errors import ConfigError, unknown
from arpo_env.rewards.base import Verdict
from arpo_env.rewards.boxed import extract_boxed
from arpo_env.rewards.verifiers import get_verifier
from arpo_env.rows import Broken
from arpo_env.tasks.base import Expert, Task
from arpo_env.tasks.files import FileFamily, Question
from arpo_env.tasks.overlap import OverlapIndex
from arpo_env.tasks.repair import control_character, corrupt, mend, spelled_option

_STYLES = ("plain", "hashes", "boxed")
_HASHES = re.compile(r"####\s*(.+?)\s*$", re.DOTALL)
#: ``(question, answer, golds) -> Verdict``: who judges in place of a verifier.
Judge = Callable[[str, str, Sequence[str]], Verdict]


class DatasetFamily(FileFamily):
    r"""Questions with accepted answers from a file of rows, several files, or a folder of them.

    Args, beside those of :class:`~arpo_env.tasks.files.FileFamily`:
        question: field of the question. Dots reach inside (``extra_info.question``); a chat (a list of
            ``{role, content}``) gives its last user message.
        answer: field of the answer: text, a number, or a non-empty list of accepted texts.
        verifier: a name of :data:`arpo_env.rewards.verifiers.VERIFIERS` (``math``, ``qa``, ``choice`` …), or a
            mapping from the values of ``verifier_field`` to such names, for files of mixed kinds.
        verifier_field: the field that says a row's kind; a missing or null one is the key ``""``.
        answer_style: ``plain``, ``hashes`` for GSM8K's "reasoning #### 42", or ``boxed`` for a worked solution
            whose last ``\boxed{…}`` is the answer.
        where: field -> the values of rows that are wanted; other rows are left out and counted.
        decode: makes the real row of one that is stored enciphered; a ``ValueError`` breaks the row.
        repair: mend control characters that stand for ``\b``, ``\f``, ``\a``, ``\v`` of a LaTeX command; of a gold that
            is an option of the question with its letter ("A: 1-i") accept the letter and the text as well.
        judge: decides in place of the verifiers.

    Raises:
        ConfigError: as :class:`~arpo_env.tasks.files.FileFamily`, or an unknown verifier.
    """

    answer_format = "boxed"

    def __init__(
        self,
        path: str | Path | Sequence[Path],
        *,
        name: str,
        question: str = "question",
        answer: str = "answer",
        verifier: str | Mapping[str, str] = "qa",
        verifier_field: str | None = None,
        answer_style: Literal["plain", "hashes", "boxed"] = "plain",
        tools: Sequence[str] = ("search", "python"),
        split: str = "test",
        where: Mapping[str, Collection[Any]] | None = None,
        decode: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        on_broken: Literal["error", "skip"] = "error",
        repair: bool = True,
        drop_duplicates: bool = False,
        judge: Judge | None = None,
        evaluation: OverlapIndex | None = None,
        on_overlap: Literal["error", "drop", "keep"] = "error",
    ) -> None:
        if answer_style not in _STYLES:
            raise unknown("answer_style", answer_style, _STYLES)
        if isinstance(verifier, str) == (verifier_field is not None):
            raise ConfigError("verifier is a name, or a mapping together with verifier_field")
        self._kind_field = verifier_field
        self._kinds = {"": verifier} if isinstance(verifier, str) else dict(verifier)
        self._verifiers = {kind: get_verifier(kind) for kind in self._kinds.values()}
        self._question, self._answer, self._style = question, answer, answer_style
        self._where, self._decode, self._judge, self._repair = dict(where or {}), decode, judge, repair
        super().__init__(
            path,
            name=name,
            tools=tools,
            split=split,
            on_broken=on_broken,
            drop_duplicates=drop_duplicates,
            evaluation=evaluation,
            on_overlap=on_overlap,
        )

    @classmethod
    def published_training(cls, path: str | Path, *, name: str, **options: Any) -> DatasetFamily:
        """The authors' training Parquet layout: faults counted and repaired or dropped, see :attr:`report`.

        Their ``ability`` says which verifier a row takes (null, in the deep-search set, is question answering).
        :func:`arpo_env.suites.training_set` also holds the questions against the evaluation suites.
        """
        defaults: dict[str, Any] = {
            "verifier": {"math": "math", "qa": "qa", "": "qa"},
            "verifier_field": "ability",
            "question": "prompt",
            "answer": "reward_model.ground_truth",
            "split": "train",
            "on_broken": "skip",
            "drop_duplicates": True,
        }
        return cls(path, name=name, **(defaults | options))

    def verify(self, task: Task, answer: str) -> Verdict:
        if self._judge is not None:
            return self._judge(task.question, answer, task.meta["golds"])
        return self._verifiers[task.meta["verifier"]](answer, task.meta["golds"])

    def expert(self, task: Task) -> Expert:
        raise ConfigError(f"{self.name!r} is read from a file: there is no scripted expert for its questions")

    def _read_row(self, row: Mapping[str, Any]) -> Question | None:
        if any(row.get(name) not in wanted for name, wanted in self._where.items()):
            return None
        if self._decode is not None:
            try:
                row = self._decode(row)
            except ValueError as error:
                raise Broken(f"cannot be decoded: {error}") from error
        question, golds = self._fields(row)
        verifier = self._verifier_of(row)
        if self._repair:
            golds = self._with_options(question, golds)
        return Question(question, golds[0], {"golds": list(golds), "verifier": verifier})

    def _fields(self, row: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        asked = _reach(row, self._question)
        if isinstance(asked, list):
            # The system prompt is not used (ours stands in its place), but its damage is counted all the same.
            mended = [
                message | {"content": self._mend(message["content"])}
                for message in asked
                if isinstance(message, dict) and isinstance(message.get("content"), str)
            ]
            question = _last_user(mended, self._question)
        elif isinstance(asked, str):
            question = self._mend(asked)
        else:
            raise Broken(f"field {self._question!r} must be text, got {type(asked).__name__}")
        if not question.strip():
            raise Broken(f"field {self._question!r} is empty")
        golds = tuple(self._golds(_reach(row, self._answer)))
        for what, text in ((self._question, question), *((self._answer, gold) for gold in golds)):
            if found := control_character(text):
                raise Broken(f"field {what!r} holds the control character {found!r}, which nothing explains")
        for gold in golds:
            if reason := corrupt(gold):
                raise Broken(f"field {self._answer!r} is corrupt: {reason}: {gold[:60]!r}")
        return question.strip(), golds

    def _with_options(self, question: str, golds: tuple[str, ...]) -> tuple[str, ...]:
        more = [part for gold in golds for part in spelled_option(gold, question)]
        if more:
            self.report.repaired["option"] += 1
        return (*golds, *more)

    def _verifier_of(self, row: Mapping[str, Any]) -> str:
        kind = ""
        if self._kind_field is not None:
            kind = str(row.get(self._kind_field) or "")
        if kind not in self._kinds:
            known = ", ".join(map(repr, self._kinds))
            raise Broken(f"field {self._kind_field!r} is {kind!r}; a verifier is declared for: {known}")
        return self._kinds[kind]

    def _golds(self, value: Any) -> list[str]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise Broken(f"field {self._answer!r} is an empty list")
        golds = []
        for one in values:
            if isinstance(one, bool) or not isinstance(one, (str, int, float)):
                raise Broken(f"field {self._answer!r} must be text, a number or a list, got {type(one).__name__}")
            # Mended before it is stripped: a leading form feed is white space to Python.
            text = self._mend(str(one)).strip()
            if self._style == "hashes":
                match = _HASHES.search(text)
                if match is None:
                    raise Broken(f"field {self._answer!r} has no '#### answer' at its end")
                text = match[1]
            elif self._style == "boxed":
                boxed = extract_boxed(text)
                if boxed is None:
                    raise Broken(f"field {self._answer!r} holds no \\boxed{{answer}}")
                text = boxed
            if not text:
                raise Broken(f"field {self._answer!r} is empty")
            golds.append(text)
        return golds

    def _mend(self, text: str) -> str:
        return mend(text, self.report.repaired) if self._repair else text


def _reach(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            known = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise Broken(f"no field {path!r} (there is: {known})")
        value = value[part]
    if value is None:
        raise Broken(f"field {path!r} is null")
    return value


def _last_user(chat: Sequence[Mapping[str, Any]], path: str) -> str:
    for message in reversed(chat):
        if message.get("role") == "user":
            return str(message["content"])
    raise Broken(f"field {path!r} is a list without a user message")
