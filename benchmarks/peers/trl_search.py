"""GRPO on an environment of ours, trained by TRL: its generation, its tool loop, its loss, its optimiser step.

    python -m benchmarks.peers.trl_search --model RUN/checkpoints/step-000000/model --like arpo_algo/configs/demo.toml \
        --out runs/trl steps=8 env.task_seed=0

Reads a configuration of ``arpo train`` and takes from it what both have: environment, task stream, M, prompts, lengths,
learning rate, betas, warm-up, clipping, bfloat16. Each trajectory is an instance of TRL's ``environment_factory``
around our environment; a turn is a call of its one tool. TRL has no hook for three things of this protocol, which the
subclass below adds: turns end at a stop string, a turn has a budget of tokens, results follow inline.

Writes ``config.json`` (the configuration with its defaults, TRL's own arguments, versions, machine), ``steps.jsonl``
(seconds, reward, tokens, tool calls of each step) and the model. TRL is spared two of its defaults: gradient
checkpointing, and that freed memory goes back to the kernel.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

from arpo_algo import assembly, models, options
from arpo_algo.algorithms import make
from arpo_algo.allocator import keep_freed_memory
from arpo_algo.config import RunConfig
from arpo_algo.envs import agent
from arpo_algo.precision import resolve_precision
from arpo_algo.rendering import Renderer
from arpo_algo.runfolder import write_atomic
from benchmarks.speed.machine import described

#: SmolLM2's own template, and in TRL's way the calls and results that it must be able to show.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ '\n' + m.content + '\n' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Episode:
    """One trajectory, as TRL's ``environment_factory`` wants it."""

    def __init__(self, make_env: Any) -> None:
        self._env = make_env()
        self._reward: float | None = None
        self._info: dict[str, Any] = {}

    def reset(self, task_id: str, **_: Any) -> None:
        self._env.reset(options={"task_id": task_id})
        self._reward = None

    def act(self, turn: str) -> str:
        """Take a turn that is no answer.

        Args:
            turn: the whole turn.

        Returns:
            What the tool says.
        """
        if self._reward is not None:
            return ""
        observation, reward, terminated, truncated, self._info = self._env.step(turn)
        if terminated or truncated:
            self._reward = reward
        return str(observation)

    def _finish(self, last: dict[str, Any]) -> float:
        """The reward, after the last turn; a turn that was a call was taken before TRL dropped its result."""
        if self._reward is None and not last.get("tool_calls"):
            self.act(last["content"])
        if self._reward is None:
            _, self._reward, _, _, self._info = self._env.unwrapped.truncate("max_tokens")
        return self._reward


def reward(
    completions: Sequence[Sequence[dict[str, Any]]], environments: Sequence[Episode], log_metric: Any, **_: Any
) -> list[float]:
    """TRL's reward function: what the environment pays."""
    paid = [
        e._finish(next(m for m in reversed(messages) if m["role"] == "assistant"))
        for e, messages in zip(environments, completions, strict=True)
    ]
    for name in ("is_success", "tool_calls"):
        log_metric(name, sum(e._info[name] for e in environments) / len(environments))
    return paid


def parse_turn(tokenizer: PreTrainedTokenizerBase, ids: list[int], **_: Any) -> dict[str, Any]:
    """In place of TRL's ``parse_response``: every turn but an answer is a call of ``act``."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if "</answer>" not in text:
        message["tool_calls"] = [{"type": "function", "function": {"name": "act", "arguments": {"turn": text}}}]
    return message


class InlineTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer for turns that end at stop strings and results that follow inside the assistant's turn."""

    def speak(self, stop: Sequence[str], max_turn_tokens: int) -> None:
        """Once, before training."""
        self._stop = tuple(stop)
        self._renderer = Renderer(self._tokenizer)
        self.generation_config.stop_strings = list(stop)
        self.generation_config.max_new_tokens = max_turn_tokens
        self.model.generate = functools.partial(self.model.generate, tokenizer=self._tokenizer)

    def _generate(self, prompts: Any) -> Any:
        begin = time.perf_counter()
        try:
            return super()._generate(prompts)
        finally:
            self._metrics["train"]["seconds_sampling"].append(time.perf_counter() - begin)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        rows, logprobs = super()._generate_single_turn(*args, **kwargs)
        return [self._sampled(row) for row in rows], logprobs

    def _sampled(self, row: list[int]) -> list[int]:
        """Without the padding that follows a stop string, which TRL takes for an end token that was sampled."""
        if row[-1] in self.eos_token_ids and self._tokenizer.decode(row[:-1]).rstrip().endswith(self._stop):
            return row[:-1]
        return row

    def _get_tool_suffix_ids(self, tool_messages: list[dict[str, Any]]) -> list[int]:
        return self._renderer.result("\n".join(m["content"] for m in tool_messages))


class Clock(TrainerCallback):
    """Writes what each step took and did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row: dict[str, Any] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begin = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.row = {"step": state.global_step - 1, "seconds": time.perf_counter() - self.begin}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not self.row:
            return
        found = logs or {}
        self.row |= {"reward": found.get("reward"), "tokens": found.get("num_tokens"), "loss": found.get("loss")}
        self.row |= {name: found.get(name) for name in ("seconds_sampling", "is_success", "tool_calls")}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.row) + "\n")
        print(json.dumps(self.row), flush=True)
        self.row = {}


def questions(config: RunConfig) -> tuple[Dataset, tuple[str, ...]]:
    """The prompts of a run's steps, in its order, and where turns end."""
    env = assembly.make_env(config)
    inner = agent(env)
    rows = []
    for task_id in inner.family.task_ids("train", config.env.task_seed, 0, config.steps * config.rollout.prompts):
        _, info = env.reset(options={"task_id": task_id})
        rows.append({"prompt": info["messages"], "task_id": task_id})
    env.close()
    return Dataset.from_list(rows), inner.stop_strings


def train(config: RunConfig, model_path: str, out: Path, micro_batch: int) -> None:
    """``config.steps`` steps; writes into ``out``."""
    if config.learner.keep_memory:
        keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    M = make(config.algorithm.name, **config.algorithm.options).M
    model, tokenizer = models.load(model_path)
    data, stop_strings = questions(config)
    ours = Renderer(tokenizer).prompt(data[0]["prompt"])
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_schema = {}  # wanted; parse_turn needs none
    if Renderer(tokenizer).prompt(data[0]["prompt"]) != ours:
        raise SystemExit(f"{model_path}: its chat template is not SmolLM2's; adapt TEMPLATE")
    grpo_trainer.parse_response = parse_turn
    trainer = InlineTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[reward],
        environment_factory=lambda: Episode(lambda: assembly.make_env(config)),
        train_dataset=data,
        callbacks=[Clock(out / "steps.jsonl")],
        args=GRPOConfig(
            output_dir=str(out / "trainer"),
            max_steps=config.steps,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=config.rollout.prompts * M // micro_batch,
            num_generations=M,
            max_completion_length=config.rollout.max_tokens - len(ours),
            max_tool_calling_iterations=config.env.options.get("max_tool_calls", 8) + 1,
            temperature=config.rollout.temperature,
            shuffle_dataset=False,
            learning_rate=config.learner.lr,
            adam_beta1=config.learner.betas[0],
            adam_beta2=config.learner.betas[1],
            weight_decay=config.learner.weight_decay,
            max_grad_norm=config.learner.max_grad_norm,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=config.learner.warmup_steps,
            loss_type="dapo",  # the mean over tokens, as ours
            beta=0.0,
            bf16=resolve_precision(config.learner.precision, torch.device("cpu")) == "bfloat16",
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            seed=config.seed,
        ),
    )
    record = {"config": config.to_dict(), "model": model_path, "trl": trainer.args.to_dict(), **described()}
    write_atomic(out / "config.json", json.dumps(record, indent=1).encode())
    trainer.speak(stop_strings, config.rollout.max_turn_tokens)
    trainer.train()
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or name of the policy that training starts from")
    parser.add_argument("--like", type=Path, help="a configuration of arpo train (TOML)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--micro-batch", type=int, default=8, help="trajectories a forward pass")
    parser.add_argument("values", nargs="*", help="key=value of the configuration")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True)
    given = options.read(args.like) if args.like else {}
    train(options.load(RunConfig, options.override(given, args.values)), args.model, args.out, args.micro_batch)


if __name__ == "__main__":
    main()
