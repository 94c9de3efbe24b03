"""Two ranks: paceline's DDP strategy beside bare DDP by hand, turn by turn in the same two processes."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.data import prepare, write_source
from benchmarks.outcome import Row, hand_over, last_json, row
from benchmarks.pairs import ratios
from benchmarks.programs import run, torchrun


def measure(quick: bool) -> list[Row]:
    """Rows of LeNet-5 on digits and on ImageNet32."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = prepare(write_source(folder / "source", num_train=2000 if quick else 8000), folder / "data")
        rows = _compare("imagenet32", "adam", folder / "a", rounds=3 if quick else 20, data_dir=data_dir)
        return rows + _compare("mnist", "sgd", folder / "b", rounds=3 if quick else 40, data_dir=None)


def _compare(data: str, optimizer: str, folder: Path, *, rounds: int, data_dir: Path | None) -> list[Row]:
    folder.mkdir()
    output = run(torchrun(2, "benchmarks.two_ranks", "--rank", data, optimizer, rounds, folder, data_dir or "-"))
    found = last_json(output)
    seconds, where = found["seconds"], f"{optimizer}, {data}, 2 ranks"
    hand = seconds["by hand"]
    noise = ratios(seconds["by hand again"], hand)
    per_second = [found["num_images"] / one for one in hand]
    return [
        row(f"bare DDP by hand ({where})", per_second, "images/s", digits=0),
        row(f"by hand again / by hand: the noise ({where})", noise, ""),
        row(f"paceline / bare DDP by hand ({where})", ratios(seconds["paceline"], hand), "", at_most=1.02, noise=noise),
        row(f"paceline's own clock / bare DDP by hand ({where})", ratios(found["train_times_s"], hand), ""),
    ]


def rank_side(data: str, optimizer: str, rounds: int, folder: Path, data_dir: Path | None) -> None:
    """One rank; rank 0 prints the seconds of the slower rank, epoch by epoch."""
    import torch
    import torch.distributed as dist

    from benchmarks.loop import SETTINGS
    from benchmarks.pairs import interleave
    from benchmarks.trials import PacelineLoop, open_trial, require_same
    from paceline.train.group import Groups, initialize

    torch.set_num_threads(1)
    device = torch.device("cpu")
    initialize(device, timeout_s=120)
    ranks = Groups([], device, ranks_per_host=2).world
    trial, workload = open_trial(
        f"lenet5-{data}", optimizer, num_ranks=2, data_dir=data_dir, settings=SETTINGS[optimizer]
    )
    paceline = PacelineLoop(trial, workload, folder, ranks)
    images, bare = _by_hand(workload.dataset, data_dir)
    loops = {"paceline": paceline, "by hand again": bare(optimizer), "by hand": bare(optimizer)}

    def together(epoch: Callable[[], float]) -> Callable[[], float]:
        def once() -> float:
            dist.barrier()
            return float(ranks.maximum(torch.tensor([epoch()], dtype=torch.float64)))

        return once

    contestants = {name: together(loop.epoch) for name, loop in loops.items()}
    interleave(contestants, rounds=0, warm_up=1)
    require_same(paceline.model, loops["by hand"].model, what="paceline with two ranks")
    seconds = interleave(contestants, rounds=rounds, warm_up=1)
    if ranks.rank == 0:
        found = {"seconds": seconds, "num_images": len(images.labels), "train_times_s": paceline.train_times_s[2:]}
        print(json.dumps(found), flush=True)
    dist.barrier()
    os._exit(0)


def _by_hand(dataset: str, data_dir: Path | None):
    """The images, and what makes a loop of them: each rank takes its half of a batch, DDP averages the gradients."""
    import torch
    import torch.distributed as dist
    from torch.nn import functional
    from torch.nn.parallel import DistributedDataParallel

    from benchmarks.rivals import Images, Loop, build_optimizer
    from benchmarks.trials import BATCH_SIZE, SEED
    from paceline.data.order import epoch_permutation

    images = Images(dataset, data_dir)
    rank = dist.get_rank()

    class BareDdp(Loop):
        def __init__(self, optimizer: str) -> None:
            self.number = 0
            self.model = images.model()
            self.wrapped = DistributedDataParallel(self.model)
            self.optimizer = build_optimizer(optimizer, self.model)

        def _train(self) -> tuple[float, int]:
            order = epoch_permutation(len(images.labels), seed=SEED, epoch=self.number)
            self.number += 1
            loss_sum, correct = 0.0, 0
            for start in range(0, len(order), BATCH_SIZE):
                both = order[start : start + BATCH_SIZE]
                own = both[rank * len(both) // 2 : (rank + 1) * len(both) // 2]
                pixels = torch.from_numpy(images.bytes[own]).float().sub_(images.mean).mul_(images.scale)
                labels = torch.from_numpy(images.labels[own])
                self.optimizer.zero_grad()
                outputs = self.wrapped(pixels)
                loss = functional.cross_entropy(outputs, labels)
                loss.backward()
                self.optimizer.step()
                loss_sum += loss.item() * len(own)
                correct += int((outputs.argmax(1) == labels).sum())
            return loss_sum, correct

    return images, BareDdp


if __name__ == "__main__":
    if "--rank" in sys.argv:
        _, _, data, optimizer, rounds, folder, data_dir = sys.argv
        rank_side(data, optimizer, int(rounds), Path(folder), None if data_dir == "-" else Path(data_dir))
    else:
        hand_over(measure)
