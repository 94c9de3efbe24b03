"""Configurations are points of one scrambled Sobol sequence; everyone gets as many, always the same ones."""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import qmc

from paceline.cards import Search, Target
from paceline.errors import UsageError
from paceline.plan.tune import points, tuning_study, tuning_trials
from paceline.study import Study, validate
from paceline.trial import Trial, WorkloadFacts

FACTS = WorkloadFacts(dataset="mnist-small", data_digest="d1", target=Target(value=0.9))
SPACE = {"lr": Search(low=1e-4, high=1e-2, log=True), "beta1": Search(low=0.8, high=0.99)}


def study_of(**changes: Any) -> Study:
    settings = {
        "name": "small",
        "seeds": [0, 1],
        "max_epochs": 3,
        "scales": [1, 2],
        "strategies": ["single", "ddp"],
        "batch": {"rule": "global", "global_batch_size": 64},
        "workloads": {"lenet5-mnist": {}, "logreg-mnist": {}},
        "optimizers": {"adam": {}, "sgd": {"momentum": 0.0}},
        "tuning": {"num_trials": 4, "seeds": [1000, 1001], "max_epochs": 2},
    }
    return validate(settings | changes, source="")


def trials_of(study: Study) -> list[Trial]:
    return tuning_trials(study, dict.fromkeys(study.workloads, FACTS), threads_per_rank=1)


def unit(found: list[dict[str, Any]]) -> np.ndarray:
    """Points in the unit square: (beta1, lr)."""
    return np.array([((p["beta1"] - 0.8) / 0.19, math.log10(p["lr"]) / 2 + 2) for p in found])


def test_all_points_are_of_the_scrambled_sobol_sequence_from_its_first_on():
    """An oracle: scipy's own sequence, axes in the order of names."""
    expected = qmc.Sobol(2, scramble=True, seed=5).random(16)
    assert unit(points(SPACE, 16, sobol_seed=5)) == pytest.approx(expected, abs=1e-9)


def test_points_fill_the_space_better_than_chance_does():
    chance = [qmc.discrepancy(np.random.default_rng(seed).random((32, 2))) for seed in range(50)]
    assert qmc.discrepancy(unit(points(SPACE, 32, sobol_seed=0))) < min(chance)


def test_points_are_the_same_in_every_call_and_the_first_of_more():
    assert points(SPACE, 8, sobol_seed=0) == points(dict(reversed(SPACE.items())), 8, sobol_seed=0)
    assert points(SPACE, 8, sobol_seed=0) == points(SPACE, 20, sobol_seed=0)[:8]
    assert points(SPACE, 8, sobol_seed=0) != points(SPACE, 8, sobol_seed=1)


def test_whole_numbers_logarithms_and_choices_are_respected():
    space = {
        "n": Search(low=1, high=20, log=True),
        "kind": ("a", "b", "c"),
        "flag": (True, False),
        "m": Search(low=0, high=3),
    }
    found = points(space, 96, sobol_seed=0)
    assert {type(point["n"]) for point in found} == {int}
    assert min(point["n"] for point in found) == 1 and max(point["n"] for point in found) == 20
    assert sum(point["n"] <= 4 for point in found) > 40, "half of a logarithmic scale lies below its geometric mean"
    assert set(Counter(point["kind"] for point in found)) == {"a", "b", "c"}
    assert {point["flag"] for point in found} == {True, False}
    assert {point["m"] for point in found} == {0, 1, 2, 3}


def test_no_configuration_comes_twice_even_where_the_space_is_used_up():
    found = points({"n": Search(low=1, high=5, log=True), "kind": ("a", "b")}, 10, sobol_seed=0)
    assert len({tuple(point.items()) for point in found}) == 10


def test_every_optimizer_gets_as_many_trials_at_every_scale():
    study = study_of()
    trials = trials_of(study)
    counts = Counter((t.workload, t.label.rpartition(".")[0], str(t.scale)) for t in trials)
    assert set(counts.values()) == {4 * 2}
    assert len(counts) == 2 * 2 * 2
    assert len({trial.id for trial in trials}) == len(trials)


def test_trials_of_tuning_have_its_seeds_its_budget_and_stop_at_the_target():
    for trial in trials_of(study_of()):
        assert (trial.seed in (1000, 1001), trial.max_epochs, trial.stop_at_target) == (True, 2, True)
        assert trial.strategy == ("single" if trial.num_ranks == 1 else "ddp"), "the first strategy at its scale"
        assert trial.hyperparameters["momentum" if trial.optimizer == "sgd" else "beta2"] in (0.0, 0.999)


def test_optimizers_and_scales_take_turns():
    """So that drift of the machine favours none: each quarter of the trials has as many of everyone."""
    trials = [trial for trial in trials_of(study_of()) if trial.workload == "logreg-mnist" and trial.seed == 1000]
    turns = [(trial.label, str(trial.scale)) for trial in trials[:5]]
    assert turns == [
        ("adam.000", "1x1"), ("adam.000", "1x2"), ("sgd.000", "1x1"), ("sgd.000", "1x2"), ("adam.001", "1x1"),
    ]  # fmt: skip


def test_the_same_study_has_the_same_trials_and_a_larger_budget_keeps_them():
    ids = [trial.id for trial in trials_of(study_of())]
    assert ids == [trial.id for trial in trials_of(study_of())]
    more = study_of(tuning={"num_trials": 6, "seeds": [1000, 1001], "max_epochs": 2})
    assert set(ids) < {trial.id for trial in trials_of(more)}


def test_the_rule_of_weak_scaling_is_not_applied_to_a_searched_learning_rate():
    """To one that is given it is."""
    study = study_of(
        batch={"rule": "per_rank", "rank_batch_size": 16, "lr_rule": "linear"},
        optimizers={"adam": {}, "sgd": {"lr": 0.1}},
    )
    trials = trials_of(study)
    tried = {
        scale: {
            trial.hyperparameters["lr"] for trial in trials if trial.label.startswith("adam") and trial.scale == scale
        }
        for scale in study.scales
    }
    assert len(tried[study.scales[0]]) == 4
    assert tried[study.scales[0]] == tried[study.scales[1]]
    assert {(t.num_ranks, t.hyperparameters["lr"]) for t in trials if t.label.startswith("sgd")} == {(1, 0.1), (2, 0.2)}


def test_the_tuning_is_a_study_that_can_be_written_and_read():
    inner = tuning_study(study_of(name="n" * 64))
    assert validate(inner.model_dump(mode="json"), source="study.json") == inner
    assert len(inner.optimizers) == 8


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'paceline\[tune\]'"):
        points(SPACE, 2, sobol_seed=0)
