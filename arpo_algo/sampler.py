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
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np

from arpo_algo.branching import BranchingRule, Expanding, FairBudget, ForkPoint, Never, Planning, Probe
from arpo_algo.engines.base import Engine, Event, Finished, Request, Sampling
from arpo_algo.entropy import normalised_mean
from arpo_algo.episodes import TextEnv as TextEnv
from arpo_algo.episodes import agent
from arpo_algo.errors import ConfigError
from arpo_algo.rendering import Renderer
from arpo_algo.threads import DaemonPool, Submitted
from arpo_algo.tree import ForkDecision, Node, Outcome, Tree
from arpo_env.errors import ArpoEnvError, InfraError


@dataclass(frozen=True)
class RolloutConfig:
    """How a group is sampled.

    Args:
        M: trajectories a prompt. N: how many of them start at the root; the rest are forks (or filled up).
        branching: when to fork; ``Never()`` is trajectory-level sampling and then N must equal M.
        sampling: temperature and the like.
        max_turn_tokens: new tokens a turn at most. max_tokens: tokens of a trajectory at most, prompt included.
        tool_lag: engine steps between a call and the admission of its result; None: as they come.
        tool_timeout: seconds that a call may run before it is given up and its trajectory is void.

    Raises:
        ConfigError: contradictory values.
    """

    M: int = 16
    N: int = 8
    branching: BranchingRule = field(default_factory=Never)
    sampling: Sampling = field(default_factory=Sampling)
    max_turn_tokens: int = 256
    max_tokens: int = 2048
    tool_lag: int | None = 1
    tool_timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.N < 1:
            raise ConfigError(f"N must be >= 1 root rollout, got {self.N}")
        if self.M < self.N:
            raise ConfigError(f"M={self.M} trajectories cannot hold N={self.N} root rollouts; need M >= N")
        if self.branching.probe_tokens == 0 and self.M != self.N and not isinstance(self.branching, Expanding):
            raise ConfigError(f"branching that never forks needs M == N, got M={self.M}, N={self.N}")
        if self.max_turn_tokens < 1 or self.max_tokens < 1:
            raise ConfigError(f"token budgets must be >= 1, got {self.max_turn_tokens} and {self.max_tokens}")
        if self.tool_lag is not None and self.tool_lag < 0:
            raise ConfigError(f"tool_lag must be >= 0 or None, got {self.tool_lag}")
        if not self.tool_timeout > 0:
            raise ConfigError(f"tool_timeout must be > 0 seconds, got {self.tool_timeout}")


@dataclass
class _Turn:
    """A turn as it began, kept so that an expanding rule can fork at it or inside it."""

    branch: _Branch  # a copy: environment, random key and prefix from before the turn
    said: list[int]  # this turn's tokens that lie above the node (it was cut)


@dataclass
class _Group:
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
    turns: dict[int, _Turn] = field(default_factory=dict)  # by action node; only for expanding rules


@dataclass
class _Branch:
    """A trajectory under way: where it stands and what it inherited."""

    group: _Group
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

    branch: _Branch
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
        run = _Run(self, entropy, on_leaf)
        try:
            return run.run(tasks, range(len(tasks)) if indices is None else indices)
        finally:
            run.cleanup()


class _Run:
    """The event loop of one :meth:`TreeSampler.sample` call."""

    def __init__(
        self, sampler: TreeSampler, entropy: tuple[int, ...], on_leaf: Callable[[Tree, Node], None] | None
    ) -> None:
        self.sampler = sampler
        self.engine = sampler.engine
        self.config = sampler.config
        self.entropy = entropy
        self.on_leaf = on_leaf
        self.running: dict[int, _Branch] = {}
        self.calls: list[_Call] = []
        self.steps = 0
        self.groups: list[_Group] = []

    def rng(self, group: _Group, key: tuple[int, ...], purpose: int) -> np.random.Generator:
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

    def close_group(self, group: _Group) -> None:
        for turn in group.turns.values():
            turn.branch.env.close()
        group.turns.clear()
        if group.env is not None:
            group.env.close()
            group.env = None

    def open_group(self, index: int, options: dict[str, Any]) -> None:
        env = self.sampler._spare.pop() if self.sampler._spare else self.sampler.make_env()
        try:
            _, info = env.reset(options=options)
        except Exception as error:
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
        planning = isinstance(self.config.branching, Planning)
        n = 1 if planning else self.config.N
        group = _Group(index, tree, self.budget(index, n, n if planning else self.config.M), [0] * n, env=env)
        group.stop, group.n_roots, group.planned = inner.stop_strings, n, not planning
        self.groups.append(group)
        for _ in range(n):
            self.start_root(group, may_fork=group.budget.forks > 0)

    def open_void(self, index: int, name: str, error: Exception) -> None:
        """A task that could not even begin: a tree of one void trajectory."""
        end = self.sampler.renderer.tokenizer.eos_token_id
        tree = Tree(name, [end if isinstance(end, int) else 0])
        self.groups.append(_Group(index, tree, self.budget(index, 1, 1), []))
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

    def start_root(self, group: _Group, *, may_fork: bool) -> None:
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
        self.submit(_Branch(group, root, (root,), env, 0, list(group.tree.nodes[0].tokens), may_fork))

    def submit(self, branch: _Branch) -> None:
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

    def current_node(self, branch: _Branch) -> Node:
        """The node of the turn being generated, made at its first event so that its siblings come after it."""
        tree = branch.group.tree
        if branch.node is None:
            branch.node = tree.add(branch.above, "action").id
        return tree.nodes[branch.node]

    def probe(self, branch: _Branch, entropies: tuple[float, ...]) -> None:
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

    def fork(self, branch: _Branch, beside: Node, sibling: int) -> None:
        """A sibling turn at the node where entropy was measured: same prefix, a live clone of its environment."""
        group = branch.group
        try:
            env = copy.deepcopy(branch.env)
        except InfraError as error:
            self.add_void(group.tree, branch.above, error).fork_of = beside.id
            return
        twin = _Branch(
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

    def finished_turn(self, branch: _Branch, event: Finished) -> None:
        node = self.current_node(branch)
        node.tokens += event.tokens
        node.logprobs += event.logprobs
        node.entropies += event.entropies
        node.text = event.text
        if isinstance(self.config.branching, Expanding):
            try:
                env = copy.deepcopy(branch.env)
            except InfraError as error:
                self.end(branch, _void(error))
                return
            before = dataclasses.replace(branch, env=env, prefix=list(branch.prefix), node=None)
            branch.group.turns[node.id] = _Turn(dataclasses.replace(before, request=None), list(branch.said))
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

    def end(self, branch: _Branch, outcome: Outcome, *, close: bool = True) -> None:
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
            self.plan(group)
        if not any(group.live) and (missing := self.missing(group)) > 0 and not self.grow(group, missing):
            for _ in range(missing):
                self.start_root(group, may_fork=False)
        if not any(group.live) and group.env is not None:
            env, group.env = group.env, None
            env.close()
            self.sampler._spare.append(env)
            self.close_group(group)

    def missing(self, group: _Group) -> int:
        """Trajectories short of M, those under way counted."""
        return self.config.M - len(group.tree.leaves()) - len(group.tree.void_leaves()) - sum(group.live)

    # ------------------------------------------------------------------ rules that look at finished rollouts

    def plan(self, group: _Group) -> None:
        """The first rollout has ended: its entropies set N (:class:`~arpo_algo.branching.Planning`)."""
        rule = self.config.branching
        assert isinstance(rule, Planning)
        turns = [n for n in group.tree.nodes if n.kind == "action" and n.entropies]
        k = self.config.branching.probe_tokens
        root, *tools = [normalised_mean(n.entropies, k, self.engine.vocab_size) for n in turns] or [0.0]
        n = max(1, min(self.config.M, rule.plan_roots(self.config.M, root, tools)))
        group.tree.meta["roots"] = n
        group.planned, group.n_roots = True, n
        group.budget = self.budget(group.index, n, self.config.M)
        group.live += [0] * (n - len(group.live))
        group.budget.retire(0)
        for _ in range(n - 1):
            self.start_root(group, may_fork=group.budget.forks > 0)

    def grow(self, group: _Group, missing: int) -> bool:
        """:meth:`expand`; what infrastructure keeps from growing becomes void trajectories."""
        try:
            return self.expand(group, missing)
        except InfraError as error:
            for _ in range(self.missing(group)):
                self.add_void(group.tree, 0, error)
            return True

    def expand(self, group: _Group, missing: int) -> bool:
        """Fork finished rollouts where the rule says (:class:`~arpo_algo.branching.Expanding`); False: nowhere."""
        rule = self.config.branching
        if not isinstance(rule, Expanding):
            return False
        tree = group.tree
        points = rule.expand(tree, missing, self.rng(group, (group.waves,), _EXPAND))[:missing]
        # Cut first, fork afterwards: ids shift while cutting, node objects stay.
        where: list[tuple[Node, int, list[ForkPoint]]] = []
        for number in sorted({p.node for p in points}):
            node = tree.nodes[number]
            for offset in sorted({self.clean(group, node, p.offset) for p in points if p.node == number}):
                same = [p for p in points if p.node == number and self.clean(group, node, p.offset) == offset]
                where.append((node, offset, same))
        at: dict[int, tuple[Node, int]] = {}  # original node (by identity) -> what is left of it, and where that begins
        forks: list[tuple[Node, int]] = []  # (the node that siblings are beside, how many)
        for node, offset, same in where:
            rest, begin = at.get(id(node), (node, 0))
            if offset > begin:
                rest, begin = self.cut(group, rest, offset - begin), offset
                at[id(node)] = (rest, begin)
            forks.append((rest, len(same)))
        for number, (beside, count) in enumerate(forks):
            for sibling in range(count):
                self.fork_ended(group, beside, (group.waves, number, sibling))
        group.waves += 1
        return bool(forks)

    def clean(self, group: _Group, node: Node, offset: int) -> int:
        """The nearest offset at or before ``offset`` that splits neither a character nor a stop tag."""
        stops = [s[:i] for s in group.stop for i in range(1, len(s))]
        while offset > 0:
            text = self.decode([*group.turns[node.id].said, *node.tokens[:offset]])
            if not text.endswith(("\ufffd", *stops)):
                break
            offset -= 1
        return offset

    def cut(self, group: _Group, node: Node, offset: int) -> Node:
        """Cut an action of a finished rollout; returns its second part. Later nodes' ids grow by one."""
        head = node.id
        said = group.turns[head].said
        before, whole = self.decode(said), self.decode([*said, *node.tokens])
        middle = self.decode([*said, *node.tokens[:offset]])
        tail = group.tree.split(head, offset, text=(middle[len(before) :], whole[len(middle) :]))
        group.turns = {i + 1 if i > head else i: turn for i, turn in group.turns.items()}
        start = group.turns[head].branch
        copied = dataclasses.replace(start, env=copy.deepcopy(start.env), prefix=[*start.prefix, *node.tokens])
        group.turns[tail.id] = _Turn(copied, [*said, *node.tokens])
        return tail

    def fork_ended(self, group: _Group, beside: Node, key: tuple[int, ...]) -> None:
        """A new trajectory beside the turn, or the part of a turn, ``beside``."""
        turn = group.turns[beside.id]
        start = turn.branch
        assert beside.parent is not None
        twin = dataclasses.replace(
            start,
            key=(*start.key, start.turn, *(k + 1 for k in key)),
            env=copy.deepcopy(start.env),
            above=beside.parent,
            prefix=list(start.prefix),
            may_fork=False,
            said=list(turn.said),
        )
        group.live[twin.root] += 1
        self.submit(twin)
        self.current_node(twin).fork_of = beside.id
        twin.decided = True

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
    if isinstance(error, ConfigError | ArpoEnvError) and not isinstance(error, InfraError):
        raise error
    said = f"infra: {error}" if isinstance(error, InfraError) else f"error: {type(error).__name__}: {error}"
    return Outcome(0.0, stop_reason=said, void=True)
