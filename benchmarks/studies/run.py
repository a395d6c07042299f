"""Run a study's entrants as a sweep, or find them in one that is there, and judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from arpo_algo import algorithms
from arpo_algo.config import AlgorithmSection, RunConfig
from arpo_algo.errors import ConfigError
from arpo_algo.sweep import Entrant, SweepRow, cold_start_folder, configuration, entrant, read, sweep
from benchmarks.studies.catalogue import Contrast, Study
from benchmarks.studies.measures import MEASURES, Paired, Run
from benchmarks.studies.verdict import Estimate, Judgement, Word, estimate, judge, overall

#: Why a measure ``across_steps`` is refused.
SAME_QUESTIONS = "seeds trained on the same questions, whose luck would count as a difference"
#: Tokens that entropy is averaged over where the entrant has no k (the paper's code: 20).
DEFAULT_K = 20


@dataclass(frozen=True)
class Finding:
    """A contrast, what was measured (None: no runs), and what that says.

    ``left_out``: seeds that are not in the estimate though both runs are there, and why. What leaves them out is an
    outcome (of "the base learned nothing" there is no level to reach), so what is left is no fair sample of seeds.
    """

    contrast: Contrast
    estimate: Estimate | None
    judgement: Judgement
    left_out: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyResult:
    """``rows`` have the entrants' short names as labels. ``missing``: runs that the study asks for and has not."""

    study: Study
    verdict: Word
    findings: tuple[Finding, ...]
    rows: tuple[SweepRow, ...]
    missing: tuple[str, ...]
    config: RunConfig
    origin: Path

    @property
    def seeds(self) -> list[int]:
        return sorted({r.seed for r in self.rows})

    def to_json(self) -> dict[str, Any]:
        return {
            "study": self.study.name,
            "claim": self.study.claim,
            "verdict": self.verdict,
            "entrants": dict(self.study.entrants),
            "runs_in": str(self.origin),
            "seeds": self.seeds,
            "missing": list(self.missing),
            "findings": [_finding(f) for f in self.findings],
            "runs": [r.to_json() for r in self.rows],
        }


def placeholders(config: RunConfig) -> dict[str, int]:
    """What entrants may name of the configuration: parts of its M, and multiples of its k."""
    arpo = algorithms.make("arpo", **entrant("arpo", config).section.options)
    M, k = arpo.M, getattr(arpo, "k", DEFAULT_K)
    return {
        "M": M, "half": max(M // 2, 1), "quarter": max(M // 4, 1), "three_quarters": max(3 * M // 4, 1),
        "k": k, "half_k": max(k // 2, 1), "twice_k": 2 * k, "four_k": 4 * k,
    }  # fmt: skip


def entrants_of(study: Study, config: RunConfig) -> dict[str, Entrant]:
    """Short name -> entrant; options that change nothing are left out, so that studies share their runs.

    Raises:
        ConfigError: an option that the configuration's values contradict.
    """
    values = placeholders(config)
    return {name: _shortest(text.format(**values), config) for name, text in study.entrants.items()}


def _shortest(text: str, config: RunConfig) -> Entrant:
    made = _made(entrant(text, config).section)
    name, *assignments = text.split()
    for one in list(assignments):
        fewer = [a for a in assignments if a != one]
        if _made(entrant(" ".join([name, *fewer]), config).section) == made:
            assignments = fewer
    return entrant(" ".join([name, *assignments]), config)


def _made(section: AlgorithmSection) -> object:
    """The algorithm with all its options, so that what is written out equals what is a default."""
    return algorithms.make(section.name, **section.options)


def train(
    study: Study,
    config: RunConfig,
    seeds: Sequence[int],
    folder: Path,
    console: Console,
    *,
    same_questions: bool = False,
) -> StudyResult:
    """Train what is not trained yet, in the sweep ``folder``, and judge. ``same_questions``: as in the sweep."""
    entrants = entrants_of(study, config)
    distinct = {e.label: e for e in entrants.values()}
    rows = sweep(config, list(distinct.values()), seeds, folder, console, same_questions=same_questions)
    return evaluate(study, config, [(distinct[r.label].section, r) for r in rows], folder, seeds)


def from_sweep(study: Study, folder: Path, seeds: Sequence[int] | None = None) -> StudyResult:
    """Judge from the finished runs of a sweep that is there; nothing is trained or written in it.

    Raises:
        ConfigError: no sweep, or one without a run of this study.
    """
    found = read(folder)
    if seeds is not None:
        found = [(section, row) for section, row in found if row.seed in seeds]
    if seeds is None:
        seeds = sorted({row.seed for _, row in found})
    return evaluate(study, configuration(folder), found, folder, seeds)


def evaluate(
    study: Study,
    config: RunConfig,
    found: Sequence[tuple[AlgorithmSection, SweepRow]],
    folder: Path,
    seeds: Sequence[int],
) -> StudyResult:
    """Judge a study from finished runs.

    Raises:
        ConfigError: none of them belongs to the study.
    """
    wanted = {name: _made(e.section) for name, e in entrants_of(study, config).items()}
    runs: dict[str, dict[int, Run]] = {name: {} for name in wanted}
    rows, missing = [], []
    for name, algorithm in wanted.items():
        for section, row in found:
            if _made(section) == algorithm:
                k = getattr(algorithm, "k", DEFAULT_K)
                runs[name][row.seed] = Run(row, section.name, cold_start_folder(folder, row.seed), k)
        rows += [dataclasses.replace(runs[name][s].row, label=name) for s in sorted(runs[name])]
        if lost := sorted(set(seeds) - set(runs[name])):
            missing.append(f"{name} ({study.entrants[name]}): seed {', '.join(map(str, lost))}")
    if not rows:
        raise ConfigError(f"{folder} holds no finished run of study {study.name!r}; it asks for {'; '.join(missing)}")
    findings = tuple(_find(c, runs) for c in study.contrasts)
    verdict = overall([f.judgement for f in findings if f.contrast.decisive])
    return StudyResult(study, verdict, findings, tuple(rows), tuple(missing), config, folder)


def _find(contrast: Contrast, runs: Mapping[str, Mapping[int, Run]]) -> Finding:
    measure = MEASURES[contrast.measure]
    arm, base = runs[contrast.arm], runs[contrast.base]
    seeds = sorted(arm.keys() & base.keys())
    streams = [stream for seed in seeds for stream in {arm[seed].row.task_seed, base[seed].row.task_seed}]
    if measure.across_steps and len(set(streams)) < len(streams):
        return Finding(contrast, None, Judgement("cannot tell", SAME_QUESTIONS))
    compared = {seed: measure.compare(arm[seed], base[seed]) for seed in seeds}
    paired = {seed: one for seed, one in compared.items() if isinstance(one, Paired)}
    left_out = {seed: one for seed, one in compared.items() if isinstance(one, str)}
    found = estimate(
        {seed: p.values for seed, p in paired.items()},
        bounded=measure.unit == "points",
        ratio=measure.unit == "ratio",
        one_model=contrast.one_model,
        at_least=any(p.at_least for p in paired.values()),
    )
    judgement = judge(contrast.claim, found)
    if found is None and left_out:
        judgement = dataclasses.replace(judgement, reason="; ".join(sorted(set(left_out.values()))))
    return Finding(contrast, found, judgement, left_out)


def _finding(f: Finding) -> dict[str, Any]:
    e = f.estimate
    return {
        "contrast": dataclasses.asdict(f.contrast),
        "estimate": None if e is None else {**dataclasses.asdict(e), "mean": e.mean, "seeds": e.seeds},
        "judgement": dataclasses.asdict(f.judgement),
        "left_out": dict(f.left_out),
    }
