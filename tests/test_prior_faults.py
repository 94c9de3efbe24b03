"""The faults of the study that this project replaces: 1 and 2 are found by name before training; 3, 6, 7 cannot happen.

Faults 4 and 5 are those of an audit after the runs.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from command_line import CommandLine
from paceline.records import Evaluation, exit_of, rank_file, read_records, trial_dirs
from paceline.study_tables import WorkloadEntry
from train.checks import FOUND, by_name, trials_of
from train.trials import RUN, folder_of, toy_trial

torch = pytest.importorskip("torch")

SPOILT = "workloads.spoilt:build"


def evaluations(folder: Path) -> list[Evaluation]:
    return [record for record in read_records(rank_file(folder, 0)) if isinstance(record, Evaluation)]


@pytest.mark.parametrize("model", ["logreg", "lenet5"])
@pytest.mark.timeout(180)
def test_fault_1_labels_of_other_images_fails_the_shuffled_label_probe(rank_pool, model):
    """Labels above the fifth class are dropped and their images are kept: image i has the label of another."""
    asked = trials_of(SPOILT, entry={"options": {"fault": "labels dropped", "model": model}})
    findings = by_name(rank_pool.run(FOUND, num_ranks=4, deadline_s=120.0, **asked)[0])
    assert {check for check, finding in findings.items() if finding.status == "fail"} == {"shuffled-label probe"}


def test_fault_2_ranks_that_all_draw_the_same_batches_fails_labels_and_images(rank_pool):
    asked = trials_of(SPOILT, entry={"options": {"fault": "same batches"}})
    findings = by_name(rank_pool.run(FOUND, num_ranks=4, **asked)[0])
    assert {check for check, finding in findings.items() if finding.status == "fail"} == {"labels and images"}


def test_fault_3_cannot_happen_every_evaluation_says_what_time_was_spent_on(rank_pool, tmp_path):
    """Waiting for data, computing, communicating and stepping, each measured on both ranks, make up the training time.

    The parts are means over ranks and the whole is the slowest rank's, so that they sum to no more; rank 1 is slow to
    load, and rank 0 is seen to wait for it.
    """
    toy = {"train_sleep_s": 0.02, "sleep_rank": 1}
    trial = toy_trial(num_ranks=2, evaluate_every=100, toy=toy)
    rank_pool.run(RUN, num_ranks=2, trial=trial.model_dump(), folder=str(folder := folder_of(trial, tmp_path)))
    seen = evaluations(folder)
    assert len(seen) == 12
    for record in seen:
        parts = [record.data_s, record.compute_s, record.communication_s, record.optimizer_s]
        assert min(parts) > 0
        assert 0.5 * record.train_time_s < sum(parts) <= record.train_time_s * (1 + 1e-9)
    assert seen[-1].data_s > 0.1
    assert seen[-1].communication_s > 0.1


def test_fault_6_cannot_happen_validation_is_never_on_the_clock(rank_pool, tmp_path):
    """Every validation batch sleeps on both ranks: evaluation takes long, and no update does."""
    sleep_s = 0.5
    trial = toy_trial(num_ranks=2, evaluate_every=250, toy={"evaluation_sleep_s": sleep_s})
    rank_pool.run(RUN, num_ranks=2, trial=trial.model_dump(), folder=str(folder := folder_of(trial, tmp_path)))
    seen = evaluations(folder)
    assert len(seen) == 6
    assert seen[-1].evaluation_time_s >= sleep_s * len(seen)
    assert seen[-1].train_time_s < 0.5 * seen[-1].evaluation_time_s
    assert max(record.update_time_s["max"] for record in seen) < sleep_s


@pytest.mark.timeout(240)
def test_fault_7_cannot_happen_data_are_opened_once_a_rank(paceline: CommandLine):
    """By checks, six trials and three epochs each, on one rank and on two."""
    study, opened = paceline.folder / "once.toml", paceline.folder / "opened"
    study.write_text(f"""
name = "once"
seeds = [0]
aa_pair = false
scales = [1, 2]
max_epochs = 3
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 500 }}
[workloads.digits]
name = "{SPOILT}"
options = {{ opened = "{opened}" }}
[optimizers.sgd]
[optimizers.adam]
[optimizers.adamw]
""")
    done = paceline("run", study)
    assert done.returncode == 0, done.stderr
    folders = list(trial_dirs(paceline.folder / "runs" / "once"))
    assert [exit_of(folder).status for folder in folders] == ["completed"] * 6
    assert all(evaluations(folder)[-1].epoch == 3 for folder in folders)
    lines = Counter(opened.read_text().splitlines())
    assert (lines["rank 0"], lines["rank 1"]) == (1, 1)


def test_fault_7_cannot_happen_images_stay_bytes_until_their_batch_is_prepared():
    """The store holds one byte a value; a batch becomes floating point on the device, and nothing of it is kept."""
    from paceline.train.worker import open_workload

    workload = open_workload(WorkloadEntry(name="lenet5-mnist", dataset="mnist-small"), None)
    assert open_workload(WorkloadEntry(name="lenet5-mnist", dataset="mnist-small"), None) is workload
    indices = torch.arange(8).numpy()
    batch = workload.batch("train", indices, seed=0, epoch=0)
    assert (batch.inputs.dtype, tuple(batch.inputs.shape)) == (torch.uint8, (8, 1, 32, 32))
    prepared = workload.prepare(batch, torch.device("cpu"))
    assert prepared.inputs.dtype == torch.float32
    again = workload.batch("train", indices, seed=0, epoch=1)
    assert again.inputs.dtype == torch.uint8
    assert torch.equal(again.inputs, batch.inputs), "preparing a batch does not change what is stored"
