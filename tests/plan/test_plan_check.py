"""What the settings of a study tell before anything is started."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.cards import Target
from paceline.job import stopping
from paceline.plan.check import budgets, checks_wanted, enough_seeds, threads
from paceline.study import Study, validate
from paceline.trial import Trial, WorkloadFacts, expand
from train.trials import toy_settings

FACTS = {"toy": WorkloadFacts(dataset="toy", data_digest="0" * 16, target=Target(value=0.5))}


def planned(**changes: Any) -> tuple[Study, list[Trial]]:
    study = validate(toy_settings(optimizers={"sgd": {}, "adam": {}}, scales=[1, 2]) | changes, source="test")
    return study, expand(study, FACTS, threads_per_rank=1)


def digest(study: Study, trials: list[Trial]) -> str:
    return checks_wanted(study, trials, 2).of


@pytest.mark.parametrize("aa_pair", [True, False])
def test_every_cell_of_a_study_has_the_same_budget(aa_pair):
    """The repeats of an A/A pair are no budget of its cell."""
    finding = budgets(*planned(aa_pair=aa_pair, seeds=[0, 1], max_train_time_s=5, evaluate_every=100))
    assert (finding.check, finding.status) == ("budgets", "pass")
    assert finding.evidence == (
        "every cell has 2 seeds, up to 2 epochs or 5 s of training each, evaluated after every 100 samples and epoch"
    )


@pytest.mark.parametrize("change", [{"max_epochs": 3}, {"max_train_time_s": 1.0}, {"evaluate_every": 7}])
def test_a_cell_with_a_budget_of_its_own_is_named(change):
    study, trials = planned()
    odd = [trial.model_copy(update=change) if trial.label == "adam" else trial for trial in trials]
    finding = budgets(study, odd)
    assert finding.status == "fail"
    assert "toy/sgd+single@1x1 has 1 trials, up to 2 epochs each" in finding.evidence
    assert "but toy/adam+single@1x1 has 1 trials, up to " in finding.evidence


def test_a_cell_with_more_trials_is_named():
    study, trials = planned(seeds=[0, 1])
    finding = budgets(study, trials[:-1])
    assert finding.status == "fail"
    assert "toy/adam+ddp@1x2 has 1 trials" in finding.evidence


def test_threads_are_the_same_at_every_scale_and_ranks_that_share_cores_are_reported():
    _, trials = planned()
    assert threads(trials, 2).evidence == "1 a rank at every scale; at most 2 x 1 on 2 cores"
    shared = threads(trials, 1)
    assert shared.status == "pass"
    assert shared.evidence.endswith("on 1 cores: ranks share cores, and their times measure contention")
    odd = [trial.model_copy(update={"threads_per_rank": 2}) if trial.num_ranks == 1 else trial for trial in trials]
    assert threads(odd, 2).status == "fail"
    assert "threads per rank differ: 1 at 1x2, 2 at 1x1" in threads(odd, 2).evidence


@pytest.mark.parametrize(
    ("scales", "num_seeds", "status"),
    [([1], 5, "fail"), ([1], 6, "pass"), ([1, 2], 6, "fail"), ([1, 2], 7, "pass")],
)
def test_seeds_for_the_declared_comparisons(scales, num_seeds, status):
    """One comparison needs 6 seeds, three need 7: 2^(1-n) <= 0.05 / 3."""
    finding = enough_seeds(*planned(seeds=list(range(num_seeds)), scales=scales))
    assert finding.status == status
    assert finding.evidence.startswith(f"{num_seeds} seeds; ")


def test_one_cell_needs_no_seeds():
    study, trials = planned(optimizers={"sgd": {}}, scales=[1])
    assert enough_seeds(study, trials).status == "not applicable"


def test_too_few_seeds_do_not_stop_a_run():
    wanted = checks_wanted(*planned(), 2)
    assert {finding.check: finding.status for finding in wanted.findings} == {
        "budgets": "pass", "threads": "pass", "enough seeds": "fail",
    }  # fmt: skip
    assert stopping(wanted.findings) == []


def test_one_trial_a_cell_is_checked():
    study, trials = planned(seeds=[3, 4], aa_pair=True)
    assert checks_wanted(study, trials, 2).trials == [trial.id for trial in trials[:4]]


@pytest.mark.parametrize(
    "change",
    [
        {"scales": [1]},
        {"seeds": [0, 1]},
        {"optimizers": {"sgd": {"lr": 0.1}, "adam": {}}},
        {"batch": {"rule": "global", "global_batch_size": 51}},
        {"options": {"clip_grad_norm": 1.0}},
        {"strategies": ["ddp"]},
        {"workloads": {"toy": {"name": "workloads.toy:build", "options": {"hidden": 4}}}},
    ],
)
def test_another_study_is_checked_anew(change):
    assert digest(*planned()) != digest(*planned(**change))


def test_the_name_of_a_study_and_the_number_of_a_seed_do_not_matter():
    assert digest(*planned()) == digest(*planned(name="other", seeds=[5]))


def test_changed_data_are_checked_anew():
    study, trials = planned()
    changed = [trial.model_copy(update={"data_digest": "1" * 16}) for trial in trials]
    assert digest(study, trials) != digest(study, changed)
