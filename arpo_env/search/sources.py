"""Where a corpus can come from: JSONL, Parquet or CSV, a folder of them, a folder of documents, a data set of the Hub.

Everything streams: a source is an iterator of pages, and no more of it is held than the row under way. Documents
(``.txt``, ``.md``, ``.html``) and other long pages are cut into passages, since a search result shows the
beginning of what it found and BM25 favours what is short.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from arpo_env.errors import ConfigError, InfraError, ToolUnavailable
from arpo_env.rows import SUFFIXES, suffix
from arpo_env.search.base import Page
from arpo_env.search.corpus import FIELDS, each_id_once, page_rows

HUB = "hub:"
DOCUMENTS = (".txt", ".md", ".html", ".htm")
#: Words of a passage, as in DPR (Karpukhin et al., 2020).
PASSAGE_WORDS = 100
_PATTERNS = tuple(f"*{end}" for end in SUFFIXES)
_WORD = re.compile(r"\S+")
_HEADING = re.compile(r"^#\s+(.+?)\s*#*\s*$", re.MULTILINE)


def read_source(
    source: str | Path, *, fields: Mapping[str, str] | None = None, passage_words: int | None = None
) -> Iterator[Page]:
    """The pages of ``source``.

    Args:
        source: a ``.jsonl``, ``.jsonl.gz``, ``.parquet`` or ``.csv`` file; a folder of such files, or of documents (in
            path order, subfolders too); or ``hub:OWNER/NAME[@REVISION]``, a data set of the Hugging Face Hub.
        fields: field of a page -> field of a row, where they differ (``{"text": "body", "id": "#"}``; ``#`` numbers
            the rows).
        passage_words: cut pages into passages of so many words, each with the page's title and URL; 0 leaves pages
            whole. Default: 0 for rows, :data:`PASSAGE_WORDS` for documents.

    Raises:
        ConfigError: nothing there that can be read, or a broken row (file, row and reason), or an id that stands
            twice.
        InfraError: the Hub cannot be reached.
        ToolUnavailable: a package is missing (``pip install 'arpo[…]'`` names which).
    """
    if passage_words is not None and passage_words < 0:
        raise ConfigError(f"passage_words must be >= 0 (0: whole pages), got {passage_words}")
    known = {**FIELDS, **(fields or {})}
    if unknown_fields := set(known) - set(FIELDS):
        raise ConfigError(f"a page has no field {sorted(unknown_fields)}; its fields are {', '.join(FIELDS)}")
    if str(source).startswith(HUB):
        return read_source(fetch_hub(str(source)), fields=fields, passage_words=passage_words)
    path = Path(source)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    tables = [file for file in files if suffix(file)]
    documents = [file for file in files if file.suffix.lower() in DOCUMENTS]
    if tables:
        pages = each_id_once(lambda: (row for file in tables for row in page_rows(file, known)))
    elif documents:
        root = path.parent if path.is_file() else path
        pages = (read_document(file, root) for file in documents)
        passage_words = PASSAGE_WORDS if passage_words is None else passage_words
    else:
        raise ConfigError(
            f"no corpus at {source}: expected {', '.join(SUFFIXES)} files, or a folder of {', '.join(DOCUMENTS)}, "
            f"or {HUB}OWNER/NAME"
        )
    return passages(pages, passage_words) if passage_words else pages


def read_document(file: Path, root: Path) -> Page:
    """A text, Markdown or HTML file as a page; its id and URL are its path below ``root``.

    The title is the first ``# heading`` or the ``<title>``, else the file's name.

    Raises:
        ConfigError: it is not UTF-8 (HTML may declare another encoding).
    """
    name = file.relative_to(root).as_posix()
    raw = file.read_bytes()
    if file.suffix.lower() in (".html", ".htm"):
        title, text = _html(raw, file)
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: not UTF-8 ({error}); convert it, or leave it out") from None
        heading = _HEADING.search(text) if file.suffix.lower() == ".md" else None
        title = heading[1] if heading else ""
        # The title is shown beside the text, so it need not open it again.
        if heading and not text[: heading.start()].strip():
            text = text[heading.end() :]
    return Page(name, title or file.stem, text.strip(), name)


def _html(raw: bytes, file: Path) -> tuple[str, str]:
    from arpo_env.charsets import decode
    from arpo_env.web.extract import read_html, tidy

    try:
        title, text = read_html(decode(raw, ""), "trafilatura")
    except ImportError as error:
        raise ToolUnavailable(f"{file}: reading HTML needs {error.name}: pip install 'arpo[web]'") from None
    return " ".join(title.split()), tidy(text)


def passages(pages: Iterable[Page], words: int) -> Iterator[Page]:
    """Cut each page into pieces of ``words`` words; ``ID#2`` is the second piece of ``ID``. Short pages stay."""
    for page in pages:
        starts = [match.start() for match in _WORD.finditer(page.text)][::words]
        if len(starts) < 2:
            yield page
            continue
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], None], strict=True), 1):
            yield Page(f"{page.id}#{number}", page.title, page.text[start:end].strip(), page.url)


def fetch_hub(source: str, patterns: Iterable[str] = _PATTERNS) -> Path:
    """Download a data set of the Hub (into its own cache, so once) and say where its files lie.

    Args:
        source: ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION``.
        patterns: which files.

    Raises:
        ConfigError: a malformed name.
        InfraError: it cannot be downloaded.
        ToolUnavailable: huggingface_hub is missing.
    """
    name, _, revision = source.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"a data set of the Hub is named {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION, got {source!r}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ToolUnavailable(f"{source} needs huggingface_hub: pip install huggingface_hub") from None
    try:
        return Path(
            snapshot_download(name, repo_type="dataset", revision=revision or None, allow_patterns=list(patterns))
        )
    except Exception as error:  # its own, requests', the system's: all mean the same
        raise InfraError(
            f"the data set {name} could not be downloaded ({type(error).__name__}: {error}); "
            "where there is no network, download its files elsewhere and name their folder"
        ) from error
