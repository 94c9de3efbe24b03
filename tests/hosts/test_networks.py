"""What a network does to a run: measured before it, counted during it, and said in its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paceline.analysis.load import load
from paceline.launch.doctor import Diagnosis
from paceline.records import Network, read_json
from testbed.bed import CONTROL, Bed

PACELINE = Path(sys.executable).with_name("paceline")
STUDY = """
name = "{name}"
seeds = [0]
aa_pair = false
scales = ["2x1"]
max_epochs = 1
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 40 }}

[workloads.lenet5-mnist]
dataset = "mnist-small"

[optimizers.adam]
"""

pytestmark = pytest.mark.timeout(240)


def run(bed: Bed, folder: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a study, which uses the first two hosts of three, from the control host."""
    (folder / f"{name}.toml").write_text(STUDY.format(name=name))
    (folder / "hosts.txt").write_text("node1\nnode2\nnode3\n")
    words = [PACELINE, "run", f"{name}.toml", "--cluster", "hosts.txt", *options]
    return bed.run(CONTROL, words, cwd=folder, timeout_s=90)


def sent_bytes(bed: Bed, host: str) -> int:
    """What its card has sent since it was plugged in."""
    return int(bed.run(host, ["cat", "/sys/class/net/eth0/statistics/tx_bytes"]).stdout)


def exposed(done: subprocess.CompletedProcess[str]) -> float:
    """The share of training time that computation did not hide, as the report has it."""
    (cell,) = json.loads(done.stdout)["cells"]
    return float(cell["time_split"]["communication"])


def all_reduced(network: Network) -> int:
    """The bytes that each of two hosts sent while the network was measured: half of what is reduced, twice."""
    return sum(entry.bytes * entry.repeats for entry in network.all_reduce)


def test_on_a_slow_network_communication_shows_and_is_counted_in_bytes_as_the_card_counts_them(
    hosts: Bed, tmp_path: Path
) -> None:
    """Within 10 %. The network itself is measured before the first trial, and said in the report."""
    fast = run(hosts, tmp_path, "fast", "--no-check", "--json")
    assert fast.returncode == 0, fast.stderr
    for host in hosts.nodes[:2]:
        hosts.bandwidth(host, 100)
    before = sent_bytes(hosts, "node2")
    slow = run(hosts, tmp_path, "slow", "--no-check", "--json")
    by_card = sent_bytes(hosts, "node2") - before
    assert slow.returncode == 0, slow.stderr
    assert exposed(slow) > exposed(fast) + 0.1
    found = load(tmp_path / "runs" / "slow")
    ((end,),) = [[rank.end for rank in result.ranks if rank.rank == 1] for result in found.results]
    (network,) = found.networks
    assert by_card - all_reduced(network) == pytest.approx(end.bytes_sent, rel=0.1)
    assert 50 < 8 * network.all_reduce[-1].bandwidth / 1e6 < 110
    page = (tmp_path / "runs" / "slow" / "report.html").read_text(encoding="utf-8")
    assert f"All-reduce between {network.in_words()}." in page


def test_a_run_examines_its_hosts_first_and_refuses_what_would_hang(hosts: Bed, tmp_path: Path) -> None:
    """In the doctor's words, with exit code 1; only the hosts that the study uses. Continued, it examines anew."""
    hosts.firewall("node2")
    hosts.power_off("node3")
    refused = run(hosts, tmp_path, "guarded")
    assert refused.returncode == 1
    assert "node1 cannot reach node2 on port" in refused.stderr
    assert "let the firewalls pass all TCP ports between the hosts" in refused.stderr
    assert "node3" not in refused.stderr
    assert not list(tmp_path.glob("runs/guarded/*/rank-*.jsonl")), "a rank was started"
    hosts.restore()
    done = run(hosts, tmp_path, "guarded")
    assert done.returncode == 0, done.stderr
    found = Diagnosis.model_validate(read_json(tmp_path / "runs" / "guarded" / "doctor.json"))
    assert [host.name for host in found.hosts] == ["node1", "node2"]
    assert found.failed == []
    print(f"examined in {found.wall_time_s:.1f} s")  # noqa: T201
