"""build, embed and query local search corpora

arpo corpus build hotpotqa --from hub --out corpora/hotpotqa     a published suite (hotpotqa, 2wiki, musique)
arpo corpus build pages --from docs/ --out corpora/docs          JSONL, Parquet, CSV, documents, hub:OWNER/NAME
arpo corpus build world --pages 1000000 --out corpora/world      the generated encyclopaedia
arpo corpus embed corpora/docs                                   vectors for dense and hybrid retrieval
arpo corpus search corpora/docs "a query"                        look at what is found
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._console import console, escape, track
from arpo_env.errors import ConfigError

_SUITES = ("hotpotqa", "2wiki", "musique")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="write a corpus and its index into a folder")
    build.add_argument("name", choices=(*_SUITES, "pages", "world"))
    build.add_argument(
        "--from", dest="source", metavar="SOURCE", help="a file, a folder, hub, or hub:OWNER/NAME[@REVISION]"
    )
    build.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    suite = build.add_argument_group("hotpotqa, 2wiki, musique")
    suite.add_argument(
        "--splits", nargs="+", default=(), metavar="SPLIT", help="only these (default: all that are there)"
    )
    suite.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each split")
    pages = build.add_argument_group("pages")
    pages.add_argument(
        "--field", action="append", default=[], metavar="OURS=THEIRS", help="e.g. text=body; id=# numbers the rows"
    )
    pages.add_argument("--passage-words", type=int, metavar="N", help="cut pages into passages (documents: 100)")
    world = build.add_argument_group("world")
    world.add_argument("--pages", type=int, default=100_000, metavar="N", help="how many (default: %(default)s)")
    world.add_argument("--split", default="train", help="train, validation or test (default: %(default)s)")
    world.add_argument("--world-seed", type=int, default=0, metavar="SEED")
    world.add_argument("--distractors", type=float, default=0.5, metavar="0..1")
    world.add_argument("--aliases", type=float, default=0.1, metavar="0..1")
    world.add_argument("--paraphrase", type=float, default=1.0, metavar="0..1")
    world.add_argument("--stale", type=float, default=0.0, metavar="0..1")
    embed = actions.add_parser("embed", help="add vectors to a corpus (extra: dense); goes on after an interruption")
    embed.add_argument("corpus", type=Path)
    search = actions.add_parser("search", help="ask a corpus")
    search.add_argument("corpus", help="a folder with an index, a source of pages, or the URL of a retriever")
    search.add_argument("query")
    search.add_argument("-k", type=int, default=5)
    search.add_argument("--retriever", default="bm25", help="bm25, dense or hybrid (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    {"build": _build, "embed": _embed, "search": _search}[args.action](args)


def _build(args: argparse.Namespace) -> None:
    if args.source is None and args.name != "world":
        raise ConfigError(f"where from? arpo corpus build {args.name} --from SOURCE")
    if args.name in _SUITES:
        _build_suite(args)
        return
    from arpo_env.search.bm25 import BM25Index

    if args.name == "world":
        from arpo_env.tasks.deepsearch import World, WorldSpec

        spec = WorldSpec(
            args.world_seed, args.pages, args.split, args.distractors, args.aliases, args.paraphrase, args.stale
        )
        console.print(f"Drawing a world of {args.pages:,} pages.")
        index = BM25Index.build(track(World(spec), args.pages), args.out)
    else:
        from arpo_env.search.sources import read_source

        fields = dict(_pair(text) for text in args.field)
        pages = read_source(args.source, fields=fields, passage_words=args.passage_words)
        index = BM25Index.build(track(pages), args.out)
    console.print(f"{len(index):,} pages in {escape(str(args.out))}, fingerprint {index.fingerprint[:16]}")


def _build_suite(args: argparse.Namespace) -> None:
    from arpo_env.search import published

    built = published.build(args.name, args.source, args.out, splits=args.splits, limit=args.limit, progress=track)
    console.print(f"Licence of the data, as its authors give it: {published.SUITES[args.name].licence}")
    counts = ", ".join(f"{count:,} {split}" for split, count in built.questions.items()) or "none"
    console.print(
        f"{built.pages:,} pages of {built.paragraphs:,} paragraphs in {escape(str(args.out))}; questions: {counts}."
    )
    if built.unanswered:
        console.print(f"{built.unanswered:,} questions without a published answer were left out; their pages are in.")
    console.print(
        f'Use them: gymnasium.make("ARPO-Dataset-v0", path="{args.out}/questions", search="{args.out}", split=…)',
        markup=False,
        soft_wrap=True,
    )


def _embed(args: argparse.Namespace) -> None:
    from arpo_env.search.bm25 import BM25Index
    from arpo_env.search.dense import FOLDER, DenseIndex
    from arpo_env.search.embedding import SentenceTransformerEmbedder

    index = BM25Index.load(args.corpus)
    embedder = SentenceTransformerEmbedder()
    DenseIndex.build(
        index.pages,
        embedder,
        index.fingerprint,
        args.corpus / FOLDER,
        progress=lambda pages: track(pages, len(index)),
    )
    console.print(f"{len(index):,} vectors of {embedder.dimension} numbers in {escape(str(args.corpus / FOLDER))}")


def _search(args: argparse.Namespace) -> None:
    from arpo_env.search.backends import open_backend

    hits = open_backend(args.corpus, retriever=args.retriever).search(args.query, args.k)
    for number, hit in enumerate(hits, 1):
        console.print(f"[{number}] {hit.title}  ({hit.score:.4g})", markup=False, highlight=False)
        console.print(f"    {' '.join(hit.snippet.split())[:300]}", markup=False, highlight=False)
    if not hits:
        console.print("Nothing found.")


def _pair(text: str) -> tuple[str, str]:
    ours, sign, theirs = text.partition("=")
    if not sign or not theirs:
        raise ConfigError(f"--field takes OURS=THEIRS, e.g. text=body; got {text!r}")
    return ours, theirs
