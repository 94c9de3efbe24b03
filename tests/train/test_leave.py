"""Ranks that are asked to leave go after a checkpoint, in the middle of an epoch; no update and no bit is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.agents import Agents
from launch.studies import write_study
from paceline.job import Job
from paceline.records import AnyRecord, Epoch, Evaluation, Resumed, Start, exit_of, rank_file, read_records, trial_dirs
from paceline.train import checkpoint
from paceline.trial import Trial
from train.trials import RUN, folder_of, toy_trial

pytestmark = [
    pytest.mark.runs,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]

UPDATES_AN_EPOCH = 101
SLOW = {"train_sleep_s": 0.03, "sleep_rank": 1}  # on the second rank of an agent, or of a job
MODEL = {"num_train": 5001, "dropout": 0.3, "running_mean": True}
TIMES = {"time", "train_time_s", "update_time_s", "data_s", "compute_s", "communication_s", "optimizer_s"} | {
    "evaluation_time_s", "checkpoint_time_s", "peak_memory_bytes", "wall_time_s"
}  # fmt: skip


def wait_for(condition: Callable[[], Any], agents: Agents) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, agents.logs()
        time.sleep(0.02)


def records(run_dir: Path, trial: Trial, rank: int = 0) -> list[AnyRecord]:
    path = rank_file(run_dir / trial.id, rank)
    return read_records(path) if path.exists() else []


def is_under_way(run_dir: Path, trial: Trial) -> bool:
    return any(isinstance(record, Evaluation) for record in records(run_dir, trial))


def checkpoints(folder: Path) -> list[int]:
    """The updates after which there is a checkpoint."""
    return sorted(int(path.stem.removeprefix("update-")) for path in folder.glob("checkpoints/*.pt"))


def but_times(record: AnyRecord) -> dict[str, Any]:
    return {key: value for key, value in record.model_dump(mode="json").items() if key not in TIMES}


def told(folder: Path, rank: int) -> list[dict[str, Any]]:
    """What a rank's records say of its training, but for times."""
    kept = [r for r in read_records(rank_file(folder, rank)) if not isinstance(r, Start | Resumed)]
    return [but_times(record) for record in kept]


def leave_by_file(agents: Agents) -> list[int]:
    Job.read(agents.run_dirs[-1] / "job.json").leave_path.touch()
    return [0] * len(agents.processes)


def leave_by_signal(agents: Agents) -> list[int]:
    for process in agents.processes:
        process.send_signal(signal.SIGTERM)
    return [128 + signal.SIGTERM] * len(agents.processes)


CASES = {
    "adam": ({"name": "adam"}, 1, "single", 0, leave_by_signal),
    "adam, two ranks": ({"name": "adam"}, 2, "ddp", 1, leave_by_file),
    "lbfgs, two ranks": ({"name": "lbfgs", "max_iter": 4}, 2, "auto", 1, leave_by_signal),
    "ranks apart": ({"name": "adam"}, 2, "local-sgd", 0, leave_by_file),  # the second is ahead of the first
}
SETTINGS = {"local-sgd": {"seldom": {"name": "local-sgd", "period": 13}}}


@pytest.mark.parametrize("case", CASES)
def test_a_trial_that_was_left_in_an_epoch_ends_with_the_same_bits(rank_pool, tmp_path, case):
    """Dropout draws on, sums and counts of the epoch are whole, and evaluations fall where they would have."""
    optimizer, num_ranks, strategy, sleep_rank, leave = CASES[case]
    slow, quick = (
        toy_trial(
            num_ranks=num_ranks,
            optimizer=optimizer,
            strategies=SETTINGS.get(strategy, [strategy]),
            evaluate_every=400,
            toy=MODEL | faults,
        )
        for faults in (SLOW | {"sleep_rank": sleep_rank}, {})
    )
    agents = Agents(tmp_path / "agents", [slow], num_hosts=1, ranks_per_host=num_ranks)
    (run_dir,) = agents.run_dirs
    with agents:
        wait_for(lambda: is_under_way(run_dir, slow), agents)
        codes = leave(agents)
        assert agents.wait(deadline_s=30) == codes, agents.logs()
    resumed, straight = run_dir / slow.id, folder_of(quick, tmp_path)
    (left,) = checkpoints(resumed)
    assert left % UPDATES_AN_EPOCH, "in the middle of an epoch"
    assert exit_of(resumed) is None
    state = checkpoint.load_newest(resumed)
    checkpoint.save(resumed, state | {"trial": quick.id}, num_updates=left)  # the same, but that nobody sleeps

    for folder in (straight, resumed):
        rank_pool.run(RUN, num_ranks=num_ranks, trial=quick.model_dump(), folder=str(folder))
    for rank in range(num_ranks):
        assert told(resumed, rank) == told(straight, rank)
        assert [r.num_updates for r in read_records(rank_file(resumed, rank)) if isinstance(r, Resumed)] == [left]
    waited_s = next(r.data_s for r in records(run_dir, slow, sleep_rank) if isinstance(r, Epoch))
    assert waited_s > 0.5 * left * 0.03, "each rank goes on adding up its own time"


def test_an_idle_host_passes_the_wish_on_and_no_other_trial_begins(tmp_path):
    """Only the second host sees the file, and its ranks have no part in the trial; one of them holds the store."""
    trials = [toy_trial(seeds=[seed], evaluate_every=400, toy=MODEL | SLOW | {"sleep_rank": -1}) for seed in (0, 1)]
    with Agents(tmp_path, trials, num_hosts=2, ranks_per_host=2) as agents:
        run_dir = agents.run_dirs[0]
        wait_for(lambda: is_under_way(run_dir, trials[0]), agents)
        codes = leave_by_file(agents)
        assert agents.wait(deadline_s=30) == codes, agents.logs()
    assert len(checkpoints(run_dir / trials[0].id)) == 1
    assert [exit_of(run_dir / trial.id) for trial in trials] == [None, None]
    assert records(run_dir, trials[1]) == []


def test_sigterm_for_one_rank_ends_it_as_any_death_does(tmp_path):
    """Nobody else is asked: its trial fails at once, and the job goes on."""
    slow, quick = (
        toy_trial(num_ranks=2, seeds=[seed], evaluate_every=100, max_epochs=max_epochs, toy=toy)
        for seed, max_epochs, toy in ((0, 60, SLOW), (1, 2, {}))
    )
    with Agents(tmp_path, [slow, quick], num_hosts=1, ranks_per_host=2) as agents:
        run_dir = agents.run_dirs[0]
        wait_for(lambda: is_under_way(run_dir, slow), agents)
        os.kill(next(r.pid for r in records(run_dir, slow, 1) if isinstance(r, Start)), signal.SIGTERM)
        assert agents.wait(deadline_s=60) == [0], agents.logs()
    assert [exit_of(run_dir / trial.id).status for trial in (slow, quick)] == ["failed", "completed"]
    assert "rank 1 on " in exit_of(run_dir / slow.id).cause


def test_stop_loses_no_update(paceline, tmp_path):
    """`paceline stop`, and the same command again: it goes on after the last update that was made."""
    study = write_study(
        tmp_path,
        name="stopped",
        optimizers="[optimizers.adam]",
        scales="[2]",
        max_epochs=1,
        toy="\n".join(f"{key} = {json.dumps(value)}" for key, value in (MODEL | SLOW).items()),
    )
    study.write_text(study.read_text().replace("aa_pair", "evaluate_every = 400\naa_pair"))
    process = paceline.start("run", study, "--no-check")
    run_dir = tmp_path / "runs" / "stopped"
    deadline = time.monotonic() + 60
    while not any(rank_file(folder, 0).exists() and b"evaluation" in rank_file(folder, 0).read_bytes()
                  for folder in trial_dirs(run_dir)):  # fmt: skip
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.02)
    stopped = paceline("stop", run_dir)
    assert stopped.returncode == 0, stopped.stderr
    assert paceline.finish(process).returncode == 130
    (folder,) = trial_dirs(run_dir)
    (left,) = checkpoints(folder)
    seen = [r.num_updates for r in read_records(rank_file(folder, 0)) if isinstance(r, Evaluation)]
    assert 0 <= left - seen[-1] < 8, "not one evaluation further than the records"
    again = paceline("run", study, "--no-check")
    assert again.returncode == 0, again.stderr
    after = read_records(rank_file(folder, 0))
    assert [r.num_updates for r in after if isinstance(r, Resumed)] == [left]
    assert [r.num_updates for r in after if isinstance(r, Epoch)] == [UPDATES_AN_EPOCH]
