"""A study of many short trials in one process tree: nothing grows from one trial to the next.

At the end of every trial the tree is looked at from outside. From the end of the first tenth of the trials on, each
quantity is given a line (Theil-Sen, with its 95 % interval: a few odd samples do not move it); it grows if the whole
interval lies above what is allowed. ``SOAK_TRIALS`` sets the number of trials.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from scipy.stats import theilslopes

from command_line import CommandLine
from paceline.job import job_path
from paceline.records import exit_of, read_json, trial_dirs

NUM_TRIALS = int(os.environ.get("SOAK_TRIALS", "500"))
NUM_LEAKING = 60
POLL_S = 0.01
QUIET = 0.1  # of the machine, used by others: times of trials in which they use more say nothing
FEWEST_QUIET = 20  # trials at a scale whose time can be judged
BLOCK = 10  # trials over which processor time is summed, for its clock ticks 100 times a second
# What may be added between the first sample and the last, by the first word of a quantity's name.
ALLOWED = {"descriptors": 0.5, "threads": 0.5, "number": 0.5}
ALLOWED_SHARE = {"memory": 0.03, "size": 0.01, "processor": 0.15, "wall": 0.15}  # of the median

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]

Samples = dict[str, float]
Series = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What became of a quantity: its median, and what was added from first to last, with a 95 % interval."""

    name: str
    median: float
    added: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, numbers: Series, values: Series) -> Growth:
        """Of values at the ends of trials of these numbers. Source: Sen 1968."""
        slope, _, low, high = theilslopes(values, numbers, alpha=0.95)
        span, median = float(numbers[-1] - numbers[0]), float(np.median(values))
        return cls(name=name, median=median, added=slope * span, low=low * span, high=high * span)

    @property
    def allowed(self) -> float:
        """What may be added."""
        kind = self.name.partition(" ")[0]
        return ALLOWED[kind] if kind in ALLOWED else ALLOWED_SHARE[kind] * self.median

    @property
    def grows(self) -> bool:
        """Whether more is added than is allowed, chance apart."""
        return self.low > self.allowed

    def in_words(self) -> str:
        """A line with the figures."""
        interval = f"{self.low:+.3g} to {self.high:+.3g}"
        return f"{self.name:40} {self.median:10.5g}  {self.added:+10.3g}  ({interval}; allowed {self.allowed:.3g})"


class Tree:
    """The processes of a running study, by what they do."""

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)

    def sample(self) -> Samples:
        """Memory (MB), descriptors, threads and processor time (s) of each process, and the number of these."""
        found: Samples = {"number of processes": 0}
        for process in (self._root, *self._root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess), process.oneshot():
                role, used = self._role(process, found), process.cpu_times()
                found |= {
                    f"memory of {role}, MB": process.memory_info().rss / 1e6,
                    f"descriptors of {role}": process.num_fds(),
                    f"threads of {role}": process.num_threads(),
                    f"processor time of {role}, s": used.user + used.system,
                }
                found["number of processes"] += 1
        return found

    @staticmethod
    def others_time_s(sample: Samples) -> float:
        """Processor time that was spent on this machine outside the tree."""
        spent = psutil.cpu_times()
        own = sum(value for name, value in sample.items() if name.startswith("processor"))
        return spent.user + spent.nice + spent.system + spent.irq + spent.softirq + spent.steal - own

    def _role(self, process: psutil.Process, taken: Mapping[str, float]) -> str:
        words = process.cmdline()
        if process == self._root:
            return "the command"
        if "paceline.launch.supervisor" in words:  # a guard, and its child of the same name
            return "the supervisor" if "threads of the guard" in taken else "the guard"
        if "paceline.train.worker" in words:
            return f"rank {process.environ()['LOCAL_RANK']}"
        return "the agent" if "paceline.train.agent" in words else "another process"


class Soak:
    """A study that was run and sampled at the end of each trial."""

    def __init__(self, command: CommandLine, *, num_trials: int, optimizer: str = "[optimizers.sgd]") -> None:
        self.num_trials, self._run_dir = num_trials, command.folder / "runs" / "soak"
        self._temporary = command.folder / "temporary"
        self._temporary.mkdir()
        self.samples: list[Samples] = []
        self._others: list[tuple[float, float]] = []  # at each sample: the time, and what others have computed so far
        self._is_over = threading.Event()
        study = write_study(command.folder, num_trials=num_trials, optimizer=optimizer)
        process = command.start("run", study, TMPDIR=str(self._temporary))
        watching = threading.Thread(target=self._watch, args=(Tree(process.pid),))
        watching.start()
        try:
            self.done = command.finish(process, deadline_s=800)
        finally:
            self._is_over.set()
            watching.join()
        assert self.done.returncode == 0, self.done.stderr[-2000:]
        assert len(self.samples) == num_trials

    def growths(self) -> list[Growth]:
        """Of everything that was sampled, and of what each trial took and left."""
        first = max(10, self.num_trials // 10)
        numbers = np.arange(first, len(self.samples) - 1, dtype=np.float64)  # after the last one, processes leave
        found = []
        for name in self.samples[first]:
            values = np.array([sample[name] for sample in self.samples[first:-1]])
            if not name.startswith("processor"):
                found.append(Growth.of(name, numbers, values))
            elif values[-1] - values[0] > 1:  # what takes less is not worth a clock's tick
                spent = np.diff(values[::BLOCK]) / BLOCK
                found.append(Growth.of(f"{name} a trial", numbers[::BLOCK][1:], spent))
        return found + self._of_trials(first)

    def _watch(self, tree: Tree) -> None:
        job = job_path(self._run_dir, "")
        while not job.exists():
            if self._is_over.wait(POLL_S):
                return
        for name in read_json(job)["trials"]:
            while not (self._run_dir / name / "exit.json").exists():
                if self._is_over.wait(POLL_S):
                    return
            seen = tree.sample()
            self._others.append((time.monotonic(), tree.others_time_s(seen)))
            self.samples.append(seen | self._files())

    def _files(self) -> Samples:
        """What lies in the temporary folder, and in the run folder beside the folders of trials."""
        beside = [path for path in self._run_dir.iterdir() if not (path / "trial.json").exists()]
        inside = [path for folder in beside for path in (folder, *folder.rglob("*"))]
        return {
            "number of temporary files": sum(1 for _ in self._temporary.rglob("*")),
            "number of files beside trials": len(inside),
            "size of logs, bytes": sum(path.stat().st_size for path in inside if path.suffix == ".log"),
        }

    def _of_trials(self, first: int) -> list[Growth]:
        """At each scale, in the order of ends: the time from end to end, and what is in the folders."""
        ended = sorted((how.time, folder) for folder in trial_dirs(self._run_dir) if (how := exit_of(folder)))
        wall = np.diff([at for at, _ in ended], prepend=np.nan)
        size = np.array([sum(path.stat().st_size for path in folder.rglob("*")) for _, folder in ended], dtype=float)
        passed, computed = np.diff(np.array(self._others), axis=0, prepend=np.nan).T
        is_quiet = computed < QUIET * passed * (os.cpu_count() or 1)
        found = []
        for scale in ("1x1", "1x2"):
            is_own = np.array([f"_{scale}_" in folder.name for _, folder in ended])
            is_own &= np.arange(len(ended)) >= first
            places, quiet = np.flatnonzero(is_own), np.flatnonzero(is_own & is_quiet)
            found.append(Growth.of(f"size at {scale}, bytes a trial", places.astype(float), size[places]))
            if len(quiet) >= FEWEST_QUIET:
                name = f"wall time at {scale}, s ({len(quiet)} trials)"
                found.append(Growth.of(name, quiet.astype(float), wall[quiet]))
        return found


def write_study(folder: Path, *, num_trials: int, optimizer: str) -> Path:
    """Half of the trials on one rank, half on two."""
    path = folder / "soak.toml"
    path.write_text(f"""
name = "soak"
seeds = {list(range(num_trials // 2))}
scales = [1, 2]
aa_pair = false
max_epochs = 4
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 64 }}

[workloads.logreg-mnist]
dataset = "mnist-small"

{optimizer}
""")
    return path


def test_nothing_grows(paceline, capsys):
    began = time.perf_counter()
    growths = Soak(paceline, num_trials=NUM_TRIALS).growths()
    with capsys.disabled():
        took_s = time.perf_counter() - began
        sys.stdout.write(f"\n{NUM_TRIALS} trials in {took_s:.0f} s; median and what was added after the first tenth\n")
        sys.stdout.write("".join(f"{growth.in_words()}\n" for growth in growths))
        sys.stdout.write("" if "wall" in str(growths) else "others used the machine: no time of a trial is judged\n")
    assert not [growth.in_words() for growth in growths if growth.grows]


def test_what_grows_is_named(paceline):
    """With an optimizer that keeps memory, a file and a thread of each trial."""
    growths = Soak(
        paceline, num_trials=NUM_LEAKING, optimizer='[optimizers.leaky]\nname = "soak.leaky:Leaky"'
    ).growths()
    named = {growth.name for growth in growths if growth.grows}
    assert named >= {f"{what} of rank {rank}" for what in ("descriptors", "threads") for rank in (0, 1)}
    assert "memory of rank 0, MB" in named
    assert not {name for name in named if "rank" not in name}
