"""One host of a job that runs by ssh: what is sent there, what is started there, and what is fetched from there."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paceline.cluster import Cluster
from paceline.data.catalog import DATASETS, locate
from paceline.errors import UsageError
from paceline.inert import inert
from paceline.job import Job, checks_path, network_path, read_trial
from paceline.launch import code, probe_host, supervisor
from paceline.launch.local import ALLOCATOR, GRACE_S, thread_settings
from paceline.launch.remote import HostError, Remote, UnreachableError, in_home
from paceline.launch.tether import Tether, Watch
from paceline.launch.wheelhouse import interpreter
from paceline.records import exit_of, failures_path, rank_file, write_atomically, write_versioned
from paceline.study_tables import Scale

ANSWER_TIMEOUT_S = 60.0


class Node:
    """One host of a job: its number, the connection to it, and its run folder."""

    def __init__(self, number: int, remote: Remote, cluster: Cluster) -> None:
        self.number, self.remote, self.name = number, remote, remote.name
        self._cluster = cluster
        self._root = in_home(cluster.folder)
        self._code = ""  # where shipped code is; empty where the environment has the same
        self._folder = ""
        self._ran: dict[str, Scale] = {}  # the trials of the job
        self._agent: Tether | Watch | None = None
        self._is_left_out = False  # of what is fetched at the end
        self.num_cores, self.torch, self._has_code = 1, "", False

    @functools.cached_property
    def _python(self) -> str:
        return interpreter(self.remote, self._cluster)

    def inspect(self) -> None:
        """Look at interpreter, packages and cores.

        Raises: UsageError if there is no such interpreter, or no torch.
        """
        found = self._python_says(Path(code.__file__).read_text(), b"")
        (facts,) = self.ask({"ask": "facts", "folder": self._root})
        self.torch = facts["packages"].get("torch", "")
        if not self.torch:
            raise UsageError(f"{self.name}: {self._python} has no torch; install it there, or name another python")
        here = code.installed()
        self._has_code = here is not None and found.decode().strip() == code.digest(here)
        cores = self.remote.host.cores
        self.num_cores = facts["num_cores"] if cores == "auto" else min(cores, facts["num_cores"])

    def ask(self, *requests: dict[str, Any]) -> list[Any]:
        """What ``probe_host`` answers there.

        Raises: HostError.
        """
        asked = "".join(json.dumps(request) + "\n" for request in requests)
        said = self._python_says(Path(probe_host.__file__).read_text(), asked.encode())
        answers = [self._json(line) for line in said.splitlines()]
        if len(answers) != len(requests) or not all(isinstance(answer, dict) for answer in answers):
            raise HostError(self.name, f"it did not answer what was asked, but: {said[:200].decode(errors='replace')}")
        for answer in answers:
            if "error" in answer:
                raise HostError(self.name, str(answer["error"]))
        return [answer.get("answer") for answer in answers]

    def reached_at(self) -> str:
        """The name or address at which the other hosts find it."""
        return self.remote.hostname() if self.remote.host.address == "auto" else self.remote.host.address

    def prepare(self, job: Job, wheel: Path) -> None:
        """Send code, data, and this host's part of the run folder, in place of what is left of an earlier job."""
        self._take(job)
        self._ship(wheel)
        if self._holds():  # what still runs there lost its controlling process, and has not noticed yet
            self._supervise("stop")
        self.remote.run(["rm", "-rf", "--", self._folder], timeout_s=ANSWER_TIMEOUT_S)
        data_dir = self._bring_data(job)
        with tempfile.TemporaryDirectory(prefix="paceline-") as folder:
            stage = Path(folder)
            (stage / "job").write_text(job.id)
            fields = job.model_dump(mode="json", exclude={"run_dir"}) | {"data_dir": data_dir}
            write_versioned(stage / job.path.name, fields)
            for name in _needed(job):
                self._stage(job.folder / name, stage / name)
            self.remote.send(sorted(stage.iterdir()), self._folder)

    def start(self, job: Job, options: Sequence[str], *, detached: bool) -> None:
        """Start the supervisor and, under it, the agent.

        Raises: HostError if it is detached and cannot be started.
        """
        settings = ALLOCATOR | thread_settings(job)
        if self._code:
            settings["PYTHONPATH"] = self._code
        logs = self._logs(job)
        logs.mkdir(parents=True, exist_ok=True)
        silence_s = job.heartbeat_timeout_s
        command = [
            *("env", *(f"{name}={value}" for name, value in settings.items())),
            *(self._python, "-m", "paceline.launch.supervisor", "start", f"{self._folder}/control"),
            *("--grace", str(GRACE_S), "--log", f"{self._remote_logs(job)}/agent.log"),
            *(["--detach"] if detached else ["--silence", str(silence_s)]),
            *("--", self._python, "-m", "paceline.train.agent", f"{self._folder}/{job.path.name}", *options),
        ]
        if not detached:
            self._agent = Tether(self.remote, command, silence_s=silence_s, log=logs / "ssh.log")
            return
        self.watch(job)  # from now on, whatever becomes of the answer, there is something to be ended
        done = self.remote.run(command, timeout_s=ANSWER_TIMEOUT_S)
        if done.returncode:
            raise HostError(self.name, f"the agent cannot be started: {done.stderr.decode(errors='replace').strip()}")

    def watch(self, job: Job) -> None:
        """Take charge of what runs there, detached."""
        self._take(job)
        self._agent = Watch(self.remote, self._supervisor("wait"), mark=job.id)

    def state(self, job: Job) -> dict[str, Any] | None:
        """What the supervisor there says, as ``supervisor.read_state`` does.

        Raises: HostError.
        """
        self._take(job)
        state: dict[str, Any] | None = self._json(self._supervise("state"))
        return state

    def poll(self) -> int | None:
        """The exit code of the agent, None while it runs."""
        assert self._agent is not None
        return self._agent.poll()

    @property
    def is_lost(self) -> bool:
        """Whether it cannot be reached just now."""
        return self._agent is not None and self._agent.is_lost

    def why(self, job: Job) -> str:
        """Why the agent ended, in words."""
        assert self._agent is not None
        said, code = self._agent.why(), self.poll()
        if self.is_lost:
            return f"{self.name}: {said}"
        try:
            log = self.remote.run(
                ["tail", "-n", "15", f"{self._remote_logs(job)}/agent.log"], timeout_s=ANSWER_TIMEOUT_S
            )
            said = "\n".join(filter(None, (said, log.stdout.decode(errors="replace").strip())))
        except HostError as error:
            said += f"\n{error}"
        return f"{self.name}: its agent ended with code {code} and said last:\n{said}"

    def stop(self) -> str:
        """Ask the agent and its ranks to end; returns why that cannot be said to be done, empty if it is."""
        if self._agent is not None and self.poll() is None:
            try:
                self._supervise("stop")
            except HostError as error:
                if isinstance(self._agent, Watch):
                    return f"{error}\n{self.name}: what runs there goes on; stop it once the host can be reached"
        if self._agent is not None:
            self._agent.let_go()  # by which the supervisor of a foreground run sees its input close
        self._agent = None
        return ""

    def if_reached(self, fetch: Callable[[Node, Job], None], job: Job) -> None:
        """Fetch what there is; a host that is lost, or holds another job's files, is left out."""
        if self._is_left_out:
            return
        try:
            if self._holds() == job.id:
                fetch(self, job)
        except HostError as error:
            self._is_left_out = True
            sys.stderr.write(inert(f"not collected: {error}\n"))

    def fetch_findings(self, job: Job) -> None:
        """What the ranks found before the first trial, once it is there."""
        wanted = [checks_path(job.folder)] if job.checks is not None else []
        wanted += [network_path(job.folder, job.group)] if job.num_hosts > 1 else []
        for path in wanted:
            if not path.exists():
                found = self.remote.run(["cat", f"{self._folder}/{path.name}"], timeout_s=ANSWER_TIMEOUT_S)
                if found.returncode == 0:
                    write_atomically(path, found.stdout)

    def fetch_checkpoint(self, job: Job, trial: str) -> bool:
        """The newest checkpoints of a trial; whether there is a new one.

        Fetched before the records, which then tell of everything that came before it.
        """
        into = job.folder / trial / "checkpoints"
        before = sorted(into.glob("*.pt"))
        self.remote.fetch(f"{self._folder}/{trial}", into.parent, patterns=["/checkpoints/update-*"])
        return sorted(into.glob("*.pt")) != before

    def fetch_trial(self, job: Job, trial: str) -> bool:
        """The records that this host's ranks wrote of a trial; whether it is over."""
        ranks = self._trial_ranks(trial)
        if not ranks:
            return False
        patterns = [f"/{rank_file(Path(), rank).name}" for rank in ranks]
        patterns += [] if self.number else [f"/{failures_path(Path()).name}", "/exit.json"]
        self.remote.fetch(f"{self._folder}/{trial}", job.folder / trial, patterns=patterns)
        return exit_of(job.folder / trial) is not None

    def fetch_checkpoints(self, job: Job) -> None:
        """Those of all trials of the job that are not over here."""
        for name in () if self.number else job.open_trials():
            self.fetch_checkpoint(job, name)

    def fetch_records(self, job: Job) -> None:
        """Those of all trials of the job."""
        if self.number == 0:
            self.fetch_findings(job)
        for name in self._ran:
            self.fetch_trial(job, name)

    def fetch_logs(self, job: Job) -> None:
        """What agent and ranks wrote, into a folder of this host's name."""
        self.remote.fetch(self._remote_logs(job), self._logs(job))

    def _take(self, job: Job) -> None:
        """Know where the job's files are, and which trials it has."""
        identity = hashlib.sha256(f"{platform.node()} {job.folder}".encode()).hexdigest()[:8]
        own = "-".join(filter(None, (job.group, f"host{self.number}")))  # the root may be shared
        self._folder = f"{self._root}/runs/{job.folder.name}-{identity}/{own}"
        self._ran = {name: read_trial(job.folder / name).scale for name in job.trials}
        self._is_left_out = False

    def _holds(self) -> str:
        """What the files held there are of; empty if there are none."""
        held = self.remote.run(["cat", f"{self._folder}/job"], timeout_s=ANSWER_TIMEOUT_S)
        return "" if held.returncode else held.stdout.decode(errors="replace")

    def _remote_logs(self, job: Job) -> str:
        return f"{self._folder}/{job.logs.relative_to(job.folder)}"

    def _logs(self, job: Job) -> Path:
        return job.logs / self.name.rpartition("@")[2]

    def _trial_ranks(self, trial: str) -> list[int]:
        """The numbers, within a trial, of its ranks on this host."""
        scale = self._ran[trial]
        first = self.number * scale.ranks_per_host
        return list(range(first, first + scale.ranks_per_host)) if self.number < scale.num_hosts else []

    def _stage(self, source: Path, target: Path) -> None:
        """Lay out what this host needs of a trial: its own ranks' records, and checkpoints where rank 0 is."""
        target.mkdir()
        shutil.copy2(source / "trial.json", target)
        for rank in self._trial_ranks(source.name) if source.name in self._ran else ():
            if rank_file(source, rank).exists():
                shutil.copy2(rank_file(source, rank), target)
        if self.number == 0 and (source / "checkpoints").exists():
            shutil.copytree(source / "checkpoints", target / "checkpoints")
        if self.number == 0 and failures_path(source).exists():
            shutil.copy2(failures_path(source), target)

    def _ship(self, wheel: Path) -> None:
        """Install this program's code beside the environment, unless the environment has the same."""
        if self._has_code:
            return
        place = f"{self._root}/code/{wheel.stem}"
        if self.remote.run(["test", "-e", f"{place}/.whole"], timeout_s=ANSWER_TIMEOUT_S).returncode:
            self.remote.send([wheel], f"{self._root}/code")
            unpack = [self._python, "-m", "zipfile", "-e", f"{self._root}/code/{wheel.name}", place]
            for command in (["mkdir", "-p", "--", place], unpack, ["touch", f"{place}/.whole"]):
                done = self.remote.run(command, timeout_s=ANSWER_TIMEOUT_S)
                if done.returncode:
                    raise HostError(
                        self.name, f"paceline cannot be installed there: {done.stderr.decode(errors='replace')}"
                    )
        self._code = place

    def _bring_data(self, job: Job) -> str | None:
        """Where the data sets of the job's trials are there; those that are missing are sent."""
        trials = [read_trial(job.folder / name) for name in _needed(job)]
        data_dir = self._cluster.data_dir
        for dataset, wanted in {(trial.dataset, trial.data_digest) for trial in trials if trial.dataset in DATASETS}:
            if self._digest(dataset, data_dir) == wanted:
                continue
            if self._cluster.data_dir is not None:
                where = f"{self._cluster.data_dir}, or it differs from the data here"
                raise UsageError(f"{self.name}: the data set {dataset} is not in {where}; put it there")
            data_dir = f"{self._root}/data"
            if self._digest(dataset, data_dir) != wanted:
                source = locate(dataset, None if job.data_dir is None else Path(job.data_dir))
                assert source is not None
                self.remote.send([source], data_dir)
        return data_dir

    def _digest(self, dataset: str, data_dir: str | None) -> str:
        """That of a data set as it is found there; empty if it is not."""
        try:
            return str(self.ask({"ask": "data", "datasets": [dataset], "data_dir": data_dir})[0]["digest"])
        except UnreachableError:
            raise
        except HostError:
            return ""

    def _json(self, said: bytes) -> Any:  # noqa: ANN401
        """What the host said in JSON.

        Raises: HostError if it is none.
        """
        try:
            return json.loads(said)
        except (ValueError, RecursionError) as error:
            raise HostError(self.name, f"it said what is no JSON: {said[:200].decode(errors='replace')}") from error

    def _supervisor(self, request: str) -> list[str]:
        """The command that asks what was started there, by whatever version; it needs no code there."""
        return [self._python, "-c", Path(supervisor.__file__).read_text(), request, f"{self._folder}/control"]

    def _supervise(self, request: str) -> bytes:
        """What the supervisor answers.

        Raises: HostError.
        """
        done = self.remote.run(self._supervisor(request), timeout_s=ANSWER_TIMEOUT_S)
        if done.returncode:
            raise HostError(self.name, done.stderr.decode(errors="replace").strip()[-500:])
        return done.stdout

    def _with_code(self) -> list[str]:
        """The interpreter there, which finds the code that was shipped."""
        return ["env", f"PYTHONPATH={self._code}", self._python] if self._code else [self._python]

    def _python_says(self, source: str, asked: bytes) -> bytes:
        command = [*self._with_code(), "-c", source]
        done = self.remote.run(command, input=asked, timeout_s=ANSWER_TIMEOUT_S)
        if done.returncode in (126, 127):
            raise UsageError(
                f"{self.name}: there is no interpreter {self._python}; name one by python = in the cluster file"
            )
        if done.returncode:
            raise HostError(self.name, f"{self._python} failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
        return done.stdout


def _needed(job: Job) -> set[str]:
    """The trials that ranks must know of: those to run, and those to check before."""
    return {*job.trials, *(job.checks.trials if job.checks else ())}
