"""On a rank of the pool: trials in folders that a test keeps short of room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paceline.trial import Trial


def attempt(ranks: Any, *, trial: dict[str, Any], folder: str) -> str:
    """Run a trial as a job does; what is wrong if it fails, empty if it does not."""
    from paceline.train.interval import Keeping
    from paceline.train.worker import run_and_record

    try:
        run_and_record(Trial.model_validate(trial), None, ranks, Path(folder), keeping=Keeping(every="epoch"))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
