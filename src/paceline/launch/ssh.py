"""Ranks on many hosts, by ssh: a supervisor on each keeps an agent, and ends it when this process dies or says so.

Each host has a run folder of its own. The one here is the truth: what hosts hold of an earlier job is collected first,
then they are given what they need of it, and what they write is collected while they run.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from paceline.cluster import Cluster, Host
from paceline.errors import PacelineError, UsageError
from paceline.inert import inert
from paceline.job import Job
from paceline.launch import code
from paceline.launch.node import Node
from paceline.launch.remote import HostError, Remote, UnreachableError
from paceline.launch.supervisor import runs
from paceline.study_tables import Scale

T = TypeVar("T")

COLLECT_EVERY_S = 2.0


class SshLauncher:
    """Runs a job on the first hosts of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sockets = Path(tempfile.mkdtemp(prefix="paceline-"))
        atexit.register(self._disconnect)
        self._known: list[Node] = []
        self._nodes: list[Node] = []  # of the job
        self._began: Job | None = None
        self._due_s = 0.0
        self._code: int | None = None
        self._why, self._trouble = "", ""
        self._is_detached = False

    @property
    def num_cores(self) -> int:
        """See ``Launcher``: of the host with the fewest; known once ``check`` was called."""
        return min(node.num_cores for node in self._known)

    def check(self, scales: tuple[Scale, ...]) -> list[str]:
        """See ``Launcher``: reaches the hosts and looks at their interpreters."""
        hosts, num_hosts = self._cluster.hosts, max(scale.num_hosts for scale in scales)
        most = max(scale.ranks_per_host for scale in scales)
        if num_hosts > len(hosts):
            raise UsageError(f"a scale needs {num_hosts} hosts, and the cluster has {len(hosts)}; add some to its file")
        self._known = self._nodes = [self._node(number, host) for number, host in enumerate(hosts[:num_hosts])]
        self._on_all(Node.inspect)
        for node in self._nodes:
            room = node.remote.host.ranks
            if room != "auto" and most > room:
                raise UsageError(f"a scale needs {most} ranks a host, and {node.name} takes {room}")
        if len({node.torch for node in self._nodes}) > 1:
            found = ", ".join(f"{node.torch} on {node.name}" for node in self._nodes)
            raise UsageError(f"the hosts have different versions of torch, {found}; install the same on all")
        crowded = [node for node in self._nodes if most > node.num_cores]
        share = "ranks share {} cores of {}: their times measure contention"
        return [f"{most} {share.format(node.num_cores, node.name)}" for node in crowded]

    def start(self, job: Job, *, detached: bool = False) -> None:
        """See ``Launcher``."""
        self._begin(job, detached=detached)
        with tempfile.TemporaryDirectory(prefix="paceline-") as folder:
            wheel = code.write_wheel(Path(folder))
            self._on_all(lambda node: node.prepare(job, wheel))
        addresses = self._addresses()
        (port,) = self._nodes[0].ask({"ask": "free_port", "address": addresses[0]})
        shared = ["--endpoint", f"{addresses[0]}:{port}", "--run-id", job.id]
        self._on_all(
            lambda node: node.start(
                job,
                ["--node", str(node.number), *shared, "--local-addr", addresses[node.number]],
                detached=detached,
            )
        )

    def runs(self, job: Job) -> bool:
        """See ``Launcher``."""
        self._begin(job, detached=True)
        return all(runs(state, job.id) for state in self._on_all(lambda node: node.state(job)))

    def adopt(self, job: Job) -> bool:
        """See ``Launcher``."""
        self._begin(job, detached=True)

        def goes_on(node: Node) -> bool:
            node.watch(job)
            try:
                return runs(node.state(job), job.id)
            except UnreachableError:
                return True  # as far as anybody knows

        if all(self._on_all(goes_on)):
            return True
        self.stop()
        return False

    def poll(self) -> int | None:
        """See ``Launcher``: collects what was written; the first host that fails ends the job on all."""
        if self._began is None:
            return self._code
        if self._code is not None:
            return self._code
        codes = {node.name: node.poll() for node in self._nodes}
        failed = [node for node in self._nodes if codes[node.name]]
        if failed or None not in codes.values():
            self._code, self._why = (1, self._why_of(failed[0], self._began)) if failed else (0, "")
            with suppress(PacelineError):  # it will be stopped once more, which tells
                self.stop()
            return self._code
        if time.monotonic() >= self._due_s:
            self._collect_if_reached(self._began)
            self._due_s = time.monotonic() + COLLECT_EVERY_S
        return None

    def stop(self) -> None:
        """See ``Launcher``: what was written since is collected from all hosts that can be reached."""
        job = self._began
        if job is None:
            return
        left = list(filter(None, self._on_all(Node.stop)))
        for fetch in (Node.fetch_checkpoints, Node.fetch_records, Node.fetch_logs):
            self._fetch(fetch, job)
        if left:
            raise PacelineError("\n".join(filter(None, (self._why, *left))))
        self._began = None

    def last_words(self, job: Job) -> str:
        """See ``Launcher``."""
        return self._why or f"no host failed; see {job.logs}"

    def _begin(self, job: Job, *, detached: bool) -> None:
        """Have to do with this job, on the first hosts."""
        if not self._known:  # nobody has checked them: they are only asked
            self._known = [self._node(number, host) for number, host in enumerate(self._cluster.hosts)]
        self._nodes = self._known[: job.num_hosts]
        self._began, self._is_detached = job, detached
        self._code, self._why, self._trouble, self._due_s = None, "", "", time.monotonic() + COLLECT_EVERY_S

    def _why_of(self, failed: Node, job: Job) -> str:
        """Why a node's agent ended, and which hosts cannot be asked."""
        lost = [node.name for node in self._nodes if node.is_lost and node is not failed]
        return failed.why(job) + (f"\n{', '.join(lost)} cannot be reached" if lost else "")

    def _disconnect(self) -> None:
        for node in self._known:
            node.remote.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _node(self, number: int, host: Host) -> Node:
        config = None if self._cluster.ssh_config is None else Path(self._cluster.ssh_config)
        remote = Remote(host, ssh_config=config, control_dir=self._sockets)
        return Node(number, remote, self._cluster)

    def _addresses(self) -> list[str]:
        """Where the hosts reach each other, as their routes say."""
        names = [node.reached_at() for node in self._nodes]

        def own(node: Node) -> str:
            peer = names[0] if node.number else names[1] if len(names) > 1 else None
            wanted = {"interface": node.remote.host.interface, "address": node.remote.host.address}
            return str(node.ask({"ask": "route", "peer": peer, **wanted})[0]["address"])

        return self._on_all(own)

    def _fetch(self, fetch: Callable[[Node, Job], None], job: Job) -> None:
        self._on_all(lambda node: node.if_reached(fetch, job))

    def _collect_if_reached(self, job: Job) -> None:
        """Fetch what is new; where a detached run cannot be reached, it goes on, and is asked again."""
        try:
            self._collect(job)
            self._trouble = ""
        except HostError as error:
            if not self._is_detached and not isinstance(error, UnreachableError):  # of that, its connection tells
                raise
            if self._is_detached and str(error) != self._trouble:
                self._trouble = str(error)
                sys.stderr.write(inert(f"not collected yet: {error}\n"))

    def _collect(self, job: Job) -> None:
        """Fetch what the running trial wrote: rank 0's part, all parts when it left a checkpoint or is over."""
        first = self._nodes[0]
        first.fetch_findings(job)
        current = next(iter(job.open_trials()), None)
        if current is None:
            return
        if first.fetch_checkpoint(job, current) | first.fetch_trial(job, current):
            self._on_all(lambda node: node.fetch_trial(job, current))

    def _on_all(self, act: Callable[[Node], T]) -> list[T]:
        """Do something on all hosts at once; the first error counts."""
        with ThreadPoolExecutor(max(1, len(self._nodes))) as pool:
            return list(pool.map(act, self._nodes))
