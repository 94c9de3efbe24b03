"""``python -m benchmarks [--quick] [NAME ...]``: run them, write benchmarks/results.json and docs/benchmarks.md.

Each runs in a process of its own, so that one that fails does not lose the rest. Naming some keeps the others' results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.outcome import last_json
from benchmarks.page import page
from benchmarks.programs import ROOT, module, run

BENCHMARKS = {
    "loop": (
        "The training loop",
        "LeNet-5 at batch 64, epoch by epoch in turn, all loops in one process: wall time of an epoch but for what the "
        "others do not do (evaluation, checkpoint), relative to a loop written by hand, which gathers bytes "
        "from memory where paceline reads ImageNet32 from its store. 'By hand again' is the same "
        "loop a second time, so its spread is the noise; 'cores: 1' leaves paceline's gathering thread no core of its "
        "own.",
    ),
    "epoch": (
        "A whole epoch from disk",
        "Random images in the published ImageNet32 layout, the files warm in the page cache; every epoch in a fresh "
        "process, timed from after the imports to the last update, the reading of the data included. The plain script "
        "unpickles all files, converts them to float32 and trains by a DataLoader; paceline opens the store that "
        "`paceline data prepare` made.",
    ),
    "two_ranks": (
        "Two ranks",
        "Two processes over gloo, one thread each, an epoch of paceline's DDP strategy and one of bare DDP by hand in "
        "turn; the slower rank counts. Bare DDP reduces no loss and counts nothing.",
    ),
    "memory": (
        "Memory",
        "The most resident memory (VmHWM) of rank 0 of `paceline train` for LeNet-5 at batch 64, as its end record "
        "has it, on more and more images. Beside it the plain script on the same images, and torch with nearly nothing "
        "done.",
    ),
    "trial_cost": (
        "The fixed cost of a trial",
        "A study of many tiny trials in one warm job: from one trial's exit.json to the next one's, less training, "
        "evaluation, checkpoint and test score, all from the records. Beside it the same trial by a torchrun of its "
        "own.",
    ),
    "checkpoints": (
        "Checkpoints",
        "Whole trials of Adam at batch 64, one thread a rank: the seconds that `checkpoint_time_s` counts, the last "
        "checkpoint included, beside those of training. Each is flushed to the disk, read back from it, and its folder "
        "flushed.",
    ),
    "startup": (
        "Start-up",
        "Whole commands, in turn. The first update is dated by the start record, which is written just before it.",
    ),
    "lbfgs": (
        "L-BFGS",
        "DistributedLBFGS beside torch's L-BFGS, one thread a rank, in turn. The direction alone, from a full history; "
        "whole steps with strong Wolfe from the same start, with equal numbers of evaluations; and on two ranks over "
        "gloo, beside DDP with torch's L-BFGS whose closure also adds up the loss.",
    ),
    "reproducible": (
        "The same bits at every scale",
        "Whole updates by Adam with `reproducible`, each cut into four microbatches, beside the usual strategy, in "
        "turn; one thread a rank, the slower rank counts.",
    ),
    "strategies": (
        "Strategies",
        "Steps of SGD over gloo, one thread a rank, some dozens at a time in turn with those of DDP; the slower rank "
        "counts. Bytes are relative to DDP's, both with the loss; their goals are what the papers say, to four digits.",
    ),
    "report": (
        "The report",
        "The whole command on a run folder of synthetic records, from reading them to the HTML file.",
    ),
}  # fmt: skip


def main() -> int:
    """Run the benchmarks named on the command line, all by default; returns 1 if one could not be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; writes to a temporary folder, not the tree")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    load = os.getloadavg()[0]
    found = {name: _run(name, quick=arguments.quick) for name in arguments.names or BENCHMARKS}
    _write(found, quick=arguments.quick, load=load)
    return 1 if any(one["error"] for one in found.values()) else 0


def _run(name: str, *, quick: bool) -> dict[str, Any]:
    began = time.perf_counter()
    title, how = BENCHMARKS[name]
    found: dict[str, Any] = {"title": title, "how": how, "rows": [], "error": ""}
    try:
        found["rows"] = last_json(run(module(f"benchmarks.{name}", *(["--quick"] if quick else []))))
    except (RuntimeError, ValueError) as error:
        found["error"] = str(error)
    found["taken_s"] = round(time.perf_counter() - began, 1)
    print(f"{name}: {'failed' if found['error'] else 'done'} after {found['taken_s']} s", file=sys.stderr)
    if found["error"]:
        print(found["error"], file=sys.stderr)
    return found


def _write(found: dict[str, Any], *, quick: bool, load: float) -> None:
    """Write results and page; a quick run leaves those of the last full run alone."""
    scratch = Path(tempfile.mkdtemp(prefix="benchmarks-")) if quick else None
    results_path = (scratch or ROOT / "benchmarks") / "results.json"
    page_path = (scratch or ROOT / "docs") / "benchmarks.md"
    earlier = json.loads(results_path.read_text())["benchmarks"] if results_path.exists() else {}
    merged = earlier | found
    results = {
        "machine": _machine(load),
        "quick": quick,
        "benchmarks": {name: merged[name] for name in BENCHMARKS if name in merged},
    }
    results_path.write_text(json.dumps(results, indent=1) + "\n")
    page_path.write_text(page(results))
    print(f"{results_path}\n{page_path}")


def _machine(load: float) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": names[0] if names else platform.machine(),
        "num_cores": os.cpu_count(),
        "torch": version("torch"),
        "python": platform.python_version(),
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.exit(main())
