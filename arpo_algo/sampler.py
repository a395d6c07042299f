"""``TreeSampler``: one engine, environment clones and a branching rule -> rollout trees (ARPO, section 3.2).

A prompt has a budget of M trajectories. N start at the root. Right after each tool result the next turn's first
k tokens are watched; if the rule says so, siblings are forked AT THAT NODE: ``env.clone()``, same prefix, its
keys reused. They join the running batch at once. When all paths of a tree have ended short of M, the rest start
at the root, all together; or where an :class:`~arpo_algo.branching.Expanding` rule says, for which a copy of the
environment as it was before each turn is kept until the tree is complete.

No barrier between turns: each trajectory goes on when its own tool has answered. ``tool_lag`` says when that is:

* a number: that many engine steps after the call. The batches an engine sees then depend on counts and not on the
  clock, so one seed gives one run; but a tool that is slower than those steps holds up everybody.
* None: as results come. Nobody waits for another's tool; for slow or uneven ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np

from arpo_algo.branching import FairBudget, Probe
from arpo_algo.engines.base import Engine, Event, Finished, Request
from arpo_algo.entropy import normalised_mean
from arpo_algo.envs import TextEnv, agent
from arpo_algo.errors import ConfigError
from arpo_algo.expansion import Expansion, Turn
from arpo_algo.rendering import Renderer
from arpo_algo.rolloutconfig import RolloutConfig
from arpo_algo.threads import DaemonPool, Submitted
from arpo_algo.tree import ForkDecision, Node, Outcome, Tree
from arpo_env.errors import ArpoEnvError, InfraError


@dataclass
class Group:
    """A tree under way."""

    index: int
    tree: Tree
    budget: FairBudget
    live: list[int]  # running branches by root
    roots: int = 0
    env: TextEnv | None = None  # as reset; cloned for each root
    stop: tuple[str, ...] = ()
    n_roots: int = 1  # N of this tree
    planned: bool = True  # N is known
    waves: int = 0  # rounds of expansion so far
    turns: dict[int, Turn] = field(default_factory=dict)  # by action node; only for expanding rules


@dataclass
class Branch:
    """A trajectory under way: where it stands and what it inherited."""

    group: Group
    root: int
    key: tuple[int, ...]  # path of fork choices: names the branch's random streams
    env: TextEnv
    above: int  # node the current turn hangs below
    prefix: list[int]  # token ids up to there
    may_fork: bool
    baseline: float | None = None
    turn: int = 0
    forks_on_path: int = 0
    node: int | None = None  # the current turn's node
    decided: bool = False  # this turn's probe was looked at
    said: list[int] = field(default_factory=list)  # tokens of the current turn that were inherited at a fork in it
    request: int | None = None  # the last finished request, held by the engine
    calls: int = 0  # tool calls that its environment had made before the current turn


@dataclass(frozen=True)
class _Call:
    """A turn handed to its environment; its result is due at an engine step."""

    branch: Branch
    future: Submitted[tuple[str, SupportsFloat, bool, bool, dict[str, Any]]]
    due: int | None


class TreeSampler:
    """Samples groups of trajectories.

    Args:
        engine: generates tokens.
        renderer: chats to tokens.
        make_env: builds an environment (``gymnasium.make`` …); one is kept a concurrent group.
        config: see :class:`RolloutConfig`.
        workers: threads that environments step in.

    Raises:
        ConfigError: budgets that the engine cannot hold.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        make_env: Callable[[], TextEnv],
        config: RolloutConfig,
        *,
        workers: int = 8,
    ) -> None:
        if config.max_tokens > engine.max_length:
            raise ConfigError(f"max_tokens {config.max_tokens} exceeds the engine's max_length {engine.max_length}")
        self.engine = engine
        self.renderer = renderer
        self.make_env = make_env
        self.config = config
        self._pool = DaemonPool(workers)
        self._spare: list[TextEnv] = []
        self._next_id = 0

    def close(self) -> None:
        """Close environments and threads. Idempotent."""
        self._pool.shutdown()
        for env in self._spare:
            env.close()
        self._spare.clear()

    def sample(
        self,
        tasks: Sequence[dict[str, Any]],
        *,
        seed: int | Sequence[int],
        indices: Sequence[int] | None = None,
        on_leaf: Callable[[Tree, Node], None] | None = None,
    ) -> list[Tree]:
        """One finished tree a task.

        Args:
            tasks: ``reset`` options, one a prompt (``{"split": "train", "index": 3}``).
            seed: entropy of every random stream in this call; same seed and weights, same trees.
            indices: what tells the tasks' random streams apart, default 0, 1, 2 …; a part of a batch sampled with
                the indices it has in the whole batch draws as it does there.
            on_leaf: called at each trajectory's end (progress display).

        Raises:
            ConfigError: a prompt that leaves no room for a turn.

        Trajectories spoilt by infrastructure, or by an exception in a task's or a tool's own code, are void leaves
        whose ``stop_reason`` says why: a tree may have nothing but those.
        """
        entropy = (seed,) if isinstance(seed, int) else tuple(seed)
        run = Run(self, entropy, on_leaf)
        try:
            return run.run(tasks, range(len(tasks)) if indices is None else indices)
        finally:
            run.cleanup()


class Run:
    """The event loop of one :meth:`TreeSampler.sample` call."""

    def __init__(
        self, sampler: TreeSampler, entropy: tuple[int, ...], on_leaf: Callable[[Tree, Node], None] | None
    ) -> None:
        self.sampler = sampler
        self.engine = sampler.engine
        self.config = sampler.config
        self.entropy = entropy
        self.on_leaf = on_leaf
        self.running: dict[int, Branch] = {}
        self.calls: list[_Call] = []
        self.steps = 0
        self.groups: list[Group] = []

    @property
    def expansion(self) -> Expansion:
        """Made where it is used: kept, it and the run would hold each other, and the trees, until they are swept."""
        return Expansion(self)

    def rng(self, group: Group, key: tuple[int, ...], purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([*self.entropy, group.index, purpose, *key]))

    # ------------------------------------------------------------------ the loop

    def run(self, tasks: Sequence[dict[str, Any]], indices: Sequence[int]) -> list[Tree]:
        for index, options in zip(indices, tasks, strict=True):
            self.open_group(index, options)
        while self.running or self.calls:
            self.collect()
            if self.engine.busy:
                self.steps += 1
                for event in self.engine.step():
                    self.on_event(event)
        return [group.tree for group in self.groups]

    def cleanup(self) -> None:
        """Leave nothing behind, also after an exception."""
        for call in self.calls:
            call.future.cancel()
        wait([c.future for c in self.calls], timeout=_GRACE)  # calls are left only after an exception
        for call in self.calls:
            if not call.future.done():
                self.sampler._pool.abandon(call.future)
        for call in self.calls:
            _close_after(call)
        for branch in self.running.values():
            branch.env.close()
        for request_id in self.running:
            self.engine.release(request_id)
        for group in self.groups:
            self.close_group(group)

    def close_group(self, group: Group) -> None:
        self.expansion.forget(group)
        if group.env is not None:
            group.env.close()
            group.env = None

    def open_group(self, index: int, options: dict[str, Any]) -> None:
        env: TextEnv | None = None
        try:
            env = self.sampler._spare.pop() if self.sampler._spare else self.sampler.make_env()
            _, info = env.reset(options=options)
        except Exception as error:
            if env is not None:
                env.close()
            self.open_void(index, str(options.get("task_id", options)), error)
            return
        inner = agent(env)
        prompt = self.sampler.renderer.prompt(info["messages"])
        room = self.config.max_tokens - len(prompt)
        if room < 1:
            raise ConfigError(
                f"the prompt of task {info['task_id']} has {len(prompt)} tokens and max_tokens is "
                f"{self.config.max_tokens}; raise max_tokens or choose shorter tasks"
            )
        tree = Tree(info["task_id"], prompt, prompt_text=info["messages"][-1]["content"])
        tree.meta["max_tokens"] = self.config.max_tokens
        planning = self.expansion.planning
        n = 1 if planning else self.config.N
        group = Group(index, tree, self.budget(index, n, n if planning else self.config.M), [0] * n, env=env)
        group.stop, group.n_roots, group.planned = inner.stop_strings, n, not planning
        self.groups.append(group)
        for _ in range(n):
            self.start_root(group, may_fork=group.budget.forks > 0)

    def open_void(self, index: int, name: str, error: Exception) -> None:
        """A task that could not even begin: a tree of one void trajectory."""
        end = self.sampler.renderer.tokenizer.eos_token_id
        tree = Tree(name, [end if isinstance(end, int) else 0])
        self.groups.append(Group(index, tree, self.budget(index, 1, 1), []))
        self.add_void(tree, 0, error)

    def add_void(self, tree: Tree, above: int, error: Exception) -> Node:
        """A trajectory that an exception ended before its turn began."""
        node = tree.add(above, "action")
        node.outcome = _void(error)
        if self.on_leaf is not None:
            self.on_leaf(tree, node)
        return node

    def budget(self, index: int, roots: int, trajectories: int) -> FairBudget:
        rng = np.random.default_rng(np.random.SeedSequence([*self.entropy, index, _BUDGET]))
        return FairBudget(trajectories - roots, roots, rng)

    def start_root(self, group: Group, *, may_fork: bool) -> None:
        assert group.env is not None
        root = group.roots
        group.roots += 1
        if root >= len(group.live):
            group.live.append(0)
        try:
            env = copy.deepcopy(group.env)
        except InfraError as error:
            self.add_void(group.tree, 0, error)
            return
        group.live[root] += 1
        self.submit(Branch(group, root, (root,), env, 0, list(group.tree.nodes[0].tokens), may_fork))

    def submit(self, branch: Branch) -> None:
        """Ask the engine for the branch's next turn."""
        config = self.config
        request_id = self.sampler._next_id
        self.sampler._next_id += 1
        seed = np.random.SeedSequence([*self.entropy, branch.group.index, _TURN, branch.turn, *branch.key])
        probe = config.branching.probe_tokens
        self.engine.submit(
            Request(
                request_id,
                tuple(branch.prefix),
                min(config.max_turn_tokens - len(branch.said), config.max_tokens - len(branch.prefix)),
                branch.group.stop,
                tuple(int(x) for x in seed.generate_state(4)),
                config.sampling,
                probe,
                branch.request,
            )
        )
        branch.node, branch.decided = None, False
        self.running[request_id] = branch

    # ------------------------------------------------------------------ events

    def on_event(self, event: Event) -> None:
        branch = self.running[event.id]
        self.probe(branch, event.entropies)
        if isinstance(event, Finished):
            del self.running[event.id]
            self.finished_turn(branch, event)

    def current_node(self, branch: Branch) -> Node:
        """The node of the turn being generated, made at its first event so that its siblings come after it."""
        tree = branch.group.tree
        if branch.node is None:
            branch.node = tree.add(branch.above, "action").id
        return tree.nodes[branch.node]

    def probe(self, branch: Branch, entropies: tuple[float, ...]) -> None:
        """The first k tokens of a turn are out (or all of a shorter turn): take the baseline, or maybe fork."""
        k = self.config.branching.probe_tokens
        if branch.decided or k == 0:
            return
        branch.decided = True
        node = self.current_node(branch)
        entropy = normalised_mean(entropies, k, self.engine.vocab_size)
        if branch.baseline is None:  # H_initial: the trajectory's own first tokens
            branch.baseline = entropy
            return
        group = branch.group
        above = group.tree.nodes[branch.above]
        rng = self.rng(group, (branch.turn, *branch.key), _FORK)
        wish = self.config.branching.wish(Probe(entropy, branch.baseline, branch.forks_on_path, branch.turn, rng))
        granted = group.budget.take(branch.root, wish.siblings) if branch.may_fork else 0
        reason = wish.reason if granted == wish.siblings else f"{wish.reason}; budget left {granted}"
        above.forks.append(ForkDecision(node.id, entropy, branch.baseline, wish.score, wish.siblings, granted, reason))
        for sibling in range(granted):
            self.fork(branch, node, sibling)
        branch.forks_on_path = branch.forks_on_path + 1 if granted else 0

    def fork(self, branch: Branch, beside: Node, sibling: int) -> None:
        """A sibling turn at the node where entropy was measured: same prefix, a live clone of its environment."""
        group = branch.group
        try:
            env = copy.deepcopy(branch.env)
        except InfraError as error:
            self.add_void(group.tree, branch.above, error).fork_of = beside.id
            return
        twin = Branch(
            group,
            branch.root,
            (*branch.key, branch.turn, sibling + 1),
            env,
            branch.above,
            list(branch.prefix),
            may_fork=True,
            baseline=branch.baseline,  # inherited: it belongs to the trajectory's own start
            turn=branch.turn,
            forks_on_path=branch.forks_on_path + 1,
            calls=branch.calls,
        )
        group.live[branch.root] += 1
        self.submit(twin)
        node = self.current_node(twin)
        node.fork_of = beside.id
        twin.decided = True  # the decision at this node has been taken

    def finished_turn(self, branch: Branch, event: Finished) -> None:
        node = self.current_node(branch)
        node.tokens += event.tokens
        node.logprobs += event.logprobs
        node.entropies += event.entropies
        node.text = event.text
        try:
            self.expansion.remember(branch, node)
        except InfraError as error:
            self.end(branch, _void(error))
            return
        text = self.decode([*branch.said, *event.tokens]) if branch.said else event.text
        branch.prefix += event.tokens
        branch.turn += 1
        branch.said = []
        if event.reason == "length" and len(branch.prefix) >= self.config.max_tokens:
            # Cut by the trajectory's budget: no fault of the policy's format, and nothing can follow.
            future = self.sampler._pool.submit(branch.env.get_wrapper_attr("truncate"), "max_tokens")
        else:
            future = self.sampler._pool.submit(branch.env.step, text)
        lag = self.config.tool_lag
        self.calls.append(_Call(branch, future, None if lag is None else self.steps + lag))
        branch.request = event.id  # its keys are held: the next turn continues them

    def collect(self) -> None:
        """Admit tool results that are due; if nothing else can run, wait for one."""
        idle = not self.engine.busy
        if self.config.tool_lag is None:
            if idle and self.calls:
                first_end = min(map(self.left, self.calls))
                wait([c.future for c in self.calls], first_end, FIRST_COMPLETED)
            ready = [c for c in self.calls if c.future.done() or self.left(c) <= 0]
        else:
            first = self.calls[0].due if self.calls else None
            now = max(self.steps, first) if idle and first is not None else self.steps
            self.steps = now
            ready = [c for c in self.calls if c.due is not None and c.due <= now]
        self.calls = [c for c in self.calls if c not in ready]
        for call in ready:
            self.on_result(call)

    def left(self, call: _Call) -> float:
        """Seconds that the call may still take; they count from when a thread took it up."""
        return call.future.left(self.config.tool_timeout)

    def on_result(self, call: _Call) -> None:
        branch = call.branch
        while not call.future.done() and (left := self.left(call)) > 0:
            wait([call.future], left)
        made = agent(branch.env).tool_calls
        self.current_node(branch).calls = made - branch.calls
        branch.calls = made
        if not call.future.done():
            self.sampler._pool.abandon(call.future)
            waited = f"the environment gave no answer for {self.config.tool_timeout:g} s (tool_timeout)"
            _close_after(call)
            self.end(branch, _void(InfraError(waited)), close=False)
            return
        try:
            observation, reward, terminated, truncated, info = call.future.result()
        except Exception as error:
            self.end(branch, _void(error))
            return
        if not (terminated or truncated):
            tokens = self.sampler.renderer.result(observation)
            if len(branch.prefix) + len(tokens) < self.config.max_tokens:
                node = branch.group.tree.add(self.current_node(branch).id, "result", tokens, text=observation)
                node.ok = not info["tool_error"]
                branch.prefix += tokens
                branch.above = node.id
                self.submit(branch)
                return
            # The result does not fit: the trajectory ends here, by its token budget.
            _, reward, terminated, truncated, info = branch.env.get_wrapper_attr("truncate")("max_tokens")
        self.end(branch, Outcome.of(float(reward), truncated, info))

    def end(self, branch: Branch, outcome: Outcome, *, close: bool = True) -> None:
        group = branch.group
        node = self.current_node(branch)
        node.outcome = outcome
        if close:  # an environment whose step still runs is closed when that ends
            branch.env.close()
        if branch.request is not None:
            self.engine.release(branch.request)
        if self.on_leaf is not None:
            self.on_leaf(group.tree, node)
        group.live[branch.root] -= 1
        if group.live[branch.root] == 0 and branch.root < group.n_roots:
            group.budget.retire(branch.root)
        if any(group.live):
            return
        # All paths have ended: fork them where the rule says, or fill up to M from the root, all at once.
        if not group.planned:
            self.expansion.plan(group)
        if not any(group.live) and (missing := self.missing(group)) > 0:
            rng = self.rng(group, (group.waves,), _EXPAND)
            if not self.expansion.grow(group, missing, rng):
                for _ in range(missing):
                    self.start_root(group, may_fork=False)
        if not any(group.live) and group.env is not None:
            env, group.env = group.env, None
            env.close()
            self.sampler._spare.append(env)
            self.close_group(group)

    def missing(self, group: Group) -> int:
        """Trajectories short of M, those under way counted."""
        return self.config.M - len(group.tree.leaves()) - len(group.tree.void_leaves()) - sum(group.live)

    def decode(self, tokens: list[int]) -> str:
        return str(self.sampler.renderer.tokenizer.decode(tokens, skip_special_tokens=True))


_GRACE = 5.0  # seconds that calls under way get to end when sampling is broken off

# What a random stream is for; part of every derived seed.
_BUDGET, _TURN, _FORK, _EXPAND = 0, 1, 2, 3


def _close_after(call: _Call) -> None:
    """Close its environment once nothing steps in it any more: now, or when a hanging call ends, if ever."""
    call.future.add_done_callback(lambda _: call.branch.env.close())


def _void(error: Exception) -> Outcome:
    """What an exception makes of a trajectory.

    Raises:
        Exception: ``error`` itself, when it says that the caller misused something: every trajectory would fail.
    """
    if isinstance(error, ArpoEnvError) and not isinstance(error, InfraError):
        raise error
    said = f"infra: {error}" if isinstance(error, InfraError) else f"error: {type(error).__name__}: {error}"
    return Outcome(0.0, stop_reason=said, void=True)
