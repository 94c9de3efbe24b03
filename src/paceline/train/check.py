"""What can be known before training, found out by the ranks that will train.

Every rank of a job calls ``findings``; what rank 0 returns counts. An error of a rank while others wait for it ends all
of them, as in a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch.distributed as dist

from paceline.records import Finding
from paceline.strategies.ranks import Ranks
from paceline.strategy_cards import strategy_card
from paceline.train import examples, parity
from paceline.train.chance import chance_level
from paceline.train.findings import Outcome, finding
from paceline.train.group import Groups
from paceline.train.probe import FEWEST_EXAMPLES, probe
from paceline.trial import Trial
from paceline.workloads.base import Workload

T = TypeVar("T")

EXAMPLES, PROBE, CHANCE, PARITY = (
    "labels and images",
    "shuffled-label probe",
    "better than chance is possible",
    "parity of one rank and N ranks",
)


def findings(
    trials: Sequence[Trial], open_workload: Callable[[Trial], Workload], groups: Groups, begin: Callable[[str], None]
) -> tuple[Finding, ...]:
    """Check the workloads and cells of ``trials``, one a cell.

    Args:
        begin: is told the name of each check before it is made.
    """
    world = groups.world
    first = {trial.workload: trial for trial in reversed(trials)}
    first = {label: first[label] for label in sorted(first)}
    begin(EXAMPLES)
    faults = _faults(first, open_workload, world)
    sound = {label: (first[label], open_workload(first[label])) for label, fault in faults.items() if not fault}
    no_examples = f"no workload passes '{EXAMPLES}'"
    begin(PROBE)
    probes = _probes(sound, world)
    begin(CHANCE)
    chances = [_chance(trial, workload) for trial, workload in sound.values()] if world.rank == 0 else []
    begin(PARITY)
    parities = _parities([trial for trial in trials if trial.workload in sound], open_workload, groups)
    return (
        finding(EXAMPLES, [_of_examples(label, fault) for label, fault in faults.items()]),
        finding(PROBE, probes, otherwise=no_examples),
        finding(CHANCE, chances, otherwise=no_examples),
        finding(PARITY, parities, otherwise="no cell of more than one rank whose strategy is exact"),
    )


def _faults(first: Mapping[str, Trial], open_workload: Callable[[Trial], Workload], world: Ranks) -> dict[str, str]:
    """By workload, what is wrong with its examples on any rank, or between ranks; empty where nothing is."""
    own: dict[str, tuple[str, str]] = {}
    for label, trial in first.items():
        try:
            workload = open_workload(trial)
            fault = examples.fault(workload, seed=trial.seed)
            own[label] = fault, "" if fault else examples.digest(workload, seed=trial.seed)
        except Exception as error:  # whatever a workload from outside raises; the other ranks wait for an answer
            own[label] = f"{type(error).__name__}: {error}", ""
    of_ranks = _gather(own, world)
    return {label: _fault_of_ranks([of_rank[label] for of_rank in of_ranks]) for label in first}


def _fault_of_ranks(answers: Sequence[tuple[str, str]]) -> str:
    for rank, (fault, digest) in enumerate(answers):
        if fault:
            return f"rank {rank}: {fault}"
        if digest != answers[0][1]:
            return f"rank {rank} is given other examples than rank 0 for the same numbers"
    return ""


def _of_examples(label: str, fault: str) -> Outcome:
    if fault:
        return Outcome(status="fail", evidence=f"{label}: {fault}")
    return Outcome(
        status="pass",
        evidence=f"{label}: as many inputs and targets in each split as asked for, and the same example whichever "
        "batch, order or rank asks for it",
    )


def _probes(sound: Mapping[str, tuple[Trial, Workload]], world: Ranks) -> list[Outcome]:
    """Each workload is probed by one rank, different ones at a time."""
    own = {
        label: _probe(label, workload, world)
        for number, (label, (_, workload)) in enumerate(sound.items())
        if number % world.world_size == world.rank
    }
    merged = {label: outcome for of_rank in _gather(own, world) for label, outcome in of_rank.items()}
    return [merged[label] for label in sound]


def _probe(label: str, workload: Workload, ranks: Ranks) -> Outcome:
    count = workload.num_examples["validation"]
    if count < FEWEST_EXAMPLES:
        why = f"{count} validation examples are too few to tell, it takes {FEWEST_EXAMPLES}"
        return Outcome(status="not applicable", evidence=f"{label}: {why}")
    try:
        look = probe(workload, ranks.device)
    except Exception as error:  # whatever a model from outside raises; the other ranks wait for an answer
        return Outcome(status="fail", evidence=f"{label}: {type(error).__name__}: {error}")
    return Outcome(status="pass" if look.tells_apart else "fail", evidence=f"{label}: {look}")


def _chance(trial: Trial, workload: Workload) -> Outcome:
    metric, target = trial.target_metric, trial.target
    chance = chance_level(workload).get(metric)
    if chance is None:
        return Outcome(
            status="not applicable", evidence=f"{trial.workload}: the chance level of its {metric} is unknown"
        )
    evidence = f"{trial.workload}: the target is {metric} {target.value:g}, a constant guess scores {chance:.4g}"
    return Outcome(status="fail" if target.reached(chance) else "pass", evidence=evidence)


def _parities(trials: Sequence[Trial], open_workload: Callable[[Trial], Workload], groups: Groups) -> list[Outcome]:
    outcomes = []
    for trial in trials:
        if (
            trial.num_ranks == 1
            or not strategy_card(trial.strategy_of_registry).exact
            or not groups.has_part(trial.scale)
        ):
            continue
        workload = open_workload(trial)
        if parity.has_batch_statistics(workload):
            why = "its model normalizes by the statistics of a batch, which one rank and N ranks cannot share"
            outcomes.append(Outcome(status="not applicable", evidence=f"{trial.workload}: {why}"))
        else:
            outcomes.append(parity.compare(trial, workload, groups.ranks(trial.scale)))
    return outcomes


def _gather(own: T, ranks: Ranks) -> list[T]:
    """What every rank has to say, by rank."""
    answers: list[T] = [own] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(answers, own, group=ranks.group)
    return answers
