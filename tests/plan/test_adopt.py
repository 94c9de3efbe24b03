"""A job that a controlling process which is gone has left is taken up as what it is."""

from __future__ import annotations

import sys

import pytest

from paceline.cards import Target
from paceline.cluster import THIS_HOST
from paceline.job import Job
from paceline.launch.local import CONTROL
from paceline.launch.supervisor import start
from paceline.plan.jobs import Silence, adopt_jobs, launchers_of
from paceline.records import Exit, write_json
from paceline.study import Study
from paceline.trial import WorkloadFacts, as_json, expand


class Told(Silence):
    """A watcher that remembers which trials it was told to be over."""

    def __init__(self):
        self.ended_ones = []

    def ended(self, trial, how):
        self.ended_ones.append(trial.label)


@pytest.fixture
def job(tmp_path):
    """Of two trials, the first of them over."""
    study = Study.model_validate(
        {
            "name": "left",
            "seeds": [0],
            "max_epochs": 1,
            "batch": {"rule": "global", "global_batch_size": 10},
            "workloads": {"toy": {"name": "workloads.toy:build"}},
            "optimizers": {"sgd": {}, "adam": {}},
            "aa_pair": False,
        }
    )
    facts = {"toy": WorkloadFacts(dataset="toy", data_digest="0" * 16, target=Target(value=0.5))}
    trials = expand(study, facts, threads_per_rank=1)
    for trial in trials:
        (tmp_path / trial.id).mkdir()
        write_json(tmp_path / trial.id / "trial.json", as_json(trial))
    write_json(tmp_path / trials[0].id / "exit.json", Exit(status="completed").model_dump())
    names = [trial.id for trial in trials]
    job = Job(run_dir=str(tmp_path), trials=names, ranks_per_host=1, threads_per_rank=1, device="cpu", data_dir=None)
    job.write()
    return job


def test_nothing_is_watched_where_nothing_runs_any_more(job):
    """Its agent and keepers were killed together with the controlling process."""
    adopt_jobs(launchers_of(THIS_HOST), job.folder, Silence())
    assert not job.path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_only_trials_that_end_from_now_on_are_told(job):
    """The agent is a process that ends the second trial."""
    second = job.folder / job.trials[1] / "exit.json"
    write_json(second.with_name("prepared.json"), Exit(status="completed").model_dump())
    ends = f"import os, time; time.sleep(0.5); os.rename({str(second.with_name('prepared.json'))!r}, {str(second)!r})"
    control = job.folder / CONTROL / "agent"
    command = [sys.executable, "-c", ends, job.id]
    start(control, command, detach=True, log=None, grace_s=1.0, silence_s=float("inf"))
    watcher = Told()
    adopt_jobs(launchers_of(THIS_HOST), job.folder, watcher)
    assert watcher.ended_ones == ["adam"]
    assert not job.path.exists()
