"""``paceline logs --rank``: ranks are counted over all hosts of a job, and in each group of hosts."""

import os

import pytest

from analysis.synthetic import make_run, make_study
from command_line import CommandLine
from launch.studies import write_study
from paceline.cli import main
from paceline.job import RANKS_FILE
from paceline.records import write_json


def leave_logs(folder, *, group="", hosts=("node1", "node2"), ranks_per_host=2):
    """What agents leave of a job: below each host's folder, elastic numbers its ranks from 0."""
    for node, host in enumerate(hosts):
        place = folder / "logs" / group / host
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / RANKS_FILE, list(range(node * ranks_per_host, (node + 1) * ranks_per_host)))
        (place / "agent.log").write_text(f"agent of {group}{host}\n")
        for local in range(ranks_per_host):
            own = place / f"run_x{node}" / "attempt_0" / str(local)
            own.mkdir(parents=True)
            (own / "stderr.log").write_text(f"rank {node * ranks_per_host + local} of {group}\n")


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path, make_study(seeds=[0], optimizers={"sgd": {}}))


@pytest.mark.parametrize("hosts", [("",), ("node2", "node1"), ("a", "b", "c")])
def test_a_rank_is_counted_over_all_hosts(folder, capsys, hosts):
    """One machine has no folder for its host; and the order of hosts is not that of their names."""
    leave_logs(folder, hosts=hosts)
    for rank in range(2 * len(hosts)):
        assert main(["logs", str(folder), "--rank", str(rank)]) == 0
        title, said = capsys.readouterr().out.splitlines()
        assert said == f"rank {rank} of "
        assert title.startswith("==> " + "/".join(filter(None, (hosts[rank // 2], f"run_x{rank // 2}/"))))


def test_that_rank_of_each_group(folder, capsys):
    leave_logs(folder, group="east", hosts=("node1", "node2"))
    leave_logs(folder, group="west", hosts=("node3", "node4"))
    assert main(["logs", str(folder), "--rank", "3"]) == 0
    out = capsys.readouterr().out
    assert sorted(line for line in out.splitlines() if line.startswith("rank")) == ["rank 3 of east", "rank 3 of west"]
    assert "==> east/node2/run_x1/attempt_0/1/stderr.log <==" in out
    assert main(["logs", str(folder)]) == 0
    assert capsys.readouterr().out.count("agent of") == 4


@pytest.mark.parametrize("rank", ["4", "-1"])
def test_a_rank_that_the_run_has_not_is_wrong_use(folder, capsys, rank):
    leave_logs(folder)
    assert main(["logs", str(folder), f"--rank={rank}"]) == 2
    assert f"the run has no rank {rank}; its ranks are 0 to 3" in capsys.readouterr().err


def test_before_the_first_job_a_rank_has_said_nothing(folder, capsys):
    assert main(["logs", str(folder), "--rank", "7"]) == 0
    assert capsys.readouterr().out == ""


CHATTY = """
import sys
import torch
import torch.distributed as dist

def build(parameters, hyperparameters):
    sys.stderr.write(f"this is rank {dist.get_rank()}\\n")
    return torch.optim.SGD(parameters, **hyperparameters)
"""


def test_what_real_ranks_say_is_shown_rank_by_rank_after_the_run(tmp_path):
    (tmp_path / "chatty.py").write_text(CHATTY)
    command = CommandLine(tmp_path)
    study = write_study(
        tmp_path, name="chat", scales="[2]", optimizers='[optimizers.sgd]\nname = "chatty:build"\nlr = 0.1'
    )
    path = os.pathsep.join((command.environment["PYTHONPATH"], str(tmp_path)))
    done = command("run", study, "--no-check", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        said = command("logs", tmp_path / "runs" / "chat", "--rank", str(rank)).stdout
        assert f"this is rank {rank}\n" in said
        assert f"this is rank {1 - rank}" not in said
    asked = command("logs", tmp_path / "runs" / "chat", "--rank", "2")
    assert asked.returncode == 2
    assert "its ranks are 0 to 1" in asked.stderr
