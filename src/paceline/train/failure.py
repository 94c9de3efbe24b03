"""Failed ranks: each leaves a file that says why, on its own host, and one merged cause is made of them."""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.errors import DataError, PacelineError, UsageError
from paceline.records import read_json, write_json

# What a rank says, always in a RuntimeError of torch, when another one has died: a consequence, never the cause.
_BLAMES_A_PEER = re.compile(
    r"Connection (was likely )?(closed|reset|refused)|Broken pipe|Timed out|gloo|NCCL|recvValue|store", re.I
)


NUM_LINES = 3  # of a log that are shown
NUM_FRAMES = 2  # of a stack that are shown


def leave_word(folder: Path, rank: int, error: BaseException) -> None:
    """Write why this rank gives up."""
    why = str(error) if isinstance(error, PacelineError) else f"{type(error).__name__}: {error}"
    if "Timed out" in why:
        why += f"\nwaiting in {_place(traceback.extract_tb(error.__traceback__))}"
    _write(
        folder,
        rank,
        rank=rank,
        host=platform.node(),
        error=why,
        blames_a_peer=isinstance(error, RuntimeError) and bool(_BLAMES_A_PEER.search(str(error))),
        is_final=isinstance(error, UsageError | DataError),
        traceback="".join(traceback.format_exception(error))[-4000:],
    )


def accuse(folder: Path, own: int, silent: int, host: str, error: str) -> None:
    """Write why this rank gives up: what is wrong with another one, which cannot say so itself."""
    _write(folder, own, rank=silent, host=host, error=error, blames_a_peer=False, traceback="")


def say_farewell(folder: Path, rank: int) -> None:
    """Write that this rank was asked to end, and did: so it was not killed."""
    stack = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident or 0])
    _write(
        folder,
        rank,
        rank=rank,
        host=platform.node(),
        error="was asked to end (SIGTERM)",
        was_at=_place(stack),
        blames_a_peer=True,
        traceback="".join(traceback.format_list(stack))[-4000:],
    )


def has_word(folder: Path, rank: int) -> bool:
    """Whether this rank has left a word there."""
    return _path(folder, rank).exists()


def last_word(folder: Path, rank: int, local_rank: int, logs: Path) -> dict[str, Any]:
    """What the process that was this rank before left on this host: its host, its word and the end of its log."""
    path = _path(folder, rank)
    word = read_json(path) if path.exists() else {}
    return {"rank": rank, "host": platform.node(), "log": _last_lines(logs, local_rank)} | word


def merged_cause(words: Sequence[dict[str, Any]], ranks: Sequence[int]) -> str:
    """Who failed first, and why: the earliest error that blames no peer, else the ranks that died without a word.

    What the others said comes below it.
    Args:
        words: what ``last_word`` gives, of each rank of the job.
        ranks: the job's numbers of the trial's ranks, in the trial's order.
    """
    first = _first(words)

    def name(word: dict[str, Any]) -> str:
        number = ranks.index(word["rank"]) if word["rank"] in ranks else f"{word['rank']} (idle)"
        return f"rank {number} on {word['host']}"

    if "was_at" in first[0] and _gave_up(words):
        cause = f"{name(first[0])} kept the others waiting until they gave up, in {first[0]['was_at']}"
    elif "error" in first[0]:
        cause = f"{name(first[0])}: {first[0]['error']}"
    else:
        cause = f"{', '.join(map(name, first))} died without a word (killed, or out of memory?); see logs/"
        cause += "".join(f"\n{name(word)} wrote last: {word['log']}" for word in first if word["log"])
    others = [f"\n{name(word)}: {word['error']}" for word in _said(words) if word not in first]
    return cause + "".join(other for other in dict.fromkeys(others) if other.strip() != cause)


def is_curable(words: Sequence[dict[str, Any]]) -> bool:
    """Whether trying again may help: not where settings or data are wrong."""
    return not _first(words)[0].get("is_final", False)


def _first(words: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The words of those that failed first."""
    said = _said(words)
    silent = [word for word in words if "error" not in word]
    hung = [word for word in said if "was_at" in word] if _gave_up(words) else []
    return [word for word in said if not word["blames_a_peer"]][:1] or silent or hung[:1] or said[:1]


def _gave_up(words: Sequence[dict[str, Any]]) -> bool:
    """Whether somebody waited for another one until it gave up."""
    return any("Timed out" in word["error"] for word in _said(words))


def _said(words: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The words of those that left one, in order of time."""
    return sorted((word for word in words if "error" in word), key=lambda word: float(word["time"]))


def words_in(folder: Path) -> str:
    """What was left there, a line each."""
    words = [read_json(path) for path in sorted(folder.glob("error-rank-*.json"))]
    return "".join(f"rank {word['rank']} on {word['host']}: {word['error']}\n" for word in words)


def forget(folder: Path, rank: int) -> None:
    """Remove the word of an earlier attempt."""
    _path(folder, rank).unlink(missing_ok=True)


def _last_lines(logs: Path, local_rank: int) -> str:
    """The end of what this rank's predecessor wrote to standard error; empty if it wrote nothing."""
    own = os.fstat(sys.stderr.fileno())
    paths = [
        path for path in logs.glob(f"*/attempt_*/{local_rank}/stderr.log") if not os.path.samestat(path.stat(), own)
    ]
    if not paths:
        return ""
    newest = max(paths, key=lambda path: path.stat().st_mtime)
    return "\n".join(newest.read_text(errors="replace").splitlines()[-NUM_LINES:])


def _place(stack: traceback.StackSummary) -> str:
    """Where a stack is, in words: the innermost places that are none of torch's."""
    own = [at for at in stack if f"{os.sep}torch{os.sep}" not in at.filename] or list(stack)
    return ", called by ".join(f"{at.name} ({at.filename}, line {at.lineno})" for at in reversed(own[-NUM_FRAMES:]))


def _write(folder: Path, own: int, **word: Any) -> None:  # noqa: ANN401
    write_json(_path(folder, own), {"time": time.time(), **word})


def _path(folder: Path, rank: int) -> Path:
    return folder / f"error-rank-{rank:04d}.json"
