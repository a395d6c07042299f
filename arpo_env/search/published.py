"""Published multi-hop suites as local corpora: HotpotQA, 2WikiMultiHopQA and MuSiQue.

Each of their questions comes with paragraphs: the ones it needs, and others that look like them. All paragraphs of a
suite together are a corpus on which its real questions can be asked without a network, as is usual in the
literature on retrieval for these suites. :func:`build` reads the files as they are published (the authors' JSON, or
the Parquet of the Hub), writes the index and the questions::

    OUT/index.json, …            a BM25 index over the paragraphs, each once
    OUT/questions/SPLIT.jsonl    {"id", "question", "answer": [accepted …], "type", "support": [titles]}

which ``ARPO-Dataset-v0`` takes as ``search=`` and ``path=``.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

from arpo_env.errors import ConfigError, unknown
from arpo_env.rows import Broken, read_rows
from arpo_env.search.base import Page
from arpo_env.search.bm25 import BM25Index
from arpo_env.search.sources import HUB, fetch_hub

_CHUNK = 1 << 20
_LONGEST_ROW = 64 << 20
_GAP = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Example:
    """One question with the paragraphs it came with: (title, text) pairs."""

    id: str
    question: str
    answers: tuple[str, ...]
    kind: str
    support: tuple[str, ...]
    paragraphs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PublishedSet:
    """A published data set.

    Args:
        name: its name on the command line.
        hub: the data set of the Hub.
        patterns: which of its files are downloaded.
        example: a row of any of its layouts -> an :class:`Example`.
        licence: of the data, as its authors give it.
    """

    name: str
    hub: str
    patterns: tuple[str, ...]
    example: Callable[[Mapping[str, Any]], Example]
    licence: str


@dataclass
class Built:
    """What :func:`build` made: paragraphs kept, and questions by split; those without an answer are left out."""

    folder: Path
    pages: int = 0
    paragraphs: int = 0
    questions: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0


def _hotpot(row: Mapping[str, Any]) -> Example:
    """HotpotQA and 2Wiki, in four layouts of ``context``: pairs, a struct of lists, a list of structs, or text."""
    context = _titled(row["context"], "sentences")
    support = dict.fromkeys(str(title) for title, _ in _titled(row.get("supporting_facts") or [], "sent_id"))
    paragraphs = tuple((str(title), _joined(sentences)) for title, sentences in context)
    answer = row.get("answer") or ""
    identifier = row["_id"] if "_id" in row else row["id"]
    return Example(str(identifier), row["question"], (answer,) if answer else (), str(row.get("type") or ""),
                   tuple(support), paragraphs)  # fmt: skip


def _titled(value: Any, other: str) -> list[tuple[Any, Any]]:
    """(title, …) pairs, however they were written."""
    if isinstance(value, str):
        # The Hub's 2Wiki holds these fields as text: JSON, or a Python literal.
        try:
            value = json.loads(value)
        except ValueError:
            value = ast.literal_eval(value)
    if isinstance(value, Mapping):
        titles = value["title"]
        others = value[other] if other in value else value["content"]
        return list(zip(titles, others, strict=True))
    pairs: list[tuple[Any, Any]] = []
    for item in value:
        if isinstance(item, Mapping):
            pairs.append((item["title"], item[other] if other in item else item["content"]))
        else:
            title, rest = item
            pairs.append((title, rest))
    return pairs


def _joined(sentences: Any) -> str:
    """Sentences as one text. HotpotQA's begin with their blank, 2Wiki's do not."""
    if isinstance(sentences, str):
        return sentences.strip()
    return " ".join(" ".join(str(sentence) for sentence in sentences).split())


def _musique(row: Mapping[str, Any]) -> Example:
    paragraphs = tuple((str(p["title"]), " ".join(str(p["paragraph_text"]).split())) for p in row["paragraphs"])
    support = dict.fromkeys(str(p["title"]) for p in row["paragraphs"] if p.get("is_supporting"))
    answer = row.get("answer") or ""
    # The unanswerable half of MuSiQue-Full asks questions whose paragraphs were taken away.
    answers = (answer, *(row.get("answer_aliases") or ())) if answer and row.get("answerable", True) else ()
    # "2hop__13548_13529" -> "2hop": the shape of the reasoning.
    return Example(str(row["id"]), row["question"], tuple(dict.fromkeys(map(str, answers))),
                   str(row["id"]).split("__")[0], tuple(support), paragraphs)  # fmt: skip


SUITES: Mapping[str, PublishedSet] = {
    suite.name: suite
    for suite in (
        PublishedSet("hotpotqa", "hotpotqa/hotpot_qa", ("distractor/*.parquet",), _hotpot, "CC BY-SA 4.0"),
        PublishedSet("2wiki", "xanhho/2WikiMultihopQA", ("*.parquet", "*.json"), _hotpot, "Apache-2.0"),
        PublishedSet("musique", "dgslibisey/MuSiQue", ("musique_ans_*.jsonl",), _musique, "CC BY 4.0"),
    )
}

#: What a file's name says about its split, looked for as a word of it.
_SPLITS = {"train": "train", "dev": "validation", "validation": "validation", "valid": "validation", "test": "test"}


def build(
    name: str,
    source: str | Path,
    out: str | Path,
    *,
    splits: Iterable[str] = (),
    limit: int | None = None,
    progress: Callable[[Iterable[Example]], Iterable[Example]] = iter,
) -> Built:
    """Build the corpus of suite ``name`` from its files.

    Args:
        name: a key of :data:`SUITES`.
        source: ``hub`` (its own data set), ``hub:OWNER/NAME`` (a copy of it), or a folder with its files.
        out: where the index and the questions go.
        splits: take only these (``train``, ``validation``, ``test``); all that are there by default.
        limit: take only the first questions of each split, with their paragraphs.
        progress: wraps the stream of examples.

    Raises:
        ConfigError: unknown suite or split, no such files, or a row in another layout (file, row and reason).
        InfraError: the Hub cannot be reached.
    """
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    suite, wanted = SUITES[name], set(splits)
    for split in wanted - set(_SPLITS.values()):
        raise unknown("split", split, set(_SPLITS.values()))
    if str(source) == "hub" or str(source).startswith(HUB):
        folder = fetch_hub(f"{HUB}{suite.hub}" if str(source) == "hub" else str(source), suite.patterns)
    else:
        folder = Path(source)
    files = {split: paths for split, paths in _files(folder).items() if not wanted or split in wanted}
    if not files:
        raise ConfigError(
            f"{folder} holds no file of {name}{f' for {sorted(wanted)}' if wanted else ''}: expected names with "
            "train, dev, validation or test in them, ending in .json, .jsonl or .parquet"
        )
    built = Built(Path(out))
    with _QuestionFiles(built.folder) as questions:
        pages = _pages(suite, files, limit, progress, questions, built)
        built.pages = len(BM25Index.build(pages, built.folder))
    return built


def _files(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix not in (".json", ".jsonl", ".parquet") or not file.is_file():
            continue
        words = file.stem.replace("-", "_").replace(".", "_").lower().split("_")
        # HotpotQA's other settings hold the same questions with other paragraphs, MuSiQue's full set more of them.
        if {"fullwiki", "full", "singlehop"} & {*words, *(part.lower() for part in file.relative_to(folder).parts)}:
            continue
        split = next((_SPLITS[word] for word in words if word in _SPLITS), None)
        if split is not None:
            found.setdefault(split, []).append(file)
    return found


def _pages(
    suite: PublishedSet,
    files: Mapping[str, list[Path]],
    limit: int | None,
    progress: Callable[[Iterable[Example]], Iterable[Example]],
    questions: _QuestionFiles,
    built: Built,
) -> Iterator[Page]:
    """Each paragraph once, in order of appearance; the questions are written on the way."""
    seen: set[bytes] = set()
    for split, paths in files.items():
        for example in islice(progress(_examples(suite, paths)), limit):
            if example.answers:
                questions.write(split, example)
                built.questions[split] = built.questions.get(split, 0) + 1
            else:
                built.unanswered += 1
            for title, text in example.paragraphs:
                built.paragraphs += 1
                key = hashlib.blake2b(f"{title}\n{text}".encode("utf-8", "replace"), digest_size=16).digest()
                if key not in seen:
                    seen.add(key)
                    url = f"https://en.wikipedia.org/wiki/{quote(title.replace(' ', '_'), errors='replace')}"
                    yield Page(f"{suite.name}:{len(seen) - 1}", title, text, url)


def _examples(suite: PublishedSet, paths: Iterable[Path]) -> Iterator[Example]:
    for path in paths:
        for number, row in _json_list(path) if path.suffix == ".json" else read_rows(path):
            try:
                if isinstance(row, Broken):
                    raise ValueError(str(row))
                example = suite.example(row)
                if not example.question.strip() or not example.id:
                    raise ValueError("no question, or no id")
            except (KeyError, TypeError, ValueError, SyntaxError, AttributeError) as error:
                raise ConfigError(
                    f"{path}, row {number}: not in a layout of {suite.name} ({type(error).__name__}: {error})"
                ) from None
            yield example


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of one huge JSON list, one at a time: HotpotQA's training file is half a gigabyte."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        text = file.read(_CHUNK).lstrip()
        if not text.startswith("["):
            raise ConfigError(f"{path}: expected a JSON list of questions, found {text[:20]!r}")
        number, place = 0, 1
        while True:
            place = _GAP.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
            if text.startswith("]", place):
                return
            try:
                item, place = decoder.raw_decode(text, place)
            except ValueError as error:
                more = file.read(_CHUNK)
                text, place = text[place:] + more, 0
                if not more or len(text) > _LONGEST_ROW:
                    raise ConfigError(f"{path}, row {number + 1}: not JSON ({error})") from None
            else:
                number += 1
                yield number, item


class _QuestionFiles:
    """``OUT/questions/SPLIT.jsonl``, which take the place of older ones when all of them are complete."""

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file; a corpus is a folder")
        out.mkdir(parents=True, exist_ok=True)
        self._folder = out / "questions"
        self._scratch = Path(tempfile.mkdtemp(prefix="partial-", dir=out))
        self._files: dict[str, IO[str]] = {}

    def write(self, split: str, example: Example) -> None:
        if split not in self._files:
            self._files[split] = (self._scratch / f"{split}.jsonl").open("w", encoding="utf-8")
        row = {
            "id": example.id,
            "question": example.question,
            "answer": list(example.answers),
            "type": example.kind,
            "support": list(example.support),
        }
        self._files[split].write(json.dumps(row) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._scratch.rename(self._folder)
            self._folder.chmod(0o755)  # a scratch folder is its maker's alone
        else:
            shutil.rmtree(self._scratch, ignore_errors=True)
