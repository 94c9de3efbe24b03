"""A job over two hosts that share no files: two agents on this machine, at two addresses, with a run folder each."""

from __future__ import annotations

import os
import platform
import signal
import time
from pathlib import Path

import pytest

from launch.agents import Agents
from paceline.plan.facts import workload_facts
from paceline.records import AnyRecord, End, Start, exit_of, rank_file, read_records
from paceline.study import validate
from paceline.trial import Trial, expand
from train.trials import toy_trial

pytestmark = [
    pytest.mark.runs,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]

SCALES = ["1x1", "2x1", "2x2"]
OPTIMIZERS = {"adam": {}, "sgd": {"lr": 0.05}, "lbfgs": {"max_iter": 4}}


def digits_trials() -> list[Trial]:
    """Every optimizer at every scale on the digits that come with paceline."""
    study = validate(
        {
            "name": "two-agents",
            "seeds": [0],
            "aa_pair": False,
            "max_epochs": 1,
            "scales": SCALES,
            "threads_per_rank": 1,
            "device": "cpu",
            "batch": {"rule": "global", "global_batch_size": 250},
            "workloads": {"digits": {"name": "logreg-mnist", "dataset": "mnist-small"}},
            "optimizers": OPTIMIZERS,
        },
        source="test",
    )
    return expand(study, workload_facts(study, None), threads_per_rank=1)


class Digits:
    """A job of 2 x 2 ranks that ran all trials; the records of each trial by scale and optimizer, rank by rank."""

    def __init__(self, folder: Path) -> None:
        trials = digits_trials()
        with Agents(folder, trials, num_hosts=2, ranks_per_host=2) as agents:
            self.codes, self.logs = agents.wait(deadline_s=150), agents.logs()
        self.exits = {trial.cell: exit_of(agents.run_dirs[0] / trial.id) for trial in trials}
        self.records: dict[tuple[str, str], list[list[AnyRecord]]] = {}
        self.hosts: dict[str, list[list[int]]] = {}
        for trial in trials:
            of_host = [run_dir / trial.id for run_dir in agents.run_dirs]
            where = [sorted(int(path.name[5:9]) for path in folder.glob("rank-*.jsonl")) for folder in of_host]
            self.hosts[str(trial.scale)] = where
            self.records[str(trial.scale), trial.label] = [
                read_records(rank_file(of_host[node], rank)) for node, ranks in enumerate(where) for rank in ranks
            ]
        self.elsewhere = [path for path in agents.run_dirs[1].rglob("*") if path.name in ("exit.json", "checkpoints")]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Digits(tmp_path_factory.mktemp("digits"))


def test_every_trial_completes_in_one_job(digits):
    assert digits.codes == [0, 0], digits.logs
    assert {how and how.status for how in digits.exits.values()} == {"completed"}


def test_ranks_are_numbered_host_by_host_whatever_order_elastic_gave_the_hosts(digits):
    """And a trial uses the first ranks of the first hosts; each writes on its own host, rank 0 what is written once."""
    assert digits.hosts == {"1x1": [[0], []], "2x1": [[0], [1]], "2x2": [[0, 1], [2, 3]]}
    assert digits.elsewhere == []


@pytest.mark.parametrize("scale", SCALES[1:])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_many_hosts_compute_what_one_rank_computes(digits, optimizer, scale):
    """From equal parameters, over the same examples, to scores that agree to rounding; the same bits on every rank."""
    ((*_, alone),) = digits.records["1x1", optimizer]
    together = digits.records[scale, optimizer]
    starts = [record for records in together for record in records if isinstance(record, Start)]
    ends = [records[-1] for records in together]
    assert isinstance(alone, End)
    assert len({end.parameters_digest for end in ends}) == 1
    assert {end.num_updates for end in ends} == {alone.num_updates}
    assert {end.num_gradient_evaluations for end in ends} == {alone.num_gradient_evaluations}
    assert ends[0].test["loss"] == pytest.approx(alone.test["loss"], rel=1e-3 if optimizer == "lbfgs" else 1e-5)
    (first, *_), *_ = digits.records["1x1", optimizer]
    assert {start.initial_parameters_digest for start in starts} == {first.initial_parameters_digest}


def wait_for_epochs(agents: Agents, trial: Trial, count: int) -> None:
    """Until rank 0 has finished so many epochs of a trial."""
    path, deadline = rank_file(agents.run_dirs[0] / trial.id, 0), time.monotonic() + 90
    while not path.exists() or sum(record.kind == "epoch" for record in read_records(path)) < count:
        assert time.monotonic() < deadline, agents.logs()
        time.sleep(0.05)


def pid_of(agents: Agents, trial: Trial, *, host: int, rank: int) -> int:
    """The process of a rank of a running trial."""
    records = read_records(rank_file(agents.run_dirs[host] / trial.id, rank))
    return next(record.pid for record in records if isinstance(record, Start))


def slow_and_next() -> list[Trial]:
    """A trial of 2 x 1 ranks that takes its time, and a quick one after it."""
    scale = {"scales": ["2x1"]}
    return [
        toy_trial(max_epochs=50, toy={"train_sleep_s": 0.02}, **scale),
        toy_trial(max_epochs=1, seeds=[1], **scale),
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_fails_its_trial_on_both_hosts_and_the_job_goes_on(tmp_path, rank):
    slow, quick = slow_and_next()
    with Agents(tmp_path, [slow, quick], num_hosts=2, ranks_per_host=1) as agents:
        wait_for_epochs(agents, slow, 2)
        os.kill(pid_of(agents, slow, host=rank, rank=rank), signal.SIGKILL)
        assert agents.wait(deadline_s=90) == [0, 0], agents.logs()
        ended = exit_of(agents.run_dirs[0] / slow.id)
        assert ended.status == "failed"
        first = ended.cause.splitlines()[0]
        assert f"rank {rank} on {platform.node()}" in first
        assert "died without a word" in first
        assert exit_of(agents.run_dirs[0] / quick.id).status == "completed"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_falls_silent_is_named(tmp_path, rank):
    """Stopped, it closes no connection; the others wait for it no longer than the heartbeat allows."""
    slow, quick = slow_and_next()
    with Agents(tmp_path, [slow, quick], num_hosts=2, ranks_per_host=1, heartbeat_timeout_s=8) as agents:
        wait_for_epochs(agents, slow, 2)
        os.kill(pid_of(agents, slow, host=rank, rank=rank), signal.SIGSTOP)
        began = time.monotonic()
        assert agents.wait(deadline_s=120) == [0, 0], agents.logs()
        ended = exit_of(agents.run_dirs[0] / slow.id)
        assert ended.cause.startswith(f"rank {rank} on {platform.node()}: silent for 8 s"), ended
        assert exit_of(agents.run_dirs[0] / quick.id).status == "completed"
        assert time.monotonic() - began < 60


def test_the_job_ends_when_an_agent_is_killed(tmp_path):
    """The other host waits for it no longer than the time that hosts have to come together."""
    slow, quick = slow_and_next()
    with Agents(tmp_path, [slow, quick], num_hosts=2, ranks_per_host=1, join_timeout_s=20) as agents:
        wait_for_epochs(agents, slow, 2)
        agents.processes[1].kill()
        assert agents.wait(deadline_s=110) == [1, -signal.SIGKILL], agents.logs()
        assert "2 hosts did not come together" in agents.logs()


def test_a_host_that_never_comes_ends_the_job_with_a_word(tmp_path):
    slow, quick = slow_and_next()
    with Agents(tmp_path, [slow, quick], num_hosts=2, ranks_per_host=1, join_timeout_s=10) as agents:
        agents.processes[1].kill()
        assert agents.wait(deadline_s=110) == [1, -signal.SIGKILL], agents.logs()
        assert "2 hosts did not come together" in agents.logs()
