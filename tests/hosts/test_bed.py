"""The bed is what its tests take it for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from testbed.bed import CONTROL, Bed

# Waits for one connection, takes all that comes, says when the last byte was there.
RECEIVE = """
import socket, sys, time
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    begin, received = time.monotonic(), 0
    while chunk := connection.recv(1 << 16):
        received += len(chunk)
    print(received, time.monotonic() - begin)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2.0) as connection:
    connection.settimeout(30.0)
    connection.sendall(bytes(int(sys.argv[3])))
"""


def transfer(
    bed: Bed, sender: str, receiver: str, *, port: int = 5000, num_bytes: int = 1000, second: bool = False
) -> float | None:
    """Send bytes from host to host; bit/s, or None if no connection was made within 2 s."""
    server = bed.start(receiver, [sys.executable, "-c", RECEIVE, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        sent = bed.run(
            sender, [sys.executable, "-c", SEND, bed.address(receiver, second=second), str(port), str(num_bytes)]
        )
        if sent.returncode:
            assert "TimeoutError" in sent.stderr, sent.stderr
            return None
        received, seconds = server.communicate(timeout=30)[0].split()
        assert int(received) == num_bytes
        return 8 * num_bytes / float(seconds)
    finally:
        bed.signal(server, signal.SIGKILL)
        server.communicate()


def test_every_host_reaches_every_other(hosts: Bed) -> None:
    for sender in hosts.nodes:
        for receiver in hosts.nodes:
            assert transfer(hosts, sender, receiver)


def test_ssh_reaches_every_host_and_each_is_itself(hosts: Bed) -> None:
    for node in hosts.nodes:
        done = hosts.ssh(node, "hostname")
        assert (done.returncode, done.stdout) == (0, f"{node}\n"), done.stderr
    assert hosts.run_on_ctl(["ssh", "node2", "hostname"]).stdout == "node2\n", "the control host's own ssh_config"


def test_the_program_runs_on_every_host_from_the_same_interpreter(hosts: Bed) -> None:
    for host in hosts.hosts:
        imports = "import paceline, torch" if host == "node1" else "import paceline"  # torch takes seconds
        done = hosts.run(host, [sys.executable, "-c", f"{imports}; print(paceline.__file__)"])
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(Path(__file__).parents[2] / "src/paceline/__init__.py")


def test_a_host_key_that_is_not_known_is_refused(hosts: Bed, tmp_path: Path) -> None:
    known = hosts.known_hosts.read_text(encoding="utf-8")
    swapped = known.replace("node1 ", "other ").replace("node2 ", "node1 ")
    forged, config = tmp_path / "known_hosts", tmp_path / "ssh_config"
    for lines, complaint in ((swapped, "REMOTE HOST IDENTIFICATION HAS CHANGED"), ("", "Host key verification failed")):
        forged.write_text(lines, encoding="utf-8")
        settings = hosts.ssh_config.read_text(encoding="utf-8").replace(str(hosts.known_hosts), str(forged))
        config.write_text(settings, encoding="utf-8")
        done = hosts.run_on_ctl(["ssh", "-F", config, "node1", "hostname"])
        assert done.returncode == 255
        assert complaint in done.stderr


def test_homes_temporary_folders_shared_memory_and_processes_are_private(hosts: Bed) -> None:
    for place in (hosts.user_home, "/tmp", "/dev/shm"):
        hosts.run("node1", ["touch", f"{place}/of-node1"])
        assert hosts.run("node1", ["test", "-e", f"{place}/of-node1"]).returncode == 0
        for host in ("node2", CONTROL):
            assert hosts.run(host, ["test", "-e", f"{place}/of-node1"]).returncode == 1
        assert not Path(place, "of-node1").exists()
    assert (hosts.home("node1") / "of-node1").exists()
    hosts.run("node1", ["touch", hosts.shared / "of-node1"])
    assert hosts.run("node4", ["test", "-e", hosts.shared / "of-node1"]).returncode == 0

    sleeper = hosts.start("node1", ["sleep", "4321"])
    list_processes = [sys.executable, "-c", "import psutil; print([p.cmdline() for p in psutil.process_iter()])"]
    assert "4321" in hosts.run("node1", list_processes).stdout
    assert "4321" not in hosts.run("node2", list_processes).stdout
    assert [process.cmdline() for process in hosts.processes("node1", "4321")] == [["sleep", "4321"]]
    assert hosts.processes("node2", "4321") == []
    hosts.signal(sleeper, signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM


def test_the_repository_cannot_be_written_where_the_home_hides_it(hosts: Bed) -> None:
    """Where it lies elsewhere, it is the machine's own."""
    repository = Path(__file__).parents[2]
    for host in hosts.hosts:
        hidden = repository.is_relative_to(hosts.user_home) or (host != CONTROL and repository.is_relative_to("/tmp"))
        assert hosts.run(host, ["test", "-w", repository / "tests"]).returncode == (1 if hidden else 0)


def test_a_host_without_power_is_silent_and_comes_back_with_its_files(hosts: Bed) -> None:
    hosts.run("node3", ["touch", "kept"])
    victim = hosts.start("node3", ["sleep", "4322"])
    listen = [sys.executable, "-c", RECEIVE, "5001"]
    server = hosts.start("node4", listen, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    hold = "import socket, time; held = socket.create_connection(('node4', 5001)); print('held'); time.sleep(99)"
    client = hosts.start("node3", [sys.executable, "-u", "-c", hold], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "held\n"

    hosts.power_off("node3")
    assert victim.wait(10) == -signal.SIGKILL
    client.communicate(timeout=10)
    time.sleep(0.5)
    assert server.poll() is None, "the peer heard of the power cut"
    assert hosts.run_on_ctl(["ssh", "-o", "ConnectTimeout=1", "node3", "hostname"]).returncode == 255
    assert hosts.processes("node3") == []

    hosts.power_on("node3")
    assert hosts.ssh("node3", "ls", "kept").stdout == "kept\n"
    hosts.signal(server, signal.SIGKILL)
    server.communicate(timeout=10)


def test_a_link_can_go_down_without_a_word_and_up_again(hosts: Bed) -> None:
    hosts.link("node2", up=False)
    assert transfer(hosts, "node1", "node2") is None
    assert transfer(hosts, "node2", "node1") is None
    assert "NO-CARRIER" not in hosts.run("node2", ["ip", "link", "show", "eth0"]).stdout
    assert transfer(hosts, "node1", "node3")
    hosts.link("node2", up=True)
    assert transfer(hosts, "node1", "node2")


def test_a_firewall_leaves_only_the_ports_named_open(hosts: Bed) -> None:
    hosts.firewall("node3", open_ports=(22, 5002))
    assert transfer(hosts, "node1", "node3", port=5003) is None
    assert transfer(hosts, "node1", "node3", port=5002)
    assert transfer(hosts, "node3", "node1", port=5003), "the way out is open"
    assert hosts.ssh("node3", "hostname").returncode == 0


def test_a_firewall_against_one_host_lets_the_others_in(hosts: Bed) -> None:
    hosts.firewall("node3", source="node1")
    assert transfer(hosts, "node1", "node3") is None
    assert transfer(hosts, "node2", "node3")


def test_bandwidth_is_limited_both_ways(hosts: Bed) -> None:
    fast = transfer(hosts, "node1", "node2", num_bytes=20_000_000)
    hosts.bandwidth("node2", 50)
    for sender, receiver in (("node1", "node2"), ("node2", "node1")):
        limited = transfer(hosts, sender, receiver, num_bytes=5_000_000)
        assert fast is not None and limited is not None
        assert 0.7 * 50e6 < limited < 1.1 * 50e6 < fast


def test_the_counters_of_a_card_are_its_own(hosts: Bed) -> None:
    def received() -> int:
        return int(hosts.run("node2", ["cat", "/sys/class/net/eth0/statistics/rx_bytes"]).stdout)

    before = received()
    assert transfer(hosts, "node1", "node2", num_bytes=5_000_000)
    assert 5_000_000 < received() - before < 5_500_000


def test_a_disk_can_be_full_on_one_host(hosts: Bed) -> None:
    folder = hosts.user_home / "small"
    hosts.small_disk("node2", folder, 1)
    write = ["dd", "if=/dev/zero", f"of={folder}/zeros", "bs=1M", "count=2"]
    assert "No space left on device" in hosts.run("node2", write).stderr
    hosts.restore()
    assert hosts.run("node2", write).returncode == 0


@pytest.mark.usefixtures("faketime")
def test_a_clock_can_be_wrong_on_one_host(hosts: Bed) -> None:
    clocks = [sys.executable, "-c", "'import time; print([time.time(), time.monotonic()])'"]
    hosts.skew("node2", 90)
    for node, ahead_s in (("node1", 0), ("node2", 90)):
        wall, monotonic = json.loads(hosts.ssh(node, *clocks).stdout)
        assert abs(wall - time.time() - ahead_s) < 2
        assert abs(monotonic - time.monotonic()) < 2
    hosts.restore()
    assert abs(json.loads(hosts.ssh("node2", *clocks).stdout)[0] - time.time()) < 2


def test_a_second_card_is_a_network_apart(hosts: Bed) -> None:
    hosts.second_cards()
    address = hosts.address("node2", second=True)
    assert " eth1 " in hosts.run("node1", ["ip", "route", "get", address]).stdout
    hosts.link("node2", up=False)
    assert transfer(hosts, "node1", "node2") is None
    assert transfer(hosts, "node1", "node2", second=True)


def test_a_second_card_can_be_slow(hosts: Bed) -> None:
    connect = """
import socket, sys, time
with socket.create_server(("", 0)) as here, socket.socket() as there:
    begin = time.monotonic()
    there.connect_ex((sys.argv[1], 9))  # nobody listens: the refusal is one round trip
    print(time.monotonic() - begin)
"""
    hosts.second_cards({"node1": 20.0, "node2": 30.0})
    for receiver, round_trip_s in (("node2", 0.05), ("node3", 0.02)):
        arguments = [sys.executable, "-c", connect, hosts.address(receiver, second=True)]
        shortest = min(float(hosts.run("node1", arguments).stdout) for _ in range(5))
        assert round_trip_s <= shortest < round_trip_s + 0.015
    assert transfer(hosts, "node1", "node2", second=True, num_bytes=5_000_000)


def test_two_beds_stand_side_by_side(hosts: Bed) -> None:
    before = set(psutil.Process().children(recursive=True))
    with Bed(2) as other:
        sleeper = other.start(CONTROL, ["sleep", "4323"])
        hosts.run("node1", ["touch", "of-the-first"])
        assert other.ssh("node1", "test", "-e", "of-the-first").returncode == 1
        assert transfer(other, "node1", "node2")
        assert transfer(hosts, "node1", "node2")
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not other.folder.exists()
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_bed_ends_with_the_process_that_made_it(hosts: Bed, tmp_path: Path) -> None:
    make = "from testbed.bed import Bed; bed = Bed(1).__enter__(); bed.start('node1', ['sleep', '4324']); "
    maker = subprocess.Popen(
        [sys.executable, "-c", make + "print('ready', flush=True); input()"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert maker.stdout is not None
    assert maker.stdout.readline() == b"ready\n"
    made = psutil.Process(maker.pid).children(recursive=True)
    assert len(made) > 4
    maker.kill()
    maker.communicate(timeout=10)
    _, alive = psutil.wait_procs(made, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
