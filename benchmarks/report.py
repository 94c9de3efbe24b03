"""Time and memory of ``paceline report``, for a thousand short trials and for ten thousand long ones."""

from __future__ import annotations

import importlib.util
import resource
import tempfile
import time
from pathlib import Path
from types import ModuleType

from benchmarks.outcome import Row, hand_over, row
from benchmarks.programs import PACELINE, ROOT, run

NUM_CELLS = 6  # of the synthetic study: three optimizers at two scales
NUM_DISTINCT_SEEDS = 8  # of the large run; the others are copies


def measure(quick: bool) -> list[Row]:
    """Seconds of the whole command, gigabytes of memory, megabytes of the page."""
    short_seeds, long_seeds, long_epochs = (10, 10, 20) if quick else (167, 1667, 100)
    with tempfile.TemporaryDirectory() as name:
        seconds, _ = _reports(Path(name), num_seeds=short_seeds, num_epochs=5, times=1 if quick else 5)
    with tempfile.TemporaryDirectory() as name:
        long_seconds, page = _reports(Path(name), num_seeds=long_seeds, num_epochs=long_epochs, times=1 if quick else 3)
        page_mb = page.stat().st_size / 1e6
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9  # the most that any of them held
    what = f"{NUM_CELLS * long_seeds:,} trials of {long_epochs} epochs"
    return [
        row(f"paceline report of {NUM_CELLS * short_seeds:,} trials of 5 epochs", seconds, "s", at_most=10, digits=2),
        row(f"paceline report of {what}", long_seconds, "s", at_most=30, digits=1),
        row(f"the most resident memory for {what}", [peak_gb], "GB", at_most=2, digits=2),
        row(f"the page of {what}", [page_mb], "MB", at_most=5, digits=2),
    ]


def _reports(root: Path, *, num_seeds: int, num_epochs: int, times: int) -> tuple[list[float], Path]:
    """Seconds of each of several reports of one synthetic run, and the page."""
    generator = _generator()
    study = generator.make_study(seeds=list(range(num_seeds)), max_epochs=num_epochs)
    run_dir = generator.make_run(root, study, num_distinct_seeds=min(num_seeds, NUM_DISTINCT_SEEDS))
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run([*PACELINE, "report", str(run_dir)])
        seconds.append(time.perf_counter() - began)
    return seconds, run_dir / "report.html"


def _generator() -> ModuleType:
    """The tests' own generator of run folders."""
    path = ROOT / "tests" / "analysis" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    hand_over(measure)
