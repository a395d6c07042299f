"""No language model: a table learns to look facts up, through plain Gymnasium.

A turn is one of nine templates: search for the name in the question, or answer with the i-th name or number of the last
result. The state is the question with its name blanked, and the turn. Q-learning (Watkins 1989) with ε-greedy actions:

    Q(s, a) ← Q(s, a) + lr·(r + max_b Q(s', b) − Q(s, a))

Run it:    python examples/tabular_agent.py
"""

from __future__ import annotations

import re
from collections import defaultdict

import gymnasium
import numpy as np

import arpo_env  # noqa: F401 (registers the ids)

_SPAN = re.compile(r"[A-Z][a-z]+(?: [A-Z][a-z]+)*|\d+")
_WORDS = {"Who", "What", "Which", "In", "At", "On", "How"}  # capitals of a question that are no names
ANSWERS = 8


class Templates(gymnasium.Wrapper[str, int, str, str]):
    """Nine actions in place of free text: 0 searches, 1 … 8 answer with that span of the last result."""

    def __init__(self, env: gymnasium.Env[str, str]) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Discrete(1 + ANSWERS)
        self._name, self._spans = "", list[str]()

    def reset(self, **kwargs: object) -> tuple[str, dict[str, object]]:
        question, info = self.env.reset(**kwargs)  # type: ignore[arg-type]
        self._name = next(s for s in _SPAN.findall(question.split(" ", 1)[1]) if s not in _WORDS)
        self._spans = []
        return question.replace(self._name, "…") + " / 0", info

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, object]]:
        if action == 0:
            turn = f"<think>Look it up.</think>\n<search>{self._name}</search>"
        else:
            span = self._spans[action - 1] if action <= len(self._spans) else "unknown"
            turn = f"<think>Found.</think>\n<answer>\\boxed{{{span}}}</answer>"
        result, reward, terminated, truncated, info = self.env.step(turn)
        first = result.split(": ", 1)[-1].split("\n")[0]  # the text of the first hit
        self._spans = _SPAN.findall(first)
        state = "/".join(str(m["content"]) for m in info["messages"] if m["role"] == "user")
        return state.replace(self._name, "…") + f" / {info['turn']}", float(reward), terminated, truncated, info


def make_env() -> Templates:
    """One look-up, plain wording, no distractors: eleven kinds of question about persons and cities."""
    return Templates(
        gymnasium.make(
            "ARPO-DeepSearch-v0",
            kinds=("person", "city"),
            hops=(1,),
            arithmetic=0.0,
            distractors=0.0,
            aliases=0.0,
            paraphrase=0.0,
            tools=("search",),
        )
    )


def train(seed: int, episodes: int = 1500, lr: float = 0.3, epsilon: float = 0.2) -> list[float]:
    """The reward of each episode. ``epsilon`` 1 is the random agent, which learns nothing from what it sees."""
    rng = np.random.default_rng(seed)
    q: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(1 + ANSWERS))
    env, rewards = make_env(), []
    for episode in range(episodes):
        state, _ = env.reset(seed=seed if episode == 0 else None)
        done, reward = False, 0.0
        while not done:
            explore = rng.random() < epsilon
            action = int(rng.integers(1 + ANSWERS)) if explore else int(q[state].argmax())
            following, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            best = 0.0 if done else float(q[following].max())
            q[state][action] += lr * (reward + best - q[state][action])
            state = following
        rewards.append(reward)
    env.close()
    return rewards


if __name__ == "__main__":
    for name, epsilon in (("random", 1.0), ("tabular", 0.2)):
        rewards = train(seed=0, epsilon=epsilon)
        print(f"{name:8} first 200 episodes {np.mean(rewards[:200]):.2f}, last 200 {np.mean(rewards[-200:]):.2f}")
