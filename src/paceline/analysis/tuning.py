"""What tuning found, from its run folder: each optimizer's best configuration at each scale, and what finding it cost.

Only the validation set is looked at. A configuration's score is the mean over the tuning seeds of the training time to
the target, cut off at the workload's horizon: the most that any of its tuning trials trained. A seed that misses the
target, diverges or fails has the horizon. Where scores are equal, as where nobody arrives, the better validation score
decides, then the order of the configurations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from paceline.analysis.censoring import restricted_mean
from paceline.analysis.load import Run, TrialResult
from paceline.trial import Place

LOST = ("failed", "degraded")  # a trial's time says nothing, whatever it had reached


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One choice of hyperparameters and what its tuning seeds showed.

    ``label`` is its own in the tuning folder, such as ``adam.002``. ``score_s`` and ``best_value`` (of the target's
    metric, the mean over seeds of each one's best) are None until all its seeds are over; ``best_value`` also where a
    seed has none that is finite.
    """

    label: str
    hyperparameters: Mapping[str, bool | int | float | str]
    num_seeds: int
    num_over: int
    num_reached: int
    num_failed: int
    score_s: float | None
    best_value: float | None
    train_time_s: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """All configurations of one optimizer at one scale on one workload, in the order in which they were drawn.

    ``best_score_s[i]`` is the best score among the first i + 1 configurations; it ends where one is not over yet.
    ``searched`` names the hyperparameters that differ between configurations. ``node_hours`` counts training only.
    """

    workload: str
    label: str
    scale: str
    num_ranks: int
    metric: str
    horizon_s: float
    searched: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    chosen: Configuration | None
    best_score_s: tuple[float, ...]
    train_time_s: float
    node_hours: float

    @property
    def num_over(self) -> int:
        """Configurations whose seeds are all over."""
        return sum(one.num_over == one.num_seeds for one in self.configurations)

    @property
    def is_complete(self) -> bool:
        """Whether every configuration was tried."""
        return self.num_over == len(self.configurations)

    @property
    def all_failed(self) -> bool:
        """Whether no trial did anything but fail."""
        return all(one.num_failed == one.num_seeds for one in self.configurations)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Every search of a study."""

    searches: tuple[Search, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every configuration of every search was tried."""
        return all(search.is_complete for search in self.searches)

    @property
    def has_equal_budgets(self) -> bool:
        """Whether every search has as many configurations, and as many of them over, as every other."""
        return len({(len(search.configurations), search.num_over) for search in self.searches}) <= 1

    @property
    def chosen(self) -> dict[Place, Mapping[str, bool | int | float | str]]:
        """All hyperparameters of the chosen configurations, by place; a search that is not complete has none."""
        return {
            (search.workload, search.label, search.scale): search.chosen.hyperparameters
            for search in self.searches
            if search.chosen is not None
        }


def label_of(configuration: str) -> str:
    """The study's label for that of a configuration: ``adam`` for ``adam.002``."""
    return configuration.rpartition(".")[0]


def tuning_beside(run: Run) -> Tuning | None:
    """What tuning found for a run; None where nothing was tuned."""
    return None if run.tuning is None else tuning_of(run.tuning)


def tuning_of(run: Run) -> Tuning:
    """Choose, for each workload, optimizer and scale, among the configurations in a tuning folder."""
    horizons: dict[str, float] = {}
    places: dict[Place, dict[str, list[TrialResult]]] = {}
    for result in run.results:
        trial = result.trial
        horizons[trial.workload] = max(horizons.get(trial.workload, 0.0), _train_time_s(result))
        places.setdefault((trial.workload, label_of(trial.label), str(trial.scale)), {}).setdefault(
            trial.label, []
        ).append(result)
    return Tuning(
        searches=tuple(
            _search(place, dict(sorted(configurations.items())), horizons[place[0]])
            for place, configurations in sorted(places.items())
        )
    )


def _search(place: Place, results: Mapping[str, Sequence[TrialResult]], horizon_s: float) -> Search:
    configurations = tuple(_configuration(label, seeds, horizon_s) for label, seeds in results.items())
    trial = next(iter(results.values()))[0].trial
    scores = [one.score_s for one in configurations]
    whole = scores.index(None) if None in scores else len(scores)
    sign = 1.0 if trial.target.mode == "max" else -1.0

    def rank(one: Configuration) -> tuple[float, float]:
        value = -math.inf if one.best_value is None else sign * one.best_value
        return math.inf if one.score_s is None else one.score_s, -value

    over = whole == len(scores)
    train_time_s = math.fsum(one.train_time_s for one in configurations)
    return Search(
        workload=place[0],
        label=place[1],
        scale=place[2],
        num_ranks=trial.num_ranks,
        metric=trial.target_metric,
        horizon_s=horizon_s,
        searched=_that_differ([one.hyperparameters for one in configurations]),
        configurations=configurations,
        chosen=min(configurations, key=rank) if over else None,
        best_score_s=tuple(accumulate((score for score in scores[:whole] if score is not None), min)),
        train_time_s=train_time_s,
        node_hours=train_time_s * trial.num_hosts / 3600,
    )


def _configuration(label: str, results: Sequence[TrialResult], horizon_s: float) -> Configuration:
    over = all(result.is_over for result in results)
    arrivals = [_arrival_s(result) for result in results]
    best = [_best_value(result) for result in results]
    score_s = None
    if over:
        spent = [horizon_s if arrival is None else arrival for arrival in arrivals]
        reached = [arrival is not None for arrival in arrivals]
        score_s = restricted_mean(spent, reached, horizon=horizon_s) if horizon_s > 0 else 0.0
    finite = [value for value in best if value is not None]
    return Configuration(
        label=label,
        hyperparameters=results[0].trial.hyperparameters,
        num_seeds=len(results),
        num_over=sum(result.is_over for result in results),
        num_reached=sum(arrival is not None for arrival in arrivals),
        num_failed=sum(result.status in LOST for result in results),
        score_s=score_s,
        best_value=fmean(finite) if over and len(finite) == len(best) else None,
        train_time_s=math.fsum(_train_time_s(result) for result in results),
    )


def _values(result: TrialResult) -> Iterable[tuple[float, float]]:
    """Training time and validation value of the target's metric, at each evaluation; NaN where it is missing."""
    metric = result.trial.target_metric
    return ((record.train_time_s, record.validation.get(metric, math.nan)) for record in result.evaluations)


def _arrival_s(result: TrialResult) -> float | None:
    if result.status in LOST:
        return None
    return next((time_s for time_s, value in _values(result) if result.trial.target.reached(value)), None)


def _best_value(result: TrialResult) -> float | None:
    values = [value for _, value in _values(result) if math.isfinite(value)]
    better = max if result.trial.target.mode == "max" else min
    return better(values) if values else None


def _train_time_s(result: TrialResult) -> float:
    last = result.end or (result.evaluations[-1] if result.evaluations else None)
    return last.train_time_s if last else 0.0


def _that_differ(configurations: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    return tuple(key for key in configurations[0] if len({one[key] for one in configurations}) > 1)
