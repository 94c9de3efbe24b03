"""Failed ranks: each leaves a file that says why, on its own host, and one merged cause is made of them."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.errors import PacelineError
from paceline.records import read_json, write_json

# What a rank says, always in a RuntimeError of torch, when another one has died: a consequence, never the cause.
_BLAMES_A_PEER = re.compile(r"Connection (closed|reset|refused)|Broken pipe|Timed out|gloo|NCCL|recvValue|store", re.I)


NUM_LINES = 3  # of a log that are shown


def leave_word(folder: Path, rank: int, error: BaseException) -> None:
    """Write why this rank gives up."""
    why = str(error) if isinstance(error, PacelineError) else f"{type(error).__name__}: {error}"
    _write(
        folder,
        rank,
        rank=rank,
        host=platform.node(),
        error=why,
        blames_a_peer=isinstance(error, RuntimeError) and bool(_BLAMES_A_PEER.search(str(error))),
        traceback="".join(traceback.format_exception(error))[-4000:],
    )


def accuse(folder: Path, own: int, silent: int, host: str, error: str) -> None:
    """Write why this rank gives up: what is wrong with another one, which cannot say so itself."""
    _write(folder, own, rank=silent, host=host, error=error, blames_a_peer=False, traceback="")


def last_word(folder: Path, rank: int, local_rank: int, logs: Path) -> dict[str, Any]:
    """What the process that was this rank before left on this host: its host, its word and the end of its log."""
    path = _path(folder, rank)
    word = read_json(path) if path.exists() else {}
    return {"rank": rank, "host": platform.node(), "log": _last_lines(logs, local_rank)} | word


def merged_cause(words: Sequence[dict[str, Any]], ranks: Sequence[int]) -> str:
    """Who failed first, and why: the earliest error that blames no peer, else the ranks that died without a word.

    What the others said comes below it.
    Args:
        words: what ``last_word`` gives, of each rank of the trial.
        ranks: the job's numbers of the trial's ranks, in the trial's order.
    """
    said = sorted((word for word in words if "error" in word), key=lambda word: float(word["time"]))
    silent = [word for word in words if "error" not in word]
    first = [word for word in said if not word["blames_a_peer"]][:1] or silent or said[:1]

    def name(word: dict[str, Any]) -> str:
        number = ranks.index(word["rank"]) if word["rank"] in ranks else f"{word['rank']} (idle)"
        return f"rank {number} on {word['host']}"

    if "error" in first[0]:
        cause = f"{name(first[0])}: {first[0]['error']}"
    else:
        cause = f"{', '.join(map(name, first))} died without a word (killed, or out of memory?); see logs/"
        cause += "".join(f"\n{name(word)} wrote last: {word['log']}" for word in first if word["log"])
    others = [f"\n{name(word)}: {word['error']}" for word in said if word not in first]
    return cause + "".join(other for other in dict.fromkeys(others) if other.strip() != cause)


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


def _write(folder: Path, own: int, **word: Any) -> None:  # noqa: ANN401
    write_json(_path(folder, own), {"time": time.time(), **word})


def _path(folder: Path, rank: int) -> Path:
    return folder / f"error-rank-{rank:04d}.json"
