"""Comparing cells: medians that a miss cannot flatter, speed-ups with their baselines, and no claim on few seeds."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.synthetic import make_run, make_study, write_trial
from paceline.analysis.alike import refuse_unlike
from paceline.analysis.cells import median_or_none, reached_at
from paceline.analysis.compare import compare
from paceline.analysis.inference import seeds_needed
from paceline.analysis.load import load
from paceline.errors import UsageError
from paceline.records import read_json, write_json


def cells_of(folder):
    return {cell.name.partition("/")[2]: cell for cell in compare(load(folder)).cells}


def test_cells_come_in_the_order_of_the_study(tmp_path):
    names = list(cells_of(make_run(tmp_path)))
    assert names == [
        *("sgd+single@1x1", "sgd+ddp@1x2", "adam+single@1x1", "adam+ddp@1x2", "lbfgs+single@1x1", "lbfgs+ddp@1x2"),
    ]


def test_time_to_target_is_that_of_the_first_evaluation_at_or_beyond_it(tmp_path):
    run = load(make_run(tmp_path))
    cell = compare(run).cells[0]
    times = []
    for result in run.results:
        if result.trial.cell == cell.name:
            hit = next(one for one in result.evaluations if one.validation["accuracy"] >= 0.95)
            times.append(hit.train_time_s)
    assert cell.time_to_target_s == statistics.median(times)
    assert cell.num_reached == cell.num_trials == 3


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=1, max_size=9))
def test_a_median_exists_only_where_more_than_half_reached_the_target(values):
    median = median_or_none(values)
    reached = [value for value in values if value is not None]
    assert (median is not None) == (2 * len(reached) > len(values))
    if median is not None:
        assert median >= statistics.median(reached), "a miss never makes a cell look faster"


@pytest.mark.parametrize("how", ["failed", "diverged", "running", "waiting", "stopped"])
def test_a_seed_that_misses_counts_as_a_miss(tmp_path, how):
    """Two of three seeds do not complete: no median, whatever the third one did."""
    cells = cells_of(make_run(tmp_path, outcome=lambda trial: how if trial.seed > 0 else "completed"))
    cell = cells["adam+single@1x1"]
    assert (cell.num_trials, cell.num_reached, cell.time_to_target_s) == (3, 1, None)
    assert cell.statuses == {"completed": 1, how: 2}


def test_the_expected_running_time_charges_misses_to_the_seeds_that_arrived(tmp_path):
    cells = cells_of(make_run(tmp_path, outcome=lambda trial: "diverged" if trial.seed > 0 else "completed"))
    cell = cells["adam+single@1x1"]
    arrived, *missed = cell.trials
    spent = arrived.time_to_target_s + sum(row.train_time_s for row in missed)
    assert cell.arrivals["time"].expected == pytest.approx(spent)
    assert cell.success_rate == 1 / 3


def test_a_diverged_trial_has_not_reached_the_target_even_if_it_was_there(tmp_path):
    study = make_study(max_epochs=20)
    run = load(make_run(tmp_path, study, outcome=lambda trial: "diverged"))
    result = next(one for one in run.results if one.trial.label == "sgd")
    assert max(one.validation["accuracy"] for one in result.evaluations[:-1]) > 0.95
    assert reached_at(result) is None


def test_nan_is_not_at_the_target_and_in_no_mean(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "diverged" if trial.seed == 0 else "completed")
    cell = cells_of(folder)["sgd+single@1x1"]
    assert cell.final_validation["accuracy"].num_trials == 2
    assert math.isfinite(cell.final_validation_accuracy)


def test_a_metric_to_be_minimized_is_reached_from_above(tmp_path):
    study = make_study(workloads={"text": {"name": "lenet5-mnist", "target": 1.06}})
    cells = cells_of(make_run(tmp_path, study, metric="perplexity", mode="min"))
    cell = cells["sgd+single@1x1"]
    assert cell.num_reached == 3
    assert cell.final_validation_accuracy == cell.final_validation["perplexity"].mean < 1.06


def test_the_time_split_accounts_for_the_whole_training_time(tmp_path):
    for cell in cells_of(make_run(tmp_path)).values():
        assert sum(cell.time_split.values()) == pytest.approx(1.0)
        assert all(share >= 0 for share in cell.time_split.values())


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 6), (5, 8), (12, 9), (0, 6)])
def test_seeds_needed(comparisons, seeds):
    """The numbers of the methodology."""
    assert seeds_needed(comparisons) == seeds


def test_few_seeds_are_not_enough_and_unfinished_ones_do_not_count(tmp_path):
    seeds = compare(load(make_run(tmp_path / "a"))).seeds
    assert (seeds.num_seeds, seeds.num_comparisons, seeds.num_needed, seeds.enough) == (3, 5, 8, False)
    study = make_study(seeds=list(range(8)))
    assert compare(load(make_run(tmp_path / "b", study))).seeds.enough
    late = make_run(tmp_path / "c", study, outcome=lambda trial: "waiting" if trial.seed == 7 else "completed")
    assert not compare(load(late)).seeds.enough


def test_declared_comparisons_are_counted(tmp_path):
    study = make_study(comparisons=[["sgd@2", "sgd@1"]])
    assert compare(load(make_run(tmp_path, study))).seeds.num_needed == 6


def test_shared_cores_are_said(tmp_path):
    assert not compare(load(make_run(tmp_path / "two", num_cores=2))).notes
    (note,) = compare(load(make_run(tmp_path / "one", num_cores=1))).notes
    assert "2 ranks of 1 thread each ran on 1 core of node-a" in note


def test_hosts_that_are_one_machine_are_said(tmp_path):
    notes = compare(load(make_run(tmp_path, make_study(scales=[1, "2x1"])))).notes
    assert any("2 hosts of a scale are one machine, node-a" in note for note in notes)


def test_an_unfinished_study_says_so(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "waiting" if trial.seed else "completed")
    (note,) = compare(load(folder)).notes
    assert "6 of 18 trials are over" in note


def edit_one_trial(folder, **changes):
    path = next(folder.glob("*_adam_ddp_1x2_seed1_*/trial.json"))
    write_json(path, read_json(path) | changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_digest", "sha256:other"),
        ("batch_rule", "per_rank"),
        ("target_metric", "error"),
        ("max_epochs", 7),
        ("evaluate_every", 100),
        ("hyperparameters", {"lr": 0.5}),
        ("threads_per_rank", 2),
    ],
)
def test_unlike_trials_are_refused_and_the_difference_named(tmp_path, field, value):
    folder = make_run(tmp_path)
    edit_one_trial(folder, **{field: value})
    with pytest.raises(UsageError, match=f"cannot be compared, {field} differs"):
        compare(load(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_threads", 2),
        ("torch_version", "2.9.0"),
        ("dtype", "float64"),
        ("processor", "Other CPU"),
        ("device", "cuda"),
    ],
)
def test_unlike_machines_are_refused_and_the_difference_named(tmp_path, field, value):
    folder = make_run(tmp_path, rank_start=lambda trial: {field: value} if trial.num_ranks == 2 else {})
    with pytest.raises(UsageError, match=f"cannot be compared, {field} differs: .*{value}"):
        compare(load(folder))


def test_the_index_of_a_gpu_may_differ(tmp_path):
    study = make_study(seeds=[0, 1])
    folder = make_run(tmp_path, study, rank_start=lambda trial: {"device": f"cuda:{trial.seed}"})
    refuse_unlike(load(folder).results)


def test_a_seed_that_is_there_twice_is_refused(tmp_path):
    folder = make_run(tmp_path)
    run = load(folder)
    trial = run.results[0].trial
    run.results[0].folder.rename(folder / "a-copy")
    write_trial(folder, trial, status="waiting", start={})
    with pytest.raises(UsageError, match=f"holds seed {trial.seed} more than once"):
        compare(load(folder))


def test_the_comparison_is_the_same_without_study_json(tmp_path):
    folder = make_run(tmp_path)
    before = compare(load(folder))
    (folder / "study.json").unlink()
    after = compare(load(folder))
    assert {cell.name: cell.time_to_target_s for cell in before.cells} == {
        cell.name: cell.time_to_target_s for cell in after.cells
    }
    assert after.seeds == before.seeds
