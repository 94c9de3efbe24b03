"""The doctor on four hosts: a firewall, a wrong clock, a link that is down, a changed key."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.bed import Bed, wait_until

pytestmark = pytest.mark.timeout(180)


def examine(hosts: Bed, *options: str, nodes: tuple[str, ...] = ()):
    """Call ``paceline doctor --json`` on the control host; its exit code and what it found."""
    listed = ", ".join(f'"{node}"' for node in nodes or hosts.nodes)
    path = hosts.folder / "cluster.toml"
    path.write_text(f'[cluster]\nhosts = [{listed}]\nssh_config = "{hosts.ssh_config}"\n')
    program = Path(sys.executable).with_name("paceline")
    done = hosts.run_on_ctl([program, "doctor", path, "--json", *options], timeout_s=120.0)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def finding(found, check: str):
    return next(each for each in found["findings"] if each["check"] == check)


def test_four_sound_hosts_pass(hosts: Bed) -> None:
    """Addresses and cards by route; all twelve ways are open; all-reduces of four hosts are timed."""
    code, found = examine(hosts, "--workload", "lenet5-mnist")
    assert code == 0, found["findings"]
    addresses = {host["name"]: (host["interface"], host["address"]) for host in found["hosts"]}
    assert addresses == {node: ("eth0", hosts.address(node)) for node in hosts.nodes}
    assert len(found["pairs"]) == 12
    assert len(found["all_reduce"]) == 8
    assert "4 hosts: " in finding(found, "all-reduce")["evidence"]
    wait_until(lambda: not any(hosts.processes(node) for node in hosts.nodes), "the end of what the doctor started")


def test_a_firewall_that_leaves_ssh_open_is_named_by_its_pair(hosts: Bed) -> None:
    """Where training would hang without a word; only the ways to the host that is shut are blamed."""
    hosts.firewall("node3")
    code, found = examine(hosts)
    assert code == 1
    shut = {(way["source"], way["target"]) for way in found["pairs"] if way["error"]}
    assert shut == {(node, "node3") for node in hosts.nodes if node != "node3"}
    evidence = finding(found, "ports between hosts")["evidence"]
    assert "node1 cannot reach node3 on port " in evidence
    assert "let the firewalls pass all TCP ports between the hosts" in evidence
    assert finding(found, "all-reduce")["status"] == "not applicable"
    assert found["wall_time_s"] < 30


def test_a_way_that_is_shut_one_way_only_is_found(hosts: Bed) -> None:
    hosts.firewall("node2", source="node4")
    code, found = examine(hosts, "--no-sweep")
    assert code == 1
    assert [(way["source"], way["target"]) for way in found["pairs"] if way["error"]] == [("node4", "node2")]


@pytest.mark.usefixtures("faketime")
@pytest.mark.parametrize(
    ("seconds", "serious", "said"), [(5.0, False, "5.0 s ahead of"), (-90.0, True, "90.0 s behind")]
)
def test_a_wrong_clock_is_reported(hosts: Bed, seconds: float, serious: bool, said: str) -> None:
    """As a warning, or as a failure where silence could no longer be told by comparing clocks."""
    hosts.skew("node2", seconds)
    code, found = examine(hosts, "--no-sweep", nodes=("node1", "node2"))
    clocks = finding(found, "clocks")
    assert (clocks["status"], clocks["serious"], code) == ("fail", serious, int(serious))
    assert f"the clock of node2 is {said} the one here" in clocks["evidence"]


def test_a_host_without_power_is_named_and_the_others_are_examined(hosts: Bed) -> None:
    hosts.power_off("node4")
    code, found = examine(hosts, "--no-sweep")
    assert code == 1
    assert finding(found, "reachable, with an interpreter")["evidence"].startswith("node4: it cannot be reached")
    assert len(found["pairs"]) == 6


def test_nothing_is_left_on_hosts_when_the_doctor_is_killed(hosts: Bed) -> None:
    """In the middle of the all-reduces."""
    path = hosts.folder / "cluster.toml"
    path.write_text(f'[cluster]\nhosts = ["node1", "node2"]\nssh_config = "{hosts.ssh_config}"\n')
    doctor = hosts.start("ctl", [Path(sys.executable).with_name("paceline"), "doctor", path], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: hosts.processes("node2", "--num-hosts"), "the all-reduces", deadline_s=60.0)
    finally:
        hosts.signal(doctor, signal.SIGKILL)
        doctor.wait()
    wait_until(lambda: not any(hosts.processes(node) for node in hosts.nodes), "the end of what the doctor started")


def test_the_second_card_is_used_where_the_file_says_so(hosts: Bed) -> None:
    """For the ways between hosts and for all-reduces; ssh still goes by the first."""
    hosts.second_cards()
    path = hosts.folder / "cluster.toml"
    listed = ", ".join(f'{{ name = "{node}", interface = "eth1" }}' for node in hosts.nodes[:2])
    path.write_text(f'[cluster]\nhosts = [{listed}]\nssh_config = "{hosts.ssh_config}"\n')
    done = hosts.run_on_ctl([Path(sys.executable).with_name("paceline"), "doctor", path, "--json"], timeout_s=120.0)
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert [host["address"] for host in found["hosts"]] == [hosts.address(n, second=True) for n in hosts.nodes[:2]]
    assert finding(found, "all-reduce")["status"] == "pass"
