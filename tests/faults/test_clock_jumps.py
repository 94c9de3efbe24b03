"""The clock of the host is set, forward and back, while a study runs: times stay those of training."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from command_line import CommandLine
from paceline.records import Epoch, Evaluation, rank_file, read_records, trial_dirs

DAY_S = 86_400
JUMPS_S = [0, DAY_S, -DAY_S, 0, 3600]
STUDY = """
name = "{name}"
seeds = [0]
aa_pair = false
scales = [1, 2]
max_epochs = 5
threads_per_rank = 1
device = "cpu"
batch = {{rule = "global", global_batch_size = 100}}

[workloads.toy]
name = "faults.jumping:build"
options = {{jumps_s = "{jumps_s}"}}

[optimizers.sgd]
"""

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


class Jumped:
    """The study twice: with a clock that goes on, and with one that is set at each epoch of each trial."""

    def __init__(self, folder: Path) -> None:
        command = CommandLine(folder)
        for name, jumps_s in (("even", [0] * len(JUMPS_S)), ("jumped", JUMPS_S)):
            (folder / f"{name}.toml").write_text(STUDY.format(name=name, jumps_s=" ".join(map(str, jumps_s))))
        self.even = command("run", "even.toml", "--no-check")
        self.jumped = command("run", "jumped.toml", "--no-check", "--json")
        self.left = command.end_all()
        self.run_dir, self.reference = folder / "runs" / "jumped", folder / "runs" / "even"
        self.audit = command("audit", self.run_dir)
        for path in self.run_dir.glob("*/exit.json"):
            path.unlink()  # as if the host had died right then, its clock an hour ahead
        self.status = command("status", self.run_dir)
        self.status_json = command("status", self.run_dir, "--json")


@pytest.fixture(scope="module")
def jumped(tmp_path_factory: pytest.TempPathFactory) -> Jumped:
    return Jumped(tmp_path_factory.mktemp("clock"))


def test_the_study_ends_with_the_bits_of_one_whose_clock_went_on(jumped: Jumped) -> None:
    assert jumped.even.returncode == 0, jumped.even.stderr
    assert jumped.jumped.returncode == 0, jumped.jumped.stderr
    assert jumped.left == []
    of_runs = [
        [
            [record.parameters_digest for record in read_records(rank_file(folder, 0)) if isinstance(record, Epoch)]
            for folder in trial_dirs(run_dir)
        ]
        for run_dir in (jumped.run_dir, jumped.reference)
    ]
    assert of_runs[0] == of_runs[1]
    assert [len(of_trial) for of_trial in of_runs[0]] == [len(JUMPS_S)] * 2


def test_the_clock_did_jump(jumped: Jumped) -> None:
    for folder in trial_dirs(jumped.run_dir):
        times = [r.time for r in read_records(rank_file(folder, 0)) if isinstance(r, Evaluation)]
        steps_s = [after - before for before, after in itertools.pairwise(times)]
        assert [round(step_s / DAY_S) for step_s in steps_s] == [1, -2, 1, 0]


def test_training_time_goes_on_and_holds_no_jump(jumped: Jumped) -> None:
    for folder in trial_dirs(jumped.run_dir):
        trained = [r.train_time_s for r in read_records(rank_file(folder, 0)) if isinstance(r, Evaluation)]
        assert trained == sorted(trained)
        assert 0 < trained[-1] < 60
        end = read_records(rank_file(folder, 0))[-1]
        assert end.kind == "end"
        assert trained[-1] <= end.wall_time_s < 120


def test_no_figure_of_the_report_is_negative_or_of_a_jump(jumped: Jumped) -> None:
    for cell in json.loads(jumped.jumped.stdout)["cells"]:
        assert 0 < cell["time_to_target_s"] < 60
        for row in cell["trials"]:
            times_s = [value for key, value in row.items() if key.endswith("_s") and not key.endswith("_per_s")]
            assert len(times_s) >= 3
            assert all(0 <= value < 120 for value in times_s if value is not None), row
    page = (jumped.run_dir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])[-−]\d[\d.,]* (µs|ms|s|min|h|d)\b", page)


def test_the_audit_names_the_clock(jumped: Jumped) -> None:
    assert jumped.audit.returncode == 1
    assert re.search(r"fail +clocks monotonic", jumped.audit.stdout)
    assert "the clock of the host was set back" in jumped.audit.stdout


def test_status_does_not_speak_of_the_future(jumped: Jumped) -> None:
    """The last records are of an hour hence."""
    running = json.loads(jumped.status_json.stdout)["running"]
    assert [trial["last_record_age_s"] for trial in running] == [0.0] * 2
    assert jumped.status.stdout.count("last record 0") == 2, jumped.status.stdout
    assert not re.search(r"(?<![\w.])[-−]\d", jumped.status.stdout)
