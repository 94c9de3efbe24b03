"""Whether a study has seeds enough for its comparisons to tell anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.analysis.cells import Cell
from paceline.analysis.inference import seeds_needed
from paceline.analysis.load import Run
from paceline.study import Study
from paceline.trial import Trial, comparisons


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Whether there are seeds enough for any claim: ``2^(1-n) <= 0.05 / k`` for n seeds and k comparisons.

    Source: the paired exact sign-flip test under Holm's correction; with fewer seeds no outcome can be significant.
    """

    num_seeds: int
    num_comparisons: int
    num_needed: int

    @property
    def enough(self) -> bool:
        """Whether a test could tell anything."""
        return self.num_seeds >= self.num_needed


def declared_pairs(run: Run, cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """The pairs of cells that the study compares; without a study, every cell of a workload against its first."""
    if run.study is not None:
        return comparisons(run.study, sorted((result.trial for result in run.results), key=_place_in(run.study)))
    first: dict[str, str] = {}
    for cell in cells:
        first.setdefault(cell.workload, cell.name)
    return [(cell.name, first[cell.workload]) for cell in cells if cell.name != first[cell.workload]]


def seeds_of(cells: Sequence[Cell], pairs: Sequence[tuple[str, str]]) -> Seeds:
    """Seeds that are over in every cell, against what the declared ``pairs`` need."""
    return Seeds(
        num_seeds=min((cell.num_over for cell in cells), default=0),
        num_comparisons=len(pairs),
        num_needed=seeds_needed(len(pairs)),
    )


def _place_in(study: Study) -> Callable[[Trial], tuple[int, ...]]:
    """Where a trial stands in a study, which decides what its first cell is."""
    scales, labels, workloads = [str(scale) for scale in study.scales], list(study.optimizers), list(study.workloads)

    def place(trial: Trial) -> tuple[int, ...]:
        strategies = study.strategies_at(trial.scale, trial.label) if trial.label in study.optimizers else []
        found = (
            (workloads, trial.workload),
            (labels, trial.label),
            (scales, str(trial.scale)),
            (strategies, trial.strategy),
        )
        return tuple(known.index(one) if one in known else len(known) for known, one in found)

    return place
