"""The loop: budgets, evaluation, divergence, what is counted, and the options that change how a trial computes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paceline.data.order import epoch_permutation
from paceline.records import Epoch, Evaluation, Start, rank_file, read_records
from paceline.trial import Trial
from train.trials import RUN, folder_of, relative_distance, toy_trial

FLOAT32 = 4


@pytest.fixture
def train(rank_pool, tmp_path):
    """Run a trial on its ranks; returns its folder and each rank's result."""

    def run(trial: Trial, **arguments: Any) -> tuple[Path, list[dict[str, Any]]]:
        folder = folder_of(trial, tmp_path)
        results = rank_pool.run(
            RUN, num_ranks=trial.num_ranks, trial=trial.model_dump(), folder=str(folder), **arguments
        )
        return folder, results

    return run


def evaluations(folder: Path) -> list[Evaluation]:
    return [record for record in read_records(rank_file(folder, 0)) if isinstance(record, Evaluation)]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_split_is_used_whole_and_test_once(train, num_ranks):
    """Examples served over all ranks: each split exactly as often as it was asked for; no padding, nothing dropped."""
    folder, results = train(toy_trial(num_ranks=num_ranks, max_epochs=2, evaluate_every=100))
    num_evaluations = len(evaluations(folder))
    assert num_evaluations == 2 * 6  # 501 samples an epoch, one look each 100 and one at its end
    served = {split: sum(result["served"][split] for result in results) for split in ("validation", "test")}
    labels_read_once = 101  # by rank 0, for the chance level
    assert served == {"validation": 101 * num_evaluations + labels_read_once, "test": 67}
    assert {record.num_validation for record in evaluations(folder)} == {101}
    # the discarded pass takes one update's examples, and a rank without a part of the last update borrows one
    epochs = [record for record in read_records(rank_file(folder, 0)) if isinstance(record, Epoch)]
    assert [epoch.num_updates for epoch in epochs] == [11, 22]
    borrowed = 2 * (num_ranks - 1)
    assert sum(result["served"]["train"] for result in results) == 2 * 501 + 50 + borrowed


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_rank_0_says_what_a_constant_guess_scores(train, num_ranks):
    """By the labels of the validation set: the share of the commonest class, the entropy in nats."""
    from paceline.workloads.base import WorkloadRequest
    from workloads.toy import build

    folder, _ = train(toy_trial(num_ranks=num_ranks, max_epochs=1))
    starts = [read_records(rank_file(folder, rank))[0] for rank in range(num_ranks)]
    labels = build(WorkloadRequest()).batch("validation", np.arange(101), seed=0, epoch=0).targets.tolist()
    shares = [labels.count(label) / 101 for label in set(labels)]
    assert starts[0].chance["accuracy"] == pytest.approx(max(shares))
    assert starts[0].chance["loss"] == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert all(start.chance == {} for start in starts[1:])


def test_chance_is_unknown_where_targets_are_no_classes():
    from paceline.train.chance import chance_level
    from workloads.toy import Toy

    class Regression(Toy):
        def batch(self, split, indices, *, seed, epoch):
            found = super().batch(split, indices, seed=seed, epoch=epoch)
            return found._replace(targets=found.targets.double())

    assert chance_level(Regression({})) == {}


def test_scores_do_not_depend_on_the_number_of_ranks(train):
    """Validation and test accuracy are exact counts: the same on one rank and three; so is the training accuracy."""
    scores = []
    for num_ranks in (1, 3):
        folder, results = train(toy_trial(num_ranks=num_ranks))
        assert {str(result["end"]["test"]) for result in results} == {str(results[0]["end"]["test"])}
        scores.append((evaluations(folder), results[0]["end"]["test"]))
    (one, one_test), (three, three_test) = scores
    assert one_test["accuracy"] == three_test["accuracy"]
    assert one_test["accuracy"] * 67 == pytest.approx(round(one_test["accuracy"] * 67), abs=1e-9)
    assert one_test["loss"] == pytest.approx(three_test["loss"], rel=1e-6)
    for first, second in zip(one, three, strict=True):
        assert first.validation["accuracy"] == second.validation["accuracy"]
        assert first.train["accuracy"] == second.train["accuracy"]
        assert first.validation["loss"] == pytest.approx(second.validation["loss"], rel=1e-6)


def test_evaluations_are_counted_in_samples(train):
    folder, _ = train(toy_trial(evaluate_every=120, max_epochs=2))
    seen = [(record.num_samples, record.epoch, record.epoch_end) for record in evaluations(folder)]
    assert seen == [
        (150, 0, False), (250, 0, False), (400, 0, False), (500, 0, False), (501, 1, True),
        (601, 1, False), (751, 1, False), (851, 1, False), (1001, 1, False), (1002, 2, True),
    ]  # fmt: skip


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_bytes_and_collectives_follow_the_ring(train, num_ranks):
    """2 (W - 1) / W x (gradient + one number for the loss) for each evaluation of the objective, none off the books."""
    folder, results = train(toy_trial(num_ranks=num_ranks, strategies=["ddp"]))
    start = next(record for record in read_records(rank_file(folder, 0)) if isinstance(record, Start))
    assert start.num_parameters == 6 * 8 + 8 + 8 * 3 + 3
    for result in results:
        assert result["end"]["num_gradient_evaluations"] == 22
        assert result["end"]["num_collectives"] == 22
        payload = FLOAT32 * (start.num_parameters + 1)
        assert result["end"]["bytes_sent"] == 22 * (2 * (num_ranks - 1) * payload // num_ranks)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_time_budget_ends_a_trial_at_an_evaluation(train, num_ranks):
    """On all ranks at the same update, with the state saved and the test split scored."""
    folder, results = train(
        toy_trial(num_ranks=num_ranks, max_epochs=1000, max_train_time_s=0.2, toy={"train_sleep_s": 0.02})
    )
    assert {result["end"]["reason"] for result in results} == {"reached max_train_time_s"}
    assert len({result["end"]["num_updates"] for result in results}) == 1
    seen = evaluations(folder)
    assert seen[-1].train_time_s >= 0.2 > max((record.train_time_s for record in seen[:-1]), default=0.0)
    assert results[0]["end"]["test"]["accuracy"] >= 0


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_trial_stops_at_its_target_only_if_it_is_told_to(train, num_ranks):
    for stop in (True, False):
        folder, results = train(toy_trial(num_ranks=num_ranks, stop_at_target=stop, evaluate_every=50, max_epochs=2))
        reached = [record.num_updates for record in evaluations(folder) if record.validation["accuracy"] >= 0.5]
        assert results[0]["end"]["num_updates"] == (reached[0] if stop else 22)
        assert results[0]["end"]["reason"] == ("reached the target" if stop else "reached max_epochs")


@pytest.mark.parametrize("changes", [{"stop_at_target": True, "evaluate_every": 50}, {"max_train_time_s": 1e-9}])
def test_a_trial_that_had_stopped_does_not_train_on_when_resumed(train, rank_pool, changes):
    """It was killed between its last checkpoint and its exit record: the same end, not an update more."""
    trial = toy_trial(max_epochs=5, **changes)
    folder, (first,) = train(trial)
    (second,) = rank_pool.run(RUN, num_ranks=1, trial=trial.model_dump(), folder=str(folder))
    for field in ("num_updates", "num_samples", "reason", "parameters_digest", "test", "train_time_s"):
        assert second["end"][field] == first["end"][field], field


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_a_loss_that_is_no_number_ends_the_trial_at_once_as_diverged(train, num_ranks):
    """On every rank before the update is made, whichever rank met it, and with a record that can be read."""
    bad = int(epoch_permutation(501, seed=0, epoch=0)[4 * 50 + 1])  # in the fifth update
    folder, results = train(toy_trial(num_ranks=num_ranks, toy={"nan_example": bad}))
    for rank, result in enumerate(results):
        assert result["end"]["status"] == "diverged"
        assert result["end"]["reason"] == "the loss is nan in update 5"
        assert result["end"]["num_updates"] == 4
        assert read_records(rank_file(folder, rank))[-1].kind == "end"
    assert len({result["end"]["parameters_digest"] for result in results}) == 1


def test_an_infinite_learning_path_ends_as_diverged(train):
    """Parameters blow up by the updates themselves; what is written stays JSON and can be read."""
    folder, (result,) = train(toy_trial(optimizer={"name": "sgd", "lr": 1e38}, toy={"hidden": 0}))
    assert result["end"]["status"] == "diverged"
    assert read_records(rank_file(folder, 0))[-1].status == "diverged"


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_bf16_autocast_runs_and_stays_finite(train, num_ranks):
    """Parameters stay float32; the forward pass is really another one."""
    folder, (low, *_) = train(toy_trial(num_ranks=num_ranks, options={"autocast": "bf16"}))
    _, (full, *_) = train(toy_trial(num_ranks=num_ranks))
    assert low["end"]["status"] == "completed"
    assert all(math.isfinite(value) for value in low["parameters"])
    assert read_records(rank_file(folder, 0))[0].dtype == "float32"
    assert 1e-6 < relative_distance(low["parameters"], full["parameters"]) < 0.05


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.timeout(240)
def test_a_compiled_model_agrees_with_an_eager_one(train):
    """After an epoch of 6 updates, one of another size, parameters agree to 1e-4."""
    compiled, eager = (
        train(toy_trial(max_epochs=1, global_batch_size=100, options={"compile": on}), deadline_s=200.0)[1][0]
        for on in (True, False)
    )
    assert compiled["num_compiled_graphs"] >= 1
    assert compiled["end"]["num_updates"] == 6
    assert relative_distance(compiled["parameters"], eager["parameters"]) <= 1e-4


def test_ranks_that_outnumber_a_split_are_refused(rank_pool, tmp_path):
    trial = toy_trial(num_ranks=3, toy={"num_validation": 2})
    said = rank_pool.run("train.trials:refusal", num_ranks=3, trial=trial.model_dump(), folder=str(tmp_path))
    assert said == ["3 ranks cannot share the 2 examples of the validation split"] * 3
