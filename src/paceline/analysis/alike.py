"""Refuses to compare what is not alike: other data, other rules, another target or another machine."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from paceline.analysis.load import TrialResult
from paceline.errors import UsageError
from paceline.records import Start
from paceline.trial import Trial

# What may differ between trials only if the word after it differs too.
_RULES = ("batch_rule", "lr_rule", "max_epochs", "max_train_time_s", "evaluate_every", "stop_at_target")
_WORKLOAD = ("workload_name", "dataset", "data_digest", "augmentation", "workload_options")
_TARGET = ("target_metric", "target_value", "target_mode")
_CELL = ("optimizer", "hyperparameters", "options", "global_batch_size", "threads_per_rank")
_MACHINE = ("num_threads", "torch_version", "processor")
_LIMIT = 3

Key = TypeVar("Key", bound=Hashable)


def refuse_unlike(results: Sequence[TrialResult]) -> None:
    """Check that all trials can stand in one comparison.

    Raises: UsageError naming the setting, its values, and a trial of each.
    """
    for found in (*rule_differences(results), *machine_differences(results)):
        raise UsageError(
            f"the trials of {found}. Compare them in runs of their own, or remove the folders of those that do not "
            "belong here"
        )
    for cell, own in _grouped(results, lambda result: result.trial.cell):
        _refuse_repeats(cell, own)


def rule_differences(results: Sequence[TrialResult]) -> Iterator[str]:
    """Rules, data and targets that are not the same where they must be, each in words."""
    for field in _RULES:
        yield from _unlike(results, field, _of_trial(field), within="this run")
    for workload, own in _grouped(results, lambda result: result.trial.workload):
        for field in (*_WORKLOAD, *_TARGET):
            yield from _unlike(own, field, _of_trial(field), within=f"workload '{workload}'")
        if own[0].trial.batch_rule == "global":
            yield from _unlike(
                own, "global_batch_size", _of_trial("global_batch_size"), within=f"workload '{workload}'"
            )
    for cell, own in _grouped(results, lambda result: result.trial.cell):
        for field in _CELL:
            yield from _unlike(own, field, _of_trial(field), within=f"cell '{cell}'")


def machine_differences(results: Sequence[TrialResult]) -> Iterator[str]:
    """Threads, versions, processors, devices and number formats that are not the same everywhere, each in words."""
    for field in _MACHINE:
        yield from _unlike(results, field, _of_starts(field), within="this run")
    yield from _unlike(results, "device", _device_kinds, within="this run")
    for workload, own in _grouped(results, lambda result: result.trial.workload):
        yield from _unlike(own, "dtype", _of_starts("dtype"), within=f"workload '{workload}'")


Values = Callable[[TrialResult], Iterable[Any]]


def _of_trial(field: str) -> Values:
    def values(result: TrialResult) -> Iterable[Any]:
        return [getattr(result.trial, field)]

    return values


def _of_starts(field: str) -> Values:
    def values(result: TrialResult) -> Iterable[Any]:
        return [getattr(start, field) for start in _starts(result)]

    return values


def _device_kinds(result: TrialResult) -> Iterable[Any]:
    return [start.device.partition(":")[0] for start in _starts(result)]


def _starts(result: TrialResult) -> Iterable[Start]:
    return (start for rank in result.ranks for start in rank.starts)


def _unlike(results: Sequence[TrialResult], field: str, values: Values, *, within: str) -> Iterator[str]:
    """Says what differs if ``values`` yields more than one distinct value over ``results``."""
    first_seen: dict[str, Trial] = {}
    last: object = None
    for result in results:
        for value in values(result):
            if not first_seen or value != last:  # most are the same as the one before
                first_seen.setdefault(_shown(value), result.trial)
                last = value
    if len(first_seen) > 1:
        listed = "; ".join(f"{value} in {trial.id}" for value, trial in list(first_seen.items())[:_LIMIT])
        more = f"; and {len(first_seen) - _LIMIT} more" if len(first_seen) > _LIMIT else ""
        yield f"{within} cannot be compared, {field} differs: {listed}{more}"


def _refuse_repeats(cell: str, results: Sequence[TrialResult]) -> None:
    for (seed, _), own in _grouped(results, lambda result: (result.trial.seed, result.trial.repeat)):
        if len(own) > 1:
            names = " and ".join(result.folder.name for result in own[:_LIMIT])
            raise UsageError(f"cell '{cell}' holds seed {seed} more than once ({names}): remove all folders but one")


def _grouped(
    results: Sequence[TrialResult], key: Callable[[TrialResult], Key]
) -> Iterable[tuple[Key, list[TrialResult]]]:
    groups: dict[Key, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups.items()


def _shown(value: object) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={value[key]!r}" for key in sorted(value)) + "}"
    return repr(value)
