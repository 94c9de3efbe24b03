"""From the results of trials to cells: a cell is everything but the seed, and its numbers are medians over seeds.

A seed that misses the target counts as needing infinitely long, so a median exists only where more than half of the
seeds reached it; no seed is dropped, none is averaged away.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.analysis.censoring import expected_running_time, restricted_mean
from paceline.analysis.load import State, TrialResult
from paceline.cards import Target
from paceline.records import DONE, Evaluation
from paceline.study import Study

PARTS = ("data", "compute", "communication", "optimizer")
# What can be spent until the target: the field of a row that has it, and the field that has all that was spent.
MEASURES = {
    "time": ("time_to_target_s", "train_time_s"),
    "updates": ("updates_to_target", "num_updates"),
    "samples": ("samples_to_target", "num_samples"),
    "gradient_evaluations": ("gradient_evaluations_to_target", "num_gradient_evaluations"),
    "bytes": ("bytes_to_target", "bytes_sent"),
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's last value over seeds; ``num_trials`` counts the seeds that have a finite one."""

    mean: float
    low: float
    high: float
    num_trials: int


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One seed of a cell; the five ``..._to_target`` are None where the target was not reached.

    ``time_per_update_s`` is the mean up to the target, or over the whole trial where it was missed. Of a degraded trial
    nothing is known but what it spent: it forms no pair, and no mean or median holds its times or scores.
    """

    id: str
    folder: str
    seed: int
    status: State
    cause: str
    time_to_target_s: float | None
    updates_to_target: int | None
    samples_to_target: int | None
    gradient_evaluations_to_target: int | None
    bytes_to_target: int | None
    train_time_s: float
    wall_time_s: float | None
    num_updates: int
    num_samples: int
    num_gradient_evaluations: int
    bytes_sent: int
    time_per_update_s: float | None
    examples_per_s: float | None
    validation: dict[str, float]
    test: dict[str, float]

    @property
    def is_over(self) -> bool:
        """Whether the trial will not go on."""
        return self.status in (*DONE, "failed")

    @property
    def reached(self) -> bool:
        """Whether the target was reached."""
        return self.time_to_target_s is not None

    def spent(self, measure: str, horizon: float) -> float:
        """What was spent until the target, or until censoring; a trial that diverged never comes: the horizon."""
        to_target, total = MEASURES[measure]
        if self.reached:
            return float(getattr(self, to_target))
        if self.status == "degraded":
            return 0.0  # censored at once: what it spent says nothing of its scale
        return horizon if self.status == "diverged" else min(float(getattr(self, total)), horizon)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """How the seeds of a cell came to the target, in one of ``MEASURES``.

    ``median`` is None where half of the seeds or more missed it; ``restricted_mean`` is the mean cut off at
    ``horizon``; ``expected`` is what all seeds spent per seed that arrived, None if none did.
    """

    median: float | None
    restricted_mean: float
    expected: float | None
    horizon: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell's numbers: medians over seeds unless a name says otherwise, None where a median is not reached.

    ``time_split`` are shares of the training time, ``communication`` being what computation did not hide and ``other``
    what slower ranks and the rest took; bytes are those that rank 0 sent; ``peak_memory_bytes`` is the greatest of any
    rank. ``node_hours_to_target`` is hosts times the median time to the target.
    """

    name: str
    workload: str
    label: str
    optimizer: str
    strategy: str
    num_ranks: int
    num_hosts: int
    ranks_per_host: int
    global_batch_size: int
    threads_per_rank: int
    hyperparameters: dict[str, bool | int | float | str]
    target: Target
    num_planned: int
    num_trials: int
    num_over: int
    num_reached: int
    success_rate: float
    statuses: dict[str, int]
    time_to_target_s: float | None
    updates_to_target: float | None
    samples_to_target: float | None
    gradient_evaluations_to_target: float | None
    bytes_to_target: float | None
    node_hours_to_target: float | None
    arrivals: dict[str, Arrival]
    final_validation_accuracy: float | None
    final_validation: dict[str, Score]
    test: dict[str, Score]
    examples_per_s: float | None
    update_time_s: float | None
    mean_update_time_s: float | None
    time_split: dict[str, float]
    bytes_per_update: float | None
    peak_memory_bytes: int | None
    trials: tuple[TrialRow, ...]


def cells_of(results: Iterable[TrialResult], study: Study | None) -> list[Cell]:
    """The cells of a run, in the order of the study file, then by scale and strategy; repeats are not among them."""
    groups: dict[str, list[TrialResult]] = {}
    for result in sorted(results, key=_order(study)):
        if not result.trial.repeat:
            groups.setdefault(result.trial.cell, []).append(result)
    rows = {name: tuple(row_of(result) for result in own) for name, own in groups.items()}
    horizons: dict[str, dict[str, float]] = {}
    for workload in dict.fromkeys(own[0].trial.workload for own in groups.values()):
        names = [name for name, own in groups.items() if own[0].trial.workload == workload]
        budget = groups[names[0]][0].trial.max_train_time_s
        horizons[workload] = _horizons([row for name in names for row in rows[name]], budget)
    num_seeds = len(study.seeds) if study else 0
    return [
        _cell(name, own, rows[name], horizons[own[0].trial.workload], num_planned=max(num_seeds, len(own)))
        for name, own in groups.items()
    ]


def _horizons(rows: Sequence[TrialRow], max_train_time_s: float | str) -> dict[str, float]:
    """For each measure the one horizon of a workload: the most that any trial spent, and no less than the budget."""
    whole = [row for row in rows if row.status != "degraded"]
    longest = {
        measure: float(max((getattr(row, field) or 0.0 for row in whole for field in fields), default=0.0))
        for measure, fields in MEASURES.items()
    }
    if not isinstance(max_train_time_s, str):
        longest["time"] = max(longest["time"], max_train_time_s)
    return longest


def reached_at(result: TrialResult) -> Evaluation | None:
    """The first evaluation at or beyond the target; None for a trial that diverged or is degraded."""
    if result.status in ("diverged", "degraded"):
        return None  # parameters that are lost, or times that are of no scale: like a seed that never came there
    target = result.trial.target
    values = result.evaluations.column("validation", target.metric)
    beyond = values >= target.value if target.mode == "max" else values <= target.value
    hits = np.flatnonzero(beyond & np.isfinite(values))
    return result.evaluations[int(hits[0])] if len(hits) else None


def median_or_none(values: Iterable[float | None]) -> float | None:
    """The median where None counts as infinite; None if it is infinite, or there is no value."""
    known = [math.inf if value is None else float(value) for value in values]
    median = statistics.median(known) if known else math.inf
    return median if math.isfinite(median) else None


def _order(study: Study | None) -> Callable[[TrialResult], tuple[object, ...]]:
    """Cells in the order of the study file, then by scale and strategy, then seeds."""
    workloads = list(study.workloads) if study else []
    labels = list(study.optimizers) if study else []

    def place(known: list[str], name: str) -> tuple[int, str]:
        return (known.index(name) if name in known else len(known), name)

    def key(result: TrialResult) -> tuple[object, ...]:
        trial = result.trial
        alone = 0 if trial.strategy == "single" else 1
        where = (trial.num_ranks, trial.num_hosts, alone, trial.strategy)
        return (place(workloads, trial.workload), place(labels, trial.label), where, trial.seed)

    return key


def _cell(
    name: str,
    results: Sequence[TrialResult],
    rows: tuple[TrialRow, ...],
    horizons: dict[str, float],
    *,
    num_planned: int,
) -> Cell:
    trial = results[0].trial
    whole = [result for result in results if result.status != "degraded"]
    lasts = [last for result in whole if (last := _last(result))]
    final = _scores(row.validation for row in rows)
    main = final.get(trial.target_metric)
    num_reached = sum(row.reached for row in rows)
    arrivals = {measure: arrival(rows, measure, horizon) for measure, horizon in horizons.items() if horizon > 0}
    medians = {field: median_or_none(getattr(row, field) for row in rows) for field, _ in MEASURES.values()}
    time_to_target_s = medians["time_to_target_s"]
    return Cell(
        name=name,
        workload=trial.workload,
        label=trial.label,
        optimizer=trial.optimizer,
        strategy=trial.strategy,
        num_ranks=trial.num_ranks,
        num_hosts=trial.num_hosts,
        ranks_per_host=trial.ranks_per_host,
        global_batch_size=trial.global_batch_size,
        threads_per_rank=trial.threads_per_rank,
        hyperparameters=dict(trial.hyperparameters),
        target=trial.target,
        num_planned=num_planned,
        num_trials=len(rows),
        num_over=sum(row.is_over for row in rows),
        num_reached=num_reached,
        success_rate=num_reached / len(rows),
        statuses=dict(Counter(row.status for row in rows)),
        **medians,  # one for each field of MEASURES
        node_hours_to_target=None if time_to_target_s is None else trial.num_hosts * time_to_target_s / 3600,
        arrivals=arrivals,
        final_validation_accuracy=main.mean if main else None,
        final_validation=final,
        test=_scores(row.test for row in rows),
        examples_per_s=_median(row.examples_per_s for row in rows),
        update_time_s=_median(median_update_time_s(result) for result in whole),
        mean_update_time_s=_ratio(sum(x.train_time_s for x in lasts), sum(x.num_updates for x in lasts)),
        time_split=_time_split(lasts),
        bytes_per_update=_median(last.bytes_sent / last.num_updates for last in lasts),
        peak_memory_bytes=max(_peaks(whole), default=None),
        trials=rows,
    )


def row_of(result: TrialResult) -> TrialRow:
    """What one trial measured."""
    hit, last, end = reached_at(result), _last(result), result.end
    total = end or last
    whole = result.status != "degraded"
    timed = (hit or last) if whole else None
    return TrialRow(
        id=result.trial.id,
        folder=result.folder.name,
        seed=result.trial.seed,
        status=result.status,
        cause=result.cause,
        time_to_target_s=hit.train_time_s if hit else None,
        updates_to_target=hit.num_updates if hit else None,
        samples_to_target=hit.num_samples if hit else None,
        gradient_evaluations_to_target=hit.num_gradient_evaluations if hit else None,
        bytes_to_target=hit.bytes_sent if hit else None,
        train_time_s=total.train_time_s if total else 0.0,
        wall_time_s=end.wall_time_s if end else None,
        num_updates=total.num_updates if total else 0,
        num_samples=total.num_samples if total else 0,
        num_gradient_evaluations=total.num_gradient_evaluations if total else 0,
        bytes_sent=total.bytes_sent if total else 0,
        time_per_update_s=_ratio(timed.train_time_s, timed.num_updates) if timed else None,
        examples_per_s=_ratio(last.num_samples, last.train_time_s) if last and whole else None,
        validation=dict(result.evaluations[-1].validation) if result.evaluations and whole else {},
        test=dict(end.test) if end and whole else {},
    )


def arrival(rows: Sequence[TrialRow], measure: str, horizon: float) -> Arrival:
    """How ``rows`` came to the target in one measure."""
    spent, reached = [row.spent(measure, horizon) for row in rows], [row.reached for row in rows]
    to_target, total = MEASURES[measure]
    used = [float(getattr(row, to_target if row.reached else total)) for row in rows if row.status in DONE]
    arrived = [row.reached for row in rows if row.status in DONE]
    return Arrival(
        median=median_or_none(getattr(row, to_target) for row in rows),
        restricted_mean=restricted_mean(spent, reached, horizon=horizon),
        expected=expected_running_time(used, arrived) if any(arrived) else None,
        horizon=horizon,
    )


def _last(result: TrialResult) -> Evaluation | None:
    """The last evaluation after any training."""
    trained = np.flatnonzero(result.evaluations.column("num_updates") * result.evaluations.column("train_time_s") > 0)
    return result.evaluations[int(trained[-1])] if len(trained) else None


def median_update_time_s(result: TrialResult) -> float | None:
    """The median over evaluations of the median time per update since the evaluation before."""
    return _median(result.evaluations.column("update_time_s", "p50").tolist())


def _scores(values: Iterable[dict[str, float]]) -> dict[str, Score]:
    """Mean, least and greatest of each metric over the seeds that have a finite value."""
    found: dict[str, list[float]] = {}
    for own in values:
        for metric, value in own.items():
            if math.isfinite(value):
                found.setdefault(metric, []).append(value)
    return {
        metric: Score(mean=statistics.fmean(own), low=min(own), high=max(own), num_trials=len(own))
        for metric, own in found.items()
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return statistics.median(known) if known else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _time_split(lasts: Sequence[Evaluation]) -> dict[str, float]:
    total = sum(last.train_time_s for last in lasts)
    if not total:
        return {}
    shares = {part: sum(getattr(last, f"{part}_s") for last in lasts) / total for part in PARTS}
    return shares | {"other": max(0.0, 1.0 - sum(shares.values()))}


def _peaks(results: Sequence[TrialResult]) -> list[int]:
    """Peak memory of each rank of each trial."""
    return [
        peak
        for result in results
        for rank in result.ranks
        for peak in (
            *rank.epochs.column("peak_memory_bytes").tolist(),
            *([rank.end.peak_memory_bytes] if rank.end else []),
        )
    ]
