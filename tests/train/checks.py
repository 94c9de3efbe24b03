"""Checks of tests: which study is checked (here), and its checks made on ranks."""

from __future__ import annotations

from typing import Any

from paceline.cards import Target
from paceline.records import Finding
from paceline.study import validate
from paceline.trial import Trial, WorkloadFacts, expand
from train.trials import toy_settings

FOUND = "train.checks:found"


def trials_of(workload: str, *, target: float = 0.5, data_dir: str | None = None, **changes: Any) -> dict[str, Any]:
    """Arguments of ``found`` for the cells of a small study of one workload, by options or settings of its table."""
    study = validate(
        toy_settings(workloads={"w": {"name": workload, **changes.pop("entry", {})}}) | {"scales": [1, 2]} | changes,
        source="test",
    )
    facts = WorkloadFacts(dataset="auto", data_digest="0" * 16, target=Target(value=target))
    trials = expand(study, {"w": facts}, threads_per_rank=1)
    return {"trials": [trial.model_dump() for trial in trials], "data_dir": data_dir}


def found(ranks: Any, *, trials: list[dict[str, Any]], data_dir: str | None) -> dict[str, Any]:
    """On every rank of the pool: make the checks; returns them by name, and the names in the order they were begun."""
    from paceline.train import check
    from paceline.train.group import Groups
    from paceline.train.worker import open_workload

    asked = [Trial.model_validate(trial) for trial in trials]
    begun: list[str] = []
    groups = Groups([trial.scale for trial in asked], ranks.device, ranks_per_host=ranks.world_size)
    findings = check.findings(asked, lambda trial: open_workload(trial.workload_entry, data_dir), groups, begun.append)
    return {"findings": [finding.model_dump() for finding in findings], "begun": begun}


def by_name(result: dict[str, Any]) -> dict[str, Finding]:
    """Findings of rank 0 by the name of their check."""
    return {finding["check"]: Finding.model_validate(finding) for finding in result["findings"]}
