"""Trees -> packed batches: every unique token once, and a flat list of loss terms.

The row holds each segment (a run without forks) once, depth first, and for several trees the prefix that all
their prompts share (the system prompt) once too. A *loss token* is an action token: it names the row position
that predicts it (``source``) and its id (``target``); a fork position predicts several. A *loss term* is a
(trajectory, loss token) pair, so that an algorithm written for flat batches is exact on trees: terms of a shared
token read the same log-prob, and the gradient adds up by itself. Normalisers count terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from arpo_algo.attention import TreePlan
from arpo_algo.errors import ConfigError
from arpo_algo.tree import Node, Tree
from arpo_algo.treeattention import Segment

#: (leaf node id, action node id) -> advantage of that node's tokens in that leaf's trajectory: one number for
#: all of them, or one a token.
Credit = Mapping[tuple[int, int], float | Sequence[float]]

_MIN_SHARED = 8  # a shorter common prefix is not worth a segment of its own


@dataclass
class Pack:
    """Packed trees. T row tokens, U loss tokens, R loss terms, all one-dimensional tensors.

    ``tokens``, ``positions`` [T]; ``source``, ``target``, ``rollout_logp`` [U]; ``term`` [R] indexes loss
    tokens; ``leaf``, ``node`` [R] number trajectories and nodes within the pack; ``advantage``, ``weight`` [R].
    ``ref_logp`` [U] is there when every action has reference log-probs, ``returns`` [R] when a critic is trained.
    ``spans``: each action node with its first loss token. ``length``: tokens of the longest trajectory.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    segments: list[Segment]
    source: torch.Tensor
    target: torch.Tensor
    rollout_logp: torch.Tensor
    term: torch.Tensor
    leaf: torch.Tensor
    node: torch.Tensor
    advantage: torch.Tensor
    weight: torch.Tensor
    ref_logp: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    spans: list[tuple[Node, int]] = field(default_factory=list)
    length: int = 0

    def plan(self, how: Literal["blocks", "flex"] = "blocks") -> TreePlan:
        return TreePlan(self.segments, how)

    def to(self, device: torch.device) -> Pack:
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Credited:
    """A tree and what its trajectories' tokens weigh in the loss."""

    tree: Tree
    credit: Credit
    #: (leaf, action node) -> weight of each of its terms in the loss's weighted sum.
    weight: Mapping[tuple[int, int], float]
    #: What a critic should have predicted there, where one is trained.
    returns: Credit | None = None
    #: The trajectories meant; None: all. The others of the tree are in another pack.
    only: frozenset[int] | None = None

    def leaves(self) -> list[Node]:
        return [leaf for leaf in self.tree.leaves() if self.only is None or leaf.id in self.only]


def n_terms(tree: Tree) -> int:
    """Loss terms of a tree: action tokens summed over trajectories, shared ones counted in each."""
    return sum(len(n.tokens) for leaf in tree.leaves() for n in tree.path(leaf.id) if n.kind == "action")


def chains(tree: Tree) -> list[Tree]:
    """Each trajectory as a tree of its own: the flat batch that packing must equal."""
    out = []
    for leaf in tree.leaves():
        path = tree.path(leaf.id)
        chain = Tree(tree.task_id, path[0].tokens)
        at = 0
        for node in path[1:]:
            new = chain.add(at, node.kind, node.tokens)
            new.logprobs, new.entropies = list(node.logprobs), list(node.entropies)
            new.ref_logprobs, new.value, new.text = list(node.ref_logprobs), node.value, node.text
            at = new.id
        chain.nodes[at].outcome = leaf.outcome
        out.append(chain)
    return out


def split(items: Sequence[Credited], max_tokens: int) -> list[list[Credited]]:
    """Group trees, in order, into packs of at most ``max_tokens`` unique tokens.

    A tree that is larger alone is dealt out by whole trajectories, which computes what they share once a pack.

    Raises:
        ConfigError: one trajectory alone is larger.
    """
    packs: list[list[Credited]] = []
    size = 0
    for item, n in (part for whole in items for part in _fitting(whole, max_tokens)):
        if not packs or size + n > max_tokens:
            packs.append([])
            size = 0
        packs[-1].append(item)
        size += n
    return packs


def _fitting(item: Credited, max_tokens: int) -> Iterator[tuple[Credited, int]]:
    """The tree, or parts of it that fit, with their unique tokens."""
    tree = item.tree
    if tree.n_tokens <= max_tokens:
        yield item, tree.n_tokens
        return
    taken: set[int] = set()
    leaves: list[int] = []
    size = 0
    wanted = {leaf.id for leaf in item.leaves()}
    for leaf in (node.id for node in tree.walk() if node.id in wanted):  # neighbours share most
        path = tree.path(leaf)
        more = sum(len(n.tokens) for n in path if n.id not in taken)
        if size + more > max_tokens and leaves:
            yield replace(item, only=frozenset(leaves)), size
            taken, leaves, size = set(), [], 0
            more = sum(len(n.tokens) for n in path)
        if more > max_tokens:
            raise ConfigError(
                f"a trajectory of task {tree.task_id} has {more} tokens and pack_tokens is {max_tokens}; "
                "raise learner.pack_tokens, or lower rollout.max_tokens"
            )
        taken.update(n.id for n in path)
        leaves.append(leaf)
        size += more
    if leaves:
        yield replace(item, only=frozenset(leaves)), size


def pack(items: Sequence[Credited], *, share: bool = True) -> Pack:
    """Lay trees out in one row. ``share``: compute the prefix that all prompts begin with once."""
    row = _Row(_shared_prefix([i.tree.nodes[0].tokens for i in items]) if share else [])
    for item in items:
        row.add(item)
    return row.done()


def _shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens all prompts begin with, at least one token short of each; [] when not worth it."""
    if len(prompts) < 2:
        return []
    first = min(prompts, key=len)
    n = 0
    while n < len(first) - 1 and all(p[n] == first[n] for p in prompts):
        n += 1
    return first[:n] if n >= _MIN_SHARED else []


class _Row:
    def __init__(self, shared: list[int]) -> None:
        self.tokens: list[int] = list(shared)
        self.positions: list[int] = list(range(len(shared)))
        self.segments: list[Segment] = [Segment(0, len(shared), 0)] if shared else []
        self.shared = len(shared)
        self.source: list[int] = []
        self.target: list[int] = []
        self.logp: list[float] = []
        self.ref_logp: list[float] = []
        self.returns: list[float] = []
        self.spans: list[tuple[Node, int]] = []
        self.term: list[int] = []
        self.leaf: list[int] = []
        self.node: list[int] = []
        self.advantage: list[float] = []
        self.weight: list[float] = []
        self.leaves = 0
        self.nodes = 0

    def add(self, item: Credited) -> None:
        tree = item.tree
        chosen = item.leaves()
        below = {node.id for leaf in chosen for node in tree.path(leaf.id)}
        at: dict[int, int] = {}  # node -> row position of its first token
        first_loss: dict[int, int] = {}  # action node -> its first loss token
        above = ((0, self.shared),) if self.shared else ()
        # (head node of a segment, ancestor ranges, row position of the token before it)
        stack: list[tuple[Node, tuple[tuple[int, int], ...], int]] = [(tree.nodes[0], above, self.shared - 1)]
        while stack:
            head, ancestors, before = stack.pop()
            begin, node = len(self.tokens), head
            start = head.start + (self.shared if head.id == 0 else 0)
            while True:
                own = node.tokens[self.shared :] if node.id == 0 else node.tokens
                at[node.id] = len(self.tokens)
                if node.kind == "action":
                    first_loss[node.id] = len(self.source)
                    for i, token in enumerate(own):
                        self.source.append(before if i == 0 else len(self.tokens) + i - 1)
                        self.target.append(token)
                    self.logp += node.logprobs
                    self.ref_logp += node.ref_logprobs
                    self.spans.append((node, first_loss[node.id]))
                self.tokens += own
                self.positions += range(node.end - len(own), node.end)
                if own:
                    before = len(self.tokens) - 1
                # Branches that no scored trajectory uses are left out.
                children = [tree.nodes[c] for c in node.children if c in below]
                if len(children) != 1:
                    break
                node = children[0]
            end = len(self.tokens)
            if end > begin:
                self.segments.append(Segment(begin, end, start, ancestors))
                ancestors = (*ancestors, (begin, end))
            stack.extend((child, ancestors, before) for child in reversed(children))
        for leaf in chosen:
            for node in tree.path(leaf.id):
                if node.kind != "action":
                    continue
                n, key = len(node.tokens), (leaf.id, node.id)
                self.term += range(first_loss[node.id], first_loss[node.id] + n)
                self.leaf += [self.leaves] * n
                self.node += [self.nodes + node.id] * n
                self.advantage += _spread(item.credit[key], n)
                if item.returns is not None:
                    self.returns += _spread(item.returns[key], n)
                self.weight += [item.weight[key]] * n
            self.leaves += 1
        self.nodes += len(tree.nodes)

    def done(self) -> Pack:
        return Pack(
            torch.tensor(self.tokens),
            torch.tensor(self.positions),
            self.segments,
            torch.tensor(self.source),
            torch.tensor(self.target),
            torch.tensor(self.logp),
            torch.tensor(self.term),
            torch.tensor(self.leaf),
            torch.tensor(self.node),
            torch.tensor(self.advantage),
            torch.tensor(self.weight),
            torch.tensor(self.ref_logp) if len(self.ref_logp) == len(self.source) else None,
            torch.tensor(self.returns) if len(self.returns) == len(self.term) else None,
            self.spans,
            max(self.positions, default=-1) + 1,
        )


def _spread(value: float | Sequence[float], n: int) -> list[float]:
    """One number for ``n`` tokens, or one a token.

    Raises:
        ValueError: another number of values than tokens.
    """
    if isinstance(value, Sequence):
        if len(value) != n:
            raise ValueError(f"a credit has {len(value)} values for a node of {n} tokens")
        return list(value)
    return [value] * n
