"""Trials: one training run each, fully resolved, with an id that is the hash of what defines its mathematics."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, model_validator

from paceline.cards import Frozen, Target
from paceline.errors import UsageError, nearest
from paceline.study import Study
from paceline.study_tables import Options, Scale, Schedule, WorkloadEntry

# Left out of the id where they are empty: ids of studies that know nothing of them stay as they were.
_LATER_FIELDS = ("repeat", "num_microbatches", "strategy_name", "strategy_settings", "schedule")


@dataclass(frozen=True, kw_only=True)
class WorkloadFacts:
    """What must be known of a workload before its trials can be named: its data and its target."""

    dataset: str
    data_digest: str
    target: Target


class Trial(Frozen):
    """One training run: workload, optimizer, strategy, scale, seed, and the rules of its study.

    ``target`` says what counts as reached; it is no part of the id unless training stops there. ``repeat`` is 1 for the
    second half of an A/A pair: the same computation once more, timed to learn what the machine's noise is.
    ``num_microbatches`` is that of an update which is to have the same bits at every scale, else 0. ``strategy`` is a
    label; ``strategy_name`` the registered name where that is another.
    """

    study: str
    label: str
    workload: str
    workload_name: str
    dataset: str
    data_digest: str
    augmentation: Literal["none", "crop", "crop-flip"]
    workload_options: dict[str, bool | int | float | str]
    optimizer: str
    hyperparameters: dict[str, bool | int | float | str]
    strategy: str
    strategy_name: str = ""
    strategy_settings: dict[str, bool | int | float | str] = Field(default_factory=dict)
    schedule: Schedule | None = None
    num_hosts: int
    ranks_per_host: int
    seed: int
    batch_rule: Literal["global", "per_rank"]
    lr_rule: Literal["none", "linear", "sqrt"]
    global_batch_size: int
    options: Options
    num_microbatches: int = 0
    max_epochs: int
    max_train_time_s: float | Literal["unlimited"]
    evaluate_every: int | Literal["epoch"]
    stop_at_target: bool
    threads_per_rank: int
    device: Literal["auto", "cpu", "cuda"]
    target_metric: str
    target_value: float
    target_mode: Literal["max", "min"]
    repeat: int = 0

    @model_validator(mode="after")
    def _has_a_scale(self) -> Trial:
        assert self.scale.num_ranks  # which is refused where it cannot be
        return self

    @property
    def strategy_of_registry(self) -> str:
        """The name by which the registry knows the strategy."""
        return self.strategy_name or self.strategy

    @property
    def num_ranks(self) -> int:
        """World size."""
        return self.num_hosts * self.ranks_per_host

    @property
    def scale(self) -> Scale:
        """Hosts and ranks per host."""
        return Scale(num_hosts=self.num_hosts, ranks_per_host=self.ranks_per_host)

    @property
    def workload_entry(self) -> WorkloadEntry:
        """The workload as a study would ask for it."""
        return WorkloadEntry(
            name=self.workload_name,
            dataset=self.dataset,
            augmentation=self.augmentation,
            options=self.workload_options,
        )

    @property
    def target(self) -> Target:
        """What counts as reached."""
        return Target(metric=self.target_metric, value=self.target_value, mode=self.target_mode)

    @property
    def cell(self) -> str:
        """The trial without its seed: ``workload/label+strategy@HOSTSxRANKS``."""
        return f"{self.workload}/{self.label}+{self.strategy}@{self.scale}"

    @property
    def id(self) -> str:
        """A readable name and ten hex digits of the hash of the scientific fields and the data digest."""
        ignored = {"study", *(() if self.stop_at_target else ("target_metric", "target_value", "target_mode"))}
        ignored |= {name for name in _LATER_FIELDS if not getattr(self, name)}
        canonical = json.dumps(self.model_dump(mode="json", exclude=ignored), sort_keys=True)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
        readable = f"{self.workload}_{self.label}_{self.strategy}_{self.scale}_seed{self.seed}"
        readable += "_again" if self.repeat else ""
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', readable)}_{digest}"


Place = tuple[str, str, str]  # labels of a workload and an optimizer, and a scale: what is tuned by itself
Values = Mapping[str, bool | int | float | str]


def expand(
    study: Study,
    facts: Mapping[str, WorkloadFacts],
    *,
    threads_per_rank: int,
    tuned: Mapping[Place, Values] = MappingProxyType({}),
) -> list[Trial]:
    """Every trial of a study, interleaved by seed over all cells so that drift of the machine favours none.

    Where the study asks for an A/A pair, each seed ends with the baseline of each workload once more.
    Args:
        facts: by workload label.
        threads_per_rank: what ``auto`` stands for on the hosts at hand.
        tuned: all hyperparameters of a place; elsewhere they are ``hyperparameters_at`` its scale.
    Raises: UsageError if two trials would be the same, or a comparison names no cell.
    """
    trials: list[Trial] = []
    for seed in study.seeds:
        own = [
            _trial(
                study, workload, facts[workload], label, strategy, scale, seed, threads_per_rank,
                tuned.get((workload, label, str(scale)), hyperparameters_at(study, label, scale)),
            )
            for workload in study.workloads
            for label in study.optimizers
            for scale in study.scales
            for strategy in study.strategies_at(scale, label)
        ]  # fmt: skip
        trials += own
        if study.repeats_baseline:
            baselines = {baseline(study, workload, own) for workload in study.workloads}
            trials += [trial.model_copy(update={"repeat": 1}) for trial in own if trial.cell in baselines]
    comparisons(study, trials)
    return trials


def hyperparameters_at(study: Study, label: str, scale: Scale) -> dict[str, bool | int | float | str]:
    """What the study says of an optimizer, its ``lr`` grown by the study's rule from one rank to ``scale``."""
    hyperparameters = dict(study.optimizers[label].hyperparameters)
    factor = study.batch.lr_factor(scale.num_ranks)
    if "lr" in hyperparameters and factor != 1.0:
        hyperparameters["lr"] = float(hyperparameters["lr"]) * factor
    return hyperparameters


def _trial(
    study: Study,
    workload: str,
    facts: WorkloadFacts,
    label: str,
    strategy: str,
    scale: Scale,
    seed: int,
    threads_per_rank: int,
    hyperparameters: Values,
) -> Trial:
    entry, taken = study.workloads[workload], study.strategy(strategy)
    return Trial(
        study=study.name,
        label=label,
        workload=workload,
        workload_name=entry.name,
        dataset=facts.dataset,
        data_digest=facts.data_digest,
        augmentation=entry.augmentation,
        workload_options=entry.options,
        optimizer=study.optimizers[label].name,
        hyperparameters=dict(hyperparameters),
        strategy=strategy,
        strategy_name="" if taken.name == strategy else taken.name,
        strategy_settings=taken.settings,
        schedule=study.schedule_of(label),
        num_hosts=scale.num_hosts,
        ranks_per_host=scale.ranks_per_host,
        seed=seed,
        batch_rule=study.batch.rule,
        lr_rule=getattr(study.batch, "lr_rule", "none"),
        global_batch_size=study.batch_size(workload, scale),
        options=study.options_of(label),
        num_microbatches=study.num_microbatches,
        max_epochs=study.max_epochs,
        max_train_time_s=study.max_train_time_s,
        evaluate_every=study.evaluate_every,
        stop_at_target=study.stop_at_target,
        threads_per_rank=threads_per_rank if study.threads_per_rank == "auto" else study.threads_per_rank,
        device=study.device,
        target_metric=facts.target.metric,
        target_value=facts.target.value if entry.target == "auto" else entry.target,
        target_mode=facts.target.mode,
    )


def comparisons(study: Study, trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """The declared comparisons as pairs of cells, within each workload; by default every cell against the baseline.

    Raises: UsageError if a name fits no cell, or more than one.
    """
    pairs: list[tuple[str, str]] = []
    for workload in study.workloads:
        cells = _cells(workload, trials)
        if study.comparisons == "baseline":
            reference = baseline(study, workload, trials)
            pairs += [(cell, reference) for cell in cells if cell != reference]
        else:
            pairs += [(_select(one, cells), _select(other, cells)) for one, other in study.comparisons]
    return pairs


def baseline(study: Study, workload: str, trials: Sequence[Trial]) -> str:
    """The cell that is the baseline of a workload: the one that the study names, else its first.

    Raises: UsageError if its name fits no cell, or more than one.
    """
    cells = _cells(workload, trials)
    if not cells:
        raise UsageError(f"no trial is of the study's workload '{workload}': is this the folder of another study?")
    return cells[0] if study.baseline == "auto" else _select(study.baseline, cells)


def _cells(workload: str, trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.cell for trial in trials if trial.workload == workload))


def _select(name: str, cells: list[str]) -> str:
    """The one cell that ``LABEL[+STRATEGY]@SCALE`` names; a scale is ``HxR``, or a number of ranks."""
    label, _, scale = name.partition("@")
    short = {cell: cell.partition("/")[2] for cell in cells}
    found = [cell for cell, full in short.items() if _is_named(label, scale, full)]
    found = [
        cell for cell in found if short[cell].endswith(f"@1x{scale}")
    ] or found  # of so many ranks, those on one host
    if len(found) == 1:
        return found[0]
    why = "names several cells, add +STRATEGY, or hosts as in @4x1" if found else "names no cell of this study"
    raise UsageError(f"comparison with '{name}': it {why}; {nearest(name, short.values())}")


def _is_named(label: str, scale: str, cell: str) -> bool:
    """Whether ``cell``, such as ``adam+ddp@1x2``, has this label, with its strategy or without, and this scale."""
    who, _, where = cell.partition("@")
    hosts, _, ranks = where.partition("x")
    return label in (who, re.sub(r"\+.*", "", who)) and scale in (where, str(int(hosts) * int(ranks)))


def as_json(trial: Trial) -> dict[str, Any]:
    """What trial.json holds."""
    return {"id": trial.id, "cell": trial.cell} | trial.model_dump(mode="json")
