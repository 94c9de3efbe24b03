"""The trials of tuning: a study of its own, in which every configuration is an optimizer of its own.

Its folder is ``RUNS/NAME/tuning``, a run like any other. The third configuration of ``adam`` is labelled ``adam.002``
there. Nothing depends on results, so the same study always has the same tuning trials, and an interrupted one goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paceline.analysis.tuning import Tuning
from paceline.cards import Search
from paceline.errors import UsageError
from paceline.study import Study
from paceline.study_tables import OptimizerEntry
from paceline.trial import Trial, Values, WorkloadFacts, expand, hyperparameters_at
from paceline.tuning import Space

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

FOLDER = "tuning"


def tuning_study(study: Study) -> Study:
    """The tuning of a study as a study: the tuning budget, the tuning seeds, and one optimizer a configuration.

    Trials end at the target. Configurations take turns, the first of every optimizer before the second of any.
    Raises: UsageError if optuna is missing.
    """
    assert study.tuning is not None
    tuning = study.tuning
    return study.model_copy(
        update={
            "name": f"{study.name[:57]}-{FOLDER}",
            "question": f"Which hyperparameters suit each optimizer of {study.name}?",
            "seeds": tuning.seeds,
            "max_epochs": study.max_epochs if tuning.max_epochs == "auto" else tuning.max_epochs,
            "max_train_time_s": (
                study.max_train_time_s if tuning.max_train_time_s == "auto" else tuning.max_train_time_s
            ),
            "stop_at_target": True,
            "optimizers": {label: entry for label, (entry, _) in _configurations(study).items()},
            "baseline": "auto",
            "comparisons": "baseline",
            "aa_pair": False,
            "tuning": None,
        }
    )


def tuning_trials(study: Study, facts: Mapping[str, WorkloadFacts], *, threads_per_rank: int) -> list[Trial]:
    """The trials of ``tuning_study``, at each scale with the first of the study's strategies that admits it.

    A learning rate that is searched is used as drawn: the rule of weak scaling is not applied on top of it.
    """
    inner = tuning_study(study)
    tuned = {
        (workload, label, str(scale)): hyperparameters_at(inner, label, scale) | dict(point)
        for workload in inner.workloads
        for label, (_, point) in _configurations(study).items()
        for scale in inner.scales
    }
    trials = expand(inner, facts, threads_per_rank=threads_per_rank, tuned=tuned)
    return [trial for trial in trials if trial.strategy == inner.strategies_at(trial.scale, trial.label)[0]]


def first_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """The trials of every optimizer's first configuration: enough to check a study by."""
    return [trial for trial in trials if trial.label.endswith(".000")]


def chosen_in_words(tuning: Tuning) -> list[str]:
    """For each search: what was chosen, in one line; and how many trials failed, where any did."""
    told = [
        f"{one.label} at {one.scale} on {one.workload} is tuned: {in_words(one.chosen.hyperparameters, one.searched)}"
        for one in tuning.searches
        if one.chosen is not None
    ]
    num_failed = sum(configuration.num_failed for one in tuning.searches for configuration in one.configurations)
    return told + ([f"{num_failed} tuning trials failed, and count as having missed the target"] if num_failed else [])


def in_words(hyperparameters: Values, searched: Sequence[str]) -> str:
    """``lr=0.0032, momentum=0.9``: the values that were searched, or all where nothing differed."""
    shown = {key: hyperparameters[key] for key in searched or hyperparameters}
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items()
    )


def _configurations(study: Study) -> dict[str, tuple[OptimizerEntry, Values]]:
    """By label of a configuration: the entry of an optimizer, and the values that were drawn for it."""
    assert study.tuning is not None
    drawn = {
        label: points(study.tuning.search[label], study.tuning.num_trials, sobol_seed=study.tuning.sobol_seed)
        for label in study.optimizers
    }
    return {
        f"{label}.{number:03d}": (
            entry.model_copy(update={"hyperparameters": entry.hyperparameters | dict(drawn[label][number])}),
            drawn[label][number],
        )
        for number in range(study.tuning.num_trials)
        for label, entry in study.optimizers.items()
    }


def points(space: Space, num_points: int, *, sobol_seed: int) -> list[dict[str, Any]]:
    """The first different points of a scrambled Sobol sequence over a search space; the first of few are those of many.

    Choices and whole numbers can make two points of the sequence the same configuration: the later one is passed over.
    Raises: UsageError if optuna is missing.
    Source: Sobol 1967; Owen 1998.
    """
    sampling = _sampling(sobol_seed)
    distributions = {name: _distribution(space[name]) for name in sorted(space)}
    # The sampler learns the space from a trial that is complete; without one its first point were from elsewhere.
    sampling.tell(sampling.ask(distributions), 0.0)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    while len(found) < num_points:
        point = sampling.ask(distributions).params
        found.setdefault(tuple(point.values()), point)
    return list(found.values())


def _sampling(sobol_seed: int) -> optuna.Study:
    """An optuna study that only draws points.

    Raises: UsageError if optuna is missing.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "tuning draws its configurations by optuna; install it: pip install 'paceline[tune]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=sobol_seed)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce a study
    try:
        return optuna.create_study(sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distribution(explored: Search | tuple[Any, ...]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(explored, tuple):
        return CategoricalDistribution(explored)
    if isinstance(explored.low, int) and isinstance(explored.high, int):
        return IntDistribution(explored.low, explored.high, log=explored.log)
    return FloatDistribution(float(explored.low), float(explored.high), log=explored.log)
