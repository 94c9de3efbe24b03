"""On ranks: a trial from start to end, left and taken up again in the middle, and what it should have sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paceline.trial import Trial


def run(ranks: Any, *, trial: dict[str, Any], folder: str, leave_after: int = 0, wide: bool = False) -> dict[str, Any]:
    """Train to the end; where ``leave_after`` updates are given, by two runs with a checkpoint between them.

    With ``wide``, in float64.
    """
    from paceline import registry
    from paceline.train.loop import run_trial
    from paceline.train.parity import Float64
    from paceline.workloads.base import WorkloadRequest
    from train.interrupted import After

    asked = Trial.model_validate(trial)

    def once(leaving: After | None) -> Any:
        workload = registry.resolve("workloads", asked.workload_name)(WorkloadRequest.of(asked.workload_entry, None))
        if wide:
            workload = Float64(workload)
        ranks.traffic.bytes_sent = ranks.traffic.num_collectives = 0
        end = run_trial(asked, workload, ranks, Path(folder), leaving)
        ranks.barrier()  # rank 0 writes the checkpoint
        return end, workload

    if leave_after:
        end, _ = once(After(leave_after))
        assert end is None, "it was left"
    end, workload = once(None)
    return {"end": end.model_dump(mode="json"), "expected": _expected(asked, workload, ranks, end.num_updates)}


def _expected(trial: Trial, workload: Any, ranks: Any, num_updates: int) -> dict[str, int] | None:
    from paceline import registry

    strategy = registry.resolve("strategies", trial.strategy_of_registry)(
        model=workload.build_model(),
        workload=workload,
        ranks=ranks,
        mark=lambda _: None,
        autocast=False,
        settings=trial.strategy_settings,
    )
    expected = strategy.expected_traffic(num_updates)
    strategy.close()
    return None if expected is None else vars(expected)
