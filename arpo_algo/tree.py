"""The rollout tree: what was said, by whom, how sure the model was, and who shares it with whom.

A tree is one prompt's group of M trajectories. A node is a maximal run of tokens of one author; it is
append-only and is never re-tokenised::

    prompt ── action ── result ─┬─ action ── result ── action*     * leaf: has an outcome
           │                    └─ action*                         a fork: the *result* node has two children
           └─ action*                                              a second root rollout

``prompt`` and ``result`` tokens are outside the loss; ``action`` tokens carry the log-prob and entropy they
were sampled with. Forking adds a child to the very node where entropy was measured. The released code kept
flat lists without parent ids, so hard attribution was impossible; here the tree is the data structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

FORMAT = 1
NodeKind = Literal["prompt", "action", "result"]


@dataclass(slots=True)
class ForkDecision:
    """Why siblings were, or were not, forked at a result node (one record a probe).

    Entropies are means over the probe's tokens divided by ln|V|, in [0, 1]. ``score`` is the rule's
    quantity (the paper's P_t), ``wanted`` the siblings the rule asked for, ``granted`` those the budget gave.
    """

    probe_node: int
    entropy: float
    baseline: float
    score: float
    wanted: int
    granted: int
    reason: str

    @property
    def delta(self) -> float:
        """ΔH_t, normalised."""
        return self.entropy - self.baseline


@dataclass(slots=True)
class Outcome:
    """How a trajectory ended. ``void`` marks one spoilt by infrastructure: never scored, never trained on."""

    reward: float
    reward_terms: dict[str, float] = field(default_factory=dict)
    is_success: bool = False
    stop_reason: str = ""
    truncated: bool = False
    tool_calls: int = 0
    turns: int = 0
    answer: str | None = None
    void: bool = False
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, reward: float, truncated: bool, info: Mapping[str, Any]) -> Self:
        """From what the last step of an :class:`~arpo_env.env.AgentEnv` returned."""
        return cls(
            reward=reward,
            reward_terms=dict(info["reward_terms"]),
            is_success=info["is_success"],
            stop_reason=info["stop_reason"],
            truncated=truncated,
            tool_calls=info["tool_calls"],
            turns=info["turn"],
            answer=info["answer"],
            info={name: info[name] for name in ("format_ok", "score", "verdict")},
        )


@dataclass(slots=True)
class Node:
    """A run of tokens of one author. ``start`` is the position of its first token in the trajectory."""

    id: int
    parent: int | None
    kind: NodeKind
    start: int
    tokens: list[int]
    logprobs: list[float] = field(default_factory=list)  # actions only: of each token, as sampled
    entropies: list[float] = field(default_factory=list)  # actions only: nats, before each token
    children: list[int] = field(default_factory=list)
    text: str = ""
    fork_of: int | None = None  # the sibling this action was forked beside
    forks: list[ForkDecision] = field(default_factory=list)  # results only
    outcome: Outcome | None = None  # leaves only
    ok: bool = True  # results only: the call worked
    ref_logprobs: list[float] = field(default_factory=list)  # actions: under the reference, where KL is asked for
    value: float | None = None  # actions: a critic's estimate before the first token, where there is a critic
    calls: int | None = None  # actions: tool calls that this turn made; None: one if a result follows

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class Tree:
    """One prompt and every trajectory sampled from it."""

    def __init__(self, task_id: str, prompt_tokens: list[int], *, prompt_text: str = "") -> None:
        if not prompt_tokens:
            raise ValueError(f"the prompt of task {task_id!r} has no tokens")
        self.task_id = task_id
        self.nodes: list[Node] = [Node(0, None, "prompt", 0, list(prompt_tokens), text=prompt_text)]
        self.meta: dict[str, Any] = {}

    def add(self, parent: int, kind: NodeKind, tokens: list[int] | None = None, *, text: str = "") -> Node:
        """Append a child of ``parent``; returns it.

        Raises:
            ValueError: the parent already ended a trajectory.
        """
        above = self.nodes[parent]
        if above.outcome is not None:
            raise ValueError(f"node {parent} is a leaf; nothing can follow it")
        node = Node(len(self.nodes), parent, kind, above.end, list(tokens or ()), text=text)
        above.children.append(node.id)
        self.nodes.append(node)
        return node

    def split(self, node: int, offset: int, *, text: tuple[str, str] = ("", "")) -> Node:
        """Cut an action before its token ``offset``, so that siblings can hang below its first part.

        The second part takes over children and outcome and gets the id ``node`` + 1; larger ids grow by one, so
        that parents stay before children. Returns the second part; ``text`` is that of the two.

        Raises:
            ValueError: not an action, or nothing would be left on one side.
        """
        head = self.nodes[node]
        if head.kind != "action" or not 0 < offset < len(head.tokens):
            raise ValueError(f"cannot cut {head.kind} node {node} of {len(head.tokens)} tokens before token {offset}")

        def moved(i: int) -> int:
            return i + 1 if i > node else i

        for other in self.nodes:
            other.id = moved(other.id)
            if other.parent is not None:
                other.parent = node + 1 if other.parent == node else moved(other.parent)
            other.children = [moved(c) for c in other.children]
            other.fork_of = None if other.fork_of is None else moved(other.fork_of)
            for fork in other.forks:
                fork.probe_node = moved(fork.probe_node)
        tail = Node(node + 1, node, "action", head.start + offset, head.tokens[offset:], text=text[1])
        tail.logprobs, tail.entropies = head.logprobs[offset:], head.entropies[offset:]
        tail.ref_logprobs = head.ref_logprobs[offset:]
        tail.children, tail.outcome, tail.calls = head.children, head.outcome, head.calls
        head.tokens, head.logprobs = head.tokens[:offset], head.logprobs[:offset]
        head.entropies = head.entropies[:offset]
        head.ref_logprobs = head.ref_logprobs[:offset]
        head.children, head.outcome, head.calls, head.text = [tail.id], None, None, text[0]
        self.nodes.insert(tail.id, tail)
        return tail

    # ------------------------------------------------------------------ reading

    def leaves(self) -> list[Node]:
        """The ends of scored trajectories (void ones left out), in order of node id."""
        return [n for n in self.nodes if n.outcome is not None and not n.outcome.void]

    def void_leaves(self) -> list[Node]:
        return [n for n in self.nodes if n.outcome is not None and n.outcome.void]

    def path(self, node: int) -> list[Node]:
        """The nodes from the prompt down to ``node``, both included."""
        out = []
        at: int | None = node
        while at is not None:
            out.append(self.nodes[at])
            at = self.nodes[at].parent
        return out[::-1]

    def tokens(self, node: int) -> list[int]:
        """All token ids from the prompt to the end of ``node``."""
        return [t for n in self.path(node) for t in n.tokens]

    def leaves_below(self) -> list[int]:
        """For each node, how many scored leaves descend from it (1 for a leaf): the d of hard attribution."""
        count = [0] * len(self.nodes)
        for node in reversed(self.nodes):  # children have larger ids than parents
            if node.outcome is not None:
                count[node.id] = 0 if node.outcome.void else 1
            if node.parent is not None:
                count[node.parent] += count[node.id]
        return count

    def walk(self) -> Iterator[Node]:
        """Depth first, children in order of creation."""
        stack = [0]
        while stack:
            node = self.nodes[stack.pop()]
            yield node
            stack.extend(reversed(node.children))

    @property
    def n_tokens(self) -> int:
        """Unique tokens: each node counted once."""
        return sum(len(n.tokens) for n in self.nodes)

    @property
    def n_tokens_flat(self) -> int:
        """Tokens of all trajectories laid out one by one."""
        return sum(leaf.end for leaf in self.leaves())

    @property
    def n_forks(self) -> int:
        return sum(1 for n in self.nodes if n.fork_of is not None)

    @property
    def tool_calls(self) -> int:
        """Calls really made: a shared one counts once, a refused one not at all, one whose result was lost does."""
        return sum(self._calls(n) for n in self.nodes if n.kind == "action")

    def _calls(self, node: Node) -> int:
        if node.calls is not None:
            return node.calls
        return int(any(self.nodes[c].kind == "result" for c in node.children))

    # ------------------------------------------------------------------ saving

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that :meth:`from_json` restores exactly."""
        return {"format": FORMAT, "task_id": self.task_id, "meta": self.meta, "nodes": [_plain(n) for n in self.nodes]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Tree:
        """Raises:
        ValueError: another format version.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"tree format {data.get('format')!r} cannot be read; this release reads {FORMAT}")
        tree = cls.__new__(cls)
        tree.task_id, tree.meta, tree.nodes = data["task_id"], dict(data["meta"]), []
        for raw in data["nodes"]:
            raw = dict(raw)
            raw["forks"] = [ForkDecision(**f) for f in raw["forks"]]
            raw["outcome"] = None if raw["outcome"] is None else Outcome(**raw["outcome"])
            tree.nodes.append(Node(**raw))
        return tree


def _plain(record: Node | Outcome | ForkDecision) -> dict[str, Any]:
    """``dataclasses.asdict`` without its deep copies of every number, which took most of the time of saving."""
    out = {name: getattr(record, name) for name in record.__slots__}
    for name, value in out.items():
        if name == "forks":
            out[name] = [_plain(decision) for decision in value]
        elif isinstance(value, list | dict):
            out[name] = value.copy()
        elif isinstance(value, Outcome):
            out[name] = _plain(value)
    return out
