"""How long ``paceline report`` takes for a run of a thousand trials."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from types import ModuleType

from benchmarks.outcome import Row, hand_over, row
from benchmarks.programs import PACELINE, ROOT, run

NUM_CELLS = 6  # of the synthetic study: three optimizers at two scales


def measure(quick: bool) -> list[Row]:
    """Seconds of the whole command."""
    num_seeds = 10 if quick else 167
    with tempfile.TemporaryDirectory() as name:
        generator = _generator()
        run_dir = generator.make_run(Path(name), generator.make_study(seeds=list(range(num_seeds))))
        seconds = []
        for _ in range(1 if quick else 5):
            began = time.perf_counter()
            run([*PACELINE, "report", str(run_dir)])
            seconds.append(time.perf_counter() - began)
    what = f"paceline report of {NUM_CELLS * num_seeds:,} trials"
    return [row(what, seconds, "s", at_most=10, digits=2)]


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
