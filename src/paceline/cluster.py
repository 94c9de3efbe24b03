"""Cluster files: which hosts run the ranks, and how they are reached."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
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
from paceline.errors import UsageError
from paceline.study import explain
from paceline.study_tables import known

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


def _absolute(path: str) -> str:
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
    ssh_config: str | None = Field(None, description="an ssh_config file; the user's own if left out")
    python: Interpreter = Field(
        "auto", description="the interpreter on the hosts, an absolute path; 'auto': the path of the one here"
    )
    wheelhouse: str | None = Field(None, description="a folder of wheels to make an environment from on the hosts")
    folder: str = Field("~/.paceline", description="where runs and shipped code are kept on the hosts")
    data_dir: str | None = Field(None, description="where the data is on the hosts; sent once if left out")
    heartbeat_timeout_s: PositiveFloat = Field(60.0, description="a rank silent for longer ends its trial")
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
    has_table = given is None and "cluster" in tomllib.loads(study.read_text(encoding="utf-8"))
    place = study if has_table else given
    return THIS_HOST if place is None else load_cluster(place)


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file: TOML with a ``[cluster]`` table, or plain text with a host a line (``#`` begins a comment).

    Paths in it are relative to it.
    Raises: UsageError that lists every mistake with its path.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text).get("cluster") if path.suffix == ".toml" else {"hosts": _hosts_of(text)}
    except OSError as error:
        raise UsageError(f"cluster file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cluster file {path} is not TOML: {error}") from error
    if not isinstance(settings, Mapping):
        raise UsageError(f"cluster file {path} has no [cluster] table")
    try:
        cluster = Cluster.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"{path}: {explain(error, {'cluster': settings})}") from error
    return cluster.model_copy(
        update={
            key: str((path.parent / Path(value).expanduser()).absolute())
            for key in ("ssh_config", "wheelhouse")
            if (value := getattr(cluster, key)) is not None
        }
    )


def _hosts_of(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]
