"""Checks before training, by four real ranks: sound studies pass, each fault is found by the check made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.records import Finding
from ranks import RankPool
from train.checks import FOUND, by_name, trials_of
from train.trials import TOY

SPOILT = "workloads.spoilt:build"
EXAMPLES, PROBE, CHANCE, PARITY = (
    "labels and images",
    "shuffled-label probe",
    "better than chance is possible",
    "parity of one rank and N ranks",
)
OTHER_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def check(rank_pool: RankPool):
    """Check a study of one workload on four ranks; findings by name."""

    def run(workload: str, **changes) -> dict[str, Finding]:
        results = rank_pool.run(FOUND, num_ranks=4, deadline_s=100.0, **trials_of(workload, **changes))
        assert results[0]["begun"] == [EXAMPLES, PROBE, CHANCE, PARITY]
        return by_name(results[0])

    return run


def spoilt(fault: str, **options) -> dict:
    return {"options": {"fault": fault, **options}}


def statuses(findings: dict[str, Finding]) -> list[str]:
    assert list(findings) == [EXAMPLES, PROBE, CHANCE, PARITY]
    return [finding.status for finding in findings.values()]


OPTIMIZERS = {
    "sgd": {}, "adam": {}, "lbfgs": {"max_iter": 4, "history_size": 10, "line_search": "strong_wolfe"},
}  # fmt: skip


@pytest.mark.parametrize("workload", ["lenet5-mnist", "logreg-mnist"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_false_alarm_on_digits(check, workload, seed):
    findings = check(
        workload, entry={"dataset": "mnist-small", "augmentation": "crop"}, optimizers=OPTIMIZERS, seeds=[seed]
    )
    assert statuses(findings) == ["pass"] * 4, findings
    assert "constant guess scores 0.1" in findings[CHANCE].evidence


def test_no_false_alarm_on_fashion(check):
    if not (OTHER_DATA / "fashion-mnist-small").is_dir():
        pytest.skip(f"there is no Fashion-MNIST in {OTHER_DATA}")
    findings = check("lenet5-fashion-mnist", data_dir=str(OTHER_DATA), optimizers={"adam": {}})
    assert statuses(findings) == ["pass"] * 4, findings


@pytest.mark.parametrize("scales", [[1, 3], [2, 4]])
def test_no_false_alarm_on_points_whatever_the_scales(check, scales):
    """Also with gradients clipped and micro-batches, and L-BFGS as torch sets it."""
    optimizers = OPTIMIZERS | {"lbfgs": {"name": "lbfgs-torch"}}
    options = {"clip_grad_norm": 0.1, "accumulation_steps": 2}
    findings = check(TOY, scales=scales, optimizers=optimizers, options=options)
    assert statuses(findings) == ["pass"] * 4, findings


def test_no_false_alarm_on_text(check):
    findings = check("workloads.text:build", target=0.45, optimizers={"adam": {}, "sgd": {}})
    assert statuses(findings) == ["pass"] * 4, findings


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("same batches", "asked for examples in reverse order, it gives another one as example 0"),
        ("sorted", "asked for examples in reverse order, it gives another one as example 0"),
        ("fewer labels", "rank 0: train: asked for 128 examples, it gives 128 inputs and 127 targets"),
        ("own of each rank", "rank 1 is given other examples than rank 0 for the same numbers"),
    ],
)
def test_examples_other_than_those_asked_for_are_found(check, fault, words):
    findings = check(SPOILT, entry=spoilt(fault))
    assert statuses(findings) == ["fail", "not applicable", "not applicable", "not applicable"]
    assert words in findings[EXAMPLES].evidence


def test_a_workload_that_cannot_be_opened_is_found(check, tmp_path):
    missing = tmp_path / "missing"
    findings = check(TOY, entry={"options": {"break_build_unless": str(missing)}})
    assert findings[EXAMPLES].status == "fail"
    assert f"OSError: the data behind {missing} is gone" in findings[EXAMPLES].evidence


def test_images_paired_with_the_labels_of_others_are_found(check):
    findings = check(SPOILT, entry=spoilt("labels dropped"))
    assert statuses(findings) == ["pass", "fail", "pass", "pass"]
    assert "after 1600 updates the validation loss is " in findings[PROBE].evidence


def test_labels_that_are_all_the_same_are_found(check):
    findings = check(SPOILT, entry=spoilt("constant"))
    assert findings[PROBE].status == "fail"
    assert findings[CHANCE].status == "fail"
    assert findings[CHANCE].evidence == "w: the target is accuracy 0.5, a constant guess scores 1"


def test_a_target_that_a_constant_guess_reaches_is_found(check):
    findings = check(TOY, target=0.3)
    assert statuses(findings) == ["pass", "pass", "fail", "pass"]


def test_too_few_validation_examples_to_probe(check):
    findings = check(TOY, entry={"options": {"num_validation": 63}})
    assert findings[PROBE].status == "not applicable"
    assert "63 validation examples are too few to tell, it takes 64" in findings[PROBE].evidence


def test_a_loss_that_is_a_mean_instead_of_a_sum_breaks_parity(check):
    """It makes the step depend on the number of ranks."""
    findings = check(SPOILT, entry=spoilt("mean loss"))
    assert findings[PARITY].status == "fail"
    assert "w/sgd+ddp@1x2: " in findings[PARITY].evidence


def test_an_optimizer_that_depends_on_its_rank_breaks_parity(check):
    optimizers = {"sgd": {}, "unequal": {"name": "optimizers.unequal:build", "lr": 0.1}}
    findings = check(TOY, optimizers=optimizers, scales=[1, 2, 3])
    assert findings[PARITY].status == "fail"
    assert "w/unequal+ddp@1x2: " in findings[PARITY].evidence
    assert "w/unequal+ddp@1x3: " in findings[PARITY].evidence
    assert "w/sgd" not in findings[PARITY].evidence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entry": spoilt("dropout")}, "with other random numbers and rounding, one rank alone ends"),
        ({"entry": spoilt("batch norm")}, "its model normalizes by the statistics of a batch"),
        ({"optimizers": {"o": {"name": "optimizers.unequal:build_chaotic", "lr": 0.1}}}, "one rank alone ends"),
        ({"optimizers": {"o": {"name": "optimizers.unequal:build_only_float32", "lr": 0.1}}}, "TypeError: float32"),
        ({"optimizers": {"sgd": {"lr": 1e307}}}, "w/sgd+ddp@1x2: one rank alone diverges"),
        ({"scales": [1]}, "no cell of more than one rank whose strategy is exact"),
    ],
)
def test_where_parity_is_not_applicable(check, changes, words):
    findings = check(SPOILT, **changes)
    assert findings[PARITY].status == "not applicable", findings[PARITY]
    assert words in findings[PARITY].evidence


def test_the_probe_is_the_same_each_time(check):
    first, second = (check(TOY)[PROBE].evidence for _ in range(2))
    assert first == second
