"""What a study is checked for before its first trial: what its settings alone tell, and what ranks are to find out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from paceline.job import ENOUGH_SEEDS, ChecksWanted
from paceline.records import Finding
from paceline.study import Study
from paceline.trial import Trial, comparisons

# What two trials that are checked as one may differ in.
_NOT_CHECKED = {"study", "seed", "repeat"}


def checks_wanted(study: Study, trials: Sequence[Trial], num_cores: int) -> ChecksWanted:
    """The findings that need no ranks, and the trials, one a cell, whose like the ranks are to check.

    Args:
        num_cores: of each host.
    """
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.cell, trial)
    found = (budgets(study, trials), threads(trials, num_cores), enough_seeds(study, trials))
    checked = [trial.model_dump(mode="json", exclude=_NOT_CHECKED) for trial in first.values()]
    said = json.dumps([checked, [finding.model_dump() for finding in found]], sort_keys=True)
    return ChecksWanted(
        of=hashlib.sha256(said.encode()).hexdigest()[:16], trials=[trial.id for trial in first.values()], findings=found
    )


def budgets(study: Study, trials: Sequence[Trial]) -> Finding:
    """Every cell of a workload trains as long, is looked at as often, and is repeated and tuned as many times."""
    name = "budgets"
    for workload in study.workloads:
        of_cells: dict[str, list[str]] = {}
        for trial in trials:
            if trial.workload == workload and not trial.repeat:
                of_cells.setdefault(trial.cell, []).append(_budget(trial))
        said = {cell: f"{len(own)} trials, {' and '.join(sorted(set(own)))}" for cell, own in of_cells.items()}
        first = next(iter(said))
        for cell, own_budget in said.items():
            if own_budget != said[first]:
                evidence = f"{first} has {said[first]}, but {cell} has {own_budget}; give them the same"
                return Finding(check=name, status="fail", evidence=evidence)
    tuned = f", tuned by {study.tuning.num_trials} trials for each optimizer and scale" if study.tuning else ""
    seeds = f"{len(study.seeds)} seed{'s' * (len(study.seeds) != 1)}"
    return Finding(check=name, status="pass", evidence=f"every cell has {seeds}, {_budget(trials[0])}{tuned}")


def _budget(trial: Trial) -> str:
    time = "" if trial.max_train_time_s == "unlimited" else f" or {trial.max_train_time_s:g} s of training"
    look = "epoch" if trial.evaluate_every == "epoch" else f"{trial.evaluate_every:,} samples and epoch"
    return f"up to {trial.max_epochs} epochs{time} each, evaluated after every {look}"


def threads(trials: Sequence[Trial], num_cores: int) -> Finding:
    """Every rank computes with as many threads at every scale; ranks that share cores are reported."""
    name = "threads"
    by_number = {trial.threads_per_rank: str(trial.scale) for trial in trials}
    if len(by_number) > 1:
        evidence = ", ".join(f"{number} at {scale}" for number, scale in sorted(by_number.items()))
        evidence = f"threads per rank differ: {evidence}; set threads_per_rank once for the whole study"
        return Finding(check=name, status="fail", evidence=evidence)
    (number,) = by_number
    most = max(trial.ranks_per_host for trial in trials)
    evidence = f"{number} a rank at every scale; at most {most} x {number} on {num_cores} cores"
    if most * number > num_cores:
        evidence += ": ranks share cores, and their times measure contention"
    return Finding(check=name, status="pass", evidence=evidence)


def enough_seeds(study: Study, trials: Sequence[Trial]) -> Finding:
    """The declared comparisons could tell something from chance."""
    from paceline.analysis.inference import seeds_needed

    number, given = len(comparisons(study, trials)), len(study.seeds)
    if not number:
        evidence = "there is one cell, and nothing to compare it with"
        return Finding(check=ENOUGH_SEEDS, status="not applicable", evidence=evidence)
    needed = seeds_needed(number)
    compared = f"{number} comparisons need" if number > 1 else "1 comparison needs"
    evidence = f"{given} seed{'s' * (given != 1)}; {compared} {needed}"
    if given < needed:
        evidence += ", and with fewer the report makes no claim"
    return Finding(check=ENOUGH_SEEDS, status="pass" if given >= needed else "fail", evidence=evidence)
