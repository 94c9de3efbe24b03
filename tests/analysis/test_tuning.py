"""The choice among configurations, from tuning folders made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paceline.analysis.load import load
from paceline.analysis.tuning import Search, Tuning, tuning_of
from paceline.cards import Target
from paceline.plan.folder import hold, lay_out
from paceline.plan.tune import chosen_in_words, tuning_study, tuning_trials
from paceline.records import Evaluation, Exit, RecordFile, rank_file, write_json
from paceline.study import validate
from paceline.trial import Trial, WorkloadFacts

Outcome = tuple[str, list[tuple[float, float]]]  # status; training time and validation accuracy at each evaluation
TOTALS = ("data_s", "compute_s", "communication_s", "optimizer_s", "evaluation_time_s", "checkpoint_time_s")
COUNTS = ("num_samples", "num_gradient_evaluations", "bytes_sent", "num_collectives")


def make_tuning(root: Path, outcome: Callable[[Trial, int], Outcome | None], **changes: Any) -> Path:
    """Write RUNS/NAME/tuning; ``outcome`` takes a trial and the number of its configuration, None: not run yet."""
    settings = {
        "name": "small",
        "seeds": [0],
        "max_epochs": 3,
        "batch": {"rule": "global", "global_batch_size": 64},
        "workloads": {"digits": {"name": "lenet5-mnist"}},
        "optimizers": {"adam": {}, "sgd": {}},
        "tuning": {"num_trials": 4},
    }
    study = validate(settings | changes, source="")
    facts = WorkloadFacts(dataset="mnist-small", data_digest="d", target=Target(value=0.9))
    trials = tuning_trials(study, dict.fromkeys(study.workloads, facts), threads_per_rank=1)
    with hold(root):
        lay_out(root, tuning_study(study), trials)
    for trial in trials:
        ended = outcome(trial, int(trial.label.rpartition(".")[2]))
        if ended is not None:
            write(root / trial.id, *ended)
    return root


def write(folder: Path, status: str, curve: list[tuple[float, float]]) -> None:
    file = RecordFile(rank_file(folder, 0))
    for number, (time_s, value) in enumerate(curve, start=1):
        zeros = dict.fromkeys(TOTALS, 0.0) | dict.fromkeys(COUNTS, 0)
        file.append(
            Evaluation(
                epoch=number, epoch_end=True, num_updates=number, train_time_s=time_s, update_time_s={}, train={},
                validation={"accuracy": value, "loss": 1.0}, **zeros,
            )
        )  # fmt: skip
    file.close()
    if status != "running":
        write_json(folder / "exit.json", Exit(status=status).model_dump())  # type: ignore[arg-type]


def arriving_at(time_s: float) -> Outcome:
    return "completed", [(time_s / 2, 0.5), (time_s, 0.95)]


def missing_at(time_s: float, best: float = 0.5) -> Outcome:
    return "completed", [(time_s / 2, best), (time_s, 0.4)]


def searches(folder: Path) -> dict[str, Search]:
    return {search.label: search for search in tuning_of(load(folder)).searches}


def test_the_soonest_configuration_is_chosen_for_each_optimizer_and_scale(tmp_path):
    def outcome(trial: Trial, number: int) -> Outcome:
        fast = {("adam", 1): 2, ("adam", 2): 0, ("sgd", 1): 3, ("sgd", 2): 1}[trial.label[:-4], trial.num_ranks]
        return arriving_at(1.0 if number == fast else 5.0 + number)

    tuning = tuning_of(load(make_tuning(tmp_path, outcome, scales=[1, 2])))
    chosen = {(one.label, one.num_ranks): one.chosen.label for one in tuning.searches if one.chosen}
    assert chosen == {
        ("adam", 1): "adam.002", ("adam", 2): "adam.000", ("sgd", 1): "sgd.003", ("sgd", 2): "sgd.001",
    }  # fmt: skip
    assert tuning.is_complete and tuning.has_equal_budgets
    values = tuning.chosen["digits", "adam", "1x2"]
    assert values["lr"] == tuning.searches[1].configurations[0].hyperparameters["lr"]
    assert len(chosen_in_words(tuning)) == 4


def test_score_against_budget_is_the_best_so_far(tmp_path):
    times = [4.0, 6.0, 2.0, 3.0]
    search = searches(make_tuning(tmp_path, lambda trial, number: arriving_at(times[number])))["adam"]
    assert search.best_score_s == (4.0, 4.0, 2.0, 2.0)
    assert search.train_time_s == 15.0
    assert search.node_hours == pytest.approx(15 / 3600)
    assert search.searched == ("lr", "beta1")


def test_a_seed_that_misses_counts_as_the_horizon_of_its_workload(tmp_path):
    """The most that any tuning trial of the workload trained, of either optimizer: here 20 s."""

    def outcome(trial: Trial, number: int) -> Outcome:
        if trial.label.startswith("sgd"):
            return missing_at(20.0)
        return arriving_at(4.0) if trial.seed == 1000 or number == 1 else missing_at(5.0)

    search = searches(make_tuning(tmp_path, outcome, tuning={"num_trials": 2, "seeds": [1000, 1001]}))["adam"]
    assert search.horizon_s == 20.0
    assert [one.score_s for one in search.configurations] == [(4 + 20) / 2, 4.0]
    assert [one.num_reached for one in search.configurations] == [1, 2]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_to_end_early_is_no_advantage(tmp_path, status):
    def outcome(trial: Trial, number: int) -> Outcome:
        return (status, [(0.1, 0.5)]) if number == 0 else arriving_at(8.0)

    folder = make_tuning(tmp_path, outcome)
    search = searches(folder)["adam"]
    assert search.chosen is not None and search.chosen.label == "adam.001"
    assert search.configurations[0].score_s == 8.0
    assert search.configurations[0].num_failed == (status == "failed")
    assert any("2 tuning trials failed" in line for line in chosen_in_words(tuning_of(load(folder)))) == (
        status == "failed"
    )


def test_where_nobody_arrives_the_better_validation_score_decides(tmp_path):
    best = [0.6, 0.8, 0.7, 0.8]
    search = searches(make_tuning(tmp_path, lambda trial, number: missing_at(3.0, best[number])))["sgd"]
    assert search.chosen is not None
    assert (search.chosen.label, search.chosen.best_value) == ("sgd.001", 0.8), "of two alike, the first drawn"


def test_a_metric_that_is_to_fall_is_judged_so(tmp_path):
    """A trial's own target says which way; here an error rate."""
    folder = make_tuning(tmp_path, lambda trial, number: missing_at(3.0, [0.95, 0.92, 0.91, 0.99][number]))
    for path in folder.glob("*/trial.json"):
        path.write_text(
            path.read_text().replace('"target_mode": "max"', '"target_mode": "min"').replace("0.9,", "0.1,")
        )
    search = searches(folder)["adam"]
    assert search.chosen is not None and search.chosen.label == "adam.000", (
        "each ends at 0.4, its best: the first drawn"
    )
    assert search.chosen.best_value == 0.4


def test_nan_is_no_score(tmp_path):
    def outcome(trial: Trial, number: int) -> Outcome:
        return ("diverged", [(1.0, math.nan)]) if number < 3 else missing_at(1.0, 0.2)

    search = searches(make_tuning(tmp_path, outcome))["adam"]
    assert search.chosen is not None and search.chosen.label == "adam.003"
    assert search.configurations[0].best_value is None


def test_nothing_is_chosen_from_a_tuning_that_is_not_complete(tmp_path):
    def outcome(trial: Trial, number: int) -> Outcome | None:
        if trial.label == "adam.002":
            return "running", [(0.5, 0.99)]
        return None if trial.label == "adam.003" else arriving_at(2.0)

    tuning = tuning_of(load(make_tuning(tmp_path, outcome)))
    by_label = {search.label: search for search in tuning.searches}
    assert not tuning.is_complete and not tuning.has_equal_budgets
    assert by_label["adam"].chosen is None and by_label["adam"].num_over == 2
    assert by_label["adam"].best_score_s == (2.0, 2.0)
    assert set(tuning.chosen) == {("digits", "sgd", "1x1")}


def test_an_optimizer_of_which_every_trial_failed_is_known(tmp_path):
    def outcome(trial: Trial, number: int) -> Outcome:
        return ("failed", []) if trial.label.startswith("adam") else arriving_at(1.0)

    by_label = searches(make_tuning(tmp_path, outcome))
    assert by_label["adam"].all_failed
    assert not by_label["sgd"].all_failed


def test_a_tuning_in_which_nothing_ever_trained_is_still_read(tmp_path):
    tuning: Tuning = tuning_of(load(make_tuning(tmp_path, lambda trial, number: ("failed", []))))
    assert all(search.all_failed and search.horizon_s == 0 for search in tuning.searches)


def test_the_test_set_is_never_looked_at(tmp_path):
    """An optimizer's test score stands in the end record alone, and the choice is the same without it."""
    folder = make_tuning(tmp_path, lambda trial, number: missing_at(3.0, [0.6, 0.8, 0.7, 0.5][number]))
    assert all('"test"' not in path.read_text() for path in folder.glob("*/rank-*.jsonl"))
    assert searches(folder)["adam"].chosen is not None
