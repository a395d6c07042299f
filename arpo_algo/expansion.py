"""Rules that look at finished rollouts: :class:`~arpo_algo.branching.Planning` sets N after the first one,
:class:`~arpo_algo.branching.Expanding` forks them once all paths of a tree have ended short of M.

An expanding rule may fork at any turn or inside it, so the environment is kept as it was before each turn until the
tree is complete. That copy is all a fork needs: a turn cut in two begins with the same environment in both parts.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arpo_algo.branching import Expanding, ForkPoint, Planning
from arpo_algo.entropy import normalised_mean
from arpo_algo.tree import Node
from arpo_env.errors import InfraError

if TYPE_CHECKING:
    from arpo_algo.sampler import Branch, Group, Run


@dataclass
class Turn:
    """A turn as it began, kept so that an expanding rule can fork at it or inside it."""

    branch: Branch  # a copy: environment, random key and prefix from before the turn
    said: list[int]  # this turn's tokens that lie above the node (it was cut)


class Expansion:
    """What a run's branching rule wants of finished rollouts, done by ``run``; nothing, if it only looks at probes."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @property
    def planning(self) -> bool:
        """Whether each tree begins with one rollout, and :meth:`plan` sets N when that has ended."""
        return isinstance(self.run.config.branching, Planning)

    def remember(self, branch: Branch, node: Node) -> None:
        """For expanding rules: keep the turn ``node`` as it began. ``branch`` has not moved on to its result yet.

        Raises:
            InfraError: the environment cannot be copied.
        """
        if not isinstance(self.run.config.branching, Expanding):
            return
        before = dataclasses.replace(
            branch, env=copy.deepcopy(branch.env), prefix=list(branch.prefix), node=None, request=None
        )
        branch.group.turns[node.id] = Turn(before, list(branch.said))

    def forget(self, group: Group) -> None:
        """Close the environments kept for the group's turns."""
        for turn in group.turns.values():
            turn.branch.env.close()
        group.turns.clear()

    def plan(self, group: Group) -> None:
        """The first rollout has ended: its entropies set N (:class:`~arpo_algo.branching.Planning`)."""
        config, rule = self.run.config, self.run.config.branching
        assert isinstance(rule, Planning)
        turns = [n for n in group.tree.nodes if n.kind == "action" and n.entropies]
        k = config.branching.probe_tokens
        root, *tools = [normalised_mean(n.entropies, k, self.run.engine.vocab_size) for n in turns] or [0.0]
        n = max(1, min(config.M, rule.plan_roots(config.M, root, tools)))
        group.tree.meta["roots"] = n
        group.planned, group.n_roots = True, n
        group.budget = self.run.budget(group.index, n, config.M)
        group.live += [0] * (n - len(group.live))
        group.budget.retire(0)
        for _ in range(n - 1):
            self.run.start_root(group, may_fork=group.budget.forks > 0)

    def grow(self, group: Group, missing: int, rng: np.random.Generator) -> bool:
        """:meth:`expand`; what infrastructure keeps from growing becomes void trajectories."""
        try:
            return self.expand(group, missing, rng)
        except InfraError as error:
            for _ in range(self.run.missing(group)):
                self.run.add_void(group.tree, 0, error)
            return True

    def expand(self, group: Group, missing: int, rng: np.random.Generator) -> bool:
        """Fork finished rollouts where the rule says (:class:`~arpo_algo.branching.Expanding`); False: nowhere."""
        rule = self.run.config.branching
        if not isinstance(rule, Expanding):
            return False
        tree = group.tree
        points = rule.expand(tree, missing, rng)[:missing]
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

    def clean(self, group: Group, node: Node, offset: int) -> int:
        """The nearest offset at or before ``offset`` that splits neither a character nor a stop tag."""
        stops = [s[:i] for s in group.stop for i in range(1, len(s))]
        while offset > 0:
            text = self.run.decode([*group.turns[node.id].said, *node.tokens[:offset]])
            if not text.endswith(("\ufffd", *stops)):
                break
            offset -= 1
        return offset

    def cut(self, group: Group, node: Node, offset: int) -> Node:
        """Cut an action of a finished rollout; returns its second part. Later nodes' ids grow by one."""
        head = node.id
        said = group.turns[head].said
        before, whole = self.run.decode(said), self.run.decode([*said, *node.tokens])
        middle = self.run.decode([*said, *node.tokens[:offset]])
        tail = group.tree.split(head, offset, text=(middle[len(before) :], whole[len(middle) :]))
        group.turns = {i + 1 if i > head else i: turn for i, turn in group.turns.items()}
        start = group.turns[head].branch
        copied = dataclasses.replace(start, env=copy.deepcopy(start.env), prefix=[*start.prefix, *node.tokens])
        group.turns[tail.id] = Turn(copied, [*said, *node.tokens])
        return tail

    def fork_ended(self, group: Group, beside: Node, key: tuple[int, ...]) -> None:
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
        self.run.submit(twin)
        self.run.current_node(twin).fork_of = beside.id
        twin.decided = True
