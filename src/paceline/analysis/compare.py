"""From the results of trials to one comparison: a cell is everything but the seed, and a cell's numbers are medians.

A seed that misses the target counts as needing infinitely long, so a median exists only where more than half of the
seeds reached it; no seed is dropped, none is averaged away.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from paceline.analysis.alike import refuse_unlike
from paceline.analysis.censoring import expected_running_time
from paceline.analysis.inference import seeds_needed
from paceline.analysis.load import Run, State, TrialResult, num_places
from paceline.analysis.notes import notes
from paceline.cards import Target
from paceline.errors import UsageError
from paceline.records import DONE, Evaluation
from paceline.study import Study

PARTS = ("data", "compute", "communication", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's last value over seeds; ``num_trials`` counts the seeds that have a finite one."""

    mean: float
    low: float
    high: float
    num_trials: int


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One seed of a cell; the four ``..._to_target`` are None where the target was not reached."""

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
    examples_per_s: float | None
    validation: dict[str, float]
    test: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times as fast a cell is as ``baseline``; ``target`` is None where a median is not reached.

    ``num_faster`` of ``num_pairs`` seeds reached the target sooner than the same seed of the baseline.
    """

    baseline: str
    baseline_strategy: str
    baseline_num_ranks: int
    target: float | None
    throughput: float | None
    num_pairs: int
    num_faster: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell's numbers: medians over seeds unless a name says otherwise, None where a median is not reached.

    ``time_split`` are shares of the training time, ``other`` being what slower ranks and the rest took; bytes are
    those that rank 0 sent; ``peak_memory_bytes`` is the greatest of any rank. ``expected_running_time_s`` is what all
    finished seeds spent per seed that reached the target.
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
    statuses: dict[str, int]
    time_to_target_s: float | None
    expected_running_time_s: float | None
    updates_to_target: float | None
    samples_to_target: float | None
    gradient_evaluations_to_target: float | None
    bytes_to_target: float | None
    final_validation_accuracy: float | None
    final_validation: dict[str, Score]
    test: dict[str, Score]
    examples_per_s: float | None
    update_time_s: float | None
    mean_update_time_s: float | None
    time_split: dict[str, float]
    bytes_per_update: float | None
    peak_memory_bytes: int | None
    speedups: tuple[Speedup, ...]
    trials: tuple[TrialRow, ...]


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Whether there are seeds enough for any claim: ``2^(1-n) <= 0.05 / k`` for n seeds and k comparisons.

    Source: the paired exact sign-flip test under Holm's correction; with fewer seeds no outcome can be significant.
    """

    num_seeds: int
    num_comparisons: int
    num_needed: int

    @property
    def enough(self) -> bool:
        """Whether a test could tell anything."""
        return self.num_seeds >= self.num_needed


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All cells of a run beside each other; ``audit`` and ``verdict`` are for the checks and the statistics."""

    study: str
    question: str
    batch_rule: str
    lr_rule: str
    workloads: dict[str, Target]
    cells: tuple[Cell, ...]
    seeds: Seeds
    num_planned: int
    notes: tuple[str, ...]
    audit: None = None
    verdict: None = None

    def of(self, workload: str) -> list[Cell]:
        """The cells of one workload."""
        return [cell for cell in self.cells if cell.workload == workload]


def compare(run: Run) -> Comparison:
    """Put the cells of a run beside each other.

    Raises: UsageError if there is no trial, or the trials are not alike; it names the difference.
    """
    if not run.results:
        raise UsageError(f"{run.folder} holds no trial to compare")
    refuse_unlike(run.results)
    groups: dict[str, list[TrialResult]] = {}
    for result in sorted(run.results, key=_order(run.study)):
        groups.setdefault(result.trial.cell, []).append(result)
    num_seeds = len(run.study.seeds) if run.study else 0
    bare = [_cell(name, own, num_planned=max(num_seeds, len(own))) for name, own in groups.items()]
    first = run.results[0].trial
    return Comparison(
        study=run.name,
        question=run.study.question if run.study else "",
        batch_rule=first.batch_rule,
        lr_rule=first.lr_rule,
        workloads={cell.workload: cell.target for cell in bare},
        cells=tuple(_with_speedups(cell, bare) for cell in bare),
        seeds=_seeds(bare, run.study),
        num_planned=run.num_planned,
        notes=tuple(notes(run)),
    )


def reached_at(result: TrialResult) -> Evaluation | None:
    """The first evaluation at or beyond the target; None for a trial that diverged, whatever it had reached."""
    if result.status == "diverged":
        return None  # its parameters are lost: as censored, like a seed that never came there
    target = result.trial.target
    values = ((one, one.validation.get(target.metric, math.nan)) for one in result.evaluations)
    return next((one for one, value in values if target.reached(value)), None)


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


def _cell(name: str, results: Sequence[TrialResult], *, num_planned: int) -> Cell:
    trial = results[0].trial
    rows = tuple(_row(result) for result in results)
    lasts = [last for result in results if (last := _last(result))]
    final = _scores(row.validation for row in rows)
    main = final.get(trial.target_metric)
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
        num_over=sum(result.is_over for result in results),
        num_reached=sum(row.time_to_target_s is not None for row in rows),
        statuses=dict(Counter(row.status for row in rows)),
        time_to_target_s=median_or_none(row.time_to_target_s for row in rows),
        expected_running_time_s=_expected_running_time(rows),
        updates_to_target=median_or_none(row.updates_to_target for row in rows),
        samples_to_target=median_or_none(row.samples_to_target for row in rows),
        gradient_evaluations_to_target=median_or_none(row.gradient_evaluations_to_target for row in rows),
        bytes_to_target=median_or_none(row.bytes_to_target for row in rows),
        final_validation_accuracy=main.mean if main else None,
        final_validation=final,
        test=_scores(row.test for row in rows),
        examples_per_s=_median(row.examples_per_s for row in rows),
        update_time_s=_median(_median_update(result) for result in results),
        mean_update_time_s=_ratio(sum(x.train_time_s for x in lasts), sum(x.num_updates for x in lasts)),
        time_split=_time_split(lasts),
        bytes_per_update=_median(last.bytes_sent / last.num_updates for last in lasts),
        peak_memory_bytes=max(_peaks(results), default=None),
        speedups=(),
        trials=rows,
    )


def _row(result: TrialResult) -> TrialRow:
    hit, last, end = reached_at(result), _last(result), result.end
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
        train_time_s=end.train_time_s if end else last.train_time_s if last else 0.0,
        wall_time_s=end.wall_time_s if end else None,
        num_updates=end.num_updates if end else last.num_updates if last else 0,
        examples_per_s=_ratio(last.num_samples, last.train_time_s) if last else None,
        validation=dict(result.evaluations[-1].validation) if result.evaluations else {},
        test=dict(end.test) if end else {},
    )


def _expected_running_time(rows: Sequence[TrialRow]) -> float | None:
    """Training time spent per seed that reached the target, misses included; None if none of them did."""
    over = [row for row in rows if row.status in DONE]
    if not any(row.time_to_target_s is not None for row in over):
        return None
    spent = [row.train_time_s if row.time_to_target_s is None else row.time_to_target_s for row in over]
    return expected_running_time(spent, [row.time_to_target_s is not None for row in over])


def _last(result: TrialResult) -> Evaluation | None:
    """The last evaluation after any training."""
    return next((one for one in reversed(result.evaluations) if one.num_updates and one.train_time_s > 0), None)


def _median_update(result: TrialResult) -> float | None:
    """The median over evaluations of the median time per update since the evaluation before."""
    return _median(one.update_time_s.get("p50") for one in result.evaluations if one.num_updates)


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
            *(epoch.peak_memory_bytes for epoch in rank.epochs),
            *([rank.end.peak_memory_bytes] if rank.end else []),
        )
    ]


def _with_speedups(cell: Cell, cells: Sequence[Cell]) -> Cell:
    """The cell beside its baselines: the same label at the fewest ranks, bare and in the wrapper where both exist."""
    same = [one for one in cells if (one.workload, one.label) == (cell.workload, cell.label)]
    fewest = min(one.num_ranks for one in same)
    if cell.strategy == "single" and cell.num_ranks == fewest:
        return cell
    baselines = [one for one in same if one.num_ranks == fewest and one.name != cell.name]  # the bare one comes first
    if cell.num_ranks == fewest:
        baselines = [one for one in baselines if one.strategy == "single"]
    return replace(cell, speedups=tuple(_speedup(cell, baseline) for baseline in baselines))


def _speedup(cell: Cell, baseline: Cell) -> Speedup:
    before = {row.seed: row for row in baseline.trials}
    pairs = [(row, before[row.seed]) for row in cell.trials if row.seed in before]
    return Speedup(
        baseline=baseline.name,
        baseline_strategy=baseline.strategy,
        baseline_num_ranks=baseline.num_ranks,
        target=_ratio(baseline.time_to_target_s, cell.time_to_target_s),
        throughput=_ratio(cell.examples_per_s, baseline.examples_per_s),
        num_pairs=len(pairs),
        num_faster=sum(_key(now.time_to_target_s) < _key(then.time_to_target_s) for now, then in pairs),
    )


def _key(time_s: float | None) -> float:
    return math.inf if time_s is None else time_s


def _seeds(cells: Sequence[Cell], study: Study | None) -> Seeds:
    """Seeds that are over in every cell, against what the declared comparisons need."""
    if study is None:
        workloads = Counter(cell.workload for cell in cells)
        comparisons = sum(count - 1 for count in workloads.values())
    elif study.comparisons == "baseline":
        comparisons = len(study.workloads) * (len(study.optimizers) * num_places(study) - 1)
    else:
        comparisons = len(study.workloads) * len(study.comparisons)
    return Seeds(
        num_seeds=min(cell.num_over for cell in cells),
        num_comparisons=comparisons,
        num_needed=seeds_needed(comparisons),
    )
