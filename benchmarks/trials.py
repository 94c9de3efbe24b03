"""Trials for paceline's own loop, and that loop as a contestant."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from paceline.arguments import TrainArguments
from paceline.records import write_json
from paceline.strategies.ranks import Ranks
from paceline.train.loop import Training
from paceline.train.worker import open_workload
from paceline.trial import Trial, WorkloadFacts, as_json, expand
from paceline.workloads.base import Workload

BATCH_SIZE = 64
SEED = 0
ENDLESS = 1_000_000  # epochs


def open_trial(
    workload: str, optimizer: str, *, num_ranks: int = 1, data_dir: Path | None = None, settings: tuple[str, ...] = ()
) -> tuple[Trial, Workload]:
    """A trial as ``paceline train`` would make it, and its workload."""
    arguments = TrainArguments(
        workload=workload, optimizer=optimizer, threads=1, seed=SEED, epochs=ENDLESS, global_batch_size=BATCH_SIZE,
        set=list(settings),
    )  # fmt: skip
    study = arguments.study(num_ranks=num_ranks)
    opened = open_workload(next(iter(study.workloads.values())), data_dir)
    facts = WorkloadFacts(dataset=opened.dataset, data_digest=opened.data_digest, target=opened.target)
    return expand(study, {workload: facts}, threads_per_rank=1)[0], opened


class PacelineLoop:
    """The real training loop, epoch by epoch. Evaluation and checkpoints are timed apart: the others make none."""

    def __init__(self, trial: Trial, workload: Workload, folder: Path, ranks: Ranks | None = None) -> None:
        trial_dir = folder / trial.id
        trial_dir.mkdir(parents=True, exist_ok=True)
        write_json(trial_dir / f"trial.{(ranks or Ranks()).rank}.json", as_json(trial))
        self.training = Training(trial, workload, ranks or Ranks(), trial_dir)
        self.training.begin(time.perf_counter())
        self.model = self.training.model
        self.train_times_s: list[float] = []
        self.aside_s: list[float] = []

    def epoch(self) -> float:
        """Train one epoch; returns all its seconds but those of evaluation and checkpoint."""
        aside, clock, began = self._aside_s(), self.training.totals.train_time_s, time.perf_counter()
        self.training._epoch()
        taken = time.perf_counter() - began
        self.aside_s.append(self._aside_s() - aside)
        self.train_times_s.append(self.training.totals.train_time_s - clock)
        return taken - self.aside_s[-1]

    def _aside_s(self) -> float:
        return self.training.progress.evaluation_time_s + self.training.progress.checkpoint_time_s


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """How far two models are apart, relative to the norm of the first."""
    first, second = (torch.nn.utils.parameters_to_vector(model.parameters()).detach() for model in (one, other))
    return float((first - second).norm() / first.norm())


def require_same(one: torch.nn.Module, other: torch.nn.Module, *, what: str) -> None:
    """Refuse to compare the speed of two loops that do not compute the same."""
    apart = distance(one, other)
    if not apart <= 1e-5:
        raise RuntimeError(f"{what}: parameters differ by {apart:.1e} of their norm after the same updates")
