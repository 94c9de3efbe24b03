"""NaN and infinity in data, gradients and parameters: refused before training, or diverged, never in the report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import CommandLine
from paceline.records import Evaluation, exit_of, rank_file, read_records, trial_dirs
from train.checks import FOUND, by_name, trials_of

UPDATES_AN_EPOCH, NUM_UPDATES = 6, 12
WORKLOADS = {
    "clean": {},
    "trainnan": {"split": "train", "example": 37, "value": "nan"},
    "traininf": {"split": "train", "example": 500, "value": "-inf"},
    "validationnan": {"split": "validation", "example": 37, "value": "nan"},
    "testnan": {"split": "test", "example": 37, "value": "nan"},
}
WELL = ("sgd", "adam", "lbfgs")
SPOILING = {
    "gradient": {"what": "gradient", "value": "nan", "rank": 0, "at": 3},
    "infinite": {"what": "gradient", "value": "inf", "rank": 1, "at": 3},
    "parameter": {"what": "parameter", "value": "-inf", "rank": 0, "at": 8},
    "last": {"what": "parameter", "value": "nan", "rank": 1, "at": NUM_UPDATES},
}
STUDY = """
name = "numbers"
seeds = [0]
aa_pair = false
scales = [1, 2]
max_epochs = 2
threads_per_rank = 1
device = "cpu"
batch = {rule = "global", global_batch_size = 100}

[optimizers.sgd]
[optimizers.adam]
[optimizers.lbfgs]
max_iter = 4
line_search = "strong_wolfe"
"""

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


def table(name: str, values: dict[str, Any]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


class Numbers:
    """One study: every workload with every optimizer, on one rank and on two."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "runs" / "numbers"
        command = CommandLine(folder)
        parts = [STUDY]
        for label, fields in SPOILING.items():
            parts.append(table(f"optimizers.{label}", {"name": "faults.nonfinite:optimizer", **fields}))
        for label, options in WORKLOADS.items():
            parts.append(table(f"workloads.{label}", {"name": "faults.nonfinite:workload"}))
            parts.append(table(f"workloads.{label}.options", options))
        (folder / "numbers.toml").write_text("\n".join(parts))
        self.done = command("run", "numbers.toml", "--no-check", "--json", deadline_s=200)
        assert self.done.returncode == 0, self.done.stderr
        self.left = command.end_all()
        self.report = json.loads(self.done.stdout)
        self.folders = {tuple(folder.name.split("_")[:2] + folder.name.split("_")[3:4]): folder
                        for folder in trial_dirs(self.run_dir)}  # fmt: skip


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    return Numbers(tmp_path_factory.mktemp("numbers"))


def expected(workload: str, optimizer: str, scale: str) -> str:
    """One rank of a trial of one rank cannot be spoilt on the second."""
    is_spoilt = optimizer in SPOILING and (SPOILING[optimizer]["rank"] == 0 or scale == "1x2")
    if (workload, optimizer) == ("traininf", "lbfgs"):  # where the gradient is no number it takes no step
        return "completed"
    return "diverged" if is_spoilt or workload in ("trainnan", "traininf", "validationnan") else "completed"


def test_every_trial_whose_numbers_go_wrong_ends_as_diverged_and_no_other(numbers: Numbers) -> None:
    found = {key: exit_of(folder).status for key, folder in numbers.folders.items()}
    assert found == {key: expected(*key) for key in found}
    assert len(found) == len(WORKLOADS) * (len(WELL) + len(SPOILING)) * 2
    assert numbers.left == []


def test_it_ends_in_the_update_that_shows_it_and_says_so(numbers: Numbers) -> None:
    """Nobody trains on for hours: what the next loss does not show, the next evaluation does."""
    for (workload, optimizer, scale), folder in numbers.folders.items():
        how = exit_of(folder)
        assert how is not None
        if how.status == "diverged":
            assert re.search("loss is (nan|inf)|a parameter is nan or infinite after epoch", how.cause), how.cause
            end = read_records(rank_file(folder, 0))[-1]
            if workload in ("clean", "testnan"):
                at = SPOILING[optimizer]["at"]
                epoch_end = -(-at // UPDATES_AN_EPOCH) * UPDATES_AN_EPOCH
                assert at <= end.num_updates <= epoch_end, (optimizer, scale)
            else:
                assert end.num_updates <= UPDATES_AN_EPOCH, (workload, optimizer, scale)


def test_no_score_of_a_model_or_of_data_that_give_no_numbers_is_recorded(numbers: Numbers) -> None:
    """Such a model has an accuracy, too: of whatever stands first."""
    for folder in numbers.folders.values():
        for record in read_records(rank_file(folder, 0)):
            scores = record.validation if isinstance(record, Evaluation) else getattr(record, "test", {})
            if scores and not math.isfinite(scores["loss"]):
                assert not any(math.isfinite(value) for value in scores.values())


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def test_the_report_has_no_number_of_them(numbers: Numbers) -> None:
    for cell in numbers.report["cells"]:
        scale = f"{cell['num_hosts']}x{cell['ranks_per_host']}"
        if expected(cell["workload"], cell["label"], scale) == "diverged":
            assert (cell["num_reached"], cell["time_to_target_s"]) == (0, None), cell["name"]
            assert cell["final_validation"] == {}, cell["name"]
            assert cell["test"] == {}, cell["name"]
        if cell["workload"] == "testnan":
            assert cell["test"] == {}, cell["name"]
    shown = [leaf for cell in numbers.report["cells"] for leaf in leaves({**cell, "hyperparameters": {}, "trials": []})]
    # rows of trials have what was recorded, as text where it is no number
    assert {"nan", "inf", "-inf", "NaN", "Infinity", "-Infinity"}.isdisjoint(map(str, shown))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_data_that_are_no_numbers_are_refused_before_training(rank_pool: Any, split: str, value: str) -> None:
    """By split and example, where those that are looked at hold some."""
    options = {"split": split, "example": 0, "value": value}
    asked = trials_of("faults.nonfinite:workload", entry={"options": options})
    findings = by_name(rank_pool.run(FOUND, num_ranks=4, **asked)[0])
    finding = findings["labels and images"]
    assert finding.status == "fail"
    assert f"{split}: example 0 holds NaN or infinite values" in finding.evidence
