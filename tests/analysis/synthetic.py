"""Writes run folders as a study would leave them, with learning curves that look like learning."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paceline import records, trial
from paceline.cards import Target
from paceline.data.order import indices_digest
from paceline.study import Study, validate
from paceline.trial import Trial, WorkloadFacts

NUM_TRAIN = 5400
WHOLE = indices_digest(np.arange(NUM_TRAIN)).partition("-")[2]
# (how fast it learns per epoch, where it ends, seconds an update, gradient evaluations an update)
CHARACTER = {"sgd": (0.55, 0.985, 0.010, 1), "adam": (0.8, 0.982, 0.012, 1), "lbfgs": (0.35, 0.96, 0.055, 6)}


def make_study(**changes: Any) -> Study:
    settings: dict[str, Any] = {
        "name": "synthetic",
        "question": "Does a second rank pay on this machine?",
        "seeds": [0, 1, 2],
        "aa_pair": False,
        "max_epochs": 5,
        "scales": [1, 2],
        "batch": {"rule": "global", "global_batch_size": 64},
        "workloads": {"digits": {"name": "lenet5-mnist", "dataset": "mnist-small", "target": 0.95}},
        "optimizers": {"sgd": {}, "adam": {}, "lbfgs": {"name": "lbfgs-torch", "lr": 0.5}},
        "threads_per_rank": 1,
    }
    return validate(settings | changes, source="synthetic study")


def make_run(
    root: Path,
    study: Study | None = None,
    *,
    outcome: Callable[[Trial], str] = lambda trial: "completed",
    cause: str = "rank 1 on node-b: exit 137 (killed)",
    host: str = "node-a",
    num_cores: int = 2,
    metric: str = "accuracy",
    mode: str = "max",
    evaluations_per_epoch: int = 1,
    start: dict[str, Any] | None = None,
    rank_start: Callable[[Trial], dict[str, Any]] = lambda trial: {},
    num_distinct_seeds: int | None = None,
    pace: Callable[[Trial], float] | None = None,
) -> Path:
    """Write RUNS/STUDY; ``outcome`` says for each trial: completed, diverged, failed, stopped, running or waiting.

    ``pace`` is by what factor a trial's updates take longer; where it is left out, seeds differ in that by a tenth.
    Seeds beyond the first ``num_distinct_seeds`` are copies of those, under names of their own: quick for large runs.
    """
    study = study or make_study()
    facts = {
        label: WorkloadFacts(
            dataset="mnist-small",
            data_digest="sha256:" + "ab12" * 16,
            target=Target(metric=metric, value=0.95, mode=mode),  # type: ignore[arg-type]
        )
        for label in study.workloads
    }
    folder = root / study.name
    (folder / "logs").mkdir(parents=True)
    records.write_json(folder / "study.json", study.model_dump(mode="json"))
    environment = {
        "paceline": "0.1.0",
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "git": {"commit": "0123abcd", "dirty": False},
        "hosts": {host: {"processor": "Synthetic CPU", "num_cores": num_cores, "memory_bytes": 8 * 2**30}},
    }
    records.write_json(folder / "environment.json", environment)
    written: dict[tuple[str, int, int], Path] = {}
    for one in trial.expand(study, facts, threads_per_rank=1):
        original = (one.cell, one.repeat, study.seeds.index(one.seed) % (num_distinct_seeds or len(study.seeds)))
        if original in written:
            copy_trial(written[original], one)
            continue
        base = {"host": host, "num_cores": num_cores, "affinity": list(range(num_cores))}
        written[original] = write_trial(
            folder,
            one,
            status=outcome(one),
            cause=cause,
            per_epoch=evaluations_per_epoch,
            start=base | (start or {}) | rank_start(one),
            pace=None if pace is None else pace(one),
        )
    return folder


def write_trial(
    folder: Path,
    one: Trial,
    *,
    status: str,
    cause: str = "",
    per_epoch: int = 1,
    start: dict[str, Any],
    pace: float | None = None,
) -> Path:
    own = folder / one.id
    own.mkdir()
    records.write_json(own / "trial.json", trial.as_json(one))
    if status == "waiting":
        return own
    last_epoch = one.max_epochs if status == "completed" else max(1, one.max_epochs // 2)
    for rank in range(one.num_ranks):
        file = records.RecordFile(records.rank_file(own, rank))
        for record in _records(one, rank, last_epoch, status, per_epoch, start, pace):
            file.append(record)
        file.close()
    if status != "running":
        exit_ = records.Exit(status=status, cause=cause if status == "failed" else "")  # type: ignore[arg-type]
        records.write_json(own / "exit.json", exit_.model_dump())
    return own


def copy_trial(source: Path, one: Trial) -> None:
    """Write the records of ``source`` as those of another trial of its cell."""
    own = source.parent / one.id
    own.mkdir()
    (own / "trial.json").write_text(json.dumps(trial.as_json(one)))
    for path in source.iterdir():
        if path.name != "trial.json":
            (own / path.name).write_bytes(path.read_bytes().replace(source.name.encode(), one.id.encode()))


def _hex(*what: object, digits: int) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:digits]


def _share(whole: str, one: Trial, rank: int, *what: object) -> str:
    """A rank's share of a digest of indices: those of all ranks add up to ``whole``, as ``combine_digests`` adds."""
    count = NUM_TRAIN * (rank + 1) // one.num_ranks - NUM_TRAIN * rank // one.num_ranks
    others = [_hex(one.num_ranks, other, *what, digits=32) for other in range(1, one.num_ranks)]
    if rank > 0:
        return f"{count}-{others[rank - 1]}"
    halves = (slice(16), slice(16, 32))
    lanes = [(int(whole[half], 16) - sum(int(other[half], 16) for other in others)) % 2**64 for half in halves]
    return f"{count}-" + "".join(f"{lane:016x}" for lane in lanes)


def _records(
    one: Trial, rank: int, last_epoch: int, status: str, per_epoch: int, start: dict[str, Any], pace: float | None
) -> list[Any]:
    slope, ceiling, update_s, gradients = CHARACTER.get(one.label, CHARACTER["sgd"])
    # the same numbers on every rank, other numbers for every trial
    first = one.model_copy(update={"repeat": 0})  # a repeat learns the same, and only takes another time
    noise, jitter = random.Random(first.id), random.Random(one.id).uniform(0.99, 1.01)  # noqa: S311
    lag = 1 + 0.1 * one.seed + noise.uniform(-0.05, 0.05)
    communication_s = 0.0 if one.strategy == "single" else 0.002 if one.num_ranks == 1 else 0.004
    compute_s = update_s / one.num_ranks**0.8
    updates = math.ceil(NUM_TRAIN / one.global_batch_size)
    slowness = lag if pace is None else pace
    total_s = (compute_s + communication_s + 0.0008) * slowness * jitter
    found: list[Any] = [
        records.Start(
            **{
                "trial": one.id,
                "rank": rank,
                "world_size": one.num_ranks,
                "host": "node-a",
                "pid": 1000 + rank,
                "device": "cpu",
                "backend": "gloo",
                "num_threads": one.threads_per_rank,
                "dtype": "float32",
                "torch_version": "2.13.0+cpu",
                "python_version": "3.11.7",
                "processor": "Synthetic CPU",
                "num_cores": 2,
                "affinity": [0, 1],
                "num_parameters": 61_706,
                "num_examples": {"train": NUM_TRAIN, "validation": 600, "test": 1000},
                "chance": {"loss": math.log(10), "accuracy": 0.1} if rank == 0 else {},
                "initial_parameters_digest": _hex(one.seed, digits=16),
                "startup_s": 0.4,
            }
            | start
        )
    ]
    bytes_sent = 0 if one.num_ranks == 1 else 61_706 * 4
    step, last, parameters = 0, {}, ""
    for step in range(1, last_epoch * per_epoch + 1):
        done = step * updates // per_epoch
        share = done / updates
        progress = 1 - math.exp(-share / (slope * lag))
        value = 0.1 + (ceiling - 0.1) * progress + noise.gauss(0, 0.002)
        loss = 2.3 * math.exp(-1.6 * share / lag) + 0.05 + abs(noise.gauss(0, 0.004))
        if status == "diverged" and step == last_epoch * per_epoch:
            loss = value = math.nan
        if one.target_mode == "min":
            value = 2.0 - value
        totals = {
            "num_updates": done,
            "train_time_s": done * total_s,
            "data_s": done * 0.0004 * slowness,
            "compute_s": done * compute_s * 0.9 * slowness,
            "communication_s": done * communication_s * slowness,
            "optimizer_s": done * compute_s * 0.1 * slowness,
            "bytes_sent": bytes_sent * done * gradients,
            "num_collectives": 0 if one.strategy == "single" else done * gradients,
        }
        if rank == 0:
            found.append(
                records.Evaluation(
                    epoch=step // per_epoch,
                    epoch_end=step % per_epoch == 0,
                    num_samples=min(done * one.global_batch_size, (step * NUM_TRAIN) // per_epoch),
                    num_gradient_evaluations=done * gradients,
                    update_time_s={"p10": total_s * 0.9, "p50": total_s, "p90": total_s * 1.2, "max": total_s * 2},
                    evaluation_time_s=0.2 * step,
                    checkpoint_time_s=0.1 * step,
                    train={"loss": loss, one.target_metric: value},
                    validation={"loss": loss * 1.1, one.target_metric: value},
                    num_validation=600,
                    **totals,
                )
            )
        if step % per_epoch == 0:
            epoch = step // per_epoch
            indices = _share(WHOLE, one, rank, one.seed, epoch)
            order = _share(_hex(one.seed, epoch, one.global_batch_size, digits=32), one, rank, "order", one.seed, epoch)
            computed = one.label if one.num_microbatches else one.cell  # what the bits depend on
            parameters = _hex(computed, one.seed, epoch, digits=16)
            found.append(
                records.Epoch(
                    rank=rank,
                    epoch=epoch,
                    num_indices=int(indices.partition("-")[0]),
                    indices_digest=indices,
                    order_digest=order,
                    parameters_digest=parameters,
                    peak_memory_bytes=210_000_000 + rank,
                    **totals,
                )
            )
        last = totals | {"value": value}
    if status in ("completed", "diverged", "stopped"):
        found.append(
            records.End(
                rank=rank,
                status=status,  # type: ignore[arg-type]
                reason="reached max_epochs" if status == "completed" else "loss is nan at update 170",
                num_updates=last["num_updates"],
                num_samples=last_epoch * NUM_TRAIN,
                num_gradient_evaluations=last["num_updates"] * gradients,
                train_time_s=last["train_time_s"],
                wall_time_s=last["train_time_s"] * 1.3,
                bytes_sent=last["bytes_sent"],
                num_collectives=last["num_collectives"],
                peak_memory_bytes=215_000_000 + rank,
                parameters_digest=parameters,
                test={"accuracy": last["value"] - 0.004, "loss": 0.1} if status == "completed" and rank == 0 else {},
            )
        )
    return found
