"""Trials: their order, their ids, and the cells that comparisons name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.cards import Target
from paceline.errors import UsageError
from paceline.study import validate
from paceline.trial import Trial, WorkloadFacts, as_json, comparisons, expand

FACTS = WorkloadFacts(dataset="mnist-small", data_digest="d1", target=Target(value=0.9))


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "seeds": [3, 1],
        "aa_pair": False,
        "max_epochs": 3,
        "scales": [1, 2],
        "batch": {"rule": "global", "global_batch_size": 64},
        "workloads": {"lenet5-mnist": {}},
        "optimizers": {"adam": {}, "sgd": {"lr": 0.1}},
    } | changes


def trials_of(facts: WorkloadFacts = FACTS, **changes: Any) -> list[Trial]:
    study = validate(settings(**changes), source="")
    return expand(study, dict.fromkeys(study.workloads, facts), threads_per_rank=1)


def test_trials_are_interleaved_by_seed_over_all_cells():
    assert [(trial.seed, trial.label, str(trial.scale), trial.strategy) for trial in trials_of()] == [
        (3, "adam", "1x1", "single"), (3, "adam", "1x2", "ddp"), (3, "sgd", "1x1", "single"), (3, "sgd", "1x2", "ddp"),
        (1, "adam", "1x1", "single"), (1, "adam", "1x2", "ddp"), (1, "sgd", "1x1", "single"), (1, "sgd", "1x2", "ddp"),
    ]  # fmt: skip


def test_both_baselines_can_stand_in_one_study():
    """One process without a wrapper, and one rank with it; ``single`` is left out where it does not apply."""
    cells = [trial.cell for trial in trials_of(strategies=["single", "ddp"], optimizers={"adam": {}}, seeds=[0])]
    assert cells == [
        "lenet5-mnist/adam+single@1x1", "lenet5-mnist/adam+ddp@1x1", "lenet5-mnist/adam+ddp@1x2",
    ]  # fmt: skip


def test_a_workload_may_have_a_batch_size_of_its_own():
    """In place of the size in [batch], by the same rule."""
    workloads = {"lenet5-mnist": {}, "full": {"name": "logreg-mnist", "batch_size": 5000}}
    sizes = {trial.workload: trial.global_batch_size for trial in trials_of(workloads=workloads)}
    assert sizes == {"lenet5-mnist": 64, "full": 5000}
    per_rank = {"rule": "per_rank", "rank_batch_size": 16, "lr_rule": "none"}
    trials = trials_of(workloads={"lenet5-mnist": {"batch_size": 8}}, batch=per_rank, scales=[1, 4], seeds=[0])
    assert {trial.num_ranks: trial.global_batch_size for trial in trials} == {1: 8, 4: 32}


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_weak_scaling_grows_batch_and_learning_rate_by_its_rule(rule, factor):
    one, four = trials_of(
        scales=[1, 4], seeds=[0], optimizers={"sgd": {"lr": 0.1}},
        batch={"rule": "per_rank", "rank_batch_size": 16, "lr_rule": rule},
    )  # fmt: skip
    assert (one.global_batch_size, four.global_batch_size) == (16, 64)
    assert (one.lr_rule, four.lr_rule) == (rule, rule)
    assert one.hyperparameters["lr"] == 0.1
    assert math.isclose(four.hyperparameters["lr"], 0.1 * factor)


def test_tuned_values_stand_at_their_scale_as_they_are():
    """The rule of weak scaling is not applied on top of them; elsewhere it is."""
    study = validate(
        settings(scales=[1, 4], seeds=[0], optimizers={"sgd": {"lr": 0.1}},
                 batch={"rule": "per_rank", "rank_batch_size": 16, "lr_rule": "linear"}),
        source="",
    )  # fmt: skip
    tuned = {("lenet5-mnist", "sgd", "1x4"): {"lr": 0.3, "momentum": 0.5}}
    one, four = expand(study, {"lenet5-mnist": FACTS}, threads_per_rank=1, tuned=tuned)
    assert one.hyperparameters["lr"] == 0.1
    assert four.hyperparameters == {"lr": 0.3, "momentum": 0.5}


REFERENCE = trials_of(seeds=[0])[1]
CHANGED: dict[str, Any] = {
    "label": "other", "workload": "other", "workload_name": "logreg-mnist", "dataset": "mnist", "data_digest": "d2",
    "augmentation": "crop", "workload_options": {"a": 1}, "optimizer": "adamw", "hyperparameters": {"lr": 0.5},
    "strategy": "single", "num_hosts": 2, "ranks_per_host": 3, "seed": 9, "batch_rule": "per_rank",
    "lr_rule": "sqrt", "global_batch_size": 65, "options": {"accumulation_steps": 2}, "max_epochs": 4,
    "max_train_time_s": 1.0, "evaluate_every": 10, "stop_at_target": True, "threads_per_rank": 2, "device": "cpu",
    "repeat": 1, "num_microbatches": 4, "strategy_name": "local-sgd", "strategy_settings": {"period": 4},
    "schedule": {"name": "cosine"},
}  # fmt: skip
NOT_SCIENTIFIC = {"study": "other", "target_metric": "loss", "target_value": 0.1, "target_mode": "min"}


def digest_of(trial: Trial) -> str:
    return trial.id.rpartition("_")[2]


@given(changes=st.sets(st.sampled_from(sorted(CHANGED)), max_size=4))
def test_the_id_changes_with_every_scientific_field(changes):
    """And with every combination of them."""
    changed = Trial.model_validate(REFERENCE.model_dump() | {name: CHANGED[name] for name in changes})
    assert (digest_of(changed) == digest_of(REFERENCE)) == (not changes)


def test_every_field_is_either_scientific_or_said_not_to_be():
    assert set(CHANGED) | set(NOT_SCIENTIFIC) == set(Trial.model_fields)


@given(changes=st.sets(st.sampled_from(sorted(NOT_SCIENTIFIC)), min_size=1), stop=st.booleans())
def test_the_target_counts_only_where_training_stops_there(changes, stop):
    reference = REFERENCE.model_dump() | {"stop_at_target": stop}
    changed = Trial.model_validate(reference | {name: NOT_SCIENTIFIC[name] for name in changes})
    alike = not stop or changes == {"study"}
    assert (changed.id == Trial.model_validate(reference).id) == alike


@given(order=st.permutations(list(REFERENCE.model_dump())), inner=st.permutations(list(REFERENCE.hyperparameters)))
def test_the_id_does_not_change_with_the_order_of_keys(order, inner):
    fields = REFERENCE.model_dump()
    fields["hyperparameters"] = {key: fields["hyperparameters"][key] for key in inner}
    assert Trial.model_validate({key: fields[key] for key in order}).id == REFERENCE.id


def test_the_id_is_the_same_in_another_process_and_on_another_day():
    """A known answer: a change here means that finished trials of older runs are not recognized."""
    assert REFERENCE.id == KNOWN_ID


KNOWN_ID = "lenet5-mnist_adam_ddp_1x2_seed0_1687360b8a"


def test_defaults_written_out_and_whole_numbers_change_no_id():
    one = trials_of(optimizers={"sgd": {}, "adam": {}})
    other = trials_of(optimizers={"sgd": {"lr": 0.05, "momentum": 0.9}, "adam": {"weight_decay": 0}})
    assert [trial.id for trial in one] == [trial.id for trial in other]


def test_ids_are_names_of_folders_and_differ():
    trials = trials_of(workloads={"lenet5-mnist": {}, "logreg-mnist": {}}, strategies=["auto", "ddp"])
    assert len({trial.id for trial in trials}) == len(trials)
    for trial in trials:
        assert trial.id == trial.id.strip(".") and "/" not in trial.id and len(trial.id) < 255


def test_trial_json_reads_back_as_the_same_trial():
    for trial in trials_of():
        fields = json.loads(json.dumps(as_json(trial)))
        assert (fields.pop("id"), fields.pop("cell")) == (trial.id, trial.cell)
        assert Trial.model_validate(fields) == trial


def pairs(**changes: Any) -> list[tuple[str, str]]:
    study = validate(settings(**changes), source="")
    return comparisons(study, expand(study, dict.fromkeys(study.workloads, FACTS), threads_per_rank=1))


def test_by_default_every_cell_is_compared_with_the_first():
    first, *others = (f"lenet5-mnist/{rest}" for rest in ("adam+single@1x1", "adam+ddp@1x2", "sgd+single@1x1",
                                                         "sgd+ddp@1x2"))  # fmt: skip
    assert pairs() == [(cell, first) for cell in others]


def test_comparisons_are_within_each_workload():
    found = pairs(workloads={"lenet5-mnist": {}, "logreg-mnist": {}}, comparisons=[["adam@2", "sgd+single@1x1"]])
    assert found == [(f"{name}/adam+ddp@1x2", f"{name}/sgd+single@1x1") for name in ("lenet5-mnist", "logreg-mnist")]


@pytest.mark.parametrize(("scales", "where"), [(["4x1"], "4x1"), ([4, "4x1"], "1x4"), (["2x2", "1x2"], "2x2")], ids=str)
def test_so_many_ranks_are_those_on_one_host_where_there_are_such(scales, where):
    found = pairs(scales=scales, comparisons=[["adam@4", "sgd@4"]])
    assert found == [(f"lenet5-mnist/adam+ddp@{where}", f"lenet5-mnist/sgd+ddp@{where}")]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scales": ["4x1", "2x2"], "baseline": "adam@4"}, "or hosts as in @4x1"),
        ({"baseline": "adam@3"}, "names no cell of this study; "),
        ({"baseline": "adma+single@1"}, r"did you mean 'adam\+single@1x1'"),
        ({"comparisons": [["adam@1", "sgd"]]}, "'sgd': it names no cell"),
        ({"strategies": ["single", "ddp"], "baseline": "adam@1"}, r"names several cells, add \+STRATEGY"),
    ],
)
def test_a_comparison_that_names_no_one_cell_is_refused(changes, why):
    with pytest.raises(UsageError, match=why):
        pairs(**changes)


def test_the_baseline_is_run_twice_at_the_end_of_each_seed():
    """An A/A pair: the same computation, another trial."""
    trials = trials_of(aa_pair=True, baseline="sgd@2")
    assert [(trial.seed, trial.cell, trial.repeat) for trial in trials if trial.repeat] == [
        (3, "lenet5-mnist/sgd+ddp@1x2", 1), (1, "lenet5-mnist/sgd+ddp@1x2", 1),
    ]  # fmt: skip
    assert [trial.repeat for trial in trials] == [0, 0, 0, 0, 1] * 2
    assert len({trial.id for trial in trials}) == len(trials)
    again = trials[4]
    assert again.model_copy(update={"repeat": 0}).id == trials[3].id


def test_a_single_cell_is_run_once():
    """There is nothing to compare, and so no noise to know."""
    assert len(trials_of(aa_pair=True, optimizers={"adam": {}}, scales=[1], seeds=[0])) == 1
