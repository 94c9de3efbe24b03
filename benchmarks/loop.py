"""paceline's training loop beside the same loop by hand, with a DataLoader, with Fabric and with Accelerate."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from benchmarks.data import prepare, write_source
from benchmarks.outcome import Row, hand_over, row
from benchmarks.pairs import interleave, ratios
from benchmarks.rivals import ByHand, Images, WithAccelerate, WithFabric, WithLoader
from benchmarks.trials import PacelineLoop, open_trial, require_same

RIVALS = {"by hand": ByHand, "DataLoader": WithLoader, "Fabric": WithFabric, "Accelerate": WithAccelerate}
SETTINGS = {"sgd": ("optimizer.lr=0.01",), "adam": ()}


def measure(quick: bool) -> list[Row]:
    """Rows of both workloads; on one core as well, where no thread of paceline can run beside the training."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = prepare(write_source(folder / "source", num_train=2000 if quick else 8000), folder / "data")
        runs = folder / "runs"
        rows = _compare("imagenet32", "adam", runs / "a", data_dir, rounds=3 if quick else 20, all_rivals=True)
        rows += _compare("mnist", "sgd", runs / "b", None, rounds=3 if quick else 40, all_rivals=False)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        rows += _compare("imagenet32", "adam", runs / "c", data_dir, rounds=3 if quick else 16, all_rivals=False)
    return rows


def _compare(
    data: str, optimizer: str, folder: Path, data_dir: Path | None, *, rounds: int, all_rivals: bool
) -> list[Row]:
    trial, workload = open_trial(f"lenet5-{data}", optimizer, data_dir=data_dir, settings=SETTINGS[optimizer])
    images = Images(workload.dataset, data_dir)
    rivals = {name: build(images, optimizer) for name, build in RIVALS.items() if all_rivals or name == "by hand"}
    again = ByHand(images, optimizer)
    paceline = PacelineLoop(trial, workload, folder)
    loops = {"paceline": paceline, "by hand again": again, **rivals}
    interleave({name: loop.epoch for name, loop in loops.items()}, rounds=0, warm_up=1)
    for name, loop in loops.items():
        require_same(loop.model, rivals["by hand"].model, what=name)
    seconds = interleave({name: loop.epoch for name, loop in loops.items()}, rounds=rounds, warm_up=1)
    seconds["paceline's own clock"] = paceline.train_times_s[2:]
    paceline.training.close()
    return _rows(f"{optimizer}, {data}, cores: {len(os.sched_getaffinity(0))}", seconds, len(images.labels), paceline)


def _rows(where: str, seconds: dict[str, list[float]], num_images: int, paceline: PacelineLoop) -> list[Row]:
    hand = seconds.pop("by hand")
    again = seconds.pop("by hand again")
    rows = [
        row(f"loop by hand ({where})", [num_images / one for one in hand], "images/s", digits=0),
        row(f"by hand again / by hand: the noise ({where})", ratios(again, hand), ""),
    ]
    for name, own in seconds.items():
        goal = 1.02 if name == "paceline" else None
        rows.append(row(f"{name} / by hand ({where})", ratios(own, hand), "", at_most=goal, noise=ratios(again, hand)))
    rows.append(row(f"paceline: evaluation and checkpoint after an epoch ({where})", paceline.aside_s[2:], "s"))
    return rows


if __name__ == "__main__":
    hand_over(measure)
