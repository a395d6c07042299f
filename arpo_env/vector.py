"""``ThreadVectorEnv``: environments whose steps overlap, because each waits for a tool and not for a CPU.

``SyncVectorEnv`` runs one step after the other, so a batch takes as long as all its tool calls together;
``AsyncVectorEnv`` pays a process and a pickled chat an environment, and each process its own index and fork
server. Tool calls wait on sockets, pipes and the network, and release the interpreter lock: threads do.

It keeps Gymnasium 1.4's vector contract: the three autoreset modes, ``info`` as a dict of arrays with masks,
``final_obs`` and ``final_info``, ``options["reset_mask"]``. Two deliberate differences: an integer seed is spread by
``SeedSequence`` (Gymnasium's ``seed + i`` makes environment 1 of seed 0 play what environment 0 of seed 1 plays),
and a failed environment leaves no step half counted: see :meth:`ThreadVectorEnv.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from arpo_env.errors import ConfigError

#: Observations, rewards (n,), terminations (n,), truncations (n,), infos.
VectorStep = tuple[Any, np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Stepped:
    """What one environment gave; ``final`` when it was reset within the same step."""

    observation: Any
    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    final: dict[str, Any] | None = None


def spread_seed(seed: int, n: int) -> list[int]:
    """``n`` independent seeds below 2**63 from one; the i-th depends on ``seed`` and i only."""
    children = np.random.SeedSequence(seed).spawn(n)
    return [int(child.generate_state(1, np.uint64)[0] >> np.uint64(1)) for child in children]


class ThreadVectorEnv(VectorEnv[Any, Any, np.ndarray[Any, Any]]):
    """Environments stepped in threads, in one process, with results in the order of the environments.

    Text observations come as a tuple of ``num_envs`` strings; an action is a sequence of as many.

    Args:
        env_fns: one function an environment; called here, one after the other.
        autoreset_mode: ``NEXT_STEP`` (default), ``SAME_STEP`` or ``DISABLED``, see
            :class:`gymnasium.vector.AutoresetMode`.
        max_workers: how many environments may step at once; default all.

    Raises:
        ConfigError: no environment, environments with different spaces, or a value that cannot be used.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]],
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_workers: int | None = None,
    ) -> None:
        if not env_fns:
            raise ConfigError("env_fns is empty; give at least one function that makes an environment")
        if max_workers is not None and max_workers < 1:
            raise ConfigError(f"max_workers must be >= 1 (or None for one an environment), got {max_workers}")
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            known = ", ".join(repr(mode.value) for mode in AutoresetMode)
            raise ConfigError(f"autoreset_mode must be one of {known}, got {autoreset_mode!r}") from error
        self.envs: list[gymnasium.Env[Any, Any]] = []
        try:
            for env_fn in env_fns:
                self.envs.append(env_fn())
            self._check_spaces()
        except BaseException:
            for env in self.envs:
                env.close()
            self.closed = True
            raise
        self.num_envs = len(self.envs)
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = self.envs[0].render_mode
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._pool = ThreadPoolExecutor(max_workers or self.num_envs, thread_name_prefix="arpo-env")
        self._pending: list[Future[Any]] = []
        self._observations: list[Any] = [None] * self.num_envs
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        #: Environments that cannot be stepped before a reset: at first all of them.
        self._unready = np.ones(self.num_envs, dtype=np.bool_)

    # ------------------------------------------------------------------ Gymnasium

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]`` (a boolean array of shape ``(num_envs,)``).

        Args:
            seed: an integer, spread over the environments by :func:`spread_seed`; a list with one seed (or None)
                an environment; or None.
            options: handed to each environment, without the mask.

        Raises:
            ConfigError: seeds or a mask of another length or type.
            Exception: what an environment raised, see :meth:`step`.
        """
        self._assert_open()
        seeds: list[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [*spread_seed(int(seed), self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(f"seed must be an integer or hold {self.num_envs} seeds, got {len(seeds)}")
        rest = dict(options or {})
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if "reset_mask" in rest:
            mask = _checked_mask(rest.pop("reset_mask"), self.num_envs)
        chosen = [int(i) for i in np.flatnonzero(mask)]
        self._unready[mask] = True
        given = rest if options is not None else None

        def reset(i: int) -> tuple[Any, dict[str, Any]]:
            # A copy each: an environment may change its options.
            return self.envs[i].reset(seed=seeds[i], options=None if given is None else dict(given))

        infos: dict[str, Any] = {}
        for i, (observation, info) in zip(chosen, self._run(reset, chosen), strict=True):
            self._observations[i] = observation
            infos = self._add_info(infos, info, i)
        self._over[mask] = False
        self._unready[mask] = False
        return self._batch(), infos

    def step(self, actions: Any) -> VectorStep:
        """Step every environment, each in a thread; returns when the last is done.

        An environment whose episode ended in the last step is reset instead (``NEXT_STEP``: its action is
        ignored, its reward 0).

        Raises:
            ConfigError: ``actions`` does not hold one action an environment.
            gymnasium.error.ResetNeeded: before the first reset, for an environment that is over in mode
                ``DISABLED``, and after a step that raised.
            Exception: what an environment raised (the first of them, by index), its type kept and its index in a
                note. The others have finished their step by then, but their results are lost: call :meth:`reset`.
        """
        self._assert_open()
        todo = self._actions(actions)
        unready = self._unready | self._over if self.autoreset_mode is AutoresetMode.DISABLED else self._unready
        if unready.any():
            where = np.flatnonzero(unready).tolist()
            raise gymnasium.error.ResetNeeded(f"environments {where} need a reset() (all of them, or by reset_mask)")
        self._unready[:] = True
        results = self._run(lambda i: self._step_one(i, todo[i]), range(self.num_envs))
        self._unready[:] = False
        infos: dict[str, Any] = {}
        for i, result in enumerate(results):
            self._observations[i] = result.observation
            if result.final is not None:
                infos = self._add_info(infos, result.final, i)
            infos = self._add_info(infos, result.info, i)
        rewards = np.array([result.reward for result in results], dtype=np.float64)
        terminations = np.array([result.terminated for result in results], dtype=np.bool_)
        truncations = np.array([result.truncated for result in results], dtype=np.bool_)
        self._over = terminations | truncations
        return self._batch(), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...]:
        """One frame an environment."""
        return self.call("render")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What each environment's method ``name`` returns (in threads), or its attribute ``name``."""
        self._assert_open()

        def call(i: int) -> Any:
            found = self.envs[i].get_wrapper_attr(name)
            return found(*args, **kwargs) if callable(found) else found

        return tuple(self._run(call, range(self.num_envs)))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute ``name`` of each environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set attribute ``name``: a list or tuple holds one value an environment, anything else is for all.

        Raises:
            ConfigError: a list of another length.
        """
        self._assert_open()
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ConfigError(f"values must hold {self.num_envs} values, one an environment, got {len(each)}")
        for env, value in zip(self.envs, each, strict=True):
            env.set_wrapper_attr(name, value)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of the environments."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of the environments."""
        return self.get_attr("np_random_seed")

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment, also when one of them fails at it, and end the threads."""
        wait(self._pending)
        self._pool.shutdown()
        errors: list[BaseException] = []
        for i, env in enumerate(self.envs):
            try:
                env.close()
            except Exception as error:
                error.add_note(f"raised by environment {i} of {self!r} while closing")
                errors.append(error)
        if errors:
            self.closed = True
            raise errors[0]

    # ------------------------------------------------------------------ inside

    def _step_one(self, i: int, action: Any) -> _Stepped:
        env = self.envs[i]
        if self._over[i] and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            observation, info = env.reset()
            return _Stepped(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        final = None
        if (terminated or truncated) and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = {"final_obs": observation, "final_info": info}
            observation, info = env.reset()
        return _Stepped(observation, info, float(reward), terminated, truncated, final)

    def _run(self, job: Callable[[int], Any], indices: Sequence[int]) -> list[Any]:
        """``job`` for each index in threads; the results in order, or the first exception once all have ended."""
        wait(self._pending)  # an interrupted call may have left its threads at work
        self._pending = [self._pool.submit(job, i) for i in indices]
        failed = {i: error for i, f in zip(indices, self._pending, strict=True) if (error := f.exception())}
        results = [] if failed else [future.result() for future in self._pending]
        self._pending = []
        if failed:
            first = min(failed)
            failed[first].add_note(f"raised by environment {first} of {self!r}")
            for i in sorted(failed)[1:]:
                failed[first].add_note(f"environment {i} raised too: {failed[i]!r}")
            raise failed[first]
        return results

    def _actions(self, actions: Any) -> list[Any]:
        todo = [] if isinstance(actions, str) else list(iterate(self.action_space, actions))
        if len(todo) != self.num_envs:
            got = f"the string {actions[:40]!r}" if isinstance(actions, str) else f"{len(todo)} actions"
            raise ConfigError(f"actions must hold {self.num_envs} actions, one an environment; got {got}")
        return todo

    def _batch(self) -> Any:
        # A fresh array a call (text comes as a tuple): nobody's earlier batch changes.
        space = self.single_observation_space
        out: Any = create_empty_array(space, self.num_envs)  # None for text
        return concatenate(space, self._observations, out)

    def _check_spaces(self) -> None:
        first = self.envs[0]
        for i, env in enumerate(self.envs):
            for kind in ("observation_space", "action_space"):
                if getattr(env, kind) != getattr(first, kind):
                    raise ConfigError(
                        f"environment {i} has the {kind} {getattr(env, kind)}, environment 0 {getattr(first, kind)}; "
                        "they must be equal"
                    )

    def _assert_open(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError(f"{type(self).__name__} is closed")


def _checked_mask(mask: Any, n: int) -> np.ndarray[Any, Any]:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (n,) or not mask.any():
        raise ConfigError(
            f"options['reset_mask'] must be a boolean array of shape ({n},) with at least one True, got {mask!r}"
        )
    return mask
