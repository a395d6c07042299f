"""Step through one episode in the terminal: a person, a model, or the task's expert takes the turns."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from arpo_algo import options
from arpo_algo.envs import agent, open_env

#: Is sent observations, gives turns.
Player = Generator[str, str, None]


def play(console: Console, env_id: str, seed: int, overrides: Sequence[str], *, model: str | None, expert: bool) -> int:
    """Play one episode; returns 0.

    Raises:
        ConfigError: an unknown id or option, no AgentEnv, or a model that cannot be loaded.
    """
    env = open_env(env_id, options.override({}, overrides), name="env")
    try:
        inner = agent(env)
        _, info = env.reset(seed=seed)
        for message in info["messages"]:
            console.print(Panel(Text(message["content"]), title=message["role"], title_align="left"))
        if expert:
            player: Player = inner.family.expert(inner.task)
        elif model is not None:
            player = _model(model, info["messages"], inner.stop_strings)
        else:
            console.print("Type a turn; an empty line sends it. Ctrl-D leaves.", style="dim")
            player = _person(console)
        turn = next(player)
        while True:
            if expert or model is not None:
                console.print(Panel(Text(turn), title="assistant", title_align="left", border_style="cyan"))
            observation, reward, terminated, truncated, info = env.step(turn)
            if terminated or truncated:
                style = "green" if info["is_success"] else "red"
                rest = f" {info['reward_terms']}  {info['stop_reason']}; the answer was {inner.task.answer!r}"
                console.print(Text.assemble((f"reward {reward:+.2f}", style), rest))  # no markup: an answer may be code
                return 0
            console.print(Panel(Text(observation), title="environment", title_align="left", border_style="yellow"))
            turn = player.send(observation)
    except EOFError:
        return 0
    finally:
        env.close()


def _person(console: Console) -> Player:
    while True:
        lines: list[str] = []
        while not lines or lines[-1]:
            lines.append(console.input("> " if not lines else "… "))
        yield "\n".join(lines).strip()


def _model(name: str, messages: Sequence[dict[str, str]], stop: tuple[str, ...]) -> Player:
    from arpo_algo import models
    from arpo_algo.engines.base import Finished, Request, Sampling
    from arpo_algo.engines.torch import TorchEngine
    from arpo_algo.precision import resolve_precision
    from arpo_algo.rendering import Renderer

    loaded, tokenizer = models.load(name)
    precision = resolve_precision("auto", loaded.device)
    engine = TorchEngine(loaded, tokenizer, slots=2, max_length=2048, precision=precision)
    renderer = Renderer(tokenizer)
    tokens = renderer.prompt(messages)
    turn = 0
    while True:
        room = min(256, engine.max_length - len(tokens))
        engine.submit(Request(turn, tuple(tokens), room, stop, (0, turn), Sampling(0.6, 0.95, 20)))
        events: list[Finished] = []
        while engine.busy:
            events += [e for e in engine.step() if isinstance(e, Finished)]
        tokens += events[0].tokens
        observation = yield events[0].text
        tokens += renderer.result(observation)
        turn += 1
