"""What a run leaves on disk: record types, their schema version, and how they are appended, read and placed.

A run folder is ``RUNS/STUDY/``: ``study.json``, ``environment.json``, ``logs/``, and a folder for each trial with
``trial.json``, ``rank-0000.jsonl`` ... (one writer each, append only), ``checkpoint.pt`` and, when it is over,
``exit.json``.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from paceline.errors import DataError
from paceline.textfiles import json_file

SCHEMA_VERSION = 1
OLDEST_VERSION = 1  # that this paceline still reads

Status = Literal["completed", "diverged", "failed", "stopped"]
DONE: tuple[Status, ...] = ("completed", "diverged")  # never run again; a failed trial is tried again


def _unreadable(version: int, path: Path | None = None) -> str:
    """Why a schema version cannot be read, and what to do; empty if it can. ``path``: of the file, if that is known."""
    if version > SCHEMA_VERSION:
        return f"schema version {version}, this paceline reads up to {SCHEMA_VERSION}: {_upgrade(path)}"
    if version < OLDEST_VERSION:
        return (
            f"schema version {version}, this paceline reads from {OLDEST_VERSION} on: "
            "read it with the paceline that environment.json names, or run the trial again"
        )
    return ""


def _upgrade(path: Path | None) -> str:
    """What to do about a file of a newer paceline; names the one that wrote the run, where that is known."""
    for folder in path.absolute().parents[:2] if path else ():
        try:
            writer = json_file(folder / "environment.json")["paceline"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        return f"upgrade paceline to {writer} or newer"
    return "upgrade paceline"


def _readable(version: int) -> int:
    if trouble := _unreadable(version):
        raise ValueError(trouble)
    return version


SchemaVersion = Annotated[int, AfterValidator(_readable)]
Moment = Annotated[float, Field(ge=0, lt=253_402_300_800)]  # seconds since 1970, up to the year 9999
Count = Annotated[int, Field(ge=0, lt=2**63)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # what no clock shows was not written by paceline


def _now() -> float:
    """Seconds since 1970, on the clock of this host as it is set at the moment."""
    return time.time()


class Record(BaseModel):
    """Base of every record: ``time`` is seconds since 1970 on the writer's clock."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    time: Moment = Field(default_factory=_now)


class Start(Record):
    """A rank begins a trial; written by every rank.

    ``chance`` is what a model that ignores its input scores on the validation set at best: the entropy of the labels
    as ``loss``, the share of the commonest one as ``accuracy``; empty on ranks above 0 and where targets are no
    classes. A trial that goes on with what another one computed, on another number of ranks, ``continues`` that, after
    ``num_epochs_before``.
    """

    kind: Literal["start"] = "start"
    schema_version: SchemaVersion = SCHEMA_VERSION
    trial: str
    rank: Count
    world_size: Count
    host: str
    pid: Count
    device: str
    backend: str
    num_threads: Count
    dtype: str
    torch_version: str
    python_version: str
    processor: str
    num_cores: Count
    affinity: list[Count]
    num_parameters: Count
    num_examples: dict[str, Count]
    chance: dict[str, float] = {}
    initial_parameters_digest: str
    startup_s: float
    continues: str = ""
    num_epochs_before: int = 0


class Epoch(Record):
    """A rank's own account of one epoch; written by every rank.

    ``indices_digest`` of all ranks add up to that of the whole epoch, and ``order_digest``, which also says in which
    update an example was seen, to the same sum at every scale; ``parameters_digest`` is the same on all. Seconds and
    bytes are this rank's, since the trial began.
    """

    kind: Literal["epoch"] = "epoch"
    rank: Count
    epoch: Count
    num_updates: Count
    num_indices: Count
    indices_digest: str
    order_digest: str = ""
    parameters_digest: str
    train_time_s: Duration
    data_s: float
    compute_s: float
    communication_s: float
    optimizer_s: float
    bytes_sent: Count
    num_collectives: Count
    peak_memory_bytes: Count


class Evaluation(Record):
    """The state of a trial at one evaluation; written by rank 0, totals since the trial began.

    ``train_time_s`` sums over updates the slowest rank's time; the four parts are means over ranks and sum to less
    where ranks wait in turn. ``update_time_s`` has the quantiles p10, p50, p90 and max of the slowest rank's time for
    the updates since the last evaluation. ``bytes_sent`` and ``num_collectives`` are those of rank 0. ``train``
    averages over the examples of the current epoch so far; ``num_validation`` examples were scored, over all ranks.
    """

    kind: Literal["evaluation"] = "evaluation"
    epoch: Count
    epoch_end: bool
    num_updates: Count
    num_samples: Count
    num_gradient_evaluations: Count
    train_time_s: Duration
    data_s: float
    compute_s: float
    communication_s: float
    optimizer_s: float
    update_time_s: dict[str, float]
    evaluation_time_s: float
    checkpoint_time_s: float
    bytes_sent: Count
    num_collectives: Count
    train: dict[str, float]
    validation: dict[str, float]
    num_validation: Count | None = None


class Resumed(Record):
    """What this file says of updates after ``num_updates`` no longer holds: the trial went on from there.

    ``passed_over`` names newer checkpoints that could not be used, and says why.
    """

    kind: Literal["resumed"] = "resumed"
    rank: Count
    num_updates: Count
    passed_over: tuple[str, ...] = ()


class End(Record):
    """A rank ends a trial; ``test`` is scored by rank 0, once, at the end."""

    kind: Literal["end"] = "end"
    rank: Count
    status: Status
    reason: str
    num_updates: Count
    num_samples: Count
    num_gradient_evaluations: Count
    train_time_s: Duration
    wall_time_s: float
    bytes_sent: Count
    num_collectives: Count
    peak_memory_bytes: Count
    parameters_digest: str
    test: dict[str, float]


AnyRecord = Start | Epoch | Evaluation | Resumed | End
_ADAPTER: TypeAdapter[AnyRecord] = TypeAdapter(Annotated[AnyRecord, Field(discriminator="kind")])


class Exit(BaseModel):
    """How a trial ended; ``exit.json``. ``cause`` says who failed first and why, empty if nobody did.

    ``num_attempts``: how often it was tried; one that was only interrupted went on, and was not tried again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: SchemaVersion = SCHEMA_VERSION
    status: Status
    cause: str = ""
    num_attempts: Annotated[int, Field(ge=1)] = 1
    time: Moment = Field(default_factory=_now)


class Failure(BaseModel):
    """Why one attempt at a trial failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cause: str
    time: Moment = Field(default_factory=_now)


class Failures(BaseModel):
    """``failures.json``: the attempts at a trial that failed, in order; there from the first until it is run anew."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: SchemaVersion = SCHEMA_VERSION
    failures: tuple[Failure, ...]


class Finding(BaseModel):
    """The outcome of one check: ``check`` names it, ``evidence`` is a sentence with the figures that decided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: str
    status: Literal["pass", "fail", "not applicable"]
    evidence: str


class Checks(BaseModel):
    """``checks.json``: what was found before the first trial; ``of`` is a digest of what was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: SchemaVersion = SCHEMA_VERSION
    of: str
    findings: tuple[Finding, ...]


class AllReduce(BaseModel):
    """All-reduces of ``bytes``: the median time of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    seconds: float
    repeats: int

    @property
    def bandwidth(self) -> float:
        """Bytes reduced a second."""
        return self.bytes / self.seconds


class Network(BaseModel):
    """``network.json``: what all-reduces between the hosts of a job take, one rank a host; sizes in rising order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: SchemaVersion = SCHEMA_VERSION
    time: Moment = Field(default_factory=_now)
    num_hosts: int
    backend: str
    all_reduce: Annotated[tuple[AllReduce, ...], Field(min_length=1)]

    def in_words(self) -> str:
        """Latency, bandwidth, and what the latter asks of each host's card, which sends 2 (H - 1) / H of the bytes."""
        small, large = self.all_reduce[0], self.all_reduce[-1]
        sent = 2 * (self.num_hosts - 1) / self.num_hosts * large.bandwidth
        return (
            f"{self.num_hosts} hosts: {small.seconds * 1e3:.2f} ms for {small.bytes / 1024:g} kB, "
            f"{large.bandwidth / 1e6:.3g} MB/s for {large.bytes / 2**20:g} MB, "
            f"at which each host sends {8 * sent / 1e6:.3g} Mbit/s"
        )


class RecordFile:
    """Appends records to one file, a line each; one writer a file."""

    def __init__(self, path: Path) -> None:
        cut_torn_line(path)
        self._file = path.open("ab", buffering=0)
        self.has_records = path.stat().st_size > 0

    def append(self, record: Record) -> None:
        """Write one record; it survives the death of this process.

        Raises: OSError if there is no room for all of it; what is there then is no line, and is cut off next time.
        """
        left = memoryview(record.model_dump_json().encode() + b"\n")
        while left:  # a disk that is almost full takes a part, and complains only of the next
            left = left[self._file.write(left) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def cut_torn_line(path: Path) -> None:
    """Drop what follows the last newline: the writer died in the middle of a line."""
    if path.exists() and (size := path.stat().st_size):
        with path.open("rb+") as file:
            file.seek(max(0, size - 1_000_000))
            tail = file.read()
            if not tail.endswith(b"\n"):
                file.truncate(size - (len(tail) - 1 - tail.rfind(b"\n")))


def read_records(path: Path) -> list[AnyRecord]:
    """Every record of one rank that still holds, in order; a torn last line is left out.

    Raises: DataError as ``each_record``.
    """
    found: list[AnyRecord] = []
    for record in each_record(path):
        if isinstance(record, Resumed):
            found = [past for past in found if isinstance(past, Start) or _updates(past) <= record.num_updates]
        found.append(record)
    return found


def each_record(path: Path) -> Iterator[AnyRecord]:
    """Every record of one rank as it was written, those too that a later ``Resumed`` supersedes.

    Raises: DataError naming file and line if a line is no record, or of a schema version that cannot be read.
    """
    try:
        whole, _, _torn = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    validate = _ADAPTER.validator.validate_json  # a tenth faster than the adapter's own, over millions of lines
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record: AnyRecord = validate(line)
        except ValidationError as error:
            raise _no_record(error, line, path, f"{path}, line {number}") from error
        yield record


def _no_record(error: ValidationError, line: bytes, path: Path, where: str) -> DataError:
    version = re.search(rb'"schema_version":\s*(-?\d{1,9})', line)
    if version and (trouble := _unreadable(int(version[1]), path)):
        return DataError(f"{where} has {trouble}")
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"][1:]))[:200]  # after the kind of record
    advice = "restore the file from a backup, or remove its folder to run the trial anew"
    return DataError(f"{where} is no record of paceline: {field}{': ' * bool(field)}{first['msg']}; {advice}")


def _updates(record: AnyRecord) -> float:
    """At which update a record was written; an end is always superseded."""
    return record.num_updates if isinstance(record, Epoch | Evaluation) else float("inf")


def rank_file(trial_dir: Path, rank: int) -> Path:
    """Where a rank writes its records."""
    return trial_dir / f"rank-{rank:04d}.jsonl"


def write_atomically(path: Path, content: bytes) -> None:
    """Write aside, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Write a JSON file atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Read a JSON file.

    Raises: DataError if it is missing or no JSON.
    """
    try:
        return json_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        advice = "restore it from a backup, or remove it: the same run writes it anew"
        raise DataError(f"{path} cannot be read: {error}; {advice}") from error


def write_versioned(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with the schema version."""
    write_json(path, {"schema_version": SCHEMA_VERSION} | dict(fields))


def read_versioned(path: Path) -> dict[str, Any]:
    """The fields of a JSON object without its schema version; one that has none is as old as can be.

    Raises: DataError naming the file if it is missing, no JSON object, or of a schema version that cannot be read.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise DataError(f"{path} holds no JSON object; remove it, or restore it from a backup")
    version = fields.pop("schema_version", OLDEST_VERSION)
    if not isinstance(version, int):
        raise DataError(f"{path} has no whole number as its schema version: {version!r}; restore it from a backup")
    if trouble := _unreadable(version, path):
        raise DataError(f"{path} has {trouble}")
    return fields


def trial_dirs(run_dir: Path) -> Iterator[Path]:
    """The folders of the trials of a run, in the order of their names."""
    return (path.parent for path in sorted(run_dir.glob("*/trial.json")))


def exit_of(folder: Path) -> Exit | None:
    """How the trial in ``folder`` ended; None while it has not.

    Raises: DataError if its ``exit.json`` is damaged.
    """
    path = folder / "exit.json"
    try:
        return Exit.model_validate(read_versioned(path)) if path.exists() else None
    except ValidationError as error:
        raise DataError(f"{path} does not say how a trial ended: {error.errors()[0]['msg']}") from error


def failures_path(trial_dir: Path) -> Path:
    """Where failed attempts at a trial are kept."""
    return trial_dir / "failures.json"


def failures_of(trial_dir: Path) -> tuple[Failure, ...]:
    """The attempts at a trial that failed.

    Raises: DataError if the file is damaged.
    """
    path = failures_path(trial_dir)
    try:
        return Failures.model_validate(read_versioned(path)).failures if path.exists() else ()
    except ValidationError as error:
        raise DataError(f"{path} tells of no failed attempts: {error.errors()[0]['msg']}; remove it") from error


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left aside, in a folder and below, where nobody writes any more."""
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
            path.unlink(missing_ok=True)


class RecordFollower:
    """Reads a growing file of records, from its end at the time this is made, or from its beginning."""

    def __init__(self, path: Path, *, from_beginning: bool = False) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() and not from_beginning else 0

    def new_records(self) -> list[AnyRecord]:
        """The whole records written since the last call.

        Raises: DataError as ``each_record``.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _torn = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [self._record(line) for line in whole.splitlines()]

    def _record(self, line: bytes) -> AnyRecord:
        try:
            return _ADAPTER.validate_json(line)
        except ValidationError as error:
            raise _no_record(error, line, self._path, f"a line of {self._path}") from error
