"""A model in this process as a policy: episodes in threads, one engine that serves them all.

Engines are driven from one thread, continuously. Episodes hand requests over and wait for their own turn, so a slow
tool keeps no other episode waiting and the batch is as full as there are episodes under way.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from arpo_algo.engines.base import Engine, Finished, Request, Sampling
from arpo_algo.episodes import Player, Turn
from arpo_algo.errors import TrainingError
from arpo_algo.rendering import Renderer
from arpo_env.env import AgentEnv


class EnginePolicy:
    """Plays episodes with an engine; the layout is the trainer's (results inside the assistant's turn).

    Args:
        max_turn_tokens: new tokens a turn. max_tokens: of an episode, prompt included, at most the engine's length.
        concurrency: episodes at once; the engine should have as many slots.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        *,
        sampling: Sampling,
        max_turn_tokens: int,
        max_tokens: int,
        concurrency: int,
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.sampling = sampling
        self.max_turn_tokens = max_turn_tokens
        self.max_tokens = max_tokens
        self.concurrency = concurrency
        self._ids = itertools.count()
        #: A request with its future, the id of a finished request to release, or None: end.
        self._inbox: queue.SimpleQueue[tuple[Request, Future[Finished]] | int | None] = queue.SimpleQueue()
        self._waiting: dict[int, Future[Finished]] = {}
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._drive, name="arpo-engine", daemon=True)
        self._thread.start()

    def check(self) -> None: ...

    def play(self, env: AgentEnv, messages: Sequence[Mapping[str, str]], seed: Sequence[int]) -> Player:
        tokens = self.renderer.prompt(messages)
        stop = env.stop_strings
        parent: int | None = None
        try:
            for number in itertools.count():
                room = min(self.max_turn_tokens, self.max_tokens - len(tokens))
                if room < 1:
                    return
                draw = np.random.SeedSequence([*seed, number]).generate_state(4)
                key = tuple(int(x) for x in draw)
                request = Request(next(self._ids), tuple(tokens), room, stop, key, self.sampling, parent=parent)
                done = self._ask(request)
                parent = done.id
                cut = done.reason == "length" and len(tokens) + len(done.tokens) >= self.max_tokens
                observation = yield Turn(done.text, len(tokens), len(done.tokens), cut)
                tokens += [*done.tokens, *self.renderer.result(observation)]
        finally:
            if parent is not None:
                self._inbox.put(parent)

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join()
        self.engine.close()

    def _ask(self, request: Request) -> Finished:
        future: Future[Finished] = Future()
        with self._lock:
            if self._failure is not None:
                raise TrainingError(self._failure)
            self._inbox.put((request, future))
        return future.result()

    # ------------------------------------------------------------------ the engine's thread

    def _drive(self) -> None:
        failure = "the engine was closed"
        try:
            while self._receive():
                for event in self.engine.step():
                    if isinstance(event, Finished):
                        self._waiting.pop(event.id).set_result(event)
        except Exception as error:
            failure = f"the engine stopped: {type(error).__name__}: {error}"
        with self._lock:  # from here on nobody hands in a request
            self._failure = failure
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, tuple):
                self._waiting[item[0].id] = item[1]
        for future in self._waiting.values():
            future.set_exception(TrainingError(failure))
        self._waiting.clear()

    def _receive(self) -> bool:
        """Take in what has come; with nothing to generate, wait for it. False: end."""
        while True:
            try:
                item = self._inbox.get(block=not self.engine.busy)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, int):
                self.engine.release(item)
                continue
            request, future = item
            self._waiting[request.id] = future
            try:
                self.engine.submit(request)
            except Exception as error:
                del self._waiting[request.id]
                future.set_exception(error)
