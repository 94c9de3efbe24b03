"""Examine hosts before a run: in parallel, each through one conversation, then every pair, then all together."""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import paceline
from paceline.cluster import Cluster
from paceline.data.catalog import dataset_digest, find_first
from paceline.errors import UsageError
from paceline.launch import doctor_checks as checks
from paceline.launch.doctor_checks import HostFacts, Pair, Symptom, Trouble, not_applicable
from paceline.launch.doctor_probe import Probe, conversations, end, on_all
from paceline.launch.doctor_slurm import examine_slurm
from paceline.launch.probe_host import PACKAGES
from paceline.launch.remote import HostError
from paceline.records import AllReduce, write_json

NUM_PORTS = 3  # opened on each host: a firewall seldom lets through all of them by chance
CONNECT_TIMEOUT_S = 2.0
SWEEP_TIMEOUT_S = 60.0
SWEEP = Path(paceline.__file__).parent / "train" / "sweep.py"  # of the rank side: read here, not imported


class Diagnosis(BaseModel):
    """What was found, ``doctor.json``; ``pairs`` holds every ordered pair of hosts that answered."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    time: float = Field(default_factory=time.time)
    wall_time_s: float
    hosts: tuple[HostFacts, ...]
    pairs: tuple[Pair, ...]
    all_reduce: tuple[AllReduce, ...]
    findings: tuple[Symptom, ...]

    @property
    def failed(self) -> list[Symptom]:
        """What would stop or spoil a run."""
        return [finding for finding in self.findings if finding.status == "fail" and finding.serious]

    def write(self, run_dir: Path) -> None:
        """Store it with a run's results."""
        write_json(run_dir / "doctor.json", self.model_dump(mode="json"))


@dataclass(frozen=True, kw_only=True)
class DataWanted:
    """The data set that hosts must have: the first of ``datasets`` that is found, here in ``data_dir``."""

    datasets: tuple[str, ...]
    data_dir: Path | None


def examine(
    cluster: Cluster,
    *,
    control_dir: Path,
    data: DataWanted | None = None,
    num_hosts: int | None = None,
    sweep: bool = True,
) -> Diagnosis:
    """Examine every host of a cluster, or this machine where ``kind = "local"``; of Slurm, what it says of its nodes.

    Hosts of different groups need not reach each other.

    Args:
        control_dir: as of ``Remote``.
        num_hosts: how many hosts of each group are of interest, the first ones; all if left out.
        sweep: whether to time all-reduces between the hosts of the first group, which takes most of the time.
    Raises: UsageError for kinds other than these three; DataError if the data is not here.
    """
    began = time.monotonic()
    if cluster.kind == "slurm":
        findings = examine_slurm(cluster)
        return Diagnosis(
            wall_time_s=time.monotonic() - began, hosts=(), pairs=(), all_reduce=(), findings=tuple(findings)
        )
    if cluster.kind not in ("ssh", "local"):
        raise UsageError(f"only hosts reached by ssh, and this machine, can be examined, not those of {cluster.kind}")
    cluster = _of_interest(cluster, num_hosts)
    with conversations(cluster, control_dir=control_dir) as (begun, unreached):
        facts, lost = on_all(begun, lambda probe: _facts(probe, cluster.folder))
        probes = {name: begun[name] for name in facts}
        ways, no_way = _routes(probes)
        hosts = [host.model_copy(update=ways.get(host.name, {})) for host in facts.values()]
        findings = [_reachability(hosts, unreached | lost)]
        pairs: list[Pair] = []
        measured: list[AllReduce] = []
        if hosts:
            findings += checks.on_hosts(hosts, cluster, _here())
            findings += [_data(probes, hosts, cluster, data)] if data is not None else []
            findings.append(checks.interfaces(hosts, no_way))
            pairs = _pairs({name: probes[name] for name in ways}, ways)
            findings += _on_pairs(pairs)
            first = [host for host in hosts if _are_together(probes[host.name], probes[hosts[0].name])]
            reason = _why_no_sweep(first, findings) if sweep else "it was not asked for"
            if reason:
                findings.append(not_applicable("all-reduce", reason))
            else:
                found, measured = _sweep(probes, first)
                findings.append(found)
    return Diagnosis(
        wall_time_s=time.monotonic() - began,
        hosts=tuple(hosts),
        pairs=tuple(pairs),
        all_reduce=tuple(measured),
        findings=tuple(findings),
    )


def _of_interest(cluster: Cluster, num_hosts: int | None) -> Cluster:
    """The cluster with the first ``num_hosts`` hosts of each group and no others."""
    hosts = (
        host.model_copy(update={"group": name or "auto"})
        for name, group in cluster.groups().items()
        for host in group.hosts[:num_hosts]
    )
    return cluster.model_copy(update={"hosts": tuple(hosts), "num_groups": 1})


def _here() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}


def _facts(probe: Probe, folder: str) -> HostFacts:
    skew, uncertainty = probe.clock_skew()
    said = probe.ask("facts", folder=folder)
    return HostFacts(name=probe.name, clock_skew_s=skew, clock_uncertainty_s=uncertainty, **said)


def _reachability(hosts: Sequence[HostFacts], troubles: Mapping[str, str]) -> Symptom:
    said = ", ".join(f"{host.name} ({host.executable})" for host in hosts)
    return checks.conclude("reachable, with an interpreter", [Trouble(text) for text in troubles.values()], said)


def _routes(probes: Mapping[str, Probe]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Address and network card by host: towards the first host of its group, and that one's towards the second."""
    names = {name: _name_for_others(probe) for name, probe in probes.items()}

    def route(probe: Probe) -> dict[str, str]:
        others = (other.name for other in probes.values() if other is not probe and _are_together(other, probe))
        peer = next(others, None)
        answer: dict[str, str] = probe.ask(
            "route",
            peer=None if peer is None else names[peer],
            interface=probe.host.interface,
            address=probe.host.address,
        )
        return answer

    return on_all(probes, route)


def _are_together(one: Probe, other: Probe) -> bool:
    """Whether the ranks of two hosts ever meet."""
    return one.host.group == other.host.group


def _name_for_others(probe: Probe) -> str:
    if probe.host.address != "auto":
        return probe.host.address
    return probe.name if probe.remote is None else probe.remote.hostname()


def _pairs(probes: Mapping[str, Probe], ways: Mapping[str, dict[str, str]]) -> list[Pair]:
    """Have every host connect to every other of its group, all at once."""
    opened, deaf = on_all(
        probes, lambda probe: probe.ask("listen", address=ways[probe.name]["address"], num_ports=NUM_PORTS)
    )
    targets = {name: {"name": name, "address": ways[name]["address"], **answer} for name, answer in opened.items()}

    def reach(probe: Probe) -> list[dict[str, Any]]:
        others = [
            target for name, target in targets.items() if name != probe.name and _are_together(probes[name], probe)
        ]
        own = ways[probe.name]["address"]
        answers: list[dict[str, Any]] = probe.ask("reach", targets=others, own=own, within_s=CONNECT_TIMEOUT_S)
        return answers

    reached, lost = on_all({name: probes[name] for name in opened}, reach)
    answered = {name: {answer["target"]: answer for answer in answers} for name, answers in reached.items()}
    wrong = deaf | lost
    return [
        Pair.model_validate(
            answered.get(source, {}).get(target, {"target": target, "error": wrong.get(source) or wrong.get(target)})
            | {"source": source}
        )
        for source, target in itertools.permutations(probes, 2)
        if _are_together(probes[source], probes[target])
    ]


def _on_pairs(pairs: Sequence[Pair]) -> list[Symptom]:
    if not pairs:
        return [not_applicable(check, "fewer than two hosts") for check in ("ports between hosts", "round trips")]
    return [checks.ports(pairs), checks.round_trips(pairs)]


def _data(probes: Mapping[str, Probe], hosts: Sequence[HostFacts], cluster: Cluster, wanted: DataWanted) -> Symptom:
    """Compare the data of hosts with that here; those without paceline cannot tell yet."""
    dataset = find_first(wanted.datasets, wanted.data_dir)
    digest = dataset_digest(dataset, wanted.data_dir)
    able = {host.name: probes[host.name] for host in hosts if host.packages.get("paceline")}
    if not able:
        return not_applicable("data", "no host has paceline yet, which a run sends")
    if cluster.kind == "local":
        places = [None if wanted.data_dir is None else str(wanted.data_dir.absolute())]
    else:
        places = [None, f"{cluster.folder}/data"] if cluster.data_dir is None else [cluster.data_dir]
    digests, troubles = on_all(able, lambda probe: _digest_there(probe, dataset, digest, places))
    return checks.data(digests, troubles, digest, is_sent=cluster.data_dir is None)


def _digest_there(probe: Probe, dataset: str, wanted: str, places: Sequence[str | None]) -> dict[str, str]:
    """Data set and digest at the first of ``places`` that has it as wanted, else where it is found first.

    Raises: HostError if no place has it.
    """
    found: list[dict[str, str]] = []
    troubles: list[HostError] = []
    for place in places:
        try:
            found.append(probe.ask("data", datasets=[dataset], data_dir=place))
        except HostError as error:
            troubles.append(error)
    if not found:
        raise troubles[0]
    return next((answer for answer in found if answer["digest"] == wanted), found[0])


def _why_no_sweep(hosts: Sequence[HostFacts], findings: Sequence[Symptom]) -> str:
    """Why all-reduces between the hosts cannot be timed; empty if they can."""
    if len(hosts) < 2:
        return "fewer than two hosts"
    needed = {"reachable, with an interpreter", "network cards", "ports between hosts"}
    if any(finding.status == "fail" and finding.check in needed for finding in findings):
        return "not all hosts reach each other"
    without = [host.name for host in hosts if "torch" not in host.packages]
    return f"no torch on {', '.join(without)}" if without else ""


def _sweep(probes: Mapping[str, Probe], hosts: Sequence[HostFacts]) -> tuple[Symptom, list[AllReduce]]:
    """Time all-reduces with one rank on each host, at a fresh port of the first."""
    head = hosts[0]
    place = f"[{head.address}]" if ":" in head.address else head.address
    port = probes[head.name].ask("free_port", address=head.address)
    command = ["-c", SWEEP.read_text(), f"--num-hosts={len(hosts)}", f"--endpoint={place}:{port}"]
    command.append(f"--run-id={uuid.uuid4().hex}")
    started = {}
    for host in hosts:
        own = [f"--local-addr={host.address}", f"--interface={host.interface}", f"--is-host={int(host is head)}"]
        started[host.name] = probes[host.name].start([*command, *own])
    try:
        deadline = time.monotonic() + SWEEP_TIMEOUT_S
        said, troubles = on_all(
            {name: (name, process) for name, process in started.items()}, lambda one: _outcome(one[0], one[1], deadline)
        )
    finally:
        for process in started.values():
            end(process)
    if troubles:
        return checks.conclude("all-reduce", [Trouble(text) for text in troubles.values()], ""), []
    measured = [AllReduce.model_validate(entry) for entry in json.loads("".join(said.values()))]
    return checks.sweep(measured, len(hosts)), measured


def _outcome(name: str, process: subprocess.Popen[bytes], deadline: float) -> str:
    """What an agent of the sweep wrote, once it is over; its input stays open until then.

    Raises: HostError if it failed.
    """
    cure = "see that gloo may use the network card that the finding 'network cards' names"
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise HostError(name, f"all-reduces did not end within {SWEEP_TIMEOUT_S:g} s: {cure}") from error
    assert process.stdout is not None and process.stderr is not None
    if code:
        last = process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        raise HostError(name, f"all-reduces failed, {' '.join(last)[:300] or f'exit code {code}'}: {cure}")
    return process.stdout.read().decode()
