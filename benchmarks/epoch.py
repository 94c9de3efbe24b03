"""A whole epoch in a fresh process, reading the data included: paceline on its store beside the plain script."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.data import prepare, write_source
from benchmarks.outcome import Row, hand_over, last_json, row
from benchmarks.pairs import interleave, ratios
from benchmarks.programs import module, peak_memory_bytes, run

NAMES = {"plain script": "none", "Fabric": "fabric", "Accelerate": "accelerate"}


def measure(quick: bool) -> list[Row]:
    """Images a second of each, and paceline's speed relative to each."""
    num_train = 4000 if quick else 24_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_source(folder / "source", num_train=num_train)
        began = time.perf_counter()
        data_dir = prepare(source, folder / "data")
        prepare_s = time.perf_counter() - began
        results: dict[str, list[dict[str, float]]] = {}

        def contestant(name: str, command: list[str]) -> Callable[[], float]:
            def once() -> float:
                results.setdefault(name, []).append(last_json(run(command)))
                return seconds_an_image(results[name][-1])

            return once

        contestants = {
            "paceline": contestant("paceline", module("benchmarks.epoch", "--paceline-side", data_dir)),
            **{key: contestant(key, module("benchmarks.plain", source, "--with", NAMES[key])) for key in NAMES},
        }
        seconds = interleave(contestants, rounds=2 if quick else 6, warm_up=0 if quick else 1)
    return _rows(seconds, results, num_train, prepare_s)


def seconds_an_image(result: dict[str, float]) -> float:
    """Of reading and training together."""
    return (result["read_s"] + result["epoch_s"]) / result["num_images"]


def _rows(
    seconds: dict[str, list[float]], results: dict[str, list[dict[str, float]]], num_train: int, prepare_s: float
) -> list[Row]:
    size = f"{num_train:,} images"
    rows = [
        row(f"{name}, epoch with reading ({size})", [1 / one for one in own], "images/s", digits=0)
        for name, own in seconds.items()
    ]
    for name in NAMES:
        goal = 1.15 if name == "plain script" else None
        faster = ratios(seconds[name], seconds["paceline"])
        rows.append(row(f"paceline is so many times as fast as: {name}", faster, "", at_least=goal))
    train = {name: [one["epoch_s"] / one["num_images"] for one in own] for name, own in results.items()}
    rows.append(row("the same without reading: plain script", ratios(train["plain script"], train["paceline"]), ""))
    for name in ("paceline", "plain script"):
        rows.append(row(f"{name}: opening or reading the data", [one["read_s"] for one in results[name]], "s"))
    rows.append(row("paceline data prepare, once and for all", [prepare_s], "s"))
    return rows


def paceline_side(data_dir: Path) -> None:
    """One epoch of the real training loop; prints its times as the plain script does."""
    import torch
    import torch._dynamo  # as in the plain script: no part of an epoch

    from benchmarks.trials import PacelineLoop, open_trial

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trial, workload = open_trial("lenet5-imagenet32", "adam", data_dir=data_dir)
        read_s = time.perf_counter() - began
        loop = PacelineLoop(trial, workload, Path(folder))
        start_s = time.perf_counter() - began - read_s
        epoch_s = start_s + loop.epoch()
    times = {"read_s": read_s, "epoch_s": epoch_s, "num_images": workload.num_examples["train"]}
    print(json.dumps({**times, "peak_memory_bytes": peak_memory_bytes()}))


if __name__ == "__main__":
    if "--paceline-side" in sys.argv:
        paceline_side(Path(sys.argv[-1]))
    else:
        hand_over(measure)
