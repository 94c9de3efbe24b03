"""Jobs on hosts reached by ssh: two sshd of this user's own, each at an address of its own."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sysconfig
import time
import venv
from pathlib import Path

import psutil
import pytest

from command_line import CommandLine
from launch import sshd
from paceline.data.catalog import locate
from paceline.records import End, Start, exit_of, rank_file, read_json, read_records, trial_dirs
from ranks import processes_naming, wait_until_gone

pytestmark = [
    pytest.mark.runs,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]

STUDY = """
name = "hosts"
seeds = [0]
aa_pair = false
scales = {scales}
max_epochs = {max_epochs}
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 250 }}

[workloads.digits]
name = "{workload}"
dataset = "{dataset}"

[optimizers.adam]
"""


class Cluster:
    """Two hosts up, and a command line beside them; what they keep is below ``folder``."""

    def __init__(self, folder: Path, hosts: list[sshd.Sshd]) -> None:
        self.folder, self.hosts = folder, hosts
        self.kept = folder / "kept on hosts; a name"
        self.file = folder / "cluster.toml"
        names = ", ".join(f'"{host.name}"' for host in hosts)
        self.file.write_text(f"""
[cluster]
kind = "ssh"
hosts = [{names}]
ssh_config = "{hosts[0].ssh_config}"
folder = "{self.kept}"
heartbeat_timeout_s = 20
""")
        self.command = CommandLine(folder)
        self.run_dir = folder / "runs" / "hosts"

    def study(
        self,
        *,
        max_epochs: int,
        scales: str = '["2x1"]',
        workload: str = "logreg-mnist",
        dataset: str = "mnist-small",
    ) -> Path:
        path = self.folder / "hosts.toml"
        path.write_text(STUDY.format(max_epochs=max_epochs, scales=scales, workload=workload, dataset=dataset))
        return path

    def start(self, study: Path, *options: str | Path) -> subprocess.Popen[str]:
        return self.command.start("run", study, "--no-check", "--cluster", self.file, *options)

    def trial(self, scale: str) -> Path:
        return next(folder for folder in trial_dirs(self.run_dir) if f"_{scale}_" in folder.name)

    def wait_for_epochs(self, scale: str, count: int, process: subprocess.Popen[str]) -> None:
        """Until so many epochs of a trial are known here."""
        deadline = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < deadline:
            for path in self.run_dir.glob(f"*_{scale}_*/rank-0000.jsonl"):
                if sum(record.kind == "epoch" for record in read_records(path)) >= count:
                    return
            time.sleep(0.1)
        process.kill()
        raise AssertionError(f"waited in vain: {process.communicate()}")

    def pid_of(self, scale: str, rank: int) -> int:
        (path,) = self.kept.glob(f"runs/*/host{rank}/*_{scale}_*/rank-{rank:04d}.jsonl")
        return next(record.pid for record in read_records(path) if isinstance(record, Start))

    def sessions(self, host: int) -> list[psutil.Process]:
        """The server's processes for the connections to a host."""
        return psutil.Process(self.hosts[host].pid).children()

    def running(self) -> list[int]:
        """What runs on the hosts for this test: agents, supervisors and ranks name the folder that they work in."""
        return processes_naming(str(self.kept))


@pytest.fixture
def cluster(tmp_path):
    with sshd.hosts(tmp_path / "hosts", addresses={"one": "127.0.0.2", "two": "127.0.0.3"}) as hosts:
        cluster = Cluster(tmp_path, hosts)
        yield cluster
        left = wait_until_gone(str(cluster.kept), deadline_s=10)
    cluster.command.end_all()
    assert left == [], "processes were left on the hosts"


def test_hosts_compute_what_one_rank_computes_and_everything_is_collected(cluster):
    study = cluster.study(max_epochs=2, scales='["1x1", "2x1"]')
    done = cluster.command.finish(cluster.start(study), deadline_s=150)
    assert done.returncode == 0, done.stderr
    alone, together = cluster.trial("1x1"), cluster.trial("2x1")
    ends = [read_records(rank_file(together, rank))[-1] for rank in range(2)]
    (end,) = [read_records(rank_file(alone, 0))[-1]]
    assert isinstance(end, End)
    assert ends[0].parameters_digest == ends[1].parameters_digest
    assert ends[0].num_updates == ends[1].num_updates == end.num_updates
    assert ends[0].test["loss"] == pytest.approx(end.test["loss"], rel=1e-5)
    assert list((together / "checkpoints").glob("*.pt"))
    assert (cluster.run_dir / "logs" / "two" / "agent.log").exists()


def test_hosts_check_a_study_before_its_first_trial(cluster):
    """The findings come back, and nothing is trained; the cluster may be a table of the study."""
    study = cluster.study(max_epochs=1)
    study.write_text(study.read_text() + cluster.file.read_text())
    done = cluster.command("check", study, "--json", deadline_s=120)
    assert done.returncode == 0, done.stderr
    findings = {finding["check"]: finding["status"] for finding in json.loads(done.stdout)["findings"]}
    assert findings["parity of one rank and N ranks"] == "pass"
    assert "fail" not in findings.values()
    assert not cluster.run_dir.exists()


def test_a_single_trial_is_shared_by_the_hosts(cluster):
    """``paceline train`` spreads its ranks over them evenly, or says that it cannot."""
    words = ("--workload", "logreg-mnist", "--optimizer", "sgd", "--epochs", "1", "--cluster", cluster.file, "--json")
    done = cluster.command("train", *words, "--ranks", "2", "--threads", "1", "--set", "workload.dataset=mnist-small")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["num_ranks"], told["status"]) == (2, "completed")
    assert "_2x1_" in told["trial"]
    odd = cluster.command("train", *words, "--ranks", "3")
    assert odd.returncode == 2
    assert "2 hosts cannot share 3 ranks evenly" in odd.stderr


def test_hosts_that_have_torch_but_neither_paceline_nor_the_data_are_given_both(cluster):
    """Once: a second run finds them there."""
    environment = cluster.folder / "bare"
    venv.create(environment)
    (place,) = environment.glob("lib/python*/site-packages")
    (place / "torch.pth").write_text(sysconfig.get_path("purelib"))  # not what a .pth file there leads to: paceline
    cluster.file.write_text(cluster.file.read_text() + f'python = "{environment / "bin" / "python"}"')
    shutil.copytree(locate("mnist-small"), cluster.folder / "data" / "fashion-mnist-small")
    study = cluster.study(max_epochs=1, workload="lenet5-fashion-mnist", dataset="fashion-mnist-small")
    done = cluster.command.finish(cluster.start(study, "--data-dir", cluster.folder / "data"), deadline_s=120)
    assert done.returncode == 0, done.stderr
    assert exit_of(cluster.trial("2x1")).status == "completed"
    (module,) = cluster.kept.glob("code/*/paceline/__init__.py")
    sent = [module, *(cluster.kept / "data" / "fashion-mnist-small").iterdir()]
    before = {path: path.stat().st_ctime_ns for path in sent}
    shutil.rmtree(cluster.run_dir)
    again = cluster.command.finish(cluster.start(study, "--data-dir", cluster.folder / "data"), deadline_s=120)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_ctime_ns for path in sent} == before


def test_a_killed_rank_is_named_and_the_same_command_tries_again(cluster):
    study = cluster.study(max_epochs=60)
    process = cluster.start(study, "--set", "retries=0")
    cluster.wait_for_epochs("2x1", 2, process)
    os.kill(cluster.pid_of("2x1", 1), signal.SIGKILL)
    done = cluster.command.finish(process, deadline_s=120)
    assert done.returncode == 1, done.stderr
    cause = exit_of(cluster.trial("2x1")).cause
    assert f"rank 1 on {platform.node()} died without a word" in cause
    again = cluster.command.finish(cluster.start(study), deadline_s=120)
    assert again.returncode == 0, again.stderr
    kinds = [record.kind for record in read_records(rank_file(cluster.trial("2x1"), 1))]
    assert kinds.count("epoch") == 60, "each epoch once, though the trial was taken up on both hosts"


def test_a_killed_controlling_process_leaves_nothing_and_loses_nothing(cluster):
    study = cluster.study(max_epochs=80)
    process = cluster.start(study)
    cluster.wait_for_epochs("2x1", 2, process)
    assert len(cluster.running()) >= 4
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert wait_until_gone(str(cluster.kept), deadline_s=4) == []
    done = cluster.command.finish(cluster.start(study), deadline_s=150)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        epochs = [r.epoch for r in read_records(rank_file(cluster.trial("2x1"), rank)) if r.kind == "epoch"]
        assert epochs == list(range(80))


def test_a_lost_connection_ends_the_run_with_the_name_of_the_host_and_leaves_nothing(cluster):
    """A foreground run; the ranks are ended on both hosts."""
    process = cluster.start(cluster.study(max_epochs=400))
    cluster.wait_for_epochs("2x1", 1, process)
    for session in cluster.sessions(1):
        session.kill()
    done = cluster.command.finish(process, deadline_s=60)
    assert done.returncode == 1
    assert "two: the connection was lost" in done.stderr
    assert wait_until_gone(str(cluster.kept), deadline_s=5) == []


def test_stop_names_the_host_that_cannot_be_reached_and_ends_the_rest(cluster):
    """A detached run whose controlling process was killed. It is remembered what may go on, and stopped later."""
    begun = cluster.command.finish(cluster.start(cluster.study(max_epochs=3000), "--detach"))
    assert begun.returncode == 0, begun.stderr
    follower = cluster.command.start("logs", cluster.run_dir, "-f")
    cluster.wait_for_epochs("2x1", 1, follower)
    os.kill(read_json(cluster.run_dir / ".holder")["pid"], signal.SIGKILL)
    cluster.command.finish(follower, deadline_s=20)
    cluster.hosts[1].stop()
    unknown = cluster.command("status", cluster.run_dir)
    assert unknown.returncode == 0
    assert "whether its ranks go on cannot be found out: two: it cannot be reached" in unknown.stderr
    done = cluster.command("stop", cluster.run_dir)
    assert done.returncode == 1
    assert "two: what runs there goes on; stop it once the host can be reached" in done.stderr
    left = [Path(f"/proc/{pid}/cmdline").read_text() for pid in cluster.running()]
    assert len(left) >= 3
    assert all("/host1/" in words for words in left), "those of host 0 have ended"
    cluster.hosts[1].start()
    again = cluster.command("stop", cluster.run_dir)
    assert again.returncode == 0, again.stderr
    assert cluster.running() == []
    assert not (cluster.run_dir / "job.json").exists(), "nothing is to be asked any more"


def test_a_foreground_run_ends_what_a_detached_one_has_left_and_goes_on_from_it(cluster):
    study = cluster.study(max_epochs=40)
    assert cluster.command.finish(cluster.start(study, "--detach")).returncode == 0
    follower = cluster.command.start("logs", cluster.run_dir, "-f")
    cluster.wait_for_epochs("2x1", 1, follower)
    os.kill(read_json(cluster.run_dir / ".holder")["pid"], signal.SIGKILL)
    cluster.command.finish(follower, deadline_s=20)
    done = cluster.command.finish(cluster.start(study), deadline_s=120)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        records = read_records(rank_file(cluster.trial("2x1"), rank))
        assert [record.epoch for record in records if record.kind == "epoch"] == list(range(40))


def test_a_wrong_interpreter_is_refused_before_anything_is_started(cluster):
    cluster.file.write_text(cluster.file.read_text() + 'python = "/nowhere/python"')
    done = cluster.command("run", cluster.study(max_epochs=1), "--cluster", cluster.file)
    assert done.returncode == 2
    assert "there is no interpreter /nowhere/python" in done.stderr
    assert not cluster.run_dir.exists()


def test_more_hosts_than_there_are_is_refused(cluster):
    """The cluster may be a table of the study, too."""
    study = cluster.study(max_epochs=1, scales='["3x1"]')
    study.write_text(study.read_text() + cluster.file.read_text())
    for options in ((), ("--cluster", cluster.file)):
        done = cluster.command("run", study, *options)
        assert done.returncode == 2
        assert "a scale needs 3 hosts, and the cluster has 2" in done.stderr
