"""``paceline doctor``."""

from __future__ import annotations

import json

import pytest

from launch.sshd import hosts
from ranks import free_port

pytestmark = [pytest.mark.runs, pytest.mark.timeout(120)]


def test_a_plain_file_of_hosts_is_examined(paceline, tmp_path):
    """One finding a check on standard output; ssh is told of hosts by the user's own settings or by the file's."""
    with hosts(tmp_path / "bed", addresses={"alpha": "127.0.0.1"}) as (host,):
        (tmp_path / "cluster.toml").write_text(f'[cluster]\nhosts = ["alpha"]\nssh_config = "{host.ssh_config}"\n')
        done = paceline("doctor", "cluster.toml", "--workload", "logreg-mnist", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert [host["name"] for host in found["hosts"]] == ["alpha"]
    assert {finding["check"]: finding["status"] for finding in found["findings"]}["data"] == "pass"
    assert list(tmp_path.glob("runs")) == []


def test_a_host_that_is_down_ends_with_1_and_says_what_to_do(paceline, tmp_path):
    (tmp_path / "ssh_config").write_text(f"Host down\n  HostName 127.0.0.1\n  Port {free_port()}\n")
    (tmp_path / "cluster.toml").write_text('[cluster]\nhosts = ["down"]\nssh_config = "ssh_config"\n')
    done = paceline("doctor", "cluster.toml")
    assert done.returncode == 1
    first, last = done.stdout.splitlines()
    assert first.startswith("fail            reachable, with an interpreter: down: it cannot be reached: is it up, ")
    assert last.startswith("0 hosts examined in ")


def test_a_warning_is_no_failure(paceline, tmp_path):
    (tmp_path / "here.toml").write_text('[cluster]\nkind = "local"\n')
    done = paceline("doctor", "here.toml", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "warn            cores and threads: OMP_NUM_THREADS=1 is set on localhost" in done.stdout


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("-oProxyCommand=x\n", (), "a host is a name of ssh_config or"),
        ("node1\n", ("--workload", "lenet"), "unknown workload 'lenet': "),
    ],
)  # fmt: skip
def test_wrong_use_is_refused_before_anything_is_started(paceline, tmp_path, text, options, said):
    (tmp_path / "hosts.txt").write_text(text)
    done = paceline("doctor", "hosts.txt", *options)
    assert done.returncode == 2
    assert said in done.stderr


def test_where_there_is_no_slurm_that_is_said(paceline, tmp_path):
    """Neither its commands, or else a controller that answers."""
    (tmp_path / "cluster.toml").write_text('[cluster]\nkind = "slurm"\n')
    done = paceline("doctor", "cluster.toml")
    assert done.returncode == 1
    assert "there is no sbatch" in done.stdout or "Slurm does not answer" in done.stdout
