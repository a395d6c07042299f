"""serve a search backend in Search-R1's wire format

  arpo serve-search corpora/hotpotqa                    http://127.0.0.1:8000/retrieve
  arpo serve-search wiki-18.jsonl --port 9000
  arpo serve-search corpora/docs --retriever hybrid --cassette tape.sqlite

POST /retrieve {"queries": ["…"], "topk": 3, "return_scores": true}; GET /health. There is neither authentication
nor encryption: it listens on loopback unless --host says otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arpo_algo.cli._console import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backend", help="a corpus folder, a source of pages, or the URL of another retriever")
    parser.add_argument("--retriever", default="bm25", help="bm25, dense or hybrid (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--cassette", type=Path, metavar="FILE", help="keep answers in this cassette")
    parser.add_argument(
        "--mode", default="record", help="of the cassette: record, replay or strict (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    from arpo_env.cassette import Cassette
    from arpo_env.search.backends import open_backend
    from arpo_env.search.base import SearchBackend
    from arpo_env.search.cache import CachedBackend
    from arpo_env.search.retriever import RetrieverServer

    console.print(f"Opening {args.backend} …", highlight=False, markup=False)
    backend: SearchBackend = open_backend(args.backend, retriever=args.retriever)
    if args.cassette is not None:
        cassette = Cassette(args.cassette, read_only=args.mode in ("replay", "strict"))
        backend = CachedBackend(backend, cassette, args.mode)
    server = RetrieverServer(backend, host=args.host, port=args.port)
    try:
        # Plain print: scripts that start a server wait for this line.
        print(f"Serving at {server.url} (stop with Ctrl-C)", flush=True)
        server.serve_forever()
    finally:
        server.close()
