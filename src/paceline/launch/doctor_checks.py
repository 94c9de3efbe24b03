"""What was found on hosts, and what follows from it: one finding a check, over all hosts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from paceline.cluster import Cluster
from paceline.records import AllReduce, Finding, Network

GIB = 2**30
FEW_DISK_BYTES, TOO_FEW_DISK_BYTES = 5 * GIB, GIB // 5
FEW_MEMORY_BYTES, TOO_FEW_MEMORY_BYTES = 2 * GIB, GIB // 4
MOST_SKEW_S = 0.5
MOST_LOAD_PER_CORE = 0.25


class Symptom(Finding):
    """A finding on hosts; one that fails without being ``serious`` is a warning: it neither stops nor spoils a run."""

    serious: bool = True

    @property
    def word(self) -> str:
        """Its status, or ``warn``."""
        return "warn" if self.status == "fail" and not self.serious else self.status


class Trouble(NamedTuple):
    """What is wrong with one host or pair, and what to do."""

    text: str
    serious: bool = True


class HostFacts(BaseModel):
    """What one host says of itself; ``clock_skew_s`` is how far its clock is ahead of the one here, give or take."""

    model_config = ConfigDict(frozen=True)

    name: str
    host: str
    executable: str
    python: str
    packages: dict[str, str]
    num_cores: int
    num_physical_cores: int | None
    omp_num_threads: str
    load: float
    memory_available_bytes: int | None
    disk_free_bytes: int
    clock_skew_s: float
    clock_uncertainty_s: float
    address: str = ""
    interface: str = ""


class Pair(BaseModel):
    """One way between two hosts; ``error`` is empty where every port could be reached."""

    model_config = ConfigDict(frozen=True)

    source: str
    target: str
    port: int = 0
    error: str = ""
    round_trip_s: float | None = None


def conclude(check: str, troubles: Sequence[Trouble], evidence: str) -> Symptom:
    """Pass with ``evidence`` where there is no trouble."""
    if not troubles:
        return Symptom(check=check, status="pass", evidence=evidence)
    said = "; ".join(trouble.text for trouble in troubles)
    return Symptom(check=check, status="fail", evidence=said, serious=any(trouble.serious for trouble in troubles))


def not_applicable(check: str, why: str) -> Symptom:
    """A check that could not, or need not, be made."""
    return Symptom(check=check, status="not applicable", evidence=why)


def on_hosts(hosts: Sequence[HostFacts], cluster: Cluster, here: Mapping[str, str]) -> list[Symptom]:
    """The checks that need each host's own facts; ``here``: versions of python and packages on this machine."""
    return [
        versions(hosts, here, makes_environment=cluster.wheelhouse is not None),
        disk(hosts, cluster.folder),
        memory(hosts),
        cores(hosts, cluster),
        load(hosts),
        clocks(hosts, cluster.heartbeat_timeout_s),
    ]


def versions(hosts: Sequence[HostFacts], here: Mapping[str, str], *, makes_environment: bool) -> Symptom:
    """torch must be there, or a wheelhouse, and the same on all hosts; paceline is sent where it differs."""
    cure = "a run makes an environment of the wheelhouse" if makes_environment else f"install {here['torch']} there"
    troubles = [
        Trouble(f"{host.name} has no torch for {host.executable}: {cure}", serious=not makes_environment)
        for host in hosts
        if not host.packages.get("torch")
    ]
    found = {host.name: host.packages.get("torch") for host in hosts if host.packages.get("torch")}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{version} on {name}" for name, version in found.items())
        troubles.append(Trouble(f"torch is {said}: install the same on all, results and speed depend on it"))
    for package, cure in (("torch", "ranks use that of the hosts"), ("paceline", "a run sends its own")):
        other = {host.name: host.packages.get(package, "missing") for host in hosts}
        said = ", ".join(f"{version} on {name}" for name, version in other.items() if version != here[package])
        if said and not (package == "torch" and troubles):
            troubles.append(Trouble(f"{package} is {said}, {here[package]} here: {cure}", serious=False))
    pythons = {host.python.rpartition(".")[0] for host in hosts}
    if len(pythons) > 1:
        said = ", ".join(f"{host.python} on {host.name}" for host in hosts)
        troubles.append(Trouble(f"Python is {said}: use one version", serious=False))
    said = f"torch {here['torch']} and paceline {here['paceline']} as here, Python {hosts[0].python}"
    return conclude("versions", troubles, said)


def disk(hosts: Sequence[HostFacts], folder: str) -> Symptom:
    """Records, checkpoints and logs need room."""
    return _enough(
        "free disk",
        {host.name: host.disk_free_bytes for host in hosts},
        FEW_DISK_BYTES,
        TOO_FEW_DISK_BYTES,
        f"free some, or name another folder than {folder} in the cluster file",
    )


def memory(hosts: Sequence[HostFacts]) -> Symptom:
    """A rank takes some hundred MB before any data."""
    available = {host.name: host.memory_available_bytes for host in hosts if host.memory_available_bytes is not None}
    if not available:
        return not_applicable("free memory", "the system does not say")
    return _enough("free memory", available, FEW_MEMORY_BYTES, TOO_FEW_MEMORY_BYTES, "end what else runs there")


def _enough(check: str, of_hosts: Mapping[str, int], few: int, too_few: int, cure: str) -> Symptom:
    troubles = [
        Trouble(f"{name} has {_gib(number)}: {cure}", serious=number < too_few)
        for name, number in of_hosts.items()
        if number < few
    ]
    return conclude(check, troubles, f"{_gib(min(of_hosts.values()))} or more")


def _gib(number: int) -> str:
    return f"{number / GIB:.2f} GiB"


def cores(hosts: Sequence[HostFacts], cluster: Cluster) -> Symptom:
    """Hosts that differ make the slowest one's speed that of all."""
    wanted = {host.name: host for host in cluster.hosts}
    troubles = []
    for host in hosts:
        asked = wanted[host.name].cores if host.name in wanted else "auto"
        ranks = wanted[host.name].ranks if host.name in wanted else "auto"
        if asked != "auto" and asked > host.num_cores:
            troubles.append(Trouble(f"{host.name} has {host.num_cores} cores, the cluster file asks for {asked}"))
        if ranks != "auto" and ranks > host.num_cores:
            text = f"{ranks} ranks share {host.num_cores} cores of {host.name}: their times measure contention"
            troubles.append(Trouble(text, serious=False))
        if host.omp_num_threads:
            text = f"OMP_NUM_THREADS={host.omp_num_threads} is set on {host.name}: the study's threads_per_rank counts"
            troubles.append(Trouble(text, serious=False))
    said = ", ".join(f"{host.num_cores} on {host.name}{_physical(host)}" for host in hosts)
    if len({(host.num_cores, host.num_physical_cores) for host in hosts}) > 1:
        troubles.append(Trouble(f"{said}: the slowest host sets the pace of all", serious=False))
    return conclude("cores and threads", troubles, said)


def _physical(host: HostFacts) -> str:
    return f" (of {host.num_physical_cores} physical)" if host.num_physical_cores else ""


def load(hosts: Sequence[HostFacts]) -> Symptom:
    """Whatever else runs there takes time from the ranks."""
    troubles = [
        Trouble(f"{host.name} has a load of {host.load:.2f} on {host.num_cores} cores: end what else runs there", False)
        for host in hosts
        if host.load > MOST_LOAD_PER_CORE * host.num_cores
    ]
    return conclude("load", troubles, f"at most {max(host.load for host in hosts):.2f}")


def clocks(hosts: Sequence[HostFacts], heartbeat_timeout_s: float) -> Symptom:
    """Training is timed by each rank's own clock, but who failed first and who is silent is told by comparing them."""
    troubles = []
    for host in hosts:
        off = abs(host.clock_skew_s)
        if off - host.clock_uncertainty_s > MOST_SKEW_S:
            side = "ahead of" if host.clock_skew_s > 0 else "behind"
            text = f"the clock of {host.name} is {off:.1f} s {side} the one here: set it (chrony, ntpd)"
            troubles.append(Trouble(text, serious=off > heartbeat_timeout_s / 2))
    worst = max(hosts, key=lambda host: abs(host.clock_skew_s))
    said = f"at most {abs(worst.clock_skew_s) * 1e3:.0f} ms off, give or take {worst.clock_uncertainty_s * 1e3:.0f} ms"
    return conclude("clocks", troubles, said)


def interfaces(hosts: Sequence[HostFacts], troubles: Mapping[str, str]) -> Symptom:
    """Which network card each host uses, and its address there."""
    said = ", ".join(f"{host.name} {host.interface or 'unknown'} {host.address}" for host in hosts)
    wrong = [Trouble(f"{text}; correct address or interface in the cluster file") for text in troubles.values()]
    return conclude("network cards", wrong, said)


def ports(pairs: Sequence[Pair]) -> Symptom:
    """Ranks connect to each other on ports that the system chooses, every one to every other."""
    troubles = [
        Trouble(
            f"{pair.source} cannot reach {pair.target} on port {pair.port} ({pair.error}): let the firewalls pass all "
            "TCP ports between the hosts, or name the address or interface to use in the cluster file"
        )
        for pair in pairs
        if pair.error
    ]
    return conclude("ports between hosts", troubles, f"all {len(pairs)} ways are open")


def round_trips(pairs: Sequence[Pair]) -> Symptom:
    """Hosts far apart from the rest slow every update down."""
    times = {(pair.source, pair.target): pair.round_trip_s for pair in pairs if pair.round_trip_s is not None}
    if not times:
        return not_applicable("round trips", "no pair could be timed")
    usual, worst = statistics.median(times.values()), max(times, key=lambda pair: times[pair])
    said = f"{usual * 1e3:.3f} ms, at most {times[worst] * 1e3:.3f} ms ({worst[0]} to {worst[1]})"
    is_far = times[worst] > max(5 * usual, 2e-3)
    troubles = [Trouble(f"{said}: far from the others; use hosts that are near to each other", False)] if is_far else []
    return conclude("round trips", troubles, said)


def sweep(measured: Sequence[AllReduce], num_hosts: int) -> Symptom:
    """What an all-reduce between the hosts takes."""
    return conclude("all-reduce", (), Network(num_hosts=num_hosts, backend="gloo", all_reduce=measured).in_words())


def data(
    digests: Mapping[str, Mapping[str, str]], troubles: Mapping[str, str], wanted: str, *, is_sent: bool
) -> Symptom:
    """The data must be the same as here; without ``data_dir`` in the cluster file it is sent."""
    cure = "a run sends it" if is_sent else "put it there, or leave data_dir out of the cluster file, and it is sent"
    said = [text.splitlines()[0] for text in troubles.values()]
    said += [
        f"{name} has other data for {found['dataset']}, digest {found['digest'][:12]} and not {wanted[:12]}"
        for name, found in digests.items()
        if found["digest"] != wanted
    ]
    wrong = [Trouble(f"{text}: {cure}", serious=not is_sent) for text in said]
    return conclude("data", wrong, f"digest {wanted[:12]}, as here")
