"""Failed ranks: each leaves a file that says why, and one merged cause is made of them."""

from __future__ import annotations

import platform
import re
import time
import traceback
from pathlib import Path

from paceline.errors import PacelineError
from paceline.records import read_json, write_json

# What a rank says, always in a RuntimeError of torch, when another one has died: a consequence, never the cause.
_BLAMES_A_PEER = re.compile(r"Connection (closed|reset|refused)|Broken pipe|Timed out|gloo|NCCL|recvValue|store", re.I)


def leave_word(trial_dir: Path, rank: int, error: BaseException) -> None:
    """Write why this rank gives up."""
    write_json(
        _path(trial_dir, rank),
        {
            "time": time.time(),
            "rank": rank,
            "host": platform.node(),
            "error": str(error) if isinstance(error, PacelineError) else f"{type(error).__name__}: {error}",
            "blames_a_peer": isinstance(error, RuntimeError) and bool(_BLAMES_A_PEER.search(str(error))),
            "traceback": "".join(traceback.format_exception(error))[-4000:],
        },
    )


def merged_cause(trial_dir: Path, num_ranks: int) -> str:
    """Who failed first, and why: the earliest error that blames no peer, else the ranks that died without a word."""
    paths = [_path(trial_dir, rank) for rank in range(num_ranks)]
    words = [read_json(path) for path in paths if path.exists()]
    own = sorted((word for word in words if not word["blames_a_peer"]), key=lambda word: float(word["time"]))
    if own:
        return f"rank {own[0]['rank']} on {own[0]['host']}: {own[0]['error']}"
    silent = [str(rank) for rank, path in enumerate(paths) if not path.exists()]
    if silent:
        return f"rank {', '.join(silent)} died without a word (killed, or out of memory?); see logs/"
    return f"rank {words[0]['rank']} on {words[0]['host']}: {words[0]['error']}"


def forget(trial_dir: Path) -> None:
    """Remove the words of an earlier attempt."""
    for path in trial_dir.glob("error-rank-*.json"):
        path.unlink()


def _path(trial_dir: Path, rank: int) -> Path:
    return trial_dir / f"error-rank-{rank:04d}.json"
