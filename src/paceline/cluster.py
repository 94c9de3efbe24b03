"""Cluster files: which hosts run the ranks, and how they are reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paceline.cards import Frozen, Name
from paceline.errors import DataError, UsageError
from paceline.records import read_versioned, write_versioned
from paceline.study import explain
from paceline.study_tables import known
from paceline.textfiles import text_file, toml

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_\[][A-Za-z0-9_.:\]%-]*")


def _safe(name: str) -> str:
    """A name that ssh takes as a host, and nothing else."""
    if not _HOST.fullmatch(name):
        raise PydanticCustomError(
            "host",
            "a host is a name of ssh_config or [user@]address, of letters, digits and . _ - : only, beginning with a "
            "letter or digit",
        )
    return name


HostName = Annotated[str, AfterValidator(_safe)]


def _printable(path: str) -> str:
    """A path that a command can be given, and a person shown."""
    if not path or not path.isprintable():
        raise PydanticCustomError("path", "a path has at least one character, and none that cannot be printed")
    return path


Place = Annotated[str, AfterValidator(_printable)]


def _absolute(path: str) -> str:
    _printable(path)
    if path != "auto" and not path.startswith("/"):
        raise PydanticCustomError(
            "relative", "an interpreter is an absolute path: by its name alone, hosts find another one without a login"
        )
    return path


Interpreter = Annotated[str, AfterValidator(_absolute)]

_OF_SSH = ("hosts", "ssh_config", "wheelhouse", "folder", "data_dir")
_OF_SLURM = ("partition", "time_limit_s", "options")
_OWN_OPTIONS = {  # of sbatch: what a run says itself
    *("array", "chdir", "error", "input", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output"),
    *("parsable", "partition", "requeue", "no-requeue", "signal", "test-only", "time", "wait", "wrap"),
}


def _sbatch_option(option: str) -> str:
    name, _, value = option.removeprefix("--").partition("=")
    if not re.fullmatch(r"--[a-z][a-z-]+", option.partition("=")[0]) or not value.isprintable() or "\\" in value:
        raise PydanticCustomError("option", "an option of sbatch is '--name' or '--name=value', a string each")
    if name == "cpus-per-task" and not re.fullmatch("[1-9][0-9]*", value):
        raise PydanticCustomError("option", "--cpus-per-task takes a number, 1 or more: --cpus-per-task=8")
    if name in _OWN_OPTIONS:
        raise PydanticCustomError(
            "option",
            "a run gives --{name} to sbatch itself; there are partition, time_limit_s and num_groups in this file",
            {"name": name},
        )
    return option


SbatchOption = Annotated[str, AfterValidator(_sbatch_option)]


class Host(Frozen):
    """One host: ``name`` is what ssh is told, the rest need only be said where it cannot be found out.

    ``address`` is where the other hosts reach it and ``interface`` the network card they use; ``ranks`` limits how many
    it takes, ``cores`` how many of its cores are used.
    """

    name: HostName
    address: HostName | Literal["auto"] = "auto"
    interface: str | Literal["auto"] = Field("auto", pattern=r"^[A-Za-z0-9_.:-]{1,15}$")
    ranks: PositiveInt | Literal["auto"] = "auto"
    cores: PositiveInt | Literal["auto"] = "auto"
    group: Name | Literal["auto"] = "auto"


def _as_table(value: Any) -> Any:  # noqa: ANN401
    return {"name": value} if isinstance(value, str) else value


class Cluster(Frozen):
    """The ``[cluster]`` table of a cluster file or a study."""

    kind: Annotated[str, AfterValidator(partial(known, "launchers"))] = Field(
        "ssh", description="'local', 'ssh', 'slurm', or a launcher of one's own, as 'module:attribute'"
    )
    hosts: tuple[Annotated[Host, BeforeValidator(_as_table)], ...] = ()
    num_groups: PositiveInt = Field(
        1, description="how many groups of hosts, or Slurm jobs, share a study's seeds, where hosts name no group"
    )
    ssh_config: Place | None = Field(None, description="an ssh_config file; the user's own if left out")
    python: Interpreter = Field(
        "auto", description="the interpreter on the hosts, an absolute path; 'auto': the path of the one here"
    )
    wheelhouse: Place | None = Field(None, description="a folder of wheels to make an environment from on the hosts")
    folder: Place = Field("~/.paceline", description="where runs and shipped code are kept on the hosts")
    data_dir: Place | None = Field(None, description="where the data is on the hosts; sent once if left out")
    heartbeat_timeout_s: PositiveFloat = Field(60.0, description="a rank silent for longer ends its trial")
    collective_timeout_s: PositiveFloat = Field(
        600.0, description="a rank that keeps others waiting for longer, as one that hangs, ends its trial"
    )
    partition: str | None = Field(None, description="of Slurm")
    time_limit_s: float | None = Field(
        None, ge=60, description="of a Slurm job, which is put back in the queue before it"
    )
    options: tuple[SbatchOption, ...] = Field((), description="further options of sbatch, one string each")

    @model_validator(mode="after")
    def _hosts_fit_kind(self) -> Cluster:
        if self.kind == "ssh" and not self.hosts:
            raise PydanticCustomError("no_hosts", "kind = 'ssh' needs hosts; give at least one")
        if self.kind == "local" and self.hosts:
            raise PydanticCustomError("hosts", "kind = 'local' takes no hosts: it is this machine; use kind = 'ssh'")
        others = _OF_SSH if self.kind == "slurm" else _OF_SLURM
        if idle := [name for name in others if getattr(self, name) != type(self).model_fields[name].default]:
            raise PydanticCustomError(
                "idle", "{names} has no effect where kind = '{kind}'", {"names": ", ".join(idle), "kind": self.kind}
            )
        names = [host.name for host in self.hosts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PydanticCustomError("repeated", "{names} given twice", {"names": ", ".join(twice)})
        named = {host.group for host in self.hosts}
        if "auto" in named and len(named) > 1:
            raise PydanticCustomError(
                "groups", "some hosts have a group and some have none; give one to all, or to none"
            )
        if named - {"auto"} and self.num_groups not in (1, len(named)):
            raise PydanticCustomError("groups", "num_groups and the hosts' groups differ; leave num_groups out")
        if self.kind == "local" and self.num_groups > 1:
            raise PydanticCustomError("groups", "one machine is one group: trials side by side would share its cores")
        if self.hosts and self.num_groups > len(self.hosts):
            raise PydanticCustomError("groups", "more groups than hosts; lower num_groups, or add hosts")
        return self

    def groups(self) -> dict[str, Cluster]:
        """The parts of this cluster that run trials side by side, by name; the name of a single one is empty.

        Hosts without a group are dealt out in their order, as many to each as there are for all.
        """
        names = list(dict.fromkeys(host.group for host in self.hosts if host.group != "auto"))
        if not names and self.num_groups == 1:
            return {"": self}
        names = names or [f"group{number}" for number in range(1, self.num_groups + 1)]
        size = len(self.hosts) // len(names)
        return {
            name: self.model_copy(
                update={
                    "num_groups": 1,
                    "hosts": tuple(host for host in self.hosts if host.group == name)
                    or self.hosts[number * size : (number + 1) * size],
                }
            )
            for number, name in enumerate(names)
        }


THIS_HOST = Cluster(kind="local")


def cluster_of(study: Path, given: Path | None) -> Cluster:
    """Where a study runs: on the cluster that is given, else on that of its own ``[cluster]`` table, else here.

    Raises: as ``load_cluster``.
    """
    if given is not None:
        return load_cluster(given)
    settings = _read(study, toml)
    return _cluster_of(settings, study) if "cluster" in settings else THIS_HOST


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file: TOML with a ``[cluster]`` table, or plain text with a host a line (``#`` begins a comment).

    Paths in it are relative to it.
    Raises: UsageError that lists every mistake with its path.
    """
    return _cluster_of(_read(path, toml if path.suffix == ".toml" else _hosts_of), path)


def _cluster_of(tables: dict[str, Any], path: Path) -> Cluster:
    settings = tables.get("cluster")
    if not isinstance(settings, Mapping):
        raise UsageError(f"cluster file {path} has no [cluster] table")
    try:
        cluster = Cluster.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"{path}: {explain(error, {'cluster': settings})}") from error
    return cluster.model_copy(
        update={
            key: str((path.parent / _expanded(value, path)).absolute())
            for key in ("ssh_config", "wheelhouse")
            if (value := getattr(cluster, key)) is not None
        }
    )


def _expanded(value: str, path: Path) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: {value}: there is no such user here; give a path") from error


def _read(path: Path, understood: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return understood(text_file(path))
    except OSError as error:
        raise UsageError(f"cluster file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"cluster file {path} is not TOML: {error}") from error


def _hosts_of(text: str) -> dict[str, Any]:
    """A list of hosts, one a line, as the table that it stands for."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {"cluster": {"hosts": [line for line in lines if line]}}


def write_cluster(run_dir: Path, cluster: Cluster) -> None:
    """Remember on which hosts a study runs, for whoever is to watch or stop it from another process."""
    write_versioned(run_dir / "cluster.json", cluster.model_dump(mode="json"))


def read_cluster(run_dir: Path) -> Cluster:
    """The hosts on which a study ran last; this machine where none are remembered.

    Raises: DataError if the file is damaged.
    """
    path = run_dir / "cluster.json"
    try:
        return Cluster.model_validate(read_versioned(path)) if path.exists() else THIS_HOST
    except ValidationError as error:
        raise DataError(f"{path} holds no cluster: {error.errors()[0]['msg']}") from error
