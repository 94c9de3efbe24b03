"""Speed-ups: both baselines, fewer updates times less time for each, and no ratio where nobody arrived."""

import math
import statistics

import pytest

from analysis.synthetic import make_run, make_study
from paceline.analysis.compare import compare
from paceline.analysis.load import load


def compared(folder):
    comparison = compare(load(folder))
    return comparison, {cell.name.partition("/")[2]: cell for cell in comparison.cells}


def test_speedups_state_both_baselines(tmp_path):
    comparison, cells = compared(make_run(tmp_path, make_study(strategies=["single", "ddp"])))
    bare, wrapped, two = (cells[name] for name in ("sgd+single@1x1", "sgd+ddp@1x1", "sgd+ddp@1x2"))
    assert comparison.speedups_of(bare) == []
    assert [speedup.baseline_strategy for speedup in comparison.speedups_of(wrapped)] == ["single"]
    assert [speedup.baseline_strategy for speedup in comparison.speedups_of(two)] == ["single", "ddp"]


def test_a_strategy_is_not_set_against_others_on_one_rank(tmp_path):
    """But against none and itself; where the study has neither, against the first."""
    only_sgd = {"optimizers": {"sgd": {}}, "seeds": [0]}
    comparison, cells = compared(make_run(tmp_path, make_study(**only_sgd, strategies=["single", "ddp", "fp16"])))
    found = comparison.speedups_of(cells["sgd+fp16@1x2"])
    assert [speedup.baseline_strategy for speedup in found] == ["single", "fp16"]
    others = make_study(**only_sgd, strategies={"ddp": {}, "fp16": {}}, scales=[2, 4])
    comparison, cells = compared(make_run(tmp_path / "others", others))
    assert [one.baseline_strategy for one in comparison.speedups_of(cells["sgd+fp16@1x4"])] == ["fp16"]


def test_a_speedup_is_the_geometric_mean_over_paired_seeds(tmp_path):
    comparison, cells = compared(make_run(tmp_path))
    one, two = cells["adam+single@1x1"], cells["adam+ddp@1x2"]
    (speedup,) = comparison.speedups_of(two)
    ratios = [then.time_to_target_s / now.time_to_target_s for now, then in zip(two.trials, one.trials, strict=True)]
    assert speedup.total.value == pytest.approx(statistics.geometric_mean(ratios))
    assert speedup.scaling_efficiency == pytest.approx(speedup.total.value / 2)
    assert speedup.num_pairs == 3


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_statistical_times_hardware_is_the_whole(tmp_path, missing):
    """Also where some seeds missed the target."""
    lost = {(2, seed) for seed in range(missing)}
    folder = make_run(
        tmp_path, outcome=lambda trial: "diverged" if (trial.num_ranks, trial.seed) in lost else "completed"
    )
    comparison, cells = compared(folder)
    for name in ("sgd+ddp@1x2", "adam+ddp@1x2", "lbfgs+ddp@1x2"):
        (speedup,) = comparison.speedups_of(cells[name])
        assert speedup.total.value == pytest.approx(speedup.statistical.value * speedup.hardware.value)
        assert speedup.total.num_censored == missing


def test_statistical_efficiency_is_the_ratio_of_updates_where_all_arrived(tmp_path):
    comparison, cells = compared(make_run(tmp_path))
    one, two = cells["sgd+single@1x1"], cells["sgd+ddp@1x2"]
    (speedup,) = comparison.speedups_of(two)
    logs = [math.log(then.updates_to_target / now.updates_to_target) for now, then in zip(two.trials, one.trials)]  # noqa: B905
    assert speedup.statistical.value == pytest.approx(math.exp(statistics.fmean(logs)))


def test_a_miss_enters_with_the_horizon(tmp_path):
    """So that it makes the speed-up smaller, and never larger."""
    full, cells = compared(make_run(tmp_path / "full"))
    folder = make_run(
        tmp_path / "lossy", outcome=lambda trial: "diverged" if trial.num_ranks == 2 and not trial.seed else "completed"
    )
    lossy, less = compared(folder)
    (before,), (after,) = full.speedups_of(cells["adam+ddp@1x2"]), lossy.speedups_of(less["adam+ddp@1x2"])
    assert after.total.value < before.total.value


def test_no_speedup_is_made_up_where_nobody_arrived(tmp_path):
    comparison, cells = compared(make_run(tmp_path, outcome=lambda trial: "failed"))
    (speedup,) = comparison.speedups_of(cells["adam+ddp@1x2"])
    assert (speedup.total, speedup.statistical, speedup.hardware, speedup.scaling_efficiency) == (None,) * 4
    assert speedup.num_faster == 0


def test_ranks_count_once_whatever_the_hosts(tmp_path):
    """Weak and strong scaling are told apart by the batch rule, and trials of both are refused elsewhere."""
    comparison, cells = compared(make_run(tmp_path, make_study(scales=[1, "2x2"])))
    (speedup,) = comparison.speedups_of(cells["sgd+ddp@2x2"])
    assert speedup.scaling_efficiency == pytest.approx(speedup.total.value / 4)
    assert cells["sgd+ddp@2x2"].node_hours_to_target == pytest.approx(2 * cells["sgd+ddp@2x2"].time_to_target_s / 3600)
