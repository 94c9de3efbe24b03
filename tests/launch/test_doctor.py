"""The doctor over real sshds on loopback addresses; what needs a network of its own is in ``tests/hosts``."""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from launch.sshd import hosts
from paceline.cluster import Cluster, Host
from paceline.launch import doctor_checks as checks
from paceline.launch.doctor import DataWanted, Diagnosis, examine
from paceline.launch.doctor_checks import GIB, HostFacts, Pair
from paceline.launch.doctor_probe import Probe
from paceline.launch.remote import HostError
from paceline.records import read_json

pytestmark = [pytest.mark.runs, pytest.mark.timeout(150)]

CHECKS = [
    "reachable, with an interpreter", "versions", "free disk", "free memory", "cores and threads", "load", "clocks",
    "data", "network cards", "ports between hosts", "round trips", "all-reduce",
]  # fmt: skip
DIGITS = DataWanted(datasets=("mnist-small",), data_dir=None)
ADDRESSES = {"alpha": "127.0.0.2", "beta": "127.0.0.3"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with hosts(tmp_path_factory.mktemp("bed"), addresses=ADDRESSES) as up:
        yield up


@pytest.fixture
def control_dir():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def cluster_of(up, *more: Host, **settings) -> Cluster:
    named = tuple(Host(name=host.name, address=host.address) for host in up)
    return Cluster(hosts=named + more, ssh_config=str(up[0].ssh_config), **settings)


def by_check(found: Diagnosis):
    return {finding.check: finding for finding in found.findings}


def test_two_sound_hosts_pass_and_the_sweep_is_stored(pair, control_dir, tmp_path):
    """Every check is made; ways, round trips and all-reduces from 1 kB to 16 MB can be read back."""
    found = examine(cluster_of(pair), control_dir=control_dir, data=DIGITS)
    assert [finding.check for finding in found.findings] == CHECKS
    assert found.failed == []
    assert by_check(found)["all-reduce"].status == "pass", by_check(found)["all-reduce"].evidence
    assert [entry.bytes for entry in found.all_reduce] == [1024 * 4**power for power in range(8)]
    assert all(entry.seconds > 0 for entry in found.all_reduce)
    assert {(way.source, way.target) for way in found.pairs} == {("alpha", "beta"), ("beta", "alpha")}
    assert all(0 < way.round_trip_s < 1 for way in found.pairs)
    assert [(host.address, host.interface) for host in found.hosts] == [(a, "lo") for a in ADDRESSES.values()]
    found.write(tmp_path)
    assert Diagnosis.model_validate(read_json(tmp_path / "doctor.json")) == found


def test_a_host_that_cannot_be_reached_fails_and_the_others_are_examined(pair, control_dir):
    nobody = Host(name="no-such-host.invalid")
    found = examine(cluster_of(pair, nobody), control_dir=control_dir)
    assert [finding.check for finding in found.failed] == ["reachable, with an interpreter"]
    assert found.failed[0].evidence.startswith("no-such-host.invalid: there is no host of that name")
    assert [host.name for host in found.hosts] == ["alpha", "beta"]
    assert by_check(found)["all-reduce"].evidence == "not all hosts reach each other"


def test_hosts_of_different_groups_need_not_reach_each_other(pair, control_dir):
    """Nor are hosts examined beyond those that are of interest."""
    apart = Cluster(
        hosts=(
            Host(name="alpha", address="127.0.0.2", group="one"),
            Host(name="no-such-host.invalid", group="one"),
            Host(name="beta", address="127.0.0.3", group="two"),
        ),
        ssh_config=str(pair[0].ssh_config),
    )
    found = examine(apart, control_dir=control_dir, num_hosts=1)
    assert found.failed == []
    assert [host.name for host in found.hosts] == ["alpha", "beta"]
    assert found.pairs == ()
    assert by_check(found)["all-reduce"].evidence == "fewer than two hosts"


def test_where_no_host_answers_that_is_all_that_is_said(pair, control_dir):
    found = examine(cluster_of(pair, python="/no/such/python"), control_dir=control_dir)
    assert [finding.check for finding in found.findings] == ["reachable, with an interpreter"]
    assert "alpha: there is no interpreter /no/such/python; name one by python =" in found.failed[0].evidence
    assert "beta: " in found.failed[0].evidence


def environment(folder: Path, *, without: str) -> str:
    """The interpreter of an environment with all packages of this one but those whose names hold ``without``."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    own = Path(sysconfig.get_path("purelib"))
    packages = folder / own.relative_to(sys.prefix)
    packages.mkdir(parents=True)
    for package in own.iterdir():
        if without not in package.name:
            (packages / package.name).symlink_to(package)
    return str(folder / "bin" / "python")


def test_an_interpreter_without_torch_is_named(pair, control_dir, tmp_path):
    found = examine(
        cluster_of(pair, python=environment(tmp_path / "without", without="torch")), control_dir=control_dir
    )
    assert [finding.check for finding in found.failed] == ["versions"]
    assert "alpha has no torch for " in found.failed[0].evidence
    assert by_check(found)["all-reduce"].evidence == "no torch on alpha, beta"


def test_hosts_that_have_no_paceline_yet_are_examined_all_the_same(pair, control_dir, tmp_path):
    """All but their data, of which only paceline can tell; a run sends both."""
    python = environment(tmp_path / "without", without="paceline")
    found = examine(cluster_of(pair, python=python), control_dir=control_dir, data=DIGITS)
    assert found.failed == []
    assert "paceline is missing on alpha, missing on beta" in by_check(found)["versions"].evidence
    assert by_check(found)["data"].evidence == "no host has paceline yet, which a run sends"
    assert by_check(found)["all-reduce"].status == "pass"


def test_wrong_addresses_and_cards_are_named(pair, control_dir):
    """With those that there are."""
    wrong = Cluster(
        hosts=(Host(name="alpha", address="192.0.2.1"), Host(name="beta", interface="eth9")),
        ssh_config=str(pair[0].ssh_config),
    )
    found = examine(wrong, control_dir=control_dir)
    evidence = by_check(found)["network cards"].evidence
    assert "alpha: the address 192.0.2.1 is none of this host's: " in evidence
    assert "beta: there is no network card eth9 with an address; there are " in evidence
    assert "network cards" in [finding.check for finding in found.failed]


@pytest.mark.parametrize(("is_sent", "word"), [(True, "warn"), (False, "fail")])
def test_data_that_is_not_there_stops_a_run_only_if_it_is_not_sent(pair, control_dir, tmp_path, is_sent, word):
    (tmp_path / "mnist").mkdir()
    embedded = Path(sys.modules["paceline"].__file__).parent / "data" / "embedded" / "mnist-small"
    for file in embedded.glob("*.gz"):
        (tmp_path / "mnist" / file.name).write_bytes(file.read_bytes())
    settings = {} if is_sent else {"data_dir": "/no/such"}
    wanted = DataWanted(datasets=("mnist",), data_dir=tmp_path)
    found = by_check(examine(cluster_of(pair, **settings), control_dir=control_dir, data=wanted, sweep=False))["data"]
    assert found.word == word, found
    assert "alpha: " in found.evidence


def test_this_machine_alone_needs_no_ssh(control_dir):
    found = examine(Cluster(kind="local"), control_dir=control_dir, data=DIGITS)
    assert [finding.check for finding in found.findings] == CHECKS
    assert found.failed == []
    assert by_check(found)["all-reduce"].status == "not applicable"


def test_another_host_that_answers_in_its_place_is_told_apart():
    """As where two networks use the same private addresses."""
    probe = Probe(Host(name="here"), None, sys.executable)
    try:
        opened = probe.ask("listen", address="127.0.0.1", num_ports=1)
        target = {"name": "beta", "address": "127.0.0.1", **opened}
        (right,) = probe.ask("reach", targets=[target], own="127.0.0.1", within_s=2.0)
        (wrong,) = probe.ask("reach", targets=[target | {"token": "0" * 16}], own="127.0.0.1", within_s=2.0)
    finally:
        probe.close()
    assert right["round_trip_s"] > 0
    assert wrong["error"] == "another host answers in its place"


def test_a_host_that_falls_silent_is_given_up():
    probe = Probe(Host(name="here"), None, sys.executable)
    try:
        with pytest.raises(HostError, match=r"here: it does not answer within 0 s"):
            probe.ask("clock", timeout_s=0.0)
    finally:
        probe.close()


def test_a_host_that_dies_while_it_is_asked_is_named():
    probe = Probe(Host(name="here"), None, sys.executable)
    try:
        probe.ask("clock")
        probe._process.kill()
        probe._process.wait()
        with pytest.raises(HostError, match=r"here: the connection was lost, or .* died: it said nothing"):
            probe.ask("clock")
    finally:
        probe.close()


def host(name: str = "alpha", **changes) -> HostFacts:
    sound = {
        "host": name, "executable": "/python", "python": "3.11.2", "packages": {"torch": "2.9", "paceline": "0.1"},
        "num_cores": 8, "num_physical_cores": 8, "omp_num_threads": "", "load": 0.1,
        "memory_available_bytes": 64 * GIB, "disk_free_bytes": 100 * GIB, "clock_skew_s": 0.01,
        "clock_uncertainty_s": 0.001,
    }  # fmt: skip
    return HostFacts.model_validate({"name": name, **sound, **changes})


HERE = {"torch": "2.9", "paceline": "0.1", "python": "3.11.2"}


@pytest.mark.parametrize(
    ("changes", "check", "word", "said"),
    [
        ({}, "", "", ""),
        ({"packages": {"paceline": "0.1"}}, "versions", "fail", "beta has no torch for /python: install 2.9 there"),
        ({"packages": {"torch": "2.8", "paceline": "0.1"}}, "versions", "fail", "torch is 2.9 on alpha, 2.8 on beta"),
        ({"packages": {"torch": "2.9"}}, "versions", "warn", "paceline is missing on beta, 0.1 here: a run sends its"),
        ({"python": "3.12.1"}, "versions", "warn", "Python is 3.11.2 on alpha, 3.12.1 on beta: use one version"),
        ({"disk_free_bytes": 3 * GIB}, "free disk", "warn", "beta has 3.00 GiB: free some, or name another folder"),
        ({"disk_free_bytes": 0}, "free disk", "fail", "beta has 0.00 GiB"),
        ({"memory_available_bytes": GIB}, "free memory", "warn", "beta has 1.00 GiB: end what else runs there"),
        ({"memory_available_bytes": 1}, "free memory", "fail", "beta has 0.00 GiB"),
        ({"num_cores": 4}, "cores and threads", "warn", "8 on alpha (of 8 physical), 4 on beta (of 8 physical): the"),
        ({"omp_num_threads": "1"}, "cores and threads", "warn", "OMP_NUM_THREADS=1 is set on beta"),
        ({"load": 4.0}, "load", "warn", "beta has a load of 4.00 on 8 cores: end what else runs there"),
        ({"clock_skew_s": -3.0}, "clocks", "warn", "the clock of beta is 3.0 s behind the one here: set it"),
        ({"clock_skew_s": 45.0}, "clocks", "fail", "the clock of beta is 45.0 s ahead of the one here"),
        ({"clock_skew_s": 0.9, "clock_uncertainty_s": 0.5}, "", "", ""),
    ],
)  # fmt: skip
def test_what_would_stop_or_spoil_a_run_fails_and_the_rest_warns(changes, check, word, said):
    """Each names the host and says what to do."""
    cluster = Cluster(hosts=(Host(name="alpha"), Host(name="beta")))
    found = checks.on_hosts([host(), host("beta", **changes)], cluster, HERE)
    wrong = {finding.check: finding for finding in found if finding.status != "pass"}
    assert list(wrong) == [check] * bool(check)
    if check:
        assert wrong[check].word == word
        assert said in wrong[check].evidence


def test_more_cores_or_ranks_than_a_host_has_are_reported():
    cluster = Cluster(hosts=(Host(name="alpha", cores=9), Host(name="beta", ranks=9)))
    asked = checks.cores([host(), host("beta")], cluster)
    assert asked.word == "fail"
    assert "alpha has 8 cores, the cluster file asks for 9" in asked.evidence
    assert "9 ranks share 8 cores of beta: their times measure contention" in asked.evidence


def test_a_host_far_from_the_others_is_named():
    ways = [Pair(source="a", target="b", round_trip_s=1e-4), Pair(source="b", target="a", round_trip_s=1e-4)]
    assert checks.round_trips(ways).word == "pass"
    far = checks.round_trips([*ways, Pair(source="a", target="c", round_trip_s=2e-2)])
    assert far.word == "warn"
    assert "at most 20.000 ms (a to c): far from the others" in far.evidence
