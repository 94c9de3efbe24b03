"""Peak memory of ``paceline train`` as the data grows, beside the plain script and beside torch alone."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.data import prepare, write_source
from benchmarks.outcome import Row, hand_over, last_json, row
from benchmarks.programs import PACELINE, module, peak_memory_bytes, run
from paceline.records import End, rank_file, read_records

LIMIT_MB = 300


def measure(quick: bool) -> list[Row]:
    """MB (of a million bytes) of rank 0, at three sizes of the data."""
    sizes = [2000, 4000] if quick else [8000, 32_000, 128_000]
    rows = []
    for what in ("torch", "step"):
        peaks = [last_json(run(module("benchmarks.memory", "--floor", what))) / 1e6 for _ in range(1 if quick else 3)]
        words = {"torch": "import torch, no more", "step": "torch and one Adam step of LeNet-5 by hand"}
        rows.append(row(words[what], peaks, "MB", digits=0))
    largest: list[float] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            source = write_source(Path(name) / "source", num_train=size)
            data_dir = prepare(source, Path(name) / "data")
            peaks = [_paceline_peak(data_dir, Path(name) / f"runs-{k}") / 1e6 for k in range(1 if quick else 2)]
            largest.append(max(peaks))
            rows.append(row(f"paceline train, {size:,} images", peaks, "MB", at_most=LIMIT_MB, digits=0))
            plain = last_json(run(module("benchmarks.plain", source)))["peak_memory_bytes"] / 1e6
            rows.append(row(f"plain script, {size:,} images", [plain], "MB", digits=0))
    # a label is 8 bytes an image, in memory a few times over: that much may grow
    rows.append(row("paceline, largest data / smallest", [largest[-1] / largest[0]], "", at_most=1.05))
    return rows


def _paceline_peak(data_dir: Path, runs: Path) -> int:
    arguments = ["--workload", "lenet5-imagenet32", "--optimizer", "adam", "--epochs", "1", "--threads", "1"]
    run([*PACELINE, "train", *arguments, "--data-dir", str(data_dir), "--runs", str(runs), "--json"])
    (trial,) = (path.parent for path in runs.glob("*/*/trial.json"))
    return next(record.peak_memory_bytes for record in read_records(rank_file(trial, 0)) if isinstance(record, End))


def floor(what: str) -> None:
    """Print the peak memory of torch alone, or with one step of training."""
    import torch

    torch.set_num_threads(1)
    if what == "step":
        from benchmarks.plain import lenet5

        model = lenet5(1000)
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        torch.nn.functional.cross_entropy(model(torch.randn(64, 3, 32, 32)), torch.arange(64)).backward()
        optimizer.step()
    print(peak_memory_bytes())


if __name__ == "__main__":
    if "--floor" in sys.argv:
        floor(sys.argv[-1])
    else:
        hand_over(measure)
