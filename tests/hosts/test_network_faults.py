"""The network between hosts is cut, slow or lossy while a run goes on: it goes on, or names the host and can go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paceline.records import Epoch, failures_of, rank_file, read_records, trial_dirs
from testbed.bed import CONTROL, Bed, wait_until

PACELINE = Path(sys.executable).with_name("paceline")
HEARTBEAT_S = 6.0
NUM_EPOCHS = 100
KEPT = ".paceline/runs"  # what agents, supervisors and ranks name in their command lines
STUDY = f"""
name = "cut"
seeds = [0]
aa_pair = false
scales = ["2x1"]
max_epochs = {NUM_EPOCHS}
threads_per_rank = 1
device = "cpu"
batch = {{rule = "global", global_batch_size = 500}}

[cluster]
hosts = ["node1", "node2"]
heartbeat_timeout_s = {HEARTBEAT_S}

[workloads.digits]
name = "logreg-mnist"
dataset = "mnist-small"

[optimizers.adam]
"""

pytestmark = pytest.mark.timeout(240)


class Run:
    """The study in one folder, run from the control host as often as it is asked to."""

    def __init__(self, bed: Bed, folder: Path) -> None:
        self.bed, self.folder, self.run_dir = bed, folder, folder / "runs" / "cut"
        folder.mkdir(exist_ok=True)
        (folder / "cut.toml").write_text(STUDY)

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """The command, killed at the end if it is not over."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = self.bed.start(CONTROL, [PACELINE, "run", "cut.toml", "--no-check"], cwd=self.folder, **pipes)
        try:
            yield process
        finally:
            self.bed.signal(process, signal.SIGKILL)
            process.communicate()

    def finish(self, process: subprocess.Popen[str], *, deadline_s: float = 90) -> tuple[int, str]:
        """Its exit code and standard error; nothing is left of it on any host."""
        _, err = process.communicate(timeout=deadline_s)
        wait_until(lambda: not self.left(), "the processes on all hosts to end", deadline_s=3 * HEARTBEAT_S)
        assert "Traceback" not in err
        return process.returncode, err

    def left(self) -> list[object]:
        return [process for host in self.bed.nodes for process in self.bed.processes(host, KEPT)]

    def wait_for_epochs(self, count: int, process: subprocess.Popen[str]) -> None:
        def are_known() -> bool:
            assert process.poll() is None, process.communicate()
            return any(len(digests(path)) >= count for path in self.run_dir.glob("*/rank-0000.jsonl"))

        wait_until(are_known, "epochs", deadline_s=60)

    def digests(self) -> list[list[str]]:
        """Of the parameters after each epoch, of each rank."""
        (folder,) = trial_dirs(self.run_dir)
        return [digests(rank_file(folder, rank)) for rank in (0, 1)]


def digests(path: Path) -> list[str]:
    return [record.parameters_digest for record in read_records(path) if isinstance(record, Epoch)]


@pytest.fixture(scope="module")
def expected(hosts: Bed, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What a run ends with that nobody disturbs."""
    run = Run(hosts, tmp_path_factory.mktemp("undisturbed"))
    with run.started() as process:
        code, err = run.finish(process)
    assert code == 0, err
    found = run.digests()
    assert [len(of_rank) for of_rank in found] == [NUM_EPOCHS] * 2
    return found


def test_a_run_goes_on_after_a_short_cut_on_a_slow_and_on_a_lossy_network(
    hosts: Bed, tmp_path: Path, expected: list[list[str]]
) -> None:
    """Slow, then 3 % of packets lost, then none passes for less than the heartbeat's time: the same bits."""
    run = Run(hosts, tmp_path)
    spoil: tuple[Callable[[], None], ...] = (
        lambda: hosts.bandwidth("node2", 50),
        lambda: hosts.loss("node2", percent=3),
        lambda: hosts.loss("node2", percent=0),
        lambda: hosts.link("node2", up=False),
    )
    with run.started() as process:
        for number, fault in enumerate(spoil):
            run.wait_for_epochs(2 + 5 * number, process)
            fault()
        time.sleep(HEARTBEAT_S / 4)
        hosts.link("node2", up=True)
        code, err = run.finish(process)
    assert code == 0, err
    assert run.digests() == expected


def test_after_a_long_cut_the_host_is_named_and_the_run_goes_on(
    hosts: Bed, tmp_path: Path, expected: list[list[str]]
) -> None:
    """Longer than the heartbeat's time, between the hosts of the ranks only: whoever runs the study reaches both.

    The trial has failed. It is tried again at once if the hosts still find together, else by the same command.
    """
    run = Run(hosts, tmp_path)
    with run.started() as process:
        run.wait_for_epochs(3, process)
        hosts.partition("node1", "node2")
        time.sleep(3 * HEARTBEAT_S)
        hosts.partition("node1", "node2", apart=False)
        code, err = run.finish(process, deadline_s=180)
    (folder,) = trial_dirs(run.run_dir)
    causes = [failure.cause for failure in failures_of(folder)]
    assert any("node1: " in cause or "node2: " in cause for cause in (err, *causes)), (err, causes)
    assert any("silent for" in cause or "onnection" in cause for cause in (err, *causes)), (err, causes)
    if code:
        with run.started() as process:
            code, err = run.finish(process)
    assert code == 0, err
    assert run.digests() == expected
