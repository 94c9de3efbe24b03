"""``paceline logs``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from paceline.records import RecordFollower

POLL_S = 0.2


def logs(
    run: Path,
    *,
    rank: int | None = None,
    trial: str | None = None,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
) -> None:
    """Show what a run, its ranks or a trial said.

    Parameters
    ----------
    run:
        The folder of a run, such as runs/demo.
    rank:
        Only what this rank said: counted over all hosts of the job as its trials count them, host by host; of each
        group, where the run has several groups of hosts.
    trial:
        What the ranks recorded of this trial, and why it failed if it did; a part of its name is enough.
    follow:
        Go on with what is added, until nobody runs the study any more.
    """
    from paceline.cli.output import write

    refuse_stranger(run)
    source = _TrialText(_trial_folder(run, trial), rank) if trial is not None else _LogText(run / "logs", rank)
    for text in _followed(run, source) if follow else [source.new_text()]:
        write(text)


class GrowingText:
    """Whole lines of a file that somebody appends to."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new_text(self) -> str:
        """The lines since the last call; none while the file does not exist."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole, newline, _torn = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return ""
        self._offset += len(whole) + len(newline)
        return (whole + newline).decode(errors="replace")


class _LogText:
    """All logs of a run, or those of one rank of each job, each part under the name of its file.

    Raises: UsageError if no host has such a rank.
    """

    def __init__(self, folder: Path, rank: int | None) -> None:
        self._folder, self._rank = folder, rank
        self._followers: dict[Path, GrowingText] = {}
        self._last: Path | None = None
        if rank is not None:
            _refuse_unknown(rank, {known for _, ranks in self._hosts() for known in ranks})

    def new_text(self) -> str:
        """What was added since the last call, the file that was written last coming last."""
        parts = []
        for path in sorted(self._paths(), key=lambda path: path.stat().st_mtime):
            if text := self._followers.setdefault(path, GrowingText(path)).new_text():
                parts.append(text if path == self._last else f"==> {path.relative_to(self._folder)} <==\n{text}")
                self._last = path
        return "".join(parts)

    def _paths(self) -> Iterator[Path]:
        if self._rank is None:
            yield from self._folder.rglob("*.log")
            return
        for folder, ranks in self._hosts():
            if self._rank in ranks:
                yield from folder.glob(f"*/attempt_*/{ranks.index(self._rank)}/*.log")

    def _hosts(self) -> Iterator[tuple[Path, list[int]]]:
        """The folder of each host's logs, and the ranks that it has had last."""
        from paceline.job import RANKS_FILE
        from paceline.records import read_json

        return ((path.parent, read_json(path)) for path in self._folder.rglob(RANKS_FILE))


def _refuse_unknown(rank: int, ranks: set[int]) -> None:
    from paceline.errors import UsageError

    if rank < 0 or (ranks and rank not in ranks):
        allowed = f"its ranks are 0 to {max(ranks)}" if ranks else "ranks count from 0"
        raise UsageError(f"the run has no rank {rank}; {allowed}")


class _TrialText:
    """What the ranks of a trial recorded, a line a record, and the words of those that failed."""

    def __init__(self, folder: Path, rank: int | None) -> None:
        self._folder, self._rank = folder, "*" if rank is None else f"{rank:04d}"
        self._followers: dict[Path, RecordFollower] = {}
        self._told: set[float] = set()

    def new_text(self) -> str:
        """What was recorded since the last call, in the order of time, then what failed ranks said, then the end.

        Raises: DataError naming the file that is damaged.
        """
        from paceline.records import AnyRecord, RecordFollower, exit_of

        records: list[AnyRecord] = []
        for path in sorted(self._folder.glob(f"rank-{self._rank}.jsonl")):
            if path not in self._followers:
                self._followers[path] = RecordFollower(path, from_beginning=True)
            records += self._followers[path].new_records()
        told = [_told(record.model_dump()) for record in sorted(records, key=lambda record: record.time)]
        for word in map(_word, sorted(self._folder.glob(f"error-rank-{self._rank}.json"))):
            if word["time"] not in self._told:
                said = f"{when(word['time'])} rank {word['rank']} on {word['host']}: {word['error']}"
                told += [said, word["traceback"]]
                self._told.add(word["time"])
        how = exit_of(self._folder)
        if how is not None and how.time not in self._told:
            told.append(f"{when(how.time)} {how.status}{': ' * bool(how.cause)}{how.cause}")
            self._told.add(how.time)
        return "".join(f"{text.rstrip()}\n" for text in told if text)


def _word(path: Path) -> dict[str, Any]:
    """What a failed rank left.

    Raises: DataError if it is damaged.
    """
    from paceline.errors import DataError
    from paceline.records import read_json

    word = read_json(path)
    kinds = {"time": float, "rank": int, "host": str, "error": str, "traceback": str}
    if not isinstance(word, dict) or not all(isinstance(word.get(key), kind) for key, kind in kinds.items()):
        raise DataError(f"{path} is no word of a rank that failed; remove it")
    return word


def _told(record: dict[str, Any]) -> str:
    """A record on a line, its time first."""
    rank = f" rank {record['rank']}" if "rank" in record else ""
    left = {key: value for key, value in record.items() if key not in ("time", "kind", "rank", "schema_version")}
    flat = {key: value for key, value in left.items() if not isinstance(value, dict | list)}
    for key in ("train", "validation", "test"):
        flat |= {f"{key} {name}": value for name, value in left.get(key, {}).items()}
    words = ", ".join(f"{key} {f'{value:.6g}' if isinstance(value, float) else value}" for key, value in flat.items())
    return f"{when(record['time'])}{rank} {record['kind']}: {words}"


def when(time_s: float) -> str:
    """A time, given in seconds since 1970, on the clock of this place."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))
    except (OverflowError, ValueError, OSError):
        return f"{time_s} s after 1970"


def refuse_stranger(run: Path) -> None:
    """Raise UsageError if a folder is missing or no run of paceline."""
    from paceline.errors import UsageError

    if not run.is_dir():
        raise UsageError(f"there is no folder {run}; `paceline run STUDY.toml` writes one below ./runs")
    if not (run / "study.json").exists():
        raise UsageError(f"{run} is no run of paceline: it has no study.json; give a folder such as runs/STUDY")


def _followed(run: Path, source: _LogText | _TrialText) -> Iterator[str]:
    """What is there and what comes, until nobody runs the study."""
    from paceline.plan.control import who_runs

    runs = True
    while runs:
        runs = who_runs(run) is not None  # before the text, so that none is missed
        yield source.new_text()
        if runs:
            time.sleep(POLL_S)


def _trial_folder(run: Path, name: str) -> Path:
    """The folder of the one trial that a part of its name means.

    Raises: UsageError if it means none, or several.
    """
    from paceline.errors import UsageError
    from paceline.records import trial_dirs

    meant = [folder for folder in trial_dirs(run) if name in folder.name]
    exact = [folder for folder in meant if folder.name == name]
    if len(exact or meant) == 1:
        return (exact or meant)[0]
    if not meant:
        names = [folder.name for folder in trial_dirs(run)]
        raise UsageError(f"{run} has no trial '{name}'; {len(names)} others, such as {', '.join(names[:3])}")
    raise UsageError(f"'{name}' means {len(meant)} trials: {', '.join(folder.name for folder in meant[:8])}; say more")
